"""Single rules of the proof and of the emitter, at the edge where a change of one line would make them wrong.

Each model is written out here, small: it has to be refused for the reason that is named, or to compute the same.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest
from alibi_rewriter.algebra import (
    Index,
    Poly,
    Read,
    Size,
    conjunction,
    disjunction,
    ind,
    less_equal,
    min0,
    of,
    poly,
    under,
)
from alibi_rewriter.rewriter.interpret.sizes.facts import Facts
from alibi_rewriter.rewriter.interpret.tables.element import Table
from alibi_rewriter.rewriter.prove.forms import Sloped, join_kinks
from alibi_rewriter.rewriter.recognise.visibility import apply_order, hides
from alibi_rewriter.rewriter.records.reading import Attention
from alibi_rewriter.rewriter.verdicts import Code
from onnx import ModelProto
from scores import alone, difference, model
from textgraphs import read, run

pytest.importorskip("onnxruntime")

S, T = of(Size("S")), of(Size("T"))
I, J = of(Index("i", S)), of(Index("j", T))  # noqa: E741
H = of(Index("h", poly(2)))
QK = of(Read("qk", (H, I, J)))


def refusal(proto: ModelProto) -> Code:
    """The code of the only site, which has to be refused by the proof alone."""
    (site,) = alone(proto).analysis.sites
    assert site.refusal is not None, "it was fused"
    return site.refusal.code


# --- both sides of a symmetric bias -----------------------------------------------------------------------


def two_sided(ratio: float) -> ModelProto:
    """Slopes after the row that are ``ratio`` times those before it."""
    return model(
        """
       before = Min(d, none)
       after = Max(d, none)
       far = Mul(after, ratio)
       distance = Sub(before, far)
       bias = Mul(slopes, distance)
       s = Add(scaled, bias)""",
        constants=f", float ratio = {{{ratio!r}}}",
    )


def test_slopes_on_both_sides_that_are_the_same() -> None:
    assert difference(two_sided(1.0)) < 1e-5


@pytest.mark.parametrize("ratio", [1 + 2.0**-9, 1 - 2.0**-9, 1 + 2.0**-12, 1 + 2.0**-18, 0.5, 0.0])
def test_slopes_on_both_sides_that_differ(ratio: float) -> None:
    assert refusal(two_sided(ratio)) is Code.NOT_LINEAR


@pytest.mark.parametrize(("rows", "keys"), [("S", "T"), ("T", "S"), ("s", "t"), ("t", "s")])
def test_a_distance_of_either_sign_in_its_normal_form(rows: str, keys: str) -> None:
    """Names of sizes decide whether |d| is known by min(0, d) or by min(0, -d)."""
    proto = read("forms/symmetric")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = keys if value.name in ("k", "v") else rows
    made = alone(proto).model
    assert made is not None
    random = np.random.default_rng(5)
    feeds: dict[str, npt.NDArray[np.generic]] = {
        n: random.standard_normal((2, 4, length, 8)).astype(np.float32) for n, length in (("q", 4), ("k", 9), ("v", 9))
    }
    assert np.abs(run(proto, feeds)[0] - run(made, feeds)[0]).max() < 1e-5


def test_a_kink_of_the_opposite_sign_is_joined_with_its_own() -> None:
    """min(0, -d) is min(0, d) - d: the kink is the same, and the slope loses what it rises by."""
    key = Index("j", T)
    distance = of(key) - I
    site = cast(Attention, SimpleNamespace(frame=SimpleNamespace(key=key)))
    joined = join_kinks(Facts(), site, Sloped(poly(5), {-distance: poly(3)}), (distance,))
    assert (joined.linear, joined.kinks) == (poly(2), {distance: poly(3)})


# --- where the order of key and row is known ---------------------------------------------------------------

CAUSAL = J - I


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_a_kink_at_or_before_the_row_is_resolved(shift: int) -> None:
    """Where j <= i, min(0, j - i - 1) is j - i - 1 as well, and min(0, i - j + 1) is zero."""
    assert apply_order(min0(CAUSAL - shift), CAUSAL) == CAUSAL - shift
    assert apply_order(2 * min0(CAUSAL - shift), CAUSAL) == 2 * (CAUSAL - shift)


@pytest.mark.parametrize("shift", [1, 2, 5])
def test_a_kink_after_the_row_is_not(shift: int) -> None:
    """Where j <= i, min(0, j - i + 2) may be zero or not; so may min(0, i - j - 2)."""
    before = min0(CAUSAL + shift)
    assert apply_order(before, CAUSAL) == before
    assert apply_order(before, 3 * CAUSAL) == before


@pytest.mark.parametrize("shift", [1, 3])
def test_a_kink_before_the_row_refuses_a_causal_site(shift: int) -> None:
    """A distance that is clipped to zero for the last keys before the row."""
    proto = model(
        """
       moved = Add(d, shift)
       kink = Min(moved, none)
       bias = Mul(slopes, kink)
       added = Add(scaled, bias)
       s = Where(later, low, added)""",
        constants=f", float shift = {{{shift}}}",
    )
    assert refusal(proto) in (Code.OFFSET, Code.NOT_LINEAR)


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_a_kink_where_only_keys_from_the_row_on_are_visible(shift: int) -> None:
    """Where i <= j, min(0, j - i + 1) is zero, and min(0, j - i - 1) may be zero or not."""
    after = I - J
    assert apply_order(min0(CAUSAL + shift), after) == poly(0)
    assert apply_order(min0(CAUSAL - shift - 1), after) == min0(CAUSAL - shift - 1)


@pytest.mark.parametrize(("slope", "half", "hidden"), [(1, True, True), (20, True, False), (20, False, False)])
def test_what_hides_a_key_is_below_what_the_bias_reaches(slope: int, half: bool, hidden: bool) -> None:
    """-65504 hides in float16 as long as the slope does not take visible keys there within 4,096 tokens."""
    assert hides(poly(-65504) + slope * J, half=half) is hidden


@pytest.mark.parametrize(("largest", "hidden"), [(1.0, True), (20.0, False)])
def test_a_clipped_slope_reaches_as_far_as_the_table_says(largest: float, hidden: bool) -> None:
    """max(slope, 0) is slope - min(0, slope).  A minimum of numbers is no distance of thousands of tokens."""
    slopes = of(Table("slopes", (H,), np.array([0.5, -largest])))
    score = poly(-65504) + (slopes - min0(slopes)) * J
    assert hides(score, half=True) is hidden
    assert not hides(poly(-65504) + min0(I - J) * J, half=True)


@pytest.mark.parametrize(("score", "hidden"), [(20 * QK, True), (20 * ind(less_equal(J, I)) * J, False)])
def test_a_product_has_a_bound_and_a_distance_has_none(score: Poly, hidden: bool) -> None:
    """Whatever the scale is, a score of float16 is below 16384.  A slope of 20 takes a key beyond -65504."""
    assert hides(score - 65504, half=True) is hidden


def test_a_condition_of_which_a_part_is_known_is_not_known() -> None:
    known = less_equal(J, I)
    both = conjunction((known, less_equal(I - J, poly(3))))
    value = 7 * ind(both)
    assert under(value, known) == value
    assert under(value, both) == poly(7)
    assert under(7 * ind(known), both) == poly(7)


def test_a_condition_that_is_excluded_is_decided() -> None:
    known = less_equal(J, I)
    assert under(7 * ind(less_equal(I + 1, J)), known) == poly(0)
    either = disjunction((less_equal(I + 1, J), less_equal(I - J, poly(3))))
    assert under(7 * ind(either), known) in (7 * ind(either), 7 * ind(less_equal(I - J, poly(3))))


def test_a_bias_that_only_some_visible_keys_get() -> None:
    """[j <= i and i - j <= 3] * slope * d: keys that are farther get nothing, and are visible."""
    proto = model(
        """
       near = Greater(d, minus)
       earlier = Not(later)
       both = And(near, earlier)
       full = Mul(slopes, d)
       bias = Where(both, full, none)
       added = Add(scaled, bias)
       s = Where(later, low, added)""",
        constants=", float minus = {-4}",
    )
    refusal(proto)


# --- huge numbers at visible keys --------------------------------------------------------------------------


def lifted(visible: float, hidden: float, name: str = "later") -> ModelProto:
    """Keys that are not hidden get a huge number as well."""
    return model(
        f"""
       lift = Where({name}, hide, show)
       bias = Mul(slopes, d)
       added = Add(scaled, bias)
       s = Add(added, lift)""",
        constants=f", float hide = {{{hidden}}}, float show = {{{visible}}}",
    )


@pytest.mark.parametrize("visible", [3.4028235e38, 1e9, 65504.0])
def test_a_huge_number_at_visible_keys_refuses(visible: float) -> None:
    """Their scores lose all their digits to it, though softmax does not see a number that a whole row gets."""
    assert refusal(lifted(visible, 0.0)) is Code.FINITE_MASK


@pytest.mark.parametrize("visible", [0.0, 1.0, -3.0])
def test_a_small_number_at_visible_keys_does_not(visible: float) -> None:
    assert difference(lifted(visible, -3.4028235e38)) < 1e-5


def test_a_huge_number_times_a_padding_mask_refuses() -> None:
    """mask * 3.4e38 in place of (mask - 1) * 3.4e38, beside a causal mask that is turned as well."""
    proto = model(
        """
       lift = Where(later, none, high)
       kept = Cast<to=1>(m)
       raised = Mul(kept, high)
       wide = Unsqueeze(raised, axes12)
       bias = Mul(slopes, d)
       added = Add(scaled, bias)
       causal = Add(added, lift)
       s = Add(causal, wide)""",
        inputs=", bool[B,S] m",
        constants=", int64[2] axes12 = {1, 2}, float high = {3.4028235e38}",
    )
    refusal(proto)


@pytest.mark.parametrize("factor", [3.4028235e38, 1e9, -65504.0])
def test_a_huge_number_times_the_row_refuses(factor: float) -> None:
    """Softmax does not see a number that a whole row gets, but nothing of the bias is left beside it."""
    proto = model(
        """
       rows = Cast<to=1>(rcol)
       huge = Mul(rows, factor)
       bias = Mul(slopes, d)
       moved = Add(bias, huge)
       s = Add(scaled, moved)""",
        constants=f", float factor = {{{factor}}}",
    )
    assert refusal(proto) is Code.FINITE_MASK


# --- values that are known at run time only ----------------------------------------------------------------


def test_integers_by_row_and_key_are_no_positions() -> None:
    """Each head weights it differently, but it is not the position of a key.  It is passed on beside the bias."""
    proto = model(
        """
       apart = Cast<to=1>(between)
       weighted = Mul(slopes, apart)
       bias = Mul(slopes, d)
       both = Add(bias, weighted)
       s = Add(scaled, both)""",
        inputs=", int64[B,1,S,S] between",
    )
    between = np.random.default_rng(2).integers(-3, 4, (2, 1, 9, 9))
    assert difference(proto, {"between": between}) < 1e-5


@pytest.mark.parametrize("number", [np.nan, 2.5])
def test_a_float_that_all_keys_of_a_row_get_is_passed_on(number: float) -> None:
    """Softmax does not see it, unless it is NaN.  Then the row's output is NaN too."""
    proto = model(
        """
       bias = Mul(slopes, d)
       biased = Add(scaled, bias)
       s = Add(biased, by_row)""",
        inputs=", float[B,1,S,1] by_row",
    )
    by_row = np.zeros((2, 1, 9, 1), np.float32)
    by_row[1, 0, 4] = number
    made = alone(proto).model
    assert made is not None
    random = np.random.default_rng(5)
    feeds: dict[str, npt.NDArray[np.generic]] = {
        n: random.standard_normal((2, 4, 9, 8)).astype(np.float32) for n in ("q", "k", "v")
    }
    before, after = (run(m, feeds | {"by_row": by_row})[0] for m in (proto, made))
    assert np.isnan(before[1, :, 4]).all() == (not np.isfinite(number))
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize(("causal", "told"), [(True, True), (False, False)])
def test_what_a_mask_holds_is_assumed_where_something_else_hides_keys(causal: bool, told: bool) -> None:
    """(1 - m) * lowest with m = 2 lifts a key: beside a causal mask it would bring back what that hides."""
    proto = model(
        f"""
       bias = Mul(slopes, d)
       biased = Add(scaled, bias)
       ordered = {"Where(later, low, biased)" if causal else "Identity(biased)"}
       kept = Cast<to=1>(m)
       left_out = Sub(certain, kept)
       padding = Mul(left_out, low)
       s = Add(ordered, padding)""",
        inputs=", int64[B,1,1,S] m",
        constants=", float certain = {1}",
    )
    (found,) = alone(proto).analysis.sites
    assert found.binding is not None
    assert any("holds 0 and 1 only" in text for text in found.binding.proof.assumptions) is told


# --- assumptions about sizes ---------------------------------------------------------------------------------


def test_as_many_sequences_as_tokens_is_no_assumption() -> None:
    """A range over the batch in place of the keys: it broadcasts where the batch is 1, and nowhere else."""
    proto = model(
        """
       size = Shape<start=0, end=1>(k)
       batch = Squeeze(size, axis0)
       bi = Range(zero, batch, one)
       other = Sub(bi, rcol)
       distance = Cast<to=1>(other)
       bias = Mul(slopes, distance)
       s = Add(scaled, bias)"""
    )
    assert refusal(proto) is Code.SIZES


def test_as_many_past_tokens_as_new_ones_is_no_assumption() -> None:
    """A range over the past tokens in place of the rows: with a cache of 9 tokens one new token runs, and 9 do."""
    proto = read("caches/concatenated")
    node = next(n for n in proto.graph.node if n.op_type == "Range" and "rows" in n.input)
    node.input[1] = "past"
    assert refusal(proto) is Code.SIZES


def test_a_number_of_elements_contradicts_an_assumption() -> None:
    """Two key heads that are cut into four have half the keys; for two tokens that is one, which is spread."""
    proto = read("layouts/gqa")
    (node,) = (n for n in proto.graph.node if n.output[0] == "k5e")
    (reader,) = (n for n in proto.graph.node if "k5e" in n.input)
    reader.input[0] = node.input[0]
    proto.graph.node.remove(node)
    assert refusal(proto) is Code.SIZES


# --- factors of operands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", ["v", "v5", "v5e", "vr"])
def test_a_factor_of_the_values_is_kept(scaled: str) -> None:
    """The factor is not part of the scale of scores.  Values are taken behind it, wherever repeated heads lie."""
    proto = read("layouts/gqa")
    at, reader = next((n, node) for n, node in enumerate(proto.graph.node) if scaled in node.input)
    reader.input[list(reader.input).index(scaled)] = "scaled_values"
    proto.graph.node.insert(at, onnx.helper.make_node("Mul", [scaled, "scale"], ["scaled_values"]))
    made = alone(proto).model
    assert made is not None
    random = np.random.default_rng(5)
    feeds: dict[str, npt.NDArray[np.generic]] = {
        n: random.standard_normal((2, heads, 9, 8)).astype(np.float32) for n, heads in (("q", 4), ("k", 2), ("v", 2))
    }
    assert np.abs(run(proto, feeds)[0] - run(made, feeds)[0]).max() < 1e-5


# --- tensors that are longer than the keys -----------------------------------------------------------------


def longer_mask() -> ModelProto:
    """A padding mask [B, M] of which the keys get the first S entries, after it has been made additive."""
    return model(
        """
       wide = Unsqueeze(m, axes12)
       hiding = Where(wide, none, low)
       kept = Slice(hiding, axis0, extent, axis3)
       bias = Mul(slopes, d)
       biased = Add(bias, kept)
       s = Add(scaled, biased)""",
        inputs=", bool[B,M] m",
        constants=", int64[2] axes12 = {1, 2}, int64[1] axis3 = {3}",
    )


def test_the_first_part_of_a_longer_mask_is_taken() -> None:
    random = np.random.default_rng(7)
    mask = random.random((2, 20)) < 0.6
    mask[:, 4] = True
    assert difference(longer_mask(), {"m": mask}) < 1e-5
    mask = np.ones((2, 20), np.bool_)
    mask[:, 0] = False  # hidden: only the first entry, and the first after the keys
    mask[:, 9] = False
    assert difference(longer_mask(), {"m": mask}) < 1e-5
