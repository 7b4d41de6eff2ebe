"""Sums and concatenations over ranks: on stand-ins for NCCL, the driver and onnxruntime, two processes and more."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alibi_rewriter.runtime import NoLibrary, get_library_path
from alibi_rewriter.runtime.collectives import library
from programs import NATIVE, SANITIZED, compiled_once, compiler
from slow import SLOW
from stand_ins import HERE, StandIns, Step, ended

try:
    get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)

CONNECT: Step = ("connect", {"timeout": 30})
FINISH: Step = ("disconnect", {"timeout": 30})
SUM, CONCAT = "AlibiAllReduce", "AlibiAllGather"


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


def run(op: str, values: Any, **more: Any) -> Step:
    return "run", {"op": op, "values": values, **more}


def part(rank: int, *extents: int) -> Any:
    return (np.arange(int(np.prod(extents))).reshape(extents) + 1000 * rank).tolist()


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_sum_and_concatenate(stand_ins: StandIns, size: int) -> None:
    def steps(rank: int) -> list[Step]:
        x = part(rank, 2, 3, 4)
        where = {"group": size, "device": rank}
        return [
            CONNECT,
            run(SUM, x, **where),
            *(run(SUM, part(rank, 5), kind=kind, **where) for kind in ("float16", "bfloat16")),
            *(run(CONCAT, x, axis=axis, **where) for axis in (0, 1, 2, -1, -3)),
            run(CONCAT, x, axis=1, kind="float16", **where),
            run(SUM, part(rank, 2, 0), **where),
            run(CONCAT, part(rank, 2, 0), axis=1, **where),
            run(SUM, x, **{**where, "device": -1}),
            FINISH,
            run(SUM, x, **where),
        ]

    ranks = stand_ins.run(*(steps(rank) for rank in range(size)))
    parts = [np.array(part(rank, 2, 3, 4)) for rank in range(size)]
    total = sum(parts[1:], parts[0]).tolist()
    small = sum(np.array(part(rank, 5)) for rank in range(size)).tolist()
    for rank, each in enumerate(ranks):
        assert each.error(-1) == "RuntimeError: this process has disconnected from the other ranks"
        assert each.status == 0, each.errors
        told = [step.get("result") for step in each.told[:-1]]
        assert told[0] == [rank, size, rank]
        assert told[1] == total and told[2] == told[3] == small
        for found, axis in zip(told[4:9], (0, 1, 2, -1, -3), strict=True):
            assert found == np.concatenate(parts, axis).tolist()
        assert told[9] == np.concatenate(parts, 1).tolist()
        assert told[10] == told[11] == [[], []]
        assert told[12] == total, "a thread without a context gets that of the communicator"


def test_one_rank(stand_ins: StandIns) -> None:
    x = part(0, 2, 3)
    steps = [run(op, x, group=1, axis=1) for op in (SUM, CONCAT)]
    assert stand_ins.alone(CONNECT, *steps, FINISH).results == [[0, 1, 0], x, x, None]
    assert stand_ins.alone(*steps).results == [x, x], "with nobody to sum with no communicator is needed"
    on_cpu = [run(op, x, group=1, provider="CPUExecutionProvider") for op in (SUM, CONCAT)]
    assert stand_ins.alone(*on_cpu).results == [x, x]


def test_shapes_are_inferred(stand_ins: StandIns) -> None:
    def infer(op: str, *extents: int, **more: int) -> Step:
        return "infer", {"op": op, "extents": extents, **more}

    found = stand_ins.alone(
        infer(SUM, 2, -1, 8), infer(CONCAT, 2, -1, 8, axis=2), infer(CONCAT, 2, -1, 8, axis=-1, group=3),
        infer(CONCAT, 2, -1, 8, axis=1), infer(CONCAT, 2, 8, axis=2),
    )  # fmt: skip
    assert [step["result"] for step in found.told[:3]] == [[2, -1, 8], [2, -1, 16], [2, -1, 24]]
    for step in (3, 4):
        assert "nothing is inferred" in found.error(step)


def test_what_a_session_refuses_before_anything_runs(stand_ins: StandIns) -> None:
    x = part(0, 4)
    bare = stand_ins.alone(
        run(SUM, x), run(CONCAT, x), run(SUM, x, group=0), run(SUM, x, provider="CPUExecutionProvider")
    )
    for step in (0, 1):
        assert "not connected to the other ranks. Call alibi_rewriter.runtime.collectives.connect()" in bare.error(step)
    assert "attribute 'group_size'" in bare.error(2)
    assert "runs on GPUs, by NCCL. Make the session with CUDAExecutionProvider" in bare.error(3)
    ranks = stand_ins.run(
        *([CONNECT, run(SUM, x, group=3, device=r), run(SUM, x, group=1, device=r), run(SUM, x, device=1 - r),
           run(CONCAT, [x], axis=2, device=r), run(CONCAT, np.zeros([1] * 9).tolist(), device=r), FINISH]
          for r in range(2))
    )  # fmt: skip
    for rank, each in enumerate(ranks):
        assert "the model was cut for 3 ranks, and 2 are connected" in each.error(1)
        assert "the model was cut for 1 ranks, and 2 are connected" in each.error(2)
        assert f"connected on GPU {rank}" in each.error(3) and f"device_id={rank}" in each.error(3)
        assert "there is no axis 2 of 2" in each.error(4)
        assert "more than 8 dimensions" in each.error(5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ALIBI_NCCL_LIBRARY": "/nowhere/libnccl.so.2"}, "NCCL cannot be opened (/nowhere/libnccl.so.2: cannot open"),
        ({"ALIBI_NCCL_LIBRARY": "libc.so.6"}, "'libc.so.6' lacks ncclGetVersion; install it with `pip install"),
        ({"STUB_NCCL_VERSION": "2804"}, "is NCCL 2804, and 2.10 or later is needed"),
        ({"STUB_NCCL_FAIL": "ncclGetUniqueId"}, "ncclGetUniqueId failed: unhandled system error (the stand-in"),
        ({"STUB_NCCL_FAIL": "ncclCommInitRank"}, "ncclCommInitRank failed: unhandled system error"),
        ({"STUB_NCCL_DEVICE": "5"}, "NCCL has taken GPU 5 instead of 0"),
        ({"STUB_NCCL_HANG": "ncclCommInitRank"}, "NCCL has not connected the ranks within 3 s"),
        ({"STUB_DEVICES": "0"}, "there is no GPU for rank 0: it is number 0 here, of 0 GPUs"),
    ],
)  # fmt: skip
def test_why_ranks_do_not_connect(stand_ins: StandIns, given: dict[str, str], said: str) -> None:
    found = stand_ins.alone(("connect", {"timeout": 3}), **given)
    assert found.error(0).startswith("NotConnected: ") and said in found.error(0)
    assert found.status == 0, "it is an exception, and the process goes on"


def test_a_missing_function_is_named(stand_ins: StandIns) -> None:
    found = stand_ins.alone(CONNECT, ALIBI_NCCL_LIBRARY=str(stand_ins.lacking))
    assert "lacks ncclAllGather" in found.error(0)


def test_a_gpu_that_is_not_there(stand_ins: StandIns) -> None:
    found = stand_ins.alone(("connect", {"timeout": 30, "device": 3}))
    assert "there is no GPU 3: the CUDA driver shows 1" in found.error(0)


def test_a_process_connects_once(stand_ins: StandIns) -> None:
    found = stand_ins.alone(CONNECT, CONNECT, FINISH, CONNECT)
    for step in (1, 3):
        assert "this process has been connected already" in found.error(step)


def test_without_a_launcher_it_says_how_to_start(stand_ins: StandIns) -> None:
    found = ended(stand_ins.start(None, 1, [CONNECT]))
    assert "RANK and WORLD_SIZE are not set. Start it with torchrun --nproc-per-node N, or with mpirun" in found.error(
        0
    )


def test_a_call_that_fails_is_an_error_of_the_run(stand_ins: StandIns) -> None:
    found = stand_ins.alone(CONNECT, run(SUM, [1], group=1), STUB_NCCL_FAIL="ncclAllReduce")
    assert "ncclAllReduce failed: unhandled system error (the stand-in was told so)" in found.error(1)


def test_where_nccl_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIBI_NCCL_LIBRARY", "/opt/libnccl.so.2")
    assert library.nccl() == "/opt/libnccl.so.2"
    monkeypatch.delenv("ALIBI_NCCL_LIBRARY")
    wheel = importlib.util.spec_from_loader("nvidia.nccl", None, is_package=True)
    assert wheel is not None and wheel.submodule_search_locations is not None
    wheel.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: wheel)
    assert library.nccl() == "libnccl.so.2", "the wheel is there and the library in it is not"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnccl.so.2").touch()
    assert library.nccl() == str(tmp_path / "lib" / "libnccl.so.2")

    def nothing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    assert library.nccl() == "libnccl.so.2"


def test_nccls_header_describes_the_same_interface(tmp_path: Path) -> None:
    try:
        found = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        found = None
    places = [Path(p) for p in os.environ.get("ALIBI_NCCL_INCLUDE", "").split(os.pathsep) if p]
    places += [Path(p) / "include" for p in (found.submodule_search_locations or () if found else ())]
    folder = next((p for p in [*places, Path("/usr/include")] if (p / "nccl.h").exists()), None)
    if folder is None:
        pytest.skip("NCCL's header is not installed (ALIBI_NCCL_INCLUDE names its folder)")
    # All that it wants of CUDA are names.
    names = "#include <stddef.h>\ntypedef struct CUstream_st* cudaStream_t;\ntypedef struct CUevent_st* cudaEvent_t;\n"
    for name in ("cuda_runtime.h", "cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h"):
        (tmp_path / name).write_text(f"#pragma once\n{names if name == 'cuda_runtime.h' else ''}")
    options = ["-std=c++17", "-fsyntax-only", f"-I{tmp_path}", f"-I{folder}", f"-I{NATIVE}"]
    subprocess.run([compiler(), *options, str(HERE / "nccl_headers.cpp")], check=True)


@SLOW
def test_two_ranks_under_the_address_sanitizer(tmp_path: Path) -> None:
    parts = [
        p for part in ("core", "cuda", "collectives", "onnxruntime") for p in sorted((NATIVE / part).glob("*.cpp"))
    ]
    sources = [str(p) for p in (*parts, HERE / "no_cpu.cpp") if p.name != "self_test.cpp"]
    built = compiled_once("libalibi.so", [*SANITIZED, "-shared", *sources])
    asked = [[compiler(), f"-print-file-name={name}"] for name in ("libasan.so", "libstdc++.so")]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in asked]
    watched = {
        "LD_PRELOAD": " ".join(str(Path(name).resolve()) for name in found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, and what lives as long as the process
        "PYTHONMALLOC": "malloc",
        "STUB_LIBRARY": str(built),
    }
    steps = [
        [CONNECT, *(run(op, part(rank, 2, 3), axis=1, device=rank) for op in (SUM, CONCAT)),
         run(SUM, [1], group=5, device=rank), run(CONCAT, [1], axis=-2, device=rank), FINISH]
        for rank in range(2)
    ]  # fmt: skip
    for each in StandIns(tmp_path, SANITIZED).run(*steps, **watched):
        assert each.status == 0, each.errors[-3000:]
        parts_of = [np.array(part(rank, 2, 3)) for rank in range(2)]
        assert each.told[1]["result"] == (parts_of[0] + parts_of[1]).tolist()
        assert each.told[2]["result"] == np.concatenate(parts_of, 1).tolist()
        assert "cut for 5 ranks" in each.error(3) and "no axis -2" in each.error(4)
