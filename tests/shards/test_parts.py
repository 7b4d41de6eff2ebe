"""The single parts: ranges, heads, cuts across a Reshape, streamed slices."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from alibi_rewriter.graph.index import index_graph, opset_versions
from alibi_rewriter.rewriter.interpret.scopes import interpreted
from alibi_rewriter.shards import stream
from alibi_rewriter.shards.cuts import (
    AxisCut,
    NotSeparable,
    Ranges,
    evenly,
    features,
    local,
    mask_of,
    normal,
    ranges_of,
    union,
)
from alibi_rewriter.shards.heads import divide
from alibi_rewriter.shards.local import change
from alibi_rewriter.shards.question import How, Question
from alibi_rewriter.shards.rank import RankModel, Weight
from alibi_rewriter.shards.rules import RULES
from alibi_rewriter.shards.rules.reshape import reshape
from onnx import TensorProto, helper, numpy_helper
from tiny import Graph


def taken(array: npt.NDArray[Any], axis: int, ranges: Ranges) -> npt.NDArray[Any]:
    """What a rank holds of an array."""
    return np.concatenate([np.take(array, range(*piece), axis) for piece in ranges], axis)


def test_ranges_are_put_in_order() -> None:
    assert normal([(4, 6), (0, 2), (2, 3), (5, 9), (7, 7)]) == ((0, 3), (4, 9))
    assert ranges_of(mask_of(((0, 3), (4, 9)), 12)) == ((0, 3), (4, 9))


def test_a_part_of_what_a_rank_holds_is_in_one_piece() -> None:
    held = ((2, 5), (8, 12), (20, 21))
    whole = [i for start, stop in held for i in range(start, stop)]
    for low, high in itertools.combinations(range(22), 2):
        begin, end = local(held, low, high)
        assert whole[begin:end] == [i for i in whole if low <= i < high]


def test_cuts_know_whether_every_index_is_somewhere_once() -> None:
    assert AxisCut(0, 7, evenly(7, 3)).exact
    assert not AxisCut(0, 7, (((0, 4),), ((3, 7),))).exact
    assert not AxisCut(0, 7, (((0, 3),), ((4, 7),))).exact
    assert AxisCut(1, 2, (((0, 2),),) * 3).trivial


def test_shares_that_differ_are_of_whole_blocks() -> None:
    assert features(96, 4) == evenly(96, 4)
    assert features(256, 3) == (((0, 64),), ((64, 128),), ((128, 256),))
    assert features(40, 3) == (((0, 8),), ((8, 24),), ((24, 40),))
    assert features(7, 3) == evenly(7, 3)


def test_cuts_of_different_axes_have_no_union() -> None:
    first = AxisCut(0, 4, evenly(4, 2))
    assert union([first, AxisCut(0, 4, (((1, 2),), ((2, 3),)))]) == first
    with pytest.raises(NotSeparable):
        union([first, first.on(1)])


@pytest.mark.parametrize("heads", range(1, 13))
def test_heads_of_a_rank_find_their_key_heads(heads: int) -> None:
    """Whatever is accepted: on every rank, the kernel's rule finds the key head that the head had."""
    for key_heads, ranks in itertools.product(range(1, heads + 1), range(2, 7)):
        if heads % key_heads:
            continue
        try:
            made = divide(heads, key_heads, ranks)
        except NotSeparable:
            assert heads < ranks or (key_heads < ranks and ranks % key_heads)
            continue
        assert [h for part in made.queries for a, b in part for h in range(a, b)] == list(range(heads))
        for ((first, last),), ((key, behind),) in zip(made.queries, made.keys, strict=True):
            count, held = last - first, behind - key
            assert count % held == 0
            for h in range(count):
                assert key + h // (count // held) == (first + h) // (heads // key_heads)


# --- cuts across a Reshape -----------------------------------------------------------------------------------


def asked(before: tuple[int | str, ...], after: tuple[int, ...], cut: AxisCut, *, backwards: bool = False) -> AxisCut:
    graph = Graph()
    graph.input("x", before)
    made = graph.add("Reshape", "x", graph.ints(*after))
    model = graph.model(made)
    root = index_graph(model.graph, opset_versions(model), Path())
    question = Question(model.graph.node[0], next(interpreted(root)), cut.ranks, {}, {})
    (question.outputs if backwards else question.inputs)[0] = cut
    assert reshape(question)
    return question.wanted_inputs[0][1] if backwards else question.wanted_outputs[0]


SHAPES = (
    ((2, 12), (2, 3, 4)),
    ((2, 3, 4), (2, 12)),
    ((6, 4), (24,)),
    ((24,), (2, 3, 4)),
    ((2, 1, 12), (2, 12, 1)),
    ((4, 3, 5), (12, 5)),
    ((2, 3, 4, 5), (6, 20)),
)


@pytest.mark.parametrize(("before", "after"), SHAPES)
def test_a_cut_behind_a_reshape_is_what_a_rank_has_there(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """Against numpy: a rank's part, reshaped, is the part of what was reshaped."""
    whole = np.arange(np.prod(before)).reshape(before)
    followed = 0
    for axis, ranks in itertools.product(range(len(before)), (2, 3)):
        if before[axis] < ranks:
            continue
        cut = AxisCut(axis, before[axis], evenly(before[axis], ranks))
        try:
            found = asked(before, after, cut)
        except NotSeparable:
            continue
        followed += 1
        assert after[found.axis] % found.period == 0
        for rank in range(ranks):
            mask = np.resize(mask_of(found.parts[rank], found.period), after[found.axis])
            wanted = np.compress(mask, whole.reshape(after), axis=found.axis)
            assert np.array_equal(taken(whole, axis, cut.parts[rank]).ravel(), wanted.ravel())
            assert asked(before, after, found, backwards=True).parts[rank] == cut.parts[rank]
    assert followed


def test_heads_that_are_merged_with_an_open_batch_are_cut_all_the_same() -> None:
    heads = AxisCut(1, 4, evenly(4, 2))
    assert asked(("B", 4, 5, 8), (-1, 5, 8), heads) == AxisCut(0, 4, heads.parts)


def test_a_reshape_that_mixes_parts_is_refused() -> None:
    with pytest.raises(NotSeparable):
        asked((2, 12), (2, 4, 3), AxisCut(1, 12, (((0, 4),), ((4, 5),), ((5, 12),))))
    with pytest.raises(NotSeparable):
        asked((4, "S"), (-1,), AxisCut(0, 4, evenly(4, 2)))


# --- single operators ----------------------------------------------------------------------------------------


def followed(
    op: str, shapes: list[tuple[int | str, ...]], cut: AxisCut, *, opset: int = 24, **said: object
) -> Question:
    """What follows of a cut of an operator's output."""
    graph = Graph(opset)
    names = [graph.input(f"x{k}", shape) for k, shape in enumerate(shapes)]
    made = graph.add(op, *names, **said)
    model = graph.model(made)
    root = index_graph(model.graph, opset_versions(model), Path())
    question = Question(model.graph.node[0], next(interpreted(root)), cut.ranks, {}, {0: cut})
    assert RULES["", op](question)
    return question


def test_rows_are_scattered_into_the_cache_of_a_rank() -> None:
    shapes: list[tuple[int | str, ...]] = [("B", 4, 16, 8), ("B", 4, "S", 8)]
    heads = AxisCut(1, 4, evenly(4, 2))
    assert followed("TensorScatter", shapes, heads).wanted_inputs == {0: (How.CUT, heads), 1: (How.CUT, heads)}
    for axis, extent in ((0, 2), (2, 16)):
        with pytest.raises(NotSeparable):
            followed("TensorScatter", [(2, 4, 16, 8), (2, 4, 16, 8)], AxisCut(axis, extent, evenly(extent, 2)))


@pytest.mark.parametrize("op", ["Softmax", "LayerNormalization", "ReduceMean"])
def test_operators_along_an_axis_keep_cuts_of_others(op: str) -> None:
    said: dict[str, object] = {"axis": -1} if op != "ReduceMean" else {"axes": [-1]}
    shapes: list[tuple[int | str, ...]] = [("B", 6, 8)] + ([(8,)] if op == "LayerNormalization" else [])
    rows = AxisCut(1, 6, evenly(6, 3))
    assert followed(op, shapes, rows, opset=17, **said).wanted_inputs == {0: (How.CUT, rows)}
    with pytest.raises(NotSeparable, match="acts across the axis"):
        followed(op, shapes, AxisCut(2, 8, evenly(8, 2)), opset=17, **said)


def test_a_squeeze_that_names_no_axes_is_refused() -> None:
    """With as many heads as ranks, a rank has one, and that axis would go as well."""
    heads = AxisCut(0, 2, evenly(2, 2))
    with pytest.raises(NotSeparable, match="every axis of extent 1"):
        followed("Squeeze", [(1, 2, 6, 8)], heads)
    assert followed("Squeeze", [(1, 2, 6, 8)], heads, opset=12, axes=[0]).wanted_inputs == {0: (How.CUT, heads.on(1))}


def test_axes_of_batch_and_heads_in_one_are_not_joined() -> None:
    """Of [2 * 4 | 2 * 4] a rank would hold its heads of two sequences, and not those of the first ones only."""
    graph = Graph()
    made = graph.add("Concat", graph.input("a", (8, 3)), graph.input("b", (8, 3)), axis=0)
    model = graph.model(made)
    root = index_graph(model.graph, opset_versions(model), Path())
    merged = AxisCut(0, 4, evenly(4, 2))
    question = Question(model.graph.node[0], next(interpreted(root)), 2, {0: merged, 1: merged}, {})
    with pytest.raises(NotSeparable, match="batch and heads are one"):
        RULES["", "Concat"](question)


def test_what_a_gemm_adds_may_not_be_spread_along_the_cut() -> None:
    columns = AxisCut(1, 6, evenly(6, 2))
    assert followed("Gemm", [("B", 4), (4, 6), (6,)], columns).wanted_inputs[2] == (How.CUT, columns.on(0))
    assert 2 not in followed("Gemm", [("B", 4), (4, 6), (1,)], columns).wanted_inputs
    rows = AxisCut(0, 6, evenly(6, 2))
    with pytest.raises(NotSeparable, match="may be broadcast"):
        followed("Gemm", [(6, 4), (4, 6), ("N", 1)], rows)


def test_a_reshape_that_copies_another_extent_than_the_cut_one_is_refused() -> None:
    """[4, 6, 2] becomes [8, 6, 1]: the 6 is copied from the axis that is cut, and it is whole behind."""
    graph = Graph()
    made = graph.add("Reshape", graph.input("x", (4, 6, 2)), graph.ints(8, 0, 1))
    model = graph.model(made)
    interpreter = next(interpreted(index_graph(model.graph, opset_versions(model), Path())))
    before, behind = AxisCut(1, 6, evenly(6, 2)), AxisCut(0, 2, evenly(2, 2))
    question = Question(model.graph.node[0], interpreter, 2, {0: before}, {0: behind})
    assert RULES["", "Reshape"](question)
    assert question.wanted_outputs == {0: behind}
    with pytest.raises(NotSeparable, match="copies the extent"):
        change(question, 0)


def test_what_has_no_rule_is_not_followed() -> None:
    assert not {"QuantizeLinear", "TopK", "NonZero", "Einsum", "DynamicQuantizeLinear"} & {op for _, op in RULES}


# --- streamed slices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 64, 1 << 20])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8])
def test_slices_are_those_of_the_weight(piece: int, kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pieces are that are read, from a file and from the model itself."""
    monkeypatch.setattr(stream, "PIECE", piece)
    monkeypatch.setattr(stream, "INLINE", 0)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    array = np.random.default_rng(0).integers(-9, 9, (6, 7, 4)).astype(dtype)
    (tmp_path / "weights.bin").write_bytes(b"\1" * 5 + array.tobytes())
    outside = TensorProto(name="w", data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "5"), ("length", str(array.nbytes))):
        outside.external_data.add(key=key, value=value)
    inside = numpy_helper.from_array(array, "w")
    ranges = ((0, 1), (2, 4))
    for source, axis in itertools.product((outside, inside), (-1, 0, 1, 2)):
        wanted = array if axis < 0 else taken(array, axis, ranges)
        bare = TensorProto(name="part", data_type=kind, dims=wanted.shape)
        rank = RankModel(onnx.ModelProto(), [Weight(bare, source, axis, ranges if axis >= 0 else ())])
        with (tmp_path / "rank.data").open("wb") as file:
            target = stream.Target(rank, "rank.data", file)
            stream.write([target], tmp_path)
        (made,) = rank.model.graph.initializer
        assert np.array_equal(numpy_helper.to_array(made, base_dir=str(tmp_path)), wanted)
        assert target.written == wanted.nbytes
        assert target.sliced == (wanted.nbytes if axis >= 0 else 0)
