"""The plugin library on device memory, through its own interface: ``host.cpp`` by ctypes, buffers of PyTorch."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from alibi_rewriter.fused.family import KERNEL_MEMBERS
from alibi_rewriter.fused.layout import VIEWS, Layout
from alibi_rewriter.plugin import library_path

MAX_DIMS = 8
DATA_TYPES = {"float32": 0, "float16": 1, "bool": 4, "bfloat16": 7, "int64": 8}


class Dims(ctypes.Structure):
    _fields_ = [("rank", ctypes.c_int32), ("d", ctypes.c_int64 * MAX_DIMS)]


class TensorDesc(ctypes.Structure):
    _fields_ = [("dims", Dims), ("type", ctypes.c_int32), ("format", ctypes.c_int32), ("scale", ctypes.c_float)]


class DynamicTensorDesc(ctypes.Structure):
    _fields_ = [("desc", TensorDesc), ("min", Dims), ("max", Dims), ("opt", Dims)]


def describe(shape: tuple[int, ...], dtype: str) -> TensorDesc:
    """As TensorRT describes a dense tensor."""
    return TensorDesc(Dims(len(shape), (ctypes.c_int64 * MAX_DIMS)(*shape)), DATA_TYPES[dtype], 0, 0.0)


def ranged(desc: TensorDesc) -> DynamicTensorDesc:
    """With itself as the largest shape."""
    low = Dims(desc.dims.rank, (ctypes.c_int64 * MAX_DIMS)(*[1] * MAX_DIMS))
    return DynamicTensorDesc(desc, low, desc.dims, desc.dims)


class Host:
    """The host library with the plugin library loaded."""

    def __init__(self, path: Path) -> None:
        library = library_path()
        assert library is not None, "the plugin library was not built"
        self.library = ctypes.CDLL(str(path))
        self.library.hostLastMessage.restype = ctypes.c_char_p
        self.library.hostCreate.restype = ctypes.c_void_p
        self.library.hostWorkspace.restype = ctypes.c_int64
        self.library.hostEnqueueCost.restype = ctypes.c_double
        self.library.hostLaunchCost.restype = ctypes.c_double
        assert self.library.hostOpen(str(library).encode()) == len(KERNEL_MEMBERS)

    @property
    def message(self) -> str:
        """What the plugin logged last."""
        return bytes(self.library.hostLastMessage()).decode()

    def instance(
        self, op_type: str, kernels: bytes, *, scale: float, empty_mean: bool, layout: str = "BHSD", tactic: int = 0,
        window: tuple[int, int] = (-1, -1), views: Layout | None = None, rows: str | None = None,
    ) -> Instance:  # fmt: skip
        """A plugin as it is in an engine: built, stored, restored, attached."""
        lists = [] if views is None else [(len(one), *one) for one in views.attributes().values()]
        numbers = [number for one in lists for number in one]
        said = layout if views is None else VIEWS
        handle = self.library.hostCreate(
            op_type.encode(), ctypes.c_float(scale), b"mean" if empty_mean else b"zero", said.encode(), kernels,
            ctypes.c_int64(len(kernels)), tactic, *window,
            (ctypes.c_int32 * len(numbers))(*numbers) if numbers else None, None if rows is None else rows.encode(),
        )  # fmt: skip
        if not handle:
            raise ValueError(self.message)
        return Instance(self, handle)


class Instance:
    """One attached plugin."""

    def __init__(self, host: Host, handle: int) -> None:
        self.host, self.handle = host, ctypes.c_void_p(handle)

    def close(self) -> None:
        """Destroys it."""
        self.host.library.hostDestroy(self.handle)

    @property
    def tactics(self) -> int:
        """How many tactics it offers."""
        return int(self.host.library.hostTactics(self.handle))

    def shape(self, inputs: list[TensorDesc], output: TensorDesc) -> None:
        """onShapeChange."""
        self.inputs, self.output = (TensorDesc * len(inputs))(*inputs), output
        status = self.host.library.hostShape(self.handle, self.inputs, len(inputs), ctypes.byref(self.output))
        if status:
            raise ValueError(self.host.message)

    def workspace_bytes(self) -> int:
        """getWorkspaceSize, with the current shapes as the largest ones."""
        ranges = (DynamicTensorDesc * len(self.inputs))(*[ranged(desc) for desc in self.inputs])
        out = ranged(self.output)
        return int(self.host.library.hostWorkspace(self.handle, ranges, len(self.inputs), ctypes.byref(out)))

    def bind(self, inputs: list[int], output: int) -> tuple[Any, Any]:
        """Arrays of addresses."""
        return (ctypes.c_void_p * len(inputs))(*inputs), (ctypes.c_void_p * 1)(output)

    def enqueue(self, bound: tuple[Any, Any], workspace: int, stream: int) -> None:
        """Enqueue."""
        status = self.host.library.hostEnqueue(
            self.handle, self.inputs, ctypes.byref(self.output), bound[0], bound[1], ctypes.c_void_p(workspace),
            ctypes.c_void_p(stream),
        )  # fmt: skip
        if status:
            raise ValueError(self.host.message)

    def cost(self, bound: tuple[Any, Any], workspace: int, stream: int, calls: int) -> float:
        """Nanoseconds of the calling thread per enqueue."""
        return float(
            self.host.library.hostEnqueueCost(
                self.handle, self.inputs, ctypes.byref(self.output), bound[0], bound[1], ctypes.c_void_p(workspace),
                ctypes.c_void_p(stream), calls,
            )
        )  # fmt: skip
