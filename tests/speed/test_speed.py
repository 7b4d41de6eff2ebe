"""`rewrite bench`: what is compared, what is said, and that a model that fails is a row and not a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from alibi_rewriter.cli import main
from alibi_rewriter.page import to_html
from alibi_rewriter.speed import measure as measuring
from alibi_rewriter.speed.cases import Cases
from alibi_rewriter.speed.measure import Contender, Measured, Row, measure
from alibi_rewriter.speed.process import RunFailed, Runner
from alibi_rewriter.speed.report import to_json, to_text

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
BLOOM = ROOT / "examples" / "bloom-tiny.onnx"

Printed = pytest.CaptureFixture[str]

FACTS: dict[str, Any] = {"runtime": "onnxruntime 1", "provider": "cpu", "threads": 1, "fused": 2, "library": None}


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases(onnx.load(BLOOM), {})


def test_the_whole_command(tmp_path: Path, capsys: Printed) -> None:
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    words = ["bench", str(BLOOM), "--lengths", "8,24", "--rounds", "3", "--threads", "1", "--no-verify"]
    assert main([*words, "--json", str(figures), "--report", str(page)]) == 0
    text = capsys.readouterr().out
    facts = json.loads(figures.read_text())
    assert [case["name"] for case in facts["cases"]][:2] == ["1 x 8", "1 x 24"]
    assert facts["fused"] == 2
    for case in facts["cases"]:
        for name, result in case["results"].items():
            assert result["seconds"] > 0 and result["failure"] is None, (case["name"], name)
            assert result["tokens_per_second"] > 0 and len(result["visits"]) == 3
            assert name == "original" or result["times_faster"] > 0
        assert case["results"]["kernel"]["claimed"] == 2
    assert "1 x 24" in text and "our kernels run all 2 fused nodes" in text
    assert "id='bench'" in page.read_text() and "Speed on this machine" in page.read_text()


def test_a_given_rewritten_file_is_measured(tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "out.onnx"
    assert main([str(BLOOM), "-o", str(out), "--no-verify"]) == 0
    shapes = "input_ids:2x5,attention_mask:2x5"
    words = ["bench", str(BLOOM), "--rewritten", str(out), "--shapes", shapes, "--rounds", "3", "--json", "-"]
    capsys.readouterr()
    assert main(words) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts["cases"][0]["tokens"] is None and "2x5" in facts["cases"][0]["name"]
    assert "original" in printed.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--lengths", "0"], 2, "at least 1"),
        (["--shapes", "nobody:1x2"], 2, "no input 'nobody'"),
        (["--shapes", "input_ids:1x2"], 2, "names no shape for the input 'attention_mask'"),
        (["--rewritten", str(BLOOM)], 2, "no fused node"),
        (["--rewritten", str(BLOOM), "--report", "page.html"], 2, "leave out --rewritten"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], code: int, said: str, capsys: Printed) -> None:
    assert main(["bench", str(BLOOM), *words]) == code
    assert said in capsys.readouterr().err


def test_a_rewritten_model_is_no_original(tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "out.onnx"
    assert main([str(BLOOM), "-o", str(out), "--no-verify"]) == 0
    assert main(["bench", str(out)]) == 2
    assert "rewritten already" in capsys.readouterr().err


def test_a_model_without_alibi_has_nothing_to_compare(capsys: Printed) -> None:
    refused = ROOT / "tests" / "data" / "near__learned_abs_bias_dynamo18_dyn.onnx"
    assert main(["bench", str(refused)]) == 3
    assert "rewrite explain" in capsys.readouterr().err


def test_a_contender_that_fails_is_a_row(cases: Cases, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    contenders = [Contender("original", BLOOM), Contender("function", broken)]
    row = measure(cases.of_sizes(1, 4, 0), contenders, tmp_path, provider="cpu", threads=1, rounds=3, seconds=1)
    assert row.results["original"].seconds is not None
    assert row.results["function"].seconds is None and row.results["function"].failure
    facts = to_json([row], FACTS)
    assert "fails" in to_text(facts) and row.results["function"].failure in to_text(facts)
    assert "fails" in to_html({"bench": facts})


def test_a_process_that_dies_is_a_failure(tmp_path: Path) -> None:
    with Runner(BLOOM, tmp_path, library=False, provider="cpu", threads=1) as runner:
        runner._process.kill()
        with pytest.raises(RunFailed, match="killed"):
            runner.seconds(1)


def test_the_cache_is_covered_by_the_mask_or_not(cases: Cases) -> None:
    prefill = cases.of_sizes(2, 6, 0)
    assert prefill.tokens == 12 and all(a["input_ids"].shape == (2, 6) for a in prefill.choices)


def row_of(original: list[float], other: list[float]) -> Row:
    case = Cases(onnx.load(BLOOM), {}).of_sizes(1, 2, 0)
    results = {"original": Measured(visits=original, seconds=1.0), "kernel": Measured(visits=other, seconds=1.0)}
    return Row(case, results)


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine slows down by ten in the middle; both models notice, the ratio does not.
    row = row_of([2.0, 2.0, 20.0, 20.0], [1.0, 1.0, 10.0, 10.0])
    assert row.ratio("kernel") == 2.0 and not row.is_noisy("kernel")
    assert row_of([2.0, 2.0, 20.0, 2.0], [1.0, 2.0, 1.0, 1.0]).is_noisy("kernel")


def test_few_pairs_are_not_called_noisy() -> None:
    assert not row_of([1.0, 9.0], [1.0, 1.0]).is_noisy("kernel")
    assert measuring.FEWEST_ROUNDS > 2
