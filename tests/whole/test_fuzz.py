"""A short fuzzing run, and inputs that once crashed; ``benchmarks/attack/fuzz.py`` is the long run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import fuzz_pool
import fuzzing
import pytest
from slow import SLOW

INPUTS = 360
ONCE_CRASHED = sorted((Path(__file__).parents[1] / "crashes").glob("*.onnx"))
"""Files that ended in an exception or did not end; named by seed and number of the run that found them."""

TAKES_TEN_SECONDS = ("101-5976",)
"""A chain of Concat; ``a_chain_of_concat`` of ``bombs.py`` is the like of it in the fast suite."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are made by fork, and measured in /proc")


@linux
def test_no_input_crashes_the_pass() -> None:
    found = fuzzing.fuzz(5, 0, INPUTS, jobs=2)
    assert set(found) <= set(fuzzing.FINE), found
    assert sum(map(len, found.values())) == INPUTS
    assert len(found["verdict"]) > INPUTS // 20, "hardly any input came further than the file"


@pytest.mark.parametrize(
    "effort",
    [
        fuzzing.Effort.PROOF,
        pytest.param(fuzzing.Effort.EXPLAIN, marks=SLOW),
        pytest.param(fuzzing.Effort.VERIFY, marks=SLOW),
    ],
)
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=SLOW if p.stem in TAKES_TEN_SECONDS else ()) for p in ONCE_CRASHED],
    ids=lambda p: p.stem,
)
def test_inputs_that_once_crashed(path: Path, effort: fuzzing.Effort, tmp_path: Path) -> None:
    assert fuzzing.survives(path.read_bytes(), tmp_path, effort) in fuzzing.FINE


def test_inputs_depend_on_seed_and_number_alone() -> None:
    assert [content for _, content in fuzzing.inputs(7, 40, 10)] == [fuzzing.made(7, n) for n in range(40, 50)]
    assert len({fuzzing.made(seed, n) for seed in (1, 2) for n in range(20)}) > 35


def misbehave(number: int, folder: Path) -> str:
    """A task that hangs in C, asks for too much memory, dies, or raises, by its number."""
    assert not list(folder.iterdir())
    if number == 3:
        time.sleep(600)
    elif number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    elif number == 7:
        return f"{len(bytearray(1 << 40))} bytes"
    elif number == 9:
        kept = bytearray(300 << 20)
        return f"{len(kept)} bytes"
    elif number == 11:
        os._exit(3)
    elif number == 13:
        raise ValueError("an error of the task itself")
    return "fine"


@linux
@pytest.mark.parametrize("jobs", [1, 3])
def test_the_fuzzer_survives_its_inputs(jobs: int) -> None:
    """Whatever one of them does, the others get their turn, and its number is told."""
    found = dict(fuzz_pool.run(misbehave, range(20), fuzz_pool.Limits(2.0, 200 << 20, jobs)))
    strange = {number: outcome for number, outcome in found.items() if outcome != "fine"}
    assert sorted(found) == list(range(20))
    assert strange == {
        3: "more than 2 s",
        5: "killed by SIGKILL",
        7: "MemoryError",
        9: "more than 200 MiB",
        11: "ended with status 3",
        13: "ended with status 1",
    }
