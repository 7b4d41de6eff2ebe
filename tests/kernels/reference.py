"""Float64 attention with an ALiBi bias in numpy, written from docs/specification.md and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

LOWEST = float(np.finfo(np.float32).min)
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Case:
    """One attention: arrays in whatever precision the kernel sees, widened here."""

    query: Array
    key: Array
    value: Array
    slopes: Array
    scale: float
    symmetric: bool = False
    causal: bool = False
    positions: Array | None = None
    mask: npt.NDArray[np.generic] | None = None
    empty_mean: bool = True
    key_bias: Array | None = None
    window: tuple[int, int] = (-1, -1)
    key_lengths: npt.NDArray[np.int64] | None = None
    rows_first: bool = False
    notes: str = field(default="", compare=False)


def lengths(case: Case) -> npt.NDArray[np.int64]:
    """How many keys there are, [1 or B, 1, 1, 1]."""
    s_kv = case.key.shape[2]
    given = np.array([s_kv]) if case.key_lengths is None else case.key_lengths
    return np.clip(given, 0, s_kv).reshape(-1, 1, 1, 1)


def rows(case: Case) -> npt.NDArray[np.int64]:
    """row(i), [1 or B, 1, S_q, 1]."""
    s_q = case.query.shape[2]
    first = np.zeros((1, 1, 1, 1), np.int64) if case.rows_first else lengths(case) - s_q
    return first + np.arange(s_q)[:, None]


def bias(case: Case) -> Array:
    """slopes[h] * d(i, j), [B or 1, H, S_q, S_kv]."""
    s_kv = case.key.shape[2]
    row = rows(case)
    slope = case.slopes.astype(np.float64)[None, :, None, None]
    if case.symmetric:
        return slope * -np.abs(row - np.arange(s_kv)).astype(np.float64)
    if case.positions is None:
        return slope * (np.arange(s_kv) - row).astype(np.float64)
    position = case.positions.astype(np.float64)
    own = position[:, np.clip(row[0, 0, :, 0], 0, s_kv - 1)]
    return slope * (position[:, None, None, :] - own[:, None, :, None])


def visible(case: Case) -> npt.NDArray[np.bool_]:
    """Which keys each row sees, broadcastable to [B, H, S_q, S_kv]."""
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    seen = np.ones((1, 1, s_q, s_kv), bool) & (np.arange(s_kv) < lengths(case))
    if case.causal:
        seen = seen & (np.arange(s_kv) <= rows(case))
    if case.mask is not None:
        seen = seen & (case.mask if case.mask.dtype == bool else case.mask.astype(np.float64) > LOWEST)
    before = rows(case) - np.arange(s_kv)
    for distance, most in zip((before, -before), case.window, strict=True):
        seen = seen & (distance <= most) if most >= 0 else seen
    if case.key_bias is not None:
        seen = seen & (case.key_bias.astype(np.float64) > LOWEST)[:, :, None, :] & (_added(case) > LOWEST)
    return seen


def _added(case: Case) -> Array:
    """What mask and key bias add, broadcastable to [B, H, S_q, S_kv]."""
    added: Array = np.zeros((1, 1, 1, 1))
    if case.mask is not None and case.mask.dtype != bool:
        added = np.clip(case.mask.astype(np.float64), LOWEST, LARGEST)
    if case.key_bias is not None:
        added = added + np.clip(case.key_bias.astype(np.float64), LOWEST, LARGEST)[:, :, None, :]
    return added


def masked_scores(case: Case) -> Array:
    """The scores, [B, H, S_q, S_kv] in float64; -inf where a key is hidden."""
    group = case.query.shape[1] // case.key.shape[1]
    query = case.query.astype(np.float64)
    key = np.repeat(case.key.astype(np.float64), group, axis=1)
    scores: Array = case.scale * (query @ key.swapaxes(-1, -2)) + bias(case)
    return np.where(visible(case), scores + _added(case), -np.inf)


def attend(case: Case) -> Array:
    """The output of the fused node, [B, H, S_q, D_v] in float64."""
    value = np.repeat(case.value.astype(np.float64), case.query.shape[1] // case.key.shape[1], axis=1)
    scores = masked_scores(case)
    seen = np.broadcast_to(visible(case), scores.shape)
    peak = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(peak), peak, 0.0))
    total = weights.sum(-1, keepdims=True)
    held = np.where((np.arange(value.shape[2]) < lengths(case)).swapaxes(2, 3), value, 0.0)
    output = (weights @ held) / np.where(total > 0, total, 1.0)
    counts = (np.arange(value.shape[2]) < lengths(case)).swapaxes(2, 3)
    mean = np.where(counts, value, 0.0).sum(2, keepdims=True) / np.maximum(lengths(case), 1)
    fallback = mean if case.empty_mean else np.zeros_like(mean)
    return np.where(seen.any(-1, keepdims=True), output, fallback)
