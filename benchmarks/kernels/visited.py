"""The share of key blocks that certified skipping visits on normally distributed inputs; NumPy only.

    python benchmarks/kernels/visited.py

Counts the blocks of 128 keys that the Hopper kernel takes for every 128 query rows, against those that it takes without
skipping, by the criterion of docs/kernels.md (``certificate``).  ``activations.py`` does the same for a trained model.
"""

from __future__ import annotations

import sys

import numpy as np
from certificate import CRITERIA, Head, reach, taken
from shapes import paper_slopes

SHAPES = (
    (16, 4096, 128, True), (32, 8192, 64, True), (32, 8192, 128, True), (16, 16384, 128, True),
    (16, 4096, 64, False), (12, 8192, 64, False),
)  # fmt: skip
"""Heads, length, head size, causal: rows of the benchmark with one batch entry."""


def normal_heads(heads: int, length: int, depth: int, causal: bool) -> list[Head]:
    """Normal float16 inputs."""
    rng = np.random.default_rng(0)
    found = []
    for slope in paper_slopes(heads):
        query, key = (rng.standard_normal((length, depth)).astype(np.float16).astype(np.float32) for _ in range(2))
        found.append(Head(query, key, slope, depth**-0.5, causal))
    return found


def visited(heads: list[Head], criterion: str) -> float:
    """Blocks taken with skipping over blocks taken without."""
    counts = [taken(head, *reach(head, criterion)) for head in heads]
    return sum(some for some, _ in counts) / sum(everything for _, everything in counts)


def main() -> int:
    """Prints a line per shape."""
    for count, length, depth, causal in SHAPES:
        heads = normal_heads(count, length, depth, causal)
        shares = ", ".join(f"{visited(heads, criterion):.3f} ({criterion})" for criterion in CRITERIA)
        form = "causal" if causal else "symmetric"
        sys.stdout.write(f"{count} heads, {length} keys, D = {depth}, {form}: {shares}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
