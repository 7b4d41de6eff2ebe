"""The softmax input taken apart, without a site around it: product, factor, terms, and who is hidden."""

from __future__ import annotations

from fractions import Fraction

import pytest
from alibi_rewriter.algebra import Index, Read, Size, less_equal, of, poly
from alibi_rewriter.patterns.layouts import Axis
from alibi_rewriter.rewriter.recognise.scores import Scores, take_scores
from alibi_rewriter.rewriter.verdicts import Refusal
from interpreted import interpreter_of
from onnx import TensorProto
from tiny import HEADS, Graph

S = of(Size("S"))
BATCH, HEAD = Index("b", of(Size("B")), Axis.BATCH), Index("h", poly(HEADS), Axis.HEAD)
ROW, KEY = Index("i", S, Axis.ROW), Index("j", S, Axis.KEY)
PLACE = tuple(of(index) for index in (BATCH, HEAD, ROW, KEY))


def bare() -> Graph:
    graph = Graph()
    graph.operands()
    return graph


def taken(graph: Graph, scores: str) -> Scores:
    model = graph.model(graph.attend(scores))
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    return take_scores(interpreter_of(model), softmax, PLACE)


def test_product_scale_and_terms() -> None:
    graph = bare()
    graph.input("z", ("B", HEADS, "S", "S"))
    scaled = graph.add("Mul", graph.add("Add", graph.scores(), "z"), graph.const(0.5))
    found = taken(graph, scaled)
    assert (found.product.left, found.product.inner.bound) == ("q", poly(8))
    assert float(found.scale) == pytest.approx(8**-0.5 / 2)
    assert found.terms == of(Read("z", PLACE)) * Fraction(1, 2)
    assert (found.visible, found.factor, found.half) == ((), None, False)


def test_a_scale_that_run_time_knows_is_a_factor() -> None:
    graph = bare()
    graph.input("t", ())
    found = taken(graph, graph.add("Mul", graph.scores(), "t"))
    assert found.factor == of(Read("t", ()))
    graph = bare()
    graph.input("t", (HEADS, 1, 1))
    assert taken(graph, graph.add("Mul", graph.scores(), "t")).factor is not None, "one number per head"


def test_conditions_of_a_mask() -> None:
    graph = bare()
    later = graph.add("Greater", graph.distance(), graph.number(0))
    masked = graph.add("Where", later, graph.const(float("-inf")), graph.scores())
    found = taken(graph, masked)
    assert found.visible == (less_equal(of(KEY), of(ROW)),)
    assert found.terms == 0 and len(found.hidden) == 1


def test_the_largest_score_of_a_row_is_not_seen() -> None:
    graph = bare()
    scores = graph.scores()
    found = taken(graph, graph.add("Sub", scores, graph.add("ReduceMax", scores, graph.ints(-1), keepdims=1)))
    assert found.terms == 0
    graph = bare()
    scores = graph.scores()
    rows = graph.add("Sub", scores, graph.add("ReduceMax", scores, graph.ints(-2), keepdims=1))
    assert taken(graph, rows).terms != 0, "the largest of a key is another thing"


def refusal(graph: Graph, scores: str) -> str:
    with pytest.raises(Refusal) as caught:
        taken(graph, scores)
    return caught.value.code.number


def test_what_is_no_single_product() -> None:
    graph = bare()
    scores = graph.scores()
    assert refusal(graph, graph.add("Tanh", scores)) == "ALB104"
    graph = bare()
    assert refusal(graph, graph.add("Add", graph.scores(), graph.scores("k", "q"))) == "ALB104"
    graph = bare()
    keys = graph.add("Cast", graph.range(graph.extent("k", 2)), to=TensorProto.FLOAT)
    assert refusal(graph, graph.add("Mul", graph.scores(), keys)) == "ALB104"
    graph = bare()
    graph.input("z", ("B", HEADS, "S", "S"))
    assert refusal(graph, graph.add("Identity", "z")) == "ALB102"


def test_a_column_that_is_no_key() -> None:
    graph = bare()
    graph.input("z", ("B", HEADS, "S", 1))
    model_scores = graph.add("Concat", graph.scores(), "z", axis=-1)
    model = graph.model(graph.add("Softmax", model_scores, axis=-1))
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    wide = Index("j", S + 1, Axis.KEY)
    with pytest.raises(Refusal) as caught:
        take_scores(interpreter_of(model), softmax, (*PLACE[:3], of(wide)))
    assert caught.value.code.number == "ALB105"
