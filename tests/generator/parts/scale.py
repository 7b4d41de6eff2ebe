"""The factor of query times key, and where it sits."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..spelling import DEPTH, SCALE


def on_operands(w: Writer, q: str, k: str) -> tuple[str, str]:
    """Query and key with what the spelling multiplies into them."""
    g, scale = w.g, w.sp.scale
    if scale == "q-div":
        return g.op("Div", q, g.op("Sqrt", g.const(1 / SCALE**2, w.float))), k
    if scale == "root":
        root = g.op("Sqrt", g.op("Sqrt", g.const(SCALE**2, w.float)))
        return g.op("Mul", q, root), g.commute("Mul", k, root)
    if scale == "q":
        return g.commute("Mul", q, g.const(SCALE, w.float)), k
    if scale == "k":
        return q, g.op("Div", k, g.const(1 / SCALE, w.float))
    if scale == "both":
        half = np.sqrt(SCALE)
        return g.commute("Mul", q, g.const(half, w.float)), g.op("Mul", k, g.const(half, w.float))
    return q, k


def before_bias(w: Writer, scores: str, q: str) -> str:
    """Scores that are scaled before the bias is added."""
    g, sp = w.g, w.sp
    if sp.scale == "before-mul":
        return scores if sp.layout == "fused" else g.commute("Mul", scores, g.const(SCALE, w.float))
    if sp.scale == "before-div":
        return g.op("Div", scores, g.const(1 / SCALE, w.float))
    if sp.scale == "shape":
        axis = 2 if sp.layout == "seq-first" else 3
        size = g.op("Sqrt", g.cast(g.const(DEPTH) if sp.static else g.size(q, axis), np.float32))
        return g.op("Div", scores, g.cast(size, w.float))
    if sp.scale == "input":
        return g.commute("Mul", scores, "scale")
    return scores


def after_bias(w: Writer, scores: str) -> str:
    """Scores whose bias is scaled as well."""
    if w.sp.scale == "after-mul":
        return w.g.commute("Mul", scores, w.g.const(SCALE, w.float))
    if w.sp.scale == "after-div":
        return w.g.op("Div", scores, w.g.const(1 / SCALE, w.float))
    return scores


def of_operator(w: Writer, q: str) -> tuple[str, float]:
    """The query of an attention operator, and its attribute."""
    if w.sp.scale in ("q", "k", "both"):
        q = w.g.commute("Mul", q, w.g.const(SCALE, w.float))
    return q, SCALE if w.sp.scale == "before-mul" else 1.0
