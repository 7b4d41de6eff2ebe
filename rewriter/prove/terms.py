"""What is added to the scores, sorted.  Every monomial goes to one of few places, or refuses the site.

* What is constant along a row is dropped, since softmax does not see it.
* A function of the head times j or a piecewise distance is the bias, up to what ``forms`` says about it.
* A function of the head times integers that only run time knows may be a position.
* A mask is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...algebra import ZERO, Atom, Ind, Index, Min0, Monomial, Number, Poly, Read, Sum, magnitude, of, render
from ...patterns.layouts import Axis
from ..interpret import Interpreter
from ..interpret.tables.element import Table, misfit
from ..recognise.visibility import MOST_SHIFT, MOST_SHIFT_HALF
from ..records.reading import Attention
from ..verdicts import Code, Refusal, Refuser, Stage
from .forms import vector
from .narrow import check_types

_refuse = Refuser(Stage.BIAS)


@dataclass
class Parts:
    """Monomials of the terms, sorted by what they are; coefficients are functions of the head.

    Attributes:
        linear: What the key's index is multiplied with.
        kinks: What min(0, p) is multiplied with, by p.
        counted: What products of integers that only run time knows are multiplied with.
        rest: What is passed on, with its numbers.
        dropped: What is constant along a row.
    """

    linear: Poly = ZERO
    kinks: dict[Poly, Poly] = field(default_factory=dict)
    counted: dict[Monomial, Poly] = field(default_factory=dict)
    rest: dict[Monomial, Number] = field(default_factory=dict)
    dropped: list[Poly] = field(default_factory=list)


def add_rest(parts: Parts, value: Poly) -> None:
    """Put terms to what is passed on as it is."""
    for monomial, coefficient in value.terms:
        total = parts.rest.get(monomial, 0) + coefficient
        if total:
            parts.rest[monomial] = total
        else:
            parts.rest.pop(monomial, None)


def sort_terms(interpreter: Interpreter, attention: Attention, terms: Poly) -> Parts:
    """The terms of a site, sorted.

    Raises:
        Refusal: A term is none of these.
    """
    frame = attention.frame
    parts = Parts()
    unseen: list[Poly] = []
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
                    unseen.append(whole)
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
    _check_unseen(attention, unseen)
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
    parts: Parts,
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
            f"{short(Poly({monomial: coefficient}))}",
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
            f"{short(Poly({monomial: coefficient}))}",
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
    return _refuse(Code.NOT_LINEAR, attention, short(Poly({monomial: coefficient})), term=Poly({monomial: coefficient}))


def _check_unseen(attention: Attention, terms: Sequence[Poly]) -> None:
    """What no softmax sees must not swallow what it sees.

    Numbers per head are added up first: the table of a bias that ends at its last key has -65535 * slope at the
    first one, and is read from 65536 - S_kv on.
    """
    of_heads = ZERO
    for value in terms:
        if value.terms[0][0] and vector(attention, value) is not None:
            of_heads = of_heads + value
        else:
            _check_dropped(attention, value)
    numbers = vector(attention, of_heads)
    if numbers is not None and np.abs(numbers).max(initial=0.0) > _most_shift(attention):
        raise _swallowed(attention, of_heads)


def _most_shift(attention: Attention) -> Number:
    return MOST_SHIFT_HALF if attention.half else MOST_SHIFT


def _swallowed(attention: Attention, value: Poly) -> Refusal:
    detail = f"every key of a row gets {short(value)}, which takes the digits of all scores"
    return _refuse(Code.FINITE_MASK, attention, detail, stage=Stage.MASK, term=value)


def _check_dropped(attention: Attention, value: Poly) -> None:
    """The same for what the keys of one row or head get, such as a number times the row."""
    ((monomial, coefficient),) = value.terms
    # The constant itself is part of a mask, (1 - m) * finfo.min.  With an indicator it hides a whole row.
    hides = any(isinstance(a, Ind) for a in value.all_atoms())
    if monomial and magnitude(coefficient) > _most_shift(attention) and not hides:
        raise _swallowed(attention, value)


def short(value: Poly, limit: int = 200) -> str:
    """A value for people, cut where it is too long to be read."""
    text = render(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
