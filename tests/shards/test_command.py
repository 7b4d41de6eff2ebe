"""`rewrite MODEL --tensor-parallel N -o DIR`: what is written, what is said, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from alibi_rewriter.cli import main
from alibi_rewriter.graph.load import load
from large import sparse_file
from sharded_models import Decoder, decoder, decoder_with_data
from slow import SLOW

pytest.importorskip("onnxruntime")

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(decoder(Decoder(cache=True)), path)
    return path


def test_a_folder_of_ranks_is_written(model: Path, tmp_path: Path, capsys: Printed) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert main([str(model), "--tensor-parallel", "2", "-o", str(out), "--json", str(report)]) == 0
    names = ["manifest.json", "rank0.onnx", "rank0.onnx.data", "rank1.onnx", "rank1.onnx.data"]
    assert sorted(place.name for place in out.iterdir()) == names
    said = capsys.readouterr().out
    assert "cut for 2 ranks: 1 of 1 attentions by heads (4 heads), 1 products by features" in said
    assert "all ranks together: verification passed" in said
    assert not list(tmp_path.glob("*.alibi.onnx"))
    found = json.loads(report.read_text(encoding="utf-8"))["tensor_parallel"]
    assert found["written"]
    assert found["manifest"] == json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for rank in range(2):
        assert load(out / f"rank{rank}.onnx").data == (f"rank{rank}.onnx.data",)


def test_ranks_are_whole_for_the_check(model: Path, tmp_path: Path, capsys: Printed) -> None:
    words = ["--tensor-parallel", "2", "-o", str(tmp_path / "out"), "--no-verify", "--cut-vocabulary"]
    assert main([str(model), *words]) == 0
    assert main(["check", str(tmp_path / "out" / "rank1.onnx")]) == 0
    assert "1 of 1 fused nodes" in capsys.readouterr().out


def test_a_rewritten_model_is_cut_as_it_is(model: Path, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole.onnx", tmp_path / "again"
    assert main([str(model), "-o", str(whole), "--no-verify"]) == 0
    assert main([str(whole), "--tensor-parallel", "2", "-o", str(again)]) == 0
    assert (again / "manifest.json").exists()


def test_a_folder_that_is_there_keeps_its_other_files(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    for _ in range(2):
        assert main([str(model), "--tensor-parallel", "2", "-o", str(out), "--no-verify"]) == 0
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert len(list(out.iterdir())) == 6


@pytest.mark.parametrize("name", ["rank0.onnx", "model.onnx"])
def test_the_model_and_its_data_are_not_replaced(name: str, tmp_path: Path, capsys: Printed) -> None:
    """They may have the names that ranks get."""
    given, data = tmp_path / name, "rank0.onnx.data"
    onnx.save(decoder(Decoder(layers=2)), given, save_as_external_data=True, location=data, size_threshold=0)
    before = {place.name: place.read_bytes() for place in tmp_path.iterdir()}
    assert main([str(given), "--tensor-parallel", "2", "-o", str(tmp_path), "--no-verify"]) == 2
    said = capsys.readouterr().err
    assert f"{data}' is the input itself, or its data. Choose another folder with -o." in said
    assert {place.name: place.read_bytes() for place in tmp_path.iterdir()} == before


def test_a_report_is_no_file_of_a_rank(model: Path, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = ["--tensor-parallel", "2", "-o", str(out), "--no-verify", "--json", str(out / "manifest.json")]
    assert main([str(model), *words]) == 2
    assert "manifest.json' is the model or another output. Choose another --json." in capsys.readouterr().err
    assert not list(out.iterdir())


def test_what_is_no_file_is_not_replaced(model: Path, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").write_text("kept", encoding="utf-8")
    (out / "rank1.onnx").symlink_to(tmp_path / "elsewhere")
    assert main([str(model), "--tensor-parallel", "2", "-o", str(out), "--no-verify"]) == 2
    assert "symbolic link" in capsys.readouterr().err
    assert (tmp_path / "elsewhere").read_text(encoding="utf-8") == "kept"
    assert [place.name for place in out.iterdir()] == ["rank1.onnx"]


@pytest.mark.parametrize("kind", ["file", "link", "no parent"])
def test_a_place_that_is_no_folder_is_refused(kind: str, model: Path, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine", encoding="utf-8")
    elif kind == "link":
        (tmp_path / "real").mkdir()
        out.symlink_to(tmp_path / "real")
    else:
        out = tmp_path / "missing" / "out"
    assert main([str(model), "--tensor-parallel", "2", "-o", str(out)]) == 2
    assert "folder" in capsys.readouterr().err
    assert kind != "file" or out.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tensor-parallel", "1"], "from 2 to 64"),
        (["--tensor-parallel", "65"], "from 2 to 64"),
        (["--tensor-parallel", "2", "--inline"], "--inline leaves none"),
        (["--tensor-parallel", "2", "--dry-run"], "a dry run writes nothing"),
        (["--tensor-parallel", "2", "--verify-sites"], "as a whole"),
        (["--cut-vocabulary"], "give it with --tensor-parallel"),
        (["--collectives", "tensorrt"], "give it with --tensor-parallel"),
    ],
)
def test_words_that_do_not_go_together(
    words: list[str], says: str, model: Path, tmp_path: Path, capsys: Printed
) -> None:
    assert main([str(model), *words, "-o", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_has_to_be_named(model: Path, capsys: Printed) -> None:
    assert main([str(model), "--tensor-parallel", "2"]) == 2
    assert "give a folder with -o" in capsys.readouterr().err


def test_heads_that_cannot_be_divided_are_one_error(tmp_path: Path, capsys: Printed) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(decoder(Decoder(heads=2, key_heads=2)), path)
    assert main([str(path), "--tensor-parallel", "4", "-o", str(tmp_path / "out"), "--no-verify"]) == 3
    assert "it has 2 heads, fewer than the 4 ranks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_models_are_refused(model: Path, tmp_path: Path, capsys: Printed) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(model.read_bytes())
    (tmp_path / "out").mkdir()
    assert main([str(model), str(other), "--tensor-parallel", "2", "-o", str(tmp_path / "out")]) == 2
    assert "for one model" in capsys.readouterr().err


@SLOW
def test_memory_is_bounded_by_the_largest_weight(tmp_path: Path) -> None:
    """Weights of a gigabyte are cut in less than 400 MB and the largest of them."""
    what = Decoder(heads=32, key_heads=32, width=64, hidden=8192, layers=5, packing="interleaved", data="weights.bin")
    made, size = decoder_with_data(what)
    largest = max(4 * a * b for a, b in (tuple(t.dims) for t in made.graph.initializer if len(t.dims) == 2))
    sparse_file(tmp_path / "weights.bin", size)
    onnx.save(made, tmp_path / "model.onnx")
    words = [str(tmp_path / "model.onnx"), "--tensor-parallel", "2", "-o", str(tmp_path / "out"), "--no-verify"]
    child = subprocess.Popen([sys.executable, "-m", "alibi_rewriter", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    assert size > 900 << 20
    assert used.ru_maxrss << 10 < (400 << 20) + largest < size
