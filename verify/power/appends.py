"""Wrong ways to append to a cache in place, made on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...fused.append import INPUTS, OP_TYPE
from ...fused.family import DOMAIN, is_fused
from ..errors import RunError
from ..judge.compare import compare
from ..report import MutantResult
from ..run.runtime import Model, Session
from .power import Baseline

Change = Callable[[onnx.ModelProto, onnx.NodeProto], None]


def check_appends(model: Model, baseline: Baseline, *, threads: int) -> Iterator[MutantResult]:
    """Runs each mistake at all appending nodes, until an input set tells it apart.

    Args:
        model: The model with its cache in place, as a float32 clone.
        baseline: Input sets and what the original yields on them.
        threads: Threads of onnxruntime.
    """
    for kind, change in MISTAKES.items():
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        for node in [n for n in proto.graph.node if n.domain == DOMAIN and n.op_type == OP_TYPE]:
            change(proto, node)
        yield _judge(kind, replace(model, proto=proto), baseline, threads)


def _judge(kind: str, mutant: Model, baseline: Baseline, threads: int) -> MutantResult:
    largest = 0.0
    try:
        session = Session(mutant, threads=threads)
    except RunError as error:
        # A mutant is our own construction.  That it does not load says nothing about the input sets.
        return MutantResult(kind, "all", "survived", None, 0.0, f"the mutant does not load: {error}")
    for one, original, allowances in zip(baseline.sets, baseline.originals, baseline.allowances, strict=True):
        try:
            outputs = session.run(one.arrays)
        except RunError as error:
            # Rows outside of a buffer are an error of TensorScatter, and of our kernels.
            return MutantResult(kind, "all", "killed", one.name, largest, f"it fails: {error}")
        errors = compare(one, original, outputs, baseline.layouts, allowances)
        largest = max(largest, max((e.factor for e in errors if e.compared), default=0.0))
        if largest > 1.0:
            return MutantResult(kind, "all", "killed", one.name, largest, "")
    return MutantResult(kind, "all", "survived", None, largest, "no input set tells it apart")


def _early(proto: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """The new rows begin one row before their place."""
    one = f"{node.output[0]}/one"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), one))
    shorter = f"{node.output[0]}/shorter"
    made = helper.make_node("Sub", [node.input[INPUTS.index("key_lengths")], one], [shorter])
    node.input[INPUTS.index("key_lengths")] = shorter
    _before(proto, node, made)


def _forgotten(proto: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """The attention reads the buffers without what was appended."""
    for reader in proto.graph.node:
        if is_fused(reader):
            for place, name in enumerate(reader.input):
                if name in node.output:
                    reader.input[place] = node.input[list(node.output).index(name)]


def _swapped(proto: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """The sequences of a batch are of each other's length."""
    lengths = INPUTS.index("key_lengths")
    turned = f"{node.output[0]}/turned"
    made = helper.make_node("ReduceMax", [node.input[lengths]], [turned], keepdims=1)
    node.input[lengths] = turned
    _before(proto, node, made)


def _before(proto: onnx.ModelProto, node: onnx.NodeProto, made: onnx.NodeProto) -> None:
    place = next(index for index, other in enumerate(proto.graph.node) if other.output == node.output)
    proto.graph.node.insert(place, made)


MISTAKES: Mapping[str, Change] = {
    "appended_one_row_early": _early,
    "appended_rows_not_read": _forgotten,
    "one_length_for_all": _swapped,
}
"""By a stable name."""
