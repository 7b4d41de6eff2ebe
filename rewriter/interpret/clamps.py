"""Max, Min and Clip: exact, or left out where they provably change nothing but how far hidden keys are hidden."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from onnx import NodeProto, TensorProto

from ...algebra import (
    FALSE,
    INFINITY,
    LARGEST_FLOAT32,
    MODERATE,
    TRUE,
    UNLIKELY,
    ZERO,
    Apply,
    Atom,
    Cond,
    Ind,
    Number,
    Poly,
    Read,
    branches,
    first_indicator,
    interval,
    magnitude,
    maximum,
    of,
    poly,
    under,
)
from ...graph.index import float_attribute
from ...patterns.masks import HIDING_VALUE
from .rounding import LARGEST, NARROW, PREFIX

if TYPE_CHECKING:
    from .engine import Interpreter

MOST_CASES = 64
"""Cases that are told apart.  Indicators that exclude each other, such as those of heads, add a case each."""


def largest(dtype: int) -> Number:
    """The largest finite number of a float type; larger than any number for other types."""
    return LARGEST_FLOAT32 if dtype == TensorProto.FLOAT else LARGEST.get(dtype, INFINITY)


def floored(value: Poly, floor: Poly, lowest: Number) -> Poly | None:
    """max(value, floor), or None if that is unknown.

    Args:
        value: Any value.
        floor: What it does not fall below.
        lowest: The lowest finite number of the type.
    """
    if not all(a.is_finite for a in (*value.atoms, *floor.atoms)):
        return None  # a constant that may be no number
    constant = floor.constant
    if constant is None or constant > HIDING_VALUE or value.constant is not None:
        return maximum(value, floor)
    found = _raised(value, constant, lowest, iter(range(MOST_CASES)))
    return maximum(value, floor) if found is None else value + found


def ceiled(value: Poly, ceiling: Poly, lowest: Number) -> Poly | None:
    """min(value, ceiling), as ``floored``."""
    found = floored(-value, -ceiling, lowest)
    return None if found is None else -found


def _raised(value: Poly, floor: Number, lowest: Number, cases: Iterator[int], given: Cond = TRUE) -> Poly | None:
    """max(value, floor) - value for a floor that hides keys; None where nothing can be said about a case.

    The difference, so that the normal form of a value stays what it is where the floor is out of reach.
    """
    indicator = first_indicator(value)
    if indicator is not None:
        both = branches(value, indicator, given)
        possible = [_raised(part, floor, lowest, cases, known) for part, known in both if known != FALSE]
        if len(possible) < len(both):
            return possible[0] if possible else ZERO
        absent, present = possible
        if absent is None or present is None:
            return None
        return absent + of(indicator) * (present - under(absent, indicator.condition))
    if next(cases, None) is None:
        return None
    constant = value.constant_term
    if value.constant is not None:
        return poly(max(constant, floor)) - value
    others = [magnitude(c) for m, c in value.terms if m]
    if constant <= -INFINITY / 2 and max(others) < INFINITY / 2:
        return poly(floor) - value
    if floor <= lowest:
        # No finite number is below it; a run-time mask of -inf hides as much as the lowest number.
        return None if any(_overflows(a) for a in value.atoms) else ZERO
    # Products of query and key, and additive masks, are small against a hiding value, or hide keys themselves.
    bare = Poly({m: c for m, c in value.terms if not (len(m) == 1 and _is_activation(m[0]))})
    masks = {
        m: c for m, c in bare.terms if m and magnitude(c) >= -HIDING_VALUE and all(isinstance(a, Read) for a, _ in m)
    }
    if masks and (bare - Poly(masks)).constant is not None:
        return ZERO  # a mask times a hiding value: what is below the floor is hidden, and stays hidden
    span = interval(bare)
    if span is None:
        return None
    if span[0] >= floor:
        return ZERO
    return poly(floor) - value if span[1] < floor - LARGEST_FLOAT32 / 2 and max(others) < MODERATE else None


def _overflows(atom: Atom) -> bool:
    """Whether an atom is the rounding to float16 of a value that is infinite there at some length."""
    if not isinstance(atom, Apply) or atom.function != PREFIX + NARROW[TensorProto.FLOAT16][0]:
        return False
    span = interval(atom.arguments[0], UNLIKELY)
    return span is None or max(-span[0], span[1]) > LARGEST[TensorProto.FLOAT16]


def _is_activation(factor: tuple[object, int]) -> bool:
    atom, power = factor
    return isinstance(atom, Read) and not atom.integer and power == 1


def clip(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Poly | None:
    """The element of a Clip: the lower bound first, so that the upper one wins where they cross.

    A bound that is not given is the end of the type in the standard's text and in onnxruntime, and no bound in the
    standard's function body and in its reference.  Only infinity tells these apart, so its element is unknown.
    """
    value: Poly | None = interpreter.element(node.input[0], indices)
    low, high = (_bound(interpreter, node, *which) for which in ((1, "min", -INFINITY), (2, "max", INFINITY)))
    if low is None or high is None or value is None:
        return None
    for position, name, sign in ((1, "min", -1), (2, "max", 1)):
        if not _is_given(node, position, name) and may_be_infinite(value, sign):
            return None
    lowest = -largest(interpreter.dtype(node.input[0]))
    if low.constant != -INFINITY:
        value = floored(value, low, lowest)
    return value if value is None or high.constant == INFINITY else ceiled(value, high, lowest)


def _is_given(node: NodeProto, position: int, name: str) -> bool:
    """Whether a bound of a Clip is given, as an input or (before opset 11) as an attribute."""
    by_input = len(node.input) > position and bool(node.input[position])
    return by_input or not math.isnan(float_attribute(node, name, math.nan))


def _bound(interpreter: Interpreter, node: NodeProto, position: int, name: str, absent: Number) -> Poly | None:
    """A bound of a Clip, infinity where it is not given; None where it is unknown."""
    if len(node.input) > position and node.input[position]:
        return interpreter.scalar(node.input[position])
    given = float_attribute(node, name, math.nan)
    if math.isnan(given):
        return poly(absent)
    return poly(Fraction(given) if math.isfinite(given) else INFINITY if given > 0 else -INFINITY)


def may_be_infinite(value: Poly, sign: int, cases: Iterator[int] | None = None, given: Cond = TRUE) -> bool:
    """Whether a value may be infinity of a sign as far as its constants tell; run-time values are taken as finite.

    Args:
        value: Any value.
        sign: 1 for infinity, -1 for minus infinity.
        cases: One for each case that may still be told apart.
        given: What is known to hold.
    """
    cases = iter(range(MOST_CASES)) if cases is None else cases
    if not all(a.is_finite for a in value.atoms):
        return True
    huge = [(m, c) for m, c in value.terms if magnitude(c) >= INFINITY / 2]
    if not huge:
        return False
    if all(not m for m, _ in huge) and not any(isinstance(a, Ind) for a in value.atoms):
        return sign * value.constant_term > 0
    indicator = first_indicator(value)
    if indicator is None or next(cases, None) is None:
        return True
    return any(
        may_be_infinite(part, sign, cases, known) for part, known in branches(value, indicator, given) if known != FALSE
    )
