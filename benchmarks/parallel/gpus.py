"""One GPU against several: a model whole, and cut by `rewrite --tensor-parallel`, in one run.

    python benchmarks/parallel/gpus.py [--ranks 2] [--models bloom,mpt] [--layers 6] [--out results/h200x2]
    python benchmarks/parallel/gpus.py --dry

Shapes are BLOOM-7b1's and MPT-7B's with fewer layers and random weights in float16, written as exporters write them
(``benchmarks/onnxruntime/gpu_models.py``).  Needs onnxruntime-gpu, NCCL and Triton; PyTorch for the share of NCCL.  The
ranks are processes of this program; torchrun is not needed.  Latency is wall time with inputs and outputs on the device
and a CUDA graph, a median of a fixed number of runs, of the slowest rank.  Memory is what the GPU holds more at the end
than before the process started.  Outputs are compared with those of one GPU.

``--dry`` does the same on the CPU with small models, except for the ranks: cutting is tried, running is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onnxruntime"))
import gpu_models
from report import report
from shapes import Job, Run, shapes

HERE = Path(__file__).parent

LONGEST = 900.0
"""Seconds for the processes of one measurement."""


def say(text: str) -> None:
    """Progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def build(folder: Path, model: str, ranks: int, dry: bool) -> tuple[Path, Path | None]:
    """The whole model rewritten, and the folder of its ranks; None where this version cannot cut."""
    from alibi_rewriter import Options, rewrite

    source = folder / f"{model}.onnx"
    gpu_models.write(model, "float32" if dry else "float16", source)
    whole = folder / f"{model}.alibi.onnx"
    assert rewrite(source, whole, options=Options(verify=False)).output is not None
    parts = folder / f"{model}-ranks"
    command = [sys.executable, "-m", "alibi_rewriter", str(source), "--tensor-parallel", str(ranks), "-o", str(parts)]
    # Large models are not run to be verified here; the outputs are compared below.
    done = subprocess.run([*command, *(() if dry else ("--no-verify",))], capture_output=True, text=True, check=False)
    say(f"{model}: cut into {ranks} ({done.returncode}): {' '.join((done.stdout + done.stderr).split())[-300:]}")
    if done.returncode:
        return whole, None
    if not dry:
        with_kernels(whole)
        for rank in range(ranks):
            with_kernels(parts / f"rank{rank}.onnx")
    return whole, parts


def with_kernels(path: Path) -> None:
    """Attaches the kernels for the GPU that is here, so that no process has to compile any."""
    import onnx
    from alibi_rewriter.runtime.gpu import gpu_at, prepare

    gpu = gpu_at(0)
    assert gpu is not None, "no GPU"
    prepared = prepare(onnx.load(path, load_external_data=False), path.parent, gpu)
    assert not prepared.as_functions, prepared.as_functions
    if prepared.content is not None:
        path.write_bytes(prepared.content)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def measure(job: Job, ranks: int) -> list[dict[str, Any]]:
    """What the processes of a job tell; none is left behind when one fails or the time is up."""
    told, running, port = [], [], free_port()
    for rank in range(ranks):
        here = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_PORT": port - 1}
        environment = {**os.environ, **{k: str(v) for k, v in here.items()}, "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-u", str(HERE / "child.py"), json.dumps(dataclasses.asdict(job))]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    until = time.monotonic() + LONGEST
    try:
        for rank, each in enumerate(running):
            out, _ = each.communicate(timeout=max(1.0, until - time.monotonic()))
            told += [{"rank": rank, **json.loads(line)} for line in out.splitlines() if line.startswith("{")]
            if each.returncode:
                told.append({"rank": rank, "failed": f"ended with {each.returncode}"})
    except subprocess.TimeoutExpired:
        told.append({"failed": f"not ready within {LONGEST:g} s"})
    finally:
        for each in running:
            each.kill()
            each.wait()
    return told


def about(dry: bool) -> str:
    """What was measured on what."""
    import onnxruntime

    if dry:
        return f"dry run on the CPU, onnxruntime {onnxruntime.__version__}: no figure means anything"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpus = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return (
        f"{len(gpus)} x {gpus[0] if gpus else '?'}; onnxruntime-gpu {onnxruntime.__version__}; random weights, float16"
    )


def main() -> None:
    """Builds, measures, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bloom,mpt")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", default="prefill 4 2048,decode 1 8192,decode 8 8192")
    parser.add_argument("--runs", type=int, default=20, help="for each figure")
    parser.add_argument("--until", type=float, default=1e9, help="seconds after which nothing new is started")
    parser.add_argument("--folder", type=Path, help="where the models are written; a temporary one by default")
    parser.add_argument("--dry", action="store_true", help="small models on the CPU")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpus")
    given = parser.parse_args()
    began = time.monotonic()
    rows = tuple(("prefill 2 48,decode 1 64" if given.dry else given.rows).split(","))
    record: dict[str, Any] = {"about": about(given.dry), "layers": given.layers, "ranks": given.ranks, "models": {}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        for model in given.models.split(","):
            gpu_models.MODELS.update(shapes(given.layers, given.dry))
            whole, parts = build(folder, model, given.ranks, given.dry)
            say(f"{model}: built after {time.monotonic() - began:.0f} s")
            runs = [Run(1, str(whole), "")]
            if parts is not None and not given.dry:
                runs.append(Run(given.ranks, str(parts), str(parts / "manifest.json")))
            found = record["models"].setdefault(model, {})
            for run in runs:
                if time.monotonic() - began > given.until:
                    say(f"no time for {model} on {run.ranks}")
                    continue
                job = Job(model, run, given.layers, rows, given.runs, str(folder), given.dry)
                found[str(run.ranks)] = measure(job, run.ranks)
                say(f"{model} on {run.ranks}: done after {time.monotonic() - began:.0f} s")
                report(record, given.out)
    report(record, given.out)


if __name__ == "__main__":
    main()
