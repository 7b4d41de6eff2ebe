"""Programs from the C++ sources beside the tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import compiled_once

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compiled(factory: pytest.TempPathFactory, name: str, *options: str) -> Path:
    """Compiles ``name`` once for this run; skips the test where there is no compiler."""
    flags = ["-std=c++17", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}"]
    return compiled_once(factory, Path(name).stem, [*flags, str(HERE / name), *options])
