"""Where heads and tokens lie: from inputs to operands, from operands to a product, and from a product to the output."""

from __future__ import annotations

import numpy as np
from onnx import helper

from ..graph import Writer
from ..spelling import DEPTH, DIRECT, SCALE


def unpacked(w: Writer) -> tuple[str, str, str]:
    """Query, key and value [B, S, H*D] out of one tensor whose heads hold all three, as BLOOM's does."""
    g, sp = w.g, w.sp
    if sp.unpack == "split":  # MPT packs queries, keys and values one after the other
        query, key, value = names = [g.name("part") for _ in range(3)]
        width = sp.heads * DEPTH
        sizes = {"split": [width] * 3} if sp.opset < 13 else {}
        inputs = ["qkv"] if sp.opset < 13 else ["qkv", g.const([width] * 3)]
        g.nodes.append(helper.make_node("Split", inputs, names, name=g.name("node_split"), axis=2, **sizes))
        return query, key, value
    whole = g.op("Reshape", "qkv", g.const([0, 0, sp.heads, 3, DEPTH]))
    if sp.unpack == "slice":
        parts = [g.slice(whole, g.const(k), g.const(k + 1), 3) for k in range(3)]
    else:
        parts = [g.op("Gather", whole, g.const(k), axis=3) for k in range(3)]
    query, key, value = (g.op("Reshape", p, g.const([0, 0, sp.heads * DEPTH])) for p in parts)
    return query, key, value


def heads(w: Writer, value: str, count: int) -> str:
    """[B, heads, S, D] of a projected input."""
    if w.sp.layout in DIRECT:
        return value
    return w.g.op("Transpose", w.g.op("Reshape", value, w.g.const([0, -1, count, DEPTH])), perm=[0, 2, 1, 3])


def first_head(w: Writer, value: str) -> str:
    """[B, S] of what was reduced over the last axis of the query."""
    return w.g.op("Gather", value, w.g.const(0), axis=1) if w.sp.layout in DIRECT else value


def repeated(w: Writer, value: str) -> str:
    """Key heads repeated for grouped queries."""
    g, sp = w.g, w.sp
    if sp.kv == "gathered":
        return g.op("Gather", value, g.const(np.repeat(np.arange(w.kv_heads), 2)), axis=1)
    if sp.kv == "tiled":
        return g.op("Tile", value, g.const([1, 2, 1, 1]))
    if sp.kv not in ("grouped", "native") or (sp.kv == "native" and sp.layout == "operator"):
        return value
    size = g.shape(w.batch, w.kv_heads, 2, w.total, DEPTH)
    return g.op("Reshape", g.expand(g.unsqueeze(value, 2), size), g.const([0, sp.heads, -1, DEPTH]))


def operands(w: Writer, query: str, key: str, value: str, layer: int) -> tuple[str, str, str]:
    """Query, key and value as the product takes them; cached keys and values stand before the new ones."""
    g, sp = w.g, w.sp
    if sp.layout == "einsum" and not sp.cache:
        q, k, v = (g.op("Reshape", t, g.const([0, -1, sp.heads, DEPTH])) for t in (query, key, value))
        return q, k, v
    if sp.layout == "seq-first":
        size = g.shape(w.new, -1, DEPTH)
        q, k, v = (g.op("Transpose", g.op("Reshape", t, size), perm=[1, 0, 2]) for t in (query, key, value))
        return q, k, v
    q = heads(w, query, sp.heads)
    k, v = (heads(w, t, w.kv_heads) for t in (key, value))
    if sp.cache:
        k = g.op("Concat", "past_key", k, axis=2)
        v = g.op("Concat", "past_value", v, axis=2)
        if sp.present and layer == 0:
            w.expose(k, "present_key", "present", [])
    return q, repeated(w, k), repeated(w, v)


def product(w: Writer, q: str, k: str) -> str:
    """Query times key."""
    g, sp = w.g, w.sp
    if sp.layout == "einsum":
        return g.op("Einsum", q, k, equation="bhid,bhjd->bhij" if sp.cache else "bihd,bjhd->bhij")
    if sp.layout == "fused":
        alpha = {"alpha": SCALE} if sp.scale == "before-mul" else {}
        return g.op("FusedMatMul", q, k, domain="com.microsoft", transB=1, **alpha)
    if sp.layout == "kt3":
        flat = g.op("Transpose", g.op("Reshape", k, g.shape(-1, w.total, DEPTH)), perm=[0, 2, 1])
        return g.op("MatMul", q, g.op("Reshape", flat, g.shape(w.batch, w.heads_of_keys, DEPTH, w.total)))
    if sp.layout == "seq-first":
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]))
        return by_heads(w, scores)
    if sp.layout.startswith("merged"):
        q = g.op("Reshape", q, g.shape(-1, w.new, DEPTH))
        k = g.op("Reshape", k, g.shape(-1, w.total, DEPTH))
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]))
        return by_heads(w, scores) if sp.layout == "merged" else scores
    return g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))


def by_heads(w: Writer, scores: str) -> str:
    """[B, H, S_q, S_kv] of [B*H, S_q, S_kv]."""
    return w.g.op("Reshape", scores, w.g.shape(w.batch, w.sp.heads, w.new, w.total))


def context(w: Writer, weights: str, v: str) -> str:
    """Probabilities times values, as the output has them."""
    g, sp = w.g, w.sp
    if sp.layout == "seq-first":
        made = g.op("MatMul", g.op("Reshape", weights, g.shape(-1, w.new, w.total)), v)
        made = g.op("Transpose", made, perm=[1, 0, 2])
        return g.op("Reshape", made, g.shape(w.new, w.batch, sp.heads * DEPTH))
    if sp.layout == "einsum":
        made = g.op("Einsum", weights, v, equation="bhij,bhjd->bihd" if sp.cache else "bhij,bjhd->bihd")
        return g.op("Reshape", made, g.const([0, 0, sp.heads * DEPTH]))
    if sp.layout.startswith("merged"):
        weights = g.op("Reshape", weights, g.shape(-1, w.new, w.total))
        made = g.op("MatMul", weights, g.op("Reshape", v, g.shape(-1, w.total, DEPTH)))
        made = g.op("Reshape", made, g.shape(w.batch, sp.heads, w.new, DEPTH))
    else:
        made = g.op("MatMul", weights, v)
    return heads_joined(w, made)


def heads_joined(w: Writer, made: str) -> str:
    """[B, S, H*D] of [B, H, S, D], unless the output is to have heads."""
    if w.sp.layout == "direct":
        return made
    made = w.g.op("Transpose", made, perm=[0, 2, 1, 3])
    return w.g.op("Reshape", made, w.g.const([0, 0, w.sp.heads * DEPTH]))
