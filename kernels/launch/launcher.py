"""Launches the kernels of a bundle through the CUDA driver API, by ctypes: no Triton, no PyTorch, no CUDA toolkit.

Addresses come from whoever owns the memory (PyTorch, CuPy, a plugin), in the CUDA context that is current.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any

from .description import Argument, Description, Kernel
from .plan import Call, Launch, Plan, Tensor, make_plan

_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_FUNCTION_SHARED_BYTES = 8
_PLAIN_SHARED_BYTES = 48 * 1024
_MAP_TYPES = {"float16": 6, "float32": 7, "bfloat16": 9}
_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
_PROMOTE_TO_128_BYTES = 2


class CudaError(RuntimeError):
    """A driver call that failed; the message names it and its error code."""


class CudaUnavailable(CudaError):
    """There is no CUDA driver or no device here."""


class _TensorMap(ctypes.Structure):
    """CUtensorMap: 128 opaque bytes at a multiple of 64."""

    _fields_ = [("words", ctypes.c_uint64 * 16)]


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CudaUnavailable(f"no CUDA driver: {error}") from error
    if library.cuInit(0):
        raise CudaUnavailable("the CUDA driver finds no device")
    return library


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_driver(), name)(*arguments)
    if status:
        raise CudaError(f"{name} failed with error {status}")


def _device_attribute(device: ctypes.c_int, attribute: int) -> int:
    found = ctypes.c_int()
    _call("cuDeviceGetAttribute", ctypes.byref(found), attribute, device)
    return found.value


class Bundle:
    """The images of a bundle, loaded into the current context.

    Args:
        directory: Where ``description.json`` and the images are.

    Raises:
        CudaUnavailable: If there is no driver, device or current context.
        DescriptionError: If the description is malformed.
        ValueError: If an image is not the one that the description names.
    """

    def __init__(self, directory: Path, description: Description | None = None) -> None:
        self.directory = directory
        self.description = description or Description.from_json((directory / "description.json").read_text())
        device = ctypes.c_int()
        if _driver().cuCtxGetDevice(ctypes.byref(device)):
            raise CudaUnavailable("no CUDA context is current")
        self.multiprocessors = _device_attribute(device, _MULTIPROCESSORS)
        self.arch = 10 * _device_attribute(device, _MAJOR) + _device_attribute(device, _MINOR)
        self._functions: dict[str, ctypes.c_void_p] = {}

    def _function(self, kernel: Kernel) -> ctypes.c_void_p:
        if kernel.name not in self._functions:
            code = (self.directory / kernel.image.cubin).read_bytes()
            if hashlib.sha256(code).hexdigest() != kernel.image.cubin_sha256:
                raise ValueError(f"{kernel.image.cubin} is not the image that the description names")
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            _call("cuModuleLoadData", ctypes.byref(module), code)
            _call("cuModuleGetFunction", ctypes.byref(function), module, kernel.entry.encode())
            if kernel.shared_bytes > _PLAIN_SHARED_BYTES:
                _call("cuFuncSetAttribute", function, _FUNCTION_SHARED_BYTES, kernel.shared_bytes)
            self._functions[kernel.name] = function
        return self._functions[kernel.name]

    @staticmethod
    def _tensor_map(argument: Argument, tensor: Tensor) -> tuple[ctypes.c_void_p, Any]:
        """The descriptor for bulk copies of ``tensor``: an address that is a multiple of 64, and what owns it."""
        recipe = argument.tensor_map
        if recipe is None:
            raise ValueError(f"{argument.name} has no recipe for its descriptor")
        size = _ELEMENT_BYTES[tensor.dtype]
        sizes = (ctypes.c_uint64 * 4)(*reversed(tensor.shape))
        strides = (ctypes.c_uint64 * 3)(*(size * stride for stride in reversed(tensor.strides[:3])))
        box, ones = (ctypes.c_uint32 * 4)(*recipe.box), (ctypes.c_uint32 * 4)(1, 1, 1, 1)
        room = ctypes.create_string_buffer(ctypes.sizeof(_TensorMap) + 64)
        address = ctypes.c_void_p(-(-ctypes.addressof(room) // 64) * 64)
        _call(
            "cuTensorMapEncodeTiled", address, _MAP_TYPES[tensor.dtype], 4, ctypes.c_void_p(tensor.pointer), sizes,
            strides, box, ones, 0, _SWIZZLES[recipe.swizzle_bytes], _PROMOTE_TO_128_BYTES, 0,
        )  # fmt: skip
        return address, room

    def _parameters(self, launch: Launch, plan: Plan, workspace: int) -> tuple[Any, list[Any]]:
        """The array of parameter addresses that cuLaunchKernel takes, and what it points to."""
        cells: list[Any] = []
        addresses: list[ctypes.c_void_p] = []
        for argument in launch.kernel.arguments:
            if argument.kind == "tensor_map":
                address, room = self._tensor_map(argument, launch.tensors[argument.name])
                addresses.append(address)
                cells.append(room)
                continue
            if argument.kind == "pointer":
                tensor = launch.tensors.get(argument.name)
                cell: Any = ctypes.c_uint64(tensor.pointer if tensor else workspace + plan.offsets[argument.name])
            elif argument.kind == "float32":
                cell = ctypes.c_float(launch.values[argument.name])
            elif argument.kind in ("int64", "zero64"):
                cell = ctypes.c_int64(int(launch.values[argument.name]) if argument.name else 0)
            else:
                value = int(launch.values[argument.name]) if argument.name else 0
                if not -(2**31) <= value < 2**31:
                    raise ValueError(f"{argument.name} is {value}, beyond 32 bits")
                cell = ctypes.c_int32(value)
            cells.append(cell)
            addresses.append(ctypes.c_void_p(ctypes.addressof(cell)))
        return (ctypes.c_void_p * len(addresses))(*addresses), cells

    def plan(self, call: Call) -> Plan:
        """The launches of ``call`` on this device (see :func:`plan.make_plan`)."""
        return make_plan(self.description, call, self.arch, self.multiprocessors)

    def run(self, plan: Plan, workspace: int = 0, stream: int = 0) -> None:
        """Enqueues the launches of a plan.

        Args:
            plan: From :meth:`plan`.
            workspace: Device address of ``plan.workspace_bytes`` bytes, a multiple of 256; contents do not matter.
            stream: A CUDA stream handle.

        Raises:
            CudaError: If a launch is refused.
            ValueError: If workspace is needed and missing.
        """
        if plan.workspace_bytes and (workspace == 0 or workspace % 256):
            raise ValueError(f"{plan.workspace_bytes} bytes of workspace at a multiple of 256 are needed")
        for launch in plan.launches:
            function = self._function(launch.kernel)
            parameters, cells = self._parameters(launch, plan, workspace)
            _call(
                "cuLaunchKernel", function, *launch.grid, launch.kernel.threads, 1, 1, launch.kernel.shared_bytes,
                ctypes.c_void_p(stream), parameters, None,
            )  # fmt: skip
            del cells

    def prepare(self, plan: Plan, workspace: int = 0, stream: int = 0) -> PreparedLaunches:
        """The launches of a plan with their parameters laid out, for calls that repeat."""
        steps = []
        for launch in plan.launches:
            parameters, cells = self._parameters(launch, plan, workspace)
            steps.append((self._function(launch.kernel), launch, parameters, cells))
        return PreparedLaunches(steps, stream)


class PreparedLaunches:
    """Launches that can be enqueued again at little cost; the buffers must stay where they are."""

    def __init__(self, steps: list[Any], stream: int) -> None:
        self._steps = [
            ((function, *launch.grid, launch.kernel.threads, 1, 1, launch.kernel.shared_bytes,
              ctypes.c_void_p(stream), parameters, None), cells)
            for function, launch, parameters, cells in steps
        ]  # fmt: skip
        self._launch = _driver().cuLaunchKernel

    def __call__(self) -> None:
        """Enqueues them.

        Raises:
            CudaError: If a launch is refused.
        """
        for arguments, _ in self._steps:
            status = self._launch(*arguments)
            if status:
                raise CudaError(f"cuLaunchKernel failed with error {status}")
