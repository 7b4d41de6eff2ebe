"""How long drawn sequences are.  They are as long as small slopes need, and pass every length that a proof names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ...base.memory import available_memory

MOST_SCORES = 1 << 26
"""Entries of the scores of all heads that a sequence beyond a named length may have."""

BIAS_THAT_MATTERS = 4.0
"""slope * length at which a bias decides which keys count: exp(-4) is 2 %."""

SHORTEST_LONG = 64
"""A sequence that is called long has this many keys at least, however steep the slopes are."""

_BYTES_PER_SCORE = 64
"""Of all tensors of the size of the scores together."""


def exceeding(length: int) -> int:
    """A length well beyond this one."""
    return length + max(2, length // 8)


def long_length(slopes: Iterable[float], longest: int, *, fitting: int | None = None) -> int:
    """A length at which the smallest slope matters.

    Args:
        slopes: Of all heads; those of zero do not matter at any length.
        longest: No more than this, whatever the slopes are.
        fitting: No more than this either, unless it is too short for a long sequence; None for no limit.
    """
    magnitudes = [abs(slope) for slope in slopes if slope and math.isfinite(slope)]
    # Compared as floats, since a slope may be so small that its length is infinite.
    wanted = max(SHORTEST_LONG, BIAS_THAT_MATTERS / min(magnitudes) if magnitudes else math.inf)
    most = longest if fitting is None else min(longest, max(SHORTEST_LONG, fitting))
    return max(1, math.ceil(min(most, wanted)))


def affordable(lengths: Sequence[int], heads: int, *, new_only: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(lengths that can be exceeded, lengths that cannot), in order.

    Args:
        lengths: Numbers of keys.
        heads: Of the widest attention.
        new_only: There is no cache, so that a long sequence has as many rows as keys, not two.
    """
    available = available_memory()
    most = MOST_SCORES if available is None else min(MOST_SCORES, available // (2 * _BYTES_PER_SCORE))
    longest = math.isqrt(most // max(1, heads)) if new_only else most // (2 * max(1, heads))
    fitting = tuple(length for length in lengths if exceeding(length) <= longest)
    return fitting, tuple(length for length in lengths if length not in fitting)
