"""Graphs on which a cut could be taken as proven that is not: each is cut rightly, or left whole with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ModelRejected, NotRewritten
from alibi_rewriter.graph.load import load
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.shards import cut as cutting
from alibi_rewriter.shards.cut import Outcome
from alibi_rewriter.shards.plan import CutPlan
from alibi_rewriter.shards.rank import RankModel, build
from alibi_rewriter.shards.request import Request
from onnx import ModelProto, TensorProto, helper
from sharded_models import Decoder, Maker
from tiny import Graph

pytest.importorskip("onnxruntime")

PLAIN = Decoder(biases=False)
BETWEEN = PLAIN.hidden
"""Features between the two products."""


def outcome_of(model: ModelProto, folder: Path, ranks: int = 2, *, verify: bool = True) -> Outcome:
    result = rewrite(model, None, options=Options(verify=False, allow_partial=True))
    return cutting.cut(result, Request(ranks, folder / "ranks"), Options(verify=verify))


def agrees(outcome: Outcome) -> None:
    found = outcome.verification
    assert found is not None
    assert found.status == "passed", found.summary()
    assert outcome.written


# --- between two products ------------------------------------------------------------------------------------

Inner = Callable[[Graph, str], str]


class Between(Maker):
    """A decoder with other nodes between its two products."""

    def __init__(self, inner: Inner) -> None:
        super().__init__(PLAIN, 0)
        self._inner = inner

    def mlp(self, value: str) -> str:
        width = self.what.model_width
        return self.product(self._inner(self.graph, self.product(value, width, BETWEEN)), BETWEEN, width)


def in_groups(graph: Graph, value: str, groups: int, inner: Inner) -> str:
    parted = graph.add("Reshape", value, graph.ints(0, 0, groups, BETWEEN // groups))
    return graph.add("Reshape", inner(graph, parted), graph.ints(0, 0, BETWEEN))


def slice_in_int32(graph: Graph, value: str) -> str:
    """All numbers of a Slice have one type, and a rank's have it, too."""
    twice = graph.add("Concat", value, graph.add("Neg", value), axis=-1)
    parts = []
    for start, stop in ((0, BETWEEN), (BETWEEN, 2 * BETWEEN)):
        numbers = [graph.const([n], np.int32) for n in (start, stop, -1, 1)]
        parts.append(graph.add("Slice", twice, *numbers))
    return graph.add("Mul", *parts)


def scale_of_each_group(graph: Graph, value: str) -> str:
    scale = graph.const(np.random.default_rng(1).random((12, 8)))
    return in_groups(graph, value, 12, lambda g, v: g.add("LayerNormalization", v, scale, axis=-1))


def scale_of_a_single_group_per_rank(graph: Graph, value: str) -> str:
    scale = graph.const(np.random.default_rng(1).random((2, 48)))
    return in_groups(graph, value, 2, lambda g, v: g.add("LayerNormalization", v, scale, axis=-1))


def expand_that_leaves_out_axes_in_front(graph: Graph, value: str) -> str:
    return graph.add("Expand", value, graph.ints(1))


def expand_of_an_inner_axis(graph: Graph, value: str) -> str:
    """The second number is that of the fourth axis, and not of the second."""
    wide = graph.add("Expand", graph.add("Reshape", value, graph.ints(0, 0, BETWEEN, 1)), graph.ints(BETWEEN, 4))
    return graph.add("ReduceSum", wide, graph.ints(-1), keepdims=0)


def expand_by_a_computed_shape(graph: Graph, value: str) -> str:
    features = graph.add("Unsqueeze", graph.extent(value, 2), graph.ints(0))
    return graph.add("Expand", value, features)


def gather_with_repetitions(graph: Graph, value: str) -> str:
    places = [*([0] * (BETWEEN // 2)), *range(BETWEEN // 2 - BETWEEN, 0)]
    return graph.add("Gather", value, graph.ints(*places), axis=-1)


def gather_in_reverse(graph: Graph, value: str) -> str:
    return graph.add("Gather", value, graph.ints(*range(BETWEEN)[::-1]), axis=2)


def groups_that_are_turned(graph: Graph, value: str) -> str:
    """Sizes coincide before and behind; what is cut behind are columns here."""
    return in_groups(graph, value, 8, lambda g, v: g.add("Transpose", v, perm=[0, 1, 3, 2]))


def extent_of_the_features(graph: Graph, value: str) -> str:
    return graph.add("Div", value, graph.add("Cast", graph.extent(value, 2), to=TensorProto.FLOAT))


CUT = (
    slice_in_int32,
    scale_of_each_group,
    scale_of_a_single_group_per_rank,
    expand_that_leaves_out_axes_in_front,
    expand_of_an_inner_axis,
    expand_by_a_computed_shape,
    gather_with_repetitions,
    gather_in_reverse,
    groups_that_are_turned,
    extent_of_the_features,
)


@pytest.mark.parametrize("inner", CUT, ids=lambda inner: inner.__name__)
def test_what_stands_between_products_is_cut_rightly(inner: Inner, tmp_path: Path) -> None:
    outcome = outcome_of(Between(inner).made(), tmp_path)
    assert [one["features"] for one in outcome.manifest["features"]] == [BETWEEN]
    agrees(outcome)


def softmax_over_groups(graph: Graph, value: str) -> str:
    return in_groups(graph, value, 12, lambda g, v: g.add("Softmax", v, axis=-2))


def every_feature_with_every_other(graph: Graph, value: str) -> str:
    rows, columns = (graph.add("Unsqueeze", value, graph.ints(axis)) for axis in (-1, -2))
    return graph.add("ReduceSum", graph.add("Mul", rows, columns), graph.ints(-2), keepdims=0)


def largest_of_all(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("ReduceMax", value, keepdims=0))


def sum_of_all_before(graph: Graph, value: str) -> str:
    return graph.add("CumSum", value, graph.number(-1))


def branch_that_reads_it(graph: Graph, value: str) -> str:
    branches = {}
    for name, op in (("then", "Tanh"), ("else", "Sin")):
        made = helper.make_node(op, [value], [f"{name}_made"], name=f"inside {name}")
        result = helper.make_tensor_value_info(f"{name}_made", TensorProto.FLOAT, None)
        branches[f"{name}_branch"] = helper.make_graph([made], name, [], [result])
    return graph.add("Mul", value, graph.add("If", graph.const(True, np.bool_), **branches))


def half_of_it_moved(graph: Graph, value: str) -> str:
    """Behind the Concat each half holds features of both ranks."""
    half = graph.ints(BETWEEN // 2)
    first = graph.add("Slice", value, graph.ints(0), half, graph.ints(-1))
    return graph.add("Concat", graph.add("Neg", first), first, axis=-1)


WHOLE = (
    (softmax_over_groups, r"'Softmax_\d+' \(Softmax\): Softmax acts across the axis"),
    (every_feature_with_every_other, r"'Mul_\d+' \(Mul\): Mul needs all of 'v\d+'"),
    (largest_of_all, r"'ReduceMax_\d+' \(ReduceMax\): ReduceMax acts across the axis"),
    (sum_of_all_before, r"'CumSum_\d+' \(CumSum\): CumSum acts across the axis"),
    (branch_that_reads_it, r"the shape of 'v\d+' is unknown"),
    (half_of_it_moved, r"'(Slice|Concat)_\d+' \((Slice|Concat)\): a part that is taken of an axis lies on some of"),
)


@pytest.mark.parametrize(("inner", "why"), WHOLE, ids=lambda one: one.__name__ if callable(one) else "")
def test_what_mixes_features_stays_whole_and_the_node_is_named(inner: Inner, why: str, tmp_path: Path) -> None:
    outcome = outcome_of(Between(inner).made(), tmp_path)
    assert outcome.manifest["features"] == []
    assert any(re.search(why, one) for one in outcome.manifest["whole"].values()), outcome.manifest["whole"]
    agrees(outcome)


def test_a_weight_whose_elements_share_bytes_stays_whole(tmp_path: Path) -> None:
    """It is in a Constant node, where no initializer tells its type."""

    class FourBits(Maker):
        def mlp(self, value: str) -> str:
            g, width = self.graph, self.what.model_width
            numbers = np.random.default_rng(0).integers(-7, 7, BETWEEN * width)
            held = helper.make_tensor("held", TensorProto.INT4, [BETWEEN, width], numbers)
            weight = g.add("DequantizeLinear", g.add("Constant", value=held), g.const(0.1))
            return g.add("MatMul", g.add("Tanh", self.product(value, width, BETWEEN)), weight)

    outcome = outcome_of(FourBits(PLAIN, 0).made(), tmp_path, verify=False)
    assert any("is of a type whose elements share bytes" in why for why in outcome.manifest["whole"].values())


# --- attention -----------------------------------------------------------------------------------------------


class OwnNorms(Maker):
    """Every head has a scale of its own."""

    def heads_of(self, value: str, heads: int) -> str:
        split = super().heads_of(value, heads)
        return self.graph.add("LayerNormalization", split, self.weight(heads, 1, self.what.width), axis=-1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_scales_of_heads_are_cut_with_them(ranks: int, tmp_path: Path) -> None:
    agrees(outcome_of(OwnNorms(PLAIN, 0).made(), tmp_path, ranks))


class OneSource(Maker):
    """Keys and values are conversions of one projection."""

    def projected(self, value: str) -> tuple[str, str, str]:
        query, key, _ = super().projected(value)
        return query, *(self.graph.add("Cast", key, to=TensorProto.FLOAT) for _ in range(2))


@pytest.mark.parametrize("key_heads", [1, 4])
def test_keys_and_values_of_one_projection(key_heads: int, tmp_path: Path) -> None:
    """One key head is whole on every rank, and nothing is wanted of where it was converted from."""
    agrees(outcome_of(OneSource(Decoder(biases=False, key_heads=key_heads), 0).made(), tmp_path))


class Looked(Maker):
    """Somebody else looks at what is cut by heads."""

    def __init__(self, look: Callable[[Graph, str], str]) -> None:
        super().__init__(PLAIN, 0)
        self._look = look

    def heads_of(self, value: str, heads: int) -> str:
        made = super().heads_of(value, heads)
        self.outputs.append((self._look(self.graph, made), f"seen_{made}"))
        return made


def test_a_mean_over_heads_is_named(tmp_path: Path) -> None:
    model = Looked(lambda g, v: g.add("ReduceMean", v, g.ints(1), keepdims=0)).made()
    with pytest.raises(NotRewritten, match=r"'ReduceMean_\d+' \(ReduceMean\): ReduceMean acts across the axis"):
        outcome_of(model, tmp_path)


def test_a_branch_that_reads_heads_is_named_with_the_tensor(tmp_path: Path) -> None:
    def look(graph: Graph, value: str) -> str:
        branches = {}
        for name in ("then", "else"):
            made = helper.make_node("ReduceSum", [value], [f"{value}_{name}"], name=f"{value} in {name}", keepdims=0)
            result = helper.make_tensor_value_info(f"{value}_{name}", TensorProto.FLOAT, None)
            branches[f"{name}_branch"] = helper.make_graph([made], name, [], [result])
        return graph.add("If", graph.const(True, np.bool_), **branches)

    with pytest.raises(NotRewritten, match=r"'(v\d+)' is used by '\1 in (then|else)' inside the body of another node"):
        outcome_of(Looked(look).made(), tmp_path)


def test_a_value_of_heads_that_is_handed_out_is_a_part_and_the_manifest_says_so(tmp_path: Path) -> None:
    outcome = outcome_of(Looked(lambda g, v: g.add("Mul", v, v)).made(), tmp_path)
    agrees(outcome)
    assert {one["axis"] for one in outcome.manifest["outputs"].values()} == {1}
    assert len(outcome.manifest["outputs"]) == 3


class Merged(Maker):
    """Caches [B * H, S, D], as BLOOM had them."""

    def __init__(self, extent: str | int) -> None:
        super().__init__(Decoder(biases=False, cache=True), 0)
        self._extent = extent

    def cached(self, value: str, name: str) -> str:
        g, heads, width = self.graph, self.what.heads, self.what.width
        past = g.input(f"past_{name}", (self._extent, "P", width), self.type)
        batch, length = (g.add("Unsqueeze", g.extent(value, axis), g.ints(0)) for axis in (0, 2))
        merged = g.add("Concat", g.add("Mul", batch, g.ints(heads)), length, g.ints(width), axis=0)
        made = g.add("Concat", past, g.add("Reshape", value, merged), axis=1)
        self.outputs.append((made, f"present_{name}"))
        total = g.add("Unsqueeze", g.extent(made, 1), g.ints(0))
        return g.add("Reshape", made, g.add("Concat", batch, g.ints(heads), total, g.ints(width), axis=0))


@pytest.mark.parametrize(("extent", "ranks", "declared"), [("BH", 2, 0), ("BH", 3, 0), (8, 2, 4)])
def test_caches_of_batch_and_heads_in_one_are_cut(extent: str | int, ranks: int, declared: int, tmp_path: Path) -> None:
    """A rank holds its heads of every sequence, however many there are; no name says a number that is wrong."""
    agrees(outcome_of(Merged(extent).made(), tmp_path, ranks))
    model = onnx.load(tmp_path / "ranks" / "rank0.onnx", load_external_data=False)
    (past,) = (value for value in model.graph.input if value.name == "past_key_0")
    first = past.type.tensor_type.shape.dim[0]
    assert (first.dim_value, first.dim_param) == (declared, "")


# --- files ---------------------------------------------------------------------------------------------------


def test_a_weight_that_an_input_may_replace_is_named(tmp_path: Path) -> None:
    """Files of an early version list all weights among the inputs."""
    model = Maker(PLAIN, 0).made()
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    with pytest.raises(NotRewritten, match=r"'c\d+' is a weight that an input of the model may replace"):
        outcome_of(model, tmp_path, verify=False)


def test_a_rank_is_not_cut_again(tmp_path: Path) -> None:
    """Its sums are of the ranks that it was made for; those of others would be taken for them."""
    agrees(outcome_of(Maker(Decoder(heads=8, key_heads=8), 0).made(), tmp_path))
    result = rewrite(load(tmp_path / "ranks" / "rank0.onnx"), None, options=Options(verify=False))
    with pytest.raises(NotRewritten, match=r"rank0.onnx', node '.*all_reduce': it joins several ranks"):
        cutting.cut(result, Request(2, tmp_path / "again"), Options(verify=False))
    assert not (tmp_path / "again").exists()


def test_a_data_file_that_became_shorter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Maker(Decoder(layers=2), 0).made()
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    result = rewrite(load(tmp_path / "model.onnx"), None, options=Options(verify=False))

    def made(plan: CutPlan, rank: int, runtime: str) -> RankModel:
        with (tmp_path / "model.data").open("r+b") as file:
            file.truncate(1000)
        return build(plan, rank, runtime)

    monkeypatch.setattr(cutting, "build", made)
    with pytest.raises(ModelRejected, match=r"model.data' ends within the weight 'c\d+'"):
        cutting.cut(result, Request(2, tmp_path / "ranks"), Options(verify=False))
    assert not (tmp_path / "ranks").exists()
