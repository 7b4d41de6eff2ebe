"""The CPU kernels on 64-bit Arm, compiled by a cross compiler and run by an emulator: the vectors are NEON's there.

Needs ``aarch64-linux-gnu-g++`` and ``qemu-aarch64-static`` (Debian: ``g++-aarch64-linux-gnu``, ``qemu-user-static``).
What it shows is what is computed, not how fast.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from alibi_rewriter.fused.family import KERNEL_MEMBERS, Alignment, EmptyRows, FusedAttention
from nodes import DTYPES, Sizes, answer, error, feeds
from programs import NATIVE, compiled_once
from slow import BESIDE

HERE = Path(__file__).parent
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
ROUNDING = {"float32": 2.0**-17, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Of the largest value."""

SHAPES = (
    Sizes(1, 70, 64, 64, 2, mask="bk"),
    Sizes(3, 130, 24, 40, 2, 4, 2, mask="q"),
    Sizes(33, 90, 8, 20, 2, mask="bhqk"),
    Sizes(70, 70, 64, 64, 1, 2, 1, mask="qk"),
    Sizes(20, 7, 5, 6, 1, 2, 1, mask="bk"),
)


@pytest.fixture(scope="session")
def host() -> Path:
    missing = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    sources = [HERE / "cpu_host.cpp", *(p for p in sorted((NATIVE / "core").glob("*.cpp")) if p.stem != "dynamic")]
    sources += [NATIVE / "cpu" / "attention.cpp", NATIVE / "cpu" / "portable.cpp"]
    options = ["-std=c++17", "-O1", "-static", f"-I{NATIVE}", "-ffp-contract=fast"]
    return compiled_once("cpu_host", [*options, *map(str, sources)], by=COMPILER)


def computed(host: Path, folder: Path, item: FusedAttention, given: dict[str, np.ndarray], dtype: str) -> np.ndarray:
    """What the kernels make of a node's inputs."""
    lines = [item.variant.op_type, repr(item.scale), item.empty_rows.value]
    lines.append(item.rows.value if item.variant.lengths else "-")
    lines += [str(item.window_left), str(item.window_right), str(len(given))]
    arrays = [np.ascontiguousarray(given[name]) for name in item.variant.inputs]
    lines += [" ".join(map(str, (_kind(array), array.ndim, *array.shape))) for array in arrays]
    call, result = folder / "call", folder / "result"
    call.write_bytes("\n".join(lines).encode() + b"\n" + b"".join(array.tobytes() for array in arrays))
    done = subprocess.run([EMULATOR, str(host), str(call), str(result)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "portable\n"
    shape = (*given["query"].shape[:3], given["value"].shape[3])
    return np.frombuffer(result.read_bytes(), DTYPES[dtype]).reshape(shape)


def _kind(array: np.ndarray) -> str:
    return "bool" if array.dtype == np.bool_ else array.dtype.name


@BESIDE
@pytest.mark.parametrize("dtype", ROUNDING)
def test_members_compute_what_is_specified(host: Path, tmp_path: Path, dtype: str) -> None:
    for number, variant in enumerate(KERNEL_MEMBERS[:: 1 if dtype == "float32" else 5]):
        window = ((7, -1), (20, 5), (0, 0), (-1, 3))[number % 4] if variant.window else (-1, -1)
        rows = list(Alignment)[number // 2 % 2] if variant.lengths else Alignment.LAST
        item = FusedAttention(variant, 0.25, list(EmptyRows)[number % 2], *window, rows=rows)
        sizes = SHAPES[number % len(SHAPES)]
        given = feeds(variant, sizes, np.random.default_rng(number), dtype)
        found = computed(host, tmp_path, item, given, dtype)
        assert error(found, answer(item, given), given) < ROUNDING[dtype], (variant.op_type, sizes)
