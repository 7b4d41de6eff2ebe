"""Extents of a model, and the indices of its rows and keys."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..misses import positions as misses
from ..spelling import DIRECT


def locate(w: Writer, query: str) -> None:
    """Fill in the extents and indices that the other parts use."""
    g, sp = w.g, w.sp
    first = "qkv" if sp.layout == "packed" else "query"
    sequences_first = sp.layout == "seq-first"
    w.new = g.size(first, 2 if sp.layout in DIRECT else 0 if sequences_first else 1)
    w.batch = g.size(first, 1 if sequences_first else 0)
    w.past = g.size("past_key", 2) if sp.cache else ""
    w.total = g.commute("Add", w.past, w.new) if sp.cache else w.new
    w.query = query
    w.own = own(w)
    w.keys = g.op("Range", g.const(0), w.total, g.const(1))
    w.rows = rows(w)
    w.places = g.cast(w.keys, np.int32) if sp.int32 else w.keys
    w.row_places = g.cast(w.rows, np.int32) if sp.int32 else w.rows


def own(w: Writer) -> str:
    """The key index of the first query, a scalar."""
    if not w.sp.cache:
        return w.g.const(0)
    return w.g.op("Sub", w.total, w.new) if w.sp.query_start == "total-minus-new" else w.past


def rows(w: Writer) -> str:
    """Key index of every query, [S_q]."""
    g, sp = w.g, w.sp
    start, end = w.own, w.total
    if sp.miss in misses.FIRST_ROWS:
        start, end = misses.FIRST_ROWS[sp.miss](w)
    elif sp.cache and sp.query_start == "slice":
        return g.slice(w.keys, start, end, 0)
    return g.op("Range", start, end, g.const(1))
