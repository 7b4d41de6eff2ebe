"""Masks that hide other keys than those after the row and those of padding."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from . import named

Pieces = list[tuple[str, str]]


def causal_offset(w: Writer) -> tuple[str, str]:
    """Causal from the first key, whatever is cached."""
    return w.g.const(0), w.new


def causal_strict(w: Writer, visible: str, rows: str, keys: str) -> str:
    """A row does not see its own key."""
    return w.g.op("Less", keys, rows)


def within(w: Writer, visible: str, rows: str, keys: str, width: int) -> str:
    near = w.g.op("Greater", keys, w.g.op("Sub", rows, w.g.const(width)))
    return w.g.op("And", visible, near)


def window(w: Writer, visible: str, rows: str, keys: str) -> str:
    """Only the last keys before the row."""
    return within(w, visible, rows, keys, 2 + int(w.sp.where * 12))


def window_far(w: Writer, visible: str, rows: str, keys: str) -> str:
    return within(w, visible, rows, keys, 50 + int(w.sp.where * 40))


def same_chunk(w: Writer, size: str, rows: str, keys: str) -> str:
    return w.g.op("Equal", w.g.op("Div", rows, size), w.g.op("Div", keys, size))


def chunk_size(w: Writer) -> str:
    return w.g.const(3 + int(w.sp.where * 8))


def chunked(w: Writer, visible: str, rows: str, keys: str) -> str:
    """Only keys of the row's own chunk."""
    size = chunk_size(w)
    return w.g.op("And", visible, same_chunk(w, size, rows, keys))


def chunked_alone(w: Writer, masks: Pieces) -> Pieces:
    if w.sp.causal != "none":
        return masks  # the causal mask has it
    size = chunk_size(w)
    rows, keys = w.g.unsqueeze(w.rows, 1), w.g.unsqueeze(w.keys, 0)
    return [*masks, ("where", same_chunk(w, size, rows, keys))]


def key_term(w: Writer, masks: Pieces) -> Pieces:
    """A number per key, from a graph input."""
    return [*masks, ("add", w.g.unsqueeze("key_term", 1, 2))]


def packed(w: Writer, masks: Pieces) -> Pieces:
    """Documents are told apart by positions that start again."""
    g = w.g
    start = g.cast(g.op("Equal", "position_ids", g.const(0)), np.int64)
    document = g.op("CumSum", start, g.const(1))
    same = g.op("Equal", g.unsqueeze(document, 1, 3), g.unsqueeze(document, 1, 2))
    return [*masks, ("where", same)]


ALIGNED = named(causal_offset)
"""First row of the causal mask, and one behind the last."""

VISIBLE = named(causal_strict, window, window_far, chunked)
"""Of a condition over rows and keys."""

MASKS = {**named(key_term, packed), "chunked": chunked_alone}
"""Of the pieces that masks are made of."""
