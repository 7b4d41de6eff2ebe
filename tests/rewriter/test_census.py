"""What is said of a model in which there is no ALiBi: the attention it has, and how that knows positions."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter.patterns.positions import BUCKETED, ROTARY, UNKNOWN
from alibi_rewriter.rewriter.census import sentence
from alibi_rewriter.rewriter.pipeline import rewrite
from onnx import ModelProto, TensorProto
from textgraphs import read
from tiny import BARE, HEADS, WIDTH, Graph


def said(model: ModelProto) -> str:
    return sentence(rewrite(model, options=BARE).analysis)


def attentions(count: int) -> ModelProto:
    graph = Graph()
    graph.operands()
    value = "v"
    for _ in range(count):
        value = graph.attend(graph.scores(), value)
    return graph.model(value)


@pytest.mark.parametrize(("count", "words"), [(1, "1 attention written out"), (2, "2 attentions written out")])
def test_attentions_are_counted(count: int, words: str) -> None:
    text = said(attentions(count))
    assert words in text and "positions: none in the attention itself" in text


def test_a_model_without_attention_is_said_to_have_none() -> None:
    assert said(read("refusals/classifier")).startswith("no attention was found")


def test_operators_are_named() -> None:
    graph = Graph(23)
    graph.operands()
    assert "1 Attention operator;" in said(graph.model(graph.add("Attention", "q", "k", "v")))


def test_a_learned_table_of_positions_is_seen() -> None:
    """Distances in buckets, and a number per bucket and head from a table."""
    graph = Graph()
    graph.operands()
    distance = graph.add("Abs", graph.distance())
    near = graph.add("Min", distance, graph.number(7))
    logs = graph.add("Log", graph.add("Cast", graph.add("Add", near, graph.number(1)), to=TensorProto.FLOAT))
    bucket = graph.add("Cast", logs, to=TensorProto.INT64)
    table = graph.const(np.random.default_rng(0).standard_normal((8, HEADS)))
    bias = graph.add("Transpose", graph.add("Gather", table, bucket), perm=[2, 0, 1])
    text = said(
        graph.model(graph.attend(graph.add("Add", graph.scores(), graph.add("Unsqueeze", bias, graph.ints(0)))))
    )
    assert f"{BUCKETED} (1)" in text


def test_a_rotation_of_query_and_key_is_seen() -> None:
    graph = Graph()
    graph.operands()

    def rotated(name: str) -> str:
        halves = graph.add("Split", name, results=2, axis=-1, num_outputs=2)
        other = f"{halves}_1"
        turned = graph.add("Concat", graph.add("Neg", other), halves, axis=-1)
        angles = graph.const(np.linspace(0, 1, WIDTH))
        return graph.add("Add", graph.add("Mul", name, graph.add("Cos", angles)), graph.add("Mul", turned, angles))

    text = said(graph.model(graph.attend(graph.scores(rotated("q"), rotated("k")))))
    assert f"{ROTARY} (1)" in text


def test_a_bias_that_is_no_alibi_is_named_as_one_that_is_not_known() -> None:
    assert UNKNOWN in said(read("refusals/quadratic"))
    assert UNKNOWN not in said(read("refusals/no_bias"))
