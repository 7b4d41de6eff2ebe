"""The share of key blocks that certified skipping visits on normally distributed inputs; no GPU is needed.

    python benchmarks/kernels/visited.py

Runs the two kernels that certify in Triton's interpreter and counts the blocks of 128 keys that the Hopper kernel
takes for every 128 query rows, against those that it takes without skipping.  Takes some ten minutes.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import sys

import torch
from alibi_rewriter.kernels import skipping
from alibi_rewriter.kernels.variants import Layout, Request, Tile, constants_of

SHAPES = (
    (16, 4096, 128, True), (32, 8192, 64, True), (32, 8192, 128, True), (16, 16384, 128, True),
    (16, 4096, 64, False), (12, 8192, 64, False),
)  # fmt: skip
"""Heads, length, head size, causal: rows of the benchmark with one batch entry."""
BLOCK = 128


def slopes(heads: int) -> torch.Tensor:
    """Those of the ALiBi paper."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    whole = 1 << (heads.bit_length() - 1)
    return torch.tensor(geometric(whole) + geometric(2 * whole)[0::2][: heads - whole])


def visited(heads: int, length: int, depth: int, causal: bool) -> float:
    """Blocks taken with skipping over blocks taken without."""
    torch.manual_seed(0)
    query, key = (torch.randn(1, heads, length, depth).half() for _ in range(2))
    request = Request.of(
        symmetric=not causal, causal=causal, positions=False, mask_dtype=None, dtype="float16", head_dim=depth
    )
    blocks, tiles = -(-length // skipping.NORM_KEYS), -(-length // skipping.REACH_ROWS)
    norms = torch.empty(1, heads, blocks)
    reach = torch.empty(1, heads, tiles, 2, dtype=torch.int32)
    values = {
        "query": query, "key": key, "slopes": slopes(heads), "key_norms": norms, "reach": reach, "heads": heads,
        "group": 1, "s_q": length, "s_kv": length, "kv_heads": heads, "scale_natural": depth**-0.5,
    }  # fmt: skip
    for name, tensor in (("query", query), ("key", key)):
        for axis, stride in zip(("batch", "head", "row"), tensor.stride(), strict=False):
            values[f"{name}_{axis}"] = stride
    for role, kernel, grid in (
        ("key_norms", skipping.alibi_key_norms, (blocks, heads, 1)),
        ("reach", skipping.alibi_reach, (tiles, heads, 1)),
    ):
        constants = constants_of(role, request, Tile(128, 128, 4, 1), Layout())
        kernel[grid](**{name: {**values, **constants}[name] for name in kernel.arg_names})
    tile = torch.arange(tiles)
    first = torch.minimum(reach[0, :, :, 0] // BLOCK, tile)
    taken = tile - first + 1
    everything = tile + 1
    if not causal:
        last = torch.maximum(-(-reach[0, :, :, 1] // BLOCK), tile + 1)
        taken = taken + torch.clamp(last, max=length // BLOCK) - (tile + 1)
        everything = torch.full_like(tile, length // BLOCK)
    return float(taken.sum() / (everything.sum() * heads))


def main() -> int:
    """Prints a line per shape."""
    for heads, length, depth, causal in SHAPES:
        share = visited(heads, length, depth, causal)
        form = "causal" if causal else "symmetric"
        sys.stdout.write(f"{heads} heads, {length} keys, D = {depth}, {form}: {share:.3f}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
