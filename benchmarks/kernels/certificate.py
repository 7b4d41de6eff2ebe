"""Which blocks of keys certified skipping visits, in NumPy: the criterion of docs/kernels.md, head by head.

A tile of 128 query rows may leave out a block of 64 keys if the largest norms on both sides bound all of its scores far
below what each row of the tile is known to weigh.  What a row is known to weigh is either the score of its own key
(``own``, the portable kernels), or what all keys together weigh in the blocks that the tile's diagonal crosses
(``near``, the Hopper kernel), which is at least as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

LOG2E = 1.4426950408889634
TILE, NORM_KEYS, BLOCK = 128, 64, 128
"""Query rows of a tile, keys of a norm, keys of the blocks that are visited."""
BITS = 14
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Head:
    """One head of one batch entry.

    Attributes:
        query, key: [S_q, D] and [S_kv, D] with S_q <= S_kv, float32.
        slope: Positive.
        scale: Multiplies the products.
        causal: Else symmetric.
    """

    query: Array
    key: Array
    slope: float
    scale: float
    causal: bool = True

    @property
    def offset(self) -> int:
        """Index of the first row's own key."""
        return int(self.key.shape[0] - self.query.shape[0])

    @property
    def tiles(self) -> int:
        """Of query rows."""
        return -(-self.query.shape[0] // TILE)


def own_scores(head: Head) -> Array:
    """What each row scores on its own key, where the bias is zero; in log2 units, like everything here."""
    own = head.key[head.offset : head.offset + len(head.query)]
    found: Array = np.einsum("id,id->i", head.query, own) * np.float32(head.scale * LOG2E)
    return found


def near_weights(head: Head) -> Array:
    """The logarithm of what each row weighs on the blocks that its tile's diagonal crosses, bias included."""
    found = np.empty(len(head.query), np.float32)
    for start in range(0, len(head.query), TILE):
        rows = np.arange(start, min(start + TILE, len(head.query)))
        first = (rows[0] + head.offset) // NORM_KEYS * NORM_KEYS
        end = min(((rows[-1] + head.offset) // NORM_KEYS + 1) * NORM_KEYS, len(head.key))
        distance = (rows + head.offset)[:, None] - np.arange(first, end)[None, :]
        scores = head.query[rows] @ head.key[first:end].T * np.float32(head.scale * LOG2E)
        scores -= np.float32(head.slope * LOG2E) * np.abs(distance)
        found[rows] = np.logaddexp2.reduce(np.where(head.causal & (distance < 0), -np.inf, scores), axis=1)
    return found


CRITERIA: dict[str, Callable[[Head], Array]] = {"own": own_scores, "near": near_weights}
"""What a row is known to weigh, as a logarithm."""


def reach(head: Head, criterion: str, bits: int = BITS) -> tuple[np.ndarray, np.ndarray]:
    """For each tile the first key that is needed and the end of those that are, both multiples of 64."""
    s_q, s_kv = len(head.query), len(head.key)
    blocks = -(-s_kv // NORM_KEYS)
    norms = np.zeros(blocks * NORM_KEYS, np.float32)
    norms[:s_kv] = np.linalg.norm(head.key, axis=1)
    block_norms = norms.reshape(blocks, NORM_KEYS).max(1)
    weights = np.full(head.tiles * TILE, np.inf, np.float32)
    weights[:s_q] = CRITERIA[criterion](head)
    lengths = np.zeros(head.tiles * TILE, np.float32)
    lengths[:s_q] = np.linalg.norm(head.query, axis=1) * abs(head.scale) * LOG2E
    least = weights.reshape(-1, TILE).min(1)
    longest = lengths.reshape(-1, TILE).max(1) * 1.001
    slope = head.slope * LOG2E
    margin = bits + 1 + np.log2(blocks) - np.log2(1 - 2.0**-slope)
    if slope * s_kv <= margin:  # the kernels do not try
        return np.zeros(head.tiles, int), np.full(head.tiles, blocks * NORM_KEYS)
    threshold = least - margin
    threshold -= 0.01 + 1e-6 * np.abs(threshold)

    first_row = np.arange(head.tiles) * TILE + head.offset
    last_row = np.minimum(first_row + TILE, s_q + head.offset) - 1
    start = np.arange(blocks) * NORM_KEYS
    nearest = np.maximum(first_row[:, None] - (start + NORM_KEYS - 1)[None], start[None] - last_row[:, None])
    bound = longest[:, None] * block_norms[None] - slope * np.maximum(nearest, 0) * 0.99999
    needed = (nearest <= 0) | ~(bound < threshold[:, None])
    first = needed.argmax(1)
    end = blocks - needed[:, ::-1].argmax(1)
    return first * NORM_KEYS, end * NORM_KEYS


def taken(head: Head, first: np.ndarray, end: np.ndarray) -> tuple[int, int]:
    """Blocks of 128 keys that all tiles take, with that reach and without any skipping."""
    tile = np.arange(head.tiles)
    last_row = np.minimum((tile + 1) * TILE, len(head.query)) - 1 + head.offset
    crossed = (tile * TILE + head.offset) // BLOCK
    whole = last_row // BLOCK + 1 if head.causal else np.full_like(tile, -(-len(head.key) // BLOCK))
    stop = whole if head.causal else np.clip(-(-end // BLOCK), last_row // BLOCK + 1, whole)
    return int((stop - np.minimum(first // BLOCK, crossed)).sum()), int(whole.sum())


def visited(head: Head, criterion: str, bits: int = BITS) -> float:
    """The share of blocks of 128 keys that is visited."""
    some, everything = taken(head, *reach(head, criterion, bits))
    return some / everything
