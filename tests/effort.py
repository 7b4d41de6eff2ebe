"""How much work something is: CPU time of this process, which other programs on the machine do not change."""

from __future__ import annotations

import time
from collections.abc import Callable

FLOOR = 0.2
"""Seconds of CPU time below which a small case says nothing about how the work grows."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time that a call takes in this process, threads included."""
    started = time.process_time()
    work()
    return time.process_time() - started


def growth(small: Callable[[], object], large: Callable[[], object]) -> float:
    """How many times the work of the small case the large one is."""
    return cpu_seconds(large) / max(FLOOR, cpu_seconds(small))
