"""An emulation of the graph before the rewrite, in 16 bits: every operator rounds its result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from cases import rounded
from reference import Array, Case


def unfused(case: Case, dtype: str, *, relative: bool) -> Array:
    """MatMul, Mul, Add of a materialised bias, Softmax, MatMul; products accumulate in float32.

    Args:
        case: Without mask and positions, one head per key head.
        dtype: Type of every tensor.
        relative: The bias is slope * (key - row) (or -slope * distance); else slope * key, as BLOOM and MPT have it.
    """
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    row = (np.arange(s_q) + s_kv - s_q)[:, None]
    key = np.arange(s_kv)[None, :]
    distance = -np.abs(key - row) if case.symmetric else key - row if relative else np.broadcast_to(key, (s_q, s_kv))
    bias = rounded(case.slopes[:, None, None] * distance.astype(np.float32), dtype)[None]
    scores = rounded(case.query @ case.key.swapaxes(-1, -2), dtype)
    scores = rounded(rounded(scores * np.float32(case.scale), dtype) + bias, dtype)
    if case.causal:
        scores = np.where(key <= row, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = rounded(weights / weights.sum(-1, keepdims=True), dtype)
    return np.asarray(rounded(weights @ case.value, dtype), np.float64)


def unfused_trials() -> Iterator[tuple[str, Case, str, Array]]:
    """(name, case, dtype, output of the unfused graph)."""
    for number, (dtype, symmetric, relative) in enumerate(
        (dtype, symmetric, relative)
        for dtype in ("bfloat16", "float16")
        for symmetric, relative in ((False, False), (False, True), (True, True))
    ):
        rng = np.random.default_rng(number)
        query, key, value = (rounded(rng.standard_normal((1, 2, 128, 32)), dtype) for _ in range(3))
        slopes = np.array([0.5, 0.0625], np.float32)
        case = Case(query, key, value, slopes, 32**-0.5, symmetric, not symmetric)
        form = "symmetric" if symmetric else "relative" if relative else "key-linear"
        yield f"{dtype} {form}", case, dtype, unfused(case, dtype, relative=relative)
