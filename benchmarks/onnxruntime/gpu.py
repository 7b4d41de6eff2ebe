"""Originals, rewritten models and their rivals in onnxruntime on a GPU: one command, one table.

    python benchmarks/onnxruntime/gpu.py [--models bloom,mpt,jina] [--seconds 0.4] [--until 500] [--out results/h200]

Needs onnxruntime-gpu, Triton, and for PyTorch's columns torch.  Models have random weights and are written to a folder
of their own.  Every variant runs in a process of its own, one after the other, with inputs and outputs bound on the
device; figures are medians of wall time.  Memory is what the driver counts for the GPU, less what it counted before.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_models
import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Row = tuple[str, int, int]

DECODE = [("decode", 1, 2048), ("decode", 1, 8192), ("decode", 8, 2048), ("decode", 1, 32768), ("decode", 8, 8192)]
ROWS: dict[str, list[Row]] = {
    "bloom": [
        *DECODE, ("prefill", 1, 512), ("prefill", 1, 2048), ("prefill", 8, 512), ("prefill", 4, 2048),
        ("prefill", 1, 8192),
    ],
    "mpt": [*DECODE, ("prefill", 1, 512), ("prefill", 1, 2048), ("prefill", 4, 2048), ("prefill", 1, 8192)],
    "jina": [("prefill", b, s) for b, s in ((1, 512), (8, 512), (32, 512), (1, 2048), (8, 2048), (1, 8192))],
}  # fmt: skip
ACCURACY: dict[str, list[Row]] = {
    "bloom": [("prefill", 1, 2048), ("prefill", 1, 8192), ("decode", 1, 2048), ("decode", 1, 8192)],
    "mpt": [("prefill", 1, 2048), ("decode", 1, 8192)],
    "jina": [("prefill", 1, 2048), ("prefill", 1, 8192)],
}
COMPILED: dict[str, list[Row]] = {
    "bloom": [("prefill", 1, 2048)], "mpt": [("prefill", 1, 2048), ("decode", 1, 8192)], "jina": [("prefill", 8, 512)],
}  # fmt: skip

MEANING = {
    "original": "onnxruntime, the original",
    "original+g": "the same, captured into a CUDA graph",
    "optimizer": "the original after onnxruntime.transformers.optimizer",
    "function": "the rewritten file, nothing registered",
    "ours": "the rewritten file on our kernels",
    "ours+g": "the same, captured into a CUDA graph",
    "original bf16": "the original in bfloat16",
    "ours bf16": "the rewritten bfloat16 file on our kernels",
    "eager": "PyTorch, the same shapes, scores and bias in memory",
    "compiled": "the same after torch.compile",
}
"""In the order in which they run."""


def file_of(folder: Path, model: str, variant: str) -> Path:
    """The file that a variant runs."""
    dtype = "bfloat16" if variant.endswith("bf16") else "float32" if variant == "exact" else "float16"
    if variant == "optimizer":
        return folder / f"{model}-opt" / "model.onnx"
    return folder / f"{model}-{dtype}{'.alibi' if variant.startswith(('ours', 'function')) else ''}.onnx"


def build(folder: Path, model: str, dtype: str, optimizer: str) -> None:
    """Writes a model, rewrites it and compiles its kernels into the cache, while a rival's tool works on it."""
    from alibi_rewriter import Options, rewrite
    from alibi_rewriter.runtime.gpu import gpu_at, prepare

    source = folder / f"{model}-{dtype}.onnx"
    gpu_models.write(model, dtype, source)
    if dtype == "float32":
        return
    command = [*shlex.split(optimizer), __file__, "--optimize", str(folder), model]
    rival = subprocess.Popen(command, stderr=subprocess.PIPE, text=True) if dtype == "float16" else None
    target = source.with_name(f"{source.stem}.alibi.onnx")
    rewrite(source, target, options=Options(verify=False))
    gpu = gpu_at(0)
    assert gpu is not None
    import onnx

    prepare(onnx.load(target, load_external_data=False), folder, gpu)
    if rival is not None and rival.wait():
        sys.stderr.write(f"optimizer, {model}: {rival.stderr.read()[-600:] if rival.stderr else ''}\n")


def optimize(folder: Path, model: str) -> None:
    """The original as onnxruntime's own optimizer for transformers leaves it."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    shape, kind = gpu_models.MODELS[model], "gpt2" if gpu_models.MODELS[model].cache else "bert"
    made = optimizer.optimize_model(
        str(file_of(folder, model, "original")), model_type=kind, num_heads=shape.heads, hidden_size=shape.width,
        optimization_options=FusionOptions(kind), opt_level=0, use_gpu=True,
    )  # fmt: skip
    target = file_of(folder, model, "optimizer")
    target.parent.mkdir(exist_ok=True)
    made.save_model_to_file(str(target), use_external_data_format=True)


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


def feeds(model: str, row: Row, dtype: str) -> Arrays:
    """Inputs of a row: in prefill the cache is empty, in decode it and one token make the length."""
    kind, batch, length = row
    shape = gpu_models.MODELS[model]
    new = length if kind == "prefill" else 1
    rng = np.random.default_rng(batch * 100_000 + length)
    made: Arrays = {
        "input_ids": rng.integers(2, shape.words, (batch, new)),
        "attention_mask": np.ones((batch, length), np.int64),
    }
    if shape.cache:
        extents = (batch, shape.heads, length - new, shape.depth)
        pool = rng.standard_normal(1 << 20).astype(np.float16).astype(gpu_models.NUMPY[dtype])
        past = np.resize(pool, extents)
        for number in range(shape.layers):
            made[f"past_key_values.{number}.key"] = made[f"past_key_values.{number}.value"] = past
    return made


def timed(run: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Milliseconds: the median, the least, and how many runs."""
    start = time.perf_counter()
    for _ in range(3):  # the first allocates, a graph is captured by then
        run()
        if time.perf_counter() - start > 4 * seconds:
            break
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or (len(times) < 40 and time.perf_counter() - start < seconds):
        before = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - before))
    return {"ms": statistics.median(times), "least": min(times), "runs": len(times)}


class Runner:
    """A session whose inputs and outputs stay on the device."""

    def __init__(self, folder: Path, model: str, variant: str) -> None:
        import alibi_rewriter
        import onnxruntime

        self.runtime, self.model, self.graph = onnxruntime, model, variant.endswith("+g")
        self.dtype = "bfloat16" if variant.endswith("bf16") else "float32" if variant == "exact" else "float16"
        settings = {"arena_extend_strategy": "kSameAsRequested"}
        if variant == "exact":
            settings["use_tf32"] = "0"
        if self.graph:
            settings["enable_cuda_graph"] = "1"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        path = file_of(folder, model, variant)
        providers = [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
        if variant.startswith("ours"):
            self.session = alibi_rewriter.InferenceSession(path, options, providers)
            claim = alibi_rewriter.claimed_nodes(self.session)
            assert claim.claimed == claim.fused == gpu_models.MODELS[model].layers, claim
        else:
            self.session = onnxruntime.InferenceSession(path, options, providers)
        assert self.session.get_providers()[0] == "CUDAExecutionProvider"
        self.captured = 0

    def value(self, array: NDArray[Any]) -> Any:
        """On the device."""
        if self.dtype == "bfloat16" and array.dtype == gpu_models.NUMPY["bfloat16"]:
            return self.runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), 16)
        return self.runtime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)

    def bound(self, row: Row) -> tuple[Any, list[Any]]:
        """A binding, and what has to live as long."""
        given = feeds(self.model, row, self.dtype)
        binding, values, kept = self.session.io_binding(), {}, []
        for name, array in given.items():
            if id(array) not in values:
                values[id(array)] = self.value(array)
            binding.bind_ortvalue_input(name, values[id(array)])
        shape, (kind, batch, length) = gpu_models.MODELS[self.model], row
        new = length if kind == "prefill" else 1
        for output in self.session.get_outputs():
            if not self.graph:
                binding.bind_output(output.name, "cuda", 0)
                continue
            extents = {"hidden": (batch, new, shape.width), "logits": (batch, 1, shape.words)}.get(
                output.name, (batch, shape.heads, length, shape.depth)
            )
            kept.append(self.runtime.OrtValue.ortvalue_from_shape_and_type(extents, np.float16, "cuda", 0))
            binding.bind_ortvalue_output(output.name, kept[-1])
        return binding, [values, kept, given]

    def time(self, row: Row, seconds: float) -> dict[str, float]:
        """A row."""
        binding, _kept = self.bound(row)
        options = self.runtime.RunOptions()
        if self.graph:
            self.captured += 1
            options.add_run_config_entry("gpu_graph_id", str(self.captured))
        return timed(lambda: self.session.run_with_iobinding(binding, options), seconds)

    def hidden(self, row: Row) -> NDArray[np.float32]:
        """Hidden states of a row."""
        binding, _kept = self.bound(row)
        self.session.run_with_iobinding(binding)
        names = [output.name for output in self.session.get_outputs()]
        found: NDArray[np.float32] = binding.get_outputs()[names.index("hidden")].numpy().astype(np.float32)
        return found


class Torch:
    """PyTorch's model in place of a session."""

    def __init__(self, model: str, *, compiled: bool) -> None:
        import gpu_torch
        import torch

        self.torch, self.name = torch, model
        self.module: Any = gpu_torch.build(model)
        if compiled:
            self.module = torch.compile(self.module, dynamic=False)

    def time(self, row: Row, seconds: float) -> dict[str, float]:
        """A row."""
        given = {name: self.torch.from_numpy(array).cuda() for name, array in feeds(self.name, row, "float16").items()
                 if not name.startswith("past_key_values") or name.endswith(".0.key")}  # fmt: skip
        one = given.get("past_key_values.0.key")
        pasts = None if one is None or row[0] == "prefill" else ((one, one),) * gpu_models.MODELS[self.name].layers

        def run() -> None:
            with self.torch.inference_mode():
                self.module(given["input_ids"], given["attention_mask"], pasts)
            self.torch.cuda.synchronize()

        return timed(run, seconds)


def child(folder: str, model: str, variant: str, seconds: str) -> None:
    """Prints what one variant does, as JSON."""
    place, memory = Path(folder), Memory()
    found: dict[str, Any] = {"rows": {}, "accuracy": {}}
    runner: Any
    try:
        if variant in ("eager", "compiled"):
            runner = Torch(model, compiled=variant == "compiled")
        else:
            with warnings.catch_warnings():
                from alibi_rewriter.runtime.session import Fallback

                warnings.simplefilter("error", Fallback)  # it would be no measurement
                runner = Runner(place, model, variant)
        for row in ACCURACY[model] if variant in ("exact", "original", "ours") else []:
            exact = place / f"exact-{model}-{'-'.join(map(str, row))}.npy"
            try:
                hidden = runner.hidden(row)
            except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
                found["accuracy"][" ".join(map(str, row))] = first_line(error)
                continue
            if variant == "exact":
                np.save(exact, hidden)
            elif exact.exists():
                wanted = np.load(exact)
                error = float(np.linalg.norm(hidden - wanted) / np.linalg.norm(wanted))
                found["accuracy"][" ".join(map(str, row))] = error
        for row in [] if variant == "exact" else COMPILED[model] if variant == "compiled" else ROWS[model]:
            try:
                measured: Any = runner.time(row, float(seconds))
            except Exception as error:  # noqa: BLE001
                measured = {"error": first_line(error)}
            found["rows"][" ".join(map(str, row))] = measured
        found["mib"] = memory.mib()
    except Exception as error:  # noqa: BLE001
        found["error"] = first_line(error)
    sys.stdout.write("\n" + json.dumps(found))


def first_line(error: Exception) -> str:
    """Of its message."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())[:300]


def start(*arguments: str) -> subprocess.Popen[str]:
    """This program again."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def build_all(folder: Path, models: list[str], optimizer: str) -> None:
    """Every file, in parallel; where a rival's tool fails its column stays empty."""
    jobs = [(model, dtype) for model in models for dtype in ("float16", "float32")] + [("bloom", "bfloat16")]
    running = [start("--build", str(folder), *job, optimizer) for job in jobs if job[0] in models]
    with ThreadPoolExecutor(len(running)) as pool:
        for _, errors in pool.map(subprocess.Popen.communicate, running):
            sys.stderr.write(errors[-1500:])


def cell(row: dict[str, Any] | None, original: dict[str, Any] | None) -> str:
    """Milliseconds, and how many times as fast as the original that is."""
    if row is None:
        return "-"
    if "error" in row:
        return "fails"
    ratio = f" ({original['ms'] / row['ms']:.2f})" if original and "ms" in original and row is not original else ""
    return f"{row['ms']:.3g}{ratio}"


def report(results: dict[str, Any]) -> str:
    """The page."""
    lines = ["# onnxruntime on a GPU", "", results["about"], ""]
    lines += [f"* `{name}`: {meaning}" for name, meaning in MEANING.items()]
    lines += [
        "",
        "Milliseconds (original / this). `fails`: below the table it says why. `-`: not run. What takes a few",
        "milliseconds without a CUDA graph is bound by the processor that launches it, and differs between machines.",
        "",
    ]
    for model, found in results["models"].items():
        names = [name for name in MEANING if found.get(name, {}).get("rows")]
        lines += [f"## {model}", "", f"| | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
        for row in ROWS[model]:
            key = " ".join(map(str, row))
            of = {name: found[name]["rows"].get(key) for name in names}
            cells = [cell(of[name], of.get("original")) for name in names]
            lines.append(f"| {row[0]} {row[1]}x{row[2]} | {' | '.join(cells)} |")
        lines += ["", "Memory of the process after all rows, MiB: " + ", ".join(
            f"{name} {found[name]['mib']}" for name in names if "mib" in found[name])]  # fmt: skip
        lines += ["", "Hidden states, relative to the float32 original: " + "; ".join(
            f"{name} " + ", ".join(f"{row} {value:.2g}" for row, value in found[name]["accuracy"].items()
                                   if isinstance(value, float))
            for name in names if found[name].get("accuracy"))]  # fmt: skip
        failures = {
            f"{name}, {key}: {row['error']}" for name in names for key, row in found[name]["rows"].items()
            if "error" in row
        }  # fmt: skip
        failures |= {f"{name}: {found[name]['error']}" for name in MEANING if "error" in found.get(name, {})}
        lines += ["", *(f"* {text}" for text in sorted(failures)), ""]
    return "\n".join(lines).rstrip() + "\n"


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All variants of all models, as long as there is time."""
    import onnxruntime

    began = time.monotonic()
    models = arguments.models.split(",")
    build_all(folder, models, arguments.optimizer)
    sys.stderr.write(f"built after {time.monotonic() - began:.0f} s\n")
    gpu = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True,
        check=False,
    ).stdout.strip()  # fmt: skip
    about = f"{gpu}; onnxruntime-gpu {onnxruntime.__version__}; random weights, float16 unless it says otherwise."
    results: dict[str, Any] = {"about": about, "models": {model: {} for model in models}}
    order = ["exact", *MEANING]
    for variant in order if not arguments.variants else ["exact", *arguments.variants.split(",")]:
        for model in models:
            if variant.endswith("bf16") and model != "bloom":
                continue
            if variant == "optimizer" and not file_of(folder, model, variant).exists():
                continue
            left = arguments.until - (time.monotonic() - began)
            if left < 10:
                sys.stderr.write(f"no time for {model}, {variant}\n")
                continue
            running = start("--child", str(folder), model, variant, str(arguments.seconds))
            try:
                out, errors = running.communicate(timeout=left)
                found = json.loads(out.splitlines()[-1])
            except (subprocess.TimeoutExpired, ValueError, IndexError):
                running.kill()
                out, errors = running.communicate()
                found = {"error": f"no answer: {errors.strip()[-200:]}"}
            results["models"][model][variant] = found
            sys.stderr.write(f"{time.monotonic() - began:.0f} s: {model}, {variant}: {json.dumps(found)[:1500]}\n")
            save(results, arguments.out)
    return results


def save(results: dict[str, Any], out: Path) -> None:
    """As JSON and as a page."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text(report(results))


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(gpu_models.MODELS))
    parser.add_argument("--variants", default="")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each figure")
    parser.add_argument("--until", type=float, default=1e9, help="seconds after which no variant starts")
    parser.add_argument("--optimizer", default=sys.executable, help="a Python that has onnxruntime.transformers")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "h200")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        save(measure(Path(name), arguments), arguments.out)


if __name__ == "__main__":
    internal: dict[str, Callable[..., None]] = {
        "--child": child,
        "--build": lambda folder, *job: build(Path(folder), *job),
        "--optimize": lambda folder, model: optimize(Path(folder), model),
    }
    internal[sys.argv[1]](*sys.argv[2:]) if sys.argv[1:2] and sys.argv[1] in internal else main()
