"""Bands of keys of constant width become windows of the fused node.  Other conditions stay masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.rewriter.result import PassResult
from alibi_rewriter.rewriter.verdicts import Code
from bands import feeds, model_of
from onnx import ModelProto, helper
from textgraphs import feeds_of, read, run

pytest.importorskip("onnxruntime")


def assert_same(original: ModelProto, result: PassResult, lengths: Sequence[tuple[int, int]]) -> None:
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    for rows, keys in lengths:
        given = feeds(rows, keys)
        (wanted,), (got,) = run(original, given), run(result.model, given)
        assert np.abs(wanted - got).max() <= 2e-5, (rows, keys)


LENGTHS = ((7, 7), (3, 9), (1, 8))
WHERE = "s = Where(visible, biased, low)"
BANDS: dict[str, tuple[list[str], tuple[bool, int, int]]] = {
    "at most two before": (["visible = LessOrEqual(back, two)", WHERE], (False, 2, -1)),
    "less than three before": (["visible = Less(back, three)", WHERE], (False, 2, -1)),
    "at most two after": (["visible = LessOrEqual(d, two)", WHERE], (False, -1, 2)),
    "a fraction": (["back_float = Cast<to=1>(back)", "visible = Less(back_float, half)", WHERE], (False, 2, -1)),
    "causal and before": (
        ["near = LessOrEqual(back, two)", "seen = GreaterOrEqual(back, zero)", "visible = And(near, seen)", WHERE],
        (True, 2, -1),
    ),
    "causality implies the right side": (
        ["near = LessOrEqual(d, two)", "seen = LessOrEqual(d, zero)", "visible = And(near, seen)", WHERE],
        (True, -1, -1),
    ),
    "both sides": (
        ["near = LessOrEqual(back, three)", "far = LessOrEqual(d, one)", "visible = And(near, far)", WHERE],
        (False, 3, 1),
    ),
    "the narrower of two": (
        ["near = LessOrEqual(back, three)", "nearer = LessOrEqual(back, one)", "visible = And(near, nearer)", WHERE],
        (False, 1, -1),
    ),
    "an absolute distance": (
        ["far = Abs(d)", "visible = LessOrEqual(far, two)", WHERE],
        (False, 2, 2),
    ),
    "only its own key": (["far = Abs(d)", "visible = Less(far, one)", WHERE], (False, 0, 0)),
    "an additive mask": (
        ["visible = LessOrEqual(back, two)", "mask = Where(visible, none, low)", "s = Add(biased, mask)"],
        (False, 2, -1),
    ),
    "two masks": (
        [
            *("near = LessOrEqual(back, two)", "mask = Where(near, none, low)", "masked = Add(biased, mask)"),
            *("visible = LessOrEqual(d, zero)", "s = Where(visible, masked, low)"),
        ],
        (True, 2, -1),
    ),
}


@pytest.mark.parametrize("name", list(BANDS))
@pytest.mark.parametrize("opset", [13, 17])
def test_bands_become_windows(name: str, opset: int) -> None:
    body, (causal, left, right) = BANDS[name]
    original = model_of(body, opset=opset)
    result = rewrite(original, options=Options(verify=False))
    assert_same(original, result, LENGTHS)
    ((_, fused),) = result.fused
    assert (fused.variant.causal, fused.window_left, fused.window_right) == (causal, left, right)
    assert fused.variant.window == ((left, right) != (-1, -1))
    assert fused.variant.mask == "none"
    assert result.left == {}


STAY: dict[str, list[str]] = {
    "the row's own key is left out": ["visible = GreaterOrEqual(back, one)", WHERE],
    "the width grows with the sequence": ["width = Div(keys, two)", "visible = LessOrEqual(back, width)", WHERE],
    "the first key is always seen": [
        *("near = LessOrEqual(back, two)", "first = Equal(ji, zero)", "visible = Or(near, first)", WHERE),
    ],
    "beyond two": ["visible = GreaterOrEqual(back, two)", WHERE],
    "counted from the front": ["visible = LessOrEqual(ji, three)", WHERE],
}


@pytest.mark.parametrize("name", list(STAY))
def test_other_conditions_stay_masks(name: str) -> None:
    original = model_of(STAY[name])
    result = rewrite(original, options=Options(verify=False))
    assert_same(original, result, LENGTHS)
    ((_, fused),) = result.fused
    assert fused.variant.mask == "boolean"
    assert not fused.variant.window


def test_before_opset_12_a_band_stays_a_mask() -> None:
    original = model_of(["visible = Less(back, three)", WHERE], opset=11)
    result = rewrite(original, options=Options(verify=False))
    assert_same(original, result, LENGTHS)
    assert [f.variant.op_type for _, f in result.fused] == ["AlibiAttentionLinearBooleanMask"]


def with_attribute(name: str, **attributes: int) -> ModelProto:
    model = read(name)
    (node,) = (n for n in model.graph.node if "Attention" in n.op_type)
    for key, value in attributes.items():
        old = [a for a in node.attribute if a.name != key]
        del node.attribute[:]
        node.attribute.extend([*old, helper.make_attribute(key, value)])
    return model


@pytest.mark.parametrize("width", [1, 2, 4, 30])
def test_a_local_window_of_grouped_query_attention(width: int) -> None:
    """The attribute counts the row's own key."""
    original = with_attribute("operators/group_query_attention", local_window_size=width)
    result = rewrite(original, options=Options(verify=False))
    assert result.model is not None
    ((_, fused),) = result.fused
    assert (fused.variant.op_type, fused.window_left) == ("AlibiAttentionCausalWindow", width - 1)
    for seed in range(2):
        given = feeds_of(original, seed)
        for wanted, got in zip(run(original, given), run(result.model, given), strict=True):
            assert np.abs(wanted - got).max() <= 2e-5


@pytest.mark.parametrize("width", [0, -2])
def test_a_local_window_that_means_nothing_is_refused(width: int) -> None:
    result = rewrite(with_attribute("operators/group_query_attention", local_window_size=width))
    (site,) = result.analysis.sites
    assert site.refusal is not None
    assert site.refusal.code is Code.FEATURE
    assert f"local_window_size = {width}" in site.refusal.detail


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 25, reason="this onnx has no Attention-25")
@pytest.mark.parametrize(("causal", "left", "right"), [(0, 2, 1), (1, 2, -1), (0, 0, 0), (0, -1, 2), (1, 3, 0)])
def test_windows_of_onnx_attention(causal: int, left: int, right: int) -> None:
    original = with_attribute(
        "operators/onnx_attention_causal", is_causal=causal, left_window_size=left, right_window_size=right
    )
    original.opset_import[0].version = 25
    result = rewrite(original, options=Options(verify=False, probe=False))
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    ((_, fused),) = result.fused
    # A right side of zero is causality, and causality needs no right side.
    assert fused.variant.causal == bool(causal or right == 0)
    assert (fused.window_left, fused.window_right) == (left, -1 if fused.variant.causal else right)
    given = feeds_of(original, 0)
    wanted = onnx.reference.ReferenceEvaluator(original).run(None, given)
    got = onnx.reference.ReferenceEvaluator(result.model).run(None, given)
    assert np.abs(wanted[0] - got[0]).max() <= 2e-5


def test_the_verification_sees_windows_of_another_width() -> None:
    """A window that ends beyond the lengths that are usually drawn is verified too."""
    for width in (3, 300):
        original = model_of(["visible = LessOrEqual(back, width)", WHERE])
        original.graph.initializer.append(onnx.numpy_helper.from_array(np.array(width, np.int64), "width"))
        found = rewrite(original).verification
        assert found is not None
        assert found.status == "passed"
        assert found.power is not None
        verdicts = {m.kind: m.verdict for m in found.power.mutants}
        assert verdicts["window_wider_by_one"] == "killed"
        assert verdicts["window_sides_swapped"] == "killed"
        assert not found.power.weak
    assert any("beyond 301" in one.name or "cache beyond 301" in one.name for one in found.sets)
