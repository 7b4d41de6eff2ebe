"""Extents and types of onnxruntime's own operators around an attention: quantised and fused projections, embeddings.

They are not part of the standard, so its shape inference does not know them.  Attention operators are in ``extents``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx import NodeProto

from ...algebra import Poly, poly
from ...graph.index import int_attribute
from .extents import Dims, broadcast

if TYPE_CHECKING:
    from .engine import Interpreter

Rule = Callable[["Interpreter", NodeProto, list[Dims]], list[Dims]]


def _columns(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    """[..., K] times packed weights of N columns.  The attribute says how many; the weights' own shape does not."""
    columns = int_attribute(node, "N", 0)
    if inputs[0] is None or not columns:
        return [None]
    return [(*inputs[0][:-1], poly(columns))]


def _product(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    """A product whose weights are 8-bit integers, with scales and zero points as further operands."""
    left, right = inputs[0], inputs[1]
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return [None]
    return [(*broadcast(interpreter, [left[:-2], right[:-2]], node), left[-2], right[-1])]


def _gemm(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    left = inputs[0]
    right = inputs[3] if node.op_type == "QGemm" and len(inputs) > 3 else inputs[1]
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None]
    rows = left[1] if int_attribute(node, "transA", 0) else left[0]
    columns = right[0] if int_attribute(node, "transB", 0) else right[1]
    return [(rows, columns)]


def _embeddings(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    """[B, S] tokens and a table [words, width]; the further outputs are not read for shapes."""
    tokens, words = inputs[0], inputs[2] if len(inputs) > 2 else None
    rest: list[Dims] = [None] * (len(node.output) - 1)
    if tokens is None or words is None or len(words) != 2:
        return [None, *rest]
    return [(*tokens, words[1]), *rest]


def _gathered(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    """Rows of a table of 4-bit numbers, which may be packed in pairs along the quantised axis: that extent is open."""
    table, indices = inputs[0], inputs[1]
    if table is None or indices is None:
        return [None]
    axis = int_attribute(node, "gather_axis", 0) % len(table)
    packed = int_attribute(node, "quantize_axis", 1) % len(table)
    extents: list[Poly] = [interpreter.fresh_size() if a == packed else d for a, d in enumerate(table)]
    return [(*extents[:axis], *indices, *extents[axis + 1 :])]


RULES: dict[str, Rule] = {
    "MatMulNBits": _columns,
    "MatMulBnb4": _columns,
    "MatMulFpQ4": _columns,
    "DynamicQuantizeMatMul": _product,
    "MatMulIntegerToFloat": _product,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "EmbedLayerNormalization": _embeddings,
    "GatherBlockQuantized": _gathered,
}

TYPED_BY: dict[str, int] = {
    "MatMulNBits": 0,
    "MatMulBnb4": 0,
    "MatMulFpQ4": 0,
    "DynamicQuantizeMatMul": 0,
    "MatMulIntegerToFloat": 2,
    "FusedGemm": 0,
    "EmbedLayerNormalization": 2,
    "GatherBlockQuantized": 2,
}
"""The operand whose type the first result has.  For an operator that is not listed (QGemm) the type is not known."""
