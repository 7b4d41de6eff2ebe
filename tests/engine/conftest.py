"""What the engine tests share: the kernels' cases, and programs compiled from the C++ sources next to them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "kernels"), str(HERE.parent)]
from programs import NATIVE
from sources import compiled, sanitized


@pytest.fixture(scope="session")
def host_program() -> Path:
    """The host as a program."""
    return compiled("host.cpp")


@pytest.fixture(scope="session")
def host_library() -> Path:
    """The host as a shared library; ``ALIBI_PLUGIN_HOST`` names one that was compiled before."""
    ready = os.environ.get("ALIBI_PLUGIN_HOST")
    if ready:
        return Path(ready)
    return compiled("host.cpp", "-shared")


@pytest.fixture(scope="session")
def plan_dump() -> Path:
    """The library's planning as a program, with the sanitizers on."""
    sources = [str(NATIVE / "core" / f"{name}.cpp") for name in ("bundle", "call", "inflate", "node", "plan", "view")]
    return sanitized("plan_dump.cpp", *sources)


@pytest.fixture(scope="session")
def sanitized_library() -> Path:
    """The plugin library with the sanitizers on and every symbol visible."""
    sources = [str(path) for folder in ("core", "cuda", "tensorrt") for path in sorted((NATIVE / folder).glob("*.cpp"))]
    return sanitized(sources[0], "-shared", *sources[1:])
