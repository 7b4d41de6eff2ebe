"""Nothing beside a downloaded model is executed, neither by the command nor by the children that it starts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from alibi_rewriter.base import isolation
from alibi_rewriter.base.errors import AlibiError
from alibi_rewriter.engine import attach, backends
from alibi_rewriter.kernels.compile.compiler import CompileError, Worker

ROOT = Path(__file__).parents[2]
HAS_TRITON = importlib.util.find_spec("triton") is not None
NAMES = (
    "triton", "ctypes", "tensorrt_rtx", "tensorrt", "onnx", "onnxruntime", "numpy", "json", "resource", "google",
    "importlib", "sitecustomize", "usercustomize", "alibi_rewriter", "engine", "kernels", "launcher", "isolation",
)  # fmt: skip
"""What a child imports, and what might be looked for when a Python starts."""

HIJACK = """
import importlib, os, sys
here = os.path.dirname(os.path.abspath(__file__))
here = os.path.dirname(here) if os.path.basename(__file__) == "__init__.py" else here
open(os.path.join(here, "ran-" + __name__), "a").close()
# Steps aside, so that whatever would be hijacked next is seen, too.
path, sys.path[:] = list(sys.path), [p for p in sys.path if os.path.realpath(p or ".") != os.path.realpath(here)]
del sys.modules[__name__]
try:
    importlib.import_module(__name__)
finally:
    sys.path[:] = path
"""


def downloads(folder: Path) -> Path:
    """A folder with a model and modules that leave a mark when they are executed."""
    folder.mkdir()
    shutil.copy(ROOT / "examples" / "bloom-tiny.onnx", folder / "model.onnx")
    for name in NAMES:
        if name in ("alibi_rewriter", "google"):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(HIJACK)
        else:
            (folder / f"{name}.py").write_text(HIJACK)
    return folder


def marks(folder: Path) -> list[str]:
    return sorted(p.name.removeprefix("ran-") for p in folder.glob("ran-*"))


def test_the_marks_work(tmp_path: Path) -> None:
    """Without this no test here could fail.  A Python that starts the ordinary way executes what lies there."""
    folder = downloads(tmp_path / "downloads")
    subprocess.run([sys.executable, "-c", "import numpy, alibi_rewriter"], cwd=folder, capture_output=True, check=False)
    assert {"numpy", "alibi_rewriter"} <= set(marks(folder))


def probe(name: str) -> None:
    with contextlib.suppress(AlibiError):  # not installed here
        backends.probe(name)


def compile_kernel() -> None:
    if not HAS_TRITON:
        pytest.skip("needs Triton")
    with Worker() as worker, pytest.raises(CompileError, match="KeyError"):
        worker.compile({"role": "none", "arch": 80})  # answered by the worker: it has imported Triton


CHILDREN = {
    "probe of TensorRT-RTX": lambda: probe("tensorrt-rtx"),
    "probe of TensorRT": lambda: probe("tensorrt"),
    "compiler of kernels": compile_kernel,
}


@pytest.mark.parametrize("empty", [True, False], ids=["PYTHONPATH with an empty entry", "no PYTHONPATH"])
@pytest.mark.parametrize("child", CHILDREN)
def test_children_run_nothing_of_the_working_folder(
    child: str, empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = downloads(tmp_path / "downloads")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep if empty else str(tmp_path))
    monkeypatch.setattr(sys, "path", ["", str(folder), *sys.path] if empty else ["", *sys.path])
    CHILDREN[child]()
    assert marks(folder) == []


@pytest.mark.parametrize("safe", [True, False], ids=["with -P", "without -P, as before Python 3.11"])
def test_the_launcher_alone_is_enough(safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own folder, which Python puts first, holds ``isolation``, ``writing`` and other general names."""
    folder = downloads(tmp_path / "downloads")
    package = tmp_path / "copy" / "alibi_rewriter"
    shutil.copytree(ROOT, package, ignore=shutil.ignore_patterns(".*", "tests", "build", "docs", "benchmarks"))
    for name in ("json", "importlib"):
        (package / "base" / f"{name}.py").write_text("raise SystemExit('hijacked')")
    (package / "shown.py").write_text("import json, sys\ndef main():\n    print(json.dumps([__file__, sys.path]))")
    request = json.dumps({"module": "alibi_rewriter.shown", "path": isolation.search_path()})
    flags = ["-s", "-P"] if safe else ["-s"]
    if safe and not hasattr(sys.flags, "safe_path"):
        pytest.skip("this Python has no -P")
    command = [sys.executable, *flags, str(package / "base" / "launcher.py"), request]
    run = subprocess.run(command, cwd=folder, env=isolation.environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    file, path = json.loads(run.stdout)
    assert file == str(package / "shown.py")
    assert not {str(folder), str(package), str(package / "base"), ""} & set(path)
    assert marks(folder) == []


def test_the_command_runs_nothing_of_the_working_folder(tmp_path: Path) -> None:
    """``rewrite`` as it is installed: an empty entry of ``PYTHONPATH`` is the working folder."""
    folder = downloads(tmp_path / "downloads")
    # The installed script imports the package from where it is installed; what comes after that is ours.
    code = "import sys; sys.path.remove(''); from alibi_rewriter import cli; sys.path[:0] = ['']; "
    code += "sys.argv = ['rewrite', 'model.onnx', '--no-verify', '--dry-run']; sys.exit(cli.main())"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert marks(folder) == []


def test_the_module_runs_nothing_of_the_working_folder(tmp_path: Path) -> None:
    """``python -m alibi_rewriter``.  Python finds the package itself there; nothing after it is taken from there."""
    folder = downloads(tmp_path / "downloads")
    for name in ("importlib", "ctypes", "json"):  # Python's own machinery of -m, before a line of ours runs
        (folder / f"{name}.py").unlink()
    shutil.rmtree(folder / "alibi_rewriter")
    command = [sys.executable, "-m", "alibi_rewriter", "model.onnx", "--no-verify"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert marks(folder) == []


def test_the_environment_is_built() -> None:
    outer = {
        "HOME": "/home/x",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": "/evil",
        "PYTHONSTARTUP": "/evil.py",
        "LD_PRELOAD": "evil.so",
        "LD_AUDIT": "evil.so",
        "TRITON_PTXAS_PATH": "evil",
        "CUDA_INJECTION64_PATH": "evil.so",
        "LD_LIBRARY_PATH": "/opt/cuda/lib:::lib:/opt/trt",
        "PATH": ".:/usr/bin::bin",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert isolation.environment({"OWN": "1"}, outer) == {
        "HOME": "/home/x",
        "LC_ALL": "C.UTF-8",
        "LD_LIBRARY_PATH": "/opt/cuda/lib:/opt/trt",
        "PATH": "/usr/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "OWN": "1",
    }


def test_a_folder_that_things_are_installed_in_stays_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    monkeypatch.chdir(Path(numpy.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert Path.cwd() in [Path(p).resolve() for p in isolation.search_path()]
    assert "" not in isolation.search_path()


def test_children_work_in_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "stand-in"
    stand_in.mkdir()
    (stand_in / "tensorrt.py").write_text(
        textwrap.dedent(f"""
            import os
            open({str(tmp_path / "seen")!r}, "w").write(repr((os.getcwd(), os.listdir("."))))
            __version__ = "10.9.0"
            class LayerType: PLUGIN_V3 = 1
        """)
    )
    monkeypatch.syspath_prepend(str(stand_in))
    backends.probe("tensorrt")
    folder, content = eval((tmp_path / "seen").read_text())
    assert content == []
    assert not Path(folder).exists()
    assert Path(folder) != Path.cwd()
    assert attach.cache_root().is_absolute()
