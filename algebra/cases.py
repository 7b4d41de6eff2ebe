"""Values case by case: what indicators are where a condition holds."""

from __future__ import annotations

from .conditions import TRUE, Cond, Ind, conjunction, conjuncts, implies, negation, split
from .polynomial import Poly


def under(value: Poly, condition: Cond) -> Poly:
    """The value where the condition holds: indicators that it decides are put in."""
    known = conjuncts(condition)
    for atom in value.sorted_atoms():
        if isinstance(atom, Ind):
            opposite = negation(atom.condition)
            if all(any(implies(k, c) for k in known) for c in conjuncts(atom.condition)):
                value = split(value, atom)[1]
            elif any(implies(k, opposite) for k in known):
                value = split(value, atom)[0]
    return value


def first_indicator(value: Poly) -> Ind | None:
    """The indicator by which a value is taken apart first, or None."""
    return next((a for a in value.sorted_atoms() if isinstance(a, Ind)), None)


def branches(value: Poly, indicator: Ind, given: Cond = TRUE) -> tuple[tuple[Poly, Cond], tuple[Poly, Cond]]:
    """The value where the indicator is 0 and where it is 1, each with what holds there.

    Where it is 1 it may decide others, as a head excludes all other heads.

    Args:
        value: The value.
        indicator: One of its atoms.
        given: What is known to hold.  A case that it excludes comes back with ``FALSE``.
    """
    absent, present = split(value, indicator)
    without = conjunction((given, negation(indicator.condition)))
    return (absent, without), (under(present, indicator.condition), conjunction((given, indicator.condition)))
