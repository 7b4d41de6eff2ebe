"""``--inline``: a file without local functions, for runtimes that refuse them, that computes the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.cli import main
from alibi_rewriter.rewriter.emit import inlining
from onnx import ModelProto
from slow import thinned
from textgraphs import feeds_of, fused, read, run

pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[3] / "examples" / "bloom-tiny.onnx"


def test_the_example_without_functions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    assert main([str(EXAMPLE), "--inline", "-o", str(out), "--json", str(report)]) == ExitCode.DONE
    assert "function bodies are in place of the fused nodes" in capsys.readouterr().out
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    assert not any(entry.domain == "alibi" for entry in model.opset_import)
    assert not any(node.domain == "alibi" for node in model.graph.node)
    told = json.loads(report.read_text())
    assert told["output"]["path"] == str(out)
    assert [site["verdict"] for site in told["sites"]] == ["rewritten", "rewritten"]
    names = [one["name"] for one in told["verification"]["sets"]]
    assert any(name.endswith("bodies inlined") for name in names)
    assert any(not name.endswith("bodies inlined") for name in names)
    assert told["verification"]["power"]["weak"] is False
    ids = np.random.default_rng(0).integers(0, 30, (2, 9))
    mask = np.ones((2, 9), np.int64)
    mask[1, :4] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    wanted, got = run(onnx.load(EXAMPLE), given)[0], run(model, given)[0]
    assert np.abs(wanted - got)[mask > 0].max() <= 1e-4


@pytest.mark.parametrize(
    "name",
    thinned(["masks/window_with_padding", "layouts/gqa", "masks/nan_guard", "scopes/if_body", "forms/symmetric"], 2),
)
def test_what_is_inlined_computes_the_same(name: str) -> None:
    original = read(name)
    result = rewrite(original, options=Options(inline=True))
    assert result.model is not None
    assert result.verification is not None
    assert result.verification.status == "passed"
    assert not result.model.functions
    assert fused(result.model) == []
    given = feeds_of(original, 1)
    for wanted, got in zip(run(original, given), run(result.model, given), strict=True):
        assert np.abs(wanted - got).max() <= 2e-5


def test_external_data_are_found_by_both(tmp_path: Path) -> None:
    model = onnx.load(EXAMPLE)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=256)
    result = rewrite(path, tmp_path / "out.onnx", options=Options(inline=True))
    assert result.exit_code is ExitCode.DONE
    assert result.verification is not None
    assert any(one.name.endswith("bodies inlined") for one in result.verification.sets)
    assert not onnx.load(tmp_path / "out.onnx").functions


def test_an_inlined_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = inlining.inline_functions

    def wrong(model: ModelProto) -> ModelProto:
        made = honest(model)
        (softmax, *_) = (node for node in made.graph.node if node.op_type == "Softmax")
        softmax.attribute[0].i = 2
        return made

    monkeypatch.setattr("alibi_rewriter.rewriter.pipeline.inline_functions", wrong)
    result = rewrite(EXAMPLE, tmp_path / "out.onnx", options=Options(inline=True))
    assert result.exit_code is ExitCode.VERIFICATION_FAILED
    assert not (tmp_path / "out.onnx").exists()
    assert result.verification is not None
    failed = [one.name for one in result.verification.sets if not one.passed]
    assert failed and all(name.endswith("bodies inlined") for name in failed)


@pytest.mark.parametrize("option", ["--engine", "--embed-kernels"])
def test_there_is_no_engine_of_an_inlined_file(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(EXAMPLE), "--inline", option]) == ExitCode.USAGE
    assert "--inline leaves no fused node" in capsys.readouterr().err


def test_an_inlined_file_that_cannot_be_run_is_said() -> None:
    found = rewrite(read("forms/linear")).verification
    assert found is not None
    second = dataclasses.replace(found, sets=(), skipped_reason="too large")
    assert "too large" in inlining.beside(found, second).notes[-1]
