"""What happens to scores, probabilities and values that an ALiBi attention leaves alone."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..spelling import DEPTH
from . import named


def value_scaled(w: Writer, value: str) -> str:
    return w.g.op("Mul", value, w.g.const(np.linspace(0.5, 1.5, DEPTH), w.float))


def exposed(w: Writer, value: str, layer: int) -> str:
    """A tensor of the last layer is a graph output."""
    if layer == w.sp.layers - 1:
        w.expose(value, "extra", "extra_out", [])
    return value


def softcap_before(w: Writer, scores: str) -> str:
    g = w.g
    return g.op("Mul", g.op("Tanh", g.op("Div", scores, g.const(2.0, w.float))), g.const(2.0, w.float))


def softcap_after(w: Writer, scores: str) -> str:
    cap = w.g.const(3.0, w.float)
    return w.g.op("Mul", w.g.op("Tanh", w.g.op("Div", scores, cap)), cap)


def row_scale(w: Writer, scores: str) -> str:
    g = w.g
    return g.op("Mul", scores, g.cast(g.unsqueeze(g.op("Add", w.rows, g.const(1)), 1), w.float))


def key_scale(w: Writer, scores: str) -> str:
    g = w.g
    return g.op("Mul", scores, g.cast(g.unsqueeze(g.op("Add", w.keys, g.const(1)), 0), w.float))


def log_length(w: Writer, scores: str) -> str:
    return w.g.op("Mul", scores, w.g.cast(w.g.op("Log", w.g.cast(w.total, np.float32)), w.float))


def mask_multiplied(w: Writer, scores: str) -> str:
    return w.g.op("Mul", scores, w.g.cast(w.g.unsqueeze("attention_mask", 1, 2), w.float))


def soft_window(w: Writer, scores: str) -> str:
    """Far keys score less, and are not hidden."""
    g = w.g
    gap = g.op("Abs", g.op("Sub", g.unsqueeze(w.rows, 1), g.unsqueeze(w.keys, 0)))
    outside = g.cast(g.op("Greater", gap, g.const(1 + int(w.sp.where * 6))), w.float)
    return g.op("Add", scores, g.op("Mul", outside, g.const(-3.0, w.float)))


def sink(w: Writer, scores: str) -> str:
    """A column that is no key takes part in the softmax."""
    g, heads = w.g, w.sp.heads
    column = g.const(np.linspace(0.0, 1.0, heads).reshape([1, heads, 1, 1]), w.float)
    column = g.op("Expand", column, g.shape(w.batch, heads, w.new, 1))
    return g.op("Concat", scores, column, axis=-1)


def without_sink(w: Writer, weights: str) -> str:
    return w.g.slice(weights, w.g.const(0), w.total, 3)


def dropout(w: Writer, weights: str) -> str:
    """In training mode."""
    return w.g.op("Dropout", weights, w.g.const(0.4, np.float32), w.g.const(True, np.bool_))


def after_softmax(w: Writer, weights: str, bias: str) -> str:
    """The bias a second time, on the probabilities."""
    return w.g.op("Add", weights, bias)


def masked_probabilities(w: Writer, weights: str, bias: str) -> str:
    """Odd keys are hidden behind the softmax."""
    g = w.g
    even = g.cast(g.op("Equal", g.op("Mod", w.keys, g.const(2)), g.const(0)), w.float)
    return g.op("Mul", weights, even)


VALUES = named(value_scaled)
PRODUCTS = {"product": exposed}
SCALED = named(softcap_before)
BIASED = named(softcap_after)
COMBINED = {"multiplied": "Mul"}
"""What bias and scores are joined by, where that is no Add."""

MASKED = named(row_scale, key_scale, log_length, mask_multiplied, soft_window)
"""Of the scores as the softmax gets them."""

LOGITS = named(sink)
AXES = {"axis": 2}
NORMALISED = {"sink": without_sink, "dropout": dropout}
WEIGHTS = named(after_softmax, masked_probabilities)
FINAL_SCORES = {"scores": exposed}
FINAL_WEIGHTS = {"probabilities": exposed}
EXPOSING = (*FINAL_SCORES, *FINAL_WEIGHTS)
