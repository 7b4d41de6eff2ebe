"""How a refusal is made: what it is about, and which stage it says."""

from __future__ import annotations

from types import SimpleNamespace

from alibi_rewriter.rewriter.verdicts import Code, Refuser, Stage
from onnx import NodeProto

refuse = Refuser(Stage.BIAS)
NODE = NodeProto(op_type="Softmax", name="weights", input=["s"], output=["p"])
READING = SimpleNamespace(anchor=NODE, scores="s")


def test_a_node_is_named_and_no_tensor() -> None:
    made = refuse(Code.LAYOUT, NODE, "why")
    assert (made.node, made.tensor, made.detail, made.stage) == ("weights", "", "why", Stage.BIAS)
    assert refuse(Code.LAYOUT, "weights").node == "weights"


def test_an_attention_is_named_by_its_anchor_and_scores() -> None:
    made = refuse(Code.NOT_LINEAR, READING)
    assert (made.node, made.tensor) == ("weights", "s")


def test_what_differs_is_said() -> None:
    made = refuse(Code.MASK_UNKNOWN, READING, tensor="", stage=Stage.MASK, steps=("first",))
    assert (made.tensor, made.stage, made.steps) == ("", Stage.MASK, ["first"])
    assert str(made) == "[ALB300 mask-not-expressible] at weights"
