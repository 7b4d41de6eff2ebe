"""Loads an engine on a GPU and runs it once; needs TensorRT-RTX (or TensorRT), NumPy and the CUDA driver, nothing else.

python load.py model.engine [--module tensorrt]
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
from pathlib import Path
from typing import Any

import numpy as np


class Device:
    """The few calls of the CUDA driver that this takes.

    Args:
        driver: The library, ``libcuda.so.1`` unless told otherwise.
    """

    def __init__(self, driver: Any = None) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1") if driver is None else driver
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream

    def call(self, name: str, *arguments: Any) -> None:
        """Ends the program if the driver refuses."""
        status = getattr(self.driver, name)(*arguments)
        if status:
            raise SystemExit(f"{name} failed with status {status}")

    def upload(self, array: np.ndarray) -> int:
        """The address of a copy on the device; an empty array gets one byte, because TensorRT wants an address."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, array.nbytes)))
        if array.nbytes:
            self.call("cuMemcpyHtoD_v2", address, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        return int(address.value)

    def download(self, address: int, array: np.ndarray) -> None:
        """Fills an array from the device."""
        if array.nbytes:
            to = ctypes.c_void_p(array.ctypes.data)
            self.call("cuMemcpyDtoH_v2", to, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def wait(self) -> None:
        """Until everything on the stream is done."""
        self.call("cuStreamSynchronize", self.stream)


def host_type(trt: Any, kind: Any) -> np.dtype[Any]:
    """NumPy's type for a tensor; bfloat16, which NumPy has not, as bits."""
    names = {
        "INT64": "int64",
        "INT32": "int32",
        "HALF": "float16",
        "FLOAT": "float32",
        "BOOL": "bool",
        "BF16": "uint16",
    }
    return np.dtype({getattr(trt.DataType, name): own for name, own in names.items()}[kind])


def run(trt: Any, plan: bytes, device: Device, plugin: Path | None = None) -> dict[str, np.ndarray]:
    """Runs an engine once, on ones of its best shapes, and returns its outputs."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    if plugin is not None:
        runtime.get_plugin_registry().load_library(str(plugin))
    else:
        runtime.engine_host_code_allowed = True  # only for engines that you built yourself
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise SystemExit("the engine does not load on this GPU; the log says why")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    for name in inputs:
        if any(extent < 0 for extent in engine.get_tensor_shape(name)):
            context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[1]))
    arrays, places = {}, {}
    for name in names:
        shape = tuple(context.get_tensor_shape(name))
        arrays[name] = np.ones(shape, host_type(trt, engine.get_tensor_dtype(name)))
        places[name] = device.upload(arrays[name])
        context.set_tensor_address(name, places[name])
    if not context.execute_async_v3(device.stream.value):
        raise SystemExit("the engine does not run")
    device.wait()
    for name in names:
        if name not in inputs:
            device.download(places[name], arrays[name])
    return {name: widened(arrays[name]) for name in names if name not in inputs}


def widened(array: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 as float32; anything else as it is."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def main() -> None:
    """Runs the engine and says what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--module", default="tensorrt_rtx", choices=("tensorrt_rtx", "tensorrt"))
    parser.add_argument("--plugin", type=Path, help="the plugin library, if the engine does not carry it")
    options = parser.parse_args()
    trt = importlib.import_module(options.module)
    for name, array in run(trt, options.engine.read_bytes(), Device(), options.plugin).items():
        print(name, array.shape, array.dtype, f"mean magnitude {np.abs(array.astype(np.float64)).mean():.4g}")


if __name__ == "__main__":
    main()
