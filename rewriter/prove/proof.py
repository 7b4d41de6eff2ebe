"""The proof that slope times distance, a mask and nothing else is added to the scores.

Input is an ``Attention`` whose terms are polynomials in the indices b, h, i, j.  Every monomial has to
end up in one of four places: constant along a row (dropped, softmax does not see it), slope times
distance, slope times a position from the attention mask, or the additive rest that is passed on as it is.
What fits nowhere refuses the site.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ...algebra import (
    LARGEST_FLOAT32,
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
    Sum,
    at_most_zero,
    magnitude,
    of,
    poly,
    render,
)
from ...graph.index import operator
from ...patterns.forms import LINEAR, Form
from ...patterns.layouts import Axis
from ...patterns.masks import HIDING_VALUE
from ...patterns.positions import COUNT_ATOMS, COUNT_OPERATORS
from ..interpret import Interpreter
from ..interpret.tables.element import Table, misfit
from ..recognise.visibility import MOST_SHIFT, MOST_SHIFT_HALF, apply_order, hides, ramps, shift
from ..records.proof import Positions, Proof, Slopes
from ..records.reading import Attention
from ..verdicts import Code, Refusal, Refuser, Stage
from .assumptions import check_room, mask_values, not_counted_from_front
from .forms import LAST_PLACE, Fitted, Frames, Sloped, fit, is_float32, vector
from .narrow import check_types, rounding_step
from .replaced import check_replaced
from .rounded import take_rounded, unrounded
from .shared import shared_sizes
from .windows import take_windows

_refuse = Refuser(Stage.BIAS)


LARGEST_DENOMINATOR = 1 << 12
"""Positions are sums of few counts with small factors, so the ratio of two slopes on them is a small fraction."""

LARGEST_SLOPE = 1e30
"""Times a million positions, a slope beyond this is no number that float32 holds."""


@dataclass
class _Parts:
    """Monomials of the terms, sorted by what they are; coefficients are functions of the head."""

    linear: Poly = ZERO
    kinks: dict[Poly, Poly] = field(default_factory=dict)
    counted: dict[Monomial, Poly] = field(default_factory=dict)
    rest: dict[Monomial, Number] = field(default_factory=dict)
    dropped: list[Poly] = field(default_factory=list)


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
        steps.append(f"not rounded, as asked for, although the model rounds it: {_short(replaced)}")
    terms = terms - replaced
    rounded, exact = (ZERO, ZERO) if replaced.terms else take_rounded(frame, terms)
    parts = _sort(interpreter, attention, terms - rounded + exact)
    fitted = _form(interpreter, attention, parts, Frames(distance, causal, known))
    slope = fitted.slope
    positions: Positions | None = None
    if _are_positions(interpreter, attention, parts):
        slope, positions = _positions(attention, parts, slope, fitted.form)
        fitted = Fitted(LINEAR, slope)
    else:
        for place, factor in parts.counted.items():
            _add_rest(parts, Poly({place: 1}) * factor)
    if not slope.terms:
        raise _nothing_found(interpreter, attention, parts)
    values, runtime = slopes_of(attention, slope)
    steps += _derived(parts, fitted, positions)
    steps.append(f"slopes at run time: {_short(slope)}" if values is None else f"slopes per head: {_listed(values)}")
    steps += [f"a key is visible only if {condition.text[:200]}" for condition in hidden]
    rest = Poly(parts.rest)
    if rounded.terms:
        rest = _beside(interpreter, attention, terms - rounded) + rounded
        steps.append(f"the bias is rounded, and kept as it is for every head and key: {_short(rounded)}")
    steps += [f"added to visible scores as it is: {_short(rest)}"] if rest.terms else []
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


def _derived(parts: _Parts, fitted: Fitted, positions: Positions | None) -> list[str]:
    steps = []
    if parts.dropped:
        steps.append("constant along a row, so softmax does not see it: " + _short(sum(parts.dropped, ZERO)))
    what = "slope[h] * position[b, j]" if positions else fitted.form.text("slope[h]", fitted.parameters)
    steps.append(f"bias = {what}")
    if positions:
        steps.append(f"position[b, j] = {_short(positions.value)}")
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
    parts = _sort(interpreter, attention, terms)
    for place, factor in parts.counted.items():
        _add_rest(parts, Poly({place: 1}) * factor)
    sloped = [parts.linear, *parts.kinks.values(), *(f for f in parts.counted.values() if f.constant is None)]
    if any(value.terms for value in sloped):
        raise _refuse(
            Code.NARROW_TYPE,
            attention,
            f"a part of the bias is rounded, and a part is not: {_short(sum(sloped, ZERO))}",
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


def _check_dropped(attention: Attention, value: Poly) -> None:
    """The same for what the keys of one row or head get: a number times the row, say."""
    ((monomial, coefficient),) = value.terms
    limit = MOST_SHIFT_HALF if attention.half else MOST_SHIFT
    # The constant itself is part of a mask, (1 - m) * finfo.min; with an indicator it hides a whole row.
    if monomial and magnitude(coefficient) > limit and not any(isinstance(a, Ind) for a in value.all_atoms()):
        raise _refuse(
            Code.FINITE_MASK,
            attention,
            f"every key of a row gets {_short(value)}, which takes the digits of all scores",
            stage=Stage.MASK,
            term=value,
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
                steps.append(f"causal: a key is visible only if {_short(distance)} <= 0")
                continue
            if interpreter.facts.is_nonpositive(value):
                continue  # a bound that the extents imply anyway, such as j < S_kv, hides nothing
        rest.append(condition)
    return causal, tuple(rest)


# --- sorting monomials -----------------------------------------------------------------------------------


def _sort(interpreter: Interpreter, attention: Attention, terms: Poly) -> _Parts:
    frame = attention.frame
    parts = _Parts()
    for monomial, coefficient in terms.terms:
        whole = Poly({monomial: coefficient})
        atoms = whole.all_atoms()
        if frame.key in atoms:
            check_types(interpreter, attention, whole)
        runtime = any(isinstance(a, Read) for a in atoms) or any(isinstance(a, Sum) for a in atoms)
        if frame.key not in atoms:
            if (
                runtime
                and not whole_is_finite(whole)
                and not all(_belongs_to_head(frame.head, a) for a, _ in monomial if a != frame.row)
            ):
                parts.rest[monomial] = coefficient
            else:
                if not runtime:
                    _check_dropped(attention, whole)
                parts.dropped.append(whole)
            continue
        place = tuple((a, p) for a, p in monomial if not _belongs_to_head(frame.head, a))
        factor = Poly({tuple((a, p) for a, p in monomial if _belongs_to_head(frame.head, a)): coefficient})
        if _is_runtime(place):
            _sort_runtime(attention, parts, monomial, coefficient, place, factor)
            continue
        if place == ((frame.key, 1),):
            parts.linear = parts.linear + factor
        elif factor.constant is not None and all(_is_mask(a) for a, _ in place):
            parts.rest[monomial] = coefficient
        elif len(place) == 1 and place[0][1] == 1 and isinstance(place[0][0], Min0):
            kink = place[0][0].value
            parts.kinks[kink] = parts.kinks.get(kink, ZERO) + factor
        else:
            raise _not_linear(attention, monomial, coefficient)
    return parts


def whole_is_finite(value: Poly) -> bool:
    """Whether run-time values in it are integers.  Integers are never inf or NaN, so a row of them is constant."""
    return all(a.is_integer or not isinstance(a, Read | Sum) for a in value.all_atoms())


def _belongs_to_head(head: Index | None, atom: Atom) -> bool:
    """Whether an atom is a function of the head alone: a slope table, a run-time slope, a size."""
    inside = of(atom).all_atoms()
    return not any(isinstance(a, Index) and a != head for a in inside)


def _is_mask(atom: Atom) -> bool:
    """Whether an atom has two values: a condition, or a table of zeros and one finite number, which hides no key."""
    return isinstance(atom, Ind) or (isinstance(atom, Table) and np.unique(atom.data).size <= 2)


def _is_runtime(place: Monomial) -> bool:
    return any(isinstance(a, Read | Sum) for atom, _ in place for a in of(atom).all_atoms())


def _sort_runtime(
    attention: Attention,
    parts: _Parts,
    monomial: Monomial,
    coefficient: Number,
    place: Monomial,
    factor: Poly,
) -> None:
    """A term with run-time values in it: positions from the mask, a mask, or something that refuses the site."""
    frame = attention.frame
    if any(a == frame.key or isinstance(a, Min0) for a, _ in place):
        raise _refuse(
            Code.SLOPE_NOT_PER_HEAD,
            attention,
            f"{_short(Poly({monomial: coefficient}))}",
            term=Poly({monomial: coefficient}),
        )
    atoms = frozenset(x for atom, _ in place for x in of(atom).all_atoms())
    allowed = {frame.batch, frame.key}
    named = {a for a in atoms if isinstance(a, Index) and a.role is not Axis.SUMMED}
    whole_numbers = all(a.is_integer for a, _ in place)
    if whole_numbers and named <= allowed:
        parts.counted[place] = parts.counted.get(place, ZERO) + factor
        return
    if frame.head is not None and factor.depends_on(frame.head) and named <= allowed:
        raise _refuse(
            Code.POSITIONS_DATA,
            attention,
            f"{_short(Poly({monomial: coefficient}))}",
            stage=Stage.POSITIONS,
            term=Poly({monomial: coefficient}),
        )
    parts.rest[monomial] = coefficient


def _not_linear(attention: Attention, monomial: Monomial, coefficient: Number) -> Refusal:
    for atom, _ in monomial:
        for inner in sorted(of(atom).all_atoms()):
            if isinstance(inner, Table) and of(inner).depends_on(attention.frame.key):
                return _refuse(
                    Code.TABLE_NOT_LINEAR,
                    attention,
                    f"{list(inner.data.shape)}: {misfit(inner.data) or 'no formula fits'}",
                    tensor=inner.name,
                    term=Poly({monomial: coefficient}),
                )
    return _refuse(
        Code.NOT_LINEAR, attention, _short(Poly({monomial: coefficient})), term=Poly({monomial: coefficient})
    )


# --- form, positions, slopes -----------------------------------------------------------------------------


def _form(interpreter: Interpreter, attention: Attention, parts: _Parts, frames: Frames) -> Fitted:
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
                f"the distance is zero where {_short(argument)} = 0, the query's own key is at {_short(distance)} = 0",
            )
    raise _refuse(
        Code.NOT_LINEAR, attention, f"the slope before the row is {_short(linear + kink)}, after it {_short(linear)}"
    )


def _positions(attention: Attention, parts: _Parts, slope: Poly, form: Form) -> tuple[Poly, Positions]:
    """Slope and positions where positions are computed from integers known at run time.

    All factors must be multiples of one slope.  slope * cumsum(m) * m - slope * m is slope * (cumsum(m) - 1) * m.
    """
    frame = attention.frame
    if form is not LINEAR and slope.terms:
        raise _refuse(Code.NOT_LINEAR, attention, "mixed forms", stage=Stage.POSITIONS)
    places: list[tuple[Poly, Poly]] = [(Poly({m: 1}), f) for m, f in parts.counted.items() if f.terms]
    if slope.terms:
        places.append((of(frame.key), slope))
    # The factor of the highest-degree place is the slope of the position.
    reference = max(places, key=lambda p: (max(len(m) for m, _ in p[0].terms), render(p[0])))[1]
    base = vector(attention, reference)
    value = ZERO
    for place, whole in places:
        factor, constant = _without_mask(attention, whole, reference)
        _add_rest(parts, place * constant)
        ratio = _ratio(attention, factor, reference, base) if factor.terms else Fraction(0)
        if ratio is None:
            raise _refuse(
                Code.NOT_LINEAR, attention, f"{_short(place)} has its own slope {_short(factor)}", stage=Stage.POSITIONS
            )
        value = value + place * ratio
    return reference, Positions(value, reference)


def _are_positions(interpreter: Interpreter, attention: Attention, parts: _Parts) -> bool:
    """Whether integers known at run time are positions.  Each head has its own slope on positions, or they are counts.

    A mask alone is not a position.  It stays a term of its own.
    """
    head = attention.frame.head
    if any(head is not None and f.depends_on(head) for f in parts.counted.values()):
        return True
    return any(f.terms and _is_count(interpreter, a) for place, f in parts.counted.items() for a, _ in place)


def _is_count(interpreter: Interpreter, atom: Atom) -> bool:
    """Whether an atom is a running sum: a sum of a mask, or a read of what a CumSum makes."""
    if isinstance(atom, COUNT_ATOMS):
        return True
    node = interpreter.scope.producer(atom.tensor) if isinstance(atom, Read) else None
    return node is not None and operator(node) in COUNT_OPERATORS


def _without_mask(attention: Attention, factor: Poly, reference: Poly) -> tuple[Poly, Poly]:
    """A factor as (multiple of the slope, the same number for every head): a mask may be added to a position.

    (1 - m) * finfo.min and slope * (cumsum(m) - 1) * m have the monomial m in common.
    """
    head = attention.frame.head
    shared = [(m, c) for m, c in reference.terms if head is not None and any(of(a).depends_on(head) for a, _ in m)]
    own = dict(factor.terms)
    if shared:
        monomial, coefficient = shared[-1]
        ratios = [Fraction(own.get(monomial, 0)) / Fraction(coefficient)]
    else:  # every head has the same slope
        ratios = [Fraction(r) for r in (-1, 1, 0)]
    rests = [(factor - reference * r, r) for r in ratios]
    constants = [(Fraction(rest.constant), r) for rest, r in rests if rest.constant is not None]
    found = [(c, r) for c, r in constants if c == 0 or abs(c) >= -HIDING_VALUE]
    if not found:
        return factor, ZERO
    constant, ratio = min(found, key=lambda e: (not _is_float32(e[0]), abs(e[0])))
    return reference * ratio, poly(constant)


def _is_float32(value: Fraction) -> bool:
    """Whether float32 holds the number.  It holds that of a mask, and not the sum of that and a slope."""
    return abs(value) > LARGEST_FLOAT32 or is_float32(value)


def _add_rest(parts: _Parts, value: Poly) -> None:
    for monomial, coefficient in value.terms:
        total = parts.rest.get(monomial, 0) + coefficient
        if total:
            parts.rest[monomial] = total
        else:
            parts.rest.pop(monomial, None)


def _ratio(
    attention: Attention, factor: Poly, reference: Poly, base: npt.NDArray[np.float64] | None
) -> Fraction | None:
    for sign in (1, -1):
        if factor == reference * sign:
            return Fraction(sign)
    own = vector(attention, factor)
    if own is None or base is None or not base.any():
        return None
    largest = int(np.argmax(np.abs(base)))
    ratio = Fraction(own[largest] / base[largest]).limit_denominator(LARGEST_DENOMINATOR)
    return ratio if np.all(np.abs(own - float(ratio) * base) <= np.abs(own) * LAST_PLACE) else None


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
        raise _refuse(Code.SLOPES_UNKNOWN, attention, _short(slope))
    if not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0.0) > LARGEST_SLOPE:
        raise _refuse(Code.SLOPES_UNKNOWN, attention, f"slopes {[float(n) for n in numbers[:8]]} are not finite")
    if not numbers.any():
        raise _refuse(Code.NO_BIAS, attention, "all slopes are zero")
    return numbers.astype(np.float32), None


def _nothing_found(interpreter: Interpreter, attention: Attention, parts: _Parts) -> Refusal:
    not_assumed = not_counted_from_front(interpreter, Poly(parts.rest))
    if not_assumed is not None:
        return not_assumed
    detail = f"added is {_short(Poly(parts.rest))}" if parts.rest else "nothing is added"
    heavy = [c for m, c in parts.rest.items() if magnitude(c) < -HIDING_VALUE and m]
    stage = Stage.BIAS if heavy else Stage.SCORES
    return _refuse(Code.NO_BIAS, attention, detail, stage=stage)


def _short(value: Poly, limit: int = 200) -> str:
    text = render(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
