"""Constant tables as formulas: an exact fit over the whole buffer, or no formula at all.

A table that is read at an index that moves is replaced by a closed form in that index if every finite
entry of the *whole* buffer agrees with it to one unit in the last place of the stored type -- not only
the part that a short test would use.  Entries that hide a key (-inf, finfo.min) become a condition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..algebra import (
    HIDING_VALUE,
    INFINITY,
    ONE,
    ZERO,
    Apply,
    Cond,
    Hashed,
    Poly,
    Substitution,
    absolute,
    conjunction,
    ind,
    less_equal,
    magnitude,
    min0,
    of,
    poly,
    substitute,
)
from .digits import divmod_index

if TYPE_CHECKING:
    from ..graph import Array
    from .engine import Interpreter

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table(Hashed):
    """One element of a constant without a closed form; a number as soon as its index is one."""

    name: str
    indices: tuple[Poly, ...]
    data: Floats = field(repr=False)
    integer: bool = False
    tag: str = ""
    """Stands for the data: tables of equal names in different models are different."""

    def _distinction(self) -> str:
        return self.tag

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"{self.name}[{', '.join(map(show, self.indices))}]"

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.indices

    def extreme(self, *, lowest: bool) -> Poly | None:
        if not self.data.size or not np.isfinite(self.data).all():
            return None
        return poly(_exact(float(self.data.min() if lowest else self.data.max())))

    @property
    def sign(self) -> int | None:
        if not self.data.size or np.isnan(self.data).any():
            return None
        return 1 if self.data.min() >= 0 else (-1 if self.data.max() <= 0 else None)

    @property
    def is_integer(self) -> bool:
        return self.integer

    def substitute(self, mapping: Substitution) -> Poly:
        places = tuple(substitute(i, mapping) for i in self.indices)
        return table(self.name, self.data, places, self.integer, self.tag)


def fingerprint(data: Floats) -> str:
    """A short text that differs for different data."""
    return hashlib.blake2b(np.ascontiguousarray(data).tobytes(), digest_size=12).hexdigest()


def table(name: str, data: Floats, indices: tuple[Poly, ...], integer: bool = False, tag: str = "") -> Poly:
    """An element of constant data: a number where the index is constant (or the data are), else an atom."""
    while data.ndim:
        # An axis along which nothing changes (a batch baked into a constant) is no axis.
        same = next((a for a in range(data.ndim) if _constant_along(data, a)), None)
        if same is None:
            break
        data = np.take(data, 0, same)
        indices = (*indices[:same], *indices[same + 1 :])
    positions = [i.constant for i in indices]
    if all(p is not None for p in positions):
        place = tuple(int(p) for p in positions if p is not None)
        if all(-n <= p < n for p, n in zip(place, data.shape, strict=True)):
            return poly(_exact(float(data[place])))
    return of(Table(name, indices, data, integer, tag or fingerprint(data)))


def _constant_along(data: npt.NDArray[Any], axis: int) -> bool:
    return bool(np.array_equal(data, np.broadcast_to(np.take(data, [0], axis), data.shape))) if data.size else False


def _exact(value: float) -> Fraction | int:
    if np.isnan(value):
        return INFINITY * 2  # compares equal to nothing that a model computes
    if np.isinf(value):
        return INFINITY if value > 0 else -INFINITY
    result = Fraction(value)
    return int(result) if result.denominator == 1 else result


def constant_element(interpreter: Interpreter, name: str, array: Array, indices: tuple[Poly, ...]) -> Poly:
    """The element of a constant tensor at a symbolic index."""
    if len(indices) != array.ndim:
        return interpreter.read(name, indices)
    kept: list[int | slice] = []
    moving: list[Poly] = []
    axes: list[int] = []
    still = _still_axes(interpreter, name, array)
    for axis, index in enumerate(indices):
        place = index.constant
        if axis in still:
            kept.append(0)
        elif place is not None:
            if not -array.shape[axis] <= place < array.shape[axis]:
                return interpreter.read(name, indices)
            kept.append(int(place))
        else:
            kept.append(slice(None))
            moving.append(index)
            axes.append(axis)
    part = array[tuple(kept)]
    if not moving:
        value = float(part)
        if array.dtype == np.bool_:
            return poly(int(value))
        return poly(int(part)) if np.issubdtype(array.dtype, np.integer) else poly(_exact(value))
    signature = (name, tuple(k if isinstance(k, int) else -1 for k in kept))
    return _element(interpreter, signature, part, tuple(moving))


def _still_axes(interpreter: Interpreter, name: str, array: Array) -> tuple[int, ...]:
    """Axes along which a constant does not change: of extent 1, or a batch baked into a table."""
    found = interpreter.table_fits.get(("still", name))
    if found is None:
        found = tuple(a for a in range(array.ndim) if array.shape[a] == 1 or _constant_along(array, a))
        interpreter.table_fits[("still", name)] = found
    assert isinstance(found, tuple)
    return found


def _element(
    interpreter: Interpreter, signature: tuple[str, tuple[int, ...]], part: Array, moving: tuple[Poly, ...]
) -> Poly:
    name = signature[0] if all(k in (0, -1) for k in signature[1]) else f"{signature[0]}{list(signature[1])}"
    periods = tuple(_period(interpreter, part.shape[axis], index) for axis, index in enumerate(moving))
    key = (signature, periods)
    if _hides_upside_down(part):
        # +inf before a negation: fit the negated table, in which -inf hides keys.
        negated = np.negative(np.asarray(part, np.float64)).astype(part.dtype)
        return -_element(interpreter, (f"-{signature[0]}", signature[1]), negated, moving)
    fit = interpreter.table_fits.get(key)
    if fit is None:
        with np.errstate(all="ignore"):  # infinities are legal entries
            fit = _fit(name, part, periods)
        interpreter.table_fits[key] = fit
    assert isinstance(fit, Fit)
    reduced = tuple(
        divmod_index(interpreter, index, poly(period))[1] if period else index
        for index, period in zip(moving, fit.periods, strict=True)
    )
    return fit.at(reduced)


def _hides_upside_down(part: Array) -> bool:
    """Whether entries are +inf, and none hides a key as it stands."""
    if part.dtype.kind != "f":
        return False
    values = np.asarray(part, np.float64)
    return bool(np.isposinf(values).any() and not (values <= float(HIDING_VALUE)).any())


def _period(interpreter: Interpreter, extent: int, index: Poly) -> int:
    """A period that the index suggests (b * H + h suggests H), 0 for none."""
    for _, coefficient in index.terms:
        if isinstance(coefficient, int) or coefficient.denominator == 1:
            period = int(magnitude(coefficient))
            if 1 < period <= extent:
                _, rest = divmod_index(interpreter, index, poly(period))
                if not any(isinstance(a, Apply) for a in rest.atoms):
                    return period
    return 0


@dataclass(frozen=True)
class Fit:
    """A table as formula: ``value(index)`` where ``visible(index)``, hidden elsewhere.

    ``parameters`` are the axes that only select constants (heads); the others are positions.
    """

    name: str
    periods: tuple[int, ...]
    data: Floats
    integer: bool
    boolean: bool
    parameters: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    form: str = ""
    coefficients: tuple[Floats, ...] = ()
    visible: tuple[tuple[int, ...], ...] | None = None

    def at(self, indices: tuple[Poly, ...]) -> Poly:
        """The element at an index."""
        if not self.form:
            value = table(self.name, self.data, indices, self.integer or self.boolean)
            return ind(_test(value)) if self.boolean else value
        own = tuple(indices[a] for a in self.parameters)
        where = [indices[a] for a in self.positions]

        def coefficient(position: int, suffix: str) -> Poly:
            return table(f"{self.name}.{suffix}", self.coefficients[position], own)

        if self.form == "affine":
            value = coefficient(0, "offset")
            for position, index in enumerate(where):
                value = value + coefficient(position + 1, f"slope{position}") * index
        elif self.form == "distance":
            kink = coefficient(2, "kink")
            span = where[0] - where[1] if len(where) == 2 else where[0]
            value = coefficient(0, "offset") + coefficient(1, "slope") * absolute(span - kink)
        elif self.form == "ramp":
            value = coefficient(0, "offset") + coefficient(1, "slope0") * where[0] + coefficient(2, "slope1") * where[1]
            value = value + coefficient(3, "ramp") * min0(where[1] - where[0])
        else:  # "visible": a table of booleans
            value = ZERO
        if self.visible is None:
            return value
        condition = conjunction(
            less_equal(sum((poly(s) * w for s, w in zip(signs, where, strict=True)), ZERO), poly(limit))
            for *signs, limit in self.visible
        )
        if self.boolean:
            return ind(condition)
        return value - (ONE - ind(condition)) * INFINITY


def _test(value: Poly) -> Cond:
    from ..algebra import nonzero

    constant = value.constant
    if constant is not None:
        return nonzero(value)
    return Cond("read", value)


def _fit(name: str, part: Array, periods: tuple[int, ...]) -> Fit:
    boolean = part.dtype == np.bool_
    integer = bool(np.issubdtype(part.dtype, np.integer))
    data = part.astype(np.float64)
    used = []
    for axis, period in enumerate(periods):
        cut = np.take(data, range(period), axis) if period else data
        if period and data.shape[axis] % period == 0 and _repeats(data, cut, axis):
            data = cut
            used.append(period)
        else:
            used.append(0)
    hidden = data <= float(HIDING_VALUE) if not boolean else data == 0
    if boolean or integer:
        spacing = np.zeros_like(data)
    else:
        spacing = _spacing(part.dtype, data, hidden)
    blank = Fit(name, tuple(used), data, integer, boolean)
    if np.isnan(data).any() or np.isposinf(data).any():
        return blank
    for positions in _position_axes(data.ndim):
        fitted = _fit_positions(blank, data, hidden, spacing, positions)
        if fitted is not None:
            return fitted
    return blank


def _repeats(data: Floats, cut: Floats, axis: int) -> bool:
    copies = [1] * data.ndim
    copies[axis] = data.shape[axis] // cut.shape[axis]
    return bool(np.array_equal(data, np.tile(cut, copies)))


def _spacing(dtype: np.dtype[np.generic], data: Floats, hidden: npt.NDArray[np.bool_]) -> Floats:
    """One unit in the last place of the stored type, per entry."""
    bits = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}.get(dtype.name, 23)
    magnitude = np.where(hidden, 1.0, np.abs(data))
    smallest = {"float16": 2.0**-14, "float64": 2.0**-1022}.get(dtype.name, 2.0**-126)
    exponent = np.floor(np.log2(np.maximum(magnitude, smallest)))
    return np.asarray(np.exp2(exponent - bits))


def _position_axes(rank: int) -> Iterator[tuple[int, ...]]:
    """Which axes may be positions, likeliest first: the last two, the last, then any."""
    if rank >= 2:
        yield (rank - 2, rank - 1)
    for pair in combinations(range(rank), 2):
        if pair != (rank - 2, rank - 1):
            yield pair
    yield (rank - 1,)
    for axis in range(rank - 1):
        yield (axis,)


def _fit_positions(
    blank: Fit, data: Floats, hidden: npt.NDArray[np.bool_], spacing: Floats, positions: tuple[int, ...]
) -> Fit | None:
    parameters = tuple(a for a in range(data.ndim) if a not in positions)
    order = (*parameters, *positions)
    values = np.transpose(data, order)
    masked = np.transpose(hidden, order)
    units = np.transpose(spacing, order)
    heads = values.shape[: len(parameters)]
    values = values.reshape(-1, *values.shape[len(parameters) :])
    masked = masked.reshape(-1, *masked.shape[len(parameters) :])
    units = units.reshape(values.shape)
    if values.shape[0] == 0 or values.size == 0:
        return None
    visible: tuple[tuple[int, ...], ...] | None = None
    if masked.any():
        if not (masked == masked[0]).all():
            return None
        visible = _visible_pattern(~masked[0])
        if visible is None:
            return None
    if blank.boolean:
        if visible is None:
            return None
        return Fit(blank.name, blank.periods, blank.data, False, True, parameters, positions, "visible", (), visible)
    for form, solver in (("affine", _solve_affine), ("distance", _solve_distance), ("ramp", _solve_ramp)):
        rows = []
        for value, mask, unit in zip(values, masked, units, strict=True):
            solution = solver(value, ~mask, unit)
            if solution is None:
                break
            rows.append(solution)
        else:
            stacked = np.array(rows, np.float64)
            coefficients = tuple(stacked[:, k].reshape(heads) for k in range(stacked.shape[1]))
            return Fit(
                blank.name,
                blank.periods,
                blank.data,
                blank.integer,
                False,
                parameters,
                positions,
                form,
                coefficients,
                visible,
            )
    return None


def _grids(shape: tuple[int, ...]) -> list[Floats]:
    return [np.asarray(g, np.float64) for g in np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)]


def _solve_affine(value: Floats, visible: npt.NDArray[np.bool_], unit: Floats) -> tuple[float, ...] | None:
    """Offset and one slope per axis, exact to one unit on every visible entry."""
    grids = _grids(value.shape)
    for slopes in _affine_candidates(value, visible):
        line = sum((s * g for s, g in zip(slopes, grids, strict=True)), np.zeros(value.shape))
        rest = np.where(visible, value - line, 0.0)
        offset = _offset(rest, visible, unit)
        if (np.abs(np.where(visible, value - (line + offset), 0.0)) <= unit).all():
            return (offset, *slopes)
    return None


def _offset(rest: Floats, visible: npt.NDArray[np.bool_], unit: Floats) -> float:
    """The constant that is left: from the entry that is stored most precisely."""
    place = np.unravel_index(np.argmin(np.where(visible, unit, np.inf)), unit.shape)
    return float(rest[place])


def _affine_candidates(value: Floats, visible: npt.NDArray[np.bool_]) -> Iterator[tuple[float, ...]]:
    near, far = [], []
    for axis in range(value.ndim):
        a = np.moveaxis(value, axis, 0)
        v = np.moveaxis(visible, axis, 0)
        pair = v[1:] & v[:-1]
        if pair.any():
            # The smallest entries are stored most precisely, so their difference is the best short one.
            size = np.where(pair, np.maximum(np.abs(a[1:]), np.abs(a[:-1])), np.inf)
            place = np.unravel_index(np.argmin(size), size.shape)
            near.append(float(a[1:][place] - a[:-1][place]))
        else:
            near.append(0.0)
        count = v.sum(axis=0)
        # The line along this axis that has the most visible entries.
        best = int(np.argmax(count))
        column, shown = a.reshape(len(a), -1)[:, best], v.reshape(len(v), -1)[:, best]
        where = np.nonzero(shown)[0]
        if len(where) > 1:
            first, last = where[0], where[-1]
            far.append(float((column[last] - column[first]) / (last - first)))
        else:
            far.append(0.0)
    yield tuple(near)
    yield tuple(float(np.float32(f)) for f in far)
    yield tuple(far)


def _solve_distance(value: Floats, visible: npt.NDArray[np.bool_], unit: Floats) -> tuple[float, ...] | None:
    """offset, slope and kink of ``offset + slope * |x - kink|``; x = row - column with two axes."""
    grids = _grids(value.shape)
    span = grids[0] - grids[1] if value.ndim == 2 else grids[0]
    span = np.broadcast_to(span, value.shape)
    if not visible.any():
        return None
    for extreme in (np.argmax, np.argmin):
        filler = -np.inf if extreme is np.argmax else np.inf
        place = np.unravel_index(extreme(np.where(visible, value, filler)), value.shape)
        kink = float(span[place])
        offset = float(value[place])
        distance = np.abs(span - kink)
        usable = visible & (distance > 0)
        if not usable.any():
            continue
        nearest = np.unravel_index(np.argmin(np.where(usable, distance, np.inf)), value.shape)
        farthest = np.unravel_index(np.argmax(np.where(usable, distance, -1.0)), value.shape)
        for point in (nearest, farthest):
            slope = float((value[point] - offset) / distance[point])
            if (np.abs(np.where(visible, value - (offset + slope * distance), 0.0)) <= unit).all():
                return offset, slope, kink
    return None


def _solve_ramp(value: Floats, visible: npt.NDArray[np.bool_], unit: Floats) -> tuple[float, ...] | None:
    """offset, two slopes and the bend of ``offset + s0 * r + s1 * c + bend * min(0, c - r)``.

    One line on and above the diagonal, another on and below it: a running sum of a triangle, or
    different slopes for the past and the future.
    """
    if value.ndim != 2 or min(value.shape) < 2:
        return None
    row, column = _grids(value.shape)
    upper = _solve_affine(value, visible & (column >= row), unit)
    lower = _solve_affine(value, visible & (column <= row), unit)
    if upper is None or lower is None:
        return None
    bend = lower[2] - upper[2]
    whole = upper[0] + upper[1] * row + upper[2] * column + bend * np.minimum(0.0, column - row)
    if (np.abs(np.where(visible, value - whole, 0.0)) <= unit).all():
        return (*upper, bend)
    return None


def _visible_pattern(visible: npt.NDArray[np.bool_]) -> tuple[tuple[int, ...], ...] | None:
    """Linear conditions ``sum(sign * position) <= limit`` that hold exactly on the visible entries."""
    grids = _grids(visible.shape)
    choices = [(-1,), (1,)] if visible.ndim == 1 else [(-1, 1), (1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)]
    if not visible.any():
        return None
    found: list[tuple[int, ...]] = []
    covered = np.ones_like(visible)
    for signs in choices:
        measure = np.broadcast_to(sum(s * g for s, g in zip(signs, grids, strict=True)), visible.shape)
        limit = int(measure[visible].max())
        allowed = measure <= limit
        if (covered & ~allowed).any():
            found.append((*signs, limit))
            covered = covered & allowed
        if (covered == visible).all():
            return tuple(found)
    return None


def misfit(data: Floats) -> str:
    """Where the best line per leading axis is worst: for the message of a refusal."""
    finite = data > float(HIDING_VALUE)
    flat = data.reshape(-1, data.shape[-1]) if data.ndim else data.reshape(1, 1)
    keep = finite.reshape(flat.shape)
    worst, text = 0.0, ""
    grid = np.arange(flat.shape[1], dtype=np.float64)
    for row, (values, mask) in enumerate(zip(flat, keep, strict=True)):
        if mask.sum() < 3:
            continue
        line = np.polyval(np.polyfit(grid[mask], values[mask], 1), grid)
        gap = np.where(mask, np.abs(values - line), 0.0)
        if gap.max() > worst:
            worst = float(gap.max())
            place = [int(p) for p in np.unravel_index(row, data.shape[:-1])] if data.ndim > 1 else []
            text = f"the best line leaves {worst:.3g} at index {[*place, int(gap.argmax())]}"
    return text
