"""What a value never falls below or exceeds, and piecewise functions, all written with min(0, p)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from .atoms import Hashed, Size
from .polynomial import ZERO, Poly, Substitution, magnitude, of, substitute

MOST_PIECES = 6
"""Piecewise terms that are looked at case by case; each doubles the cases."""


@dataclass(frozen=True, eq=False)
class Min0(Hashed):
    """min(0, value)."""

    value: Poly

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"min(0, {show(self.value)})"

    @property
    def children(self) -> tuple[Poly, ...]:
        return (self.value,)

    @property
    def denominator(self) -> int | None:
        return self.value.denominator

    def substitute(self, mapping: Substitution) -> Poly:
        return min0(substitute(self.value, mapping))

    def extreme(self, *, lowest: bool) -> Poly | None:
        if not lowest:
            return ZERO
        inner = lower_bound(self.value)
        # min(0, v) >= bound(v) only where that bound is not positive itself.
        return inner if inner is not None and _sign(inner) in (-1, 0) else None


def lower_bound(value: Poly) -> Poly | None:
    """A polynomial in sizes alone that ``value`` never falls below, or None."""
    return _bound(value, lower=True)


def upper_bound(value: Poly) -> Poly | None:
    """A polynomial in sizes alone that ``value`` never exceeds, or None."""
    return _bound(value, lower=False)


def _bound(value: Poly, *, lower: bool) -> Poly | None:
    result = value
    for _ in range(8):  # a bound may mention other indices; their nesting is shallow
        moving = [a for a in result.sorted_atoms() if not isinstance(a, Size)]
        if not moving:
            return result
        atom = moving[0]
        coefficient = result.coefficient_of(atom)
        if any(power > 1 for m, _ in result.terms for a, power in m if a == atom):
            return None
        rises = _sign(coefficient)
        if rises is None:
            return None
        extreme = atom.extreme(lowest=(rises > 0) == lower)
        if extreme is None:
            return None
        result = result - coefficient * of(atom) + coefficient * extreme
    return None


def _sign(value: Poly) -> int | None:
    """+1 or -1 if all coefficients over sizes have that sign (sizes are >= 0), 0 for zero, else None."""
    if not value.terms:
        return 0
    if all(isinstance(a, Size) for a in value.atoms):
        if all(c > 0 for _, c in value.terms):
            return 1
        if all(c < 0 for _, c in value.terms):
            return -1
    return None


def is_nonnegative(value: Poly) -> bool:
    """Whether value >= 0 holds, provably, for all sizes >= 0 and all indices in range."""
    constant = value.constant
    if constant is not None:
        return constant >= 0
    piecewise = next((a for a in value.sorted_atoms() if isinstance(a, Min0)), None)
    if piecewise is not None and sum(isinstance(a, Min0) for a in value.all_atoms()) <= MOST_PIECES:
        factor = value.coefficient_of(piecewise).constant
        if factor is not None:
            # rest + k min(0, v) is min(rest, rest + k v) for k > 0, and the maximum of both for k < 0.
            rest = value - of(piecewise) * factor
            both = (rest, rest + piecewise.value * factor)
            if factor > 0:
                return all(is_nonnegative(part) for part in both)
            # The larger of two values is at least their mean: |p| >= 0 although neither p nor -p is.
            return any(is_nonnegative(part) for part in (*both, both[0] + both[1]))
    bound = lower_bound(value)
    return bound is not None and _sign(bound) in (0, 1)


def is_nonpositive(value: Poly) -> bool:
    """Whether value <= 0 always holds."""
    return is_nonnegative(-value)


@lru_cache(maxsize=1 << 15)
def min0(value: Poly) -> Poly:
    """min(0, value), simplified where the sign is known.

    ``min(0, -p) = min(0, p) - p``, so of p and -p only one gets an atom: the one whose leading
    coefficient is positive.  That makes |i - j| and |j - i| the same normal form.
    """
    if is_nonnegative(value):
        return ZERO
    if is_nonpositive(value):
        return value
    for atom in value.sorted_atoms():
        if atom.sign is not None and all((atom, 1) in m for m, _ in value.terms):
            # A slope of known sign comes out of |slope * distance|.
            rest = value.coefficient_of(atom)
            return of(atom) * (min0(rest) if atom.sign > 0 else rest - min0(rest))
    leading = value.terms[-1][1]
    if leading < 0:
        return min0(-value) + value
    scale = magnitude(leading)
    if scale != 1:
        return min0(value / scale) * scale
    return of(Min0(value))


def minimum(left: Poly, right: Poly) -> Poly:
    """min(left, right) = left + min(0, right - left)."""
    return left + min0(right - left)


def maximum(left: Poly, right: Poly) -> Poly:
    """max(left, right) = left - min(0, left - right)."""
    return left - min0(left - right)


def absolute(value: Poly) -> Poly:
    """|value| = value - 2 min(0, value)."""
    return value - 2 * min0(value)
