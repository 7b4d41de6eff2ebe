"""Strategy auto: which engine is kept, and the measuring itself against a stand-in for TensorRT."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alibi_rewriter.base.errors import EngineFailed
from alibi_rewriter.engine import build as build_module
from alibi_rewriter.engine.backends import Backend
from alibi_rewriter.engine.build import EngineOptions, build_engine
from alibi_rewriter.engine.devices import Gpu, devices
from alibi_rewriter.engine.facts import EngineFacts
from alibi_rewriter.engine.job import BuildJob
from alibi_rewriter.engine.profiles import Profile
from alibi_rewriter.engine.timing import TimingError, measure

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from alibi_rewriter import Options, rewrite

    target = tmp_path_factory.mktemp("model") / "m.alibi.onnx"
    rewrite(DATA / "jina__v2_sdpa_dynamo18_dyn.onnx", target, options=Options(verify=False))
    return target


def facts(plan: Path, strategy: str, milliseconds: float | None) -> EngineFacts:
    made = EngineFacts("tensorrt", "10.9.0", (), Profile({}), plan, 1, "", 2, 2, strategy)
    if milliseconds is not None:
        made.timings[strategy] = milliseconds
    if strategy == "plugin":
        made.library = plan.with_name("libalibi_plugin.so")
        made.library.write_bytes(b"library")
    return made


@pytest.mark.parametrize(
    ("plugin", "native", "kept"),
    [(1.0, 2.0, "plugin"), (2.0, 1.0, "native"), (None, None, "plugin"), (1.0, None, "plugin")],
)
def test_auto_keeps_the_faster_engine(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: float | None, native: float | None, kept: str
) -> None:
    times = {"plugin": plugin, "native": native}

    def build(self: Any, content: Any, library: Path | None, embed: bool, timing: int) -> EngineFacts:
        strategy = "native" if library is None else "plugin"
        assert bool(content.functions), "the functions are there for either strategy"
        self.plan.write_text(strategy)
        return facts(self.plan, strategy, times[strategy])

    monkeypatch.setattr(build_module.Builder, "_build", build)
    monkeypatch.setattr(build_module, "choose", lambda *a, **k: Backend("tensorrt", "10.9.0"))
    monkeypatch.setattr(build_module, "devices", lambda: [Gpu("stand-in", 89)])
    monkeypatch.setattr(build_module, "attach_kernels", lambda *a, **k: SimpleNamespace(bytes=1, nodes=["n"]))
    monkeypatch.setattr(build_module, "library_path", lambda: Path(__file__))
    plan = tmp_path / "m.engine"
    found = build_engine(model, plan, EngineOptions(strategy="auto"))
    assert found.strategy == plan.read_text() == kept
    assert found.plan == plan
    assert found.timings == {name: time for name, time in times.items() if time is not None and (plugin is not None)}
    wanted = ["m.engine"] + (["test_timing.py"] if kept == "plugin" else [])
    assert sorted(p.name for p in tmp_path.iterdir()) == wanted, "the library lies beside an engine that needs it"


def test_without_a_gpu_full_tensorrt_needs_a_target(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "choose", lambda *a, **k: Backend("tensorrt", "10.9.0"))
    monkeypatch.setattr(build_module, "devices", list)
    monkeypatch.setattr(build_module, "library_path", lambda: Path(__file__))
    with pytest.raises(EngineFailed, match="--target"):
        build_engine(model, tmp_path / "m.engine", EngineOptions())


class StandIn:
    """An engine of two tensors whose execution clears the output."""

    class TensorIOMode:
        INPUT, OUTPUT = 0, 1

    def __init__(self, loads: bool = True, runs: bool = True) -> None:
        self.loads, self.runs, self.calls = loads, runs, 0
        self.addresses: dict[str, int] = {}

    def Runtime(self, logger: object) -> StandIn:
        return self

    def deserialize_cuda_engine(self, content: bytes) -> StandIn | None:
        return self if self.loads and content else None

    def create_execution_context(self) -> StandIn:
        return self

    num_io_tensors = 2

    def get_tensor_name(self, position: int) -> str:
        return ("x", "y")[position]

    def get_tensor_mode(self, name: str) -> int:
        return 0 if name == "x" else 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(itemsize=4)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.calls += 1
        cuda = ctypes.CDLL("libcuda.so.1")
        size = ctypes.c_size_t(4 * self.shape[0] * self.shape[1])
        cleared = cuda.cuMemsetD8Async(
            ctypes.c_uint64(self.addresses["y"]), ctypes.c_ubyte(0), size, ctypes.c_void_p(stream)
        )
        return self.runs and cleared == 0


def job(folder: Path) -> BuildJob:
    plan = folder / "plan"
    plan.write_bytes(b"plan")
    return BuildJob("tensorrt", "m.onnx", str(plan), {"x": [[1, 1], [1024, 1024], [2048, 2048]]}, timing=7)


@pytest.mark.gpu
@pytest.mark.skipif(not devices(), reason="no CUDA device")
def test_an_engine_is_measured_at_its_best_shapes(tmp_path: Path) -> None:
    engine = StandIn()
    milliseconds = measure(engine, None, job(tmp_path))
    assert engine.shape == (1024, 1024)
    assert engine.calls == 5 + 7
    assert 0.0005 < milliseconds < 5
    for broken in (StandIn(loads=False), StandIn(runs=False)):
        with pytest.raises(TimingError):
            measure(broken, None, job(tmp_path))


@pytest.mark.skipif(bool(devices()), reason="there is a CUDA device")
def test_without_a_device_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(TimingError, match=r"no CUDA driver|cuInit|cuDeviceGet"):
        measure(StandIn(), None, job(tmp_path))
