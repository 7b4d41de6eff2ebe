"""From scores to probabilities: bias and masks in the order that a spelling says, and the softmax."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..misses import scores as misses
from ..misses import spoil
from ..misses.masks import MASKS
from ..spelling import SCALE, SYMMETRIC
from .layout import by_heads
from .mask import lowest, masked, masks, signed
from .scale import after_bias


def biased(w: Writer, scores: str, bias: str) -> str:
    """Scores plus bias plus masks."""
    g, sp = w.g, w.sp
    pieces = masks(w)
    low = g.const(lowest(w, w.float), w.float)
    pieces = spoil(w, MASKS, pieces)
    if sp.order == "one-tensor":
        w.whole = masked(w, signed(w, bias), pieces, low)
        scores = g.commute(misses.COMBINED.get(sp.miss, "Add"), scores, w.whole)
        return str(spoil(w, misses.BIASED, scores))
    if sp.order == "mask-first":
        return str(spoil(w, misses.BIASED, added(w, masked(w, scores, pieces, low), bias)))
    scores = added(w, scores, bias)
    if sp.layout == "merged-bias":
        scores = by_heads(w, scores)
    scores = after_bias(w, scores)
    if sp.twice:
        scores = added(w, scores, g.op("Mul", bias, g.const(SCALE, w.float)))
    return masked(w, spoil(w, misses.BIASED, scores), pieces, low)


def added(w: Writer, scores: str, bias: str) -> str:
    sp = w.sp
    if sp.miss not in misses.COMBINED and sp.bias in SYMMETRIC and sp.negate == "sub":
        return w.g.op("Sub", scores, bias)
    return w.g.commute(misses.COMBINED.get(sp.miss, "Add"), scores, bias)


def bias_and_masks(w: Writer, bias: str) -> str:
    """All that an attention operator adds, in one tensor."""
    low = w.g.const(lowest(w, w.float), w.float)
    bias = signed(w, bias)
    return masked(w, bias, masks(w), low)


def softmax(w: Writer, scores: str) -> str:
    g, sp = w.g, w.sp
    scores = spoil(w, misses.LOGITS, scores)
    wide = sp.half and sp.softmax32
    if wide:
        scores = g.cast(scores, np.float32)
    weights = g.op("Softmax", scores, axis=misses.AXES.get(sp.miss, 3 if sp.swap else -1))
    if wide:
        weights = g.cast(weights, w.float)
    return str(spoil(w, misses.NORMALISED, weights))
