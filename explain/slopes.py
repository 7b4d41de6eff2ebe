"""The geometric slopes of the ALiBi paper, to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

THREE_DIGITS = 1e-3
"""16-bit models hold slopes to three digits."""


def standard_slopes(heads: int) -> list[float]:
    """Slopes of Press et al., "Train Short, Test Long" (2022): 2^(-8/H), 2^(-16/H), ...

    For a number of heads that is not a power of two, these are the slopes of the next lower power of two, followed by
    every other slope of the next higher one, as in the paper's own code.
    """
    power = 1 << (heads.bit_length() - 1)
    first = [2.0 ** (-8.0 * (k + 1) / power) for k in range(power)]
    return first + [2.0 ** (-8.0 * (k + 1) / (2 * power)) for k in range(0, 2 * power, 2)][: heads - power]


def compare(slopes: Sequence[float]) -> str:
    """In words, how slopes relate to the standard ones of the same number of heads."""
    standard = standard_slopes(len(slopes))
    own = [abs(s) for s in slopes]
    if _close(own, standard):
        return "the standard geometric slopes"
    if _close(sorted(own), sorted(standard)):
        return "the standard geometric slopes in another order"
    apart = sum(not math.isclose(a, b, rel_tol=THREE_DIGITS) for a, b in zip(own, standard, strict=True))
    return f"{apart} of {len(own)} slopes differ from the standard geometric ones"


def _close(left: Sequence[float], right: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=THREE_DIGITS) for a, b in zip(left, right, strict=True))
