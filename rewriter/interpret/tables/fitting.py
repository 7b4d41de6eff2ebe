"""A constant table as formula: guessed from some of its rows, then compared with every entry.

Tables may be larger than memory, so nothing here holds more than a block of one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ....graph.index import Array
from ....patterns.masks import HIDING_VALUE, HIDING_WIDE
from .blocks import BLOCK, blocks, release, repeats
from .solvers import FORMS, SOLVERS, Floats, Sample, Solution

Pattern = tuple[tuple[int, ...], ...]
"""Linear conditions ``sum(sign * position) <= limit``, each (*signs, limit)."""

SAMPLED_ROWS = 96
"""Rows of a large table that a formula is guessed from: first, last and some between."""


FLOATS = {
    "float16": (10, 2.0**-14),
    "bfloat16": (7, 2.0**-126),
    "float32": (23, 2.0**-126),
    "float64": (52, 2.0**-1022),
}
"""Bits behind the point of the significand, and the smallest number that has all of them, by type."""

MOST_SLICES = 1 << 12
"""Choices of the axes that are no positions; there are never more heads than this."""

MOST_AXES = 6
"""Axes of a table with a formula; of more, every pair would have to be tried as positions."""


@dataclass(frozen=True)
class Fit:
    """A table as formula: ``value(index)`` where ``visible(index)``, hidden elsewhere.

    Attributes:
        periods: Per axis the period after which it repeats, 0 for none.
        data: The entries of one period, as they are stored.
        negated: The formula is that of the negated table.
        integer: Entries are integers.
        boolean: Entries are booleans.
        parameters: Axes that only select constants (heads).
        positions: The other axes.
        form: ``affine``, ``distance``, ``ramp``, ``visible`` (booleans), or empty for no formula.
        coefficients: Of the form, each over the parameters.
        visible: Where a key is visible; None for everywhere.
        hidden: What stands in all other entries (of the negated table, if the formula is that one's).
    """

    periods: tuple[int, ...]
    data: Array
    negated: bool = False
    integer: bool = False
    boolean: bool = False
    parameters: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    form: str = ""
    coefficients: tuple[Floats, ...] = ()
    visible: Pattern | None = None
    hidden: float = -np.inf


def repeating(part: Array, periods: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the periods, one per axis, after which the table does repeat itself; 0 for the others."""
    return tuple(p if p and repeats(part, p, axis) else 0 for axis, p in enumerate(periods))


def fit(part: Array, periods: tuple[int, ...], *, exact: bool = False) -> Fit:
    """The formula of a table, if there is one.

    Args:
        part: The table.
        periods: Per axis the period after which it repeats, 0 for none.
        exact: Every entry has to be what the formula says, not to one unit only: how a narrow type rounds matters.
    """
    boolean = part.dtype == np.bool_
    part = part[tuple(slice(0, p) if p else slice(None) for p in periods)]
    negated, finite = (False, True) if boolean else _survey(part)
    table = _Entries(part, negated, exact)
    blank = Fit(periods, part, negated, bool(np.issubdtype(part.dtype, np.integer)), boolean)
    if finite and part.size and part.ndim <= MOST_AXES:
        for positions in _position_axes(part.shape):
            slices = _Slices(table, positions)
            if len(slices) > MOST_SLICES:
                continue
            guess = ("visible", [()] * len(slices)) if boolean else _guess(slices)
            if guess is None:
                continue
            found = _confirm(blank, slices, *guess)
            if found is not None:
                return found
            if part.size > BLOCK:
                break  # right in all samples and wrong somewhere: other axes would cost much and find nothing
    return blank


def hiding_value(dtype: np.dtype[np.generic]) -> float:
    """What an entry of a table has to be to hide its key: the lowest float16 in that type, far less in wider ones.

    A table of positions or of a steep bias may well go down to -65504 in float32; integers hide nothing.
    """
    if dtype.kind in "iu":
        return -math.inf
    return float(HIDING_VALUE) if dtype == np.float16 else HIDING_WIDE


def _survey(part: Array) -> tuple[bool, bool]:
    """Whether to negate the table, and whether it is free of NaN and of +inf then.

    Entries of +inf where nothing hides a key stand before a negation: the negated table is one in which
    -inf hides keys.
    """
    if part.dtype.kind in "iub":
        return False, True
    above = hiding = nan = False
    for place in blocks(part.shape):
        values = np.asarray(part[place], np.float64)
        above = above or bool(np.isposinf(values).any())
        hiding = hiding or bool((values <= hiding_value(part.dtype)).any())
        nan = nan or bool(np.isnan(values).any())
        release(part)
    return above and not hiding, not nan and not (above and hiding)


@dataclass(frozen=True)
class _Entries:
    """Blocks of a table as float64, with what hides a key told apart."""

    array: Array
    negated: bool
    exact: bool = False

    def sample(self, rows: npt.NDArray[np.int64], place: tuple[slice, ...] = ()) -> Sample:
        """Some rows (or a block of them) with their visibility and precision."""
        stored = self.array[place] if place else self.array[rows]
        if self.array.dtype == np.bool_:
            visible = np.asarray(stored, np.bool_)
            return Sample(np.zeros(visible.shape), visible, np.zeros(visible.shape), rows.astype(np.float64))
        value = np.asarray(stored, np.float64)
        if self.negated:
            value = -value
        visible = ~(value <= hiding_value(self.array.dtype))
        value = np.where(visible, value, 0.0)
        unit = np.zeros_like(value)
        if not np.issubdtype(self.array.dtype, np.integer):
            unit = _spacing(self.array.dtype, np.where(visible, np.abs(value), 1.0))
        return Sample(value, visible, unit, rows.astype(np.float64))

    def samples(self) -> Iterator[tuple[tuple[slice, ...], Sample]]:
        """The whole slice in blocks."""
        for place in blocks(self.array.shape):
            rows = np.arange(place[0].start, place[0].stop)
            yield place, self.sample(rows, place)
            release(self.array)

    def hidden(self) -> float | None:
        """What stands where a key is hidden; None where these entries differ."""
        found: float | None = None
        for place in blocks(self.array.shape):
            value = np.asarray(self.array[place], np.float64)
            value = -value if self.negated else value
            below = value[value <= float(HIDING_VALUE)]
            if below.size:
                first = float(below.flat[0]) if found is None else found
                if (below != first).any():
                    return None
                found = first
            release(self.array)
        return -np.inf if found is None else found

    def some_rows(self) -> npt.NDArray[np.int64]:
        """All rows of a small slice; of a large one the first, the last and some between."""
        extent = self.array.shape[0]
        count = max(6, min(SAMPLED_ROWS, BLOCK // max(1, self.array.size // max(1, extent))))
        if self.array.size <= BLOCK or extent <= count:
            return np.arange(extent)
        third = count // 3
        between = np.linspace(third, extent - third - 1, third).astype(np.int64)
        return np.unique(np.concatenate([np.arange(third), between, np.arange(extent - third, extent)]))


class _Slices:
    """The slices of a table over its positions, one per choice of the other axes, made when they are asked for."""

    def __init__(self, table: _Entries, positions: tuple[int, ...]) -> None:
        rank = table.array.ndim
        self.positions = positions
        self.parameters = tuple(a for a in range(rank) if a not in positions)
        self.heads = tuple(table.array.shape[a] for a in self.parameters)
        self._array = np.transpose(table.array, (*self.parameters, *positions))
        self._table = table

    def __len__(self) -> int:
        return int(np.prod(self.heads, dtype=np.int64))

    def __iter__(self) -> Iterator[_Entries]:
        return (_Entries(self._array[head], self._table.negated, self._table.exact) for head in np.ndindex(*self.heads))


def _spacing(dtype: np.dtype[np.generic], size: Floats) -> Floats:
    """One unit in the last place of the stored type, per entry."""
    bits, smallest = FLOATS.get(dtype.name, FLOATS["float32"])
    exponent = np.floor(np.log2(np.maximum(size, smallest)))
    return np.asarray(np.exp2(exponent - bits))


def _position_axes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Which axes may be positions, likeliest first: the last two, the last, then any.

    Two entries are always on a line, so an axis of two is a position only if nothing else is.
    """
    rank = len(shape)
    if rank >= 2:
        yield (rank - 2, rank - 1)
    for pair in combinations(range(rank), 2):
        if pair != (rank - 2, rank - 1):
            yield pair
    for axis in sorted((rank - 1, *range(rank - 1)), key=lambda a: shape[a] < 3):
        yield (axis,)


def _confirm(
    blank: Fit,
    slices: _Slices,
    form: str,
    solutions: list[Solution],
) -> Fit | None:
    """The formula, if it agrees with every entry of every slice."""
    visible = _visible_pattern(next(iter(slices)))
    if visible is None or (blank.boolean and not visible):
        return None
    for entries, solution in zip(slices, solutions, strict=True):
        if not _holds(entries, form, solution, visible):
            return None
    hidden = _Entries(blank.data, blank.negated).hidden() if visible and not blank.boolean else -np.inf
    if hidden is None:
        return None
    stacked = np.array(solutions, np.float64)
    coefficients = tuple(stacked[:, k].reshape(slices.heads) for k in range(stacked.shape[1]))
    return Fit(
        blank.periods,
        data=blank.data,
        negated=blank.negated,
        integer=blank.integer,
        boolean=blank.boolean,
        parameters=slices.parameters,
        positions=slices.positions,
        form=form,
        coefficients=coefficients,
        visible=visible or None,
        hidden=hidden,
    )


def _guess(slices: _Slices) -> tuple[str, list[Solution]] | None:
    """The first form that fits the samples of all slices."""
    if not len(slices):
        return None
    for form, solve in SOLVERS.items():
        solutions: list[Solution] = []
        for entries in slices:
            solution = solve(entries.sample(entries.some_rows()))
            release(entries.array)
            if solution is None:
                break
            solutions.append(solution)
        else:
            return form, _one_kink(solutions) if form == "distance" else solutions
    return None


def _one_kink(solutions: list[Solution]) -> list[Solution]:
    """A slope of zero has no kink of its own; it gets that of the others."""
    kink = next((k for _, slope, k in solutions if slope), 0.0)
    return [(offset, slope, k if slope else kink) for offset, slope, k in solutions]


def _holds(entries: _Entries, form: str, solution: Solution, visible: Pattern) -> bool:
    """Whether a formula agrees with every entry to one unit, and hides exactly the hidden ones."""
    for place, block in entries.samples():
        grids = _grids(place)
        if not (np.broadcast_to(_shown(visible, grids), block.visible.shape) == block.visible).all():
            return False
        if form == "visible":
            continue
        gap = np.abs(np.where(block.visible, block.value - FORMS[form](solution, grids), 0.0))
        if not (gap <= block.unit).all():
            return False
    return True


def _visible_pattern(entries: _Entries) -> Pattern | None:
    """Linear conditions that hold exactly on the visible entries; empty where nothing is hidden."""
    rank = entries.array.ndim
    choices = [(-1,), (1,)] if rank == 1 else [(-1, 1), (1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)]
    limits = np.full(len(choices), -np.inf)
    hidden = False
    for place, block in entries.samples():
        hidden = hidden or not block.visible.all()
        grids = _grids(place)
        for number, signs in enumerate(choices):
            measure = np.broadcast_to(_measure(signs, grids), block.visible.shape)
            limits[number] = max(limits[number], np.max(measure, where=block.visible, initial=-np.inf))
    if not hidden:
        return ()
    if not np.isfinite(limits).all():
        return None
    found: Pattern = ()
    for signs, limit in zip(choices, limits, strict=True):
        wider = (*found, (*signs, int(limit)))
        hides_more, complete = _effect(entries, found, wider)
        if hides_more:
            found = wider
        if complete:
            return found
    return None


def _effect(entries: _Entries, before: Pattern, after: Pattern) -> tuple[bool, bool]:
    """Whether a pattern hides more than another, and whether it is exactly what the table hides."""
    hides_more, complete = False, True
    for place, block in entries.samples():
        grids = _grids(place)
        shown = np.broadcast_to(_shown(after, grids), block.visible.shape)
        hides_more = hides_more or bool((_shown(before, grids) & ~shown).any())
        complete = complete and bool((shown == block.visible).all())
    return hides_more, complete


def _shown(pattern: Pattern, grids: list[Floats]) -> npt.NDArray[np.bool_]:
    shown = np.ones((1,) * len(grids), np.bool_)
    for *signs, limit in pattern:
        shown = shown & (_measure(tuple(signs), grids) <= limit)
    return shown


def _measure(signs: tuple[int, ...], grids: list[Floats]) -> Floats:
    return np.asarray(sum((s * g for s, g in zip(signs, grids, strict=True)), np.float64(0)))


def _grids(place: tuple[slice, ...]) -> list[Floats]:
    """The position of every entry of a block, one array per axis."""
    ranges = (np.arange(p.start, p.stop, dtype=np.float64) for p in place)
    return [np.asarray(g) for g in np.meshgrid(*ranges, indexing="ij", sparse=True)]
