"""Inputs to run a model with: its shapes, masks and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .misses import LONG, LONG_MISSES
from .spelling import BUFFER, DEPTH, DIRECT, STATIC, Spelling, float_of, kv_heads
from .truth import slope_values


def shapes(sp: Spelling) -> Sequence[tuple[int, int, int]]:
    """(batch, new, past) to compare at; the longest uses tables to their end."""
    if sp.static:
        return [STATIC if sp.cache else (*STATIC[:2], 0)]
    # One further and the original's Gather index is -1: it would read its table from the wrong end, which the
    # proof names as an assumption.
    longest = BUFFER - 1 if sp.miss == "offset-one" and sp.bias.startswith("gather") else BUFFER
    if sp.cache:
        usual = [(2, 3, 4), (1, 1, 9), (2, 13, longest - 13), (1, 1, longest - 1)]
        return [*usual, (1, 2, LONG - 2)] if sp.miss in LONG_MISSES else usual
    usual = [(2, 5, 0), (1, 1, 0), (2, longest, 0)]
    return [*usual, (1, LONG, 0)] if sp.miss in LONG_MISSES else usual


def mask_patterns(sp: Spelling, batch: int, total: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Attention masks [B, S]: ones, right, left, and with holes."""
    ones = np.ones((batch, total), np.int64)
    yield ones
    if sp.padding == "none":
        return
    cut = total // 3
    if cut:
        right, left, holes = ones.copy(), ones.copy(), (rng.random((batch, total)) > 0.3).astype(np.int64)
        right[-1, total - cut :] = 0
        left[-1, :cut] = 0
        holes[:, 0] = 1
        yield right
        yield holes
        if sp.miss not in ("causal-offset", "causal-strict"):  # their valid queries would be left without any key
            yield left


def feeds(sp: Spelling, shape: tuple[int, int, int], mask: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Inputs of one run; more than the model declares."""
    batch, new, past = shape
    kind = float_of(sp)
    kv = kv_heads(sp)
    direct = sp.layout in DIRECT
    given: dict[str, object] = {}
    for name, heads in (("query", sp.heads), ("key", kv), ("value", kv)):
        size = (batch, heads, new, DEPTH) if direct else (batch, new, heads * DEPTH)
        size = (new, batch, heads * DEPTH) if sp.layout == "seq-first" else size
        given[name] = rng.normal(size=size).astype(kind)
    given["qkv"] = rng.normal(size=(batch, new, 3 * sp.heads * DEPTH)).astype(kind)
    for name in ("past_key", "past_value"):
        given[name] = rng.normal(size=(batch, kv, past, DEPTH)).astype(kind)
    wide = np.broadcast_to(mask[:, None, None, :] > 0, (batch, 1, new, past + new)).copy()
    wide |= rng.random(wide.shape) < 0.2
    wide[:, :, np.arange(new), past + np.arange(new)] = True  # no row without keys
    given["wide_mask"] = wide
    low = -np.inf if sp.hide == "inf" else np.finfo(kind).min
    given["wide_mask_add"] = np.where(wide, 0.0, low).astype(kind)
    given["attention_mask"] = mask.astype(np.bool_) if sp.padding == "bool" else mask
    given["slopes"] = slope_values(sp).astype(float_of(sp, bias=True))
    given["scale"] = np.array(0.7, kind)
    given["taken"] = np.array(True)
    given["batch_slopes"] = rng.uniform(0.05, 0.5, (batch, sp.heads)).astype(kind)
    lengths = rng.integers(1, max(2, new), batch)
    given["position_ids"] = np.stack([np.arange(new) % n for n in lengths]).astype(np.int64)
    given["key_term"] = rng.normal(size=(batch, past + new)).astype(kind)
    given["weights"] = rng.uniform(0, 1, (batch, new)).astype(kind)
    return given


def spread(sp: Spelling, valid: np.ndarray) -> np.ndarray:
    """Valid tokens [B, S] over the axes of the output."""
    if sp.layout == "seq-first":
        return valid.T[:, :, None]
    return valid[:, None, :, None] if sp.layout in DIRECT else valid[:, :, None]
