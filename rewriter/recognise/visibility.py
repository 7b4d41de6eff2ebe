"""Hidden keys.  A score is taken apart into the conditions under which a key is visible, and its value there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from onnx import TensorProto

from ...algebra import (
    INFINITY,
    ZERO,
    Atom,
    Cond,
    Ind,
    Index,
    Min0,
    Monomial,
    Number,
    Poly,
    Read,
    Size,
    Sum,
    at_most_zero,
    conjunction,
    conjuncts,
    ind,
    is_nonpositive,
    magnitude,
    min0,
    negation,
    of,
    split,
    substitute,
    under,
)
from ...graph.index import operator
from ...patterns.layouts import TO_THE_PRODUCT
from ...patterns.masks import HIDDEN_BELOW, HIDING_WIDE
from ..interpret import Interpreter
from ..interpret.tables.element import Table
from .products import is_contraction

LONGEST = 1 << 20
"""Tokens at which hidden keys still have to be hidden, whatever the slopes have made of the visible ones."""

LONGEST_HALF = 1 << 12
"""The same for float16, whose integers end at 2048 anyway."""

PRODUCT = 1 << 16
"""What a scaled product of query and key is taken to stay below."""

PRODUCT_HALF = 1 << 14
"""The same for float16, which ends at 65504."""

UNDERFLOW = 128
"""Scores this far below another one have a weight of exactly zero.  exp(-104) is the smallest float32 above zero."""

MOST_ABOVE = 200
"""Tensors between scores and products that are looked at."""

MOST_SHIFT = 1 << 12
"""A number added to every key that is larger than this takes digits of the scores with it."""

MOST_SHIFT_HALF = 1 << 10
"""The same for float16."""


@dataclass(frozen=True)
class Masked:
    """A score taken apart: it equals ``value`` where all of ``visible`` hold and is hidden elsewhere.

    Attributes:
        visible: Conditions under which a key is visible.
        value: The score there.
        hidden_at: What hidden keys score at most; minus infinity where nothing is hidden.
        hidden: What a key scores that a condition hides, one for each, with what other conditions do to it.
        replaced_at: The highest number that stands in place of a hidden key's score and is not hidden from every score
            (see ``replaced.py``); None if no number does.
    """

    visible: tuple[Cond, ...]
    value: Poly
    hidden_at: Number = -INFINITY
    hidden: tuple[Poly, ...] = ()
    replaced_at: Number | None = None


def is_half(interpreter: Interpreter, scores: str) -> bool:
    """Whether scores are float16, or a float16 product cast to a wider type: -65504 is the lowest number there."""
    pending, seen = [scores], {scores}
    while pending and len(seen) < MOST_ABOVE:
        name = pending.pop()
        node = interpreter.scope.producer(name)
        if (name == scores or is_contraction(node)) and interpreter.dtype(name) == TensorProto.FLOAT16:
            return True
        if node is not None and operator(node) in TO_THE_PRODUCT:
            new = [i for i in node.input if i and i not in seen]
            pending.extend(new)
            seen.update(new)
    return False


def hides(value: Poly, *, half: bool = False) -> bool:
    """Whether a score is so low, whatever its indicators are, that its key has no weight next to a visible one.

    Hidden is relative.  The weight of a key is exactly zero if its score is far below that of a visible key.  Terms of
    the bias reach as far as their slopes take them within ``LONGEST`` tokens, on both sides.  Products of query and
    key are taken to stay below ``PRODUCT``.  A term with a huge factor and an unknown rest has no known reach, and
    then nothing is claimed.
    """
    ceiling = Fraction(value.constant_term)
    reach = Fraction(UNDERFLOW)
    for monomial, coefficient in value.terms:
        if not monomial:
            continue
        if all(isinstance(a, Ind) for a, _ in monomial):
            ceiling += max(Fraction(0), Fraction(coefficient))
            continue
        own = _reach(monomial, coefficient, half)
        if own is None:
            return False
        reach += own
    if half:
        return ceiling <= Fraction(HIDDEN_BELOW) and ceiling <= -reach
    return ceiling <= Fraction(HIDING_WIDE) and ceiling <= -2 * reach  # halfway there is no score at all


def _reach(monomial: Monomial, coefficient: Number, half: bool) -> Fraction | None:
    """How far from zero a term is taken to come; None for a huge factor of something unknown."""
    result = magnitude(coefficient)
    positions = False
    for atom, power in monomial:
        if isinstance(atom, Read | Sum) and atom.is_integer:
            positions = True  # a position, times masks
            continue
        size = _size(atom, half)
        if size is None:
            if magnitude(coefficient) >= -HIDDEN_BELOW:
                return None
            indices = {a for a in of(atom).all_atoms() if isinstance(a, Index)}
            if len(indices) > 1:
                return Fraction(PRODUCT_HALF if half else PRODUCT)
            size = Fraction(1)  # a slope
        result *= size**power
    return result * (_longest(half) if positions else 1)


def _longest(half: bool) -> Fraction:
    return Fraction(LONGEST_HALF if half else LONGEST)


def _size(atom: Atom, half: bool) -> Fraction | None:
    """The largest absolute value that an atom is taken to have; None where nothing tells."""
    if isinstance(atom, Ind):
        return Fraction(1)
    if isinstance(atom, Index):
        bound = atom.bound.constant
        return _longest(half) if bound is None else Fraction(bound)
    if isinstance(atom, Size):
        return _longest(half)
    if isinstance(atom, Min0):
        inside = _most(atom.value, half)
        return _longest(half) if inside is None else min(inside, _longest(half))
    if isinstance(atom, Table):
        largest = float(np.abs(atom.data).max(initial=0.0))
        return Fraction(largest) if math.isfinite(largest) else None
    return None


def _most(value: Poly, half: bool) -> Fraction | None:
    """The largest absolute value that a sum is taken to have; None where nothing tells."""
    most = Fraction(0)
    for monomial, coefficient in value.terms:
        term = magnitude(coefficient)
        for atom, power in monomial:
            size = _size(atom, half)
            if size is None:
                return None
            term *= size**power
        most += term
    return most


def shift(value: Poly) -> Fraction:
    """What a number that is added to the scores comes to at the keys that it hides least."""
    value = value - _runtime_masks(value, 100)  # (1 - m) * -10000 is 0 where m is 1
    highest = Fraction(value.constant_term)
    for monomial, coefficient in value.terms:
        if monomial and all(isinstance(a, Ind) for a, _ in monomial):
            highest += max(Fraction(0), Fraction(coefficient))
    return highest


def unmask(score: Poly, *, half: bool = False) -> Masked:
    """A score taken apart into the conditions under which its key is visible, and its value there."""
    conditions: list[Cond] = []
    hidden_at: Number = -INFINITY
    levels: list[Poly] = []
    score = merge_indicators(score)
    runtime = _runtime_masks(score)
    value = score - runtime
    for _ in range(64):
        for atom in value.sorted_atoms():
            if not isinstance(atom, Ind):
                continue
            absent, present = split(value, atom)
            # Where both sides are hidden, the condition does not tell keys apart.
            low, high = hides(absent, half=half), hides(present, half=half)
            if low and not high:
                conditions.append(atom.condition)
                value, hidden = present, absent
            elif high and not low:
                conditions.append(negation(atom.condition))
                value, hidden = absent, present
            else:
                continue
            hidden_at = max(hidden_at, hidden.constant_term)
            levels.append(hidden + runtime)
            break
        else:
            break
    whole = conjunction(conditions)
    return Masked(conjuncts(whole), under(value, whole) + runtime, hidden_at, tuple(levels))


def merge_indicators(value: Poly) -> Poly:
    """Products of indicators of comparisons, where one comparison implies or excludes the other."""
    result = ZERO
    for monomial, coefficient in value.terms:
        comparisons = [a for a, _ in monomial if isinstance(a, Ind) and at_most_zero(a.condition) is not None]
        if len(comparisons) > 1:
            whole = conjunction(a.condition for a in comparisons)
            if len(conjuncts(whole)) < len(comparisons):
                rest = tuple((a, p) for a, p in monomial if a not in comparisons)
                product = Poly({rest: coefficient})
                for part in conjuncts(whole):
                    product = product * ind(part)
                result = result + (ZERO if whole.kind == "false" else product)
                continue
        result = result + Poly({monomial: coefficient})
    return result


def _runtime_masks(score: Poly, least: float = -HIDDEN_BELOW) -> Poly:
    """Masks such as (1 - m) * finfo.min of a run-time m are huge factors of values that are not known here.

    They are set aside at the value at which they hide nothing (m = 1 for a positive factor, 0 for a
    negative one), so that what other terms hide can be seen.  No such term is taken to bring back a key
    that another term hides.
    """
    result = ZERO
    for monomial, coefficient in score.terms:
        # A bias over the same values (positions counted from the mask) may have been added to the factor.
        if magnitude(coefficient) < least or not monomial or any(isinstance(a, Ind) for a, _ in monomial):
            continue
        if not any(isinstance(a, Read | Sum) for a, _ in monomial):
            continue
        result = result + Poly({monomial: coefficient}) - (coefficient if coefficient > 0 else 0)
    return result


def ramps(value: Poly) -> Poly:
    """[p <= 0] * p is min(0, p): a distance chosen by a comparison is a piecewise distance."""
    for atom in value.sorted_atoms():
        bound = at_most_zero(atom.condition) if isinstance(atom, Ind) else None
        if bound is None:
            continue
        factor = value.coefficient_of(atom)
        lead = bound.terms[-1][0]
        scale = bound.coefficient_of(lead[0][0]).constant if len(lead) == 1 else None
        if not scale:
            continue
        quotient = factor.coefficient_of(lead[0][0])
        # For an integer q, [q + 1 <= 0] * q is min(0, q) as well: where they differ, q is zero.
        for ramp in (bound, bound - 1) if bound.is_integer else (bound,):
            if quotient.terms and factor == quotient * (ramp / scale):
                value = value - factor * of(atom) + quotient * (min0(ramp) / scale)
                break
    return value


def apply_order(value: Poly, distance: Poly) -> Poly:
    """``value`` with piecewise terms resolved where ``distance <= 0`` is known.

    Under a causal mask only keys at or before the row are visible, so |j - row| is row - j there.
    """
    leading = distance.sorted_atoms()
    for atom in value.sorted_atoms():
        if not isinstance(atom, Min0):
            continue
        for name in leading:
            steps = atom.value.coefficient_of(name).constant
            unit = distance.coefficient_of(name).constant
            if not steps or not unit:
                continue
            ratio = Fraction(steps) / unit
            rest = atom.value - distance * ratio
            if ratio > 0 and is_nonpositive(rest):
                value = substitute(value, {atom: atom.value})
            elif ratio < 0 and is_nonpositive(-rest):
                value = substitute(value, {atom: ZERO})
            break
    return value
