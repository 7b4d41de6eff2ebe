"""Golden graphs: one small hand-written model per accepted form and per refusal code.

``tests/golden`` has a folder per pattern.  What has to become of a graph stands in its text:

    # becomes: AlibiAttentionCausal    every site becomes such a node, and the whole result is ``NAME.expected.txt``
    # slopes: *0.5                     its slopes are half of the usual ones; ``at run time``: no number is known
    # self-check: REASON               the self-check finds no place to look at, and why
    # refused: ALB200                  the only site is refused with that code,
    # stage: bias                      at that stage
    # node: p                          and at that node

Graphs are in ONNX text syntax; lines that begin with ``#`` are comments.  The expected texts name the functions and
leave out their bodies, which ``fused/test_function_body.py`` checks.

After a deliberate change write the expected texts anew, and review the difference:

    REGENERATE=1 python -m pytest tests/whole/test_golden.py
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.printer
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.cli import main
from alibi_rewriter.rewriter import pipeline, verdicts
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.records.site import Analysis
from alibi_rewriter.rewriter.report import to_json
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.rewriter.verdicts import Code, Refusal, Stage
from generated import up_to_date
from onnx import ModelProto
from textgraphs import ACCEPTED, FOLDER, GOLDEN, REFUSED, feeds_of, fused, read, run, said

pytest.importorskip("onnxruntime")

SLOPES = (0.5, 0.25, 0.125, 0.0625)
TOLERANCE = 2e-5

RESERVED = frozenset({"ALB500"})
"""It contradicts a proof of ours, so no file triggers it."""


def slopes_of(name: str) -> list[float] | None:
    """Slopes that the proof has to find; None if only run time knows them."""
    given = said(name, "slopes")
    if given == "at run time":
        return None
    factor = float(given.removeprefix("*")) if given else 1.0
    return [slope * factor for slope in SLOPES]


def written(model: ModelProto) -> str:
    bare = ModelProto()
    bare.CopyFrom(model)
    names = sorted(f"{f.domain}.{f.name}" for f in bare.functions)
    del bare.functions[:]
    del bare.metadata_props[:]  # the note of what was fused: test_intact.py
    lines = [line.rstrip() for line in onnx.printer.to_text(bare).strip().splitlines()]
    return "\n".join([f"# functions: {', '.join(names)}", *lines]) + "\n"


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    original = read(name)
    onnx.checker.check_model(original)
    result = rewrite(original, options=Options(verify=False))
    assert [str(s.refusal) for s in result.analysis.sites if s.refusal is not None] == []
    assert result.exit_code is ExitCode.DONE
    assert result.model is not None
    onnx.checker.check_model(result.model)
    assert set(fused(result.model)) == {said(name, "becomes")}
    for site in (s for s in to_json(result)["sites"] if s["verdict"] == "rewritten"):  # type: ignore[attr-defined]
        proof = site["proof"]
        assert proof["slopes"] == slopes_of(name)
        assert bool(proof["slopes_at_run_time"]) == (slopes_of(name) is None)
        assert (proof["self_check"] > 0) == (said(name, "self-check") is None)
    for seed in range(2):
        feeds = feeds_of(original, seed)
        for wanted, got in zip(run(original, feeds), run(result.model, feeds), strict=True):
            assert wanted.shape == got.shape
            assert np.abs(wanted - got).max() <= TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    assert up_to_date(FOLDER / f"{name}.expected.txt", written(result.model))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = read(name)
    onnx.checker.check_model(original)
    result = rewrite(original)
    refusals = [s.refusal for s in result.analysis.sites if s.refusal is not None]
    assert len(refusals) == 1
    refusal = refusals[0]
    assert refusal.code.number == said(name, "refused")
    assert refusal.stage.name.lower() == said(name, "stage")
    assert refusal.node == said(name, "node")
    assert result.fused == []
    assert result.model is None
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    path = tmp_path / "model.onnx"
    onnx.save(original, path)
    assert main([str(path), "--explain"]) == ExitCode.NOT_REWRITTEN
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    printed = capsys.readouterr().out
    if refusal.code not in (Code.SOFTMAX_AXIS, Code.NO_PRODUCT, Code.NO_VALUE_PRODUCT):  # these are not attentions
        assert f"{refusal.code.number} {refusal.code.title}" in printed
        assert f"'{refusal.node}'" in printed
        assert refusal.code.remedy in printed


def test_probe_contradiction_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def contradict(model: ModelProto, analysis: Analysis, base_dir: Path) -> Analysis:
        made_up = Refusal(Code.PROBE, Stage.EMIT, "p", "s", "made up")
        return replace(analysis, sites=[replace(site, binding=None, refusal=made_up) for site in analysis.sites])

    monkeypatch.setattr(pipeline, "probe", contradict)
    result = rewrite(read("forms/linear"))
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    assert result.model is None
    (site,) = to_json(result)["sites"]  # type: ignore[misc]
    assert site["refusal"]["code"] == "ALB500"
    assert site["refusal"]["stage"] == "emit"


@pytest.mark.parametrize("name", [n for n in ACCEPTED if slopes_of(n) and not said(n, "self-check")])
def test_probe_finds_wrong_slopes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-check has power.  A proof with another slope does not pass it."""
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
    """A bias over Q entries is added to 6 keys.  Q is 6, or 1, which would not be a bias."""
    made = read("forms/linear")
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
    golden = {said(name, "refused") for name in REFUSED}
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


def test_every_graph_says_what_becomes_of_it() -> None:
    assert sorted([*ACCEPTED, *REFUSED]) == GOLDEN
    expected = {p.relative_to(FOLDER).as_posix().removesuffix(".expected.txt") for p in FOLDER.rglob("*.expected.txt")}
    assert expected == set(ACCEPTED)
    assert {name.split("/")[0] == "refusals" for name in REFUSED} == {True}
