"""A softmax that is written out becomes a Softmax node where it is one, and stays as it is where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from alibi_rewriter.rewriter.restore.softmax import restore_softmax
from onnx import ModelProto, TensorProto
from tiny import Graph, draw, run

SIZES = {"B": 2, "S": 5}


def attention(kind: str) -> ModelProto:
    """An attention whose softmax is written out in some way, right or wrong."""
    graph = Graph()
    graph.operands()
    scores = graph.scores()
    axes = graph.ints(-1)
    if kind == "less the maximum":
        scores = graph.add("Sub", scores, graph.add("ReduceMax", scores, axes, keepdims=1))
    powers = graph.add("Exp", scores)
    if kind == "masked":
        mask = graph.add("Cast", graph.input("m", ("B", 1, 1, "S"), TensorProto.BOOL), to=TensorProto.FLOAT)
        powers = graph.add("Mul", powers, mask)
    total = graph.add("ReduceSum", powers, graph.ints(-2, -1) if kind == "two axes" else axes, keepdims=1)
    if kind == "an epsilon":
        total = graph.add("Add", total, graph.const(1e-3))
    if kind == "a factor":
        powers = graph.add("Mul", powers, graph.const(1.01))
    if kind == "logarithm":
        weights = graph.add("Exp", graph.add("Sub", scores, graph.add("Log", total)))
    elif kind == "of LogSoftmax":
        weights = graph.add("Exp", graph.add("LogSoftmax", scores, axis=-1))
    elif kind == "reciprocal":
        weights = graph.add("Mul", powers, graph.add("Reciprocal", total))
    else:
        weights = graph.add("Div", powers, total)
    return graph.model(graph.add("MatMul", weights, "v"))


@pytest.mark.parametrize("kind", ["plain", "less the maximum", "logarithm", "of LogSoftmax", "masked"])
def test_what_is_a_softmax(kind: str) -> None:
    pytest.importorskip("onnxruntime")
    made, original = attention(kind), attention(kind)
    done = restore_softmax(made, Path())
    assert len(done) == 1
    (softmax,) = [n for n in made.graph.node if n.op_type == "Softmax"]
    assert list(softmax.output) == list(done)
    assert not any(n.op_type in ("Exp", "LogSoftmax") for n in made.graph.node), "nothing is left of it"
    feeds = draw(original, SIZES)
    (wanted,), (found,) = run(original, feeds), run(made, feeds)
    assert np.abs(np.asarray(wanted, np.float64) - found).max() < 1e-5


@pytest.mark.parametrize("kind", ["two axes", "an epsilon", "a factor"])
def test_what_is_none(kind: str) -> None:
    made = attention(kind)
    before = made.SerializeToString()
    assert restore_softmax(made, Path()) == {}
    assert made.SerializeToString() == before


def test_an_output_that_has_to_stay_is_left_alone() -> None:
    made = attention("plain")
    quotient = next(n for n in made.graph.node if n.op_type == "Div").output[0]
    assert restore_softmax(made, Path(), keep=frozenset({quotient})) == {}


def test_a_quotient_that_weighs_nothing_is_left_alone() -> None:
    graph = Graph()
    graph.operands()
    powers = graph.add("Exp", graph.scores())
    quotient = graph.add("Div", powers, graph.add("ReduceSum", powers, graph.ints(-1), keepdims=1))
    assert restore_softmax(graph.model(quotient), Path()) == {}
