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

NATIVE = Path(__file__).parents[1] / "native"
CHECKED = ("-std=c++17", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fPIC", f"-I{NATIVE}")
"""How C++ is compiled for a test.  One set of options, so that objects can be shared."""
SANITIZED = (*CHECKED, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DALIBI_PORTABLE_ONLY")
"""The CPU kernels of the other instruction sets are the same source, and take long to compile like this."""


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

    Each source becomes an object of its own, which all programs and libraries with the same options share.

    Args:
        factory: Of pytest.
        name: Of the file.
        arguments: Sources (``*.cpp``) and options, all but the output.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    sources = [argument for argument in arguments if argument.endswith(".cpp")]
    others = [argument for argument in arguments if not argument.endswith(".cpp")]
    options = [each for each in others if each.startswith("-") and not each.startswith(("-shared", "-l", "-Wl"))]
    objects = [_made(factory, f"{Path(source).stem}.o", [*options, "-c", source]) for source in sources]
    return _made(factory, name, [*map(str, objects), *others, "-ldl"])


def _made(factory: pytest.TempPathFactory, name: str, arguments: Sequence[str]) -> Path:
    command = [compiler(), *arguments]
    target = (
        shared_folder(factory, "programs") / f"{hashlib.sha256(chr(0).join(command).encode()).hexdigest()[:12]}-{name}"
    )
    # A lock for each file: what one worker compiles keeps no other from the rest.
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            making = target.with_suffix(".making")
            subprocess.run([*command, "-o", str(making)], check=True)
            making.replace(target)
    return target
