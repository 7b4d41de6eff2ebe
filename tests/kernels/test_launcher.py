"""The launcher against a driver that only takes notes: what it would hand to CUDA, byte by byte."""

from __future__ import annotations

import ctypes
import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
from alibi_rewriter.kernels.compile.compiler import SELECTION, WORKSPACE
from alibi_rewriter.kernels.launch import launcher
from alibi_rewriter.kernels.launch.description import Argument, Description, Extent, Factor, Image, Kernel, TensorMap
from alibi_rewriter.kernels.launch.plan import Call, Tensor
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest

CODE = b"a cubin"
SHARED = 100_000


class Notes:
    """Stands in for libcuda: every entry point succeeds and is noted."""

    def __init__(self) -> None:
        self.attributes: list[tuple[Any, ...]] = []
        self.maps: list[tuple[Any, ...]] = []
        self.launches: list[dict[str, Any]] = []
        self.refuse = False

    def cuCtxGetDevice(self, device: Any) -> int:
        return 0

    def cuDeviceGetAttribute(self, found: Any, attribute: int, device: Any) -> int:
        found._obj.value = {16: 132, 75: 9, 76: 0}[attribute]
        return 0

    def cuModuleLoadData(self, module: Any, code: bytes) -> int:
        assert code == CODE
        return 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        assert name == b"entry"
        return 0

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> int:
        self.attributes.append((attribute, value))
        return 0

    def cuTensorMapEncodeTiled(self, at: Any, kind: int, rank: int, base: Any, sizes: Any, strides: Any, box: Any,
                               ones: Any, interleave: int, swizzle: int, promotion: int, fill: int) -> int:  # fmt: skip
        ctypes.memset(at.value, 0xAB, 128)
        self.maps.append(
            (at.value % 64, kind, rank, base.value, list(sizes), list(strides), list(box), list(ones), swizzle)
        )
        return 0

    def cuLaunchKernel(self, function: Any, *rest: Any) -> int:
        if self.refuse:
            return 700
        *numbers, stream, parameters, extra = rest
        cells = [
            ctypes.string_at(address, size) for address, size in zip(parameters, (128, 4, 8, 8, 8, 4, 4), strict=True)
        ]
        self.launches.append({"numbers": numbers, "stream": stream.value, "cells": cells, "extra": extra})
        return 0


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    driver = Notes()
    monkeypatch.setattr(launcher, "_driver", lambda: driver)
    return driver


def kernel(digest: str) -> Kernel:
    """Every kind of argument once."""
    arguments = (
        Argument("query", "tensor_map", 16, TensorMap("query", (64, 64, 1, 1), 128)),
        Argument("", "zero32"),
        Argument("slopes", "pointer", 16),
        Argument("partial", "pointer", 16),
        Argument("key_head", "int64", 8),
        Argument("s_kv", "int32"),
        Argument("scale", "float32"),
    )
    grid = (Extent((Factor(("s_q",), 128),)), Extent((Factor(("heads",)),)), Extent((Factor(("batch",)),)))
    image = Image("a.cubin", digest, "a.ptx", "", "8.0")
    return Kernel(
        "k", "prefill", 90, True, BufferLayout(), (), "entry", image, 384, SHARED, 168, 0, grid, arguments, "", 1
    )


@pytest.fixture
def bundle(notes: Notes, tmp_path: Path) -> launcher.Bundle:
    (tmp_path / "a.cubin").write_bytes(CODE)
    made = kernel(hashlib.sha256(CODE).hexdigest())
    description = Description(
        KernelRequest("AlibiAttentionCausal", "bfloat16", 64, 64), "test", SELECTION, WORKSPACE, (made,)
    )
    (tmp_path / "description.json").write_text(description.to_json())
    return launcher.Bundle(tmp_path)


def call() -> Call:
    """Two batches of four heads over two key heads."""

    def tensor(pointer: int, heads: int, rows: int) -> Tensor:
        return Tensor(pointer, "bfloat16", (2, heads, rows, 64), (heads * rows * 64, rows * 64, 64, 1))

    slopes = Tensor(0x5000, "float32", (4,), (1,))
    return Call(
        tensor(0x1000, 4, 200),
        tensor(0x2000, 2, 300),
        tensor(0x3000, 2, 300),
        tensor(0x4000, 4, 200),
        slopes,
        0.125,
        True,
    )


@pytest.mark.parametrize("prepared", [False, True])
def test_what_reaches_the_driver(bundle: launcher.Bundle, notes: Notes, prepared: bool) -> None:
    plan = bundle.plan(call())
    if prepared:
        bundle.prepare(plan, 0x10000, stream=7)()
    else:
        bundle.run(plan, 0x10000, stream=7)
    assert notes.attributes == [(8, SHARED)]
    assert notes.maps == [
        (0, 9, 4, 0x1000, [64, 200, 4, 2], [128, 200 * 128, 4 * 200 * 128], [64, 64, 1, 1], [1, 1, 1, 1], 3)
    ]
    (launch,) = notes.launches
    assert launch["numbers"] == [2, 4, 2, 384, 1, 1, SHARED]
    assert launch["stream"] == 7
    assert launch["extra"] is None
    assert launch["cells"] == [
        b"\xab" * 128, struct.pack("<i", 0), struct.pack("<Q", 0x5000), struct.pack("<Q", 0x10000),
        struct.pack("<q", 300 * 64), struct.pack("<i", 300), struct.pack("<f", 0.125),
    ]  # fmt: skip


def test_workspace_is_asked_for(bundle: launcher.Bundle, notes: Notes) -> None:
    plan = bundle.plan(call())
    assert plan.workspace_bytes == 2 * 4 * 200 * 1 * 64 * 4
    for workspace in (0, 0x10001):
        with pytest.raises(ValueError, match="workspace"):
            bundle.run(plan, workspace)
    assert not notes.launches


def test_a_refused_launch_is_an_error(bundle: launcher.Bundle, notes: Notes) -> None:
    notes.refuse = True
    with pytest.raises(launcher.CudaError, match="700"):
        bundle.run(bundle.plan(call()), 0x10000)
    with pytest.raises(launcher.CudaError, match="700"):
        bundle.prepare(bundle.plan(call()), 0x10000)()


def test_another_image_than_described(bundle: launcher.Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.cubin").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not the image"):
        bundle.run(bundle.plan(call()), 0x10000)
