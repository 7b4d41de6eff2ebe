"""Biases in numbers: what a model adds to its scores, evaluated by its own nodes with products of zeros.

    scores[b, h, i, j] = 0 + bias + masks

The self-check of the proofs (``probe``) asks for all sites at once.  Shapes of activations are given, so that no weight
is read.  An explanation for people asks for one site, with nothing masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ...algebra import Poly, Size
from ...graph.index import Array, Scope, numpy_type
from ..interpret import Interpreter
from ..records.reading import Attention
from .cut import cut
from .evaluation import number
from .measure import Floats, gather, shape_extents

MOST_CONSTANT = 1 << 26
"""A constant table with more elements is left to the proof, which reads all of it."""


@dataclass(frozen=True)
class BiasPart:
    """The part of a model between its inputs, the products of query and key, and the scores.

    Attributes:
        model: The part; its inputs and outputs have no shapes.
        nodes: Its nodes.
        inputs: What has to be given, inputs of the whole model first.
        outputs: What it computes.
        shapes: Inputs that are shapes, and the extents in them.
        zeros: Inputs that are products.
        foreign: All other inputs: what an If, a Loop or a Scan makes, or a foreign product.
    """

    model: ModelProto
    nodes: Sequence[NodeProto]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[Poly, ...]]
    zeros: frozenset[str]
    foreign: tuple[str, ...]


def bias_part(
    whole: ModelProto,
    scope: Scope,
    interpreter: Interpreter,
    wanted: Iterable[str],
    products: Collection[str],
    *,
    largest: int | None = None,
    given_shapes: bool = True,
    foreign: Callable[[NodeProto], bool] | None = None,
) -> BiasPart:
    """Cut the part of a model that makes some scores.

    Args:
        whole: The model.
        scope: Its main graph.
        interpreter: For types and extents.
        wanted: Scores, and what else is to be evaluated.
        products: Products of query and key.
        largest: As of ``cut``.
        given_shapes: A Shape of a tensor of known extents becomes an input.
        foreign: As of ``cut``.
    """

    def measured(tensor: str) -> bool:
        return given_shapes and interpreter.dims(tensor) is not None

    part = cut(scope, wanted, frozenset(products), frozenset(), largest=largest, measured=measured, foreign=foreign)
    read = {name for node in part.nodes for name in node.input}
    needed = [name for name in part.inputs if name in read]
    found = {name: shape_extents(interpreter, scope.producer(name)) for name in needed if name not in products}
    shapes = {name: extents for name, extents in found.items() if extents is not None}
    given = [value.name for value in whole.graph.input if value.name in needed]
    other = [name for name in needed if name not in given and name not in products and name not in shapes]
    inputs = (*given, *(n for n in needed if n in products and n not in given), *shapes, *other)

    def value(name: str) -> ValueInfoProto:
        dtype = TensorProto.INT64 if name in shapes else interpreter.dtype(name) or TensorProto.FLOAT
        return helper.make_tensor_value_info(name, dtype, None)

    graph = helper.make_graph(
        part.nodes, "bias", [value(n) for n in inputs], [value(n) for n in part.outputs], part.constants
    )
    model = helper.make_model(graph, opset_imports=list(whole.opset_import), ir_version=max(whole.ir_version, 8))
    return BiasPart(model, part.nodes, inputs, tuple(part.outputs), shapes, frozenset(products), tuple(other))


def feeds_of(
    part: BiasPart,
    interpreter: Interpreter,
    sizes: dict[Size, int],
    integers: Callable[[Sequence[int]], Array],
    most: int,
) -> dict[str, Array] | None:
    """What a part is given: its constants, zeros for products and floats, and for integers what is asked for.

    Args:
        part: The part.
        interpreter: For types and extents.
        sizes: Numbers for the unknown sizes.
        integers: Makes integers and booleans of a shape.
        most: Elements of all that is made up.

    Returns:
        None where an extent or a type is unknown, or there are more elements.
    """
    feeds: dict[str, Array] = {}
    whole = 0
    for name in part.inputs:
        dims = part.shapes[name] if name in part.shapes else interpreter.dims(name)
        extents = [number(interpreter, extent, sizes) for extent in dims] if dims is not None else [None]
        shape = [extent for extent in extents if extent is not None]
        if len(shape) != len(extents):
            return None
        if name in part.shapes:
            feeds[name] = np.array(shape, np.int64)
            continue
        count = math.prod(shape)
        array = interpreter.array(name)
        if array is not None and count <= MOST_CONSTANT:
            feeds[name] = np.asarray(array)
            continue
        whole += count
        dtype = numpy_type(interpreter.dtype(name) or TensorProto.FLOAT)
        if whole > most or dtype is None:
            return None
        integer = (np.issubdtype(dtype, np.integer) or dtype == np.bool_) and name not in part.zeros
        feeds[name] = integers(shape).astype(dtype) if integer else np.zeros(shape, dtype)
    return feeds


def scores_shape(
    interpreter: Interpreter, attention: Attention, sizes: dict[Size, int], most: float = math.inf, batch: int = 0
) -> list[int] | None:
    """[B, H, S_q, S_kv] of a site in numbers; None where one is unknown or zero, or there are too many elements.

    Args:
        interpreter: For equalities between extents.
        attention: The site.
        sizes: Numbers for the unknown sizes.
        most: Elements at most.
        batch: Stands for a batch that the sizes do not decide; 0 where nothing does.
    """
    extents = [1 if i is None else number(interpreter, i.bound, sizes) for i in attention.frame.scores]
    if extents[0] is None:
        extents[0] = batch
    shape = [extent for extent in extents if extent]
    return shape if len(shape) == len(extents) and math.prod(shape) <= most else None


def placed(
    interpreter: Interpreter, attention: Attention, scores: Array, shape: list[int], sizes: dict[Size, int]
) -> Floats | None:
    """The scores of a site in the layout [B, H, S_q, S_kv], whatever layout the model has them in."""
    return gather(attention.scores_index, scores, attention.frame.scores, shape, interpreter, sizes)
