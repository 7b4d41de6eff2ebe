"""Closed forms of one slice of a table, from a sample of its rows.

What comes out of here is a guess: ``fitting`` compares it with every entry of the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Solution = tuple[float, ...]


@dataclass(frozen=True)
class Sample:
    """Some rows of one slice, complete along the other axis.

    Attributes:
        value: Entries; hidden ones are 0.
        visible: Where a key is visible.
        unit: One unit in the last place of the stored type.
        rows: Which entries of the first axis these are, ascending.
    """

    value: Floats
    visible: Bools
    unit: Floats
    rows: Floats

    def only(self, keep: Bools) -> Sample:
        """The same entries, with fewer of them visible."""
        return Sample(self.value, self.visible & keep, self.unit, self.rows)

    @property
    def grids(self) -> list[Floats]:
        """The position of every entry, one array per axis."""
        others = [np.arange(n, dtype=np.float64) for n in self.value.shape[1:]]
        return [np.asarray(g) for g in np.meshgrid(self.rows, *others, indexing="ij", sparse=True)]


def affine(solution: Solution, grids: list[Floats]) -> Floats:
    """Offset plus one slope per axis."""
    offset, *slopes = solution
    return np.asarray(sum((s * g for s, g in zip(slopes, grids, strict=True)), np.float64(0)) + offset)


def distance(solution: Solution, grids: list[Floats]) -> Floats:
    """``offset + slope * |x - kink|``; x is row - column with two axes."""
    offset, slope, kink = solution
    span = grids[0] - grids[1] if len(grids) == 2 else grids[0]
    return offset + slope * np.abs(span - kink)


def ramp(solution: Solution, grids: list[Floats]) -> Floats:
    """``offset + s0 * row + s1 * column + bend * min(0, column - row)``."""
    *line, bend = solution
    return affine(tuple(line), grids) + bend * np.minimum(0.0, grids[1] - grids[0])


FORMS = {"affine": affine, "distance": distance, "ramp": ramp}


def _agrees(sample: Sample, formula: Floats) -> bool:
    return bool((np.abs(np.where(sample.visible, sample.value - formula, 0.0)) <= sample.unit).all())


def solve_affine(sample: Sample) -> Solution | None:
    """Offset and one slope per axis, exact to one unit on every visible entry."""
    grids = sample.grids
    for slopes in _affine_candidates(sample):
        rest = np.where(sample.visible, sample.value - affine((0.0, *slopes), grids), 0.0)
        # The constant that is left: from the entry that is stored most precisely.
        place = np.unravel_index(np.argmin(np.where(sample.visible, sample.unit, np.inf)), sample.unit.shape)
        solution = (float(rest[place]), *slopes)
        if _agrees(sample, affine(solution, grids)):
            return solution
    return None


def _affine_candidates(sample: Sample) -> Iterator[tuple[float, ...]]:
    near, far = [], []
    for axis in range(sample.value.ndim):
        values = np.moveaxis(sample.value, axis, 0)
        shown = np.moveaxis(sample.visible, axis, 0)
        where = sample.rows if axis == 0 else np.arange(len(values), dtype=np.float64)
        adjacent = (np.diff(where) == 1).reshape(-1, *[1] * (values.ndim - 1))
        pair = shown[1:] & shown[:-1] & adjacent
        if pair.any():
            # The smallest entries are stored most precisely, so their difference is the best short one.
            size = np.where(pair, np.maximum(np.abs(values[1:]), np.abs(values[:-1])), np.inf)
            place = np.unravel_index(np.argmin(size), size.shape)
            near.append(float(values[1:][place] - values[:-1][place]))
        else:
            near.append(0.0)
        # The line along this axis that has the most visible entries.
        best = int(np.argmax(shown.sum(axis=0)))
        column, seen = values.reshape(len(values), -1)[:, best], shown.reshape(len(shown), -1)[:, best]
        places = np.nonzero(seen)[0]
        if len(places) > 1:
            first, last = places[0], places[-1]
            far.append(float((column[last] - column[first]) / (where[last] - where[first])))
        else:
            far.append(0.0)
    yield tuple(near)
    yield tuple(float(np.float32(f)) for f in far)
    yield tuple(far)


def solve_distance(sample: Sample) -> Solution | None:
    """Offset, slope and kink of ``offset + slope * |x - kink|``."""
    value, visible, grids = sample.value, sample.visible, sample.grids
    span = np.broadcast_to(grids[0] - grids[1] if value.ndim == 2 else grids[0], value.shape)
    if not visible.any():
        return None
    for extreme in (np.argmax, np.argmin):
        filler = -np.inf if extreme is np.argmax else np.inf
        place = np.unravel_index(extreme(np.where(visible, value, filler)), value.shape)
        kink = float(span[place])
        offset = float(value[place])
        gap = np.abs(span - kink)
        usable = visible & (gap > 0)
        if not usable.any():
            continue
        nearest = np.unravel_index(np.argmin(np.where(usable, gap, np.inf)), value.shape)
        farthest = np.unravel_index(np.argmax(np.where(usable, gap, -1.0)), value.shape)
        for point in (nearest, farthest):
            solution = (offset, float((value[point] - offset) / gap[point]), kink)
            if _agrees(sample, distance(solution, grids)):
                return solution
    return None


def solve_ramp(sample: Sample) -> Solution | None:
    """One line on and above the diagonal, another on and below it.

    A running sum of a triangle, or different slopes for the past and the future.
    """
    if sample.value.ndim != 2 or min(sample.value.shape) < 2:
        return None
    row, column = sample.grids
    upper = solve_affine(sample.only(column >= row))
    lower = solve_affine(sample.only(column <= row))
    if upper is None or lower is None:
        return None
    solution = (*upper, lower[2] - upper[2])
    return solution if _agrees(sample, ramp(solution, [row, column])) else None


SOLVERS = {"affine": solve_affine, "distance": solve_distance, "ramp": solve_ramp}
