"""Inputs made to break certified skipping: its result may differ by 2^-bits of max|value| and no more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from alibi_rewriter.kernels.requests import ELEMENT_BYTES, SKIP_BITS
from cases import rounded
from reference import Array, Case

ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-21}
"""The two kernels may also round their outputs to different neighbours."""


def _inputs(dtype: str, s_q: int, s_kv: int, seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    shapes = ((1, 2, s_q, 16), (1, 1, s_kv, 16), (1, 1, s_kv, 16))
    query, key, value = (rounded(rng.standard_normal(shape), dtype) for shape in shapes)
    return query, key, value


def skipping_trials() -> Iterator[tuple[str, Case, str, float]]:
    """(name, case, dtype, allowed difference)."""
    for dtype, symmetric in (("float16", False), ("float32", False), ("bfloat16", True)):
        for kind in ("random", "large", "sink", "equal", "zero", "nan", "negative", "flat"):
            s_q, s_kv = (200, 456) if kind in ("random", "nan") else (320, 320)
            query, key, value = _inputs(dtype, s_q, s_kv, len(kind))
            slopes = np.array([0.5, 0.05], np.float32)
            if kind == "large":
                query = rounded(query * 12, dtype)
            if kind == "sink":
                # One far key that every row loves, in a block whose other keys are small.
                key[:, :, :64] *= 0.01
                key[:, :, 3] = rounded(query.mean((0, 1, 2)) * 400, dtype)
                query = np.abs(query)
                key[:, :, 3] = np.abs(key[:, :, 3])
            if kind == "equal":
                key[:] = key[:, :, :1]
            if kind == "zero":
                key[:] = 0.0
            if kind == "nan":
                key[:, :, 5] = np.nan
            if kind == "negative":
                slopes = -slopes
            if kind == "flat":
                slopes = np.array([0.0, 1e-7], np.float32)
            case = Case(query, key, value, slopes, 0.25, symmetric, not symmetric)
            size = float(np.abs(value).max())
            yield f"{kind}-{dtype}", case, dtype, size * (2.0 ** -SKIP_BITS[ELEMENT_BYTES[dtype]] + ROUNDING[dtype])
