"""Wrong ways to append to a cache in place, made on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...fused.append import INPUTS, OP_TYPE
from ...fused.family import DOMAIN, is_fused
from .mistakes import Mistake

Change = Callable[[onnx.ModelProto, onnx.NodeProto], None]


def append_mistakes() -> list[Mistake]:
    """Each mistake, made at all appending nodes at once."""
    # Rows outside of a buffer are an error of TensorScatter, and of our kernels.
    return [Mistake(kind, "all", partial(_everywhere, change), fails=True) for kind, change in MISTAKES.items()]


def _everywhere(change: Change, proto: onnx.ModelProto) -> None:
    for node in [n for n in proto.graph.node if n.domain == DOMAIN and n.op_type == OP_TYPE]:
        change(proto, node)


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
