"""Which part of a tensor's axis each rank holds.

A *cut* is a list of index ranges per rank.  Packed projections need several: of [q | k | v] a rank holds three.  Ranks
may hold the same indices, as where one key head serves the query heads of several ranks.

An axis may be a multiple of what is cut.  [B * H, S, D] is cut by heads although B is only known when the model runs:
index i of the axis belongs to a rank if ``i mod period`` does.  A plain cut has the axis's extent as its period.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges, ascending, with gaps between them."""

LARGEST_PERIOD = 1 << 26
"""Indices that are looked at one by one, where a cut is followed through a Reshape."""


BLOCKS = (64, 8, 1)
"""Features that are kept together where shares differ."""


class NotSeparable(Exception):
    """A cut cannot be followed through the graph; the text says why, for people."""


@dataclass(frozen=True)
class AxisCut:
    """How one axis of a tensor is divided among the ranks.

    Attributes:
        axis: The axis.
        period: Its extent, or what its extent is a multiple of.
        parts: Per rank, ranges of indices below the period.
    """

    axis: int
    period: int
    parts: tuple[Ranges, ...]

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.parts)

    def width(self, rank: int) -> int:
        """Indices of the period that a rank holds."""
        return sum(stop - start for start, stop in self.parts[rank])

    @property
    def exact(self) -> bool:
        """Whether every index belongs to exactly one rank."""
        every = sorted(piece for part in self.parts for piece in part)
        stops = [0, *(stop for _, stop in every)]
        return [start for start, _ in every] == stops[:-1] and stops[-1] == self.period

    @property
    def trivial(self) -> bool:
        """Whether every rank holds all of it, as of the one key head of multi-query attention."""
        return all(part == ((0, self.period),) for part in self.parts)

    def agrees(self, other: AxisCut) -> bool:
        """Whether two cuts are the same; two that leave a tensor whole are, along whatever axis."""
        return self == other or (self.trivial and other.trivial)

    def on(self, axis: int) -> AxisCut:
        """The same cut of another axis."""
        return replace(self, axis=axis)


def normal(pieces: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in order, neighbours and overlaps merged, empty ones dropped."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(pieces):
        if stop <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return tuple(found)


def union(cuts: Sequence[AxisCut]) -> AxisCut:
    """The least that holds all of these cuts of one axis.

    Raises:
        NotSeparable: They are of different axes.
    """
    first = cuts[0]
    if any((cut.axis, cut.period, cut.ranks) != (first.axis, first.period, first.ranks) for cut in cuts):
        raise NotSeparable("its parts are cut along different axes")
    return replace(first, parts=tuple(normal(p for cut in cuts for p in cut.parts[r]) for r in range(first.ranks)))


def shifted(ranges: Ranges, by: int) -> Ranges:
    """Ranges, moved."""
    return tuple((start + by, stop + by) for start, stop in ranges)


def within(ranges: Ranges, low: int, high: int) -> Ranges:
    """The part of ranges that lies between two indices, counted from the first one."""
    return normal((max(start, low) - low, min(stop, high) - low) for start, stop in ranges)


def local(ranges: Ranges, low: int, high: int) -> tuple[int, int]:
    """Where the part of ``low`` to ``high`` that a rank holds lies in what the rank holds.

    What a rank holds is in the order of its indices, so the part is in one piece.
    """
    before = sum(min(stop, low) - start for start, stop in ranges if start < low)
    return before, before + sum(stop - start for start, stop in within(ranges, low, high))


def evenly(period: int, ranks: int) -> tuple[Ranges, ...]:
    """An axis in pieces, one behind the other, whose sizes differ by at most one."""
    ends = [period * rank // ranks for rank in range(ranks + 1)]
    return tuple(normal([(ends[rank], ends[rank + 1])]) for rank in range(ranks))


def features(extent: int, ranks: int) -> tuple[Ranges, ...]:
    """Features in equal shares; where that is not possible, in shares of whole blocks, which products read faster."""
    block = next(b for b in BLOCKS if (extent % b == 0 and extent // b >= ranks) or b == 1)
    if extent % ranks == 0:
        block = 1
    return tuple(normal((a * block, b * block) for a, b in part) for part in evenly(extent // block, ranks))


def mask_of(ranges: Ranges, extent: int) -> npt.NDArray[np.bool_]:
    """True at the indices of ranges."""
    mask = np.zeros(extent, bool)
    for start, stop in ranges:
        mask[start:stop] = True
    return mask


def ranges_of(mask: npt.NDArray[np.bool_]) -> Ranges:
    """The ranges in which a mask is True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))
