"""What became of the caches of a model."""

from __future__ import annotations

from dataclasses import dataclass

from ...graph.edit import Counts
from ...verify.buffers import CacheBuffer


@dataclass(frozen=True)
class InPlace:
    """What became of the caches of a model.

    Attributes:
        buffers: Inputs that are buffers now, each with the output that may be the same memory, and how they were.
        lengths: The input that says how many keys each sequence has, those of the new tokens included.
        removed: Inputs that said what is padding, and are gone.
        capacity: Rows of the buffers; None where the user chooses them.
        counts: Changes of the graph.
    """

    buffers: tuple[CacheBuffer, ...]
    lengths: str
    removed: tuple[str, ...]
    capacity: int | None
    counts: Counts
