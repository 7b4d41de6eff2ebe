"""One rank of a test: does what it is told, on stand-ins for the CUDA driver, NCCL and onnxruntime.

``ranks.py HOST STEPS`` prints a line of JSON for each step, with an ``error`` where it failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

import numpy as np

sys.path = [place for place in sys.path if place]
from alibi_rewriter.runtime import collectives, get_library_path
from alibi_rewriter.runtime.collectives import library

LIBRARY = os.environ.get("STUB_LIBRARY") or get_library_path()
"""Another build of the library, where a test names one."""

TYPES = {"float32": (1, np.float32), "float16": (10, np.uint16), "bfloat16": (16, np.uint16)}
"""The number of a type in ONNX, and what tests compute with in its place."""

CUDA = "CUDAExecutionProvider"


class Given(ctypes.Structure):
    """As in collective_host.cpp."""

    _fields_ = [
        ("library", ctypes.c_char_p), ("op", ctypes.c_char_p), ("provider", ctypes.c_char_p),
        ("type", ctypes.c_int32), ("device", ctypes.c_int32), ("group", ctypes.c_int64), ("axis", ctypes.c_int64),
        ("extents", ctypes.POINTER(ctypes.c_int64)), ("rank", ctypes.c_size_t),
        ("source", ctypes.c_void_p), ("bytes", ctypes.c_size_t),
    ]  # fmt: skip


class Made(ctypes.Structure):
    """As in collective_host.cpp."""

    _fields_ = [
        ("extents", ctypes.POINTER(ctypes.c_int64)), ("to", ctypes.c_void_p), ("room", ctypes.c_size_t),
        ("message", ctypes.c_char_p), ("message_room", ctypes.c_size_t),
    ]  # fmt: skip


class Rank:
    """The steps, by name."""

    def __init__(self, host: str) -> None:
        self.host = ctypes.CDLL(host)
        self.group: collectives.Group | None = None

    def connect(self, **given: Any) -> Any:
        self.group = collectives.connect(**given)
        return [self.group.rank, self.group.size, self.group.device]

    def run(
        self, op: str, values: Any, group: int = 2, axis: int = 0, kind: str = "float32", device: int = 0,
        provider: str = CUDA,
    ) -> Any:  # fmt: skip
        return self._call("hostRun", op, np.array(values, TYPES[kind][1]), group, axis, kind, device, provider).tolist()

    def infer(self, op: str, extents: list[int], group: int = 2, axis: int = 0) -> Any:
        return self._infer(op, extents, group, axis)

    def _given(self, op: str, extents: Any, group: int, axis: int, kind: str, device: int, provider: str) -> Given:
        return Given(
            LIBRARY.encode(), op.encode(), provider.encode(), TYPES[kind][0], device, group, axis,
            (ctypes.c_int64 * len(extents))(*extents), len(extents), None, 0,
        )  # fmt: skip

    def _infer(self, op: str, extents: list[int], group: int, axis: int) -> Any:
        given = self._given(op, extents, group, axis, "float32", 0, CUDA)
        made, message = (ctypes.c_int64 * 8)(), ctypes.create_string_buffer(1024)
        self.host.hostInfer(ctypes.byref(given), ctypes.byref(Made(made, None, 0, ctypes.addressof(message), 1024)))
        if message.value:
            raise RuntimeError(message.value.decode())
        return list(made)[: len(extents)]

    def _call(self, function: str, op: str, array: Any, group: int, axis: int, *more: Any) -> Any:
        kind = more[0]
        given = self._given(op, array.shape, group, axis, *more)
        given.source, given.bytes = array.ctypes.data, array.nbytes
        gathers = op == "AlibiAllGather" and group > 0
        extents = list(array.shape)
        if gathers and -len(extents) <= axis < len(extents):
            extents[axis] *= group
        out = np.zeros(extents, TYPES[kind][1])
        made, message = (ctypes.c_int64 * 8)(), ctypes.create_string_buffer(1024)
        told = Made(made, out.ctypes.data, out.nbytes, ctypes.addressof(message), 1024)
        getattr(self.host, function)(ctypes.byref(given), ctypes.byref(told))
        if message.value:
            raise RuntimeError(message.value.decode())
        if list(made)[: len(extents)] != extents:
            raise RuntimeError(f"the output has extents {list(made)}")
        return out

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def disconnect(self, **given: Any) -> None:
        assert self.group is not None
        self.group.disconnect(**given)

    def break_off(self) -> None:
        """Leaves the block of the group by an exception."""
        assert self.group is not None
        with self.group:
            raise ArithmeticError("no more")


def main() -> None:
    """Every step, whether or not those before it succeeded."""
    library.get_library_path = lambda: LIBRARY  # type: ignore[attr-defined]
    rank = Rank(sys.argv[1])
    for name, given in json.loads(sys.argv[2]):
        try:
            told = {"result": getattr(rank, name)(**given)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            told = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
