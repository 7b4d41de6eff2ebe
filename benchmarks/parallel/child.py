"""One process of a measurement: a rank, or the whole model on one GPU.  Tells each figure as soon as it has it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import itertools
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onnxruntime"))
if importlib.util.find_spec("torch") is not None:
    import torch  # noqa: F401 - ahead of onnxruntime, whose kernels its profiler is to see
import gpu_models
import numpy as np
from numpy.typing import NDArray
from shapes import Job, Row, part_of, shapes, whole_past

WARM = 3
"""Runs before those that count: the first allocates, and a graph is captured by then."""

PROFILED = 3


def tell(**figure: Any) -> None:
    """A line of JSON."""
    sys.stdout.write(json.dumps(figure) + "\n")
    sys.stdout.flush()


class Memory:
    """What a GPU holds more than when its context was made."""

    def __init__(self, device: int) -> None:
        self.driver, number, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
        self.driver.cuInit(0)
        self.driver.cuDeviceGet(ctypes.byref(number), device)
        self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number)
        self.driver.cuCtxSetCurrent(context)
        self.before = 0
        self.before = self.mib()

    def mib(self) -> int:
        """MiB."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        return int((total.value - free.value) >> 20) - self.before


class Model:
    """A session whose inputs and outputs stay where it runs."""

    def __init__(self, job: Job, rank: int, device: int) -> None:
        import alibi_rewriter
        import onnxruntime
        from alibi_rewriter.runtime.session import Fallback

        self.runtime, self.job, self.rank, self.graphs = onnxruntime, job, rank, itertools.count(1)
        self.shape = shapes(job.layers, job.dry)[job.model]
        self.where = ("cpu", 0) if job.dry else ("cuda", device)
        self.dtype: Any = np.float32 if job.dry else np.float16
        manifest = json.loads(Path(job.run.manifest).read_text(encoding="utf-8")) if job.run.manifest else {}
        self.cuts = manifest.get("inputs", {})
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        on_gpu = {"device_id": str(device), "enable_cuda_graph": "1", "arena_extend_strategy": "kSameAsRequested"}
        providers: list[Any] = [] if job.dry else [("CUDAExecutionProvider", on_gpu)]
        with warnings.catch_warnings():
            warnings.simplefilter("error", Fallback)  # it would be no measurement
            made = alibi_rewriter.InferenceSession(job.run.file(rank), options, [*providers, "CPUExecutionProvider"])
        claim = alibi_rewriter.claimed_nodes(made)
        assert claim.claimed == claim.fused == self.shape.layers, claim
        assert job.dry or made.get_providers()[0] == "CUDAExecutionProvider"
        self.session = made

    def bound(self, row: Row) -> tuple[Any, Any, list[Any]]:
        """A binding, run options, and what has to live as long."""
        value, binding, kept = self.runtime.OrtValue, self.session.io_binding(), list[Any]()
        extents = {"hidden": (row.batch, row.new, self.shape.width), "logits": (row.batch, 1, self.shape.words)}
        given: dict[str, NDArray[Any]] = dict(row.feeds(self.shape.words))
        for number, (layer, part) in enumerate(itertools.product(range(self.shape.layers), ("key", "value"))):
            name = f"past_key_values.{layer}.{part}"
            whole = whole_past(row, self.shape, number, self.dtype)
            given[name] = part_of(whole, self.cuts.get(name), self.rank)
            batch, heads, _, depth = given[name].shape
            extents[f"present.{layer}.{part}"] = (batch, heads, row.length, depth)
            self._bind(binding, kept, name, given.pop(name))
        for name, array in given.items():
            self._bind(binding, kept, name, array)
        for output in self.session.get_outputs():
            kept.append(value.ortvalue_from_shape_and_type(extents[output.name], self.dtype, *self.where))
            binding.bind_ortvalue_output(output.name, kept[-1])
        options = self.runtime.RunOptions()
        if not self.job.dry:
            options.add_run_config_entry("gpu_graph_id", str(next(self.graphs)))
        return binding, options, kept

    def _bind(self, binding: Any, kept: list[Any], name: str, array: NDArray[Any]) -> None:
        kept.append(self.runtime.OrtValue.ortvalue_from_numpy(array, *self.where))
        binding.bind_ortvalue_input(name, kept[-1])

    def outputs(self, binding: Any) -> dict[str, NDArray[Any]]:
        """Hidden states and logits."""
        names = [output.name for output in self.session.get_outputs()]
        found = binding.get_outputs()
        return {name: found[names.index(name)].numpy() for name in ("hidden", "logits")}


def timed(run: Any, count: int) -> dict[str, float]:
    """Milliseconds: the median, and the least."""
    for _ in range(WARM):
        run()
    times = []
    for _ in range(count):
        before = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - before))
    return {"ms": round(statistics.median(times), 4), "least": round(min(times), 4)}


def compared(job: Job, key: str, found: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """What one GPU computes is kept; what several do is compared with it."""
    path = Path(job.folder) / f"{job.model}-{key.replace(' ', '-')}.npz"
    bits = hashlib.sha256(found["hidden"].tobytes() + found["logits"].tobytes()).hexdigest()[:16]
    if job.run.ranks == 1:
        np.savez(path, **found)
        return {"bits": bits}
    wanted = np.load(path)
    errors = {
        f"{name}_error": float(
            np.linalg.norm(found[name].astype(np.float64) - wanted[name].astype(np.float64))
            / np.linalg.norm(wanted[name].astype(np.float64))
        )
        for name in ("hidden", "logits")
    }
    same = found["logits"].argmax(-1) == wanted["logits"].argmax(-1)
    return {"bits": bits, **errors, "same_tokens": f"{int(same.sum())}/{same.size}"}


def nccl_share(run: Any) -> dict[str, float]:
    """Microseconds of a run in kernels of NCCL, waiting for other ranks included, and in all kernels."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            run()
    cuda = torch.autograd.DeviceType.CUDA
    events = [e for e in profiler.profiler.kineto_results.events() if e.device_type() == cuda]
    whole = sum(e.duration_ns() for e in events)
    ours = sum(e.duration_ns() for e in events if "nccl" in e.name().lower())
    return {"nccl_us": round(ours / 1e3 / PROFILED, 1), "busy_us": round(whole / 1e3 / PROFILED, 1)}


def work(job: Job, rank: int, device: int) -> None:
    """All rows; then, of each, what the profiler sees."""
    memory = None if job.dry else Memory(device)
    start = time.perf_counter()
    model = Model(job, rank, device)
    tell(loaded=round(time.perf_counter() - start, 1))
    if memory is not None:
        tell(weights_mib=memory.mib())
    for profiling in (False, True):
        if profiling and (job.dry or job.run.ranks == 1 or importlib.util.find_spec("torch") is None):
            continue
        for key in job.rows:
            binding, options, kept = model.bound(Row.parse(key))

            def run(binding: Any = binding, options: Any = options) -> None:
                model.session.run_with_iobinding(binding, options)

            if profiling:
                for _ in range(WARM):
                    run()
                tell(row=key, **nccl_share(run))
            else:
                tell(row=key, **timed(run, job.runs), **compared(job, key, model.outputs(binding)))
                if memory is not None:
                    tell(row=key, mib=memory.mib())
            del binding, kept, run


def main() -> None:
    """Connects with the other ranks if there are any."""
    job, rank = Job.parse(sys.argv[1]), int(os.environ["RANK"])
    gpu_models.MODELS.update(shapes(job.layers, job.dry))
    with contextlib.ExitStack() as stack:
        device = 0
        if job.run.ranks > 1:
            from alibi_rewriter.runtime import collectives

            device = stack.enter_context(collectives.connect()).device
        work(job, rank, device)


if __name__ == "__main__":
    main()
