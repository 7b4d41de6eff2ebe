"""Slopes: constants, inputs, and what exporters leave unfolded."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..misses.slopes import SLOPES
from ..spelling import SYMMETRIC
from ..truth import slope_values


def slopes(w: Writer, rank: int) -> str:
    """Slopes of the wanted rank: [H], [H, 1, 1] or [1, H, 1, 1]."""
    g, sp = w.g, w.sp
    if sp.miss in SLOPES:
        return str(SLOPES[sp.miss](w))
    values = slope_values(sp)
    shape = {1: [sp.heads], 3: [sp.heads, 1, 1], 4: [1, sp.heads, 1, 1]}[rank]
    sign = -1.0 if sp.bias in SYMMETRIC and sp.negate == "slope" else 1.0

    def signed(made: str) -> str:
        return g.op("Neg", made) if sign < 0 else made

    def ranked(made: str) -> str:
        return g.op("Reshape", made, g.const(shape)) if rank > 1 else made

    if sp.slopes == "input":
        return signed(ranked("slopes"))
    if sp.slopes == "explog":
        log = np.log(np.abs(values)).reshape(shape)
        return signed(g.cast(g.op("Exp", g.const(log, np.float32)), w.bias_float))
    if sp.slopes == "pow":
        steps = g.op("Range", g.const(1), g.const(sp.heads + 1), g.const(1))
        made = g.op("Pow", g.const(0.5, np.float32), g.cast(steps, np.float32))
        return signed(ranked(g.cast(made, w.bias_float)))
    if sp.slopes == "exp2":
        steps = g.cast(g.op("Range", g.const(1), g.const(sp.heads + 1), g.const(1)), np.float32)
        power = g.op("Mul", steps, g.const(-8.0 / sp.heads, np.float32))
        return signed(ranked(g.cast(g.op("Pow", g.const(2.0, np.float32), power), w.bias_float)))
    if sp.slopes == "pieces" and sp.heads > 1:
        half = sp.heads // 2
        parts = [g.const(sign * v, w.bias_float) for v in (values[:half], values[half:])]
        return ranked(g.op("Concat", *parts, axis=0))
    if sp.slopes in UNFOLDED:
        return ranked(g.cast(signed(UNFOLDED[sp.slopes](w, values)), w.bias_float))
    if sp.slopes == "reciprocal":
        return g.op("Reciprocal", g.const((sign / values).reshape(shape), w.bias_float))
    return g.const((sign * values).reshape(shape), w.bias_float)


# --- [H] float32, as it is left where nothing folds constants


def logarithms(w: Writer, values: np.ndarray) -> str:
    return w.g.op("Neg", w.g.op("Log", w.g.const(np.exp(-values), np.float32)))


def clipped(w: Writer, values: np.ndarray) -> str:
    """Slopes that are zero were negative."""
    given = np.where(values == 0, -0.5, values)
    low = w.g.const(0.0, np.float32)
    return w.g.op("Clip", w.g.const(given, np.float32), low)


def two_powers(w: Writer, values: np.ndarray) -> str:
    """Powers of one number for the first half of the heads, of another for the others."""
    g, count = w.g, w.sp.heads
    half = (count + 1) // 2
    parts = []
    for base, part in ((0.5, half), (0.6, count - half)):
        steps = g.cast(g.op("Range", g.const(1), g.const(part + 1), g.const(1)), np.float32)
        parts.append(g.op("Pow", g.const(base, np.float32), steps))
    return g.op("Concat", *parts, axis=0)


UNFOLDED = {"log": logarithms, "clipped": clipped, "two-powers": two_powers}
