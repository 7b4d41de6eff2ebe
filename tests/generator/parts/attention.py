"""One layer: the products with what stands between them and behind, or an operator for all of it."""

from __future__ import annotations

import numpy as np

from ..graph import Writer
from ..misses import scores as misses
from ..misses import spoil
from .layout import context, heads_joined, operands, product
from .scale import before_bias, of_operator, on_operands
from .scores import bias_and_masks, biased, softmax


def attention(w: Writer, layer: int, query: str, key: str, value: str, bias: str) -> str:
    """The output of a layer."""
    g, sp = w.g, w.sp
    if sp.layout == "mha":
        return of_microsoft(w, query, key, value, bias)
    q, k, v = operands(w, query, key, value, layer)
    v = spoil(w, misses.VALUES, v)
    if sp.layout == "operator":
        return of_onnx(w, q, k, v, bias)
    q, k = on_operands(w, q, k)
    scores = spoil(w, misses.PRODUCTS, product(w, q, k), layer)
    scores = spoil(w, misses.SCALED, before_bias(w, scores, q))
    scores = biased(w, scores, bias)
    if sp.floor:
        scores = g.op("Max", scores, g.const(float(np.finfo(w.float).min), w.float))
    scores = spoil(w, misses.MASKED, scores)
    weights = spoil(w, misses.WEIGHTS, softmax(w, scores), bias)
    spoil(w, misses.FINAL_WEIGHTS, weights, layer)
    spoil(w, misses.FINAL_SCORES, scores, layer)
    if sp.guard == "reduce":
        return without_empty_rows(w, weights, v)
    if sp.guard == "nan":
        weights = g.op("Where", g.op("IsNaN", weights), g.const(0.0, w.float), weights)
    return context(w, weights, v)


def without_empty_rows(w: Writer, weights: str, v: str) -> str:
    """Zeros for rows of which every key is hidden, as transformers writes it: [B, H, S, D] before the heads go."""
    g = w.g
    seen = g.cast(g.op("Greater", w.whole, g.const(float(np.finfo(w.float).min), w.float)), np.float32)
    if w.sp.opset >= 13:
        count = g.op("ReduceSum", seen, g.const([-1]), keepdims=1)
    else:
        count = g.op("ReduceSum", seen, axes=[-1], keepdims=1)
    empty = g.op("Less", count, g.const(1.0, np.float32))
    made = g.op("Where", empty, g.const(0.0, w.float), g.op("MatMul", weights, v))
    return heads_joined(w, made)


def of_microsoft(w: Writer, query: str, key: str, value: str, bias: str) -> str:
    """onnxruntime's MultiHeadAttention, with bias and masks as its attention_bias."""
    g, sp = w.g, w.sp
    full = g.expand(bias_and_masks(w, bias), g.shape(w.batch, sp.heads, w.new, w.total))
    query, scale = of_operator(w, query)
    out = g.name("mha")
    inputs = [query, key, value, "", "", full]
    domain = "com.microsoft"
    g.add("MultiHeadAttention", inputs, out, domain=domain, num_heads=sp.heads, scale=scale)
    return out


def of_onnx(w: Writer, q: str, k: str, v: str, bias: str) -> str:
    """ONNX's own Attention, with bias and masks as its additive mask."""
    g = w.g
    full = g.expand(bias_and_masks(w, bias), g.shape(w.batch, w.sp.heads, w.new, w.total))
    q, scale = of_operator(w, q)
    return g.op("Attention", q, k, v, full, scale=scale)
