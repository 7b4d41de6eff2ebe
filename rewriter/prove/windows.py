"""Bands.  Conditions that hide a key by its distance from the row alone become attributes of the fused node.

With d = j - row(i), a condition d - R <= 0 ends the window R keys after the row and -d - L <= 0 ends it L keys
before.  All other conditions, such as a width that only run time knows or a window without the row's own key, stay
conditions, and with them a mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from ...algebra import Cond, Poly, at_most_zero, min0
from ...fused.family import LARGEST_WINDOW, UNBOUNDED
from ..interpret import Interpreter
from ..records.proof import Window


def take_windows(
    interpreter: Interpreter, conditions: Iterable[Cond], distance: Poly, *, causal: bool
) -> tuple[Window, tuple[Cond, ...]]:
    """The window that some of the conditions make, and the other ones.

    Args:
        interpreter: For equalities between extents.
        conditions: All of which must hold for a key to be visible.
        distance: j - row(i).
        causal: Keys after the row are hidden anyway, so a bound on them says nothing new.
    """
    left: list[int] = []
    right: list[int] = []
    bands: list[Cond] = []
    rest: list[Cond] = []
    for condition in conditions:
        found = _bounds(interpreter, condition, distance)
        if found is None:
            rest.append(condition)
            continue
        before, after = found
        left += [] if before is None else [before]
        right += [] if after is None or causal else [after]
        if before is not None or not causal:
            bands.append(condition)
    window = Window(min(left, default=UNBOUNDED), min(right, default=UNBOUNDED), tuple(bands))
    return window, tuple(rest)


def _bounds(interpreter: Interpreter, condition: Cond, distance: Poly) -> tuple[int | None, int | None] | None:
    """(keys before, keys after) that a condition allows, None where it says nothing; None if it is no band."""
    value, strict = at_most_zero(condition), False
    if value is None and condition.kind == "lt":
        value, strict = condition.value, True
    if value is None:
        return None
    value = interpreter.facts.normal(value)
    forms: tuple[tuple[Poly, bool, bool], ...] = (
        (distance, False, True),
        (-distance, True, False),
        (distance - 2 * interpreter.facts.normal(min0(distance)), True, True),  # |d|
    )
    for form, before, after in forms:
        limit = _limit(value, form)
        if limit is None:
            continue
        width = math.ceil(limit) - 1 if strict else math.floor(limit)
        if not 0 <= width <= LARGEST_WINDOW:
            return None
        return width if before else None, width if after else None
    return None


def _limit(value: Poly, form: Poly) -> Fraction | None:
    """K with ``value <= 0`` if and only if ``form <= k``: the value is a positive multiple of form - k."""
    monomial, coefficient = next(term for term in reversed(form.terms) if term[0])
    scale = Fraction(dict(value.terms).get(monomial, 0)) / Fraction(coefficient)
    if scale <= 0:
        return None
    margin = (form * scale - value).constant
    return None if margin is None else Fraction(margin) / scale
