"""Golden graphs: one small hand-written model per accepted form and per refusal code.

``tests/golden/accept_*.txt`` must be rewritten, and the result must be the text in ``*.expected.txt``;
``tests/golden/refuse_ALBnnn_*.txt`` must be refused with that code, at the stage and node that its comment
names.  Graphs are in ONNX text syntax; lines that start with ``#`` are comments.  The expected texts leave out
the function bodies (``test_function_body.py`` checks these) but name the functions.

After a deliberate change write the expected texts anew, and review the difference:

    ALIBI_REGENERATE_GOLDEN=1 python -m pytest tests/whole/test_golden.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.printer
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.cli import main
from alibi_rewriter.rewriter import pipeline, verdicts
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.report import to_json
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.rewriter.verdicts import Code, Refusal, Stage
from onnx import ModelProto
from textgraphs import FOLDER, feeds_of, fused, read, run

pytest.importorskip("onnxruntime")

ACCEPT = sorted(p.stem for p in FOLDER.glob("accept_*.txt") if not p.name.endswith(".expected.txt"))
REFUSE = sorted(p.stem for p in FOLDER.glob("refuse_*.txt"))
REGENERATE = os.environ.get("ALIBI_REGENERATE_GOLDEN") == "1"
SLOPES = (0.5, 0.25, 0.125, 0.0625)
TOLERANCE = 2e-5

OP_TYPES = {
    "accept_additive_padding": "AlibiAttentionLinearAdditiveMask",
    "accept_boolean_padding": "AlibiAttentionLinearBooleanMask",
    "accept_cache": "AlibiAttentionCausal",
    "accept_finite_causal_mask": "AlibiAttentionLinearAdditiveMask",
    "accept_group_query_attention": "AlibiAttentionCausal",
    "accept_key_bias_per_head": "AlibiAttentionLinearKeyBias",
    "accept_key_positions": "AlibiAttentionCausalPositionsBooleanMask",
    "accept_linear_causal": "AlibiAttentionCausal",
    "accept_multi_head_attention_causal": "AlibiAttentionCausal",
    "accept_nan_guard": "AlibiAttentionLinearBooleanMask",
    "accept_onnx_attention_cache": "AlibiAttentionCausal",
    "accept_onnx_attention_causal": "AlibiAttentionCausal",
    "accept_symmetric": "AlibiAttentionSymmetric",
    "accept_symmetric_causal": "AlibiAttentionCausal",
    "accept_table_with_inf": "AlibiAttentionCausal",
    "accept_unattended_rows": "AlibiAttentionCausalBooleanMask",
    "accept_where_after_bias": "AlibiAttentionCausal",
    "accept_replaced_scores": "AlibiAttentionCausal",
    "accept_where_before_bias": "AlibiAttentionCausal",
    "accept_window_causal": "AlibiAttentionCausalWindow",
    "accept_window_of_half_the_keys": "AlibiAttentionCausalBooleanMask",
    "accept_window_symmetric": "AlibiAttentionSymmetricWindow",
    "accept_window_with_padding": "AlibiAttentionLinearKeyBiasWindow",
}
"""What a golden graph becomes, where that is not AlibiAttentionLinear and its text does not say it."""

KNOWN: dict[str, str] = {}
"""Golden graphs that the product does not handle yet, with the reason."""

RESERVED = frozenset({"ALB500"})
"""It contradicts a proof of ours, so no file triggers it."""


def marked(names: list[str]) -> list[object]:
    return [pytest.param(n, marks=pytest.mark.xfail(strict=True, reason=KNOWN[n])) if n in KNOWN else n for n in names]


def comment(name: str, key: str) -> str:
    match = re.search(rf"^# {key}: (.+)$", (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert match is not None, f"{name} has no line '# {key}: ...'"
    return match.group(1)


def becomes(name: str) -> str:
    """The op_type: what the text itself says (``# becomes: ...``), or the table."""
    said = re.search(r"^# becomes: (.+)$", (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return said.group(1) if said else OP_TYPES.get(name, "AlibiAttentionLinear")


def text_of(model: ModelProto) -> str:
    bare = ModelProto()
    bare.CopyFrom(model)
    names = sorted(f"{f.domain}.{f.name}" for f in bare.functions)
    del bare.functions[:]
    del bare.metadata_props[:]  # the note of what was fused: test_intact.py
    lines = [line.rstrip() for line in onnx.printer.to_text(bare).strip().splitlines()]
    return "\n".join([f"# functions: {', '.join(names)}", *lines]) + "\n"


@pytest.mark.parametrize("name", marked(ACCEPT))
def test_accepted(name: str) -> None:
    original = read(name)
    onnx.checker.check_model(original)
    result = rewrite(original, options=Options(verify=False))
    assert [str(s.refusal) for s in result.analysis.sites if s.refusal is not None] == []
    assert result.exit_code is ExitCode.DONE
    assert result.model is not None
    onnx.checker.check_model(result.model)
    assert set(fused(result.model)) == {becomes(name)}
    for site in (s for s in to_json(result)["sites"] if s["verdict"] == "rewritten"):  # type: ignore[attr-defined]
        slopes = site["proof"]["slopes"]
        if name == "accept_run_time_slopes":
            assert slopes is None
            assert site["proof"]["slopes_at_run_time"]
        else:
            factor = 0.5 if name == "accept_scale_after_bias" else 1.0
            assert slopes == [s * factor for s in SLOPES]
    for seed in range(2):
        feeds = feeds_of(original, seed)
        for wanted, got in zip(run(original, feeds), run(result.model, feeds), strict=True):
            assert wanted.shape == got.shape
            assert np.abs(wanted - got).max() <= TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if name in KNOWN:
        return  # has no expected text yet
    path = FOLDER / f"{name}.expected.txt"
    if REGENERATE:
        path.write_text(text_of(result.model), encoding="utf-8")
    assert text_of(result.model) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", marked(REFUSE))
def test_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = read(name)
    onnx.checker.check_model(original)
    result = rewrite(original)
    refusals = [s.refusal for s in result.analysis.sites if s.refusal is not None]
    assert len(refusals) == 1
    refusal = refusals[0]
    assert refusal.code.number == name.split("_")[1]
    assert refusal.stage.name.lower() == comment(name, "stage")
    assert refusal.node == comment(name, "node")
    assert result.fused == []
    assert result.model is None
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    path = tmp_path / "model.onnx"
    onnx.save(original, path)
    assert main([str(path), "--explain"]) == ExitCode.NOT_REWRITTEN
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    printed = capsys.readouterr().out
    if refusal.code not in (Code.SOFTMAX_AXIS, Code.NO_PRODUCT, Code.NO_VALUE_PRODUCT):  # these are no attention
        assert f"{refusal.code.number} {refusal.code.title}" in printed
        assert f"'{refusal.node}'" in printed
        assert refusal.code.remedy in printed


def test_probe_contradiction_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def contradict(model: ModelProto, analysis: object, base_dir: Path) -> int:
        for site in analysis.proven:  # type: ignore[attr-defined]
            site.binding = None
            site.refusal = Refusal(Code.PROBE, Stage.EMIT, "p", "s", "made up")
        return 1

    monkeypatch.setattr(pipeline, "probe", contradict)
    result = rewrite(read("accept_linear"))
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    assert result.model is None
    (site,) = to_json(result)["sites"]  # type: ignore[misc]
    assert site["refusal"]["code"] == "ALB500"
    assert site["refusal"]["stage"] == "emit"


@pytest.mark.parametrize("name", [n for n in ACCEPT if n not in ("accept_run_time_slopes", "accept_if_body")])
def test_probe_finds_wrong_slopes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-check is no decoration: a proof with another slope does not pass it."""
    from alibi_rewriter.rewriter.prove import proof

    honest = proof.slopes_of

    def wrong(*arguments: object) -> object:
        values, runtime = honest(*arguments)  # type: ignore[arg-type]
        assert values is not None
        changed = values.copy()
        changed[1] *= 1.01
        return changed, runtime

    monkeypatch.setattr(proof, "slopes_of", wrong)
    result = rewrite(read(name))
    assert {s.refusal.code for s in result.analysis.sites if s.refusal is not None} == {Code.PROBE}
    assert result.exit_code is ExitCode.NOT_REWRITTEN


def test_an_extent_that_an_addition_makes_a_number_is_no_assumption() -> None:
    """A bias over Q entries added to 6 keys: Q is 6, or 1, which would be no bias at all."""
    made = read("accept_linear")
    for value in made.graph.input:
        dim = value.type.tensor_type.shape.dim[2]
        if value.name == "q":
            dim.dim_param = "Q"
        else:
            dim.dim_value = 6
    next(n for n in made.graph.node if n.op_type == "Shape").input[0] = "q"
    result = rewrite(made, options=Options(verify=False, probe=False))
    (refused,) = [site.refusal for site in result.analysis.sites]
    assert refused is not None and refused.code is Code.SIZES and refused.node == "s"
    assert "Q" in refused.detail and "6" in refused.detail


def test_every_code_that_is_raised_has_a_golden_graph() -> None:
    package = Path(verdicts.__file__).parent
    sources = [p.read_text(encoding="utf-8") for p in package.rglob("*.py") if p.name != "verdicts.py"]
    # Raised codes stand as an argument of a refusal; sets of codes (``NOT_ATTENTION``) do not count.
    raised = {c.number for c in Code if any(re.search(rf"\bCode\.{c.name}\b(?=,| if)", s) for s in sources)}
    golden = {n.split("_")[1] for n in REFUSE}
    assert len(raised) > 15
    assert raised - RESERVED - golden == set()
    assert golden <= {c.number for c in Code}


def test_every_code_is_raised_by_something() -> None:
    package = Path(verdicts.__file__).parent
    sources = "\n".join(p.read_text(encoding="utf-8") for p in package.rglob("*.py") if p.name != "verdicts.py")
    silent = {c.number for c in Code if f"Code.{c.name}" not in sources}
    assert silent == set()


def test_codes_are_unique() -> None:
    assert len({c.number for c in Code}) == len(Code)
    assert len({c.title for c in Code}) == len(Code)
    assert all(re.fullmatch(r"ALB[1-5]\d\d", c.number) for c in Code)


def test_every_expected_text_has_its_graph() -> None:
    expected = {p.name.removesuffix(".expected.txt") for p in FOLDER.glob("*.expected.txt")}
    assert expected == set(ACCEPT) - set(KNOWN)
    assert set(OP_TYPES) <= set(ACCEPT)
    assert set(KNOWN) <= set(ACCEPT) | set(REFUSE)
