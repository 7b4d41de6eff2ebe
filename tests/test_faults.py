"""Faults from outside: killed, disk full, folder read-only, two at once -- the target is old or new, never between."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.rewriter import staging
from alibi_rewriter.rewriter.errors import ExitCode, UsageError
from alibi_rewriter.rewriter.pipeline import Options, rewrite
from alibi_rewriter.rewriter.staging import Staged, copy_bytes, remove_leftovers, save
from onnx import TensorProto, helper
from textgraphs import read

posix = pytest.mark.skipif(os.name != "posix", reason="signals, locks and limits as on POSIX")
QUICK = Options(verify=False)


def with_weights(folder: Path, size: int) -> Path:
    """A model with one data file of random bytes."""
    folder.mkdir(exist_ok=True)
    made = read("accept_linear_causal")
    tensor = TensorProto(name="w", data_type=1, dims=[8, size // 32], data_location=TensorProto.EXTERNAL)
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="weights.bin"))
    made.graph.initializer.append(tensor)
    made.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"]))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    (folder / "weights.bin").write_bytes(np.random.default_rng(0).bytes(size))
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


LOOP = """
import sys
from alibi_rewriter import Options, rewrite
print("ready", flush=True)
while True:
    rewrite(sys.argv[1], sys.argv[2], options=Options(verify=False))
"""


@posix
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """After every kill the target is absent or complete; the next run is not disturbed and cleans up."""
    source = with_weights(tmp_path / "in", 8 << 20)
    out = tmp_path / "out"
    out.mkdir()
    target = out / "model.onnx"
    rewrite(source, target, options=QUICK)
    whole = {p.name: digest(p) for p in out.iterdir()}
    assert sorted(whole) == ["model.onnx", "weights.bin"]
    rng = random.Random(3)
    for _ in range(5):
        for path in out.iterdir():
            if not path.name.startswith("."):
                path.unlink()
        process = subprocess.Popen([sys.executable, "-c", LOOP, str(source), str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in out.iterdir():
            if not path.name.startswith("."):
                assert digest(path) == whole[path.name]
        if target.exists():
            assert (out / "weights.bin").exists()  # the data come first
    assert rewrite(source, target, options=QUICK).exit_code is ExitCode.DONE
    assert {p.name: digest(p) for p in out.iterdir()} == whole


@posix
def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    dead = tmp_path / f".out.onnx.abc{staging.SUFFIX}"
    dead.write_bytes(b"half")
    other = tmp_path / f".other.onnx.abc{staging.SUFFIX}"
    other.write_bytes(b"somebody's")
    model = read("accept_linear")
    with Staged(model, target, None) as living:
        assert not dead.exists() and other.exists()
        remove_leftovers(target)
        assert living.path.exists()
        save(model, target, None)  # another run on the same target
        assert living.path.exists()
        living.commit()
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "out.onnx"]


@posix
@pytest.mark.parametrize("limit", [0, 10, 1000, 100_000])
def test_disk_full(tmp_path: Path, limit: int) -> None:
    """A file size limit stands for a full disk: one clear error, the old target is kept, no litter."""
    source = with_weights(tmp_path / "in", 1 << 20)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_bytes(b"the old one")
    code = (
        "import resource, signal, sys; from alibi_rewriter.cli import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-B", "-c", code, str(source), "-o", str(out / "model.onnx"), "--no-verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "cannot be written" in done.stderr and len(done.stderr.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {"model.onnx": b"the old one"}


def test_too_little_room_for_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is copied."""
    source = with_weights(tmp_path / "in", 1 << 20)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    monkeypatch.setattr(staging, "copy_bytes", None)
    with pytest.raises(UsageError, match="1 MiB of data files"):
        rewrite(source, tmp_path / "out" / "model.onnx", options=QUICK)
    assert list((tmp_path / "out").iterdir()) == []


@posix
def test_two_runs_on_one_target(tmp_path: Path) -> None:
    """Both end well, and the target is what each of them alone would have written."""
    source = with_weights(tmp_path / "in", 32 << 20)
    out = tmp_path / "out"
    out.mkdir()
    target = out / "model.onnx"
    command = [sys.executable, "-m", "alibi_rewriter", str(source), "-o", str(target), "--no-verify"]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for run in runs:
        _, error = run.communicate()
        assert run.returncode == 0, error.decode()
    assert sorted(p.name for p in out.iterdir()) == ["model.onnx", "weights.bin"]
    assert digest(out / "weights.bin") == digest(tmp_path / "in" / "weights.bin")
    alone = tmp_path / "alone"
    alone.mkdir()
    rewrite(source, alone / "model.onnx", options=QUICK)
    assert digest(alone / "model.onnx") == digest(target)


def test_again_into_the_same_folder(tmp_path: Path) -> None:
    """The data file of an earlier run has the right bytes: it is used, not in the way."""
    source = with_weights(tmp_path / "in", 1 << 20)
    out = tmp_path / "out"
    out.mkdir()
    rewrite(source, out / "model.onnx", options=QUICK)
    stamp = (out / "weights.bin").stat()
    assert rewrite(source, out / "model.onnx", options=QUICK).exit_code is ExitCode.DONE
    assert (out / "weights.bin").stat().st_mtime_ns == stamp.st_mtime_ns


def test_own_copies_of_the_data(tmp_path: Path) -> None:
    """``copy_data``: the output stands alone, even in the original's folder."""
    source = with_weights(tmp_path, 1 << 20)
    result = rewrite(source, options=Options(copy_data=True))
    assert result.exit_code is ExitCode.DONE
    assert result.verification is not None and result.verification.passed
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["model.alibi.onnx", "model.alibi.onnx.data", "model.onnx", "weights.bin"]
    (tmp_path / "weights.bin").unlink()
    written = onnx.load(tmp_path / "model.alibi.onnx")
    assert len(next(t for t in written.graph.initializer if t.name == "w").raw_data) == 1 << 20


def test_a_failed_verification_takes_copies_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = with_weights(tmp_path, 1 << 20)
    failed = type("Failed", (), {"status": "failed", "notes": ()})()
    monkeypatch.setattr("alibi_rewriter.rewriter.pipeline.verify", lambda *_, **__: failed)
    result = rewrite(source, options=Options(copy_data=True))
    assert result.exit_code is ExitCode.VERIFICATION_FAILED
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "weights.bin"]


def test_weights_are_copied_once_and_only_after_the_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_weights(tmp_path / "in", 1 << 20)
    out = tmp_path / "out"
    out.mkdir()
    copied: list[Path] = []
    seen: list[int] = []

    def counting(data: Path, target: Path, tell: object = None) -> None:
        copied.append(data)
        copy_bytes(data, target)

    from alibi_rewriter.rewriter import pipeline

    real = pipeline.verify
    monkeypatch.setattr(staging, "copy_bytes", counting)
    monkeypatch.setattr(pipeline, "verify", lambda *a, **k: (seen.append(len(copied)), real(*a, **k))[1])
    result = rewrite(source, out / "model.onnx")
    assert result.verification is not None and result.verification.passed
    assert (len(copied), seen) == (1, [0])


HASHES = """
import hashlib, sys
from pathlib import Path
from alibi_rewriter import Options, rewrite
for path in sys.argv[1:]:
    result = rewrite(path, Path(path).with_suffix(".out"), options=Options(verify=False))
    print(hashlib.sha256(Path(path).with_suffix(".out").read_bytes()).hexdigest())
"""


@posix
def test_same_bytes_whatever_locale_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(read("accept_key_positions"), path)
    other = tmp_path / "naïve folder"
    other.mkdir()
    said = set()
    for language, folder, seed in (("C", tmp_path, "1"), ("de_DE.UTF-8", other, "2"), ("tr_TR.UTF-8", Path("/"), "3")):
        environment = {**os.environ, "LC_ALL": language, "LANG": language, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}
        command = [sys.executable, "-c", HASHES, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder)
        said.add(done.stdout)
    assert len(said) == 1
