"""Scores that a mask replaces by a moderate number, as GPT-2 does: ``Where(mask, score, -1e4)``.

An added -1e4 is passed on as it is.  A number that replaces the score is not a sum, so no mask can pass it on.  It need
not be passed on where it has no weight.  Softmax gives a key the weight exp(v - s) with the row's highest score s, and
that is exactly zero from s = v + 128 on.  The far keys of the row may score as low as they like.  So the key is hidden,
as long as every row that sees keys sees one that scores more than -9872.  At the distance 0 the bias takes nothing from
a score (``prove`` checks that), so this is a bound on the products alone.  It is four times tighter than what is taken
for granted of float16 (see ``visibility.PRODUCT_HALF``), so it is told among the assumptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from ...algebra import Ind, Number, Poly, Read, Sum, conjunction, conjuncts, negation, split, under
from .visibility import Masked, shift

HIGHEST = Fraction(-10_000)
"""Higher numbers hide nothing.  That all products of a model stay above -872, say, is not a safe guess."""

WHY_NOT = f"Hidden is a key beside which all scores are high: from {float(HIGHEST):g} down, and nothing but masks added"

ADDED = (
    "A bias is added to that and may raise it.  No mask can say so: it would be added to the score, and not replace it"
)

MOST_CONDITIONS = 8


def take_replaced(masked: Masked, is_score: Callable[[Poly], bool]) -> Masked:
    """Adds the conditions whose failing replaces a score by a number to those that hide a key.

    Args:
        masked: A score, taken apart as far as hiding numbers do.
        is_score: Whether a value has the product of query and key in it.
    """
    for _ in range(MOST_CONDITIONS):
        found = _step(masked, is_score)
        if found is None:
            break
        masked = found
    return masked


def _step(masked: Masked, is_score: Callable[[Poly], bool]) -> Masked | None:
    for atom in masked.value.sorted_atoms():
        if not isinstance(atom, Ind):
            continue
        absent, present = split(masked.value, atom)
        scores = is_score(absent), is_score(present)
        if scores[0] == scores[1]:
            continue
        seen, hidden = (present, absent) if scores[1] else (absent, present)
        level = _level(hidden, seen)
        if level is None:
            continue
        whole = conjunction([*masked.visible, atom.condition if scores[1] else negation(atom.condition)])
        known = [level] if masked.replaced_at is None else [level, masked.replaced_at]
        return replace(
            masked,
            visible=conjuncts(whole),
            value=under(seen, whole),
            hidden_at=max(masked.hidden_at, level),
            hidden=(*masked.hidden, hidden),
            replaced_at=max(known),
        )
    return None


def _level(hidden: Poly, seen: Poly) -> Number | None:
    """The highest number that stands in place of the score; None if it is too high, or moves with the position."""
    beside = dict(seen.terms)
    for monomial, coefficient in hidden.terms:
        if all(isinstance(a, Ind) for a, _ in monomial):
            continue
        # A mask that is added afterwards lowers both.  A bias would raise later keys.
        if not all(isinstance(a, Read | Sum | Ind) for a, _ in monomial) or beside.get(monomial) != coefficient:
            return None
    highest = shift(hidden)
    return highest if highest <= HIGHEST else None
