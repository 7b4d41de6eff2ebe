"""Numeric bounds of a value in runs of a realistic size, which a type has to hold.

``bounds`` proves what holds for all sizes.  This module says which numbers can come out with every size and every
run-time integer below a limit.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from .apply import Apply
from .atoms import Index, Read, Size
from .bounds import Min0
from .conditions import Ind, Sum
from .polynomial import Atom, Number, Poly

Interval = tuple[Number, Number]

LIKELY = 1 << 20
"""No run of a model has an extent, or an integer among its inputs, beyond this."""

UNLIKELY = 1 << 24
"""A length that no run has.  What is the same here and at ``LIKELY`` is so at every length."""

ELEMENTS = 1 << 30
"""A product of different extents counts the elements of a tensor; it stays below this."""


@lru_cache(maxsize=1 << 15)
def interval(value: Poly, limit: int = LIKELY) -> Interval | None:
    """The lowest and the highest number that a value can be, or None if that is unknown.

    Args:
        value: The value.
        limit: What every size and every run-time integer is at most.
    """
    low: Number = 0
    high: Number = 0
    for monomial, coefficient in value.terms:
        factor: Interval = (1, 1)
        extents: set[Size] = set()
        counted = 0
        for atom, power in monomial:
            part = atom_interval(atom, limit)
            if part is None:
                return None
            own = _extent(atom)
            counted += power if own is not None else 0
            extents |= {own} if own is not None else set()
            for _ in range(power):
                factor = times(factor, part)
        if counted > 1 and counted == len(extents) == sum(p for _, p in monomial):
            factor = (max(factor[0], 0), min(factor[1], max(ELEMENTS, limit)))
        factor = times(factor, (coefficient, coefficient))
        low, high = low + factor[0], high + factor[1]
    return low, high


def times(left: Interval, right: Interval) -> Interval:
    """The product of two intervals."""
    corners = [a * b for a in left for b in right]
    return min(corners), max(corners)


def _extent(atom: Atom) -> Size | None:
    """The unknown extent that an atom is, or that an index runs over."""
    if isinstance(atom, Size):
        return atom
    bound = atom.bound.single_atom if isinstance(atom, Index) else None
    return bound if isinstance(bound, Size) else None


def atom_interval(atom: Atom, limit: int) -> Interval | None:
    """The interval of one atom."""
    if isinstance(atom, Size):
        return 0, limit
    if isinstance(atom, Ind):
        return 0, 1
    if isinstance(atom, Index):
        bound = interval(atom.bound, limit)
        return None if bound is None else (0, max(0, bound[1] - 1))
    if isinstance(atom, Read):
        return (-limit, limit) if atom.integer else None
    if isinstance(atom, Min0):
        inside = interval(atom.value, limit)
        return None if inside is None else (min(0, inside[0]), min(0, inside[1]))
    if isinstance(atom, Sum):
        term, count = interval(atom.term, limit), interval(atom.index.bound, limit)
        return None if term is None or count is None else times(term, (0, count[1]))
    if isinstance(atom, Apply):
        return _function(atom, limit)
    ends = [atom.extreme(lowest=lowest) for lowest in (True, False)]
    found = [None if end is None else interval(end, limit) for end in ends]
    return None if found[0] is None or found[1] is None else (found[0][0], found[1][1])


def _function(atom: Apply, limit: int) -> Interval | None:
    """The interval of a function, for those that the analysis makes of integers."""
    inside = [interval(a, limit) for a in atom.arguments]
    first = inside[0]
    if first is None:
        return None
    low, high = Fraction(first[0]), Fraction(first[1])
    if atom.function == "floordiv":
        divisor = atom.arguments[1].constant
        if divisor is not None and divisor > 0:
            return math.floor(low / divisor), math.floor(high / divisor)
        return (0, math.floor(high)) if low >= 0 else None  # by 1 or more, or there is no result
    if atom.function in ("trunc", "Floor", "Ceil", "Round"):
        return math.floor(low), math.ceil(high)
    if atom.function.startswith("round_"):  # to a narrower float: to twice the value at most
        return min(2 * low, low / 2), max(2 * high, high / 2)
    return None
