"""What an assumption about sizes may cut off: the far end of a buffer, and nothing else.

A proof may rest on ``64 - S >= 0``: beyond it the original reads its buffer from the wrong end, or not at all.
It may not rest on ``1 - S >= 0``: an index that wraps around on purpose looks like that, and a proof for
sequences of one token says nothing about a model.  So assumptions have to leave every size room to be one
and to be several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..algebra import Number, Poly, Size, Substitution, of, poly, substitute

if TYPE_CHECKING:
    from .facts import Fact

SMALL = (1, 2)
"""Values that every size must be able to have."""

DOMAIN = (1, 2, 3, 4, 0)
"""Values tried for the other sizes, likely ones first; a cache may be empty."""

MOST_TRIALS = 625
"""Assignments tried; where they do not settle it, the assumptions stand, and are reported."""


def leaves_room(value: Poly) -> bool:
    """Whether ``value >= 0`` can hold with nothing empty, and with each of its sizes small."""
    sizes = free([value])
    filled = any(_holds(value, numbers, ">=") for numbers in assignments(sizes, {}) if all(numbers.values()))
    trials = [(size, small) for size in sizes for small in SMALL]
    return filled and all(
        any(_holds(value, numbers, ">=") for numbers in assignments(sizes, {size: small})) for size, small in trials
    )


def excluded(extent: Poly, facts: Sequence[Fact], normal: Callable[[Poly], Poly]) -> int | None:
    """A small number that an extent cannot have under the assumptions, or None if it can have all.

    Args:
        extent: An extent of a site.
        facts: What is assumed.
        normal: Puts into a polynomial what the facts say.
    """
    extent = normal(extent)
    if extent.constant is not None:
        return None
    sizes, related = _related(extent, facts, normal)

    def fits(numbers: dict[Size, int]) -> bool:
        raw = free([side for fact in related for side in (fact.left, fact.right)])
        found = {size: evaluate(normal(of(size)), numbers) for size in raw}
        known = {size: int(number) for size, number in found.items() if number is not None}
        return all(_holds(fact.left - fact.right, known, fact.relation) for fact in related)

    def possible(small: int) -> bool:
        return any(evaluate(extent, numbers) in (small, None) and fits(numbers) for numbers in assignments(sizes, {}))

    return next((small for small in SMALL if not possible(small)), None)


def _related(extent: Poly, facts: Sequence[Fact], normal: Callable[[Poly], Poly]) -> tuple[list[Size], list[Fact]]:
    """Free sizes that the extent hangs on, and the facts about them, as far as all assignments can be tried."""
    sizes = free([extent])
    related: list[Fact] = []
    waiting = [(fact, free([normal(fact.left), normal(fact.right)])) for fact in facts]
    growing = True
    while growing:
        growing = False
        for fact, own in list(waiting):
            more = sorted({*sizes, *own})
            if set(own) & set(sizes) and len(DOMAIN) ** len(more) <= MOST_TRIALS:
                growing, sizes = True, more
                related.append(fact)
                waiting.remove((fact, own))
    return sizes, related


def free(values: Sequence[Poly]) -> list[Size]:
    """The sizes that values are computed from, in a fixed order."""
    return sorted({a for value in values for a in value.all_atoms() if isinstance(a, Size)})


def assignments(sizes: Sequence[Size], fixed: dict[Size, int]) -> Iterator[dict[Size, int]]:
    """Numbers for all sizes, those of ``fixed`` as they are."""
    moving = [a for a in sizes if a not in fixed]
    for trial in range(min(MOST_TRIALS, len(DOMAIN) ** len(moving))):
        numbers, rest = dict(fixed), trial
        for size in moving:
            rest, digit = divmod(rest, len(DOMAIN))
            numbers[size] = DOMAIN[digit]
        yield numbers


def evaluate(value: Poly, numbers: dict[Size, int]) -> Number | None:
    """The value for given sizes, or None if they do not decide it."""
    mapping: Substitution = {a: poly(n) for a, n in numbers.items()}
    return substitute(value, mapping).constant


def _holds(value: Poly, numbers: dict[Size, int], relation: str) -> bool:
    found = evaluate(value, numbers)
    return found is None or (found >= 0 if relation == ">=" else found == 0)
