"""Projections cut in every way that exporters have: the fused node reads them where they are, and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from alibi_rewriter.fused.family import is_fused
from alibi_rewriter.fused.layout import OperandView, layout_of
from alibi_rewriter.rewriter.pipeline import rewrite
from onnx import NodeProto, TensorProto
from textgraphs import run
from tiny import BARE, HEADS, WIDTH, Graph

ort = pytest.importorskip("onnxruntime")

THIRD = HEADS * WIDTH
Operands = tuple[str, str, str]


def _heads(graph: Graph, tensor: str, heads: int = HEADS) -> str:
    """[B, S, H * D] as [B, H, S, D]."""
    cut = graph.add("Reshape", tensor, graph.ints(0, 0, heads, WIDTH))
    return graph.add("Transpose", cut, perm=[0, 2, 1, 3])


def separate(graph: Graph) -> Operands:
    """Three projections."""
    q, k, v = (_heads(graph, graph.input(name, ("B", "S", THIRD))) for name in "abc")
    return q, k, v


def split_thirds(graph: Graph) -> Operands:
    """MPT, Baichuan: chunks of a packed projection."""
    packed = graph.input("x", ("B", "S", 3 * THIRD))
    first = graph.add("Split", packed, graph.ints(THIRD, THIRD, THIRD), results=3, axis=2)
    q, k, v = (_heads(graph, name) for name in (first, f"{first}_1", f"{first}_2"))
    return q, k, v


def sliced_thirds(graph: Graph) -> Operands:
    packed = graph.input("x", ("B", "S", 3 * THIRD))
    parts = [
        graph.add("Slice", packed, graph.ints(n * THIRD), graph.ints((n + 1) * THIRD), graph.ints(-1)) for n in range(3)
    ]
    q, k, v = (_heads(graph, part) for part in parts)
    return q, k, v


def _gathered(graph: Graph, shape: tuple[int, ...], axis: int) -> Operands:
    packed = graph.input("x", ("B", "S", 3 * THIRD))
    cut = graph.add("Reshape", packed, graph.ints(0, 0, *shape))
    parts = [graph.add("Gather", cut, graph.number(n), axis=axis) for n in range(3)]
    q, k, v = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in parts)
    return q, k, v


def gathered_thirds(graph: Graph) -> Operands:
    """MosaicBERT: [B, S, 3, H, D], one of the three taken."""
    return _gathered(graph, (3, HEADS, WIDTH), 2)


def interleaved(graph: Graph) -> Operands:
    """BLOOM, Falcon-RW: [B, S, H, 3, D]."""
    return _gathered(graph, (HEADS, 3, WIDTH), 3)


def interleaved_moved_first(graph: Graph) -> Operands:
    """The same with one transposition of all three: [3, B, H, S, D]."""
    packed = graph.input("x", ("B", "S", 3 * THIRD))
    cut = graph.add("Reshape", packed, graph.ints(0, 0, HEADS, 3, WIDTH))
    moved = graph.add("Transpose", cut, perm=[3, 0, 2, 1, 4])
    q, k, v = (graph.add("Gather", moved, graph.number(n), axis=0) for n in range(3))
    return q, k, v


def swapped_thirds(graph: Graph) -> Operands:
    """The order k, v, q, which is as good as any."""
    q, k, v = split_thirds(graph)
    return v, q, k


def one_key_head(graph: Graph) -> Operands:
    """Falcon-7B: H heads of queries, one of keys, one of values."""
    packed = graph.input("x", ("B", "S", THIRD + 2 * WIDTH))
    first = graph.add("Split", packed, graph.ints(THIRD, WIDTH, WIDTH), results=3, axis=2)
    return _heads(graph, first), _heads(graph, f"{first}_1", 1), _heads(graph, f"{first}_2", 1)


def time_major(graph: Graph) -> Operands:
    """Fairseq's order: [S, B, H * D]."""
    made = []
    for name in "abc":
        cut = graph.add("Reshape", graph.input(name, ("S", "B", THIRD)), graph.ints(0, 0, HEADS, WIDTH))
        made.append(graph.add("Transpose", cut, perm=[1, 2, 0, 3]))
    return made[0], made[1], made[2]


def rows_before_heads(graph: Graph) -> Operands:
    """[B, S, H, D], with nothing above."""
    q, k, v = (graph.add("Transpose", graph.input(name, ("B", "S", HEADS, WIDTH)), perm=[0, 2, 1, 3]) for name in "abc")
    return q, k, v


def permuted_keys(graph: Graph) -> Operands:
    """Heads of keys in another order than those of queries: no stride says that, so keys are copied."""
    q, k, v = split_thirds(graph)
    return q, graph.add("Gather", k, graph.ints(*reversed(range(HEADS))), axis=1), v


def features_first(graph: Graph) -> Operands:
    """Heads cut the other way round, [B, S, D, H]: rows of D numbers do not lie in one piece."""
    made = []
    for name in "abc":
        cut = graph.add("Reshape", graph.input(name, ("B", "S", THIRD)), graph.ints(0, 0, WIDTH, HEADS))
        made.append(graph.add("Transpose", cut, perm=[0, 3, 1, 2]))
    return made[0], made[1], made[2]


def _third(n: int) -> OperandView:
    shape = (0, 0, 3 * HEADS, WIDTH)
    return OperandView(shape, (n * HEADS, 0), ((n + 1) * HEADS, WIDTH), (0, 2, 1, 3))


def _woven(n: int) -> OperandView:
    return OperandView((0, 0, HEADS, 3 * WIDTH), (0, n * WIDTH), (HEADS, (n + 1) * WIDTH), (0, 2, 1, 3))


def _whole(heads: int = HEADS, order: tuple[int, ...] = (0, 2, 1, 3)) -> OperandView:
    return OperandView((0, 0, heads, WIDTH), (0, 0), (heads, WIDTH), order)


def _of_many(first: int, heads: int) -> OperandView:
    return OperandView((0, 0, HEADS + 2, WIDTH), (first, 0), (first + heads, WIDTH), (0, 2, 1, 3))


THIRDS = (_third(0), _third(1), _third(2))
WOVEN = (_woven(0), _woven(1), _woven(2))
COPIED = OperandView()

SPELLINGS: list[tuple[Callable[[Graph], Operands], tuple[OperandView, OperandView, OperandView]]] = [
    (separate, (_whole(),) * 3),
    (split_thirds, THIRDS),
    (sliced_thirds, THIRDS),
    (gathered_thirds, THIRDS),
    (interleaved, WOVEN),
    (interleaved_moved_first, WOVEN),
    (swapped_thirds, (_third(2), _third(0), _third(1))),
    (one_key_head, (_of_many(0, HEADS), _of_many(HEADS, 1), _of_many(HEADS + 1, 1))),
    (time_major, (_whole(order=(1, 2, 0, 3)),) * 3),
    (rows_before_heads, (OperandView(perm=(0, 2, 1, 3)),) * 3),
    (permuted_keys, (_whole(), COPIED, _whole())),
    (features_first, (COPIED,) * 3),
]


def attention(
    spelling: Callable[[Graph], Operands], *, merged: bool = True, opset: int = 18
) -> tuple[Graph, Operands, str]:
    graph = Graph(opset)
    q, k, v = spelling(graph)
    output = graph.attend(graph.add("Add", graph.scores(q, k), graph.bias(q, k, symmetric=True)), v)
    moved = graph.add("Transpose", output, perm=[0, 2, 1, 3])
    return graph, (q, k, v), graph.add("Reshape", moved, graph.ints(0, 0, THIRD)) if merged else output


def rewritten(model: onnx.ModelProto, *, views: bool = True) -> tuple[onnx.ModelProto, NodeProto]:
    result = rewrite(model, options=replace(BARE, views=views))
    assert result.model is not None, [str(site.refusal) for site in result.analysis.sites]
    for function in result.model.functions:
        onnx.checker.check_function(function)
    (node,) = (n for n in result.model.graph.node if is_fused(n))
    return result.model, node


def equal(model: onnx.ModelProto, other: onnx.ModelProto, length: int = 7) -> None:
    rng = np.random.default_rng(length)
    feeds = {}
    for value in model.graph.input:
        dims = [d.dim_value or {"B": 2, "S": length}[d.dim_param] for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.standard_normal(dims).astype(np.float32)
    for one, two in zip(run(model, feeds), run(other, feeds), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("spelling", "wanted"), SPELLINGS, ids=lambda part: getattr(part, "__name__", ""))
def test_operands_are_read_where_the_projection_left_them(
    spelling: Callable[[Graph], Operands], wanted: tuple[OperandView, ...]
) -> None:
    graph, _, output = attention(spelling)
    model = graph.model(output)
    made, node = rewritten(model)
    layout = layout_of(node)
    assert (layout.query, layout.key, layout.value) == wanted
    assert (layout.output.perm, layout.output.shape) == ((0, 2, 1, 3), (0, 0, THIRD))
    equal(model, made)
    if COPIED not in wanted:
        moves = {"Transpose", "Reshape", "Split", "Slice", "Gather", "Concat"}
        assert not moves & {n.op_type for n in made.graph.node}, "nothing is moved any more"


def test_without_views_all_are_as_they_were() -> None:
    graph, _, output = attention(interleaved)
    model = graph.model(output)
    made, node = rewritten(model, views=False)
    assert layout_of(node).plain and not any(a.name.endswith("_perm") for a in node.attribute)
    equal(model, made)


def test_an_output_that_is_not_moved_is_left() -> None:
    graph, _, output = attention(split_thirds, merged=False)
    _, node = rewritten(graph.model(output))
    assert layout_of(node).output.plain


def test_a_moved_output_that_something_else_reads_is_left() -> None:
    """The attention's own output is needed, so the transposition behind it stays."""
    graph, _, output = attention(split_thirds)
    model = graph.model(output, next(n.input[0] for n in graph.nodes if n.output[0] == output))
    made, node = rewritten(model)
    assert layout_of(node).output.shape == (0, 0, 0, 0)
    equal(model, made)


def test_an_operand_that_is_made_anyway_is_read_there() -> None:
    """Keys that a model hands out for a cache are [B, H, S, D] in memory already."""
    graph, (_, key, value), output = attention(split_thirds)
    model = graph.model(output, key, value)
    made, node = rewritten(model)
    layout = layout_of(node)
    assert (layout.query, layout.key, layout.value) == (_whole(), COPIED, COPIED), "the split is needed, and gives it"
    assert list(node.input[1:3]) == [key, value]
    equal(model, made)


def test_what_an_operand_is_computed_from_stays_behind_it() -> None:
    """A product with a number per head between projection and attention: no view passes it."""
    graph = Graph()
    q, k, v = split_thirds(graph)
    k = graph.add("Mul", k, graph.const(np.arange(1, HEADS + 1).reshape(1, HEADS, 1, 1)))
    output = graph.attend(graph.add("Add", graph.scores(q, k), graph.bias(q, k)), v)
    model = graph.model(output)
    made, node = rewritten(model)
    assert layout_of(node).key == COPIED
    equal(model, made)


def test_a_cast_between_projection_and_attention_is_kept() -> None:
    graph = Graph()
    packed = graph.input("x", ("B", "S", 3 * THIRD), TensorProto.FLOAT16)
    first = graph.add("Split", packed, graph.ints(THIRD, THIRD, THIRD), results=3, axis=2)
    q, k, v = (
        graph.add("Cast", _heads(graph, name), to=TensorProto.FLOAT) for name in (first, f"{first}_1", f"{first}_2")
    )
    output = graph.attend(graph.add("Add", graph.scores(q, k), graph.bias(q, k)), v)
    _, node = rewritten(graph.model(output))
    assert layout_of(node).query == COPIED


def test_nodes_of_one_kind_share_a_body_whatever_their_layouts_are() -> None:
    """One attention has views and one has none: both say what theirs are, and the one body does both."""
    graph, _, first = attention(interleaved)
    other = Graph(prefix="other_")
    other.operands()
    second = other.attend(other.add("Add", other.scores(), other.bias(symmetric=True)))
    graph.nodes += other.nodes
    graph.inputs += other.inputs
    graph.constants += other.constants
    model = graph.model(first, second)
    result = rewrite(model, options=BARE)
    assert result.model is not None and len(result.model.functions) == 1
    nodes = [n for n in result.model.graph.node if is_fused(n)]
    assert [layout_of(n).plain for n in nodes] == [False, True]
    assert all(next(a.s for a in n.attribute if a.name == "layout") == b"views" for n in nodes)
    equal(model, result.model)


@pytest.mark.parametrize("opset", [11, 12, 13, 15, 21, 24])
def test_views_in_every_operator_set(opset: int) -> None:
    """Before opset 12 no operator makes a tensor of an attribute, so operands are copied as before."""
    graph = Graph(opset)
    q, k, v = interleaved(graph)
    bias = graph.const(np.arange(8, dtype=np.float32)[None] * np.array([[0.5], [0.25], [0.125], [0.0625]]))
    added = graph.add("Reshape", bias, graph.ints(1, HEADS, 1, 8))
    output = graph.attend(graph.add("Add", graph.scores(q, k), added), v)
    for value in graph.inputs:
        value.type.tensor_type.shape.dim[1].dim_value = 8
    model = graph.model(output)
    made, node = rewritten(model)
    assert layout_of(node).query == (COPIED if opset < 12 else _woven(0))
    equal(model, made)


def test_the_report_counts_the_copies_that_are_gone() -> None:
    graph, _, output = attention(interleaved)
    result = rewrite(graph.model(output), options=BARE)
    (found,) = result.absorbed.values()
    assert found.tensors == dict.fromkeys(("query", "key", "value"), "x")
    assert sorted(name.split("_")[0] for name in found.copies) == ["Gather"] * 3 + ["Transpose"] * 4
    assert found.length == 2048 and found.bytes == 7 * 2 * 4 * 2048 * THIRD


def _repeated(graph: Graph, tensor: str, *, tiled: bool) -> str:
    """Two heads as four: each twice (h // 2), or both twice (h % 2)."""
    if tiled:
        return graph.add("Concat", tensor, tensor, axis=1)
    apart = graph.add("Unsqueeze", tensor, graph.ints(2))
    copies = graph.add("Expand", apart, graph.ints(1, 1, HEADS // 2, 1, 1))
    return graph.add("Reshape", copies, graph.ints(0, HEADS, -1, WIDTH))


def _grouped(*, key: str, value: str) -> tuple[onnx.ModelProto, str]:
    """A packed projection of four heads of queries and two of keys and values, repeated as said."""
    graph = Graph()
    half = THIRD // 2
    packed = graph.input("x", ("B", "S", 2 * THIRD))
    first = graph.add("Split", packed, graph.ints(THIRD, half, half), results=3, axis=2)
    q, k, v = _heads(graph, first), _heads(graph, f"{first}_1", 2), _heads(graph, f"{first}_2", 2)
    wide_k = _repeated(graph, k, tiled=key == "tiled")
    wide_v = _repeated(graph, v, tiled=value == "tiled")
    output = graph.attend(graph.add("Add", graph.scores(q, wide_k), graph.bias(q, wide_k)), wide_v)
    return graph.model(output), packed


def test_heads_that_are_repeated_for_a_group_are_read_once() -> None:
    model, packed = _grouped(key="repeated", value="repeated")
    made, node = rewritten(model)
    assert list(node.input[:3]) == [packed] * 3
    layout = layout_of(node)
    assert [(view.starts, view.ends) for view in (layout.key, layout.value)] == [
        ((HEADS, 0), (HEADS + 2, WIDTH)),
        ((HEADS + 2, 0), (HEADS + 4, WIDTH)),
    ]
    assert not {"Expand", "Reshape", "Unsqueeze"} & {n.op_type for n in made.graph.node}
    equal(model, made)


@pytest.mark.parametrize(("key", "value"), [("tiled", "tiled"), ("repeated", "tiled"), ("tiled", "repeated")])
def test_heads_that_are_repeated_in_another_order_are_copied(key: str, value: str) -> None:
    """The fused node groups neighbours, keys and values alike."""
    model, packed = _grouped(key=key, value=value)
    made, node = rewritten(model)
    assert packed not in node.input[1:3]
    equal(model, made)


@pytest.mark.parametrize("both", [True, False])
def test_one_head_for_all_is_read_once_if_values_have_one_as_well(both: bool) -> None:
    """A node has as many heads of keys as of values.  A single key head alone is copied for each, as the model does."""
    graph = Graph()
    packed = graph.input("x", ("B", "S", THIRD + WIDTH))
    first = graph.add("Split", packed, graph.ints(THIRD, WIDTH), results=2, axis=2)
    q, k = _heads(graph, first), _heads(graph, f"{first}_1", 1)
    everywhere = graph.ints(1, HEADS, 1, 1)
    wide = graph.add("Expand", k, everywhere)
    v = _heads(graph, graph.input("y", ("B", "S", WIDTH if both else THIRD)), 1 if both else HEADS)
    values = graph.add("Expand", v, everywhere) if both else v
    output = graph.attend(graph.add("Add", graph.scores(q, wide), graph.bias(q, wide)), values)
    model = graph.model(output)
    made, node = rewritten(model)
    assert node.input[2] == "y"
    assert (node.input[1] == packed) == both
    equal(model, made)


def test_what_a_branch_reads_is_needed() -> None:
    """An If captures the keys as [B, H, S, D]: they are made anyway, and read there."""
    graph, (_, key, _), output = attention(split_thirds)
    flag = graph.input("flag", (), TensorProto.BOOL)
    result = onnx.helper.make_tensor_value_info("taken", TensorProto.FLOAT, None)
    branches = {
        name: onnx.helper.make_graph([onnx.helper.make_node(op, [key], ["taken"])], name, [], [result])
        for name, op in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    other = graph.add("If", flag, **branches)
    _, node = rewritten(graph.model(output, other))
    assert node.input[1] == key and layout_of(node).key == COPIED


def test_groups_of_queries_beside_their_keys() -> None:
    """Falcon's [H_kv, G + 2, D]: no stride reaches all queries, so these are copied, and keys are still read once."""
    graph = Graph()
    packed = graph.input("x", ("B", "S", 2 * 4 * WIDTH))
    cut = graph.add("Reshape", packed, graph.ints(0, 0, 2, 4, WIDTH))
    first = graph.add("Split", cut, graph.ints(2, 1, 1), results=3, axis=3)
    queries = graph.add("Reshape", first, graph.ints(0, 0, HEADS, WIDTH))
    q = graph.add("Transpose", queries, perm=[0, 2, 1, 3])
    wide = []
    for name in (f"{first}_1", f"{first}_2"):
        copies = graph.add("Expand", name, graph.ints(1, 1, 1, 2, 1))
        heads = graph.add("Reshape", copies, graph.ints(0, 0, HEADS, WIDTH))
        wide.append(graph.add("Transpose", heads, perm=[0, 2, 1, 3]))
    output = graph.attend(graph.add("Add", graph.scores(q, wide[0]), graph.bias(q, wide[0])), wide[1])
    model = graph.model(output)
    made, node = rewritten(model)
    assert not any(n.op_type == "Expand" for n in made.graph.node)
    assert list(node.input[1:3]) == [packed, packed]
    assert layout_of(node).query == OperandView(perm=(0, 2, 1, 3))
    equal(model, made)
