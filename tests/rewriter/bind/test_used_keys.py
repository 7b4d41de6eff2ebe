"""Buffers that a model writes into itself: lengths where they are proven, and a mask where they are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from alibi_rewriter import rewrite
from onnx import ModelProto, helper, numpy_helper
from textgraphs import read


def node(model: ModelProto, output: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if output in n.output)


def fused(model: ModelProto) -> onnx.NodeProto:
    done = rewrite(model)
    assert done.verification is not None
    assert done.verification.status == "passed"
    return next(n for n in done.model.graph.node if n.domain == "alibi")


def test_the_index_of_the_new_keys_says_how_many_there_are() -> None:
    found = fused(read("caches/scattered"))
    assert found.op_type == "AlibiAttentionCausalLengths"
    assert len(found.input) == 5


def circular(model: ModelProto) -> None:
    node(model, "k").attribute.append(helper.make_attribute("mode", "circular"))


def another_index(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("other", 7, ["B"]))
    node(model, "first").input[0] = "other"


def one_key_less(model: ModelProto) -> None:
    node(model, "after").op_type = "GreaterOrEqual"


def a_padding_mask_besides(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", 9, ["B", 1, 1, "T"]))
    place = [n.output[0] for n in model.graph.node].index("s") + 1
    model.graph.node.insert(place, helper.make_node("Where", ["mask", "s", "low"], ["s_masked"]))
    node(model, "p").input[0] = "s_masked"


def a_part_of_the_buffer(model: ModelProto) -> None:
    """The node has room for more keys than are attended, so its index does not bound how many of these there are."""
    bounds = {"none": 0, "seven": 7, "sequence": 2}
    model.graph.initializer.extend(numpy_helper.from_array(np.array([n]), name) for name, n in bounds.items())
    for name in ("k", "v"):
        place = [n.output[0] for n in model.graph.node].index("extent")
        model.graph.node.insert(place, helper.make_node("Slice", [name, *bounds], [f"{name}_part"]))
    node(model, "extent").input[0] = node(model, "kt").input[0] = "k_part"
    node(model, "y").input[1] = "v_part"


def another_axis(model: ModelProto) -> None:
    """Heads are written, as many as there are rows."""
    for name in ("k", "v"):
        node(model, name).attribute[0].i = 1
        given = next(value for value in model.graph.input if value.name == f"new_{name}")
        given.CopyFrom(helper.make_tensor_value_info(given.name, 1, ["B", "S", "T", 8]))


@pytest.mark.parametrize(
    "change",
    [circular, another_index, one_key_less, a_padding_mask_besides, a_part_of_the_buffer, another_axis],
    ids=lambda change: change.__name__,
)
def test_what_is_not_proven_stays_a_mask(change: object) -> None:
    model = read("caches/scattered")
    change(model)  # type: ignore[operator]
    found = rewrite(model, verify=False)
    kinds = [n.op_type for n in found.model.graph.node if n.domain == "alibi"]
    assert kinds == ["AlibiAttentionLinearBooleanMask"]
