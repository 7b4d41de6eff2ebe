"""A short fuzzing run, and inputs that once crashed; ``benchmarks/attack/fuzz.py`` is the long run."""

from __future__ import annotations

from pathlib import Path

import fuzzing
import pytest

INPUTS = 350
ONCE_CRASHED = (
    *((1, 2), (1, 4), (1, 18), (1, 55), (1, 82), (1, 97), (1, 374), (1, 418), (1, 481), (1, 496), (1, 742), (1, 1001)),
    *((1, 1021), (1, 1183), (1, 1303), (1, 1505), (1, 1516), (1, 1595), (1, 2777), (2, 158), (7, 451)),
)
"""(seed, number) of inputs that ended in an exception or did not end."""


def test_no_input_crashes_the_pass() -> None:
    found = fuzzing.fuzz(5, 0, INPUTS)
    assert set(found) <= {"verdict", "rejected"}, found
    assert len(found["verdict"]) > INPUTS // 20, "hardly any input came further than the file"


@pytest.mark.parametrize(("seed", "number"), ONCE_CRASHED)
def test_inputs_that_once_crashed(seed: int, number: int, tmp_path: Path) -> None:
    ((_, content),) = fuzzing.inputs(seed, number, 1)
    assert fuzzing.survives(content, tmp_path) in ("verdict", "rejected")
