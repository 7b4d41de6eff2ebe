"""Products over one inner axis: MatMul, FusedMatMul, Gemm and two-operand Einsum, seen as one thing."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from onnx import NodeProto

from ...algebra import ZERO, Index, Number, Poly, of
from ...graph.index import float_attribute, int_attribute, label
from ...patterns.layouts import Axis
from ...patterns.operators import PRODUCTS
from ..interpret import Interpreter
from ..interpret.arithmetic import exact
from ..interpret.equations import einsum_labels

Indices = tuple[Poly, ...]


@dataclass(frozen=True)
class Contraction:
    """``out[x] = alpha * sum_d left[left_index(x, d)] * right[right_index(x, d)]``."""

    node: NodeProto
    left: str
    left_index: Indices
    right: str
    right_index: Indices
    inner: Index
    alpha: Number


def is_contraction(node: NodeProto | None) -> bool:
    """Whether the node is one of the product operators."""
    return node is not None and ("" if node.domain == "ai.onnx" else node.domain, node.op_type) in PRODUCTS


def contract(interpreter: Interpreter, node: NodeProto, indices: Indices) -> Contraction | None:
    """The operands' indices for one output element, or None if the node has no such form."""
    if node.op_type == "Einsum":
        return _einsum(interpreter, node, indices)
    left, right = interpreter.dims(node.input[0]), interpreter.dims(node.input[1])
    if left is None or right is None or len(left) < 2 or len(right) < 2 or len(indices) < 2:
        return None
    alpha: Number = Fraction(1)
    if node.op_type == "Gemm":
        if len(node.input) > 2 and node.input[2]:
            return None
        alpha = exact(float_attribute(node, "alpha", 1.0))
    if node.op_type == "FusedMatMul":
        alpha = exact(float_attribute(node, "alpha", 1.0))
    trans_a, trans_b = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    first_a, first_b = int_attribute(node, "transBatchA", 0), int_attribute(node, "transBatchB", 0)
    left, right = rows_last(left, first_a), rows_last(right, first_b)
    extent = left[-2] if trans_a else left[-1]
    inner = Index(f"d:{node.output[0]}", extent, Axis.FEATURE)
    row, column = indices[-2], indices[-1]
    batch = indices[:-2]
    left_index = (*_batch(interpreter, left[:-2], batch), *((of(inner), row) if trans_a else (row, of(inner))))
    right_index = (*_batch(interpreter, right[:-2], batch), *((column, of(inner)) if trans_b else (of(inner), column)))
    left_index, right_index = rows_first(left_index, first_a), rows_first(right_index, first_b)
    return Contraction(node, node.input[0], left_index, node.input[1], right_index, inner, alpha)


def rows_last(dims: tuple[Poly, ...], moved: int) -> tuple[Poly, ...]:
    """FusedMatMul's transBatch: axis 0 is the row axis, and stands before the last one in the product."""
    return (*dims[1:-1], dims[0], dims[-1]) if moved else dims


def rows_first(indices: Indices, moved: int) -> Indices:
    """The inverse, for an index."""
    return (indices[-2], *indices[:-2], indices[-1]) if moved else indices


def _batch(interpreter: Interpreter, dims: tuple[Poly, ...], batch: Indices) -> Indices:
    offset = len(batch) - len(dims)
    return tuple(ZERO if interpreter.is_single(extent) else batch[offset + axis] for axis, extent in enumerate(dims))


def _einsum(interpreter: Interpreter, node: NodeProto, indices: Indices) -> Contraction | None:
    terms, result = einsum_labels(node, [interpreter.rank(name) for name in node.input])
    if result is None or len(terms) != 2 or len(result) != len(indices):
        return None
    summed = sorted({c for t in terms for c in t} - set(result))
    if len(summed) != 1 or any(summed[0] not in t for t in terms):
        return None
    held = [interpreter.dims(name) for name in node.input]
    dims = held[0]
    if dims is None or held[1] is None:
        return None
    summed_over = [d[t.index(summed[0])] for d, t in zip((dims, held[1]), terms, strict=True)]
    if any(interpreter.is_single(e) != interpreter.is_single(summed_over[0]) for e in summed_over):
        return None  # an extent of 1 that is spread along the sum
    inner = Index(f"d:{node.output[0]}", summed_over[0], Axis.FEATURE)
    place = {**dict(zip(result, indices, strict=True)), summed[0]: of(inner)}
    operand_index = []
    for name, term in zip(node.input, terms, strict=True):
        extents = interpreter.dims(name)
        if extents is None or len(extents) != len(term):
            return None
        letters = zip(term, extents, strict=True)
        operand_index.append(tuple(ZERO if interpreter.is_single(e) else place[c] for c, e in letters))
    return Contraction(node, node.input[0], operand_index[0], node.input[1], operand_index[1], inner, Fraction(1))


def describe(contraction: Contraction) -> str:
    """For messages."""
    return f"{label(contraction.node)} = {contraction.left} x {contraction.right}"
