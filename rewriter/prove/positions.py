"""Positions that come from a tensor.  The tokens of an attention mask are counted, and padding takes no position."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ...algebra import LARGEST_FLOAT32, ZERO, Atom, Poly, Read, of, poly, render
from ...graph.index import operator
from ...patterns.forms import LINEAR, Form
from ...patterns.masks import HIDING_VALUE
from ...patterns.positions import COUNT_ATOMS, COUNT_OPERATORS
from ..interpret import Interpreter
from ..records.proof import Positions
from ..records.reading import Attention
from ..verdicts import Code, Refuser, Stage
from .forms import LAST_PLACE, is_float32, vector
from .terms import Parts, add_rest, short

_refuse = Refuser(Stage.POSITIONS)

LARGEST_DENOMINATOR = 1 << 12
"""Positions are sums of few counts with small factors, so the ratio of two slopes on them is a small fraction."""


def take_positions(attention: Attention, parts: Parts, slope: Poly, form: Form) -> tuple[Poly, Positions]:
    """Slope and positions where positions are computed from integers known at run time.

    All factors must be multiples of one slope.  slope * cumsum(m) * m - slope * m is slope * (cumsum(m) - 1) * m.
    """
    frame = attention.frame
    if form is not LINEAR and slope.terms:
        raise _refuse(Code.NOT_LINEAR, attention, "mixed forms")
    places: list[tuple[Poly, Poly]] = [(Poly({m: 1}), f) for m, f in parts.counted.items() if f.terms]
    if slope.terms:
        places.append((of(frame.key), slope))
    # The factor of the highest-degree place is the slope of the position.
    reference = max(places, key=lambda p: (max(len(m) for m, _ in p[0].terms), render(p[0])))[1]
    base = vector(attention, reference)
    value = ZERO
    for place, whole in places:
        factor, constant = _without_mask(attention, whole, reference)
        add_rest(parts, place * constant)
        ratio = _ratio(attention, factor, reference, base) if factor.terms else Fraction(0)
        if ratio is None:
            raise _refuse(
                Code.NOT_LINEAR, attention, f"{short(place)} has its own slope {short(factor)}", stage=Stage.POSITIONS
            )
        value = value + place * ratio
    return reference, Positions(value, reference)


def are_positions(interpreter: Interpreter, attention: Attention, parts: Parts) -> bool:
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
    """A factor as (multiple of the slope, the same number for every head).  A mask may be added to a position.

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
