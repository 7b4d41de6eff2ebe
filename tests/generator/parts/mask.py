"""Which keys are hidden, and how: causality and padding."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..misses import masks as misses
from ..misses import spoil
from ..misses.positions import FIRST_ROWS
from ..spelling import BUFFER, SYMMETRIC

Pieces = list[tuple[str, str]]
"""("where", visible), ("hide", hidden) and ("add", tensor): 2-D or 4-D, in the order in which they are applied."""


def lowest(w: Writer, dtype: type) -> float:
    """Score of hidden keys."""
    given = {"inf": -np.inf, "finite": -6.0, "min": float(np.finfo(dtype).min)}
    return given.get(w.sp.hide, -1e9)


# --- causality


def visible_by_order(w: Writer) -> str:
    """True where a key is visible, [S_q, S_kv]."""
    g, sp = w.g, w.sp
    rows, keys = g.unsqueeze(rows_of_mask(w), 1), g.unsqueeze(w.keys, 0)
    if sp.causal == "where":
        visible = g.op("Not", g.op("Less", rows, keys))
    elif sp.causal == "not-greater":
        visible = g.op("Not", g.op("Greater", keys, rows))
    elif sp.causal == "trilu":
        ones = g.expand(g.const([[1]]), g.shape(w.new, w.total))
        visible = g.cast(g.op("Trilu", ones, bounds(w)[0], upper=0), np.bool_)
    elif sp.causal == "constant":
        table = g.const(np.tril(np.ones((BUFFER, BUFFER))), np.bool_)
        first, end = bounds(w)
        visible = g.slice(g.slice(table, first, end, 0), g.const(0), w.total, 1)
    else:
        visible = g.op("LessOrEqual", keys, rows)
    return str(spoil(w, misses.VISIBLE, visible, rows, keys))


def bounds(w: Writer) -> tuple[str, str]:
    """First row of the causal mask, and one behind the last."""
    return misses.ALIGNED[w.sp.miss](w) if w.sp.miss in misses.ALIGNED else (w.own, w.total)


def rows_of_mask(w: Writer) -> str:
    """Key indices of queries for the causal mask, right unless the mask is what is wrong."""
    if w.sp.miss in misses.ALIGNED:
        start, end = bounds(w)
        return w.g.op("Range", start, end, w.g.const(1))
    if w.sp.miss in FIRST_ROWS:
        return w.g.op("Range", w.own, w.total, w.g.const(1))
    return w.rows


def causal_pieces(w: Writer, visible: str) -> Pieces:
    g, sp = w.g, w.sp
    if sp.causal in ("or-less", "float-bool"):
        return [("hide", hidden(w, visible))]
    if sp.causal not in ("scattered", "add"):
        return [("where", visible)]
    pieces = g.op("Where", visible, g.const(0.0, w.float), g.const(lowest(w, w.float), w.float))
    if sp.causal == "add":
        return [("add", pieces)]
    blank = g.expand(g.const([[0.0]], w.float), g.shape(w.new, w.total))
    places = g.unsqueeze(g.op("Range", g.const(0), w.new, g.const(1)), 1)
    return [("add", g.op("ScatterND", blank, places, pieces))]


def hidden(w: Writer, visible: str) -> str:
    """True where a key is hidden: from a disjunction, or from numbers that are not zero."""
    g = w.g
    if w.sp.causal == "or-less":
        return g.op("Or", g.op("Not", visible), g.op("Not", visible))
    low = g.const(lowest(w, w.float), w.float)
    return g.cast(g.op("Where", visible, g.const(0.0, w.float), low), np.bool_)


# --- padding; each of the functions gets the attention mask [B, 1, 1, S_kv]


def inverse(w: Writer, mask: str) -> str:
    """1 where a key is padded, as floats."""
    return w.g.op("Sub", w.g.const(1.0, w.float), w.g.cast(mask, w.float))


def clamped(w: Writer, mask: str) -> tuple[str, str]:
    """Two masks added and cut off at the lowest number, as MPT does."""
    low = lowest(w, w.float)
    twice = w.g.commute("Mul", inverse(w, mask), w.g.const(low, w.float))
    return "add", w.g.op("Max", twice, w.g.const(low, w.float))


def additive(w: Writer, mask: str) -> tuple[str, str]:
    low = float(np.finfo(w.float).min) if w.sp.hide == "inf" else lowest(w, w.float)  # inf * 0 is no number
    return "add", w.g.commute("Mul", inverse(w, mask), w.g.const(low, w.float))


def expanded(w: Writer, mask: str) -> tuple[str, str]:
    """As transformers expands a mask over rows."""
    g = w.g
    size = g.shape(w.batch, 1, w.new, w.total)
    turned = g.op("Sub", g.const(1.0, w.float), g.cast(g.expand(mask, size), w.float))
    return "add", g.op("Where", g.cast(turned, np.bool_), g.const(lowest(w, w.float), w.float), turned)


def pairs(w: Writer, mask: str) -> tuple[str, str]:
    """Hidden are keys that are padded, and all keys from queries that are."""
    g = w.g
    whole = g.cast("attention_mask", np.bool_)
    rows = g.slice(whole, w.own, w.total, 1) if w.sp.cache else whole
    both = g.commute("And", g.unsqueeze(rows, 2), g.unsqueeze(whole, 1))
    return "hide", g.unsqueeze(g.op("Not", both), 1)


def looked_up(w: Writer, mask: str) -> tuple[str, str]:
    """Read from [B, S] with an index per batch entry and key."""
    g, sp = w.g, w.sp
    batches = g.unsqueeze(g.op("Range", g.const(0), w.batch, g.const(1)), 1)
    keys = g.unsqueeze(w.keys, 0)
    if sp.padding == "gather-flat":
        place = g.op("Add", g.op("Mul", batches, w.total), keys)
        flat = g.op("Reshape", "attention_mask", g.const([-1]))
        found = g.cast(g.op("Gather", flat, place, axis=0), np.bool_)
    else:
        size = g.shape(w.batch, w.total)
        parts = [g.unsqueeze(g.expand(p, size), 2) for p in (batches, keys)]
        found = g.op("GatherND", g.cast("attention_mask", np.bool_), g.op("Concat", *parts, axis=2))
    return "where", g.unsqueeze(found, 1, 2)


PADDING = {
    "clamped": clamped,
    "additive": additive,
    "expanded": expanded,
    "pairs": pairs,
    "gathernd": looked_up,
    "gather-flat": looked_up,
}
WIDE = {"wide": ("where", "wide_mask"), "wide-add": ("add", "wide_mask_add")}
"""Masks over rows and keys that are graph inputs."""


# --- both


def masks(w: Writer) -> Pieces:
    """What hides keys."""
    g, sp = w.g, w.sp
    found: Pieces = []
    visible = visible_by_order(w) if sp.causal != "none" else ""
    if visible and sp.padding != "and":
        found += causal_pieces(w, visible)
    if sp.padding == "none":
        return found
    if sp.padding in WIDE:
        return [*found, WIDE[sp.padding]]
    mask = g.unsqueeze("attention_mask", 1, 2)
    if sp.padding in PADDING:
        return [*found, PADDING[sp.padding](w, mask)]
    flag = mask if sp.padding == "bool" else g.cast(mask, np.bool_)
    return [*found, ("where", g.commute("And", flag, visible) if sp.padding == "and" else flag)]


def masked(w: Writer, value: str, pieces: Pieces, low: str) -> str:
    """Scores, or a bias, with hidden keys at ``low``."""
    for kind, mask in pieces:
        if kind == "add":
            value = w.g.commute("Add", value, mask)
        else:
            value = w.g.op("Where", mask, low, value) if kind == "hide" else w.g.op("Where", mask, value, low)
    return value


def signed(w: Writer, bias: str) -> str:
    """The bias where nothing can subtract it."""
    return w.g.op("Neg", bias) if w.sp.bias in SYMMETRIC and w.sp.negate == "sub" else bias
