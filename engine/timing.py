"""Runs an engine on the device that is here and says how long a call takes.

It runs in the child process.  Memory and events come from the CUDA driver, so that only TensorRT is needed.
"""

from __future__ import annotations

import ctypes
import math
import statistics
from pathlib import Path
from typing import Any

from .job import BuildJob

WARM_UP = 5


class TimingError(Exception):
    """The engine cannot be run here."""


class Device:
    """The first device, through the driver's C interface."""

    def __init__(self) -> None:
        try:
            self.cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise TimingError("there is no CUDA driver") from error
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        """One driver call.

        Raises:
            TimingError: It failed.
        """
        status = getattr(self.cuda, name)(*arguments)
        if status:
            raise TimingError(f"{name} failed with error {status}")

    def zeros(self, size: int) -> ctypes.c_uint64:
        """Device memory filled with zeros; freed when the process ends."""
        pointer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(256, size)))
        self.call("cuMemsetD8_v2", pointer, ctypes.c_ubyte(0), ctypes.c_size_t(max(256, size)))
        return pointer

    def handle(self, maker: str) -> ctypes.c_void_p:
        """A new stream or event."""
        made = ctypes.c_void_p()
        self.call(maker, ctypes.byref(made), 0)
        return made

    def milliseconds(self, stream: ctypes.c_void_p, work: Any) -> float:
        """Time of ``work`` on the stream."""
        start, end = self.handle("cuEventCreate"), self.handle("cuEventCreate")
        self.call("cuEventRecord", start, stream)
        work()
        self.call("cuEventRecord", end, stream)
        self.call("cuEventSynchronize", end)
        elapsed = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(elapsed), start, end)
        return float(elapsed.value)


def measure(trt: Any, logger: Any, job: BuildJob) -> float:
    """Median milliseconds per call of the engine in ``job.plan``, at the best shapes of its profile.

    Inputs are zeros, since the time of an attention does not depend on its values (without skipping).

    Raises:
        TimingError: There is no device, or the engine does not run on it.
    """
    device = Device()
    runtime = trt.Runtime(logger)
    if job.plugin is not None and job.embed_plugin:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(Path(job.plan).read_bytes())
    if engine is None:
        raise TimingError("the engine does not load on this device")
    context = engine.create_execution_context()
    stream = device.handle("cuStreamCreate")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT and name in job.profile:
            context.set_input_shape(name, tuple(job.profile[name][1]))
    for name in names:
        shape = tuple(context.get_tensor_shape(name))
        if any(extent < 0 for extent in shape):
            raise TimingError(f"the size of output '{name}' depends on values")
        size = math.prod(shape) * math.ceil(engine.get_tensor_dtype(name).itemsize)
        if not context.set_tensor_address(name, device.zeros(size).value):
            raise TimingError(f"'{name}' cannot be bound")

    def run() -> None:
        if not context.execute_async_v3(stream.value):
            raise TimingError("the engine does not run on this device")

    for _ in range(WARM_UP):
        run()
    device.call("cuStreamSynchronize", stream)
    return statistics.median(device.milliseconds(stream, run) for _ in range(job.timing))
