"""The examples run as written.  Those of torch are skipped where it is not installed.

``ALIBI_EXPORT_PYTHON`` may name an interpreter that has torch and transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from alibi_rewriter.cli import main

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
EXPORTER = os.environ.get("ALIBI_EXPORT_PYTHON", sys.executable)


@cache
def missing(*modules: str) -> str:
    """Why an exporting example cannot run here; empty if it can."""
    code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {modules!r})))"
    done = subprocess.run([EXPORTER, "-c", code], capture_output=True, check=False)
    return "" if done.returncode == 0 else f"{' and '.join(modules)} are not installed for {EXPORTER}"


def run(script: Path, *words: str, folder: Path, python: str = sys.executable) -> str:
    environment = dict(os.environ)
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, str(script), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def rewritten(model: Path, folder: Path) -> dict[str, object]:
    report = folder / "report.json"
    assert main([str(model), "--json", str(report), "--report", str(folder / "page.html")]) == 0
    found: dict[str, object] = json.loads(report.read_text(encoding="utf-8"))
    return found


def test_every_example_has_a_page() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for folder in sorted(p for p in EXAMPLES.iterdir() if p.is_dir() and not p.name.startswith("__")):
        page = (folder / "README.md").read_text(encoding="utf-8")
        scripts = [*folder.glob("*.py"), *folder.glob("*.cpp")]
        assert scripts
        for script in scripts:
            assert script.name in page
        assert f"[{folder.name}]({folder.name}/README.md)" in index


def test_the_rewritten_half_precision_model_is_more_accurate(tmp_path: Path) -> None:
    out = run(EXAMPLES / "float16" / "accuracy.py", "--lengths", "64", "256", folder=tmp_path)
    rows = [[float(v) for v in line.split()] for line in out.splitlines()[1:]]
    for _, original, new in rows:
        assert new < original
    assert rows[1][1] > 3 * rows[0][1], "the original's error grows with the sequence"
    assert rows[1][2] < 2 * rows[0][2], "the rewritten model's does not"


def test_a_decoder_gives_the_same_tokens_in_three_ways(tmp_path: Path) -> None:
    script = EXAMPLES / "decoder" / "decode.py"
    model = ROOT / "tests" / "data" / "bloom__optimum_textgen_past+onnxsim.onnx"
    out = run(script, str(model), "-o", str(tmp_path / "bloom.alibi.onnx"), folder=tmp_path)
    page = (script.parent / "README.md").read_text(encoding="utf-8")
    assert out in page
    assert "48 of 48 tokens are the same in all three" in out


def test_a_repository_for_triton_holds_the_buffers_as_state(tmp_path: Path) -> None:
    model = ROOT / "tests" / "data" / "bloom__optimum_textgen_past+onnxsim.onnx"
    script, written = EXAMPLES / "triton" / "repository.py", str(tmp_path / "bloom.alibi.onnx")
    assert main([str(model), "--cache", "in-place=64", "-q", "-o", written]) == 0
    out = run(script, written, "models", folder=tmp_path)
    assert out in (script.parent / "README.md").read_text(encoding="utf-8")
    text = (tmp_path / "models" / "bloom" / "config.pbtxt").read_text(encoding="utf-8")
    assert text.count("use_same_buffer_for_input_output: true") == 4
    assert text.count("dims: [ 6, 64, 8 ]") == 8
    assert 'name: "key_lengths"' in text and "attention_mask" not in text
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon"])
def test_hugging_face(family: str, tmp_path: Path) -> None:
    if missing("torch", "transformers", "onnx"):
        pytest.skip(missing("torch", "transformers", "onnx"))
    run(EXAMPLES / "huggingface" / "export.py", family, folder=tmp_path, python=EXPORTER)
    report = rewritten(tmp_path / f"{family}.onnx", tmp_path)
    assert report["census"] == {"sites": 2, "biased": 2, "proven": 2, "rewritten": 2, "refused": 0}
    verification = report["verification"]
    assert isinstance(verification, dict)
    assert verification["status"] == "passed" and not verification["power"]["weak"]


def test_embedding(tmp_path: Path) -> None:
    if missing("torch", "onnx"):
        pytest.skip(missing("torch", "onnx"))
    run(EXAMPLES / "embedding" / "encoder.py", folder=tmp_path, python=EXPORTER)
    report = rewritten(tmp_path / "encoder.onnx", tmp_path)
    assert report["census"] == {"sites": 2, "biased": 2, "proven": 2, "rewritten": 2, "refused": 0}
    pictures = report["pictures"]
    assert isinstance(pictures, dict)
    assert pictures["memory"]["stored"] == 6 * 128 * 128 * 4
    assert (tmp_path / "encoder.alibi.onnx").stat().st_size < (tmp_path / "encoder.onnx").stat().st_size - 300_000


def test_a_model_for_one_rank_decodes_as_the_whole(tmp_path: Path) -> None:
    model = ROOT / "tests" / "data" / "bloom__optimum_textgen_past+onnxsim.onnx"
    assert main([str(model), "-o", str(tmp_path / "rank0.onnx"), "--no-verify"]) == 0
    (tmp_path / "manifest.json").write_text('{"ranks": 1}', encoding="utf-8")
    script = EXAMPLES / "parallel" / "decode.py"
    out = run(script, str(tmp_path), "--alone", "--tokens", "12", folder=tmp_path)
    assert out in (EXAMPLES / "parallel" / "README.md").read_text(encoding="utf-8")
    words = [str(model), "-o", str(tmp_path / "rank0.onnx"), "--no-verify", "--cache", "in-place"]
    assert main(words) == 0
    again = run(script, str(tmp_path), "--alone", "--in-place", "--tokens", "12", folder=tmp_path)
    assert again == out
    (tmp_path / "manifest.json").write_text('{"ranks": 2}', encoding="utf-8")
    words = [sys.executable, str(script), str(tmp_path), "--alone"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "was cut for 2 ranks, and there are 1" in done.stderr
