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


SUMS = frozenset({"Add", "Sub", "Sum"})
"""Operators that add a bias or a mask to the scores."""

ADDING = SUMS | {"Where", "QLinearAdd", "QLinearWhere"}
