"""The PTX of the appending kernels is what the compiler makes of their source."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "pins"))
import append

WRITTEN = append.HEADER.read_text()


def test_it_is_that_of_the_source() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc here")
    release = re.search(r"with nvcc (\d+\.\d+)", WRITTEN)
    assert release is not None
    if release.group(1) != append.release():
        pytest.skip(f"written with nvcc {release.group(1)}, and {append.release()} is here")
    assert append.header() == WRITTEN


def test_old_drivers_take_it() -> None:
    assert f".version {append.PTX_VERSION}\n" in WRITTEN
    assert ".target sm_80\n" in WRITTEN


@pytest.mark.parametrize("bytes_", [16, 4, 2])
def test_the_library_finds_its_entries(bytes_: int) -> None:
    host = (append.REPOSITORY / "native/cuda/append.cpp").read_text()
    assert f"alibi_append_{bytes_}" in host
    assert f".visible .entry alibi_append_{bytes_}(" in WRITTEN
