"""onnxruntime's telemetry is off, unless the user switches it on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alibi_rewriter.base import telemetry

pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[2] / "examples" / "bloom-tiny.onnx"
VERIFY = "import sys; from alibi_rewriter import rewrite; sys.exit(rewrite(sys.argv[1], sys.argv[2]).exit_code)"


def left_in_home(home: Path, code: str, *words: str, prefix: tuple[str, ...] = (), **variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    command = [*prefix, sys.executable, "-c", code, *words]
    subprocess.run(command, env={**environment, "HOME": str(home), **variables}, check=True, capture_output=True)
    return sorted(p.name for p in home.rglob("*") if p.is_file())


def test_nothing_is_recorded(tmp_path: Path) -> None:
    assert left_in_home(tmp_path, VERIFY, str(EXAMPLE), str(tmp_path / "out.onnx")) == ["out.onnx"]


def test_nothing_is_recorded_of_a_program_that_has_imported_it(tmp_path: Path) -> None:
    code = f"import onnxruntime, os; {VERIFY.replace('sys.exit', 'code = ')}; "
    code += f"assert '{telemetry.SWITCH}' not in os.environ"
    assert "out.onnx" in left_in_home(tmp_path, code, str(EXAMPLE), str(tmp_path / "out.onnx"))


def test_a_users_own_setting_is_left_alone() -> None:
    code = (
        "import os, onnxruntime; from alibi_rewriter.base import telemetry\n"
        "onnxruntime.disable_telemetry_events = lambda: 1 / 0\n"
        "assert telemetry.onnxruntime() is onnxruntime and os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    )
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_nobody_is_called(tmp_path: Path) -> None:
    """No socket but those of the machine itself, seen from outside."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    log = tmp_path / "log"
    tracing = ("strace", "-f", "-qq", "-e", "trace=connect,openat", "-o", str(log))
    home = tmp_path / "home"
    home.mkdir()
    try:
        left_in_home(home, VERIFY, str(EXAMPLE), str(tmp_path / "out.onnx"), prefix=tracing)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"strace does not work here: {error.stderr[-200:]!r}")
    lines = log.read_text(errors="replace").splitlines()
    assert any(".onnx" in line for line in lines), "the trace sees files"
    calls = [line for line in lines if "AF_INET" in line or "/Microsoft" in line]
    assert calls == []
