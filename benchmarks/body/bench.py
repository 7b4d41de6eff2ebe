"""The function body against the original in onnxruntime on the CPU: the cost of a file for which nothing is registered.

    python benchmarks/body/bench.py [--lengths 128,512,2048] [--runs 40]

A decoder as BLOOM is exported (positions counted from the mask, boolean causal mask, 16 heads) and an encoder as
Jina-BERT is (bias table, additive mask, 12 heads), two layers of attention with its projections each.  Original and
rewritten alternate on one thread, and what is compared is processor time, so that other work on the machine matters
less; printed are ratios original / rewritten (above 1: the rewritten file is faster), of medians and of minima.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from alibi_rewriter import Options, rewrite
from onnx import ModelProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from graphs import Graph

Arrays = dict[str, npt.NDArray[np.generic]]
DEPTH, LAYERS, LONGEST = 64, 2, 2048
LOWEST = np.finfo(np.float32).min


def slopes_of(heads: int) -> npt.NDArray[np.float32]:
    """The standard geometric slopes as [1, H, 1, 1]."""
    return (2.0 ** (-8 * (np.arange(heads) + 1) / heads)).astype(np.float32).reshape(1, heads, 1, 1)


def decoder_terms(graph: Graph, heads: int) -> list[str]:
    """ALiBi over positions counted from the mask, and a mask of rows and keys."""
    zero, one, axes = graph.constant(0, np.int64), graph.constant(1, np.int64), graph.constant([1, 2], np.int64)
    counted = graph("Sub", graph("CumSum", "mask", one), one)
    positions = graph("Cast", graph("Mul", counted, "mask"), to=1)
    bias = graph("Mul", graph.constant(slopes_of(heads)), graph("Unsqueeze", positions, axes))
    keys = graph("Range", zero, graph("Gather", graph("Shape", "mask"), one), one)
    rows = graph("Unsqueeze", keys, graph.constant([1], np.int64))
    kept = graph("Unsqueeze", graph("Cast", "mask", to=9), axes)
    visible = graph("And", graph("LessOrEqual", keys, rows), kept)
    return [bias, graph("Where", visible, graph.constant(0), graph.constant(LOWEST))]


def encoder_terms(graph: Graph, heads: int) -> list[str]:
    """A bias table cut to the length, and an additive mask of keys."""
    place = np.arange(LONGEST)
    table = graph.constant(-np.abs(place[:, None] - place) * slopes_of(heads))
    length = graph("Slice", graph("Shape", "mask"), *(graph.constant([n], np.int64) for n in (1, 2)))
    ends = graph("Concat", length, length, axis=0)
    bias = graph("Slice", table, graph.constant([0, 0], np.int64), ends, graph.constant([2, 3], np.int64))
    kept = graph("Cast", graph("Unsqueeze", "mask", graph.constant([1, 2], np.int64)), to=1)
    return [graph("Mul", graph("Sub", graph.constant(1), kept), graph.constant(LOWEST)), bias]


MODELS = {"decoder": (16, decoder_terms), "encoder": (12, encoder_terms)}


def model_of(kind: str) -> ModelProto:
    """The original."""
    heads, terms_of = MODELS[kind]
    graph, rng, width = Graph(), np.random.default_rng(0), heads * DEPTH
    terms = terms_of(graph, heads)
    split, joined = graph.constant([0, 0, heads, DEPTH], np.int64), graph.constant([0, 0, width], np.int64)
    scale, x = graph.constant(DEPTH**-0.5), "x"

    def projected(value: str) -> str:
        return graph("MatMul", value, graph.constant(rng.standard_normal((width, width)) * width**-0.5))

    for _ in range(LAYERS):
        query, key, value = (
            graph("Transpose", graph("Reshape", projected(x), split), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = graph("Mul", graph("MatMul", query, key), scale)
        for term in terms:
            scores = graph("Add", scores, term)
        attended = graph("MatMul", graph("Softmax", scores, axis=-1), value)
        merged = graph("Reshape", graph("Transpose", attended, perm=[0, 2, 1, 3]), joined)
        x = graph("Add", x, projected(merged))
    shapes = [["B", "S", width], ["B", "S"]]
    inputs = [helper.make_tensor_value_info(n, t, s) for n, t, s in zip(("x", "mask"), (1, 7), shapes, strict=True)]
    outputs = [helper.make_tensor_value_info(x, 1, shapes[0])]
    made = helper.make_graph(graph.nodes, kind, inputs, outputs, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    """On one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(sessions: Sequence[onnxruntime.InferenceSession], given: Arrays, runs: int) -> list[list[float]]:
    """Seconds of processor time per run of each, alternating; the first runs do not count."""
    times: list[list[float]] = [[] for _ in sessions]
    for number in range(runs + 2):
        for place in range(len(sessions)) if number % 2 else reversed(range(len(sessions))):
            start = time.process_time()
            sessions[place].run(None, given)
            if number > 1:
                times[place].append(time.process_time() - start)
    return times


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="128,512,2048")
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    print("| model | tokens | ratio of medians | of minima |\n|---|---|---|---|")
    for kind in MODELS:
        original = model_of(kind)
        rewritten = rewrite(original, options=Options(verify=False)).model
        assert rewritten is not None
        sessions = (session(original), session(rewritten))
        width = MODELS[kind][0] * DEPTH
        for length in (int(text) for text in options.lengths.split(",")):
            given: Arrays = {
                "x": np.random.default_rng(1).standard_normal((1, length, width)).astype(np.float32),
                "mask": np.ones((1, length), np.int64),
            }
            before, after = measure(sessions, given, max(4, options.runs * 128 // max(128, length)))
            ratios = (statistics.median(before) / statistics.median(after), min(before) / min(after))
            print(f"| {kind} | {length} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
