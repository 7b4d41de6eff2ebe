"""What one variant of one model does, in a process of its own: it tells each figure as soon as it has it."""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_models
import gpu_rows
import numpy as np
from gpu_rows import Caches, Row
from numpy.typing import NDArray

Tell = Callable[..., None]

DEVICE = "cuda"


@dataclass(frozen=True)
class Job:
    """What a process is to do.

    Attributes:
        model: A key of ``gpu_models.MODELS``.
        column: The variant's name in the tables.
        path: Its file; for PyTorch ``eager``, ``sdpa`` or ``compiled``.
        dtype: Of activations.
        ours: On our kernels.
        graph: Captured into CUDA graphs.
        held: The file has its caches in place; past and present are the same memory.
        rows: Keys of the rows, in order.
        seconds: For each figure.
        exact: Where the float32 results lie, for the comparison; written by the job in float32.
        compared, profiled: Keys of rows.
    """

    model: str
    column: str
    path: str
    dtype: str = "float16"
    ours: bool = False
    graph: bool = False
    held: bool = False
    rows: tuple[str, ...] = ()
    seconds: float = 0.25
    exact: str = ""
    compared: tuple[str, ...] = ()
    profiled: tuple[str, ...] = ()

    @property
    def torch(self) -> bool:
        """PyTorch's module in place of a session."""
        return not self.path.endswith(".onnx")

    def row(self, key: str) -> Row:
        """Of its key."""
        kind, batch, length, *hides = key.split()
        return Row(kind, int(batch), int(length), *hides)


class Memory:
    """Device memory in use beyond what was in use at the start."""

    class _Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

    def __init__(self) -> None:
        self.library, self.handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        self.library.nvmlInit_v2()
        self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle))
        self.before = 0
        self.before = self.mib()

    def mib(self) -> int:
        """MiB."""
        info = self._Info()
        self.library.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(info))
        return int(info.used >> 20) - self.before


def first_line(error: BaseException) -> str:
    """Of its message."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())[:300]


def timed(run: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Milliseconds: the median, the least, and how many runs."""
    start = time.perf_counter()
    for _ in range(3):  # the first allocates, a graph is captured by then
        run()
        if time.perf_counter() - start > 4 * seconds:
            break
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or (len(times) < 60 and time.perf_counter() - start < seconds):
        before = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - before))
    return {"ms": round(statistics.median(times), 4), "least": round(min(times), 4), "runs": len(times)}


class Session:
    """A session whose inputs and outputs stay on the device."""

    def __init__(self, job: Job) -> None:
        import alibi_rewriter
        import onnxruntime
        from alibi_rewriter.runtime.session import Fallback

        self.runtime, self.job, self.captured = onnxruntime, job, 0
        settings = {"arena_extend_strategy": "kSameAsRequested"}
        if job.dtype == "float32":
            settings["use_tf32"] = "0"
        if job.graph:
            settings["enable_cuda_graph"] = "1"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        providers = [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
        if job.ours:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Fallback)  # it would be no measurement
                self.session = alibi_rewriter.InferenceSession(job.path, options, providers)
            claim = alibi_rewriter.claimed_nodes(self.session)
            assert claim.claimed == claim.fused == gpu_models.MODELS[job.model].layers, claim
        else:
            self.session = onnxruntime.InferenceSession(job.path, options, providers)
        assert self.session.get_providers()[0] == "CUDAExecutionProvider"

    @contextmanager
    def runs(self, row: Row) -> Iterator[tuple[Callable[[], Any], Any]]:
        """A function that runs the row once and waits for it, and the binding."""
        caches = Caches(self.job.model, row, gpu_models.NUMPY[self.job.dtype], held=self.job.held)
        try:
            binding, _kept = self._bound(row, caches)
            options = self.runtime.RunOptions()
            if self.job.graph:
                self.captured += 1
                options.add_run_config_entry("gpu_graph_id", str(self.captured))
            yield lambda: self.session.run_with_iobinding(binding, options), binding
        finally:
            caches.close()

    def _bound(self, row: Row, caches: Caches) -> tuple[Any, list[Any]]:
        """A binding, and what has to live as long."""
        binding, kept = self.session.io_binding(), list[Any]()
        for name, array in gpu_rows.feeds(self.job.model, row, held=self.job.held).items():
            kept.append(self.runtime.OrtValue.ortvalue_from_numpy(array, DEVICE, 0))
            binding.bind_ortvalue_input(name, kept[-1])
        shape = gpu_models.MODELS[self.job.model]
        element, extents = (
            gpu_models.TYPES[self.job.dtype],
            gpu_rows.past_extents(self.job.model, row, held=self.job.held),
        )
        for number in range(2 * shape.layers if shape.cache else 0):
            name = f"past_key_values.{number // 2}.{('key', 'value')[number % 2]}"
            if caches.buffers:
                binding.bind_input(name, DEVICE, 0, element, extents, caches.buffers[number].value)
                if self.job.held:
                    present = name.replace("past_key_values", "present")
                    binding.bind_output(present, DEVICE, 0, element, extents, caches.buffers[number].value)
            else:
                kept.append(self._nothing(extents))
                binding.bind_ortvalue_input(name, kept[-1])
        for output in self.session.get_outputs():
            if self.job.held and output.name.startswith("present"):
                continue
            if not self.job.graph:
                binding.bind_output(output.name, DEVICE, 0)
                continue
            whole = (row.batch, shape.heads, row.length, shape.depth)
            sizes = {"hidden": (row.batch, row.new, shape.width), "logits": (row.batch, 1, shape.words)}
            kept.append(self._empty(sizes.get(output.name, whole)))
            binding.bind_ortvalue_output(output.name, kept[-1])
        return binding, kept

    def _nothing(self, extents: tuple[int, ...]) -> Any:
        value, array = self.runtime.OrtValue, np.zeros(extents, gpu_models.NUMPY[self.job.dtype])
        if self.job.dtype == "bfloat16":
            return value.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), gpu_models.TYPES["bfloat16"])
        return value.ortvalue_from_numpy(array, DEVICE, 0)

    def _empty(self, extents: tuple[int, ...]) -> Any:
        value = self.runtime.OrtValue
        if self.job.dtype == "bfloat16":
            return value.ortvalue_from_shape_and_type(extents, gpu_models.TYPES["bfloat16"], DEVICE, 0)
        return value.ortvalue_from_shape_and_type(extents, gpu_models.NUMPY[self.job.dtype], DEVICE, 0)

    def hidden(self, row: Row) -> NDArray[np.float32]:
        """Hidden states of a row at tokens that the mask does not hide."""
        with self.runs(row) as (run, binding):
            run()
            names = [output.name for output in self.session.get_outputs()]
            if self.job.held:  # in the order in which they were bound
                names.sort(key=lambda name: not name.startswith("present"))
            place = names.index("hidden")
            found: NDArray[np.float32] = binding.get_outputs()[place].numpy().astype(np.float32)
        if row.kind == "decode":
            return found.reshape(-1)
        return found[gpu_rows.feeds(self.job.model, row)["attention_mask"].astype(bool)].reshape(-1)


class Torch:
    """PyTorch's model in place of a session."""

    def __init__(self, job: Job) -> None:
        import gpu_torch
        import torch

        self.torch, self.job = torch, job
        self.module: Any = gpu_torch.build(job.model, sdpa=job.path == "sdpa")
        if job.path == "compiled":
            self.module = torch.compile(self.module, dynamic=False)

    @contextmanager
    def runs(self, row: Row) -> Iterator[tuple[Callable[[], Any], Any]]:
        """A function that runs the row once and waits for it."""
        torch, shape = self.torch, gpu_models.MODELS[self.job.model]
        given = {name: torch.from_numpy(array).cuda() for name, array in gpu_rows.feeds(self.job.model, row).items()}
        pasts: Any = None
        if row.kind == "decode":
            extents = gpu_rows.past_extents(self.job.model, row)
            pool = torch.from_numpy(gpu_rows.POOL).cuda()
            one = pool.repeat(-(-int(np.prod(extents)) // pool.numel()))[: int(np.prod(extents))].view(extents)
            pasts = tuple((one.clone(), one.clone()) for _ in range(shape.layers))

        def once() -> None:
            with torch.inference_mode():
                self.module(given["input_ids"], given["attention_mask"], pasts)

        def run() -> None:
            once()
            torch.cuda.synchronize()

        if not self.job.graph:
            yield run, None
            return
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                once()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            once()

        def replay() -> None:
            graph.replay()
            torch.cuda.synchronize()

        yield replay, None


def work(job: Job, tell: Tell) -> None:
    """Does a job."""
    memory = Memory()
    if job.profiled or job.torch:
        import torch  # noqa: F401 - ahead of onnxruntime, whose kernels its profiler is to see
    start = time.perf_counter()
    runner: Any = Torch(job) if job.torch else Session(job)
    tell(loaded=round(time.perf_counter() - start, 1))
    before = ""
    for key in job.rows:
        row = job.row(key)
        if before == "prefill" != row.kind:
            tell(mib=memory.mib())
        before = row.kind
        with _telling(tell, row=key), runner.runs(row) as (run, _):
            figures = timed(run, job.seconds)
            tell(row=key, **figures, **({"mib": memory.mib()} if row.kind == "decode" else {}))
    if before == "prefill":
        tell(mib=memory.mib())
    for key in job.compared:
        with _telling(tell, compared=key):
            _compare(job, runner.hidden(job.row(key)), key, tell)
    for key in job.profiled:
        import gpu_profile

        with _telling(tell, profiled=key), runner.runs(job.row(key)) as (run, _):
            tell(profiled=key, **gpu_profile.profile(run, gpu_models.MODELS[job.model].layers))


def _compare(job: Job, hidden: NDArray[np.float32], key: str, tell: Tell) -> None:
    exact = Path(job.exact) / f"{job.model}-{key.replace(' ', '-')}.npy"
    if job.dtype == "float32":
        np.save(exact, hidden)
        return
    wanted = np.load(exact)
    tell(compared=key, error=float(np.linalg.norm(hidden - wanted) / np.linalg.norm(wanted)))


@contextmanager
def _telling(tell: Tell, **where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        tell(**where, failed=first_line(error))


def main() -> None:
    """Reads a job from the command line; figures go to the file that the second argument names."""
    job = Job(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[1]).items()})
    with Path(sys.argv[2]).open("a", encoding="utf-8") as file:

        def tell(**figure: Any) -> None:
            text = json.dumps({"model": job.model, "column": job.column, **figure})
            file.write(text + "\n")
            file.flush()
            sys.stdout.write(text[:400] + "\n")
            sys.stdout.flush()

        try:
            work(job, tell)
        except Exception as error:  # noqa: BLE001
            tell(failed=first_line(error))


if __name__ == "__main__":
    main()
