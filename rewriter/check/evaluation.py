"""Evaluating a small part of a model in numbers, at small sizes, whatever the file asks for.

The part is judged before anything runs.  Every value in it must have extents that the sizes decide, few elements, and
an operator whose work is known.  All exported models pass; a Range of 2**31 entries does not.  Extents
are proven, not trusted, but a file may contradict itself, so onnxruntime gets a limit on its memory as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ...algebra import Poly, Size, TooComplex, substitute
from ...algebra import poly as as_poly
from ...base import telemetry
from ...base.memory import available_memory
from ...graph import bounded
from ...graph.index import Array, read_tensor
from ...patterns.operators import PRODUCT_NAMES
from ..interpret import Interpreter
from ..interpret.equations import einsum_labels
from ..interpret.shapes import has_known_extents

MAX_ELEMENTS = 1 << 24
"""A part with a larger value is not evaluated."""

MAX_WORK = 1 << 28
"""Elements of all values, and multiplications in products, at most."""

MAX_BYTES = 1 << 30
"""Memory that onnxruntime gets for the values of a part."""

MAX_SECONDS = 20.0
"""Time that one evaluation gets; it takes a thousandth of that."""

PRODUCTS = PRODUCT_NAMES | {"MatMulInteger"}
"""Operators that take more work than they make elements."""

Evaluate = Callable[[dict[str, Array]], dict[str, Array]]


def number(interpreter: Interpreter, value: Poly, sizes: dict[Size, int]) -> int | None:
    """An extent as a number, if the sizes decide it."""
    try:
        result = substitute(interpreter.facts.normal(value), {s: as_poly(n) for s, n in sizes.items()}).constant
    except TooComplex:
        return None
    return None if result is None or result != int(result) or result < 0 else int(result)


def elements(interpreter: Interpreter, tensor: str, sizes: dict[Size, int]) -> int | None:
    """How many elements a tensor has, if the sizes decide it."""
    dims = interpreter.dims(tensor)
    if dims is None:
        return None
    total = 1
    for extent in dims:
        found = number(interpreter, extent, sizes)
        if found is None:
            return None
        total *= found
    return total


def is_small(nodes: Iterable[NodeProto], interpreter: Interpreter, sizes: dict[Size, int]) -> bool:
    """Whether the nodes can be evaluated at these sizes: known extents, few elements, little work."""
    work = 0
    for node in nodes:
        if not has_known_extents(node):
            return False
        for name in node.output:
            made = elements(interpreter, name, sizes) if name else 0
            if made is None or made > MAX_ELEMENTS:
                return False
            work += made
        if node.op_type in PRODUCTS:
            work += _multiplications(node, interpreter, sizes)
        if work > MAX_WORK:
            return False
    return True


def beyond_memory(interpreters: Iterable[Interpreter]) -> str | None:
    """A value with more elements than there are bytes of memory, in words.  Such a model cannot be run.

    onnxruntime cannot even load it, since it computes shapes, and what they are computed from, while it loads.
    """
    available = available_memory()
    if available is None:
        return None
    for interpreter in interpreters:
        for name, dims in interpreter.extents.items():
            numbers = [d.constant for d in dims or ()]
            count = math.prod(int(n) for n in numbers if n is not None)
            if count > available and 0 not in numbers:
                return f"the value '{name}' has {count} elements, more than there are bytes of memory"
    return None


def _multiplications(node: NodeProto, interpreter: Interpreter, sizes: dict[Size, int]) -> int:
    """Multiplications in a product, at most."""
    operands = [elements(interpreter, name, sizes) for name in node.input if name]
    made = elements(interpreter, node.output[0], sizes)
    if made is None or any(n is None for n in operands):
        return MAX_WORK + 1
    if node.op_type == "Einsum":
        terms, _ = einsum_labels(node, [interpreter.rank(name) for name in node.input])
        extents: dict[str, int] = {}
        for name, term in zip(node.input, terms, strict=False):
            for letter, extent in zip(term, interpreter.dims(name) or (), strict=False):
                extents[letter] = max(extents.get(letter, 1), number(interpreter, extent, sizes) or 1)
        return math.prod(extents.values()) if terms else math.prod(n for n in operands if n)
    dims = interpreter.dims(node.input[0]) or ()
    # Whichever of the two last axes is summed over.
    inner = max((number(interpreter, d, sizes) or 1 for d in dims[-2:]), default=1)
    return made * inner


def evaluator(model: ModelProto, base_dir: Path | None) -> Evaluate | None:
    """Something that evaluates a model: onnxruntime, or onnx's reference where it is not installed.

    Args:
        model: A model without weights, but maybe with bias tables in data files.
        base_dir: Where those are.

    Returns:
        What makes outputs out of inputs, by name; None where nothing here can.
    """
    names = tuple(o.name for o in model.graph.output)
    external = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    large = any(math.prod(t.dims) > MAX_ELEMENTS for t in external)
    if external and base_dir is not None and not large:
        copy = ModelProto()
        copy.CopyFrom(model)
        model = copy
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.CopyFrom(numpy_helper.from_array(np.array(read_tensor(tensor, base_dir)), tensor.name))
    try:
        onnxruntime = telemetry.onnxruntime()
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        if large:
            return None
        reference = ReferenceEvaluator(model)
        return lambda feeds: dict(zip(names, reference.run(None, feeds), strict=True))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    # Starting threads takes longer than what is evaluated here, and a sum must not depend on how many there are.
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        # Large tables are mapped by onnxruntime, not loaded here.
        session = bounded.session(onnxruntime, model.SerializeToString(), settings, MAX_BYTES, base_dir)
    except Exception:  # noqa: BLE001 - a type or an operator that this build of onnxruntime lacks
        return None

    def evaluate(feeds: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(names, bounded.run(onnxruntime, session, None, feeds, MAX_SECONDS), strict=True))

    return evaluate
