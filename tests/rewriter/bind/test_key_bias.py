"""Terms by key: kept as a vector, exactly, above all a bias that the model rounds on its way to float32 scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.cli import main
from alibi_rewriter.fused.family import Variant
from alibi_rewriter.patterns.forms.linear import LINEAR
from alibi_rewriter.rewriter.result import PassResult
from alibi_rewriter.rewriter.verdicts import Code
from bands import feeds, model_of
from onnx import ModelProto, TensorProto
from textgraphs import run

pytest.importorskip("onnxruntime")

PLAIN = ["s = Add(biased, none)"]
BFLOAT16, FLOAT16 = int(TensorProto.BFLOAT16), int(TensorProto.FLOAT16)


def rounding(dtype: int, *, padded: bool = False, causal: bool = False) -> ModelProto:
    """An attention in float32 whose bias takes a detour through a narrow type, as Falcon's does."""
    lines = [
        f"narrow_j = Cast<to={dtype}>(ji)",
        "seen_j = Cast<to=1>(narrow_j)",
        "product = Mul(slopes, seen_j)",
        f"narrow = Cast<to={dtype}>(product)",
        "wide = Cast<to=1>(narrow)",
        "both = Add(scaled, wide)",
        "s0 = Mul(both, half)",
        "s1 = Add(s0, mask)" if padded else "s1 = Identity(s0)",
        "visible = LessOrEqual(d, zero)",
        "s = Where(visible, s1, low)" if causal else "s = Identity(s1)",
    ]
    model = model_of(lines, inputs=", float[B,1,1,T] mask" if padded else "")
    unused = [n for n in model.graph.node if n.output[0] in ("bias", "biased")]
    for node in unused:
        model.graph.node.remove(node)
    return model


def drawn(model: ModelProto, rows: int, keys: int) -> dict[str, npt.NDArray[np.generic]]:
    given = feeds(rows, keys)
    if any(i.name == "mask" for i in model.graph.input):
        mask = np.zeros((2, 1, 1, keys), np.float32)
        mask[0, ..., : keys // 3] = np.finfo(np.float32).min
        mask[1, ..., 1] = -1.5
        given["mask"] = mask
    return given


def moved(original: ModelProto, result: PassResult, rows: int, keys: int) -> float:
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    given = drawn(original, rows, keys)
    (wanted,), (got,) = run(original, given), run(result.model, given)
    kept = slice(keys // 3, None) if "mask" in given and rows == keys else slice(None)
    return float(np.abs(wanted - got)[:, :, kept].max())


@pytest.mark.parametrize(("dtype", "exact_to"), [(BFLOAT16, 256), (FLOAT16, 2048)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_rounded_bias_is_kept_as_it_is(dtype: int, exact_to: int, padded: bool, causal: bool) -> None:
    original = rounding(dtype, padded=padded, causal=causal)
    result = rewrite(original, options=Options(verify=False))
    ((site, fused),) = result.fused
    shape = "Causal" if causal else "Linear"
    assert fused.variant.op_type == f"AlibiAttention{shape}KeyBias"
    assert site.binding is not None
    # What is proven is the bias before it was rounded; the slopes of the node are zero.
    assert site.binding.proof.slopes is not None
    np.testing.assert_array_equal(site.binding.proof.slopes, np.float32([1.25, 0.625, 0.3125, 0.15625]))
    assert site.binding.proof.lengths == (exact_to,)
    for rows, keys in ((5, 5), (3, exact_to - 3), (2, exact_to + 300)):
        # Entries of thousands are known to 1e-4 in float32; a unit of the narrow types is 2 or more there.
        assert moved(original, result, rows, keys) <= 3e-4, (rows, keys)


def test_verification_compares_the_rounding_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(rounding(BFLOAT16, causal=True), path)
    result = rewrite(path)
    found = result.verification
    assert found is not None
    assert found.status == "passed"
    assert {"key_bias_dropped", "key_bias_shifted_by_one_key", "key_bias_heads_rolled"} <= {
        m.kind
        for m in found.power.mutants
        if m.verdict == "killed"  # type: ignore[union-attr]
    }
    as_they_are = [one for one in found.sets if one.name.endswith("as they are")]
    longest = max(max(shape) for one in as_they_are for shape in one.shapes.values())
    assert longest > 256
    assert all(one.passed for one in as_they_are)


def test_sites_alone_are_compared_beyond_the_bound_too(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(rounding(BFLOAT16, causal=True), path)
    found = rewrite(path, options=Options(verify_sites=True)).verification
    assert found is not None
    assert found.status == "passed"
    longest = max(max(shape) for one in found.sets for shape in one.shapes.values() if len(shape) == 4)
    assert longest > 256
    assert found.power is not None
    assert not found.power.weak
    assert any("rounding of the bias" in text for text in found.out_of_scope)


def test_lengths_that_take_too_much_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alibi_rewriter.verify.inputs.lengths.MOST_SCORES", 1 << 10)
    found = rewrite(rounding(BFLOAT16)).verification
    assert found is not None
    assert any("no sequence beyond 256 tokens was compared" in note for note in found.notes)


def test_a_rounding_that_gets_lost_fails_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 clones do not see it."""
    from alibi_rewriter.verify.judge import as_they_are

    honest = as_they_are.compare

    def other(one: object, before: dict[str, npt.NDArray[np.float32]], after: object, layouts: object) -> object:
        return honest(one, {k: v + np.float32(0.03) for k, v in before.items()}, after, layouts)  # type: ignore[arg-type]

    monkeypatch.setattr(as_they_are, "compare", other)
    found = rewrite(rounding(BFLOAT16)).verification
    assert found is not None
    assert found.status == "failed"


def test_an_exact_bias_on_request() -> None:
    original = rounding(BFLOAT16, causal=True)
    result = rewrite(original, options=Options(exact_bias=True))
    ((_, fused),) = result.fused
    assert fused.variant.op_type == "AlibiAttentionCausal"
    assert result.verification is not None
    assert result.verification.status == "passed"
    (note,) = (n for n in result.verification.notes if "not rounded any more" in n)
    assert "output 'y' moves by up to" in note
    assert moved(original, result, 5, 5) <= 2e-5
    assert moved(original, result, 2, 600) > 1e-3
    # It is the unrounded one that is computed, to float32's own accuracy.
    ideal = rounding(int(TensorProto.FLOAT), causal=True)
    assert moved(ideal, result, 2, 600) <= 1e-4


def test_exact_bias_says_when_there_is_nothing_to_do() -> None:
    result = rewrite(model_of(PLAIN), options=Options(exact_bias=True, verify=False))
    assert any("--exact-bias changes nothing" in note for note in result.notes)
    assert [f.variant.op_type for _, f in result.fused] == ["AlibiAttentionLinear"]


REFUSED = {
    "by row": ("far = Abs(d)", "far_float = Cast<to=1>(far)", "near = Neg(far_float)"),
    "not ALiBi": ("squared = Mul(ji, ji)", "near = Cast<to=1>(squared)"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_other_roundings_are_refused(name: str) -> None:
    original = model_of([
        *REFUSED[name], "product = Mul(slopes, near)", f"narrow = Cast<to={BFLOAT16}>(product)",
        "wide = Cast<to=1>(narrow)", "s = Add(scaled, wide)",
    ])  # fmt: skip
    original.graph.node.remove(next(n for n in original.graph.node if n.output[0] == "biased"))
    result = rewrite(original, options=Options(verify=False))
    (site,) = result.analysis.sites
    assert site.refusal is not None
    assert site.refusal.code in (Code.NARROW_TYPE, Code.NOT_LINEAR)


def test_half_of_a_bias_that_is_rounded_is_refused() -> None:
    original = model_of([
        f"narrow = Cast<to={BFLOAT16}>(bias)", "wide = Cast<to=1>(narrow)", "s = Add(biased, wide)",
    ])  # fmt: skip
    (site,) = rewrite(original, options=Options(verify=False)).analysis.sites
    assert site.refusal is not None
    assert site.refusal.code is Code.NARROW_TYPE
    assert "a part is not" in site.refusal.detail


@pytest.mark.parametrize("extents", ["B,4,1,T", "1,4,1,T", "4,1,T"])
def test_a_term_by_head_and_key_is_a_key_bias(extents: str) -> None:
    original = model_of(["s = Add(biased, soft)"], inputs=f", float[{extents}] soft")
    result = rewrite(original, options=Options(verify=False))
    assert result.model is not None
    assert [f.variant.op_type for _, f in result.fused] == ["AlibiAttentionLinearKeyBias"]
    shape = [{"B": 2, "T": 9}.get(e) or int(e) for e in extents.split(",")]
    given = {**feeds(3, 9), "soft": np.random.default_rng(3).standard_normal(shape).astype(np.float32)}
    (wanted,), (got,) = run(original, given), run(result.model, given)
    assert np.abs(wanted - got).max() <= 2e-5


def test_a_mask_by_key_stays_an_additive_mask_unless_a_key_bias_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    original = model_of(["s = Add(biased, mask)"], inputs=", float[B,1,1,T] mask")
    given = {**feeds(3, 9), "mask": np.random.default_rng(3).standard_normal((2, 1, 1, 9)).astype(np.float32)}
    given["mask"][0, ..., :4] = -np.inf
    (wanted,) = run(original, given)
    for preferred, name in ((False, "AdditiveMask"), (True, "KeyBias")):
        monkeypatch.setattr("alibi_rewriter.rewriter.bind.key_terms.PREFER_KEY_BIAS", preferred)
        result = rewrite(original, options=Options(verify=False))
        assert result.model is not None
        assert [f.variant.op_type for _, f in result.fused] == [f"AlibiAttentionLinear{name}"]
        assert np.abs(wanted - run(result.model, given)[0]).max() <= 2e-5


FINITE = {
    "Where": ["later = Greater(d, zero)", "mask = Where(later, bad, none)", "s = Add(biased, mask)"],
    "a product": [
        *("later = Greater(d, zero)", "flags = Cast<to=1>(later)", "mask = Mul(flags, bad)", "s = Add(biased, mask)"),
    ],
    "with padding": [
        *("seen = LessOrEqual(d, zero)", "both = And(seen, keep)", "flags = Cast<to=1>(both)", "minus = Neg(flags)"),
        *("ones = Cast<to=1>(yes)", "gone = Add(minus, ones)", "mask = Mul(gone, bad)", "s = Add(biased, mask)"),
    ],
}


@pytest.mark.parametrize("name", list(FINITE))
def test_a_finite_causal_mask_is_passed_on(name: str) -> None:
    """-10000 does not certainly hide a key, since another key may be as low."""
    original = model_of(FINITE[name], inputs=", bool[B,1,1,T] keep" if name == "with padding" else "")
    result = rewrite(original, options=Options(verify=False))
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    assert [f.variant.op_type for _, f in result.fused] == ["AlibiAttentionLinearAdditiveMask"]
    given = feeds(9, 9)
    if name == "with padding":
        given["keep"] = np.arange(9)[None, None, None] % 4 != np.arange(2)[:, None, None, None]
    (wanted,), (got,) = run(original, given), run(result.model, given)
    # A row of which all keys are at -10000 has scores that are known to 1e-3.
    assert np.abs(wanted - got).max() <= (5e-3 if name == "with padding" else 2e-5)


def test_a_finite_causal_table_is_passed_on() -> None:
    size = 32
    original = model_of([
        "starts = Concat<axis=0>(past1, zero1)", "ends = Concat<axis=0>(keys1, keys1)",
        "mask = Slice(table, starts, ends)", "s = Add(biased, mask)",
    ])  # fmt: skip
    table = np.triu(np.full((size, size), -10000, np.float32), 1)
    constants = {"table": table, "zero1": np.zeros(1, np.int64)}
    original.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())
    original.graph.node.insert(6, onnx.helper.make_node("Sub", ["keys1", "rows1"], ["past1"]))
    result = rewrite(original, options=Options(verify=False))
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    assert [f.variant.op_type for _, f in result.fused] == ["AlibiAttentionLinearAdditiveMask"]
    for rows, keys in ((9, 9), (3, 12)):
        (wanted,), (got,) = run(original, feeds(rows, keys)), run(result.model, feeds(rows, keys))
        assert np.abs(wanted - got).max() <= 2e-5


def test_what_is_said_of_a_rounded_bias(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = tmp_path / "model.onnx", tmp_path / "report.json"
    onnx.save(rounding(BFLOAT16, padded=True), path)
    assert main(["explain", str(path), "--json", str(report)]) == 0
    said = capsys.readouterr().out
    assert "with the bias as it is rounded, by key" in said
    assert "before it was rounded, bias = slope[h] * j" in said
    assert "key bias: added to visible scores and passed on unchanged: " in said
    assert "round_bfloat16(" in said
    # The formula adds the rounded bias once.
    assert "+ slope[h] * j" not in said
    (site,) = json.loads(report.read_text())["sites"]
    assert (site["proof"]["key_bias"], site["proof"]["rounding"], site["proof"]["window"]) == (True, "kept", None)


def test_what_is_said_of_a_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = tmp_path / "model.onnx", tmp_path / "report.json"
    onnx.save(model_of(["visible = LessOrEqual(back, two)", "s = Where(visible, biased, low)"]), path)
    assert main(["explain", str(path), "--json", str(report)]) == 0
    said = capsys.readouterr().out
    assert "with window (2 keys before the row)" in said
    assert "over the keys j with i + (S_kv - S_q) - j <= 2" in said
    assert "<- LessOrEqual" in said
    assert "no mask: every key is visible" not in said
    (site,) = json.loads(report.read_text())["sites"]
    assert site["proof"]["window"] == {"left": 2, "right": -1}


@pytest.mark.parametrize("option", ["--engine", "--embed-kernels"])
def test_no_engine_of_members_without_kernels(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is written or verified; --strategy native is not held up."""
    path = tmp_path / "model.onnx"
    onnx.save(model_of(["visible = LessOrEqual(back, two)", "s = Where(visible, biased, low)"]), path)
    monkeypatch.setattr("alibi_rewriter.engine.build.check_request", lambda *_, **__: None)
    # Both forms have kernels; a new one begins without.
    monkeypatch.setattr(Variant, "bias", property(lambda _: replace(LINEAR, kernels=False)))
    assert main([str(path), option]) == ExitCode.ENGINE_FAILED
    said = capsys.readouterr().err
    assert "(scores 's') becomes AlibiAttentionLinearWindow" in said
    assert "--strategy native" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]
