"""Inputs made to break certified skipping: its result may differ by 2^-bits of max|value| and no more."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from alibi_rewriter.kernels.requests import ELEMENT_BYTES, SKIP_BITS
from cases import rounded
from reference import LOWEST, Array, Case

FAST = 7
"""Every so many of all trials are in the fast suite."""
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
            yield f"{kind}-{dtype}", case, dtype, allowed(case, dtype)


def allowed(case: Case, dtype: str) -> float:
    """By how much skipping may change an output."""
    return float(np.abs(case.value).max()) * (2.0 ** -SKIP_BITS[ELEMENT_BYTES[dtype]] + ROUNDING[dtype])


def _padding(kind: str, shape: tuple[int, int, int, int]) -> Array:
    """0 for keys that are seen and 1 for the others; the second batch entry has more of the latter."""
    hidden = np.zeros(shape)
    for batch, count in enumerate((3, 130)):
        side = {"left": slice(None, count), "right": slice(-count, None), "inside": slice(70, 70 + count)}[kind]
        hidden[batch, ..., side] = 1.0
    return hidden


def vector_of(kind: str, rng: np.random.Generator, s_kv: int) -> dict[str, Any]:
    """What differs by key only: fields of a Case of two batch entries and two heads.

    ``heavy`` is a far key that outweighs its distance, by mask, bias or position; a certificate that looks at norms
    alone drops it.
    """
    shape = (2, 1, 1, s_kv)
    what, _, how = kind.partition(" ")
    if what == "lengths":
        return {"key_lengths": np.array([s_kv - 3, s_kv - 130]), "rows_first": how == "first"}
    hidden = _padding(how, shape) if how in ("left", "right", "inside") else np.zeros(shape)
    added = np.where(hidden > 0, -np.inf if what == "infinite" else LOWEST, 0.0)
    if how == "soft":
        added = rng.uniform(-30, 0, shape)
    if how == "heavy":
        added[..., 7] = 150.0
    if how == "unknown":
        added[1, ..., 9] = np.nan
    steps = np.cumsum(1.0 - hidden[:, 0, 0], axis=1) - 1.0
    if how == "heavy":
        steps[:, 5] = s_kv + 300.0
    if how == "shuffled":
        steps = rng.permuted(steps, axis=1)
    by_head = np.concatenate((added[:, 0], 0.5 * added[:, 0]), axis=1)
    found = {
        "boolean": {"mask": hidden == 0},
        "positions": {"positions": steps},
        "bias": {"key_bias": np.maximum(by_head, LOWEST)},
    }.get(what, {"mask": added})
    if what == "both":
        found = {"mask": added, "positions": steps}
    return {name: x if x.dtype == bool else x.astype(np.float32) for name, x in found.items()}


VECTORS = (
    "boolean left", "boolean inside", "lowest left", "infinite right", "infinite inside", "additive soft",
    "additive heavy", "additive unknown", "bias heavy", "bias soft", "positions left", "positions heavy",
    "positions shuffled", "both left", "both heavy", "lengths last", "lengths first",
)  # fmt: skip


def vector_trials() -> Iterator[tuple[str, Case, str, float]]:
    """The same where masks, biases and positions differ by key."""
    for index, kind in enumerate(VECTORS):
        for symmetric in (False, True):
            if symmetric and kind.startswith(("positions", "both")):
                continue
            dtype = ("float16", "float32", "bfloat16")[(index + symmetric) % 3]
            rng = np.random.default_rng(index)
            s_q, s_kv = (200, 456) if index % 2 else (320, 320)
            shapes = ((2, 2, s_q, 16), (2, 1, s_kv, 16), (2, 1, s_kv, 16))
            query, key, value = (rounded(rng.standard_normal(shape), dtype) for shape in shapes)
            vector = vector_of(kind, rng, s_kv)
            # What nobody sees does not keep its block.
            if kind.startswith("boolean"):
                key[np.broadcast_to(~vector["mask"][:, :, 0, :, None], key.shape)] = np.nan
            if kind.startswith("lengths"):
                behind = np.arange(s_kv) >= vector["key_lengths"][:, None]
                key[np.broadcast_to(behind[:, None, :, None], key.shape)] = np.nan
            case = Case(query, key, value, np.array([0.5, 0.2], np.float32), 0.25, symmetric, not symmetric, **vector)
            yield f"{kind}-{'symmetric' if symmetric else 'causal'}-{dtype}", case, dtype, allowed(case, dtype)


def every_trial() -> Iterator[tuple[str, Case, str, float]]:
    """All of both."""
    return itertools.chain(skipping_trials(), vector_trials())
