"""What is known about sizes holds where it was learned, and not beside a branch, after a loop or beside dead nodes."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter.algebra import Size, of
from alibi_rewriter.rewriter.interpret.sizes.facts import Facts
from alibi_rewriter.rewriter.pipeline import rewrite
from onnx import ModelProto, TensorProto
from tiny import BARE, HEADS, WIDTH, Graph, codes, fused, gaps

pytest.importorskip("onnxruntime")

S, T, U = of(Size("S")), of(Size("T")), of(Size("U"))
SIZES = [{"B": 1, "S": 3, "T": 3, "N": 3}, {"B": 2, "S": 5, "T": 9, "N": 2}, {"B": 2, "S": 1, "T": 7, "N": 1}]
BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64


def test_a_child_sees_what_its_parent_knows_and_keeps_its_own() -> None:
    outer = Facts()
    one, other = Facts(parent=outer), Facts(parent=outer)
    assert one.learn(S, T, "inside", by_broadcast=False)
    assert one.equal(S, T)
    assert not other.equal(S, T)
    assert not outer.equal(S, T)
    assert outer.learn(T, U, "outside", by_broadcast=False)
    assert one.equal(S, U)
    assert other.equal(T, U)
    assert not other.equal(S, U)
    assert [fact.node for fact in one.learned] == ["outside", "inside"]
    assert [fact.node for fact in outer.learned] == ["outside"]
    assert one.version == 2
    assert other.version == 1


def test_answers_are_kept_until_more_is_known_here_or_around() -> None:
    outer = Facts()
    inner = Facts(parent=outer)
    asked: list[int] = []

    def answer() -> bool:
        asked.append(inner.version)
        return inner.equal(S, U)

    def answers() -> list[bool]:
        return [inner.once(("same", S, U), answer) for _ in range(2)]

    assert answers() == [False, False]
    assert inner.learn(S, T, "inside", by_broadcast=False)
    assert answers() == [False, False]
    assert outer.learn(T, U, "outside", by_broadcast=False)
    assert answers() == [True, True]
    assert asked == [0, 1, 2]


def test_what_is_learned_on_the_way_to_an_answer_spoils_it() -> None:
    facts = Facts()

    def answer() -> bool:
        known = facts.equal(S, T)
        facts.learn(S, T, "on the way", by_broadcast=False)
        return known

    assert [facts.once("same", answer) for _ in range(2)] == [False, True]


def attended(graph: Graph, *, offset: bool) -> str:
    return graph.attend(graph.add("Add", graph.scores(), graph.bias(symmetric=True, offset=offset)))


def one_length(graph: Graph) -> str:
    """Something that only runs if there are as many keys as queries: [B, H, S, D]."""
    return graph.add("Add", graph.add("Mul", "q", "k"), "v")


def branches(*, offset: bool, first: bool = False, also_outside: bool = False) -> ModelProto:
    """If: one branch adds queries and keys, the other attends; equal lengths are implied by the former alone."""
    graph = Graph()
    graph.operands("S", "T")
    graph.input("same", (), BOOL)
    then, other = Graph(prefix="then_"), Graph(prefix="else_")
    attending, adding = (then, other) if first else (other, then)
    results = {id(attending): attended(attending, offset=offset), id(adding): one_length(adding)}
    bodies = {f"{b.prefix}branch": b.body(results[id(b)]) for b in (then, other)}
    made = graph.add("If", "same", **bodies)
    if also_outside:
        made = graph.add("Add", made, graph.add("Mul", one_length(graph), graph.const(0.5)))
    return graph.model(made)


@pytest.mark.parametrize("first", [False, True])
def test_a_branch_teaches_its_sibling_nothing(first: bool) -> None:
    """Without the offset the bias is ALiBi for equal lengths only, and only the other branch needs those."""
    assert codes(branches(offset=False, first=first)) == ["ALB203"]


@pytest.mark.parametrize("first", [False, True])
def test_a_branch_with_the_right_offset_is_rewritten(first: bool) -> None:
    model = branches(offset=True, first=first)
    found = list(gaps(model, fused(model), SIZES, {"same": np.array(first)}))
    assert len(found) == len(SIZES)
    assert max(found) < 2e-5


def test_what_holds_outside_holds_inside() -> None:
    model = branches(offset=False, also_outside=True)
    (site,) = rewrite(model, options=BARE).analysis.proven
    assert site.binding is not None
    assert any(text.startswith("S = T") for text in site.binding.proof.assumptions)
    found = list(gaps(model, fused(model), [{"B": 2, "S": n, "T": n} for n in (1, 5)], {"same": np.array(False)}))
    assert len(found) == 2
    assert max(found) < 2e-5


def test_a_branch_teaches_the_graph_around_it_nothing() -> None:
    graph = Graph()
    graph.operands("S", "T")
    graph.input("same", (), BOOL)
    then, other = Graph(prefix="then_"), Graph(prefix="else_")
    zero = graph.const(0.0)
    then_result = one_length(then)
    else_result = other.add("Add", "q", zero)
    made = graph.add("If", "same", then_branch=then.body(then_result), else_branch=other.body(else_result))
    assert codes(graph.model(graph.add("Add", attended(graph, offset=False), made))) == ["ALB203"]


def test_a_loop_body_teaches_the_graph_around_it_nothing() -> None:
    """It may not run once."""
    graph = Graph()
    graph.operands("S", "T")
    graph.input("times", (), INT64)
    body = Graph(prefix="body_")
    body.input("step", (), INT64)
    body.input("going", (), BOOL)
    body.input("state", ("B", HEADS, "S", WIDTH))
    state = body.add("Add", "state", one_length(body))
    on = body.add("Identity", "going")
    inner = body.body(on, state)
    inner.output[0].type.tensor_type.elem_type = BOOL
    looped = graph.add("Loop", "times", "", attended(graph, offset=False), body=inner)
    assert codes(graph.model(looped)) == ["ALB203"]


def test_a_node_that_no_output_needs_teaches_nothing() -> None:
    """Runtimes drop it, and with it what it would have required."""
    graph = Graph()
    graph.operands("S", "T")
    one_length(graph)
    assert codes(graph.model(attended(graph, offset=False))) == ["ALB203"]


def test_unnamed_extents_of_two_graphs_are_two_extents() -> None:
    """The first unknown extent of a branch is not the first one of the graph around it."""
    graph = Graph()
    graph.operands("S", "T")
    graph.input("same", (), BOOL)
    graph.input("flags", ("N",), BOOL)
    chosen = graph.add("Compress", "q", "flags", axis=2)  # [B, H, ?, D]
    inner = Graph(prefix="then_")
    inner.operands()
    inner.inputs.clear()
    keys = inner.add("Compress", "k", "flags", axis=2)
    values = inner.add("Compress", "v", "flags", axis=2)
    scores = inner.add("Add", inner.scores(chosen, keys), inner.bias(chosen, keys, symmetric=True, offset=False))
    other = Graph(prefix="else_")
    made = graph.add(
        "If",
        "same",
        then_branch=inner.body(inner.attend(scores, values)),
        else_branch=other.body(other.add("Identity", chosen)),
    )
    result = rewrite(graph.model(made), options=BARE)
    assert result.model is None


# --- assumptions about sizes -----------------------------------------------------------------------------


def ranged(limit: str, start: int = 0, step: int = 1) -> ModelProto:
    """A bias over a Range of its own that is added to scores [B, H, S, T]."""
    graph = Graph()
    graph.operands("S", "T")
    if limit == "odd":  # 2 S - 1 keys
        extent = graph.add("Sub", graph.add("Mul", graph.extent("q", 2), graph.number(2)), graph.number(1))
    elif limit == "double":
        extent = graph.add("Mul", graph.extent("q", 2), graph.number(2))
    elif limit == "data":
        extent = graph.input("n", (), INT64)
    elif limit == "two-more":
        extent = graph.add("Add", graph.extent("q", 2), graph.number(2))
    else:
        extent = graph.extent("k", 2)
    positions = graph.add("Cast", graph.range(extent, start, step), to=FLOAT)
    bias = graph.add("Mul", positions, graph.const(np.array([0.5, 0.25, 0.125, 0.0625]).reshape(HEADS, 1, 1)))
    return graph.model(graph.attend(graph.add("Add", graph.scores(), bias)))


@pytest.mark.parametrize("limit", ["odd", "double", "two-more", "data"])
def test_an_extent_that_excludes_small_sizes_is_not_assumed(limit: str) -> None:
    """Broadcast against the keys, its Range is as long as they are, or one element that all of them get."""
    assert codes(ranged(limit)) == ["ALB206"]


@pytest.mark.parametrize("step", [2, 3, 64])
def test_a_range_with_a_step_is_as_long_as_it_is(step: int) -> None:
    (code,) = codes(ranged("keys", step=step))
    assert code in ("ALB102", "ALB206")  # where the addition cannot be read at all, or for hardly any size


def test_a_range_over_the_keys_is_one() -> None:
    model = ranged("keys")
    found = list(gaps(model, fused(model), SIZES))
    assert len(found) == len(SIZES)
    assert max(found) < 2e-5
