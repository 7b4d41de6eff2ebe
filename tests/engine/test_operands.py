"""What enters a fused node: a file that `rewrite` did not write is refused by name, before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from alibi_rewriter.base.errors import EngineFailed
from alibi_rewriter.engine.operands import check_operands, fused_with_facts
from alibi_rewriter.rewriter.pipeline import rewrite
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from textgraphs import read
from tiny import BARE

NAMES = ("forms/linear", "masks/boolean_padding", "positions/counted", "masks/key_bias_per_head", "scopes/if_body")


def rewritten(name: str) -> ModelProto:
    made = rewrite(read(name), options=BARE).model
    assert made is not None
    return made


def fused(model: ModelProto) -> NodeProto:
    return next(node for _, node in fused_with_facts(model, Path()))


def refused(model: ModelProto) -> str:
    with pytest.raises(EngineFailed) as caught:
        check_operands(model, Path())
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_rewrite_writes_passes(name: str) -> None:
    check_operands(rewritten(name), Path())


def replace(model: ModelProto, position: int, array: np.ndarray) -> None:
    """Another constant in place of an operand."""
    model.graph.initializer.append(numpy_helper.from_array(array, "other"))
    fused(model).input[position] = "other"


def _left_over(model: ModelProto) -> None:
    fused(model).input.append("q")


def _missing(model: ModelProto) -> None:
    del fused(model).input[3]


def _empty(model: ModelProto) -> None:
    fused(model).input[3] = ""


def _rank(model: ModelProto) -> None:
    replace(model, 3, np.ones((4, 1), np.float32))


def _type(model: ModelProto) -> None:
    replace(model, 3, np.ones(4, np.float64))


def _heads(model: ModelProto) -> None:
    replace(model, 3, np.ones(5, np.float32))


FAULTS: dict[str, Callable[[ModelProto], None]] = {
    "has 5 inputs instead of query, key, value, slopes": _left_over,
    "has 3 inputs instead of": _missing,
    "has 4 inputs instead of": _empty,
    "its slopes 'other' has 2 axes instead of 1": _rank,
    "its slopes 'other' is double instead of float32": _type,
    "axis 0 of its slopes 'other' is 5 instead of 4": _heads,
}


@pytest.mark.parametrize("said", FAULTS)
def test_each_fault_is_named(said: str) -> None:
    model = rewritten("forms/linear")
    FAULTS[said](model)
    assert said in refused(model)


def test_a_mask_may_be_spread_and_nothing_else() -> None:
    model = rewritten("masks/boolean_padding")
    replace(model, 4, np.ones((1, 1, 1, 1), bool))
    check_operands(model, Path())
    model = rewritten("masks/boolean_padding")
    replace(model, 4, np.ones((1, 3, 1, 1), bool))
    assert "axis 1 of its mask 'other' is 3 instead of 4" in refused(model)


def test_the_slopes_are_not_spread() -> None:
    model = rewritten("forms/linear")
    replace(model, 3, np.ones(1, np.float32))
    assert "is 1 instead of 4" in refused(model)


def test_nodes_in_bodies_are_looked_at_as_well() -> None:
    model = rewritten("scopes/if_body")
    node = fused(model)
    assert all(node is not n for n in model.graph.node)
    node.input.append("q")
    assert "5 inputs" in refused(model)


def test_a_model_without_fused_nodes_has_nothing_to_check() -> None:
    check_operands(read("forms/linear"), Path())
    graph = helper.make_graph([], "empty", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])])
    check_operands(helper.make_model(graph), Path())
