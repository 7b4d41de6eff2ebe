"""Hidden keys: taking a score apart into the conditions under which a key is visible, and its value there."""

from __future__ import annotations

from fractions import Fraction

from .algebra import (
    HIDDEN_BELOW,
    ZERO,
    Cond,
    Ind,
    Min0,
    Poly,
    at_most_zero,
    conjunction,
    conjuncts,
    implies,
    ind,
    is_nonpositive,
    magnitude,
    min0,
    negation,
    of,
    split,
    substitute,
)


def hides(value: Poly) -> bool:
    """Whether a score is at or below the hiding value whatever its indicators are.

    Terms without a known bound (products of query and key, distances) are small against it; a term with
    a huge factor and an unknown rest is not, and then nothing is claimed.
    """
    ceiling = Fraction(value.constant_term)
    for monomial, coefficient in value.terms:
        if not monomial:
            continue
        if all(isinstance(a, Ind) for a, _ in monomial):
            ceiling += max(Fraction(0), Fraction(coefficient))
        elif magnitude(coefficient) >= -HIDDEN_BELOW:
            return False
    # A small constant of the bias may have been added to the hiding value.
    return ceiling <= Fraction(HIDDEN_BELOW)


def unmask(score: Poly) -> tuple[tuple[Cond, ...], Poly]:
    """(conditions, value): the score equals ``value`` where all conditions hold and is hidden elsewhere."""
    conditions: list[Cond] = []
    score = _merge_indicators(score)
    runtime = _runtime_masks(score)
    value = score - runtime
    for _ in range(64):
        for atom in value.sorted_atoms():
            if not isinstance(atom, Ind):
                continue
            absent, present = split(value, atom)
            if hides(absent):
                conditions.append(atom.condition)
                value = present
                break
            if hides(present):
                conditions.append(negation(atom.condition))
                value = absent
                break
        else:
            break
    whole = conjunction(conditions)
    return conjuncts(whole), under(value, whole) + runtime


def _merge_indicators(value: Poly) -> Poly:
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


def _runtime_masks(score: Poly) -> Poly:
    """Masks such as (1 - m) * finfo.min of a run-time m: huge factors of values that are not known here.

    They are set aside at the value at which they hide nothing (m = 1 for a positive factor, 0 for a
    negative one), so that what other terms hide can be seen.  No such term is taken to bring back a key
    that another term hides.
    """
    result = ZERO
    for monomial, coefficient in score.terms:
        # A bias over the same values (positions counted from the mask) may have been added to the factor.
        if magnitude(coefficient) < -HIDDEN_BELOW or not monomial or any(isinstance(a, Ind) for a, _ in monomial):
            continue
        result = result + Poly({monomial: coefficient}) - (coefficient if coefficient > 0 else 0)
    return result


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
