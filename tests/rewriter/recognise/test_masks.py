"""Hidden keys: what certainly hides one, what only lowers its score, and what all keys get."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter.algebra import INFINITY, Index, Read, Size, ind, less_equal, nonzero, of, poly
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.recognise.visibility import hides, is_half, merge_indicators, shift, unmask
from onnx import ModelProto, TensorProto
from tiny import BARE, HEADS, LOWEST, SLOPES, WIDTH, Graph, codes, fused, gaps

pytest.importorskip("onnxruntime")

SIZES = [{"B": 2, "S": 5}, {"B": 1, "S": 1}, {"B": 2, "S": 40}]
TOLERANCE = 2e-5
BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64

B, S = of(Size("B")), of(Size("S"))
ROW, KEY, HEAD = Index("i", S), Index("j", S), Index("h", poly(HEADS))
AFTER = ind(less_equal(of(ROW) - of(KEY) + 1, poly(0)))
PRODUCT = of(Read("qk", (of(HEAD), of(ROW), of(KEY)), False))


# --- the rule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wide", "half"),
    [
        (-10000, False, False),
        (-65504, False, True),
        (-1_000_000_000, True, True),
        (-(2**127), True, True),
        (-INFINITY, True, True),
        (0, False, False),
    ],
)
def test_what_hides_depends_on_the_type(value: int, wide: bool, half: bool) -> None:
    score = PRODUCT / 3 + of(KEY) / 2 - of(ROW) / 2 + value
    assert hides(score) is wide
    assert hides(score, half=True) is half


@pytest.mark.parametrize(("slope", "hidden"), [(1, True), (100, True), (1000, False), (100_000, False)])
def test_a_steep_bias_reaches_what_should_hide(slope: int, hidden: bool) -> None:
    """At a million tokens a slope of 1000 takes visible keys further down than -1e9 takes hidden ones."""
    assert hides(PRODUCT + of(KEY) * slope - 1_000_000_000) is hidden


def test_a_condition_that_hides_on_both_sides_tells_no_key_from_another() -> None:
    lowest = -(2**127)
    masked = unmask(PRODUCT + of(KEY) / 2 + lowest + AFTER * lowest)
    assert masked.visible == ()
    assert hides(masked.value)


def test_what_all_keys_get_is_a_shift() -> None:
    assert shift(PRODUCT + of(KEY) - 10_000) == -10_000
    assert shift(PRODUCT + of(KEY) - 10_000 + AFTER * 10_000) == 0
    assert shift(PRODUCT + 5_000 + AFTER * 10_000) == 15_000  # what the keys get that get most
    mask = of(Read("m", (of(KEY),), True))
    assert shift(PRODUCT - 10_000 + mask * 10_000) == 0  # (1 - m) * -10000


def test_hidden_at_is_what_hidden_keys_score() -> None:
    assert unmask(PRODUCT).hidden_at == -INFINITY
    assert unmask(PRODUCT - AFTER * INFINITY).hidden_at == -INFINITY
    assert unmask(PRODUCT - AFTER * 2**127).hidden_at == -(2**127)


# --- graphs ----------------------------------------------------------------------------------------------


def test_a_product_of_comparisons_is_what_they_imply() -> None:
    """The narrower of two on one side, and nothing where they exclude each other; a product with a mask stays."""
    i, j = of(Index("i", of(Size("S")))), of(Index("j", of(Size("S"))))
    causal, wider, later = (ind(c) for c in (less_equal(j, i), less_equal(j, i + 2), less_equal(i + 1, j)))
    read = ind(nonzero(of(Read("mask", (j,), integer=True))))
    assert merge_indicators(causal * wider * 3 + read) == causal * 3 + read
    assert merge_indicators(causal * later + 1) == poly(1)
    assert merge_indicators(causal * read) == causal * read


def masked(value: float, how: str, *, rows: bool = False, factor: float = 1.0) -> ModelProto:
    """Scores with bias, of which keys after the row (or those that a mask [B, S] hides) get ``value`` added."""
    graph = Graph()
    graph.operands()
    bias = graph.bias()
    if factor != 1.0:
        bias = graph.add("Mul", bias, graph.const(factor))
    if rows:
        graph.input("m", ("B", "S"), BOOL)
        hidden = graph.add("Not", graph.add("Unsqueeze", "m", graph.ints(1, 2)))
    else:
        hidden = graph.add("Greater", graph.distance(), graph.number(0))
    if how == "where":
        added = graph.add("Where", hidden, graph.const(value), graph.const(0.0))
    elif how == "table":
        extent = graph.add("Unsqueeze", graph.extent("q", 2), graph.ints(0))
        ends = graph.add("Concat", extent, extent, axis=0)
        table = graph.const(np.triu(np.full((512, 512), value), 1))
        added = graph.add("Slice", table, graph.ints(0, 0), ends)
    else:
        added = graph.add("Mul", graph.add("Cast", hidden, to=FLOAT), graph.const(value))
    return graph.model(graph.attend(graph.add("Add", graph.add("Add", graph.scores(), bias), added)))


@pytest.mark.parametrize("how", ["where", "multiplied", "table"])
@pytest.mark.parametrize("value", [-10_000.0, -65_504.0, -1e9, LOWEST])
def test_causal_masks_of_any_size(value: float, how: str) -> None:
    model = masked(value, how)
    (site,) = rewrite(model, options=BARE).analysis.proven
    assert site.binding is not None
    assert site.binding.proof.causal is (value < -1e8)
    found = list(gaps(model, fused(model), SIZES))
    assert len(found) == len(SIZES)
    assert max(found) < TOLERANCE


@pytest.mark.parametrize("value", [-10_000.0, -65_504.0])
def test_rows_of_which_all_keys_are_lowered_are_as_they_were(value: float) -> None:
    """Softmax does not see what all keys get, so such a row is not a row without keys."""
    model = masked(value, "where", rows=True)
    nobody = {"m": np.zeros((2, 5), bool)}
    (gap,) = gaps(model, fused(model), SIZES[:1], nobody)
    assert gap < 3e-2 / 4  # float32 rounds at 65504 to 1/128


@pytest.mark.parametrize("value", [LOWEST, -1e9])
def test_a_bias_that_outreaches_the_mask_is_not_hidden_by_it(value: float) -> None:
    """A factor of 1e5 on the slopes: key 300 of a row has a lower score than -1e9 only if the bias is as steep."""
    model = masked(value, "where", factor=1e5)
    result = rewrite(model, options=BARE)
    for site in result.analysis.proven:
        assert site.binding is not None
        assert site.binding.proof.causal is (value == LOWEST)


@pytest.mark.parametrize("value", [LOWEST, -1e30, -1e5, 1e5, 1e30])
def test_a_number_that_all_keys_get_is_no_mask(value: float) -> None:
    """In exact numbers it changes nothing, in float32 it leaves nothing of the scores."""
    graph = Graph()
    graph.operands()
    shifted = graph.add("Add", graph.bias(), graph.const(value))
    assert codes(graph.model(graph.attend(graph.add("Add", graph.scores(), shifted)))) in (["ALB301"], ["ALB207"])


@pytest.mark.parametrize("value", [-100.0, 50.0])
def test_a_small_number_that_all_keys_get_changes_nothing(value: float) -> None:
    graph = Graph()
    graph.operands()
    shifted = graph.add("Add", graph.bias(), graph.const(value))
    model = graph.model(graph.attend(graph.add("Add", graph.scores(), shifted)))
    assert max(gaps(model, fused(model), SIZES)) < 1e-4


@pytest.mark.parametrize("bounds", [(-65504.0, 65504.0), (-1000.0, 1000.0)])
def test_a_clip_of_a_shifted_bias_is_no_bias(bounds: tuple[float, float]) -> None:
    """Every key ends at the same value."""
    graph = Graph()
    graph.operands()
    shifted = graph.add("Sub", graph.bias(), graph.const(1e5))
    clipped = graph.add("Clip", shifted, graph.const(bounds[0]), graph.const(bounds[1]))
    assert codes(graph.model(graph.attend(graph.add("Add", graph.scores(), clipped))))


@pytest.mark.parametrize("factor", [1.0, 2000.0])
def test_a_condition_over_the_batch_is_a_mask_of_a_valid_shape(factor: float) -> None:
    """Entry 1 of the batch is hidden by a ScatterND; no tensor of the graph says that without a key axis.

    It is read off the bias, which a factor of 2000 takes below -65504 where keys are visible.
    """
    graph = Graph()
    graph.operands()
    graph.input("m", ("B", "S"), BOOL)
    keys = graph.add("Unsqueeze", "m", graph.ints(1, 2))
    extent = graph.add("Unsqueeze", graph.extent("q", 2), graph.ints(0))
    batch = graph.add("Unsqueeze", graph.extent("q", 0), graph.ints(0))
    whole = graph.add("Expand", keys, graph.add("Concat", batch, graph.ints(1), extent, extent, axis=0))
    hole = graph.add(
        "Expand", graph.const([False], bool), graph.add("Concat", graph.ints(1, 1), extent, extent, axis=0)
    )
    written = graph.add("ScatterND", whole, graph.const([[1]], np.int64), hole)
    steep = graph.add("Mul", graph.bias(symmetric=True), graph.const(factor))
    bias = graph.add("Where", written, steep, graph.const(LOWEST))
    model = graph.model(graph.attend(graph.add("Add", graph.scores(), bias)))
    found = list(gaps(model, fused(model), [{"B": 2, "S": 5}, {"B": 3, "S": 40}, {"B": 2, "S": 150}]))
    assert len(found) == 3
    assert max(found) < TOLERANCE


@pytest.mark.parametrize(("keys", "values"), [(1, 4), (4, 1), (1, 1)])
def test_heads_of_keys_and_values(keys: int, values: int) -> None:
    """Where they differ, the file is refused or computes the same: the fused node has one number of heads for both."""
    graph = Graph()
    graph.input("q", ("B", HEADS, "S", WIDTH))
    graph.input("k", ("B", keys, "S", WIDTH))
    graph.input("v", ("B", values, "S", WIDTH))
    model = graph.model(graph.attend(graph.add("Add", graph.scores(), graph.bias())))
    if keys == values:
        assert max(gaps(model, fused(model), SIZES)) < TOLERANCE
    else:
        assert codes(model)


def test_scores_of_a_float16_product_are_half_whatever_they_are_cast_to() -> None:
    for cast in (False, True):
        graph = Graph()
        for name in "qkv":
            graph.input(name, ("B", HEADS, "S", WIDTH), TensorProto.FLOAT16)
        turned = graph.add("Transpose", "k", perm=[0, 1, 3, 2])
        product = graph.add("MatMul", "q", turned)
        added = graph.add("Cast", graph.bias(), to=FLOAT if cast else TensorProto.FLOAT16)
        scores = graph.add("Add", graph.add("Cast", product, to=FLOAT) if cast else product, added)
        chances = graph.add("Cast", graph.add("Softmax", scores, axis=-1), to=TensorProto.FLOAT16)
        model = graph.model(graph.add("MatMul", chances, "v"))
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        (site,) = rewrite(model, options=BARE).analysis.sites
        assert site.reading is not None
        assert site.reading.half
        assert is_half(site.interpreter, scores)


def test_a_table_of_positions_is_none_of_hidden_keys() -> None:
    """A float32 line down to -70,000 is a line; nothing in it hides a key."""
    graph = Graph()
    graph.operands()
    line = graph.const(-np.arange(140_000, dtype=np.float32)[None] * SLOPES.reshape(HEADS, 1))
    extent = graph.add("Unsqueeze", graph.extent("k", 2), graph.ints(0))
    table = graph.add("Slice", line, graph.ints(0), extent, graph.ints(1))
    bias = graph.add("Unsqueeze", table, graph.ints(1))
    model = graph.model(graph.attend(graph.add("Add", graph.scores(), bias)))
    (site,) = rewrite(model, options=BARE).analysis.proven
    assert site.binding is not None
    assert site.binding.proof.hidden == ()
    assert max(gaps(model, fused(model), SIZES)) < TOLERANCE
