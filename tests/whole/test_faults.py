"""Faults from outside: killed, disk full, folder read-only, two at once.  The target is old or new, never between."""

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
from alibi_rewriter.base import hidden
from alibi_rewriter.base.errors import ExitCode, UsageError
from alibi_rewriter.base.hidden import remove_leftovers
from alibi_rewriter.base.writing import write_file
from alibi_rewriter.graph import save as staging
from alibi_rewriter.graph.save import Staged, copy_bytes, save
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from onnx import TensorProto, helper
from textgraphs import read

if os.name == "posix":
    import fcntl

posix = pytest.mark.skipif(os.name != "posix", reason="signals, locks and limits as on POSIX")
QUICK = Options(verify=False)


def with_weights(folder: Path, size: int) -> Path:
    """A model with one data file of random bytes."""
    folder.mkdir(exist_ok=True)
    made = read("forms/linear_causal")
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
import signal, sys
from pathlib import Path
from alibi_rewriter import Options, rewrite
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background start with it ignored
rewrite(sys.argv[1], sys.argv[2], options=Options(verify=False))  # imports what it needs
print("ready", flush=True)
while True:
    for name in sys.argv[3:]:
        Path(sys.argv[2]).with_name(name).unlink(missing_ok=True)
    rewrite(sys.argv[1], sys.argv[2], options=Options(verify=False))
"""
"""Rewrites again and again, after removing the files that are named, so that there is much to write each time."""

MOST_KILLS = 60


def hidden_of(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@posix
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """After every kill the target is absent or complete; the next run is not disturbed and cleans up."""
    source = with_weights(tmp_path / "in", 64 << 20)
    out = tmp_path / "out"
    out.mkdir()
    target = out / "model.onnx"
    rewrite(source, target, options=QUICK)
    whole = {p.name: digest(p) for p in out.iterdir()}
    assert sorted(whole) == ["model.onnx", "weights.bin"]
    rng = random.Random(3)
    kills = left = 0
    while kills < 6 or (not left and kills < MOST_KILLS):
        kills += 1
        command = [sys.executable, "-c", LOOP, str(source), str(target), *whole]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        left += len(hidden_of(out))
        for path in out.iterdir():
            if not path.name.startswith("."):
                assert digest(path) == whole[path.name]
        if target.exists():
            assert (out / "weights.bin").exists()  # the data come first
    assert left, "not one kill left anything: the moments are badly chosen"
    assert rewrite(source, target, options=QUICK).exit_code is ExitCode.DONE
    assert {p.name: digest(p) for p in out.iterdir()} == whole


WRITE = """
import sys
from pathlib import Path
from alibi_rewriter.base.writing import write_file
print("ready", flush=True)
for number in range(10**9):
    write_file(Path(sys.argv[1]), bytes([number % 251]) * (4 << 20), "--json")
"""


@posix
def test_a_report_is_killed_at_random_moments(tmp_path: Path) -> None:
    """Reports, pages, subgraphs, attached kernels and libraries are written the same way: old or new, and no litter."""
    target = tmp_path / "report.json"
    rng = random.Random(4)
    kills = left = 0
    while kills < 6 or (not left and kills < MOST_KILLS):
        kills += 1
        process = subprocess.Popen([sys.executable, "-c", WRITE, str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if target.exists():
            content = target.read_bytes()
            assert len(content) == 4 << 20 and set(content) == {content[0]}
        left += len(hidden_of(tmp_path))
    assert left, "not one kill left anything: the moments are badly chosen"
    write_file(target, b"whole", "--json")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert target.read_bytes() == b"whole"


@posix
def test_temporary_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    """The verification keeps float32 clones of weights in a temporary folder.  The next run removes what was left."""
    source = with_weights(tmp_path, 1 << 20)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "alibi_rewriter", str(source), "-o", str(tmp_path / "out.onnx")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(".alibi-" in p.name for p in scratch.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(".alibi-" in name for name in hidden_of(scratch))
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert not any("alibi" in p.name for p in scratch.iterdir())  # onnxruntime leaves something of its own
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "out.onnx", "scratch", "weights.bin"]


@posix
def test_runs_that_are_killed_beside_runs_that_are_not(tmp_path: Path) -> None:
    """No hidden file is taken from under a living run, and in the end all outputs are there and nothing else."""
    source = with_weights(tmp_path / "in", 8 << 20)
    out = tmp_path / "out"
    out.mkdir()
    target = out / "model.onnx"
    command = [sys.executable, "-c", LOOP, str(source), str(target)]
    rng = random.Random(5)
    living = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(3):
        doomed = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert doomed.stdout is not None
        doomed.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.2))
        doomed.send_signal(signal.SIGKILL)
        doomed.wait()
        assert living.poll() is None, living.communicate()[1].decode()
    living.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in living.communicate(timeout=60)[1].decode()
    rewrite(source, target, options=QUICK)
    assert sorted(p.name for p in out.iterdir()) == ["model.onnx", "weights.bin"]
    assert digest(out / "weights.bin") == digest(tmp_path / "in" / "weights.bin")
    onnx.load(target)


def hidden_name(target: str, pid: int, mark: str) -> str:
    return f".{target}.alibi-{pid}-{mark}-{'0' * 16}.partial"


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="when a process began is read from /proc")
def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    own, dead = os.getpid(), a_dead_process()
    mark = hidden.process_mark(own)
    assert mark is not None
    removed = [
        tmp_path / hidden_name("out.onnx", dead, mark),
        tmp_path / hidden_name("out.onnx", own, "0123456789ab"),  # the number is in use again
    ]
    for path in removed:
        path.write_bytes(b"half")
    kept = {
        "somebody's": tmp_path / ".out.onnx.abc.partial",
        "somebody's too": tmp_path / f".out.onnx.alibi-{dead}-{mark}.partial",
        "another target's": tmp_path / hidden_name("out.onnx.data", dead, mark),
        "of the living": tmp_path / hidden_name("out.onnx", own, mark),
        "locked": tmp_path / hidden_name("out.onnx", dead, "ab"),
    }
    for what, path in kept.items():
        path.write_bytes(what.encode())
    folder = tmp_path / hidden_name("out.onnx", dead, "cd")
    folder.mkdir()
    (folder / "engine.plan").write_bytes(b"half")
    user = tmp_path / "user"
    user.mkdir()
    (user / "precious").write_bytes(b"precious")
    (folder / "link").symlink_to(user)
    links = [tmp_path / hidden_name("out.onnx", dead, n) for n in ("11", "12", "13")]
    links[0].symlink_to(user / "precious")
    links[1].symlink_to(user)
    os.mkfifo(links[2])
    model = read("forms/linear")
    with kept["locked"].open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with Staged(model, target, None) as living:
            remove_leftovers(target)
            assert living.path.exists()
            save(model, target, None)  # another run on the same target
            assert living.path.exists()
            living.commit()
    assert not any(p.exists() for p in (*removed, folder))
    assert all(path.read_bytes() == what.encode() for what, path in kept.items())
    assert (user / "precious").read_bytes() == b"precious"
    assert links[0].is_symlink() and links[1].is_symlink() and links[2].is_fifo()
    assert target.is_file()


@posix
@pytest.mark.parametrize("length", [30, 160, 161, 250])
def test_names_of_any_length(tmp_path: Path, length: int) -> None:
    """A hidden name is longer than the target's, and a file name has a limit; names that begin alike are told apart."""
    path = tmp_path / "model.onnx"
    onnx.save(read("forms/linear"), path)
    targets = [tmp_path / f"{'ä' * ((length - 6) // 2)}{end}.onnx" for end in "ab"]
    with Staged(read("forms/linear"), targets[0], None) as first:
        assert rewrite(path, targets[1], options=QUICK).exit_code is ExitCode.DONE
        assert first.path.exists()
        first.commit()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (*targets, path))


def test_all_data_files_are_there_before_the_first_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_weights(tmp_path / "in", 1 << 20)
    made = onnx.load(source, load_external_data=False)
    tensor = TensorProto()
    tensor.CopyFrom(made.graph.initializer[-1])
    tensor.name, tensor.external_data[0].value = "other", "other.bin"
    made.graph.initializer.append(tensor)
    (tmp_path / "in" / "other.bin").write_bytes(bytes(1 << 20))
    source.write_bytes(made.SerializeToString())
    out = tmp_path / "out"
    out.mkdir()
    seen: list[list[str]] = []

    def watching(data: Path, target: Path, tell: object = None) -> None:
        copy_bytes(data, target)
        seen.append([p.name for p in out.iterdir() if not p.name.startswith(".")])

    monkeypatch.setattr(staging, "copy_bytes", watching)
    rewrite(source, out / "model.onnx", options=QUICK)
    assert seen == [[], []]
    assert sorted(p.name for p in out.iterdir()) == ["model.onnx", "other.bin", "weights.bin"]


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
    monkeypatch.setattr("alibi_rewriter.rewriter.compared.verify", lambda *_, **__: failed)
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

    from alibi_rewriter.rewriter import compared

    real = compared.verify
    monkeypatch.setattr(staging, "copy_bytes", counting)
    monkeypatch.setattr(compared, "verify", lambda *a, **k: (seen.append(len(copied)), real(*a, **k))[1])
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
    onnx.save(read("positions/counted"), path)
    other = tmp_path / "naïve folder"
    other.mkdir()
    said = set()
    for language, folder, seed in (("C", tmp_path, "1"), ("de_DE.UTF-8", other, "2"), ("tr_TR.UTF-8", Path("/"), "3")):
        environment = {**os.environ, "LC_ALL": language, "LANG": language, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}
        command = [sys.executable, "-c", HASHES, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder)
        said.add(done.stdout)
    assert len(said) == 1
