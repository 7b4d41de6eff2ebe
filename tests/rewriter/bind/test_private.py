"""What else uses scores and probabilities, and guards that the fused node does itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from alibi_rewriter.rewriter.bind.guards import follow
from alibi_rewriter.rewriter.bind.key_terms import split_by_key, takes_key_bias
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.records.site import Site
from onnx import TensorProto, helper
from textgraphs import read
from tiny import BARE, Graph, codes


def sites(graph: Graph, *outputs: str) -> list[Site]:
    return list(rewrite(graph.model(*outputs), options=replace(BARE, views=False)).analysis.sites)


@pytest.mark.parametrize("used", ["scores", "biased", "weights"])
def test_whatever_is_made_of_the_product_is_the_attentions_own(used: str) -> None:
    graph = Graph()
    graph.operands()
    scores = graph.scores()
    biased = graph.add("Add", scores, graph.bias())
    weights = graph.add("Softmax", biased, axis=-1)
    output = graph.add("MatMul", weights, "v")
    other = graph.add("Neg", {"scores": scores, "biased": biased, "weights": weights}[used])
    assert codes(graph.model(output)) == [], "a node that no output needs takes nothing away"
    assert codes(graph.model(output, other)) == ["ALB120"]


def test_the_bias_may_be_used_by_others() -> None:
    graph = Graph()
    graph.operands()
    bias = graph.bias()
    output = graph.attend(graph.add("Add", graph.scores(), bias))
    assert codes(graph.model(output, graph.add("Neg", bias))) == []


def test_a_use_in_another_graph_crosses_its_border() -> None:
    graph = Graph()
    graph.operands()
    biased = graph.add("Add", graph.scores(), graph.bias())
    output = graph.attend(biased)
    result = helper.make_tensor_value_info("taken", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Neg", [biased], ["taken"])], "then", [], [result])
    other = helper.make_graph([helper.make_node("Abs", [biased], ["taken"])], "else", [], [result])
    flag = graph.input("flag", (), TensorProto.BOOL)
    chosen = graph.add("If", flag, then_branch=branch, else_branch=other)
    assert codes(graph.model(output, chosen)) == ["ALB121"]


def test_moves_behind_the_output_are_followed() -> None:
    graph = Graph()
    graph.operands()
    output = graph.attend(graph.add("Add", graph.scores(), graph.bias()))
    moved = graph.add("Transpose", output, perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", moved, graph.ints(0, 0, -1))
    (site,) = sites(graph, graph.add("Neg", joined))
    assert site.reading is not None and site.binding is not None
    made = site.interpreter.scope.producer(moved)
    frame = site.reading.frame
    start = type(site.binding.output)(output, ((frame.batch,), (frame.head,), (frame.row,), (_feature(site),)))  # type: ignore[arg-type]
    first = follow(site.interpreter, start, made)
    assert first is not None and first.axes == (start.axes[0], start.axes[2], start.axes[1], start.axes[3])
    second = follow(site.interpreter, first, site.interpreter.scope.producer(joined))
    assert second is not None and second.axes == (*first.axes[:2], (*first.axes[2], *first.axes[3]))
    assert follow(site.interpreter, second, site.scope.graph.node[-1]) is None, "Neg moves nothing"
    assert follow(site.interpreter, start, None) is None


def _feature(site: Site) -> object:
    assert site.binding is not None
    return next(i for i in site.binding.output.indices if i not in site.reading.frame.order)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "by_key", "by_row"), [("masks/key_bias_per_head", True, False), ("masks/additive_padding", True, False)]
)
def test_terms_by_key_are_told_from_those_that_the_row_decides(name: str, by_key: bool, by_row: bool) -> None:
    (site,) = rewrite(read(name), options=BARE).analysis.sites
    assert site.binding is not None
    per_key, rest = split_by_key(site.binding.proof)
    assert (per_key != 0, rest != 0) == (by_key, by_row)
    assert takes_key_bias(site.binding.proof, per_key) == (name == "masks/key_bias_per_head")
    assert not takes_key_bias(site.binding.proof, per_key * 0)


def test_an_additive_mask_over_rows_is_no_term_by_key() -> None:
    graph = Graph()
    graph.operands()
    graph.input("m", ("B", 1, "S", "S"))
    scores = graph.add("Add", graph.add("Add", graph.scores(), graph.bias()), "m")
    (site,) = sites(graph, graph.attend(scores))
    assert site.binding is not None
    per_key, rest = split_by_key(site.binding.proof)
    assert per_key == 0 and rest != 0
