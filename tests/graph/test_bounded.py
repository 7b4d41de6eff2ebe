"""Bounded evaluation is a promise.  No file makes the pass run out of time or memory (``bombs.py`` makes the files)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bombs
import pytest
from alibi_rewriter.base import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and limits on the address space")

MOST_SECONDS = 30
"""Of one file; most take a tenth of a second, and the slowest four on an idle machine."""

MOST_MEBIBYTES = 900


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What became of each, all in one process whose address space is limited."""
    command = [sys.executable, "-W", "ignore", str(Path(bombs.__file__))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {[line['name'] for line in lines][-1:]}: {done.stderr[-2000:]}"
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_a_bomb_does_not_go_off(found: dict[str, dict[str, Any]], name: str) -> None:
    """A verdict or one clear error, in time and in memory."""
    one = found[name]
    for said in (one["said"], one["said_site_by_site"]):
        assert said.startswith(("DONE", "NOT_REWRITTEN", "NOT_VERIFIED", "ModelRejected: ")), said
    assert one["seconds"] < MOST_SECONDS
    assert one["peak"] < MOST_MEBIBYTES, f"{one['peak']} MiB"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a_loop_without_an_end", "NOT_VERIFIED skipped"),
        ("an_output_of_terabytes", "NOT_VERIFIED skipped"),
        ("an_input_of_gigabytes", "NOT_VERIFIED skipped"),
        ("a_negative_extent", "NOT_VERIFIED skipped"),
        ("an_extent_of_five_thousand_digits", "DONE passed"),
        ("an_extent_that_is_a_digit_and_no_number", "DONE passed"),
        ("functions_without_attention_that_multiply", "once its local functions are inlined"),
        ("a_function_of_megabytes_called_often", "grows by"),
        ("an_initializer_of_many_axes", "100000 axes"),
        ("a_rank_that_doubles", "axes; no more than 64"),
        ("a_vector_that_doubles", "NOT_VERIFIED skipped"),
        ("a_mask_added_to_itself", "ALB301"),
        ("a_chain_of_concat", "DONE passed"),  # site by site, because the whole takes too much
    ],
)
def test_what_is_said_about_it(found: dict[str, dict[str, Any]], name: str, why: str) -> None:
    assert why in found[name]["said"]


def test_available_memory_follows_the_limit_of_the_process() -> None:
    code = (
        "import resource; from alibi_rewriter.base.memory import available_memory;"
        "free = available_memory(); resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "print(free > 0, 0 < available_memory() < 1 << 30)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_available_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its control group tells; file cache counts as free."""
    files = {
        "/proc/meminfo": ["MemAvailable:  1000000 kB"],
        "/proc/self/cgroup": ["0::/box"],
        "/sys/fs/cgroup/box/memory.max": ["500000000"],
        "/sys/fs/cgroup/box/memory.current": ["400000000"],
        "/sys/fs/cgroup/box/memory.stat": ["anon 1", "inactive_file 100000000"],
    }
    monkeypatch.setattr(memory, "_lines", lambda path: files.get(str(path), []))
    assert memory.available_memory() == 200_000_000
