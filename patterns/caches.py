"""The cache of keys and values: tensors [B, H_kv, S, D] that new keys are appended to along the sequence.

A decoder hands its past in and takes its present out.  Operators have them as inputs and outputs of their own, and read
new keys of any layout; the cache is always of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RANK: Final = 4
"""Axes of a cached tensor."""

SEQUENCE_AXIS: Final = 2
"""The axis along which new keys and values are appended."""

SCATTER: Final = "TensorScatter"
"""The operator that writes new keys and values into buffers of fixed capacity."""

SCATTER_AXIS: Final = -2
"""Its axis where none is given."""

CACHED: Final = ("key", "value")
"""What is cached, in the order in which it is written."""

PAST: Final[Mapping[str, str]] = {name: f"past_{name}" for name in CACHED}
"""Inputs of an attention operator that hold what was cached before, by what it is."""

PRESENT: Final[Mapping[str, str]] = {name: f"present_{name}" for name in CACHED}
"""Outputs that hold past and new together."""
