"""Functions of the distance that are not the distance: bent, cut, doubled, or multiplied by what is no slope."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..parts.layout import heads
from . import named

# --- integers; each gets a length that tables reach, and one that no test does


def clip_far(w: Writer, distance: str, near: str, far: str) -> str:
    return w.g.op("Min", distance, far)


def mod_far(w: Writer, distance: str, near: str, far: str) -> str:
    return w.g.op("Mod", distance, far)


def drop_far(w: Writer, distance: str, near: str, far: str) -> str:
    """Zero from some distance on."""
    return w.g.op("Where", w.g.op("Less", distance, far), distance, w.g.const(0, w.integer))


def sign_far(w: Writer, distance: str, near: str, far: str) -> str:
    """The other sign from some distance on."""
    close = w.g.op("Less", distance, beyond_tables(w))
    return w.g.op("Where", close, distance, w.g.op("Neg", distance))


def parity(w: Writer, distance: str, near: str, far: str) -> str:
    """One more at odd distances."""
    odd = w.g.op("Mod", distance, w.g.const(2, w.integer))
    return w.g.op("Add", distance, odd)


def clip(w: Writer, distance: str, near: str, far: str) -> str:
    return w.g.op("Min", distance, near)


def mod(w: Writer, distance: str, near: str, far: str) -> str:
    return w.g.op("Mod", distance, near)


def quadratic(w: Writer, distance: str, near: str, far: str) -> str:
    return w.g.op("Mul", distance, distance)


def bucket(w: Writer, distance: str, near: str, far: str) -> str:
    """Distances in pairs."""
    return w.g.op("Mul", w.g.op("Div", distance, w.g.const(2, w.integer)), w.g.const(2, w.integer))


def grid(w: Writer, distance: str, near: str, far: str) -> str:
    """The distance on a square of which the tokens are the rows."""
    g = w.g
    side = g.const(5, w.integer)
    rows, keys = g.unsqueeze(w.row_places, 1), g.unsqueeze(w.places, 0)
    across = g.op("Abs", g.op("Sub", g.op("Mod", rows, side), g.op("Mod", keys, side)))
    down = g.op("Abs", g.op("Sub", g.op("Div", rows, side), g.op("Div", keys, side)))
    return g.op("Add", across, down)


def one_side(w: Writer, after: str) -> str:
    """Keys after the row count twice."""
    return w.g.op("Add", after, after)


def i_only(w: Writer) -> str:
    """The row's own position, in place of the key's."""
    return w.g.unsqueeze(w.row_places, 1)


def negative_total(w: Writer, place: str) -> str:
    """Keys after the row are cut off, some of them late."""
    return w.g.op("Min", place, w.g.const(1 + int(w.sp.where * 10), w.integer))


# --- floats


def sine(w: Writer, place: str) -> str:
    waves = w.g.op("Sin", w.g.cast(place, np.float32))
    return w.g.op("Add", place, waves if w.bias_float is np.float32 else w.g.cast(waves, w.bias_float))


def beyond_tables(w: Writer) -> str:
    return w.g.const(50 + int(w.sp.where * 40))


def doubled_unless(w: Writer, near: str, place: str) -> str:
    return w.g.op("Where", near, place, w.g.op("Add", place, place))


def linear_far(w: Writer, place: str) -> str:
    """Doubled from some key on."""
    far = beyond_tables(w)
    return doubled_unless(w, w.g.op("Less", w.g.unsqueeze(w.keys, 0), far), place)


def row_far(w: Writer, place: str) -> str:
    """Doubled from some row on."""
    far = beyond_tables(w)
    return doubled_unless(w, w.g.op("Less", w.g.unsqueeze(w.rows, 1), far), place)


def length_far(w: Writer, place: str) -> str:
    """Doubled from some number of keys on."""
    far = beyond_tables(w)
    return doubled_unless(w, w.g.op("Less", w.total, far), place)


def batch_one(w: Writer, place: str) -> str:
    """Doubled from the second batch entry on."""
    beyond_tables(w)
    entries = w.g.op("Range", w.g.const(0), w.batch, w.g.const(1))
    return doubled_unless(w, w.g.op("Less", w.g.unsqueeze(entries, 1, 2, 3), w.g.const(1)), place)


def square_root(w: Writer, place: str) -> str:
    return w.g.op("Sqrt", place)


def length_slope(w: Writer, place: str) -> str:
    """Steeper, the more keys there are."""
    g = w.g
    return g.op("Mul", place, g.op("Div", g.cast(w.total, w.bias_float), g.const(20.0, w.bias_float)))


def query_key(w: Writer, place: str) -> str:
    """Steeper for some queries than for others."""
    mean = w.g.op("Sigmoid", w.g.op("ReduceMean", heads(w, w.query, w.sp.heads), keepdims=1))
    return w.g.op("Mul", w.g.cast(mean, w.bias_float), place)


def log(w: Writer, place: str) -> str:
    return w.g.op("Log", w.g.op("Add", place, w.g.const(1.0, w.bias_float)))


def cls(w: Writer, bias: str) -> str:
    """Distances among all tokens but the first, whose row and column are zero."""
    g = w.g
    inner = g.op("Slice", bias, g.const([1, 1]), g.const([2**31, 2**31]), g.const([-2, -1]))
    rank = 4 if w.sp.slope_rank == 4 else 3
    pads = [0] * rank * 2
    pads[rank - 2] = pads[rank - 1] = 1
    return g.op("Pad", inner, g.const(pads), g.const(0.0, w.bias_float))


BENT = named(clip_far, mod_far, drop_far, sign_far, parity, clip, mod, quadratic, bucket, grid)
"""Of an integer distance."""

AFTER = named(one_side)
"""Of the part after the row."""

KEY_INDICES = named(i_only)
GAPS = named(negative_total)

PLACED = named(sine, linear_far, row_far, length_far, batch_one, square_root, length_slope, query_key, log)
"""Of the distance as a float, before its sign and slope."""

BIASES = named(cls)
"""Of the whole bias of a layer."""
