"""Values as a narrow float type holds them.  They are exact where that can be shown, otherwise a function of the value.

In a graph that computes its scores in float32 a detour through bfloat16 changes positions from 257 on.  Such a
rounding is part of the value: ``round_bfloat16(p)`` is an atom, and equal to p only where the type holds p.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial

from onnx import TensorProto

from ...algebra import (
    INFINITY,
    LIKELY,
    UNLIKELY,
    Apply,
    Atom,
    Ind,
    Number,
    Poly,
    interval,
    magnitude,
    of,
    poly,
    split,
)

NARROW: dict[int, tuple[str, int]] = {TensorProto.FLOAT16: ("float16", 11), TensorProto.BFLOAT16: ("bfloat16", 8)}
"""Float types that do not hold all positions: name, and bits of the significand.  Integers are exact up to 2^bits."""

SMALLEST: dict[int, int] = {TensorProto.FLOAT16: -24, TensorProto.BFLOAT16: -133}
"""Exponent of the smallest positive number."""

LARGEST: dict[int, Fraction] = {TensorProto.FLOAT16: Fraction(65504), TensorProto.BFLOAT16: Fraction(255 << 120)}
"""The largest finite number."""

PRECISION: dict[int, int] = {
    TensorProto.FLOAT: 24,
    TensorProto.DOUBLE: 53,
    TensorProto.FLOAT16: 11,
    TensorProto.BFLOAT16: 8,
}
"""Bits of the significand."""

MOST_CASES = 4
"""Indicators that are looked at case by case."""

PREFIX = "round_"


def rounded(dtype: int, value: Poly, keeps: Callable[[Poly], bool] = lambda _: False, cases: int = MOST_CASES) -> Poly:
    """The value as a narrow type holds it.

    Args:
        dtype: One of ``NARROW``.
        value: The exact value.
        keeps: Whether a case of the value is kept as it is.
        cases: Indicators that are still told apart.
    """
    name, bits = NARROW[dtype]
    constant = value.constant
    if constant is not None:
        return poly(nearest(dtype, constant))
    indicator = next((a for a in value.sorted_atoms() if isinstance(a, Ind)), None)
    if indicator is not None and cases:
        absent, present = (rounded(dtype, part, keeps, cases - 1) for part in split(value, indicator))
        return absent + of(indicator) * (present - absent)
    if keeps(value) or is_held(value, bits):
        return value
    return of(Apply(PREFIX + name, (value,), partial(rounded, dtype), integer=value.is_integer))


def is_held(value: Poly, bits: int) -> bool:
    """Whether a significand of so many bits holds every number that the value can be, at any length."""
    if not value.is_integer:
        constant = value.constant
        return constant is not None and any(
            nearest(d, constant) == constant for d, (_, b) in NARROW.items() if b == bits
        )
    near, far = interval(value, LIKELY), interval(value, UNLIKELY)
    return near is not None and near == far and max(-near[0], near[1]) <= 1 << bits


def nearest(dtype: int, value: Number) -> Number:
    """A number rounded to nearest, ties to even; one that is too large becomes infinite."""
    if not value or magnitude(value) >= INFINITY / 2:
        return value
    bits, smallest, largest = NARROW[dtype][1], SMALLEST[dtype], LARGEST[dtype]
    size = magnitude(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - bits + 1, smallest)
    result = round(Fraction(value) / unit) * unit
    if magnitude(result) > largest:
        return INFINITY if value > 0 else -INFINITY
    return int(result) if result.denominator == 1 else result


def is_rounding(atom: Atom) -> bool:
    """Whether an atom is the rounding of a value to a narrower type."""
    return isinstance(atom, Apply) and atom.function.startswith(PREFIX)


def rounding_in(value: Poly) -> Apply | None:
    """The first rounding in a value, at any depth."""
    return next((a for a in sorted(value.all_atoms()) if isinstance(a, Apply) and is_rounding(a)), None)


def exact_below(atom: Apply) -> int:
    """Up to which integer the type of a rounding is exact."""
    return next((1 << bits for name, bits in (*NARROW.values(), ("float32", 24)) if atom.function == PREFIX + name), 0)


def is_absorbed(dtype: int, value: Poly) -> bool:
    """Whether a huge constant swallows what is added to it.  x - 1e8 + 1e8 is not x in float32.

    Where indicators or run-time masks have huge factors as well, the constant may belong to hidden keys only.  What is
    counted from a mask is multiplied by it, so that the mask's factor can be a little less than what hides a key.
    """
    constant = magnitude(value.constant_term)
    if constant < 65504 or value.constant is not None:
        return False
    moving = [magnitude(c) for m, c in value.terms if m]
    return max(moving) < min(Fraction(65504), constant * 9 / 10) and constant >= min(moving) * (
        1 << (PRECISION[dtype] - 1)
    )


def absorbed(dtype: int, value: Poly) -> Poly:
    """The sum of a huge constant and small values.  The type keeps little of these, so the sum is opaque."""
    if value.constant is not None or not is_absorbed(dtype, value):
        return value
    name = NARROW[dtype][0] if dtype in NARROW else ("float32" if dtype == TensorProto.FLOAT else "float64")
    return of(Apply(PREFIX + name, (value,), partial(absorbed, dtype)))


def rounding_bounds(value: Poly) -> list[int]:
    """Up to which integers the types are exact that a value is rounded to."""
    return sorted({exact_below(a) for a in value.all_atoms() if is_rounding(a)} - {0})  # type: ignore[arg-type]
