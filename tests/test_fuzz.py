"""A short fuzzing run, and inputs that once crashed; ``benchmarks/attack/fuzz.py`` is the long run."""

from __future__ import annotations

from pathlib import Path

import fuzzing
import pytest

INPUTS = 350
ONCE_CRASHED = sorted((Path(__file__).parent / "crashes").glob("*.onnx"))
"""Files that ended in an exception or did not end; named by seed and number of the run that found them."""


def test_no_input_crashes_the_pass() -> None:
    found = fuzzing.fuzz(5, 0, INPUTS)
    assert set(found) <= {"verdict", "rejected"}, found
    assert len(found["verdict"]) > INPUTS // 20, "hardly any input came further than the file"


@pytest.mark.parametrize("path", ONCE_CRASHED, ids=lambda p: p.stem)
def test_inputs_that_once_crashed(path: Path, tmp_path: Path) -> None:
    assert fuzzing.survives(path.read_bytes(), tmp_path) in ("verdict", "rejected")
