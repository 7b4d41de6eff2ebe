"""The kernels in Triton's interpreter against float64: a fast subset of ``sweep.py``, in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = Path(__file__).with_name("sweep.py")
MISSING = [name for name in ("triton", "torch") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the interpreter needs {' and '.join(MISSING)}")


def sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    """TRITON_INTERPRET is read when Triton is imported, so the kernels run in a process of their own."""
    command = [sys.executable, str(SWEEP), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    "arguments",
    [("--step", "120", "--first", "1"), ("--skipping", "--step", "3"), ("--unfused",)],
    ids=["kernels", "skipping", "unfused"],
)
def test_kernels_against_float64(arguments: tuple[str, ...]) -> None:
    done = sweep(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert " checks, 0 failed" in done.stdout
    assert not done.stdout.startswith("0 checks")
