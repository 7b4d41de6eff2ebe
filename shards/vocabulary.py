"""What is cut on request only: an embedding by its features, the last product by the vocabulary; both are gathered."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from ..graph.index import Scope, int_attribute, operator
from ..rewriter.interpret import Interpreter
from .cuts import AxisCut, evenly
from .follow import Cuts

GATHERED = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Types that are gathered from the ranks."""


@dataclass(frozen=True)
class VocabularyShare:
    """How a node is cut along the vocabulary's side.

    Attributes:
        position: Its input that is the weight.
        weight: The cut of that.
        output: The cut of what it makes, along the last axis.
    """

    position: int
    weight: AxisCut
    output: AxisCut


def share_of(interpreter: Interpreter, cuts: Cuts, node: NodeProto, ranks: int) -> VocabularyShare | None:
    """The share of an embedding or of the product that ends a model; None for another node.

    Args:
        interpreter: Of the main graph.
        cuts: What is cut already.
        node: The node.
        ranks: How many ranks there are.
    """
    scope, kind = interpreter.scope, operator(node)
    if any(name in cuts.tensors for name in (*node.input, *node.output)):
        return None
    if kind == "Gather" and int_attribute(node, "axis", 0) == 0 and node.input[1] in scope.inputs:
        return _share(interpreter, node, 0, 1, ranks)
    adds = kind == "Gemm" and len(node.input) > 2
    if kind in ("MatMul", "Gemm") and not adds and ends(scope, node.output[0]):
        turned = kind == "Gemm" and int_attribute(node, "transB", 0)
        return _share(interpreter, node, 1, 0 if turned else 1, ranks)
    return None


def _share(interpreter: Interpreter, node: NodeProto, position: int, axis: int, ranks: int) -> VocabularyShare | None:
    """The cut of a weight of rank 2, and of what is made; None where ranks would get different shares."""
    scope = interpreter.scope
    tensor = scope.initializers.get(node.input[position])
    dims = interpreter.dims(node.output[0])
    if tensor is None or tensor.name in scope.inputs or len(tensor.dims) != 2 or dims is None:
        return None
    extent = tensor.dims[axis]
    if extent % ranks or interpreter.dtype(node.output[0]) not in GATHERED:
        return None
    cut = AxisCut(axis, extent, evenly(extent, ranks))
    return VocabularyShare(position, cut, cut.on(len(dims) - 1))


def ends(scope: Scope, name: str) -> bool:
    """Whether an output of the model is made of this value alone, by at most a cast."""
    for _ in range(3):
        if name in scope.outputs:
            return True
        uses = [use.node for use in scope.consumers.get(name, ()) if use.node is not None]
        if len(uses) != 1 or operator(uses[0]) not in ("Cast", "Identity"):
            return False
        name = uses[0].output[0]
    return False
