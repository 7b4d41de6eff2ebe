"""Operators that take tensors apart, put them together and turn them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...graph.index import int_attribute, ints_attribute
from ..cuts import AxisCut, NotSeparable, mask_of, normal, ranges_of, shifted, within
from ..question import How, Question, Rule


def transpose(q: Question) -> bool:
    """The axes change places."""
    rank = len(q.dims(0))
    perm = ints_attribute(q.node, "perm") or list(range(rank))[::-1]
    if 0 in q.inputs:
        q.give(q.inputs[0].on(perm.index(q.inputs[0].axis)))
    elif 0 in q.outputs:
        q.want(0, q.outputs[0].on(perm[q.outputs[0].axis]))
    return True


def plain(q: Question, cut: AxisCut, extent: object) -> None:
    """Raises ``NotSeparable`` where an axis is a multiple of what is cut: its indices are not those of parts then."""
    if extent != cut.period:
        raise NotSeparable(f"{q.node.op_type} takes a part of an axis in which batch and heads are one")


def part_of(cut: AxisCut, start: int, stop: int) -> AxisCut:
    """The cut of a piece of an axis.

    Raises:
        NotSeparable: A rank holds nothing of it.
    """
    parts = tuple(within(part, start, stop) for part in cut.parts)
    if not all(parts):
        raise NotSeparable("a part that is taken of an axis lies on some of the ranks only")
    return AxisCut(cut.axis, stop - start, parts)


def split(q: Question) -> bool:
    """Pieces of an axis."""
    axis = int_attribute(q.node, "axis", 0) % len(q.dims(0))
    known = q.inputs.get(0)
    if known is not None and known.axis != axis:
        q.give_all(known)
        return True
    bounds = split_bounds(q, axis)
    if known is not None:
        plain(q, known, q.dims(0)[axis].constant)
        for position, (start, stop) in enumerate(bounds):
            q.give(part_of(known, start, stop), position)
        return True
    other = next((cut for cut in q.outputs.values() if cut.axis != axis), None)
    if other is not None:
        q.want(0, other)
        q.give_all(other)
        return True
    used = [p for p, name in enumerate(q.node.output) if q.interpreter.scope.consumers.get(name)]
    if not set(used) <= q.outputs.keys():
        return False
    q.want(0, _joined(q, axis, [(bounds[p][0], q.outputs[p]) for p in used], bounds[-1][1]), How.PART)
    return True


def split_bounds(q: Question, axis: int) -> list[tuple[int, int]]:
    """Where the pieces begin and end.

    Raises:
        NotSeparable: That is not a matter of numbers.
    """
    sizes = []
    for position in range(len(q.node.output)):
        extent = q.dims_out(position)[axis].constant
        if extent is None:
            raise NotSeparable("an axis is split in pieces whose sizes are only known at run time")
        sizes.append(int(extent))
    ends = [0, *np.cumsum(sizes).tolist()]
    return list(pairwise(ends))


def concat(q: Question) -> bool:
    """One behind the other: along another axis all are cut alike."""
    extents = q.dims_out()
    axis = int_attribute(q.node, "axis", 0) % len(extents)
    positions = range(len(q.node.input))
    cut = q.outputs.get(0) or next((c for c in q.inputs.values() if c.axis != axis), None)
    if cut is not None and cut.axis != axis:
        q.give(cut)
        for position in positions:
            q.want(position, cut)
        return True
    sizes = [q.dims(position)[axis].constant for position in positions]
    if any(size is None for size in sizes):
        raise NotSeparable("tensors are joined along what is cut, and their sizes are only known at run time")
    ends = [0, *np.cumsum([int(size or 0) for size in sizes]).tolist()]
    if cut is not None:
        plain(q, cut, extents[axis].constant)
        for position in positions:
            q.want(position, part_of(cut, ends[position], ends[position + 1]))
        return True
    if not set(positions) <= q.inputs.keys():
        return False
    for position in positions:
        plain(q, q.inputs[position], sizes[position])
    q.give(_joined(q, axis, [(ends[p], q.inputs[p]) for p in positions], ends[-1]))
    return True


def _joined(q: Question, axis: int, pieces: list[tuple[int, AxisCut]], extent: int) -> AxisCut:
    """The cut of an axis of which pieces, from an index on, are cut so."""
    for _, cut in pieces:
        if cut.axis != axis:
            raise NotSeparable("pieces of an axis are cut along different axes")
    parts = [[p for at, cut in pieces for p in shifted(cut.parts[rank], at)] for rank in range(q.ranks)]
    return AxisCut(axis, extent, tuple(normal(part) for part in parts))


def slice_(q: Question) -> bool:
    """A part along constant bounds."""
    rank = len(q.dims(0))
    taken = slice_bounds(q)
    cut = q.inputs.get(0)
    if cut is not None:
        if cut.axis not in taken:
            q.give(cut)
            return True
        plain(q, cut, q.dims(0)[cut.axis].constant)
        q.give(part_of(cut, *taken[cut.axis]))
        return True
    out = q.outputs.get(0)
    if out is None:
        return False
    if out.axis not in taken:
        q.want(0, out)
        return True
    plain(q, out, q.dims_out()[out.axis].constant)
    extent = q.dims(0)[out.axis].constant
    assert extent is not None and out.axis < rank
    start = taken[out.axis][0]
    q.want(0, AxisCut(out.axis, int(extent), tuple(shifted(part, start) for part in out.parts)), How.PART)
    return True


def sliced_axes(q: Question) -> list[int]:
    """The axes of a Slice, in its order.

    Raises:
        NotSeparable: They are only known at run time.
    """
    axes, count = q.numbers(3), q.dims(1)[0].constant
    if axes is not None:
        return [axis % len(q.dims(0)) for axis in axes]
    if q.has(3) or count is None:
        raise NotSeparable("a slice is taken along axes that are only known at run time")
    return list(range(int(count)))


def slice_bounds(q: Question) -> dict[int, tuple[int, int]]:
    """Of those axes that are cut, where the slice begins and ends.

    Raises:
        NotSeparable: It has steps there, or bounds that are only known at run time.
    """
    dims, axes = q.dims(0), sliced_axes(q)
    concerned = {cut.axis for cut in (*q.inputs.values(), *q.outputs.values())}
    found: dict[int, tuple[int, int]] = {}
    for place, axis in enumerate(axes):
        if axis not in concerned:
            continue
        extent, starts, ends = dims[axis].constant, q.numbers(1), q.numbers(2)
        steps = q.numbers(4) if q.has(4) else [1] * len(axes)
        if starts is None or ends is None or steps is None or extent is None:
            raise NotSeparable("a slice of what is cut has bounds that are only known at run time")
        if steps[place] != 1:
            raise NotSeparable("a slice of what is cut has steps")
        low, high, _ = slice(starts[place], ends[place]).indices(int(extent))
        found[axis] = (low, high)
    return found


def gather(q: Question) -> bool:
    """Places of an axis: constant ones of what is cut, or any of another axis."""
    q.whole(1)
    dims = q.dims(0)
    axis = int_attribute(q.node, "axis", 0) % len(dims)
    more = len(q.dims(1)) - 1  # how many axes there are in place of the one
    cut = q.inputs.get(0)
    if cut is not None:
        if cut.axis == axis:
            places = looked_up(q, axis)
            parts = tuple(ranges_of(mask_of(part, cut.period)[places]) for part in cut.parts)
            if not all(parts):
                raise NotSeparable("a place that is looked up lies on some of the ranks only")
            q.give(AxisCut(axis, len(places), parts))
        else:
            q.give(cut.on(cut.axis if cut.axis < axis else cut.axis + more))
        return True
    out = q.outputs.get(0)
    if out is None:
        return False
    if axis <= out.axis <= axis + more:
        places = looked_up(q, axis)
        wanted = [[places[k] for start, stop in part for k in range(start, stop)] for part in out.parts]
        extent = dims[axis].constant
        assert extent is not None
        q.want(0, AxisCut(axis, int(extent), tuple(normal((p, p + 1) for p in part) for part in wanted)), How.PART)
    else:
        q.want(0, out.on(out.axis if out.axis < axis else out.axis - more))
    return True


def looked_up(q: Question, axis: int) -> list[int]:
    """The places that a Gather looks up.

    Raises:
        NotSeparable: They are no vector of numbers, or the axis has another extent at another time.
    """
    places, extent = q.numbers(1), q.dims(0)[axis].constant
    if len(q.dims(1)) != 1 or not places or extent is None:
        raise NotSeparable("places of what is cut are looked up by numbers that are only known at run time")
    return [place % int(extent) for place in places]


def expand(q: Question) -> bool:
    """Spread along axes of extent 1; an axis that is there is cut as the result is."""
    extents, dims = q.dims_out(), q.dims(0)
    more = len(extents) - len(dims)
    cut = q.outputs.get(0)
    if cut is None:
        if 0 not in q.inputs:
            return False
        cut = q.inputs[0].on(q.inputs[0].axis + more)
    q.whole(1)
    q.give(cut)
    axis = cut.axis - more
    if axis < 0 or dims[axis] == 1:
        q.whole(0)
    elif q.interpreter.same(dims[axis], extents[cut.axis]):
        q.want(0, cut.on(axis))
    else:
        raise NotSeparable(f"'{q.node.input[0]}' may be spread along what is cut")
    return True


def scattered(q: Question) -> bool:
    """Rows that are written into a cache, at places that are told for each sequence."""
    cut = q.outputs.get(0) or q.inputs.get(0) or q.inputs.get(1)
    if cut is None:
        return False
    if cut.axis in (0, int_attribute(q.node, "axis", -2) % len(q.dims_out())):
        raise NotSeparable("TensorScatter writes at places of the axis")
    for position in (0, 1):
        q.want(position, cut)
    if q.has(2):
        q.whole(2)
    q.give(cut)
    return True


MOVEMENT: dict[tuple[str, str], Rule] = {
    ("", "Transpose"): transpose,
    ("", "Split"): split,
    ("", "Concat"): concat,
    ("", "Slice"): slice_,
    ("", "Gather"): gather,
    ("", "Expand"): expand,
    ("", "TensorScatter"): scattered,
}
