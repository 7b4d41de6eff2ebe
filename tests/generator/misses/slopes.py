"""Slopes that are not one number per head."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..parts.layout import heads
from ..spelling import BUFFER
from ..truth import slope_values
from . import named


def batch_slope(w: Writer) -> str:
    """A slope per batch entry and head, from a graph input."""
    return w.g.cast(w.g.op("Reshape", "batch_slopes", w.g.const([0, w.sp.heads, 1, 1])), w.bias_float)


def data_slope(w: Writer) -> str:
    """Slopes times the largest number in the query of their head."""
    g, sp = w.g, w.sp
    size = g.op("Abs", heads(w, w.query, sp.heads))
    if sp.opset >= 18:
        largest = g.op("ReduceMax", size, g.const([2, 3]), keepdims=1)
    else:
        largest = g.op("ReduceMax", size, axes=[2, 3], keepdims=1)
    values = slope_values(sp).reshape([sp.heads, 1, 1])
    return g.cast(g.op("Mul", largest, g.const(values, w.float)), w.bias_float)


def slope_per_key(w: Writer, place: str) -> str:
    start, end = w.g.const(0), w.total
    table = w.g.const(np.linspace(0.1, 0.5, BUFFER).reshape([1, 1, -1]), w.bias_float)
    return w.g.op("Mul", w.g.slice(table, start, end, 2), place)


def slope_per_row(w: Writer, place: str) -> str:
    table = w.g.const(np.linspace(0.1, 0.5, BUFFER).reshape([1, -1, 1]), w.bias_float)
    return w.g.op("Mul", w.g.slice(table, w.own, w.total, 1), place)


def slopes_on_batch(w: Writer, place: str) -> str:
    """The slopes lie along the axis of the batch."""
    return w.g.commute("Mul", w.g.const(slope_values(w.sp).reshape([2, 1, 1, 1]), w.bias_float), place)


SLOPES = named(batch_slope, data_slope)
"""The slopes' tensor, [B or 1, H, 1, 1]."""

SLOPED = named(slope_per_key, slope_per_row, slopes_on_batch)
"""The bias, of a distance."""
