"""Collectives with NCCL itself, on GPUs: a product, a sum, a product and a concatenation, against the whole in float64.

    pytest tests/runtime/test_gpu_ranks.py -n 0

Needs onnxruntime-gpu and NCCL (the wheel nvidia-nccl-cu12 or -cu13, or the system's); tests of two ranks need two GPUs.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base import telemetry
from alibi_rewriter.engine.devices import devices
from alibi_rewriter.runtime import NoLibrary, get_library_path
from alibi_rewriter.runtime.collectives.library import nccl
from alibi_rewriter.runtime.collectives.watch import LOST
from gpu_rank import INPUTS, WIDTH, inputs
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from stand_ins import free_port

HERE = Path(__file__).parent
INNER = 128
TIME = 240
"""Seconds in which ranks have to end."""

try:
    get_library_path()
    ctypes.CDLL(nccl())
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)
except OSError:
    pytest.skip("needs NCCL", allow_module_level=True)
if "CUDAExecutionProvider" not in telemetry.onnxruntime().get_available_providers() or not devices():
    pytest.skip("needs onnxruntime-gpu and a GPU", allow_module_level=True)

TWO = pytest.mark.skipif(len(devices()) < 2, reason="needs two GPUs")
RANKS = [1, pytest.param(2, marks=TWO)]
ROUNDING = {"float32": 1e-5, "float16": 4e-3}
"""Of the largest value."""


def weights() -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(7)
    extents = ((WIDTH, INNER), (INNER, WIDTH), (WIDTH, WIDTH))
    # Numbers that 16 bits hold, so that both types compute with the same ones.
    return [(rng.standard_normal(e) / 8).astype(np.float16).astype(np.float64) for e in extents]


def whole(x: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second, third = weights()
    return np.maximum(x @ first, 0) @ second @ third


def write(folder: Path, ranks: int, dtype: str) -> None:
    """Columns, rows and columns of the three weights for each rank."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    first, second, third = weights()
    for rank in range(ranks):
        parts = {
            "first": np.split(first, ranks, axis=1)[rank],
            "second": np.split(second, ranks, axis=0)[rank],
            "third": np.split(third, ranks, axis=1)[rank],
        }
        nodes = [
            helper.make_node("MatMul", ["x", "first"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "second"], ["c"]),
            helper.make_node("AlibiAllReduce", ["c"], ["d"], domain="alibi", group_size=ranks),
            helper.make_node("MatMul", ["d", "third"], ["e"]),
            helper.make_node("AlibiAllGather", ["e"], ["y"], domain="alibi", group_size=ranks, axis=-1),
        ]
        graph = helper.make_graph(
            nodes,
            "rank",
            [helper.make_tensor_value_info("x", kind, ["B", "S", WIDTH])],
            [helper.make_tensor_value_info("y", kind, ["B", "S", WIDTH])],
            [numpy_helper.from_array(value.astype(dtype), name) for name, value in parts.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("alibi", 1)]
        onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / f"rank{rank}.onnx")


def start(folder: Path, ranks: int, dtype: str, *more: str) -> list[tuple[int, str]]:
    """Exit status and errors of every rank; ranks that hang fail the test."""
    port = free_port()
    running = []
    for rank in range(ranks):
        here = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_PORT": port - 1}
        environment = {**os.environ, **{k: str(v) for k, v in here.items()}, "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, str(HERE / "gpu_rank.py"), str(folder), dtype, *more]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        return [(each.wait(TIME), each.communicate()[1]) for each in running]
    finally:
        for each in running:
            each.kill()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_compute_what_the_whole_computes(tmp_path: Path, ranks: int, dtype: str) -> None:
    write(tmp_path, ranks, dtype)
    for status, errors in start(tmp_path, ranks, dtype):
        assert status == 0, errors[-3000:]
    wanted = np.stack([whole(inputs(number, dtype).astype(np.float64)) for number in range(INPUTS)])
    results = [np.load(tmp_path / f"{rank}.npz") for rank in range(ranks)]
    for found in results:
        for how in ("plain", "graph"):
            error = np.abs(found[how] - wanted).max() / np.abs(wanted).max()
            assert error < ROUNDING[dtype], how
            assert (found[how] == results[0][how]).all(), "ranks get the same bits"


@TWO
def test_a_killed_rank_ends_the_other_one(tmp_path: Path) -> None:
    write(tmp_path, 2, "float32")
    (first, errors), (second, _) = start(tmp_path, 2, "float32", "kill")
    assert second == -9
    assert first == LOST, errors[-3000:]
    assert "rank 0 ends, because what it computes cannot be finished: rank 1 has ended" in errors
