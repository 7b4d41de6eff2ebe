"""Operators that stand around an attention which could not be read."""

from __future__ import annotations

INTEGER_PRODUCTS = frozenset(
    {"QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QAttention"}
)


QUANTISED = INTEGER_PRODUCTS | {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearSoftmax", "QLinearAdd", "QLinearMul", "QLinearWhere"),
}
"""Operators to, from or in integers that stand for numbers of a scale."""


ADDING = frozenset({"Add", "Sub", "Sum", "Where", "QLinearAdd", "QLinearWhere"})
