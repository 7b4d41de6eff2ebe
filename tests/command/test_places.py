"""Where outputs may go, what they may replace, and who may read them."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode, UsageError
from alibi_rewriter.base.targets import check_place, put
from alibi_rewriter.cli import main
from alibi_rewriter.rewriter import pipeline
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from onnx import TensorProto, helper
from textgraphs import read

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, modes and links as on POSIX")

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(read("forms/linear_causal"), path)
    return path


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(b"somebody's")
    path.symlink_to(path.with_name("elsewhere"))


def link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


THINGS: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a socket": listening,
    "a symbolic link": link,
    "a symbolic link to nowhere": link_to_nowhere,
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("option", ["-o", "--json", "--report", "--engine"])
def test_what_is_no_file_is_not_replaced(
    model: Path, option: str, thing: str, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)  # names of sockets are short
    target = Path("there")
    THINGS[thing](target)
    before = target.lstat()
    worked: list[object] = []
    monkeypatch.setattr(pipeline, "analyse_copy", lambda *a, **k: worked.append(a))
    assert main(["model.onnx", option, str(target)]) == ExitCode.USAGE
    assert thing.removesuffix(" to nowhere") in capsys.readouterr().err
    assert not worked, "it is refused before any work"
    after = target.lstat()
    assert (stat.S_IFMT(after.st_mode), after.st_ino) == (stat.S_IFMT(before.st_mode), before.st_ino)


def test_a_device_is_not_replaced() -> None:
    """Only looked at: nothing here comes near to writing it."""
    with pytest.raises(UsageError, match="is a device"):
        check_place(Path(os.devnull), "-o")


def test_a_subgraph_does_not_replace_a_pipe(model: Path, capsys: Printed) -> None:
    folder = model.parent / "parts"
    assert main([str(model), "--no-verify", "--extract", str(folder)]) == 0
    part = sorted(folder.iterdir())[0]
    part.unlink()
    pipe(part)
    assert main([str(model), "--no-verify", "--extract", str(folder)]) == ExitCode.USAGE
    assert stat.S_ISFIFO(part.lstat().st_mode)
    said = capsys.readouterr().err
    assert "a pipe" in said and "model.alibi.onnx" in said, "and says what was written before"
    pipe(model.parent / "pipe")
    assert main([str(model), "--extract", str(model.parent / "pipe")]) == ExitCode.USAGE


def test_what_appears_during_the_run_is_not_replaced(tmp_path: Path) -> None:
    made, target = tmp_path / "made", tmp_path / "target"
    made.write_bytes(b"new")
    pipe(target)
    with pytest.raises(UsageError, match="a pipe"):
        put(made, target, "-o")
    assert stat.S_ISFIFO(target.lstat().st_mode)


def test_a_data_file_does_not_follow_a_link_to_nowhere(tmp_path: Path) -> None:
    made = read("forms/linear_causal")
    tensor = TensorProto(name="w", data_type=1, dims=[8, 8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="w.bin"))
    made.graph.initializer.append(tensor)
    made.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"]))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir(), out.mkdir()
    (source / "w.bin").write_bytes(bytes(256))
    (source / "model.onnx").write_bytes(made.SerializeToString())
    (out / "w.bin").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        rewrite(source / "model.onnx", out / "model.onnx", options=Options(verify=False))
    assert sorted(p.name for p in out.iterdir()) == ["w.bin"]
    assert not (tmp_path / "nowhere").exists()


# --- standard output -------------------------------------------------------------------------------------


def test_a_page_on_standard_output(model: Path, capsys: Printed) -> None:
    assert main([str(model), "--no-verify", "--report", "-"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("<!doctype html>") and printed.out.endswith("</html>\n")
    assert "1 rewritten" in printed.err
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json", "-", "--report", "-"], "cannot both go"),
        (["-o", "-"], "only text"),
        (["--engine", "-"], "only text"),
        (["--extract", "-"], "only text"),
    ],
)
def test_what_does_not_go_to_standard_output(model: Path, words: list[str], said: str, capsys: Printed) -> None:
    assert main([str(model), *words]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in model.parent.iterdir()) == ["model.onnx"]


# --- modes -----------------------------------------------------------------------------------------------


def run(*words: str, mask: int = 0o022, **options: object) -> subprocess.CompletedProcess[str]:
    def prepare() -> None:
        os.umask(mask)
        if options.get("powerless"):
            give_up_power()

    command = [sys.executable, "-m", "alibi_rewriter", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=prepare)


def give_up_power() -> None:
    """Root from now on reads and enters only what its modes allow, as everybody else does."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; dropped from the bounding set
            if libc.prctl(24, capability, 0, 0, 0) != 0:
                os._exit(77)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("mask", "own", "wanted"),
    [(0o022, 0o644, 0o644), (0o002, 0o664, 0o664), (0o077, 0o644, 0o600), (0o022, 0o600, 0o600), (0o022, 0o640, 0o640)],
)
def test_outputs_are_as_private_as_umask_and_model(model: Path, mask: int, own: int, wanted: int) -> None:
    model.chmod(own)
    folder = model.parent
    words = [str(model), "--no-verify", "--json", str(folder / "r.json"), "--report", str(folder / "r.html")]
    done = run(*words, "--extract", str(folder / "parts"), mask=mask)
    assert done.returncode == 0, done.stderr
    made = [folder / "model.alibi.onnx", folder / "r.json", folder / "r.html", *(folder / "parts").iterdir()]
    assert {p.name: oct(mode(p)) for p in made} == {p.name: oct(wanted) for p in made}


def test_an_output_that_is_there_keeps_its_mode(model: Path) -> None:
    target = model.with_name("out.onnx")
    target.write_bytes(b"old")
    target.chmod(0o604)
    rewrite(model, target, options=Options(verify=False))
    assert mode(target) == 0o604
    assert onnx.load(target).functions


@pytest.mark.parametrize("closed", ["model", "output", "report", "inputs"])
def test_folders_that_may_not_be_entered(model: Path, closed: str) -> None:
    """The error is one line, whichever user is not let in."""
    folder = model.parent / "closed"
    folder.mkdir()
    inside = folder / "file"
    np.savez(folder / "file.npz", x=np.zeros(1))
    inside.write_bytes(model.read_bytes())
    words = {
        "model": [str(inside)],
        "output": [str(model), "-o", str(folder / "out.onnx")],
        "report": [str(model), "--json", str(folder / "out.json")],
        "inputs": [str(model), "--inputs", str(folder / "file.npz")],
    }[closed]
    folder.chmod(0o600)
    try:
        done = run(*words, powerless=True)
    finally:
        folder.chmod(0o700)
    if done.returncode == 77:
        pytest.skip("root cannot give up its power here")
    assert done.returncode == (7 if closed == "model" else 2), done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert "closed" in done.stderr and "internal" not in done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["file", "file.npz"]


# --- names that are no UTF-8 -----------------------------------------------------------------------------


def strange(folder: Path) -> Path:
    """A folder whose name holds a byte of Latin-1."""
    found = folder / os.fsdecode(b"mod\xe8les")
    found.mkdir()
    return found


@pytest.mark.parametrize("data", [False, True], ids=["one file", "external data"])
def test_a_folder_whose_name_is_no_utf8(tmp_path: Path, data: bool, capsys: Printed) -> None:
    folder = strange(tmp_path)
    made = read("forms/linear_causal")
    if data:
        made.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"]))
        made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 4, "S", 64]))
        weights = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
        made.graph.initializer[-1].data_location = TensorProto.EXTERNAL
        made.graph.initializer[-1].ClearField("raw_data")
        made.graph.initializer[-1].external_data.append(onnx.StringStringEntryProto(key="location", value="w.bin"))
        (folder / "w.bin").write_bytes(weights.tobytes())
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    page, report = folder / "page.html", folder / "r.json"
    words = [str(folder / "model.onnx"), "--report", str(page), "--json", str(report), "--explain"]
    assert main([*words, "--extract", str(folder / "parts")]) == 0
    printed = capsys.readouterr()
    assert "verification passed" in printed.out and printed.err == ""
    assert "mod\\xe8les" in printed.out
    assert "mod" in page.read_text(encoding="utf-8")
    assert json.loads(report.read_text(encoding="utf-8"))["verification"]["status"] == "passed"
    assert main([*words, "--verify-sites"]) == 0


def test_tensorrt_gets_no_names_that_are_no_utf8(tmp_path: Path, capsys: Printed) -> None:
    folder = strange(tmp_path)
    model = folder / "model.onnx"
    onnx.save(read("forms/linear_causal"), tmp_path / "model.onnx")
    (tmp_path / "model.onnx").rename(model)
    assert main([str(model), "--no-verify", "--engine"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "no UTF-8" in said and len(said.splitlines()) == 1
    assert [p.name for p in folder.iterdir()] == ["model.onnx"]
