"""Originals, rewritten models and their rivals in onnxruntime on a GPU: one command, one table.

    python benchmarks/onnxruntime/gpu.py [--models bloom,mpt,jina] [--seconds 0.25] [--until 440] [--out results/h200]
    python benchmarks/onnxruntime/gpu.py --report results/h200.jsonl

Needs onnxruntime-gpu, Triton, and for PyTorch's columns and the profile torch.  Models have random weights and are
written to a folder of their own.  Every variant runs in a process of its own, one after the other, with inputs and
outputs bound on the device; figures are medians of wall time, told to a file as they come, so that a run that is cut
off has what it had.  Memory is what the driver counts for the GPU after prefill, less what it counted before.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_models
from gpu_child import Job
from gpu_report import report
from gpu_rows import ACCURACY, COMPILED, FEWER, PROFILED, ROWS, Row

HERE = Path(__file__).parent


def keys(rows: list[Row]) -> tuple[str, ...]:
    """Of rows."""
    return tuple(row.key for row in rows)


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the files of a run lie.

    Attributes:
        folder: The models.
        plain: Keyword arguments of ``Options`` for a second rewritten file, as JSON; empty for none.
        others: Other states of this package whose function bodies are run as well: name, and a folder that holds it.
    """

    folder: Path
    plain: str = ""
    others: tuple[tuple[str, str], ...] = ()

    def original(self, model: str, dtype: str = "float16") -> Path:
        """As the exporter writes it."""
        return self.folder / f"{model}-{dtype}.onnx"

    def rewritten(self, model: str, dtype: str = "float16") -> Path:
        """Without kernels."""
        return self.folder / f"{model}-{dtype}.alibi.onnx"

    def held(self, model: str) -> Path:
        """With kernels and its caches in place."""
        return self.folder / f"{model}-float16.held.onnx"

    def served(self, model: str, dtype: str = "float16", *, plain: bool = False) -> Path:
        """With kernels."""
        return self.folder / f"{model}-{dtype}.{'plain' if plain else 'kernels'}.onnx"


def build_other(files: Files, name: str, model: str) -> None:
    """Rewrites a model with another state of this package."""
    from alibi_rewriter import Options, rewrite

    source = files.original(model)
    rewrite(source, source.with_name(f"{model}.{name}.onnx"), options=Options(verify=False))


def build(files: Files, model: str, dtype: str) -> None:
    """Writes a model, rewrites it and attaches kernels for the GPU that is here."""
    from alibi_rewriter import Options, rewrite

    source = files.original(model, dtype)
    gpu_models.write(model, dtype, source)
    if dtype == "float32":
        return
    rewrite(source, files.rewritten(model, dtype), options=Options(verify=False))
    with_kernels(files.rewritten(model, dtype), files.served(model, dtype))
    if gpu_models.MODELS[model].cache and dtype == "float16":
        target = files.folder / f"{model}.held-rewritten.onnx"
        rewrite(source, target, options=Options(verify=False, in_place=True))
        with_kernels(target, files.held(model))
    if files.plain and dtype == "float16":
        target = files.folder / f"{model}.plain-rewritten.onnx"
        rewrite(source, target, options=Options(verify=False, **json.loads(files.plain)))
        with_kernels(target, files.served(model, plain=True))


def with_kernels(source: Path, target: Path) -> None:
    """Attaches kernels from the cache, or compiles them; nothing is left to do when a session is made."""
    import onnx
    from alibi_rewriter.runtime.gpu import gpu_at, prepare

    gpu = gpu_at(0)
    assert gpu is not None, "no GPU"
    prepared = prepare(onnx.load(source, load_external_data=False), source.parent, gpu)
    assert prepared.content is not None and not prepared.as_functions, prepared.as_functions
    target.write_bytes(prepared.content)


def jobs(files: Files, models: list[str], seconds: float) -> Iterator[Job]:
    """In the order in which they run: what is wanted most first."""
    exact = str(files.folder)

    def each(column: str, rows: dict[str, list[Row]], path: Any, **more: Any) -> Iterator[Job]:
        for model in models:
            profiled = keys(PROFILED[model]) if column in ("original", "ours", "ours, plain") else ()
            yield Job(
                model, column, str(path(model)), rows=keys(rows[model]), seconds=seconds, exact=exact,
                profiled=profiled, **more,
            )  # fmt: skip

    yield from each("ours+g", ROWS, files.served, ours=True, graph=True)
    cached = [model for model in models if gpu_models.MODELS[model].cache]
    for column, graph in (("in place+g", True), ("in place", False)):
        for model in cached:
            of, profiled = keys(ROWS[model]), () if graph else keys(PROFILED[model])
            yield Job(
                model, column, str(files.held(model)), ours=True, graph=graph, held=True, rows=of, seconds=seconds,
                exact=exact, profiled=profiled,
            )  # fmt: skip
    yield from each("original+g", ROWS, files.original, graph=True)
    yield from each("original", ROWS, files.original)
    yield from each("ours", ROWS, files.served, ours=True)
    yield from each("compiled", COMPILED, lambda _: "compiled")
    yield from each("eager", FEWER, lambda _: "eager")
    if files.plain:
        yield from each("ours, plain", ROWS, lambda model: files.served(model, plain=True), ours=True)
        yield from each("ours, plain+g", ROWS, lambda model: files.served(model, plain=True), ours=True, graph=True)
    yield from each("function", FEWER, files.rewritten)
    for name, _ in files.others:
        yield from each(f"function {name}", FEWER, lambda model, name=name: files.folder / f"{model}.{name}.onnx")
    yield from each("function+g", FEWER, files.rewritten, graph=True)
    for model in models:
        compared = keys(ACCURACY[model])
        yield Job(model, "exact", str(files.original(model, "float32")), "float32", exact=exact, compared=compared)
        yield Job(model, "original", str(files.original(model)), exact=exact, compared=compared)
        yield Job(model, "ours", str(files.served(model)), ours=True, exact=exact, compared=compared)
        if model in cached:
            whole = keys([row for row in ACCURACY[model] if row.kind == "prefill"])
            yield Job(model, "in place", str(files.held(model)), ours=True, held=True, exact=exact, compared=whole)
    yield from each("sdpa", FEWER, lambda _: "sdpa")
    yield from each("compiled+g", COMPILED, lambda _: "compiled", graph=True)
    yield from each("eager+g", FEWER, lambda _: "eager", graph=True)
    yield from each("sdpa+g", FEWER, lambda _: "sdpa", graph=True)
    if "bloom" in models:
        rows = keys(FEWER["bloom"])
        for column, path, ours in (
            ("original bf16", files.original("bloom", "bfloat16"), False),
            ("ours bf16", files.served("bloom", "bfloat16"), True),
        ):
            yield Job("bloom", column, str(path), "bfloat16", ours, rows=rows, seconds=seconds)


def child(job: Job, events: Path, limit: float) -> None:
    """Does a job in a process of its own, which is killed when its time is up."""
    command = [sys.executable, "-u", str(HERE / "gpu_child.py"), json.dumps(dataclasses.asdict(job)), str(events)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = running.communicate(timeout=max(1.0, limit))
    except subprocess.TimeoutExpired:
        running.kill()
        _, errors = running.communicate()
    if running.returncode:
        with events.open("a", encoding="utf-8") as file:
            why = f"ended with {running.returncode}: {' '.join(errors.split())[-300:]}"
            file.write(json.dumps({"model": job.model, "column": job.column, "failed": why}) + "\n")
        sys.stderr.write(f"{job.model}, {job.column}: {why}\n")


def build_all(files: Files, models: list[str], limit: float) -> None:
    """Every file, and what PyTorch's compiler makes, side by side; what is not ready in time is left out."""
    wanted = [(model, dtype) for model in models for dtype in ("float16", "float32")]
    wanted += [("bloom", "bfloat16")] if "bloom" in models else []
    began = time.monotonic()

    def built(job: tuple[str, str]) -> None:
        command = [sys.executable, __file__, "--build", str(files.folder), files.plain, *job]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = f"{done.returncode} {done.stderr[-900:]}"
        sys.stderr.write(f"built {job} after {time.monotonic() - began:.0f} s: {told}\n")
        for name, packages in files.others if job[1] == "float16" else ():
            command = [sys.executable, __file__, "--build-other", str(files.folder), name, job[0]]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False,
                env={**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            )  # fmt: skip
            sys.stderr.write(f"built {name} {job}: {done.returncode} {done.stderr[-900:]}\n")

    def warmed(job: tuple[str, str]) -> None:
        model, key = job
        warm = Job(model, "warm", "compiled", rows=(key,), seconds=0.01)
        child(warm, files.folder / "warm.jsonl", limit)
        sys.stderr.write(f"warmed {job} after {time.monotonic() - began:.0f} s\n")

    rows = [(model, row.key) for model in models for row in COMPILED[model]]
    with ThreadPoolExecutor(len(wanted) + len(rows)) as pool:
        list(pool.map(lambda pair: pair[0](pair[1]), [*((built, w) for w in wanted), *((warmed, r) for r in rows)]))


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """All variants of all models, as long as there is time."""
    import onnxruntime

    began = time.monotonic()
    events = arguments.out.with_suffix(".jsonl")
    events.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")  # several processes compile at once
    gpu = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True,
        check=False,
    ).stdout.strip()  # fmt: skip
    about = f"{gpu}; onnxruntime-gpu {onnxruntime.__version__}; random weights, float16 unless it says otherwise."
    events.write_text(json.dumps({"about": about}) + "\n", encoding="utf-8")
    others = tuple((name, place) for name, _, place in (other.partition("=") for other in arguments.other))
    files, models = Files(folder, arguments.plain, others), arguments.models.split(",")
    build_all(files, models, arguments.warm)
    sys.stderr.write(f"built after {time.monotonic() - began:.0f} s\n")
    for job in jobs(files, models, arguments.seconds):
        if arguments.columns and job.column not in arguments.columns.split(";"):
            continue
        left = arguments.until - (time.monotonic() - began)
        if left < 8:
            sys.stderr.write(f"no time for {job.model}, {job.column}\n")
            continue
        if not job.torch and not Path(job.path).exists():
            sys.stderr.write(f"no file for {job.model}, {job.column}\n")
            continue
        child(job, events, min(left, arguments.longest))
        sys.stderr.write(f"{time.monotonic() - began:.0f} s: {job.model}, {job.column}\n")
        report(events)
    report(events)


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(gpu_models.MODELS))
    parser.add_argument("--columns", default="", help="only these, with ';' between them")
    parser.add_argument("--plain", default="", help="keyword arguments of Options, as JSON, for one more file")
    parser.add_argument("--other", action="append", default=[], help="NAME=FOLDER with another state of the package")
    parser.add_argument("--seconds", type=float, default=0.25, help="for each figure")
    parser.add_argument("--until", type=float, default=1e9, help="seconds after which no process starts")
    parser.add_argument("--warm", type=float, default=90, help="seconds in which PyTorch may compile ahead")
    parser.add_argument("--longest", type=float, default=60, help="seconds for one process")
    parser.add_argument("--folder", type=Path, help="where the models are written; a temporary one by default")
    parser.add_argument("--report", type=Path, help="make table and record of what a run told")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "h200")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.report)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(arguments.folder or Path(name), arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        build(Files(Path(sys.argv[2]), sys.argv[3]), *sys.argv[4:])
    elif sys.argv[1:2] == ["--build-other"]:
        build_other(Files(Path(sys.argv[2])), *sys.argv[3:])
    else:
        main()
