"""Large arrays in pieces.  Constants of gigabytes are looked through without being in memory as a whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ....graph.index import Array

BLOCK = 1 << 20
"""Elements looked at together; the temporary arrays of a fit are a dozen times this, in float64."""

Place = tuple[slice, ...]


def blocks(shape: tuple[int, ...]) -> Iterator[Place]:
    """Index expressions that together cover an array, each of at most ``BLOCK`` elements where that is possible."""
    pending: list[tuple[Place, tuple[int, ...]]] = [((), shape)]
    while pending:
        place, rest = pending.pop()
        inner = int(np.prod(rest[1:], dtype=np.int64)) if rest else 1
        if not rest:
            yield place
        elif inner > BLOCK:
            pending.extend(((*place, slice(k, k + 1)), rest[1:]) for k in reversed(range(rest[0])))
        else:
            step = max(1, BLOCK // max(1, inner))
            whole = tuple(slice(0, n) for n in rest[1:])
            for start in range(0, rest[0], step):
                yield (*place, slice(start, min(start + step, rest[0])), *whole)


def release(array: npt.NDArray[np.generic]) -> None:
    """Let the pages of a mapped file go, so that a look through a large table does not pile up memory."""
    base: object = array
    while base is not None:
        if isinstance(base, mmap.mmap):
            if hasattr(mmap, "MADV_DONTNEED"):
                base.madvise(mmap.MADV_DONTNEED)
            return
        base = getattr(base, "base", None)


def constant_along(data: Array, axis: int) -> bool:
    """Whether nothing changes along an axis."""
    if not data.size:
        return False
    first = data[_at(data.ndim, axis, 0)]
    if data.size > BLOCK:
        # A look at some places tells most large arrays apart without reading them.
        some = tuple(slice(None) if a == axis else slice(0, n, max(1, n // 3)) for a, n in enumerate(data.shape))
        same = np.array_equal(data[some], np.broadcast_to(first[some], data[some].shape))
        release(data)
        if not same:
            return False
    for place in blocks(data.shape):
        own = tuple(slice(None) if a == axis else p for a, p in enumerate(place))
        if not np.array_equal(data[place], np.broadcast_to(first[own], data[place].shape)):
            return False
        release(data)
    return True


def repeats(data: Array, period: int, axis: int) -> bool:
    """Whether an axis repeats itself after every ``period`` entries."""
    extent = data.shape[axis]
    if extent % period:
        return False
    first = data[_at(data.ndim, axis, 0, period)]
    for start in range(period, extent, period):
        part = data[_at(data.ndim, axis, start, period)]
        for place in blocks(part.shape):
            if not np.array_equal(part[place], first[place]):
                return False
        release(data)
    return True


def _at(rank: int, axis: int, start: int, count: int = 1) -> Place:
    return tuple(slice(start, start + count) if a == axis else slice(None) for a in range(rank))
