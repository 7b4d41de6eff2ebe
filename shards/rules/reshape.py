"""A cut on both sides of a Reshape.

Axes on both sides fall into groups with the same number of elements.  Inside a group a cut is a pattern that repeats
itself along the elements.  It is followed where an axis on the other side repeats itself with the same pattern.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...algebra import Poly, poly
from ...graph.index import ints_attribute
from ..cuts import LARGEST_PERIOD, AxisCut, NotSeparable, mask_of, ranges_of
from ..question import Question, Rule

Masks = list[npt.NDArray[np.bool_]]


def reshape(q: Question) -> bool:
    """In both directions."""
    before, after = q.dims(0), q.dims_out()
    if len(q.node.input) > 1:
        q.whole(1)
    if 0 in q.inputs:
        q.give(carried(q, q.inputs[0], before, after))
    elif 0 in q.outputs:
        q.want(0, carried(q, q.outputs[0], after, before))
    return True


def squeeze(q: Question) -> bool:
    """A Squeeze that names its axes.  One that does not would drop the axis of which a rank holds a single index."""
    if ints_attribute(q.node, "axes") is None and not q.has(1):
        raise NotSeparable("it drops every axis of extent 1, and a rank may have more of these")
    return reshape(q)


def carried(q: Question, cut: AxisCut, source: Sequence[Poly], target: Sequence[Poly]) -> AxisCut:
    """The cut on the other side.

    Raises:
        NotSeparable: There is none.
    """
    if cut.trivial:
        return _whole(cut, target)
    _, last, begin, end = _group(q, cut.axis, source, target)
    inner = _product(source[cut.axis + 1 : last])
    if inner is None or cut.period * inner > LARGEST_PERIOD:
        raise NotSeparable("a Reshape merges what is cut with an axis whose extent is only known at run time")
    masks = [np.repeat(mask_of(part, cut.period), inner) for part in cut.parts]
    for axis in reversed(range(begin, end)):
        found = _on_axis(masks, target[axis])
        if found is not None:
            return AxisCut(axis, found[0], found[1])
        extent = target[axis].constant
        if extent is None or extent < 1:
            break
        masks = _without(masks, int(extent))
    raise NotSeparable("a Reshape mixes what is cut with what is not")


def _whole(cut: AxisCut, target: Sequence[Poly]) -> AxisCut:
    """Where every rank holds all, it does so along any axis."""
    for axis in reversed(range(len(target))):
        extent = int(target[axis].constant or 0)
        if extent >= 1:
            return AxisCut(axis, extent, (((0, extent),),) * cut.ranks)
    raise NotSeparable("the shape on the other side of a Reshape is unknown")


def _on_axis(masks: Masks, extent: Poly) -> tuple[int, tuple[tuple[tuple[int, int], ...], ...]] | None:
    """The cut of an axis along which these patterns repeat themselves; None if they reach beyond it."""
    period = len(masks[0])
    number = extent.constant
    if number is not None and number < 1:
        raise NotSeparable("a Reshape makes an empty tensor")
    if number is not None and int(number) < period:
        if period % int(number):
            raise NotSeparable("a Reshape cuts through what belongs to one rank")
        rows = [mask.reshape(-1, int(number)) for mask in masks]
        if all((row == row[:1]).all() for row in rows) and not all(row.all() for row in rows):
            return int(number), tuple(ranges_of(row[0]) for row in rows)
        return None
    if any(coefficient % period for coefficient in _coefficients(extent)):
        raise NotSeparable("a Reshape cuts through what belongs to one rank")
    return period, tuple(ranges_of(mask) for mask in masks)


def _coefficients(extent: Poly) -> list[int]:
    """The numbers in an extent, all of which are multiples of what always divides it."""
    numbers = [number for _, number in extent.terms]
    if any(number != int(number) for number in numbers):
        raise NotSeparable("a Reshape makes an axis of an extent that is a quotient")
    return [int(number) for number in numbers]


def _without(masks: Masks, extent: int) -> Masks:
    """The patterns once the innermost axis is taken off, along which they may not change."""
    made = []
    for mask in masks:
        rows = mask.reshape(-1, extent)
        if not (rows == rows[:, :1]).all():
            raise NotSeparable("a Reshape mixes what is cut with what is not")
        made.append(rows[:, 0])
    return made


def _product(extents: Sequence[Poly]) -> int | None:
    number = 1
    for extent in extents:
        constant = extent.constant
        if constant is None:
            return None
        number *= int(constant)
    return number


def _group(q: Question, axis: int, source: Sequence[Poly], target: Sequence[Poly]) -> tuple[int, int, int, int]:
    """The axes around this one, and those on the other side, with the same number of elements: the fewest there are."""
    left, right = _prefixes(source), _prefixes(target)
    begin = next(
        (
            (i, j)
            for i in range(axis, -1, -1)
            for j in reversed(range(len(right)))
            if q.interpreter.same(left[i], right[j])
        ),
        None,
    )
    end = next(
        (
            (i, j)
            for i in range(axis + 1, len(left))
            for j in range(len(right))
            if q.interpreter.same(left[i], right[j])
        ),
        None,
    )
    if begin is None or end is None or end[1] <= begin[1]:
        raise NotSeparable("the shapes on both sides of a Reshape cannot be compared")
    return begin[0], end[0], begin[1], end[1]


def _prefixes(extents: Sequence[Poly]) -> list[Poly]:
    """The numbers of elements of the first axes, from none of them on."""
    found = [poly(1)]
    for extent in extents:
        found.append(found[-1] * extent)
    return found


RESHAPES: dict[tuple[str, str], Rule] = {("", kind): reshape for kind in ("Reshape", "Unsqueeze", "Flatten")}
RESHAPES["", "Squeeze"] = squeeze
