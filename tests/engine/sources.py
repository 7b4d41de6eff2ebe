"""Programs from the C++ sources beside the tests of the engine."""

from __future__ import annotations

from pathlib import Path

from programs import CHECKED, SANITIZED, compiled_once

HERE = Path(__file__).parent


def compiled(name: str, *options: str) -> Path:
    """Compiles ``name`` once for this run; skips the test where there is no compiler."""
    return compiled_once(Path(name).stem, [*CHECKED, str(HERE / name), *options])


def sanitized(name: str, *options: str) -> Path:
    """The same with the sanitizers on."""
    return compiled_once(Path(name).stem, [*SANITIZED, str(HERE / name), *options])
