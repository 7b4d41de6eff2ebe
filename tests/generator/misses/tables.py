"""Constant tables of which some numbers are wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..graph import Writer
from ..spelling import BUFFER
from . import named

Numbers = npt.NDArray[np.float64]


# --- the distance that a table is made of; ``length`` is within the table


def clip(w: Writer, distance: Numbers, length: int) -> Numbers:
    return np.minimum(distance, length)


def mod(w: Writer, distance: Numbers, length: int) -> Numbers:
    return distance % length


def quadratic(w: Writer, distance: Numbers, length: int) -> Numbers:
    return distance * distance


def bucket(w: Writer, distance: Numbers, length: int) -> Numbers:
    return distance // 2 * 2


def log(w: Writer, distance: Numbers, length: int) -> Numbers:
    return np.log1p(distance)


def square_root(w: Writer, distance: Numbers, length: int) -> Numbers:
    return np.sqrt(distance)


def grid(w: Writer, distance: Numbers, length: int) -> Numbers:
    return distance % 5 + distance // 5


# --- entries


def table_ulp(w: Writer, data: Numbers) -> Numbers:
    """Some units in the last place."""
    unit = np.spacing(np.abs(np.where(np.isfinite(data), data, 0)).astype(w.bias_float)).astype(np.float64)
    return data + unit * generator_of(w).integers(-4, 5, data.shape)


def table_noise(w: Writer, data: Numbers) -> Numbers:
    return data + generator_of(w).normal(0, 3e-2, data.shape)


def three_ulp(w: Writer, data: Numbers) -> Numbers:
    """Three units in the last place of one entry before the diagonal."""
    rows = np.arange(data.shape[-2])[:, None] if data.ndim == 3 and data.shape[-2] > 1 else np.array([[BUFFER]])
    before = np.broadcast_to(np.arange(data.shape[-1]) < rows, data.shape) & (data != 0)
    chosen = np.flatnonzero(before)[int(w.sp.where * (before.sum() - 1))]
    flat = data.reshape(-1).copy()
    flat[chosen] += 3 * np.spacing(np.abs(flat[chosen]).astype(w.bias_float)).astype(np.float64)
    return flat.reshape(data.shape)


def table_entry(w: Writer, data: Numbers) -> Numbers:
    """One entry, clearly."""
    finite = np.flatnonzero(np.isfinite(data))
    flat = data.reshape(-1).copy()
    flat[finite[min(len(finite) - 1, int(w.sp.where * len(finite)))]] += 1.5
    return flat.reshape(data.shape)


def table_tail(w: Writer, data: Numbers) -> Numbers:
    """All entries from some key on."""
    cut = BUFFER // 2 + int(w.sp.where * (BUFFER // 2 - 2))
    out = data.copy()
    out[..., cut:] += 1.0
    return out


def generator_of(w: Writer) -> np.random.Generator:
    return np.random.default_rng(w.sp.seed + 1)


# --- how a table is read


def later_row(w: Writer, distance: Numbers) -> Numbers:
    """Every row is one key later than it is."""
    i, j = np.arange(BUFFER)[:, None], np.arange(BUFFER)[None, :]
    return np.abs(i + 1 - j).astype(np.float64)


def cut_at_its_start(w: Writer, index: str) -> str:
    return w.g.op("Max", index, w.g.const(0)) if w.sp.opset >= 12 else index


BENT = named(clip, mod, quadratic, bucket, log, square_root, grid)
SPOILED = named(table_ulp, table_noise, three_ulp, table_entry, table_tail)
SQUARES = {"offset-one": later_row}
"""Distances of a table over rows and keys."""

LOWEST = {"offset-one": cut_at_its_start}
"""Indices into a table over distances."""

UNSHIFTED = frozenset({"wrap"})
"""Indices that are negative before the row: counted from its end, the table says something else."""
