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
    notes: str = field(default="", compare=False)


def bias(case: Case) -> Array:
    """slopes[h] * d(i, j), [B or 1, H, S_q, S_kv]."""
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    row = np.arange(s_q) + (s_kv - s_q)
    slope = case.slopes.astype(np.float64)[None, :, None, None]
    if case.symmetric:
        return slope * -np.abs(row[:, None] - np.arange(s_kv)[None, :])[None, None].astype(np.float64)
    if case.positions is None:
        return slope * (np.arange(s_kv)[None, :] - row[:, None])[None, None].astype(np.float64)
    position = case.positions.astype(np.float64)
    own = position[:, np.clip(row, 0, s_kv - 1)]
    return slope * (position[:, None, None, :] - own[:, None, :, None])


def visible(case: Case) -> npt.NDArray[np.bool_]:
    """Which keys each row sees, broadcastable to [B, H, S_q, S_kv]."""
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    seen = np.ones((1, 1, s_q, s_kv), bool)
    if case.causal:
        seen = (np.arange(s_kv)[None, :] <= (np.arange(s_q) + s_kv - s_q)[:, None])[None, None]
    if case.mask is not None:
        seen = seen & (case.mask if case.mask.dtype == bool else case.mask.astype(np.float64) > LOWEST)
    before = (np.arange(s_q) + s_kv - s_q)[:, None] - np.arange(s_kv)[None, :]
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
    output = (weights @ value) / np.where(total > 0, total, 1.0)
    fallback = value.mean(2, keepdims=True) if case.empty_mean else np.zeros_like(value[:, :, :1])
    return np.where(seen.any(-1, keepdims=True), output, fallback)
