"""Programs and libraries that tests compile from C++: once for all tests, and again when a source has changed."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parent / "native"
SOURCES = (".cpp", ".h", ".inc", ".map")
CHECKED = ("-std=c++17", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fPIC", f"-I{NATIVE}")
"""How C++ is compiled for a test.  One set of options, so that objects can be shared."""
SANITIZED = (*CHECKED, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DALIBI_PORTABLE_ONLY")
"""The CPU kernels of the other instruction sets are the same source, and take long to compile like this."""


@functools.cache
def kept(compiler: str) -> Path:
    """The folder of what is made of the sources as they are; its name is the digest of all that they are made of."""
    found = hashlib.sha256(subprocess.run([compiler, "-v"], capture_output=True, check=True).stderr)
    for path in sorted(p for folder in (NATIVE, HERE) for p in folder.rglob("*") if p.suffix in SOURCES):
        found.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    folder = HERE.parent / "build" / "programs" / Path(compiler).name / found.hexdigest()[:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compiler() -> str:
    """The C++ compiler; the test is skipped where there is none."""
    found = os.environ.get("CXX") or shutil.which("g++")
    if found is None:
        pytest.skip("needs g++")
    return found


def objects(options: Sequence[str], sources: Sequence[str | Path], compiler: str) -> list[Path]:
    """An object of each source; all programs and libraries with the same options share them."""
    return [_made(f"{Path(source).stem}.o", [*options, "-c", str(source)], compiler) for source in sources]


def compiled_once(name: str, arguments: Sequence[str], by: str | None = None) -> Path:
    """What ``g++ arguments`` makes, under the name ``name``.

    Args:
        name: Of the file.
        arguments: Sources (``*.cpp``) and options, all but the output.
        by: The compiler, if it is not the usual one.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    sources = [argument for argument in arguments if argument.endswith(".cpp")]
    others = [argument for argument in arguments if not argument.endswith(".cpp")]
    options = [each for each in others if each.startswith("-") and not each.startswith(("-shared", "-l", "-Wl"))]
    found = objects(options, sources, by or compiler())
    return _made(name, [*map(str, found), *others, "-ldl"], by or compiler())


def _made(name: str, arguments: Sequence[str], compiler: str) -> Path:
    digest = hashlib.sha256(chr(0).join((compiler, *arguments)).encode()).hexdigest()[:12]
    target = kept(compiler) / f"{digest}-{name}"
    # A lock for each file: what one worker compiles keeps no other from the rest.
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            making = target.with_suffix(".making")
            subprocess.run([compiler, *arguments, "-o", str(making)], check=True)
            making.replace(target)
    return target
