"""Rows without a visible key: what the original computes there, and whether the fused node computes the same.

Softmax has an answer as long as one score of the row is finite.  It weighs the keys that are hidden least.  Where every
way of being hidden leaves a key the same score, the answer is the mean of all values, as the fused node has it.  Where
a key after the row scores -inf and a padded one finfo.min, the answer is the mean of the values up to the row, and the
fused node yields something else.  No valid token reads such a row, so this refuses no site.  A notice tells it
(``Notice.EMPTY_ROWS``).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ...algebra import INFINITY, LARGEST_FLOAT32, Ind, Monomial, Number, Poly, Read, Sum, magnitude
from ...fused.family import EmptyRows
from ...patterns.masks import HIDING_VALUE
from ..records.reading import Attention, Guard
from ..records.rows import ADDED, ADDED_OR_ZEROS, MEAN, NAN, NOWHERE, ZEROS, RowsWithoutKeys

ABSORBING = Fraction(1 << 80)
"""From here on neither float32 nor float64 has a digit left for dot products and slopes (see ``visibility.hides``)."""


def rows_without_keys(attention: Attention, rest: Poly) -> RowsWithoutKeys:
    """What a site computes where no key is visible.

    Args:
        attention: The site.
        rest: What is added to visible scores besides the bias.
    """
    guard = attention.guard
    if guard is Guard.ZEROS:
        return ZEROS
    found = _of_softmax(attention.hidden, rest, half=attention.half)
    if found is NOWHERE:
        return found
    if attention.replaced_at is not None and found is not MEAN:
        shown = _shown(attention.replaced_at)
        return RowsWithoutKeys(
            f"a mean with the keys that score {shown} in place of their scores, if all others are as low"
        )
    if found is NAN and guard is not Guard.NONE:
        return RowsWithoutKeys("NaN, or zeros") if guard is Guard.PART else ZEROS
    # What a tensor adds hides a key from the fused node as well if it is the lowest number.
    lowest = all(score.constant_term <= -LARGEST_FLOAT32 for score in attention.hidden)
    if guard is Guard.LOWEST and lowest:
        return ADDED_OR_ZEROS if found is ADDED else ZEROS
    if guard is Guard.DISPUTED and lowest and found is MEAN:
        return RowsWithoutKeys(f"{MEAN.text} by the standard, zeros in onnxruntime 1.32")
    if guard in (Guard.NAN, Guard.DISPUTED) and found is ADDED and any(_is_given(m, c) for m, c in rest.terms):
        return RowsWithoutKeys(f"{MEAN.text}, or zeros if a mask is minus infinity")
    if attention.own_causality and found is not ADDED:
        return RowsWithoutKeys(f"a mean of the values up to the row, where their keys are hidden least{_at(attention)}")
    if guard is Guard.PART:
        return RowsWithoutKeys("a part of a mean of the values")
    if guard is Guard.NAN and not found.agrees(EmptyRows.MEAN):
        return RowsWithoutKeys(f"zeros or {found.text}")
    return found


def _of_softmax(hidden: Sequence[Poly], rest: Poly, *, half: bool) -> RowsWithoutKeys:
    added = [(m, c) for m, c in rest.terms if any(isinstance(a, Read | Sum) for a, _ in m)]
    heavy = [c for _, c in added if magnitude(c) >= LARGEST_FLOAT32]
    if not hidden:
        # What is added is added here as well, read at run time or under a condition; two lowest numbers are as low as
        # one of them here.
        if len(heavy) > 1:
            return _uncertain([])
        return MEAN if heavy else ADDED if rest.terms else NOWHERE
    levels: list[Number | None] = [_level(score, half=half) for score in hidden]
    about = {score.constant_term for score in hidden}
    if any(_may_hide(monomial, coefficient) for monomial, coefficient in added):
        levels.append(None)  # a key that is hidden by both is lower than one that is hidden by one of them
    elif None in levels and len(about) == 1 and not any(map(_heavy, hidden)):
        return RowsWithoutKeys(
            f"nearly the mean of all values (hidden keys score {_shown(about.pop())}, which leaves other scores digits)"
        )
    if None in levels or len(set(levels)) > 1:
        return _uncertain(levels)
    return NAN if levels[0] == -INFINITY else MEAN


def _uncertain(levels: Sequence[Number | None]) -> RowsWithoutKeys:
    known = sorted({level for level in levels if level is not None})
    shown = [_shown(level) for level in known] + (["some other number"] if None in levels and known else [])
    scores = f" (hidden keys score {' or '.join(shown)})" if shown else ""
    return RowsWithoutKeys(f"a mean of the values whose keys are hidden least{scores}")


def _at(attention: Attention) -> str:
    levels = {level for score in attention.hidden if (level := _level(score, half=attention.half)) is not None}
    return f" (at {' or '.join(map(_shown, sorted(levels)))})" if levels else ""


def _shown(level: Number) -> str:
    return "-inf" if level == -INFINITY else f"{float(level):.6g}"


def _level(score: Poly, *, half: bool) -> Number | None:
    """The one number that a hidden key scores, as floats have it; None where it is not one."""
    constant = score.constant_term
    if constant <= -INFINITY / 2 and _stays_infinite(score):
        return -INFINITY
    if _heavy(score):
        return None  # another condition takes it lower still
    if constant < -LARGEST_FLOAT32:
        return None  # two lowest numbers are -inf in float32, unless something clips their sum
    if len(score.terms) > 1 and (half or -constant < ABSORBING):
        return None  # scores keep some of their digits
    return constant


def _heavy(score: Poly) -> bool:
    """Whether something that varies is as large as what hides."""
    return any(monomial and magnitude(coefficient) >= -HIDING_VALUE for monomial, coefficient in score.terms)


def _stays_infinite(score: Poly) -> bool:
    """Whether a score is minus infinity, whatever other conditions add to it."""
    highest = Fraction(score.constant_term)
    for monomial, coefficient in score.terms:
        if monomial and magnitude(coefficient) >= -HIDING_VALUE:
            if not all(isinstance(a, Ind) for a, _ in monomial):
                return False
            highest += max(Fraction(0), Fraction(coefficient))
    return highest <= -INFINITY / 2


def _is_given(monomial: Monomial, coefficient: Number) -> bool:
    """Whether a term is a mask that may be minus infinity at run time: a float that is added as it is."""
    return magnitude(coefficient) < -HIDING_VALUE and not all(a.is_integer for a, _ in monomial)


def _may_hide(monomial: Monomial, coefficient: Number) -> bool:
    """Whether what a tensor adds at run time may be so low that it hides keys: a float may be anything."""
    return magnitude(coefficient) >= -HIDING_VALUE or not all(a.is_integer for a, _ in monomial)
