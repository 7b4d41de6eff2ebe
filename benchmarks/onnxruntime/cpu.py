"""Originals, rewritten models and their rivals in onnxruntime on this CPU: one command, one table.

    python benchmarks/onnxruntime/cpu.py [--lengths 1,8,128,512,2048,8192] [--out results/cpu.md]

Variants run in turn within one process; each figure is the median of one-thread CPU time over several rounds, so a
busy machine disturbs all alike.  Peak memory is that of a child that makes the session and runs it once.  OpenVINO and
PyTorch take part where they can be imported.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alibi_rewriter
import numpy as np
import onnx
from alibi_rewriter.rewriter.pipeline import Options, rewrite
from alibi_rewriter.runtime.session import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))
import models

KINDS = ("encoder", "decoder")
WHAT = ("attention", "model")
VARIANTS = ("original", "function", "standard", "openvino", "sdpa", "none", "underflow", "certified")
OURS = ("none", "underflow", "certified")
MEANING = {
    "original": "onnxruntime, the original",
    "function": "onnxruntime, the rewritten file, nothing registered",
    "standard": "onnxruntime's operator Attention with the bias as its mask",
    "openvino": "OpenVINO, the original, float32",
    "sdpa": "PyTorch scaled_dot_product_attention with the bias, attention alone",
    "none": "the rewritten file on our kernels, nothing skipped",
    "underflow": "our kernels as they come",
    "certified": "our kernels, skipping below 2^-24",
}


def write_models(folder: Path) -> None:
    """The originals, with the operator Attention, and rewritten."""
    for what in WHAT:
        build = models.attention if what == "attention" else models.transformer
        for kind in KINDS:
            for standard in (False, True):
                name = f"{what}-{kind}" + ("-standard" if standard else "")
                onnx.save_model(build(kind, standard), folder / f"{name}.onnx")
            source = folder / f"{what}-{kind}.onnx"
            rewrite(source, folder / f"{what}-{kind}-fused.onnx", options=Options(verify=False))


def prepare(folder: Path, what: str, kind: str, variant: str, given: dict[str, Any]) -> Callable[[], Any]:
    """A function that runs a variant once.  Raises ImportError where a rival is not installed."""
    source = folder / f"{what}-{kind}.onnx"
    if variant == "openvino":
        import openvino

        hints = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(str(source), "CPU", hints)
        request = compiled.create_infer_request()
        return lambda: request.infer(given)
    if variant == "sdpa":
        return _torch(what, kind, given)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if variant in OURS:
        session = alibi_rewriter.InferenceSession(source.with_stem(f"{source.stem}-fused"), options, skip=variant)
        claim = alibi_rewriter.claimed_nodes(session)
        assert claim.claimed == claim.fused > 0, claim
    else:
        stem = {"original": source.stem, "function": f"{source.stem}-fused", "standard": f"{source.stem}-standard"}[
            variant
        ]
        session = onnxruntime.InferenceSession(source.with_stem(stem), options, providers=["CPUExecutionProvider"])
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
    return lambda: session.run_with_ort_values(["y"], values)


def _torch(what: str, kind: str, given: dict[str, Any]) -> Callable[[], Any]:
    import torch

    if what == "model":
        raise ImportError("attention alone")
    torch.set_num_threads(1)
    q, k, v = (torch.from_numpy(given[name]) for name in "qkv")
    place = np.arange(q.shape[2], dtype=np.float32)
    distance = place[None] - place[:, None]
    slope = models.slopes(models.HEADS[kind])[:, None, None]
    bias = slope * -np.abs(distance) if kind == "encoder" else np.where(distance > 0, models.LOWEST, slope * distance)
    mask = torch.from_numpy(bias.astype(np.float32))[None]
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time of each, medians over alternating rounds."""
    first = {}
    for name, run in runs.items():
        run()
        start = time.process_time()
        run()
        first[name] = time.process_time() - start
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            inner = max(1, int(0.02 / max(first[name], 1e-5)))
            start = time.process_time()
            for _ in range(inner):
                run()
            times[name].append((time.process_time() - start) / inner)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def peak(folder: Path, what: str, kind: str, variant: str, length: int) -> int | None:
    """Peak MiB of a child that makes the session and runs it once."""
    command = [sys.executable, __file__, "--child", str(folder), what, kind, variant, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def child(folder: str, what: str, kind: str, variant: str, length: str) -> None:
    """Prints the peak of the resident memory in MiB, as the kernel counts it for this program alone."""
    given = models.feeds(what, kind, 1, int(length))
    prepare(Path(folder), what, kind, variant, given)()
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    sys.stdout.write(str(peak_kib // 1024))


def table(folder: Path, what: str, kind: str, lengths: list[int], rounds: int, memory: int) -> list[str]:
    """A section of the report."""
    lines = [f"## {what}, {kind}", "", "ms of CPU time (original / this)", ""]
    rows: dict[int, dict[str, float]] = {}
    for length in lengths:
        given = models.feeds(what, kind, 1, length)
        runs = {}
        for variant in VARIANTS:
            if variant in ("function", "standard", "none") and length > 4096:
                continue  # slow, and no rival
            try:
                runs[variant] = prepare(folder, what, kind, variant, given)
            except ImportError:
                continue
        rows[length] = measure(runs, rounds if length <= 2048 else 3)
        sys.stderr.write(f"{what} {kind} {length}: {rows[length]}\n")
    names = [variant for variant in VARIANTS if any(variant in row for row in rows.values())]
    lines += ["| length | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for length, row in rows.items():
        cells = [f"{row[n]:.3g} ({row['original'] / row[n]:.2f})" if n in row else "-" for n in names]
        lines.append(f"| {length} | " + " | ".join(cells) + " |")
    if memory:
        found = {n: peak(folder, what, kind, n, memory) for n in ("original", "openvino", "underflow") if n in names}
        lines += [
            "",
            f"Peak memory of a process that runs it once at {memory} tokens, MiB: "
            + ", ".join(f"{n} {m}" for n, m in found.items()),
        ]
    return [*lines, ""]


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, default=8192, help="length for peak memory; 0 leaves it out")
    parser.add_argument("--what", default=",".join(WHAT))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cpu.md")
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    report = [
        "# onnxruntime on a CPU",
        "",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread; ",
    ]
    report[-1] += (
        f"onnxruntime {onnxruntime.__version__}, load {os.getloadavg()[0]:.1f} at the start; batch 1, float32."
    )
    report += ["", *(f"* `{name}`: {meaning}" for name, meaning in MEANING.items()), ""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for what in arguments.what.split(","):
            for kind in KINDS:
                report += table(folder, what, kind, lengths, arguments.rounds, arguments.memory)
    arguments.out.write_text("\n".join(report))


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
