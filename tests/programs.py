"""Programs and libraries that tests compile from C++: once for a run, however many workers share it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run: the same one in every worker of pytest-xdist, whose own folders lie beside each other."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def compiler() -> str:
    """The C++ compiler; the test is skipped where there is none."""
    found = os.environ.get("CXX") or shutil.which("g++")
    if found is None:
        pytest.skip("needs g++")
    return found


def compiled_once(factory: pytest.TempPathFactory, name: str, arguments: Sequence[str]) -> Path:
    """What ``g++ arguments`` makes, under the name ``name``.

    Args:
        factory: Of pytest.
        name: Of the file.
        arguments: Sources and options, all but the output.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    command = [compiler(), *arguments]
    folder = shared_folder(factory, "programs")
    target = folder / f"{hashlib.sha256(chr(0).join(command).encode()).hexdigest()[:12]}-{name}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            making = target.with_suffix(".making")
            subprocess.run([*command, "-o", str(making), "-ldl"], check=True)
            making.replace(target)
    return target
