"""Biases that are a constant table, and how a part of it is taken."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..misses import positions, spoil
from ..misses import tables as misses
from ..spelling import BATCHES, BUFFER, STATIC, SYMMETRIC
from ..truth import slope_values


def table(w: Writer) -> str:
    """A table of slope times distance over [H, rows, keys], and the part of it that the model reads."""
    sp = w.sp
    values = slope_values(sp)[:, None, None]
    if sp.bias in SYMMETRIC and sp.negate == "slope":
        values = -values
    if sp.bias.startswith("gather"):
        return by_distance(w, values)
    if sp.bias == "baked":
        return of_exact_size(w, values)
    data = spoiled(w, numbers(w, values)).astype(w.bias_float)
    if sp.bias == "table-batch":
        return with_batch(w, data)
    axis = 1
    if sp.table_rank == 4:
        data, axis = data[None], 2
    return cut(w, w.g.const(data, w.bias_float), axis)


def numbers(w: Writer, values: np.ndarray) -> np.ndarray:
    """Slope times distance, [H, rows or 1, keys]."""
    sp = w.sp
    i, j = np.arange(BUFFER)[:, None], np.arange(BUFFER)[None, :]
    if sp.bias == "table2":
        distance = spoil(w, misses.SQUARES, bent(w, np.abs(i - j)))
        return values * distance * (-1.0 if sp.negate == "distance" else 1.0)
    if sp.bias == "table1":
        return values * j
    if sp.bias in ("table1-end", "table1-cut"):
        return values * (j - (BUFFER - 1))
    if sp.bias in ("table2-linear", "table-batch"):
        return values * (j - i)
    return np.where(j > i, -np.inf, values * (j + 0.0 * i))


def cut(w: Writer, part: str, axis: int) -> str:
    """The rows and keys that a run has."""
    g, sp = w.g, w.sp
    if sp.bias == "table1-cut":  # the last of its rows and keys, as MPT cuts it
        far = g.const(2**31)
        rows = g.op("Max", g.op("Sub", g.const(1), w.total), g.const(0))
        keys = g.op("Max", g.op("Sub", g.const(BUFFER), w.total), g.const(0))
        return g.slice(g.slice(part, rows, far, axis), keys, far, axis + 1)
    if sp.bias in ("table2", "table2-linear", "table2-inf"):
        start, end = positions.offset(w) if sp.miss == "offset" else (w.own, w.total)
        part = g.slice(part, start, end, axis)
    if sp.bias == "table1-end":
        length = g.const(BUFFER)
        return g.slice(part, g.op("Sub", length, w.total), length, axis + 1)
    return g.slice(part, g.const(0), w.total, axis + 1)


def with_batch(w: Writer, data: np.ndarray) -> str:
    """[B*H, S_q, S_kv] of a table that holds one copy for each batch entry."""
    g = w.g
    part = g.const(np.tile(data, (BATCHES, 1, 1)), w.bias_float)
    whole = g.op("Mul", w.batch, g.const(w.sp.heads))
    part = g.slice(g.slice(part, g.const(0), whole, 0), w.own, w.total, 1)
    return g.slice(part, g.const(0), w.total, 2)


def of_exact_size(w: Writer, values: np.ndarray) -> str:
    """A constant of exactly the size of the scores, batch and all."""
    batch, new, past = STATIC if w.sp.cache else (*STATIC[:2], 0)
    keys = np.arange(past + new)
    if w.sp.layout == "merged-bias":
        return w.g.const(np.tile(spoiled(w, values * keys), (batch, 1, 1)), w.bias_float)
    rows = np.arange(new)[:, None] + past
    return w.g.const(np.tile(spoiled(w, values * (keys - rows))[None], (batch, 1, 1, 1)), w.bias_float)


def by_distance(w: Writer, values: np.ndarray) -> str:
    """A table over distances, and a Gather that looks into it."""
    g, sp = w.g, w.sp
    steps = np.arange(-(BUFFER - 1), BUFFER)
    distance = steps.astype(np.float64) if sp.bias == "gather-linear" else bent(w, np.abs(steps))
    data = values[:, 0] * distance * (-1.0 if sp.bias == "gather" and sp.negate == "distance" else 1.0)
    data = spoiled(w, data).astype(w.bias_float)
    index = g.op("Sub", g.unsqueeze(w.keys, 0), g.unsqueeze(w.rows, 1))
    if sp.miss not in misses.UNSHIFTED:
        index = g.op("Add", index, g.const(BUFFER - 1))
    index = spoil(w, misses.LOWEST, index)
    if sp.table_rank == 4:
        return g.op("Transpose", g.op("Gather", g.const(data.T, w.bias_float), index, axis=0), perm=[2, 0, 1])
    return g.op("Gather", g.const(data, w.bias_float), index, axis=1)


def bent(w: Writer, distance: np.ndarray) -> np.ndarray:
    return np.asarray(spoil(w, misses.BENT, distance, 2 + int(w.sp.where * 30)), np.float64)


def spoiled(w: Writer, data: np.ndarray) -> np.ndarray:
    """The entries as their type holds them, with the fault of a near miss."""
    return np.asarray(spoil(w, misses.SPOILED, data.astype(w.bias_float).astype(np.float64)))
