"""What the engine tests share: the kernels' cases, and programs compiled from the C++ sources next to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "native"
sys.path[:0] = [str(HERE), str(HERE.parent / "kernels"), str(HERE.parent)]


def compiled(name: str, target: Path, *options: str) -> Path:
    """Compiles ``name``; skips the test where there is no compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    command = [compiler, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", str(HERE / name)]
    subprocess.run([*command, *options, "-o", str(target), "-ldl"], check=True)
    return target


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host as a program."""
    return compiled("host.cpp", tmp_path_factory.mktemp("host") / "host")


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host as a shared library; ``ALIBI_PLUGIN_HOST`` names one that was compiled before."""
    ready = os.environ.get("ALIBI_PLUGIN_HOST")
    if ready:
        return Path(ready)
    return compiled("host.cpp", tmp_path_factory.mktemp("host") / "libhost.so", "-shared", "-fPIC")


@pytest.fixture(scope="session")
def plan_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's planning as a program, with the sanitizers on."""
    sources = [str(SOURCES / "core" / f"{name}.cpp") for name in ("bundle", "call", "inflate", "node", "plan")]
    target = tmp_path_factory.mktemp("plan") / "plan_dump"
    return compiled("plan_dump.cpp", target, "-fsanitize=address,undefined", *sources)


SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="session")
def sanitized_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin library with the sanitizers on and every symbol visible."""
    sources = [
        str(path) for folder in ("core", "cuda", "tensorrt") for path in sorted((SOURCES / folder).glob("*.cpp"))
    ]
    target = tmp_path_factory.mktemp("sanitized") / "libsanitized.so"
    return compiled(sources[0], target, *SANITIZED, "-fPIC", "-shared", *sources[1:])
