"""The operators, one row each: everything about an operator but its calculation.

A row says which versions, attributes and inputs of an operator the rules know, what extents and what type its results
have, and what a type does to what a rule has calculated.  The calculations are functions: the elements in ``movement``,
``arithmetic``, ``generators`` and ``inverses``, extents that are neither broadcast nor those of an operand in
``extents``.  ``tests/semantics`` compares the rows with the schemas, and each with what runtimes compute.

The first table is an allow-list.  Nothing is known of the elements of a node outside of it, whatever a rule would say.
A new opset, a new attribute or a further input may change what an operator means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from onnx import TensorProto


class Extents(Enum):
    """Where the extents of a result come from."""

    BY_RULE = "a function in extents, or the standard's own inference"
    BROADCAST = "all operands, spread over each other"
    AS_FIRST = "the first operand"


class Makes(Enum):
    """How a result comes from what is calculated exactly: what its type can do to it."""

    MOVED = "elements of an operand, as they are"
    CHOSEN = "elements of the operands, or 0 and 1: a type that held those holds these"
    ACCUMULATED = "sums that a narrow type rounds after every step, or once: runtimes differ"
    CALCULATED = "numbers that the type may not hold"


@dataclass(frozen=True)
class Operator:
    """What is known of one operator.

    Attributes:
        versions: Opsets in which it was given or changed; empty where no rule calculates its elements.
        attributes: Names that its rule takes into account (or that mean nothing for the types it covers).
        inputs: How many inputs it reads; 0 for any number.
        extents: Where the extents of its results come from.
        dtype: The type of its results (``TensorProto``); 0 where operands say it.
        typed_by: Positions of the operands that say it, the first that is known; empty for the first of all.
        makes: What its type can do to its results.
        exact: In floats it makes multiples of small powers of two out of such, without rounding.
    """

    versions: frozenset[int] = frozenset()
    attributes: frozenset[str] = frozenset()
    inputs: int = 0
    extents: Extents = Extents.BY_RULE
    dtype: int = 0
    typed_by: tuple[int, ...] = ()
    makes: Makes = Makes.CALCULATED
    exact: bool = False


def _row(
    versions: str,
    inputs: int,
    attributes: str = "",
    *,
    extents: Extents = Extents.BY_RULE,
    dtype: int = 0,
    typed_by: tuple[int, ...] = (),
    makes: Makes = Makes.CALCULATED,
    exact: bool = False,
) -> Operator:
    known, names = frozenset(map(int, versions.split())), frozenset(attributes.split())
    return Operator(known, names, inputs, extents, dtype, typed_by, makes, exact or makes is Makes.MOVED)


def _each(names: str, row: Operator) -> dict[str, Operator]:
    return dict.fromkeys(names.split(), row)


BROADCAST, AS_FIRST = Extents.BROADCAST, Extents.AS_FIRST
MOVED, CHOSEN, ACCUMULATED = Makes.MOVED, Makes.CHOSEN, Makes.ACCUMULATED
BOOL, INT32, INT64, UINT8 = TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8

KNOWN: Final[dict[str, Operator]] = {
    "Abs": _row("6 13", 1, extents=AS_FIRST, exact=True),
    "Add": _row("7 13 14", 2, extents=BROADCAST, exact=True),
    "And": _row("7", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
    "Cast": _row("6 9 13 19 21 23 24 25 28", 1, "round_mode saturate to", extents=AS_FIRST, exact=True),
    "CastLike": _row("15 19 21 23 24 25", 2, "round_mode saturate", extents=AS_FIRST, typed_by=(1,), exact=True),
    "Ceil": _row("6 13", 1, extents=AS_FIRST, exact=True),
    "Clip": _row("6 11 12 13", 3, "max min", extents=AS_FIRST, makes=CHOSEN, exact=True),
    "Concat": _row("4 11 13", 0, "axis", makes=CHOSEN, exact=True),
    "ConstantOfShape": _row("9 20 21 23 24 25", 1, "value", makes=CHOSEN, exact=True),
    "Cos": _row("7 22", 1, extents=AS_FIRST),
    "CumSum": _row("11 14", 2, "exclusive reverse", extents=AS_FIRST, makes=ACCUMULATED, exact=True),
    "Div": _row("7 13 14", 2, extents=BROADCAST),
    "Dropout": _row("7 10 12 13 22", 3, "ratio seed", extents=AS_FIRST, makes=MOVED),
    "Einsum": _row("12 28", 0, "equation", makes=ACCUMULATED),
    "Equal": _row("7 11 13 19", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
    "Erf": _row("9 13", 1, extents=AS_FIRST),
    "Exp": _row("6 13", 1, extents=AS_FIRST),
    "Expand": _row("8 13", 2, makes=MOVED),
    "EyeLike": _row("9 22", 1, "dtype k", extents=AS_FIRST, makes=CHOSEN, exact=True),
    "Flatten": _row("1 9 11 13 21 23 24 25", 1, "axis", makes=MOVED),
    "Floor": _row("6 13", 1, extents=AS_FIRST, exact=True),
    "Gather": _row("1 11 13", 2, "axis", makes=MOVED),
    "GatherElements": _row("11 13", 2, "axis", makes=MOVED),
    "GatherND": _row("11 12 13", 2, "batch_dims", makes=MOVED),
    "Greater": _row("7 9 13", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
    "GreaterOrEqual": _row("12 16", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
    "Identity": _row("1 13 14 16 19 21 23 24 25", 1, extents=AS_FIRST, makes=MOVED),
    "IsNaN": _row("9 13 20", 1, extents=AS_FIRST, dtype=BOOL, makes=CHOSEN),
    "Less": _row("7 9 13", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
    "LessOrEqual": _row("12 16", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
    "Log": _row("6 13", 1, extents=AS_FIRST),
    "MatMul": _row("1 9 13", 2),
    "Max": _row("6 8 12 13", 0, extents=BROADCAST, makes=CHOSEN, exact=True),
    "Min": _row("6 8 12 13", 0, extents=BROADCAST, makes=CHOSEN, exact=True),
    "Mod": _row("10 13 28", 2, "fmod", extents=BROADCAST, exact=True),
    "Mul": _row("7 13 14", 2, extents=BROADCAST, exact=True),
    "Neg": _row("6 13", 1, extents=AS_FIRST, exact=True),
    "Not": _row("1", 1, extents=AS_FIRST, dtype=BOOL, makes=CHOSEN),
    "Or": _row("7", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
    "Pad": _row("2 11 13 18 19 21 23 24 25", 4, "mode pads value", makes=CHOSEN, exact=True),
    "Pow": _row("7 12 13 15", 2, extents=BROADCAST),
    "Range": _row("11 27", 3, "stash_type", makes=ACCUMULATED, exact=True),
    "Reciprocal": _row("6 13", 1, extents=AS_FIRST),
    "ReduceMax": _row("1 11 12 13 18 20", 2, "axes keepdims noop_with_empty_axes", makes=CHOSEN, exact=True),
    "ReduceMean": _row("1 11 13 18", 2, "axes keepdims noop_with_empty_axes", makes=ACCUMULATED),
    "ReduceMin": _row("1 11 12 13 18 20", 2, "axes keepdims noop_with_empty_axes", makes=CHOSEN, exact=True),
    "ReduceProd": _row("1 11 13 18", 2, "axes keepdims noop_with_empty_axes", makes=ACCUMULATED),
    "ReduceSum": _row("1 11 13", 2, "axes keepdims noop_with_empty_axes", makes=ACCUMULATED, exact=True),
    "Relu": _row("6 13 14", 1, extents=AS_FIRST, makes=CHOSEN, exact=True),
    "Reshape": _row("5 13 14 19 21 23 24 25", 2, "allowzero", makes=MOVED),
    "Round": _row("11 22", 1, extents=AS_FIRST, exact=True),
    "ScatterElements": _row("11 13 16 18", 3, "axis reduction", extents=AS_FIRST, makes=CHOSEN, exact=True),
    "ScatterND": _row("11 13 16 18", 3, "reduction", extents=AS_FIRST, makes=CHOSEN, exact=True),
    "Shape": _row("1 13 15 19 21 23 24 25", 1, "end start", dtype=INT64),
    "Sigmoid": _row("6 13", 1, extents=AS_FIRST),
    "Sign": _row("9 13", 1, extents=AS_FIRST, exact=True),
    "Sin": _row("7 22", 1, extents=AS_FIRST),
    "Size": _row("1 13 19 21 23 24 25", 1, dtype=INT64),
    "Slice": _row("1 10 11 13", 5, "axes ends starts", makes=MOVED),
    "Softplus": _row("1 22", 1, extents=AS_FIRST),
    "Split": _row("2 11 13 18", 2, "axis num_outputs split", makes=MOVED),
    "Sqrt": _row("6 13", 1, extents=AS_FIRST),
    "Squeeze": _row("1 11 13 21 23 24 25", 2, "axes", makes=MOVED),
    "Sub": _row("7 13 14", 2, extents=BROADCAST, exact=True),
    "Sum": _row("6 8 13", 0, extents=BROADCAST, makes=ACCUMULATED, exact=True),
    "Tanh": _row("6 13", 1, extents=AS_FIRST),
    "Tile": _row("6 13", 2, makes=MOVED),
    "Transpose": _row("1 13 21 23 24 25", 1, "perm", makes=MOVED),
    "Trilu": _row("14", 2, "upper", extents=AS_FIRST, makes=CHOSEN, exact=True),
    "Unsqueeze": _row("1 11 13 21 23 24 25", 2, "axes", makes=MOVED),
    "Where": _row("9 16", 3, extents=BROADCAST, typed_by=(1, 2), makes=CHOSEN, exact=True),
    "Xor": _row("7", 2, extents=BROADCAST, dtype=BOOL, makes=CHOSEN),
}
"""Operators whose elements are calculated."""

OTHERS: Final[Mapping[str, Operator]] = {
    **_each("ArgMax ArgMin NonZero", Operator(dtype=INT64)),
    **_each("BitwiseAnd BitwiseOr BitwiseXor Mean PRelu", Operator(extents=BROADCAST)),
    **_each("BitwiseNot Bernoulli QuantizeLinear RotaryEmbedding Scatter", Operator(extents=AS_FIRST)),
    **_each("Celu Elu Gelu HardSigmoid HardSwish LeakyRelu Mish Selu Softsign Swish", Operator(extents=AS_FIRST)),
    **_each("ThresholdedRelu BiasGelu FastGelu QuickGelu Softmax LogSoftmax", Operator(extents=AS_FIRST)),
    **_each("BatchNormalization GroupNormalization InstanceNormalization", Operator(extents=AS_FIRST)),
    **_each("LayerNormalization LpNormalization RMSNormalization", Operator(extents=AS_FIRST)),
    **_each("SimplifiedLayerNormalization SkipLayerNormalization", Operator(extents=AS_FIRST)),
    "SkipSimplifiedLayerNormalization": Operator(extents=AS_FIRST),
    "DequantizeLinear": Operator(extents=AS_FIRST, typed_by=(1,)),
    "IsInf": Operator(extents=AS_FIRST, dtype=BOOL),
    **_each("ConvInteger MatMulInteger", Operator(dtype=INT32)),
    "DynamicQuantizeLinear": Operator(dtype=UINT8),
}
"""Operators of which only extents and types are known."""

OPERATORS: Final[Mapping[str, Operator]] = {**KNOWN, **OTHERS}

MOVING: Final = frozenset(name for name, row in KNOWN.items() if row.makes is MOVED)
"""Operators that hand elements on as they are."""

UNKNOWN: Final = Operator()
"""What is known of any other operator."""
