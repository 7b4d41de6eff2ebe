"""Several models in one run: a line for each, one report, and no model keeps another from being tried."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from alibi_rewriter import running
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.cli import main
from textgraphs import fused, read

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two that fuse."""
    made = []
    for name in ("forms/linear_causal", "forms/symmetric"):
        made.append(tmp_path / f"{Path(name).name}.onnx")
        onnx.save(read(name), made[-1])
    return made


def words(*some: object) -> list[str]:
    return [str(word) for word in some]


def rows(text: str) -> dict[str, list[str]]:
    return {Path(line.split()[0]).name: line.split()[1:] for line in text.splitlines() if ".onnx " in line}


def test_a_table_and_one_report(models: list[Path], tmp_path: Path, capsys: Printed) -> None:
    pytest.importorskip("onnxruntime")
    out, report = tmp_path / "OUT", tmp_path / "all.json"
    assert main(words(*models, "-o", out, "--json", report)) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == ["model", "sites", "biased", "fused", "verification", "exit"]
    for model in models:
        target = out / f"{model.stem}.alibi.onnx"
        assert rows(text)[model.name] == ["1", "1", "1", "passed", "0", str(target)]
        assert len(fused(onnx.load(target))) == 1
    assert text.splitlines()[-1] == "2 models: 2 rewritten, 0 went wrong"
    found = json.loads(report.read_text())
    assert [entry["model"] for entry in found["models"]] == [str(m) for m in models]
    assert [entry["report"]["output"]["path"] for entry in found["models"]] == [
        str(out / f"{m.stem}.alibi.onnx") for m in models
    ]
    assert found["exit_code"] == 0


def test_without_a_folder_each_is_written_beside_its_model(models: list[Path], capsys: Printed) -> None:
    assert main(words(models[0], "--no-verify", models[1])) == 0, "models on both sides of an option"
    assert all(model.with_name(f"{model.stem}.alibi.onnx").is_file() for model in models)
    assert rows(capsys.readouterr().out)[models[0].name][3:5] == ["not", "run"]


def test_what_goes_wrong_with_one_is_told_and_the_others_are_done(
    models: list[Path], tmp_path: Path, capsys: Printed
) -> None:
    broken, refused, missing = tmp_path / "broken.onnx", tmp_path / "refused.onnx", tmp_path / "missing.onnx"
    broken.write_bytes(b"\xff" * 50)
    onnx.save(read("refusals/quadratic"), refused)
    given = [broken, models[0], missing, refused, models[1]]
    assert main(words(*given, "-o", tmp_path / "OUT", "--no-verify", "--json", "-")) == ExitCode.INPUT_REJECTED
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [entry["exit_code"] for entry in found["models"]] == [7, 0, 7, 3, 0]
    assert [entry["report"] is None for entry in found["models"]] == [True, False, True, False, False]
    assert "refused: ALB200" in printed.err and "is not an ONNX model" in printed.err
    assert "5 models: 2 rewritten, 2 went wrong" in printed.err
    assert main(words(refused, models[0], "--no-verify")) == ExitCode.NOT_REWRITTEN


def test_a_bug_with_one_model_does_not_stop_the_others(
    models: list[Path], tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = running.Run.work

    def failing(run: running.Run) -> running.Done:
        if run.options.model == models[0]:
            raise RuntimeError("a bug")
        return work(run)

    monkeypatch.setattr(running.Run, "work", failing)
    assert main(words(*models, "--no-verify")) == ExitCode.INTERNAL
    printed = capsys.readouterr()
    assert "RuntimeError: a bug" in printed.err and str(models[0]) in printed.err
    assert rows(printed.out)[models[1].name][2] == "1"


def test_what_is_about_one_model_is_refused(models: list[Path], tmp_path: Path, capsys: Printed) -> None:
    before = sorted(tmp_path.iterdir())
    twin = tmp_path / "twin"
    twin.mkdir()
    onnx.save(read("forms/symmetric"), twin / models[0].name)
    for extra, message in (
        (["--report", tmp_path / "r.html"], "--report is about one model"),
        (["--extract", tmp_path / "x"], "--extract is about one model"),
        (["--explain"], "--explain is about one model"),
        (["--engine", tmp_path / "e.engine"], "--engine PATH is one engine"),
        (["-o", models[0]], "is no folder"),
        (["-o", tmp_path / "a" / "b"], "does not exist"),
        (["--json", models[0]], "is a model or another output"),
        ([twin / models[0].name, "-o", tmp_path / "OUT"], "would both be written to"),
    ):
        assert main(words(*models, *extra)) == ExitCode.USAGE, extra
        assert message in capsys.readouterr().err, extra
    assert [p for p in sorted(tmp_path.iterdir()) if p not in (twin, tmp_path / "OUT")] == before


def test_one_model_into_a_folder(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "OUT"
    out.mkdir()
    assert main(words(models[0], "-o", out, "--no-verify")) == 0
    assert [p.name for p in out.iterdir()] == [f"{models[0].stem}.alibi.onnx"]


def test_several_with_a_dry_run_write_nothing(models: list[Path], tmp_path: Path, capsys: Printed) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(words(*models, "-o", tmp_path / "OUT", "--dry-run")) == 0
    assert sorted(tmp_path.iterdir()) == before
    assert "dry run" in capsys.readouterr().out


def test_quiet_says_only_what_went_wrong(models: list[Path], tmp_path: Path, capsys: Printed) -> None:
    refused = tmp_path / "refused.onnx"
    onnx.save(read("refusals/quadratic"), refused)
    assert main(words(models[0], "--no-verify", "-q", "--json", tmp_path / "r.json")) == 0
    assert capsys.readouterr() == ("", "")
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 0
    assert main(words(refused, "-q")) == ExitCode.NOT_REWRITTEN
    printed = capsys.readouterr()
    assert printed.out == "" and "NOT written" in printed.err and len(printed.err.splitlines()) == 1
    assert main(words(*models, "--no-verify", "-q")) == 0
    assert capsys.readouterr().out == ""
    assert main(words(*models, refused, "--no-verify", "-q")) == ExitCode.NOT_REWRITTEN
    assert list(rows(capsys.readouterr().out)) == [refused.name]
