"""The fused node in float64, straight from ``docs/specification.md``: one row of one head at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

LOWEST = -float(np.finfo(np.float32).max)

DISTANCES: dict[str, Callable[..., float]] = {
    "linear": lambda d: d,
    "symmetric": lambda d: -abs(d),
}
"""d(i, j) by the node's attribute ``bias``: of ``j - row(i)``, and of the form's parameters."""


def operand(
    tensor: NDArray[np.generic], shape: Sequence[int], starts: Sequence[int], ends: Sequence[int], perm: Sequence[int]
) -> NDArray[np.generic]:
    """[B, H, S, D] of a tensor that a node has a view of, element by element."""
    whole = tensor.reshape(*tensor.shape[:2], *shape[2:]) if tensor.ndim == 3 else tensor
    firsts = (0, 0, *starts)
    lasts = (*whole.shape[:2], *(min(end, extent) for end, extent in zip(ends, whole.shape[2:], strict=True)))
    counts = [last - first for first, last in zip(firsts, lasts, strict=True)]
    made = np.empty([counts[axis] for axis in perm], tensor.dtype)
    for place in np.ndindex(*counts):
        source = tuple(first + i for first, i in zip(firsts, place, strict=True))
        made[tuple(place[axis] for axis in perm)] = whole[source]
    return made


def output(result: NDArray[np.float64], perm: Sequence[int], shape: Sequence[int]) -> NDArray[np.float64]:
    """The output's tensor, of a result [B, H, S_q, D_v], element by element."""
    made = np.empty([result.shape[axis] for axis in perm])
    for place in np.ndindex(*result.shape):
        made[tuple(place[axis] for axis in perm)] = result[place]
    return made.reshape(*made.shape[:2], shape[2]) if len(shape) == 3 else made


def attention(
    query: NDArray[np.generic],
    key: NDArray[np.generic],
    value: NDArray[np.generic],
    slopes: NDArray[np.generic],
    mask: NDArray[np.generic] | None = None,
    key_positions: NDArray[np.generic] | None = None,
    key_bias: NDArray[np.generic] | None = None,
    key_lengths: NDArray[np.generic] | None = None,
    *,
    scale: float,
    bias: str,
    causal: bool,
    empty_rows: str = "mean",
    window_left: int = -1,
    window_right: int = -1,
    parameters: Sequence[float] = (),
    rows: str = "last",
) -> NDArray[np.float64]:
    """Attention with an ALiBi bias; shapes and meaning as in the specification.

    Returns:
        [B, H, S_q, D_v] in float64.
    """
    q, k, v = (np.asarray(array, dtype=np.float64) for array in (query, key, value))
    batches, heads, s_q, _ = q.shape
    kv_heads, s_kv = k.shape[1], k.shape[2]
    group = heads // kv_heads
    if mask is not None:
        mask = np.broadcast_to(mask, (batches, heads, s_q, s_kv))
    if key_positions is not None:
        key_positions = np.broadcast_to(key_positions, (batches, s_kv))
    if key_bias is not None:
        key_bias = np.broadcast_to(key_bias, (batches, heads, s_kv))
    counts = [s_kv] * batches
    if key_lengths is not None:
        counts = [min(max(int(n), 0), s_kv) for n in np.broadcast_to(key_lengths, (batches,))]
    output = np.zeros((batches, heads, s_q, v.shape[3]))
    for b in range(batches):
        keys = counts[b]
        for h in range(heads):
            for i in range(s_q):
                row = i if rows == "first" else i + (keys - s_q)
                with np.errstate(invalid="ignore"):  # of hidden keys, which may hold anything
                    dots = (k[b, h // group, :keys] @ q[b, h, i]).tolist()
                of_row = None if mask is None else mask[b, h, i].tolist()
                of_head = None if key_bias is None else key_bias[b, h].tolist()
                places = None if key_positions is None else key_positions[b].tolist()
                scores: dict[int, float] = {}
                for j in range(keys):
                    if causal and j > row:
                        continue
                    if window_left >= 0 and row - j > window_left:
                        continue
                    if window_right >= 0 and j - row > window_right:
                        continue
                    entry = 0.0
                    if of_row is not None and isinstance(of_row[j], bool):
                        if not of_row[j]:
                            continue
                    elif of_row is not None:
                        entry = min(float(of_row[j]), -LOWEST)
                        if entry <= LOWEST:
                            continue
                    if of_head is not None:
                        own = min(of_head[j], -LOWEST)
                        entry += own
                        if own <= LOWEST or entry <= LOWEST:
                            continue
                    apart = float(j - row)
                    if places is not None:
                        here = min(max(row, 0), keys - 1)
                        apart = float(places[j]) - float(places[here])
                    distance = DISTANCES[bias](apart, *parameters)
                    scores[j] = scale * dots[j] + float(slopes[h]) * distance + entry
                values = v[b, h // group, :keys]
                if not scores:
                    if empty_rows == "mean" and keys:
                        output[b, h, i] = values.mean(axis=0)
                    continue
                visible = list(scores)
                weights = np.exp(np.array(list(scores.values())) - max(scores.values()))
                output[b, h, i] = (weights / weights.sum()) @ values[visible]
    return output
