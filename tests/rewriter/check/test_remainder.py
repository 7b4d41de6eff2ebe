"""What is outside of the sites is what it was, or is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alibi_rewriter.rewriter.check.remainder import changes, digests
from onnx import ModelProto, TensorProto, helper
from textgraphs import read


def with_weight() -> ModelProto:
    """A golden graph with a product behind it that is no site."""
    made = read("forms/linear")
    made.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [8], [1.0] * 8))
    made.graph.node.append(helper.make_node("Mul", ["y", "w"], ["z"], name="behind", axis=1))
    made.graph.output[0].name = "z"
    return made


def _other_weight(made: ModelProto) -> None:
    made.graph.initializer[-1].float_data[3] = 2.0


def _other_input(made: ModelProto) -> None:
    made.graph.node[-1].input[1] = "scale"


def _other_attribute(made: ModelProto) -> None:
    made.graph.node[-1].attribute[0].i = 2


def _other_operator(made: ModelProto) -> None:
    made.graph.node[-1].op_type = "Add"


def _new_node(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Neg", ["z"], ["new"], name="another"))


def _other_output(made: ModelProto) -> None:
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


FAULTS: dict[str, Callable[[ModelProto], None]] = {
    "the constant 'w' is another": _other_weight,
    "node 'behind' belongs to no site": _other_input,
    "node 'another' belongs to no site": _new_node,
    "the outputs of the graph are others": _other_output,
}


def test_nothing_is_said_of_the_same_model() -> None:
    made = with_weight()
    assert changes(digests(made), made, with_weight(), set()) == []


@pytest.mark.parametrize("said", FAULTS)
def test_each_change_is_named(said: str) -> None:
    original, made = with_weight(), with_weight()
    FAULTS[said](made)
    (found,) = changes(digests(original), original, made, set())
    assert said in found


@pytest.mark.parametrize("change", [_other_attribute, _other_operator])
def test_a_node_is_more_than_its_name(change: Callable[[ModelProto], None]) -> None:
    original, made = with_weight(), with_weight()
    change(made)
    assert changes(digests(original), original, made, set()) != []


def test_what_a_site_makes_may_be_new() -> None:
    original, made = with_weight(), with_weight()
    softmax = next(n for n in made.graph.node if n.op_type == "Softmax")
    softmax.op_type = "Identity"
    assert changes(digests(original), original, made, set(softmax.output)) == []


def test_names_and_texts_of_nodes_mean_nothing() -> None:
    original, made = with_weight(), with_weight()
    for number, node in enumerate(made.graph.node):
        node.name, node.doc_string = f"renamed_{number}", "a text"
    assert changes(digests(original), original, made, set()) == []
