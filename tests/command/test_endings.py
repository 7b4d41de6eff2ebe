"""How runs end: what is said is what was done, what can be checked is checked first, and words in any order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from alibi_rewriter import running
from alibi_rewriter.base.errors import EngineFailed, ExitCode, MissingDependency
from alibi_rewriter.cli import main
from alibi_rewriter.engine import build, command
from alibi_rewriter.rewriter import pipeline
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from onnx import TensorProto, helper
from textgraphs import read

pytest.importorskip("onnxruntime")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors as on POSIX")

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(read("forms/linear_causal"), path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- unverified ------------------------------------------------------------------------------------------


def embedding(path: Path) -> Path:
    """Ids into a table of 16 rows, in front of an attention."""
    made = read("forms/linear_causal")
    table = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    for node in made.graph.node:
        node.input[:] = ["looked_up" if i == "q" else i for i in node.input]
    made.graph.node.insert(0, helper.make_node("Gather", ["table", "ids"], ["looked_up"]))
    q = next(i for i in made.graph.input if i.name == "q")
    q.CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, [d.dim_param or d.dim_value for d in dims(q)]))
    onnx.save(made, path)
    return path


def dims(value: onnx.ValueInfoProto) -> list[Any]:
    return list(value.type.tensor_type.shape.dim)[:3]


def test_what_could_not_be_compared_is_not_written(tmp_path: Path, capsys: Printed) -> None:
    path, report = embedding(tmp_path / "m.onnx"), tmp_path / "r.json"
    words = [
        str(path),
        "--val-range",
        "ids:[100,100000000]",
        "--json",
        str(report),
        "--report",
        str(tmp_path / "p.html"),
    ]
    assert main(words) == ExitCode.NOT_VERIFIED == 8
    out = capsys.readouterr().out
    last = out.splitlines()[-2]
    assert last.startswith("NOT written: it could not be verified (exit 8).") and "--val-range" in last
    assert json.loads(report.read_text())["exit_code"] == 8
    assert "class='verdict bad'" in (tmp_path / "p.html").read_text()
    assert names(tmp_path) == ["m.onnx", "p.html", "r.json"]
    # The cure works, and so does asking for it.
    assert main([str(path), "--val-range", "ids:[0,15]"]) == 0
    assert main([str(path), "--val-range", "ids:[100,100000000]", "--no-verify", "-o", str(tmp_path / "u.onnx")]) == 0
    assert "verification: not run" in capsys.readouterr().out


def test_the_python_interface_says_so_too(tmp_path: Path) -> None:
    result = rewrite(embedding(tmp_path / "m.onnx"), options=Options(val_ranges={"ids": (100, 10**8)}))
    assert result.exit_code is ExitCode.NOT_VERIFIED
    assert result.output is None and result.model is not None
    assert names(tmp_path) == ["m.onnx"]


def test_rewritten_already(model: Path, capsys: Printed) -> None:
    assert main([str(model), "--no-verify"]) == 0
    capsys.readouterr()
    assert main([str(model.with_name("model.alibi.onnx"))]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing was written: rewritten already (1 fused node)")
    assert names(model.parent) == ["model.alibi.onnx", "model.onnx"]


# --- what was written ------------------------------------------------------------------------------------


def test_an_interrupt_while_the_engine_is_built(model: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "check_request", lambda *_, **__: None)
    monkeypatch.setattr(build, "build_engine", interrupted)
    assert main([str(model), "--no-verify", "--engine"]) == 130
    said = capsys.readouterr().err.splitlines()
    assert said == [f"interrupted; written: {model.with_name('model.alibi.onnx')}"]


def test_an_interrupt_before_anything_is_written(model: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    model.with_name("model.alibi.onnx").write_bytes(b"of an earlier run")
    monkeypatch.setattr(pipeline, "apply", interrupted)
    assert main([str(model), "--no-verify"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"


def test_a_disk_that_is_full_after_the_model(model: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "write_text", full)
    assert main([str(model), "--no-verify", "--json", str(model.parent / "r.json")]) != 0
    said = capsys.readouterr().err
    assert f"ritten: {model.with_name('model.alibi.onnx')}" in said and "Nothing was written" not in said


INTERRUPT = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
from alibi_rewriter import entry
sys.meta_path.insert(0, Interrupting())
sys.argv = ["rewrite", {model!r}]
sys.exit(entry.main())
"""


@posix
@pytest.mark.parametrize(
    "name", ["alibi_rewriter.cli", "argparse", "alibi_rewriter.rewriter.pipeline", "numpy", "onnx"]
)
def test_an_interrupt_while_modules_are_imported(model: Path, name: str) -> None:
    """The first moments, in which Ctrl-C used to end in a traceback."""
    code = INTERRUPT.format(name=name, model=str(model))
    prepare = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - ignored in the background
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, preexec_fn=prepare)
    assert run.returncode == 130
    assert run.stderr == "interrupted; nothing was written\n"
    assert names(model.parent) == ["model.onnx"]


# --- standard output and error ---------------------------------------------------------------------------


def shell(text: str, model: Path) -> subprocess.CompletedProcess[str]:
    line = text.replace("REWRITE", f"{sys.executable} -m alibi_rewriter").replace("MODEL", str(model))
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, cwd=model.parent)


@posix
@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("REWRITE MODEL --no-verify > /dev/full", 2, "standard output cannot be written: No space left on device"),
        ("REWRITE MODEL --no-verify --json - > /dev/full", 2, "standard output cannot be written: No space left"),
        ("REWRITE MODEL --no-verify >&-", 2, "standard output is closed"),
        ("REWRITE doctor > /dev/full", 2, "standard output cannot be written: No space left on device"),
        ("REWRITE MODEL --no-verify 2> /dev/full", 0, ""),
        ("REWRITE MODEL --no-verify 2>&-", 0, ""),
        ("REWRITE MODEL --no-verify <&- 2>&-", 0, ""),
        ("REWRITE MODEL --no-verify -o no/where.onnx 2> /dev/full", 2, ""),
    ],
)
def test_streams_that_are_full_or_closed(model: Path, text: str, code: int, said: str) -> None:
    done = shell(text, model)
    assert done.returncode == code, done.stderr
    written = model.with_name("model.alibi.onnx")
    if said:
        assert [said in line for line in done.stderr.splitlines() if line.startswith("error: ")] == [True]
        assert not [line for line in done.stderr.splitlines() if line.startswith(("Traceback", "Exception"))]
        assert ("doctor" in text) or f"written: {written.name}" in done.stderr.replace(f"{model.parent}/", "")
    if "where" not in text and "doctor" not in text:
        assert onnx.load(written).functions, "and nothing that was printed is in the model"
    assert set(names(model.parent)) <= {"model.onnx", "model.alibi.onnx"}


# --- checked first ---------------------------------------------------------------------------------------


def test_a_site_that_is_not_there(model: Path, capsys: Printed) -> None:
    assert main([str(model), "--site", "foo", "--explain"]) == ExitCode.USAGE
    assert "matches no attention site. There are: '" in capsys.readouterr().err
    assert names(model.parent) == ["model.onnx"]


@pytest.mark.parametrize(
    ("words", "failure", "code", "said"),
    [
        (["--min-shapes", "ids:1x2"], None, 2, "no input 'ids'"),
        (["--opt-shapes", "q:1x2"], None, 2, "has rank 4, not 2"),
        (["--max-shapes", "q:1x4x8x8,k:1x4x9x8,v:1x4x7x8"], None, 2, "contradict each other"),
        ([], MissingDependency("no TensorRT is installed"), 2, "no TensorRT"),
        ([], EngineFailed("too old"), 5, "too old"),
    ],
)
def test_what_an_engine_needs_is_checked_before_the_rewrite(
    model: Path, words: list[str], failure: Exception | None, code: int, said: str, capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def choose(*_: object, **__: object) -> None:
        if failure is not None:
            raise failure

    monkeypatch.setattr(build, "choose", choose)
    monkeypatch.setattr(pipeline, "apply", lambda *_: pytest.fail("it was rewritten"))
    assert main([str(model), "--strategy", "native", "--engine", *words]) == code
    assert said in capsys.readouterr().err
    assert names(model.parent) == ["model.onnx"]


def test_a_library_that_is_missing_is_noticed_before_the_rewrite(
    model: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(build, "library_path", lambda: None)
    assert main([str(model), "--no-verify", "--engine"]) == ExitCode.PLUGIN_NOT_USED
    assert names(model.parent) == ["model.onnx"]


@pytest.mark.parametrize(
    "words",
    [
        ["--backend", "tensorrt"],
        ["--strategy", "native"],
        ["--target", "sm_80"],
        ["--min-shapes", "q:1x4x8x8"],
        ["--maxShapes", "q:1x4x8x8"],
        ["--embed-plugin", "no"],
        ["--skip"],
    ],
)
def test_options_of_an_engine_that_nobody_asked_for(model: Path, words: list[str], capsys: Printed) -> None:
    assert main([str(model), *words]) == ExitCode.USAGE
    assert "Give it with --engine" in capsys.readouterr().err
    assert names(model.parent) == ["model.onnx"]


def test_the_report_says_what_the_process_returned(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise EngineFailed("no luck")

    monkeypatch.setattr(build, "check_request", lambda *_, **__: None)
    monkeypatch.setattr(build, "build_engine", fails)
    report = model.parent / "r.json"
    assert main([str(model), "--no-verify", "--engine", "--json", str(report)]) == ExitCode.ENGINE_FAILED
    assert json.loads(report.read_text())["exit_code"] == 5


# --- words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--no-verify", "--val-range", "q:[0,1]", "MODEL"],
        ["--val-range", "q:[0,1]", "k:[0,1]", "MODEL", "--no-verify"],
        ["--no-verify", "MODEL"],
    ],
)
def test_the_model_behind_values(model: Path, words: list[str]) -> None:
    assert main([str(model) if w == "MODEL" else w for w in words]) == 0
    assert names(model.parent) == ["model.alibi.onnx", "model.onnx"]


@pytest.mark.parametrize(
    "words", [["--no-verify", "--engine", "MODEL"], ["--engine", "--no-verify", "--min-shapes", "q:1x4x1x8", "MODEL"]]
)
def test_the_model_behind_engine(model: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def carry_out(self: command.EngineRequest, result: object) -> command.EngineOutcome:
        asked.append((self.engine, dict(self.options.shapes["min"])))
        return command.EngineOutcome()

    monkeypatch.setattr(command.EngineRequest, "check", lambda *_: None)
    monkeypatch.setattr(command.EngineRequest, "carry_out", carry_out)
    assert main([str(model) if w == "MODEL" else w for w in words]) == 0
    assert asked == [(Path(), {"q": (1, 4, 1, 8)} if "--min-shapes" in words else {})]
    assert names(model.parent) == ["model.alibi.onnx", "model.onnx"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "MODEL is missing"),
        (["--engine"], "MODEL is missing"),
        (["--val-range", "q:[0,1]"], "MODEL is missing"),
        (["doctr"], "Did you mean: rewrite doctor?"),
        (["explian", "x.onnx"], "Did you mean: rewrite explain?"),
        (["complation"], "Did you mean: rewrite completion?"),
        (["absent.onnx"], "is not a file"),
    ],
)
def test_words_that_are_wrong(words: list[str], said: str, capsys: Printed) -> None:
    assert main(words) == (7 if said == "is not a file" else 2)
    assert said in capsys.readouterr().err


def test_shapes_of_an_engine_are_about_the_file_that_is_written(model: Path, capsys: Printed) -> None:
    words = [str(model), "--cache", "in-place", "--engine", "--max-shapes", "q:1x4x8x8"]
    assert main(words) == 2
    assert "--cache in-place changes the inputs that shapes are about" in capsys.readouterr().err
    assert names(model.parent) == ["model.onnx"]


@pytest.mark.parametrize("word", ["in place", "in-place=0", "static"])
def test_words_of_the_cache_that_are_wrong(model: Path, word: str, capsys: Printed) -> None:
    assert main([str(model), "--cache", word]) == 2
    assert f"--cache: the cache is '{word}', which is neither grows nor in-place" in capsys.readouterr().err


# --- archives of inputs ----------------------------------------------------------------------------------


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(bytes(content))


def member(name: str, content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    return change


def huge(path: Path) -> None:
    """A header that declares 2**40 numbers, and a few bytes."""
    import zipfile

    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("q.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))


HEAD = b"\x93NUMPY\x01\x00\x36\x00"
STRANGE: dict[str, Callable[[Path], None]] = {
    "damaged": damaged,
    "no array": member("q.npy", b"nothing of the kind"),
    "a text": member("notes.txt", b"hello"),
    "empty": member("q.npy", b""),
    "a dtype that is none": member(
        "q.npy", b"\x93NUMPY\x01\x00\x36\x00" + b"{'descr': 'zz', 'shape': (1,)}".ljust(53) + b"\n"
    ),
    "a header that is code": member(
        "q.npy", b"\x93NUMPY\x01\x00\x36\x00" + b"__import__('os').abort()".ljust(53) + b"\n"
    ),
    "a record": lambda path: np.savez(path, q=np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])),
    "text in place of numbers": lambda path: np.savez(path, q=np.array(["a", "b"])),
    "times": lambda path: np.savez(path, q=np.zeros((1, 4, 2, 8), "M8[s]"), k=np.zeros(1), v=np.zeros(1)),
    "more than there is memory": huge,
}


@pytest.mark.parametrize("what", STRANGE)
def test_archives_with_strange_members(model: Path, what: str, capsys: Printed) -> None:
    path = model.parent / "inputs.npz"
    np.savez(path, q=np.zeros((1, 4, 2, 8), np.float32))
    STRANGE[what](path)
    assert main([str(model), "--inputs", str(path)]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "inputs.npz" in said and "internal" not in said
    assert names(model.parent) == ["inputs.npz", "model.onnx"]
