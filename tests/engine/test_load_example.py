"""examples/engine/load.py against stand-ins for TensorRT and the driver: which calls it makes, and in what order."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "engine" / "load.py"


@pytest.fixture
def load() -> Any:
    found = importlib.util.spec_from_file_location("load_example", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Driver:
    """Host memory in place of a device's."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == self.refuses:
                return 2
            if name == "cuMemAlloc_v2":
                block = ctypes.create_string_buffer(arguments[1].value)
                arguments[0]._obj.value = ctypes.addressof(block)
                self.memory[ctypes.addressof(block)] = block
            elif name in ("cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2"):
                ctypes.memmove(arguments[0].value, arguments[1].value, arguments[2].value)
            return 0

        return call


class Engine:
    """Adds one to ``x`` [?, 3] of int64, and has an output of bfloat16 without elements."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {"x": (-1, 3), "y": (-1, 3), "empty": (0,)}
        self.addresses: dict[str, int] = {}
        self.num_io_tensors = 3

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "x" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("x", 0)
        return [(1, 3), (2, 3), (4, 3)]

    def get_tensor_dtype(self, name: str) -> str:
        return "bf16" if name == "empty" else "i64"

    def create_execution_context(self) -> Engine:
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert shape == (2, 3)
        self.shapes["x"] = self.shapes["y"] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address
        self.addresses[name] = address

    def execute_async_v3(self, stream: Any) -> bool:
        given = (ctypes.c_int64 * 6).from_address(self.addresses["x"])
        (ctypes.c_int64 * 6).from_address(self.addresses["y"])[:] = [v + 1 for v in given]
        return True


def trt(engine: Any, registered: list[str]) -> Any:
    """A module with what the example asks TensorRT for."""

    class Logger:
        WARNING = 1

        def __init__(self, level: int) -> None: ...

    class Runtime:
        def __init__(self, logger: Logger) -> None: ...

        def get_plugin_registry(self) -> Any:
            return SimpleNamespace(load_library=registered.append)

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            registered.append(f"host code {getattr(self, 'engine_host_code_allowed', False)}")
            return engine if plan == b"plan" else None

    kinds = SimpleNamespace(INT64="i64", INT32="i32", HALF="f16", FLOAT="f32", BOOL="b", BF16="bf16")
    return SimpleNamespace(
        Logger=Logger, Runtime=Runtime, DataType=kinds, TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out")
    )


def test_an_engine_is_run_once(load: Any) -> None:
    driver, said = Driver(), []
    out = load.run(trt(Engine(), said), b"plan", load.Device(driver))
    assert said == ["host code True"]
    np.testing.assert_array_equal(out["y"], np.full((2, 3), 2))
    assert out["empty"].dtype == np.float32 and out["empty"].size == 0 and set(out) == {"y", "empty"}
    assert driver.calls[0] == "cuInit" and driver.calls.count("cuMemAlloc_v2") == 3
    assert driver.calls.index("cuStreamSynchronize") < driver.calls.index("cuMemcpyDtoH_v2")


def test_a_plugin_library_is_loaded_first_and_host_code_is_not_allowed(load: Any) -> None:
    said: list[str] = []
    load.run(trt(Engine(), said), b"plan", load.Device(Driver()), Path("libalibi_plugin.so"))
    assert said == ["libalibi_plugin.so", "host code False"]


def test_what_fails_ends_with_a_sentence(load: Any) -> None:
    with pytest.raises(SystemExit, match="does not load on this GPU"):
        load.run(trt(Engine(), []), b"another plan", load.Device(Driver()))
    with pytest.raises(SystemExit, match="cuInit failed with status 2"):
        load.Device(Driver("cuInit"))


def test_bfloat16_is_widened(load: Any) -> None:
    np.testing.assert_array_equal(load.widened(np.array([0x3F80, 0xC000], np.uint16)), np.array([1, -2], np.float32))


def test_it_needs_no_torch() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "argparse", "ctypes", "importlib", "numpy", "pathlib", "typing"}
