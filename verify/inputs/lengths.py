"""How long drawn sequences are: as long as small slopes need, and beyond every length that a proof names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...base.memory import available_memory

MOST_SCORES = 1 << 26
"""Entries of the scores of all heads that a sequence beyond a named length may have."""

_BYTES_PER_SCORE = 64
"""Of all tensors of the size of the scores together."""


def exceeding(length: int) -> int:
    """A length well beyond this one."""
    return length + max(2, length // 8)


def affordable(lengths: Sequence[int], heads: int, *, new_only: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(lengths that can be exceeded, lengths that cannot), in order.

    Args:
        lengths: Numbers of keys.
        heads: Of the widest attention.
        new_only: There is no cache: a long sequence has as many rows as keys, not two.
    """
    available = available_memory()
    most = MOST_SCORES if available is None else min(MOST_SCORES, available // (2 * _BYTES_PER_SCORE))
    longest = math.isqrt(most // max(1, heads)) if new_only else most // (2 * max(1, heads))
    fitting = tuple(length for length in lengths if exceeding(length) <= longest)
    return fitting, tuple(length for length in lengths if length not in fitting)
