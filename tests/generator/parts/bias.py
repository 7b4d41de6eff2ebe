"""The bias of a layer, computed from positions; ``table.py`` has those that are written down."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..misses import distance as misses
from ..misses import positions, spoil
from ..misses.slopes import SLOPED, SLOPES
from ..spelling import COUNTED, SYMMETRIC, is_table, words
from ..truth import layer_factor, slope_values
from .slopes import slopes
from .table import table

BY_ROWS = (*SYMMETRIC, *words("j-i table2-linear table2-inf gather-linear tile causal-max tril-sum min0"))
"""Biases that have an axis of rows."""


def bias_of(w: Writer, layer: int) -> str:
    """The bias, broadcastable to [B, H, S_q, S_kv], or [B*H, 1 or S_q, S_kv] for the merged layout."""
    g, sp = w.g, w.sp
    bias = table(w) if is_table(sp) else computed(w)
    factor = layer_factor(sp, layer)
    if factor != 1.0:
        bias = g.commute("Mul", bias, g.const(factor, w.bias_float))
    if sp.bias in SYMMETRIC and sp.negate == "bias":
        bias = g.op("Neg", bias)
    if sp.casts:
        bias = g.cast(g.cast(bias, np.float64 if sp.opset >= 13 else np.float32), w.bias_float)
    bias = spoil(w, misses.BIASES, bias)
    if w.bias_float is not w.float:
        bias = g.cast(bias, w.float)
    if sp.layout == "merged-bias" and sp.bias not in (*COUNTED, "table-batch", "baked"):
        rows = w.new if sp.bias in BY_ROWS else 1
        full = g.expand(bias, g.shape(w.batch, sp.heads, rows, w.total))
        bias = g.op("Reshape", full, g.shape(-1, rows, w.total))
    return bias


def computed(w: Writer) -> str:
    """Slope times distance, or slope times position."""
    g, sp = w.g, w.sp
    if sp.bias in ("outer", "einsum"):
        return outer(w)
    if sp.bias in COUNTED:
        return counted(w)
    if sp.bias == "per-head":
        return per_head(w)
    place = distance(w) if sp.bias in SYMMETRIC else LINEAR[sp.bias](w)
    place = spoil(w, misses.PLACED, g.cast(place, w.bias_float))
    if sp.bias in SYMMETRIC and sp.negate == "distance":
        place = g.op("Neg", place)
    if sp.miss in SLOPED:
        return str(SLOPED[sp.miss](w, place))
    if sp.slope_rank == 1:
        made = slopes(w, 1)
        return g.commute("Mul", made if sp.miss in SLOPES else g.unsqueeze(made, 1, 2), place)
    return g.commute("Mul", slopes(w, sp.slope_rank), place)


# --- distances |i - j|, [S_q, S_kv] integers, before their sign


def distance(w: Writer) -> str:
    """An integer distance that grows with |i - j|, or the function of it that a near miss uses."""
    g, sp = w.g, w.sp
    if sp.miss in positions.INDICES:
        indices = positions.INDICES[sp.miss](w)
    else:
        indices = g.unsqueeze(w.row_places, 1), g.unsqueeze(w.places, 0)
    rows, keys = spoil(w, positions.PLACES, indices)
    made = DISTANCES.get(sp.bias, absolute)(w, rows, keys)
    near = g.const(2 + int(sp.where * 30), w.integer)
    far = g.const(1000 + int(sp.where * 100_000), w.integer)
    return str(spoil(w, misses.BENT, made, near, far))


def absolute(w: Writer, rows: str, keys: str) -> str:
    return w.g.op("Abs", w.g.op("Sub", keys, rows) if w.sp.swap else w.g.op("Sub", rows, keys))


def maxmin(w: Writer, rows: str, keys: str) -> str:
    return w.g.op("Sub", w.g.commute("Max", rows, keys), w.g.commute("Min", rows, keys))


def where(w: Writer, rows: str, keys: str) -> str:
    after = spoil(w, misses.AFTER, w.g.op("Sub", keys, rows))
    return w.g.op("Where", w.g.op("Less", rows, keys), after, w.g.op("Sub", rows, keys))


def relu(w: Writer, rows: str, keys: str) -> str:
    gap = w.g.cast(w.g.op("Sub", rows, keys), np.float32)
    return w.g.op("Add", w.g.op("Relu", gap), w.g.op("Relu", w.g.op("Neg", gap)))


DISTANCES = {"maxmin": maxmin, "where": where, "relu": relu}


# --- distances that grow with the key, [1 or S_q, S_kv]


def key(w: Writer) -> str:
    if w.sp.miss in misses.KEY_INDICES:
        return str(misses.KEY_INDICES[w.sp.miss](w))
    return w.g.unsqueeze(w.places, 0)


def range_float(w: Writer) -> str:
    g = w.g
    place = g.op("Range", g.const(0.0, np.float32), g.cast(w.total, np.float32), g.const(1.0, np.float32))
    return g.unsqueeze(place, 0)


def tile(w: Writer) -> str:
    return w.g.op("Tile", w.g.unsqueeze(w.places, 0), w.g.shape(w.new, 1))


def causal_max(w: Writer) -> str:
    """-max(i - j, 0)."""
    g = w.g
    gap = g.cast(g.op("Sub", g.unsqueeze(w.row_places, 1), g.unsqueeze(w.places, 0)), np.float32)
    return g.op("Neg", g.op("Max", gap, g.const(0.0, np.float32)))


def gap(w: Writer) -> str:
    """j - i."""
    return w.g.op("Sub", w.g.unsqueeze(w.places, 0), w.g.unsqueeze(w.row_places, 1))


def min0(w: Writer) -> str:
    made = gap(w)
    return w.g.op("Min", made, w.g.const(0, w.integer))


def tril_sum(w: Writer) -> str:
    """1 at and before the row, summed along the keys: j + 1 where a key is visible."""
    ones = w.g.expand(w.g.const([[1]]), w.g.shape(w.new, w.total))
    return w.g.op("CumSum", w.g.op("Trilu", ones, upper=0), w.g.const(1))


def key_less_row(w: Writer) -> str:
    return str(spoil(w, misses.GAPS, gap(w)))


def key_from_last(w: Writer) -> str:
    g = w.g
    return g.unsqueeze(g.op("Sub", w.keys, g.op("Sub", w.total, g.const(1))), 0)


def counted_ones(w: Writer) -> str:
    """As many ones as there are keys, summed."""
    g = w.g
    ones = g.expand(g.const([1]), g.shape(w.total))
    return g.unsqueeze(g.op("Sub", g.op("CumSum", ones, g.const(0)), g.const(1)), 0)


LINEAR = {
    "j": key,
    "range-float": range_float,
    "tile": tile,
    "causal-max": causal_max,
    "min0": min0,
    "tril-sum": tril_sum,
    "j-i": key_less_row,
    "j-last": key_from_last,
    "ones": counted_ones,
}


# --- whole biases


def outer(w: Writer) -> str:
    """[H, 1, S_kv]: slopes times keys as vectors."""
    g = w.g
    keys = g.cast(w.keys, w.bias_float)
    made = slopes(w, 1)
    if w.sp.bias == "einsum":
        return g.unsqueeze(g.op("Einsum", made, keys, equation="h,j->hj"), 1)
    return g.unsqueeze(g.op("MatMul", g.unsqueeze(made, 1), g.unsqueeze(keys, 0)), 1)


def per_head(w: Writer) -> str:
    """[H, 1, S_kv]: one product per head."""
    g = w.g
    keys = g.cast(g.unsqueeze(w.places, 0, 1), w.bias_float)
    heads = [g.op("Mul", keys, g.const(v, w.bias_float)) for v in slope_values(w.sp)]
    return g.op("Concat", *heads, axis=0)


def counted(w: Writer) -> str:
    """BLOOM's bias: (cumsum(mask) - 1) * mask."""
    g, sp = w.g, w.sp
    if sp.miss in positions.COUNTED:
        place = positions.COUNTED[sp.miss](w)
    else:
        mask = "attention_mask"
        place = g.commute("Mul", g.op("Sub", g.op("CumSum", mask, g.const(-1)), g.const(1)), mask)
        place = g.cast(place, w.bias_float)
    if sp.bias == "maskpos-merged":
        made = g.op("Reshape", slopes(w, 1), g.const([sp.heads, 1]))
        whole = g.commute("Mul", made, g.unsqueeze(place, 1))
        return g.op("Reshape", whole, g.shape(-1, 1, w.total))
    if sp.slope_rank == 1:
        made = g.op("Reshape", slopes(w, 1), g.const([sp.heads, 1, 1]))
    else:
        made = slopes(w, sp.slope_rank)
    return g.commute("Mul", made, g.unsqueeze(place, 1, 2))
