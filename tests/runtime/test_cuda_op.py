"""The custom ops for the CUDA provider without a GPU: a stand-in for the driver, a host in place of onnxruntime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from alibi_rewriter.runtime import NoLibrary, get_library_path
from programs import CHECKED, NATIVE, SANITIZED, compiled_once
from slow import BESIDE, SLOW

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "engine"), str(HERE.parent / "kernels")]
from bundles import encoded

try:
    LIBRARY = get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)

KINDS = {"address": SANITIZED, "thread": (*CHECKED, "-fsanitize=thread")}
"""Of sanitizers: how everything is compiled with them."""


def built(folder: Path, options: Sequence[str] = CHECKED) -> tuple[Path, Path]:
    """The host, and a folder with the stand-in for the driver."""
    host = compiled_once("cuda_host", [*options, str(HERE / "cuda_host.cpp"), "-lpthread"])
    stub = [*options, str(HERE / "stub_driver.cpp"), "-shared"]
    driver = folder / "driver"
    driver.mkdir()
    (driver / "libcuda.so.1").symlink_to(compiled_once("stub_driver", stub))
    return host, driver


def run(host: Path, driver: Path, library: str, folder: Path, *mode: str, **more: str) -> None:
    """Fails with what the host says."""
    bundle = folder / "bundle"
    images = folder / "images"
    images.mkdir(exist_ok=True)
    bundle.write_bytes(encoded(images))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), **more}
    command = [*more.pop("before", "").split(), str(host), library, str(bundle), *mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_it_launches_on_the_providers_stream_and_says_what_is_wrong(tmp_path: Path) -> None:
    host, driver = built(tmp_path)
    run(host, driver, LIBRARY, tmp_path)
    run(host, driver, LIBRARY, tmp_path, "arch", STUB_ARCH="75")


def test_without_a_driver_nothing_is_registered_for_it(tmp_path: Path) -> None:
    host, _ = built(tmp_path)
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "libcuda.so.1").write_text("not a library")
    run(host, tmp_path / "nowhere", LIBRARY, tmp_path, "none")


@pytest.mark.parametrize("name", [pytest.param(n, marks=BESIDE if n == "address" else SLOW) for n in KINDS])
def test_under_a_sanitizer(tmp_path: Path, name: str) -> None:
    host, driver = built(tmp_path, KINDS[name])
    parts = [
        p for part in ("core", "cuda", "collectives", "onnxruntime") for p in sorted((NATIVE / part).glob("*.cpp"))
    ]
    sources = [str(p) for p in (*parts, HERE / "no_cpu.cpp") if p.name != "self_test.cpp"]
    library = compiled_once("libalibi.so", [*KINDS[name], "-shared", *sources])
    # What lives as long as the process is no leak.
    run(host, driver, str(library), tmp_path, ASAN_OPTIONS="detect_leaks=0")


@SLOW
def test_under_valgrind(tmp_path: Path) -> None:
    checker = shutil.which("valgrind")
    if checker is None:
        pytest.skip("needs valgrind")
    host, driver = built(tmp_path)
    run(host, driver, LIBRARY, tmp_path, before=f"{checker} --error-exitcode=99 -q")
