"""Causal ALiBi inside the product: six more columns of query and key instead of a bias.  Is it exact, does it fuse?

    python benchmarks/engine/mask_free.py

slope * j is of rank one, so it fits into the product of query and key: the slope in three float16 pieces, the position
as a multiple of 256 and a rest.  Then a plain causal attention computes ALiBi, and TensorRT's causal kernels may skip.

Prints (1) the error of the output against float64 when the product is accumulated in float32 and when the scores are
rounded to float16, as float16 accumulation does at least; (2) whether TensorRT-RTX, on a CPU, compiles it to one
attention kernel.  Head size 64, one head per slope, normal inputs.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
from alibi_rewriter.engine.job import BuildJob
from alibi_rewriter.engine.process import run_child
from onnx import TensorProto, helper

DEPTH, EXTRA, PIECES, HIGH = 64, 8, 3, 256
SLOPES = (0.5, 0.0625, 0.00390625)


def columns(slope: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The additional columns of query (one row for all) and key, in float16."""
    pieces, rest = [], np.float64(slope) * DEPTH**0.5
    for _ in range(PIECES):
        piece = np.float16(rest)
        pieces.append(piece)
        rest = rest - np.float64(piece)
    position = np.arange(length)
    high, low = position // HIGH * HIGH, position % HIGH
    query = np.array([*pieces, *pieces, 0, 0], np.float16)
    key = np.stack([high] * PIECES + [low] * PIECES + [0 * low] * 2, axis=1).astype(np.float16)
    return query, key


def error(slope: float, length: int, accumulate: type) -> float:
    """Relative error of the output of the last 64 rows."""
    rng = np.random.default_rng(length)
    rows = np.arange(length - 64, length)
    query, key, value = (rng.standard_normal((n, DEPTH)).astype(np.float16) for n in (64, length, length))
    extra_query, extra_key = columns(slope, length)
    wide_query = np.concatenate([query, np.broadcast_to(extra_query, (64, EXTRA))], axis=1).astype(np.float32)
    wide_key = np.concatenate([key, extra_key], axis=1).astype(np.float32)
    scores = (wide_query @ wide_key.T * np.float32(DEPTH**-0.5)).astype(accumulate).astype(np.float64)
    exact = query.astype(np.float64) @ key.astype(np.float64).T * DEPTH**-0.5 + slope * np.arange(length)
    hidden = np.arange(length)[None] > rows[:, None]

    def output(given: np.ndarray) -> np.ndarray:
        masked = np.where(hidden, -np.inf, given)
        weights = np.exp(masked - masked.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True) @ value.astype(np.float64))

    wanted = output(exact)
    return float(np.linalg.norm(output(scores) - wanted) / np.linalg.norm(wanted))


def fused_kernels() -> int:
    """Attention kernels that TensorRT-RTX makes of the plain causal attention on the wide operands."""
    shape = ["b", 8, "s", DEPTH + EXTRA]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in ("q", "k")]
    inputs.append(helper.make_tensor_value_info("v", TensorProto.FLOAT16, shape))
    node = helper.make_node("Attention", ["q", "k", "v"], ["o"], is_causal=1, scale=DEPTH**-0.5)
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT16, shape)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path, plan = Path(folder) / "m.onnx", Path(folder) / "m.plan"
        onnx.save(model, path)
        wide = DEPTH + EXTRA
        profile = {name: [[1, 8, 1, wide], [1, 8, 512, wide], [2, 8, 2048, wide]] for name in ("q", "k", "v")}
        run_child(
            ["build"], "tensorrt-rtx", job=BuildJob("tensorrt-rtx", str(path), str(plan), profile, (89,)).to_json()
        )
        # The plan holds a listing of its program; this is undocumented and used for nothing else.
        return len(set(re.findall(rb"function=\{ name=(\w*mha\w*)", plan.read_bytes())))


def main() -> None:
    """Prints both tables."""
    print("| slope | keys | accumulated in float32 | scores in float16 |\n|---|---|---|---|")
    for slope in SLOPES:
        for length in (512, 2048, 8192):
            errors = [f"{error(slope, length, kind):.1e}" for kind in (np.float32, np.float16)]
            print(f"| {slope} | {length} | {' | '.join(errors)} |")
    print(f"attention kernels in TensorRT-RTX's plan: {fused_kernels()}")


if __name__ == "__main__":
    main()
