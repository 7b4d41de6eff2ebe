"""The proof that slope times distance, a mask and nothing else is added to the scores.

Input is an ``Attention`` whose terms are polynomials in the indices b, h, i, j.  Every monomial has to
end up in one of four places: constant along a row (dropped, softmax does not see it), slope times
distance, slope times a position from the attention mask, or the additive rest that is passed on as it is.
What fits nowhere refuses the site.
"""

from __future__ import annotations

import numpy as np

from ...algebra import (
    LARGEST_FLOAT32,
    ZERO,
    Cond,
    Index,
    Min0,
    Poly,
    Read,
    at_most_zero,
    magnitude,
    of,
)
from ...patterns.forms import LINEAR
from ...patterns.masks import HIDING_VALUE
from ..interpret import Interpreter
from ..recognise.visibility import MOST_SHIFT, MOST_SHIFT_HALF, apply_order, hides, ramps, shift
from ..records.proof import Positions, Proof, Slopes
from ..records.reading import Attention
from ..verdicts import Code, Refusal, Refuser, Stage
from .assumptions import check_room, mask_values, not_counted_from_front
from .forms import Fitted, Frames, Sloped, fit, vector
from .narrow import rounding_step
from .positions import are_positions, take_positions
from .replaced import check_replaced
from .rounded import take_rounded, unrounded
from .shared import shared_sizes
from .terms import Parts, add_rest, short, sort_terms
from .windows import take_windows

_refuse = Refuser(Stage.BIAS)


LARGEST_SLOPE = 1e30
"""Times a million positions, a slope beyond this exceeds float32."""


def prove(interpreter: Interpreter, attention: Attention, *, exact_bias: bool = False) -> Proof:
    """Prove that the terms of a site are ALiBi plus a mask.

    Args:
        interpreter: Answers what elements are.
        attention: The site.
        exact_bias: Take a bias that the model rounds to a narrow type for what it was before.

    Raises:
        Refusal: With the furthest stage reached, and the monomial, table or condition that does not fit.
    """
    frame = attention.frame
    _check_scale(attention)
    _check_shift(attention)
    steps = list(attention.steps)
    causal, hidden = _causality(interpreter, attention, steps)
    terms = interpreter.facts.normal(attention.terms)
    distance = interpreter.facts.normal(of(frame.key) - of(frame.row) - frame.offset)
    known = [distance] if causal else []
    window, hidden = take_windows(interpreter, hidden, distance, causal=causal)
    if window.bounded:
        steps.append(f"{window.text}: {' and '.join(c.text[:200] for c in window.conditions)}")
    known += [interpreter.facts.normal(b) for b in map(at_most_zero, hidden) if b is not None]
    for value in known:
        terms = apply_order(terms, value)
    outscored = check_replaced(interpreter, attention, terms)
    terms = ramps(terms)
    replaced = terms - unrounded(terms) if exact_bias else ZERO
    if replaced.terms:
        steps.append(f"not rounded, as asked for, although the model rounds it: {short(replaced)}")
    terms = terms - replaced
    rounded, exact = (ZERO, ZERO) if replaced.terms else take_rounded(frame, terms)
    parts = sort_terms(interpreter, attention, terms - rounded + exact)
    fitted = _form(interpreter, attention, parts, Frames(distance, causal, known))
    slope = fitted.slope
    positions: Positions | None = None
    if are_positions(interpreter, attention, parts):
        slope, positions = take_positions(attention, parts, slope, fitted.form)
        fitted = Fitted(LINEAR, slope)
    else:
        for place, factor in parts.counted.items():
            add_rest(parts, Poly({place: 1}) * factor)
    if not slope.terms:
        raise _nothing_found(interpreter, attention, parts)
    values, runtime = slopes_of(attention, slope)
    steps += _derived(parts, fitted, positions)
    steps.append(f"slopes at run time: {short(slope)}" if values is None else f"slopes per head: {_listed(values)}")
    steps += [f"a key is visible only if {condition.text[:200]}" for condition in hidden]
    rest = Poly(parts.rest)
    if rounded.terms:
        rest = _beside(interpreter, attention, terms - rounded) + rounded
        steps.append(f"the bias is rounded, and kept as it is for every head and key: {short(rounded)}")
    steps += [f"added to visible scores as it is: {short(rest)}"] if rest.terms else []
    steps += [*rounding_step(interpreter), f"scale on query . key: {float(attention.scale):.9g}"]
    assumptions = check_room(interpreter, attention) + mask_values(interpreter, attention, rest, bool(hidden) or causal)
    return Proof(
        attention,
        form=fitted.form,
        causal=causal,
        slopes=values,
        runtime_slopes=runtime,
        positions=positions,
        rest=rest,
        hidden=hidden,
        assumptions=assumptions + outscored + shared_sizes(interpreter, attention),
        steps=steps,
        window=window,
        rounded=rounded,
        unrounded=replaced,
        parameters=fitted.parameters,
    )


def _check_scale(attention: Attention) -> None:
    if magnitude(attention.scale) > LARGEST_FLOAT32:
        found = "the factor is no number that float32 holds"
        raise _refuse(Code.SCALE_UNKNOWN, attention, found, stage=Stage.SCORES)


def _derived(parts: Parts, fitted: Fitted, positions: Positions | None) -> list[str]:
    steps = []
    if parts.dropped:
        steps.append("constant along a row, so softmax does not see it: " + short(sum(parts.dropped, ZERO)))
    what = "slope[h] * position[b, j]" if positions else fitted.form.text("slope[h]", fitted.parameters)
    steps.append(f"bias = {what}")
    if positions:
        steps.append(f"position[b, j] = {short(positions.value)}")
    return steps


def _listed(slopes: Slopes) -> str:
    return ", ".join(f"{v:.6g}" for v in slopes[:8]) + (", ..." if len(slopes) > 8 else "")


def _beside(interpreter: Interpreter, attention: Attention, terms: Poly) -> Poly:
    """What is added beside a bias that is rounded.  Masks may be, but no term with slopes of its own.

    Raises:
        Refusal: Part of the bias is rounded and part is not.
    """
    head = attention.frame.head
    if head is not None and head.bound.constant is None:
        raise _refuse(Code.SLOPES_UNKNOWN, attention, "the number of heads is unknown")
    parts = sort_terms(interpreter, attention, terms)
    for place, factor in parts.counted.items():
        add_rest(parts, Poly({place: 1}) * factor)
    sloped = [parts.linear, *parts.kinks.values(), *(f for f in parts.counted.values() if f.constant is None)]
    if any(value.terms for value in sloped):
        raise _refuse(
            Code.NARROW_TYPE,
            attention,
            f"a part of the bias is rounded, and a part is not: {short(sum(sloped, ZERO))}",
        )
    return Poly(parts.rest)


def _check_shift(attention: Attention) -> None:
    """Softmax does not see a number that all keys get, but rounding does.  A huge number swallows all others."""
    most = MOST_SHIFT_HALF if attention.half else MOST_SHIFT
    minima = (a.value for a in attention.terms.atoms if isinstance(a, Min0))
    if any(magnitude(value.constant_term) > most for value in minima):
        return  # A bound on the bias is not a number that all keys get, and it will not be proven.
    added = shift(attention.terms)
    if magnitude(added) <= most and not hides(attention.terms, half=attention.half):
        return
    raise _refuse(
        Code.FINITE_MASK,
        attention,
        f"every key gets {float(added):.6g}, which hides none from the others but takes the digits of all scores",
        stage=Stage.MASK,
    )


# --- masks -----------------------------------------------------------------------------------------------


def _causality(interpreter: Interpreter, attention: Attention, steps: list[str]) -> tuple[bool, tuple[Cond, ...]]:
    """Whether ``j <= i + S_kv - S_q`` is one of the conditions; the others are returned."""
    frame = attention.frame
    distance = interpreter.facts.normal(of(frame.key) - of(frame.row) - frame.offset)
    causal = False
    rest = []
    for condition in attention.visible:
        value = at_most_zero(condition)
        if value is not None:
            value = interpreter.facts.normal(value)
            if value == distance:
                causal = True
                steps.append(f"causal: a key is visible only if {short(distance)} <= 0")
                continue
            if interpreter.facts.is_nonpositive(value):
                continue  # a bound that the extents imply anyway, such as j < S_kv, hides nothing
        rest.append(condition)
    return causal, tuple(rest)


# --- form and slopes -------------------------------------------------------------------------------------


def _form(interpreter: Interpreter, attention: Attention, parts: Parts, frames: Frames) -> Fitted:
    """The form of the index-only part and its slope; slope zero when there is none.

    Raises:
        Refusal: It is of no form.
    """
    found = fit(interpreter, attention, Sloped(parts.linear, parts.kinks), frames)
    if found is not None:
        return found
    facts, distance = interpreter.facts, frames.distance
    linear, kink = parts.linear, ZERO
    for argument, factor in parts.kinks.items():
        if facts.equal(argument, distance):
            kink = kink + factor
        elif facts.equal(argument, -distance):
            # min(0, -d) = min(0, d) - d
            kink = kink + factor
            linear = linear - factor
        elif factor.terms:
            shift = facts.normal(argument - distance)
            other = facts.normal(argument + distance)
            closest = shift if not any(isinstance(a, Index) for a in shift.all_atoms()) else other
            raise _refuse(
                Code.OFFSET if not any(isinstance(a, Index) for a in closest.all_atoms()) else Code.NOT_LINEAR,
                attention,
                f"the distance is zero where {short(argument)} = 0, the query's own key is at {short(distance)} = 0",
            )
    raise _refuse(
        Code.NOT_LINEAR, attention, f"the slope before the row is {short(linear + kink)}, after it {short(linear)}"
    )


def slopes_of(attention: Attention, slope: Poly) -> tuple[Slopes | None, Poly | None]:
    """(slopes as numbers, None), or (None, the slope of head h as a polynomial) where run time decides them.

    Raises:
        Refusal: The slopes are not numbers that a fused node takes.
    """
    atoms = slope.all_atoms()
    if any(isinstance(a, Read) for a in atoms):
        return None, slope
    numbers = vector(attention, slope)
    if numbers is None:
        raise _refuse(Code.SLOPES_UNKNOWN, attention, short(slope))
    if not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0.0) > LARGEST_SLOPE:
        raise _refuse(Code.SLOPES_UNKNOWN, attention, f"slopes {[float(n) for n in numbers[:8]]} are not finite")
    if not numbers.any():
        raise _refuse(Code.NO_BIAS, attention, "all slopes are zero")
    return numbers.astype(np.float32), None


def _nothing_found(interpreter: Interpreter, attention: Attention, parts: Parts) -> Refusal:
    not_assumed = not_counted_from_front(interpreter, Poly(parts.rest))
    if not_assumed is not None:
        return not_assumed
    detail = f"added is {short(Poly(parts.rest))}" if parts.rest else "nothing is added"
    heavy = [c for m, c in parts.rest.items() if magnitude(c) < -HIDING_VALUE and m]
    stage = Stage.BIAS if heavy else Stage.SCORES
    return _refuse(Code.NO_BIAS, attention, detail, stage=stage)
