"""Which form of the bias the sloped terms are.  They have to be one slope per head times its distance.

Both sides are sums of a multiple of j and of multiples of min(0, p), up to what is constant along a row.  *All* of them
are compared.  Parameters of a form are guessed from where they can stand, and a guess counts only if the whole
comparison holds with that one number in every place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import numpy as np
import numpy.typing as npt

from ...algebra import LARGEST_FLOAT32, ZERO, Atom, Min0, Monomial, Number, Poly, magnitude, of, poly, substitute
from ...patterns.forms import FORMS, Form
from ..interpret import Interpreter
from ..interpret.sizes.facts import Facts
from ..recognise.visibility import apply_order
from ..records.reading import Attention

MOST_HEADS = 1 << 14
"""An axis of more entries than this is not one of heads, whatever the file declares."""

MOST_GUESSES = 64
"""Numbers that are tried for the parameters of a form; a model has some few piecewise terms."""

LAST_PLACE = 2.0**-22
"""Constants come from tables of 16 or 32 bits.  They agree to a unit in the last place, which is this much of them."""


@dataclass(frozen=True)
class Sloped:
    """What slopes multiply: ``linear * j`` and the sum of ``kinks[p] * min(0, p)``, with functions of the head."""

    linear: Poly
    kinks: Mapping[Poly, Poly]


@dataclass(frozen=True)
class Fitted:
    """The sloped terms are ``slope`` times the distance of ``form`` with these parameters."""

    form: Form
    slope: Poly
    parameters: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Frames:
    """What a distance is compared under.

    Attributes:
        distance: j - row(i).
        causal: Keys after the row are hidden.
        known: Values that are at most zero wherever a key is visible, in the order in which they were put in.
    """

    distance: Poly
    causal: bool
    known: Sequence[Poly]


def fit(interpreter: Interpreter, attention: Attention, found: Sloped, frames: Frames) -> Fitted | None:
    """The first form that the sloped terms are; None if they are of no form.

    A causal bias is only of a form with a causal member, since no other node could be written for it.
    """
    facts = interpreter.facts
    joined = join_kinks(facts, attention, found, (frames.distance,))
    for form in FORMS:
        if not any(member.causal == frames.causal for member in form.members):
            continue
        for parameters in _guesses(facts, form, joined, frames):
            wanted = _distance(facts, form, [poly(p) for p in parameters], frames)
            slope = _slope(facts, attention, joined, wanted, frames.distance)
            if slope is not None:
                return Fitted(form, slope, parameters)
    return None


def _distance(facts: Facts, form: Form, parameters: Sequence[Poly], frames: Frames) -> Poly:
    """The distance of a form in the indices of a site, resolved as its terms are."""
    value = facts.normal(form.distance(frames.distance, *parameters))
    for known in frames.known:
        value = apply_order(value, known)
    return value


def join_kinks(facts: Facts, attention: Attention, value: Sloped, known: Iterable[Poly]) -> Sloped:
    """The same with one kink for arguments that are equal, or opposite: min(0, -p) is min(0, p) - p.

    Args:
        facts: What is equal.
        attention: The site.
        value: What is joined.
        known: Arguments that others are brought to, where they can be.
    """
    key = attention.frame.key
    linear, kinks = value.linear, dict.fromkeys(known, ZERO)
    for argument, factor in value.kinks.items():
        same = next((known for known in kinks if facts.equal(argument, known)), None)
        turned = next((known for known in kinks if facts.equal(argument, -known)), None) if same is None else None
        rises = None if turned is None else turned.coefficient_of(key)
        if turned is not None and rises is not None and not (turned - rises * of(key)).depends_on(key):
            kinks[turned] = kinks[turned] + factor
            linear = linear - factor * rises
        else:
            place = argument if same is None else same
            kinks[place] = kinks.get(place, ZERO) + factor
    return Sloped(linear, {argument: factor for argument, factor in kinks.items() if factor.terms})


def _slope(facts: Facts, attention: Attention, found: Sloped, wanted: Poly, distance: Poly) -> Poly | None:
    """What the wanted distance is multiplied by, if the sloped terms are nothing but that product."""
    key = attention.frame.key
    linear, kinks = ZERO, dict[Poly, Poly]()
    for monomial, coefficient in wanted.terms:
        if not Poly({monomial: 1}).depends_on(key):
            continue  # constant along a row
        atom = _alone(monomial)
        if atom == key:
            linear = poly(coefficient)
        elif isinstance(atom, Min0):
            kinks[atom.value] = poly(coefficient)
        else:
            return None
    unit = join_kinks(facts, attention, Sloped(linear, kinks), (distance, *found.kinks))
    pairs = [(found.linear, unit.linear)]
    places = dict.fromkeys([*unit.kinks, *found.kinks])
    pairs += [(found.kinks.get(place, ZERO), unit.kinks.get(place, ZERO)) for place in places]
    lead = next(((value, one.constant) for value, one in pairs if one.constant), None)
    if lead is None:
        return None
    slope = lead[0] / (lead[1] or 1)
    return slope if all(same_per_head(attention, value, slope * one) for value, one in pairs) else None


def _alone(monomial: Monomial) -> Atom | None:
    return monomial[0][0] if len(monomial) == 1 and monomial[0][1] == 1 else None


# --- parameters ------------------------------------------------------------------------------------------


def _guesses(facts: Facts, form: Form, found: Sloped, frames: Frames) -> Iterator[tuple[Number, ...]]:
    """Numbers that the parameters could be, in a fixed order; the empty ones of a form without."""
    arguments = dict.fromkeys(found.kinks)
    for argument in found.kinks:
        arguments.update(dict.fromkeys(a.value for a in sorted(argument.all_atoms()) if isinstance(a, Min0)))
    guessed = _completed(facts, form, arguments, frames, {})
    yield from dict.fromkeys(islice(guessed, MOST_GUESSES))


def _completed(
    facts: Facts, form: Form, arguments: Mapping[Poly, None], frames: Frames, known: dict[Atom, Number]
) -> Iterator[tuple[Number, ...]]:
    """Guesses that begin with what is known.  One parameter may only show when another one is put in."""
    missing = [p for p in form.placeholders if p not in known]
    if not missing:
        yield tuple(known[p] for p in form.placeholders)
        return
    values = [poly(known[p]) if p in known else of(p) for p in form.placeholders]
    bends = sorted(a for a in _distance(facts, form, values, frames).all_atoms() if isinstance(a, Min0))
    for parameter in missing:
        for number in sorted({n for bend in bends for n in _solved(bend.value, parameter, arguments)}):
            yield from _completed(facts, form, arguments, frames, {**known, parameter: number})


def _solved(bend: Poly, parameter: Atom, arguments: Mapping[Poly, None]) -> Iterator[Number]:
    """Numbers for the parameter with which the argument of a piecewise term is a multiple of one of a model."""
    factor = bend.coefficient_of(parameter).constant
    if not factor:
        return
    rest = bend - of(parameter) * factor
    lead = next((term for term in reversed(rest.terms) if term[0]), None)
    if lead is None or rest.depends_on(parameter):
        return
    for argument in arguments:
        ratio = Fraction(dict(argument.terms).get(lead[0], 0)) / Fraction(lead[1])
        number = (argument / ratio - rest).constant if ratio else None
        # The attribute of the node is a float32.
        if number is not None and is_float32(Fraction(number) / factor):
            yield Fraction(number) / factor


def is_float32(value: Number) -> bool:
    """Whether float32 holds the number exactly."""
    return magnitude(value) <= LARGEST_FLOAT32 and Fraction(float(np.float32(float(value)))) == value


# --- functions of the head -------------------------------------------------------------------------------


def same_per_head(attention: Attention, left: Poly, right: Poly) -> bool:
    """Whether two functions of the head are the same, as far as their tables say."""
    if left == right:
        return True
    a, b = vector(attention, left), vector(attention, right)
    if a is None or b is None:
        return False
    return bool(np.all(np.abs(a - b) <= np.maximum(np.abs(a), np.abs(b)) * LAST_PLACE))


def vector(attention: Attention, value: Poly) -> npt.NDArray[np.float64] | None:
    """The value for each head, or None if it is not a number for each."""
    head = attention.frame.head
    count = head.bound.constant if head is not None else 1
    if count is None or count > MOST_HEADS:
        return None
    numbers = []
    for h in range(int(count)):
        one = substitute(value, {head: poly(h)}) if head is not None else value
        constant = one.constant
        if constant is None:
            return None
        numbers.append(float(constant))
    return np.array(numbers)
