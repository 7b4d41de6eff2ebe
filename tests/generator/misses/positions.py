"""Positions of rows and keys that are counted wrongly, or from something else than the order of the keys."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..parts.layout import first_head
from . import named


def offset(w: Writer) -> tuple[str, str]:
    """Rows begin at key 0, whatever is cached."""
    return w.g.const(0), w.new


def offset_one(w: Writer) -> tuple[str, str]:
    """Every row is one key later than it is."""
    return w.g.op("Add", w.own, w.g.const(1)), w.g.op("Add", w.total, w.g.const(1))


def by_position_ids(w: Writer) -> tuple[str, str]:
    """Positions of rows and keys are a graph input."""
    return w.g.unsqueeze("position_ids", 1, 3), w.g.unsqueeze("position_ids", 1, 2)


def half_step(w: Writer, indices: tuple[str, str]) -> tuple[str, str]:
    """Rows count twice."""
    rows, keys = indices
    return w.g.op("Add", rows, rows), keys


def flipped(w: Writer, indices: tuple[str, str]) -> tuple[str, str]:
    """Keys are counted from the last one."""
    rows, keys = indices
    last = w.g.unsqueeze(w.g.op("Sub", w.total, w.g.const(1)), 0, 1)
    return rows, w.g.op("Sub", w.g.cast(last, np.int32) if w.sp.int32 else last, keys)


def narrow_cast(w: Writer, indices: tuple[str, str]) -> tuple[str, str]:
    """Positions go through int8, which holds 127 and no more."""
    rows, keys = (w.g.cast(w.g.cast(p, np.int8), np.int64) for p in indices)
    return rows, keys


def forgetting(w: Writer) -> str:
    """Positions are sums of gates that are computed from activations."""
    g, sp = w.g, w.sp
    gates = g.op("ReduceMean", w.query, keepdims=0, **({} if sp.opset >= 18 else {"axes": [-1]}))
    if sp.opset >= 18:
        g.nodes[-1].input.append(g.const([-1]))
        if sp.constants == "node":  # it was written behind the node that reads it
            g.nodes[-2:] = g.nodes[:-3:-1]
    place = g.op("CumSum", g.op("Sigmoid", g.cast(first_head(w, gates), np.float32)), g.const(1))
    return g.cast(place, w.bias_float)


def float_mask_positions(w: Writer) -> str:
    """Positions are sums of weights that are no integers."""
    return w.g.cast(w.g.op("CumSum", w.g.cast("weights", np.float32), w.g.const(1)), w.bias_float)


FIRST_ROWS = named(offset, offset_one)
"""First row, and one behind the last."""

INDICES = {"packed": by_position_ids, "position-ids": by_position_ids}
"""Indices of rows and keys, in place of the model's own."""

PLACES = named(half_step, flipped, narrow_cast)
"""What becomes of these indices."""

COUNTED = named(forgetting, float_mask_positions)
"""Positions of keys, in place of those that are counted in the mask."""
