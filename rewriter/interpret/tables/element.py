"""Constant tables as formulas: an exact fit over the whole buffer, or no formula at all.

A table that is read at an index that moves is replaced by a closed form in that index if every finite
entry of the *whole* buffer agrees with it to one unit in the last place of the stored type, not only the
entries that a short test would use.  Entries that hide a key (-inf, finfo.min) become a condition.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ....algebra import (
    INFINITY,
    ONE,
    ZERO,
    Apply,
    Cond,
    Hashed,
    Index,
    Poly,
    Read,
    Substitution,
    absolute,
    conjunction,
    ind,
    is_nonnegative,
    is_nonpositive,
    less_equal,
    magnitude,
    min0,
    of,
    poly,
    substitute,
)
from ....algebra.polynomial import shown
from ....patterns.masks import HIDING_VALUE
from ..digits import divmod_index
from ..rounding import NARROW
from .blocks import constant_along
from .fitting import Fit, fit, repeating

if TYPE_CHECKING:
    from ....graph.index import Array
    from ..environment import Environment

Floats = npt.NDArray[np.float64]

MOST_ROWS = 1 << 12
"""Rows of a table without a formula that are looked at for a message."""

MOST_CUT = 1 << 20
"""Elements of a table whose axes are cut where its index holds two."""

LARGE = 1 << 22
"""Elements of a table without a formula beyond which it is no atom, but a read like any other tensor."""


NUMPY_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}

LARGEST_INTEGER = 1 << 53
"""Tables of larger integers are not atoms, since entries are kept in float64, which would round them."""


@dataclass(frozen=True, eq=False)
class Table(Hashed):
    """One element of a constant without a closed form; a number as soon as its index is one."""

    name: str
    indices: tuple[Poly, ...]
    data: Floats = field(repr=False)
    integer: bool = False
    tag: str = ""
    """Stands for the data, since tables of equal names in different models are different."""

    def _distinction(self) -> str:
        return self.tag

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"{shown(self.name)}[{', '.join(map(show, self.indices))}]"

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.indices

    def extreme(self, *, lowest: bool) -> Poly | None:
        if not self.data.size or not self.is_finite:
            return None
        return poly(_exact(float(self.data.min() if lowest else self.data.max())))

    @cached_property
    def is_finite(self) -> bool:  # type: ignore[override]
        return bool((np.abs(self.data) < float(INFINITY) / 2).all())

    @property
    def sign(self) -> int | None:
        if not self.data.size or np.isnan(self.data).any():
            return None
        return 1 if self.data.min() >= 0 else (-1 if self.data.max() <= 0 else None)

    @property
    def denominator(self) -> int | None:
        return 1 if self.integer else None

    def substitute(self, mapping: Substitution) -> Poly:
        places = tuple(substitute(i, mapping) for i in self.indices)
        return _entry(self.name, self.data, places, self.integer, self.tag)


def fingerprint(data: Floats) -> str:
    """A short text that differs for different data."""
    return hashlib.blake2b(np.ascontiguousarray(data).tobytes(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Values:
    """Constant data without the axes along which nothing changes (a batch baked into a constant is no axis).

    Attributes:
        data: The data.
        axes: Which axes of the original they have.
        tag: Their fingerprint.
    """

    data: Floats
    axes: tuple[int, ...]
    tag: str


def values(data: Floats) -> Values:
    """Constant data, looked through once."""
    axes = tuple(a for a in range(data.ndim) if not constant_along(data, a))
    data = data[tuple(slice(None) if a in axes else 0 for a in range(data.ndim))]
    return Values(data, axes, fingerprint(data))


def table(name: str, data: Floats, indices: tuple[Poly, ...], integer: bool = False) -> Poly:
    """An element of constant data: a number where the index is constant (or the data are), else an atom."""
    return _table(name, values(data), indices, integer)


def _table(name: str, held: Values, indices: tuple[Poly, ...], integer: bool = False) -> Poly:
    own = tuple(indices[a] for a in held.axes)
    cut = digits_of(held.data.shape, own) if held.data.size <= MOST_CUT else None
    if cut is not None:
        return _table(name, values(held.data.reshape(cut[0])), cut[1], integer)
    return _entry(name, held.data, own, integer, held.tag)


def digits_of(shape: tuple[int, ...], indices: tuple[Poly, ...]) -> tuple[tuple[int, ...], tuple[Poly, ...]] | None:
    """A shape and an index with each axis cut that holds two indices: [S*H] at H*i + h is [S, H] at (i, h).

    None where no axis is cut.  Both digits have to stay within their extents for every index, so that the element is
    the same one.
    """
    extents: list[int] = []
    places: list[Poly] = []
    apart, whole = _apart(indices)
    for extent, index in zip(shape, indices, strict=True):
        found = _digits(extent, substitute(index, apart))
        if found is not None:
            found = (found[0], substitute(found[1], whole), substitute(found[2], whole))
        extents += [extent] if found is None else [extent // found[0], found[0]]
        places += [index] if found is None else [found[1], found[2]]
    return (tuple(extents), tuple(places)) if len(extents) > len(shape) else None


def _apart(indices: tuple[Poly, ...]) -> tuple[Substitution, Substitution]:
    """Quotients of indices as indices of their own, whose bounds are known; and the way back."""
    apart: Substitution = {}
    whole: Substitution = {}
    for quotient in sorted({a for x in indices for a in x.all_atoms() if isinstance(a, Apply)}):
        if quotient.function != "floordiv":
            continue
        index, group = quotient.arguments[0].single_atom, quotient.arguments[1].constant
        count = index.bound.constant if isinstance(index, Index) else None
        if not isinstance(index, Index) or not group or count is None or count % group or index in apart:
            continue
        major, minor = Index(f"{index.name}//", poly(count // group)), Index(f"{index.name}%", poly(group))
        apart.update({index: of(major) * group + of(minor), quotient: of(major)})
        whole.update({major: of(quotient), minor: of(index) - of(quotient) * group})
    return apart, whole


def _digits(extent: int, index: Poly) -> tuple[int, Poly, Poly] | None:
    """(K, q, r) with index = K * q + r, 0 <= r < K and 0 <= q < extent / K."""
    factors = sorted({int(c) for _, c in index.terms if isinstance(c, int) and 1 < c < extent and extent % c == 0})
    for factor in factors:
        quotient = {m: int(c) // factor for m, c in index.terms if m and isinstance(c, int) and c % factor == 0}
        major = Poly(dict(quotient))
        minor = index - major * factor
        inside = is_nonnegative(minor) and is_nonpositive(minor - (factor - 1))
        if inside and minor.terms and is_nonnegative(major) and is_nonpositive(major - (extent // factor - 1)):
            return factor, major, minor
    return None


def _entry(name: str, data: Floats, indices: tuple[Poly, ...], integer: bool, tag: str) -> Poly:
    positions = [i.constant for i in indices]
    if all(p is not None for p in positions):
        place = tuple(int(p) for p in positions if p is not None)
        if all(-n <= p < n for p, n in zip(place, data.shape, strict=True)) and _is_number(float(data[place])):
            return poly(_exact(float(data[place])))
    return of(Table(name, indices, data, integer, tag))


def _exact(value: float) -> Fraction | int:
    """A number, not NaN, as a fraction."""
    if np.isinf(value):
        return INFINITY if value > 0 else -INFINITY
    result = Fraction(value)
    return int(result) if result.denominator == 1 else result


def constant_element(environment: Environment, name: str, array: Array, indices: tuple[Poly, ...]) -> Poly:
    """The element of a constant tensor at a symbolic index."""
    if len(indices) != array.ndim:
        return environment.read(name, indices)
    kept: list[int | slice] = []
    moving: list[Poly] = []
    axes: list[int] = []
    still = _still_axes(environment, name, array)
    for axis, index in enumerate(indices):
        place = index.constant
        if axis in still:
            kept.append(0)
        elif place is not None:
            if not -array.shape[axis] <= place < array.shape[axis]:
                return environment.read(name, indices)
            kept.append(int(place))
        else:
            kept.append(slice(None))
            moving.append(index)
            axes.append(axis)
    part = array[tuple(kept)]
    if not moving:
        if array.dtype.kind in "biu" or np.issubdtype(array.dtype, np.integer):
            return poly(int(part))
        number = float(part)
        return poly(_exact(number)) if _is_number(number) else table(name, np.array(number), ())
    signature = (name, tuple(k if isinstance(k, int) else -1 for k in kept))
    value = _element(environment, signature, part, tuple(moving))
    # An integer of a constant may be as large as its type allows, other than those that a run is given.
    return of(Read(name, indices)) if value is None else value


def _is_number(value: float) -> bool:
    """Whether a float is calculated with: no NaN, and nothing of float64 beyond what infinity is here."""
    return math.isinf(value) or abs(value) < INFINITY / 2


def _still_axes(environment: Environment, name: str, array: Array) -> tuple[int, ...]:
    """Axes along which a constant does not change: of extent 1, or a batch baked into a table."""
    found = environment.table_fits.get(("still", name))
    if found is None:
        found = tuple(a for a in range(array.ndim) if array.shape[a] == 1 or constant_along(array, a))
        environment.table_fits[("still", name)] = found
    assert isinstance(found, tuple)
    return found


@dataclass(frozen=True)
class _Fitted:
    """A table that was looked through once: its formula, or its entries where it has none and they are few."""

    fit: Fit
    coefficients: tuple[Values, ...]
    entries: Values | None

    @classmethod
    def of(cls, fitted: Fit) -> _Fitted:
        entries: Values | None = None
        if not fitted.form and fitted.data.size <= LARGE:
            with np.errstate(all="ignore"):
                data = fitted.data.astype(np.float64)
                if fitted.data.dtype.kind not in "iu" or not (np.abs(data) >= LARGEST_INTEGER).any():
                    entries = values(data)
        return cls(fitted, tuple(values(c) for c in fitted.coefficients), entries)


def _element(
    environment: Environment, signature: tuple[str, tuple[int, ...]], part: Array, moving: tuple[Poly, ...]
) -> Poly | None:
    """The element as a formula or an atom; None for a large table without a formula."""
    name = signature[0] if all(k in (0, -1) for k in signature[1]) else f"{signature[0]}{list(signature[1])}"
    periods = tuple(_period(environment, part.shape[axis], index) for axis, index in enumerate(moving))
    repeated = environment.table_fits.get((signature, periods))
    if repeated is None:
        repeated = environment.table_fits[(signature, periods)] = repeating(part, periods)
    assert isinstance(repeated, tuple)
    narrow = NUMPY_TYPES.get(part.dtype.name, 0)
    exact = narrow in NARROW and narrow not in environment.inexact
    key = ("fit", signature, repeated, exact)  # many periods may be tried, few are true
    known = environment.table_fits.get(key)
    if known is None:
        with np.errstate(all="ignore"):  # infinities are legal entries
            known = _Fitted.of(fit(part, repeated, exact=exact))
        environment.table_fits[key] = known
    assert isinstance(known, _Fitted)
    fitted = known.fit
    reduced = tuple(
        divmod_index(environment, index, poly(period))[1] if period else index
        for index, period in zip(moving, fitted.periods, strict=True)
    )
    cut = digits_of(part.shape, moving) if part.size <= MOST_CUT and not any(repeated) else None
    if cut is not None and (fitted.parameters or not fitted.form):
        inner = _element(environment, (f"{signature[0]}{list(cut[0])}", signature[1]), part.reshape(cut[0]), cut[1])
        if inner is not None and not any(isinstance(a, Table) and a.data.size >= part.size for a in inner.all_atoms()):
            return inner
    if fitted.form:
        return -_formula(known, f"-{name}", reduced) if fitted.negated else _formula(known, name, reduced)
    if known.entries is None:
        return None
    value = _table(name, known.entries, reduced, fitted.integer or fitted.boolean)
    return ind(_test(value)) if fitted.boolean else value


def _period(environment: Environment, extent: int, index: Poly) -> int:
    """A period that the index suggests (b * H + h suggests H), 0 for none."""
    for _, coefficient in index.terms:
        if isinstance(coefficient, int) or coefficient.denominator == 1:
            period = int(magnitude(coefficient))
            if 1 < period <= extent:
                _, rest = divmod_index(environment, index, poly(period))
                if not any(isinstance(a, Apply) for a in rest.atoms):
                    return period
    return 0


def _formula(known: _Fitted, name: str, indices: tuple[Poly, ...]) -> Poly:
    """The element of a fitted table at an index."""
    fitted = known.fit
    own = tuple(indices[a] for a in fitted.parameters)
    where = [indices[a] for a in fitted.positions]

    def coefficient(position: int, suffix: str) -> Poly:
        return _table(f"{name}.{suffix}", known.coefficients[position], own)

    if fitted.form == "affine":
        value = coefficient(0, "offset")
        for position, index in enumerate(where):
            value = value + coefficient(position + 1, f"slope{position}") * index
    elif fitted.form == "distance":
        kink = coefficient(2, "kink")
        span = where[0] - where[1] if len(where) == 2 else where[0]
        value = coefficient(0, "offset") + coefficient(1, "slope") * absolute(span - kink)
    elif fitted.form == "ramp":
        value = coefficient(0, "offset") + coefficient(1, "slope0") * where[0] + coefficient(2, "slope1") * where[1]
        value = value + coefficient(3, "ramp") * min0(where[1] - where[0])
    else:  # "visible": a table of booleans
        value = ZERO
    if fitted.visible is None:
        return value
    condition = conjunction(
        less_equal(sum((poly(s) * w for s, w in zip(signs, where, strict=True)), ZERO), poly(limit))
        for *signs, limit in fitted.visible
    )
    if fitted.boolean:
        return ind(condition)
    if math.isinf(fitted.hidden):
        return value - (ONE - ind(condition)) * INFINITY
    return ind(condition) * value + (ONE - ind(condition)) * _exact(fitted.hidden)


def _test(value: Poly) -> Cond:
    from ....algebra import nonzero

    constant = value.constant
    if constant is not None:
        return nonzero(value)
    return Cond("read", value)


def misfit(data: Floats) -> str:
    """Where the best line per leading axis is worst: for the message of a refusal, from the first rows."""
    finite = data > float(HIDING_VALUE)
    flat = data.reshape(-1, data.shape[-1]) if data.ndim else data.reshape(1, 1)
    keep = finite.reshape(flat.shape)
    worst, text = 0.0, ""
    grid = np.arange(flat.shape[1], dtype=np.float64)
    for row, (entries, mask) in enumerate(zip(flat[:MOST_ROWS], keep, strict=False)):
        if mask.sum() < 3:
            continue
        line = np.polyval(np.polyfit(grid[mask], entries[mask], 1), grid)
        gap = np.where(mask, np.abs(entries - line), 0.0)
        if gap.max() > worst:
            worst = float(gap.max())
            place = [int(p) for p in np.unravel_index(row, data.shape[:-1])] if data.ndim > 1 else []
            text = f"the best line leaves {worst:.3g} at index {[*place, int(gap.argmax())]}"
    return text
