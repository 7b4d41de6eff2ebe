"""Measures the kernels and their peers in one run and writes the table.

    python benchmarks/kernels/bench.py --output results/          # everything
    python benchmarks/kernels/bench.py --only prefill --no-peers

Needs a CUDA device, PyTorch and, for bundles that are not in ``--bundles`` yet, Triton.  Times are medians of
CUDA-event intervals around single launches that rotate over buffers larger together than the L2 cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from alibi_rewriter.kernels.compile.cache import cached_bundle
from alibi_rewriter.kernels.compile.compiler import Worker
from alibi_rewriter.kernels.launch.launcher import Bundle
from inputs import Buffers, Run, extras_of, inputs_of, median_ms, slopes
from peers import peers
from shapes import INPUTS, Shape

PREFILL = tuple(
    Shape(batch, heads, heads, length, length, depth, causal)
    for batch, heads, length, depth, causal in (
        (4, 16, 2048, 64, True), (1, 32, 2048, 64, True), (1, 32, 8192, 64, True), (1, 32, 2048, 128, True),
        (4, 16, 4096, 128, True), (1, 32, 8192, 128, True), (1, 16, 16384, 128, True), (32, 12, 512, 64, False),
        (4, 16, 4096, 64, False), (1, 12, 8192, 64, False),
    )
)  # fmt: skip
DECODE = (
    Shape(16, 32, 32, 1, 8192, 128, True, "float16"),
    Shape(1, 32, 32, 1, 32768, 128, True, "float16"),
    Shape(1, 32, 4, 1, 131072, 128, True, "float16"),
    Shape(8, 32, 4, 1, 32768, 128, True, "float16"),
)
OTHERS = (
    Shape(4, 16, 16, 4096, 4096, 64, True, "float16"), Shape(4, 16, 16, 4096, 4096, 128, True, "float16"),
    Shape(4, 16, 16, 4096, 4096, 80, True), Shape(4, 16, 16, 4096, 4096, 96, True),
    Shape(2, 8, 8, 4096, 4096, 256, True), Shape(2, 8, 8, 2048, 2048, 64, True, "float32"),
    Shape(4, 16, 16, 4096, 4096, 128, False), Shape(4, 16, 16, 1024, 8192, 128, True),
    Shape(4, 32, 8, 4096, 4096, 128, True), Shape(4, 16, 16, 4096, 4096, 32, True),
    Shape(2, 8, 8, 4096, 4096, 160, True), Shape(2, 8, 8, 4096, 4096, 256, False),
    Shape(4, 16, 16, 4096, 4096, 64, False, "float16"), Shape(64, 12, 12, 256, 256, 64, False),
    Shape(16, 12, 12, 1024, 1024, 64, False),
)  # fmt: skip
VARIED = (
    Shape(4, 16, 16, 4096, 4096, 128, True), Shape(1, 32, 32, 8192, 8192, 64, True),
    Shape(32, 12, 12, 512, 512, 64, False),
)  # fmt: skip
SHARP = tuple(
    dataclasses.replace(shape, dtype=dtype, spread=spread, sink=sink)
    for shape in (
        Shape(1, 32, 32, 4096, 4096, 128, True), Shape(8, 16, 16, 2048, 2048, 64, True),
        Shape(64, 12, 12, 512, 512, 64, False),
    )
    for dtype in ("float16", "bfloat16")
    for spread, sink in (
        (1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (6.0, 0.0), (12.0, 0.0), (24.0, 0.0), (1.0, 12.0), (1.0, 45.0),
    )
)  # fmt: skip
"""Trained models have sharp scores, and keys that all rows look at; normal inputs have neither."""
FLAT = 1e-6
"""Slopes of rows with a sink, of the usual ones: with those the bias would outweigh a sink that is far away."""


class Ours:
    """The kernels, from bundles compiled on demand."""

    def __init__(self, root: Path, worker: Worker) -> None:
        self.root, self.worker = root, worker
        major, minor = torch.cuda.get_device_capability()
        self.arch = 10 * major + minor
        self.kept: list[Any] = []

    def runs(self, shape: Shape, sets: list[tuple[Any, Any, Any]], *, skip: bool = False,
             slope_factor: float = 1.0) -> list[Run]:  # fmt: skip
        """One prepared run per set of inputs."""
        path = cached_bundle(
            shape.request, self.root, [self.arch], layouts=(shape.layout,), skip=skip, worker=self.worker
        )
        bundle = Bundle(path)
        slope, extras = slopes(shape.heads) * slope_factor, extras_of(shape)
        found: list[Run] = []
        stream = torch.cuda.current_stream().cuda_stream
        for each in sets:
            buffers = Buffers.of(each, slope, *extras)
            plan = bundle.plan(buffers.call)
            workspace = torch.empty(plan.workspace_bytes + 256, dtype=torch.uint8, device="cuda")
            found.append(bundle.prepare(plan, -(-workspace.data_ptr() // 256) * 256, stream))
            self.kept.append((buffers, workspace, bundle))
        return found

    def forget(self) -> None:
        """Frees the buffers of the runs so far."""
        self.kept.clear()
        torch.cuda.empty_cache()


def difference(found: Any, wanted: Any) -> float:
    """Between two results, in the norm, relative to the second."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def attempt(
    name: str, make: Callable[[], list[Run]], repeat: int, wanted: Any = None, accepts: float | None = None
) -> dict[str, Any]:
    """A time, or why there is none.

    Args:
        name: For the table.
        make: Gives the runs.
        repeat: Launches.
        wanted: What the first run has to compute.
        accepts: How far it may be from that; None does not look.
    """
    try:
        runs = make()
        row: dict[str, Any] = {"name": name}
        if wanted is not None and accepts is not None:
            row["difference"] = difference(runs[0](), wanted)
            if not row["difference"] <= accepts:
                return {**row, "error": f"another function: differs from ours by {row['difference']:.1e}"}
        return {**row, "ms": median_ms(runs, repeat)}
    except Exception as error:  # noqa: BLE001 - a peer that cannot run is a result
        torch.cuda.synchronize()
        return {
            "name": name,
            "error": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}",
        }


def measure(ours: Ours, shape: Shape, wanted: Sequence[str], repeat: int, skip: bool) -> dict[str, Any]:
    """All figures of one row; peers whose names hold one of ``wanted``."""
    sets = inputs_of(shape)
    factor = FLAT if shape.sink else 1.0
    rows = [attempt("ours", lambda: ours.runs(shape, sets, slope_factor=factor), repeat)]
    wanted_result = ours.kept[0][0].output.clone() if "ms" in rows[0] else None
    if skip:
        rows.append(attempt("ours, certified skip", lambda: ours.runs(shape, sets, skip=True), repeat))
        # Flat slopes leave nothing to skip.  They change the rate of the plain kernel, too, by a few per cent,
        # so skipping is compared with the plain kernel under flat slopes.
        for name, skipping in (("ours, flat slopes", False), ("ours, flat slopes, skipping switched on", True)):
            flat = functools.partial(ours.runs, shape, sets, skip=skipping, slope_factor=1e-6)
            rows.append(attempt(name, flat, repeat))
    for name, peer in peers(shape, sets).items():
        # Peers with a bias have the usual slopes.
        if any(part in name for part in wanted) and not (shape.sink and peer.accepts is not None):
            rows.append(attempt(name, peer.make, repeat, wanted_result, peer.accepts))
    ours.forget()
    for row in rows:
        if "ms" in row:
            row["tflops"] = shape.flops / row["ms"] / 1e9
            row["tbytes"] = shape.cache_bytes / row["ms"] / 1e9
    return {"shape": shape.title, "rows": rows}


def environment() -> dict[str, str]:
    """What the figures were measured on."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    commit = done.stdout.strip() if done.returncode == 0 else ""
    found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": str(torch.version.cuda)}
    found["python"] = platform.python_version()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found["driver"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found["driver"] = "unknown"
    found["cudnn"] = str(torch.backends.cudnn.version())
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = "not installed"
    found["commit"] = commit or "not in a repository"
    return found


def copy_tbytes(repeat: int) -> float:
    """Bandwidth of a device-to-device copy, bytes read plus bytes written."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_ms([lambda: target.copy_(source)], repeat) / 1e9


SECTIONS = (
    ("prefill", "tflops"), ("others", "tflops"), ("sharp", "tflops"), ("inputs", "tflops"), ("decode", "tbytes"),
)  # fmt: skip
"""Of the table, with the rate that is told."""


def markdown(document: dict[str, Any]) -> str:
    """The same figures for people."""
    lines = ["# Kernel benchmark", ""]
    lines += [f"- {name}: {value}" for name, value in document["environment"].items()]
    lines += [f"- device copy: {document['copy_tbytes']:.2f} TB/s", ""]
    for section, unit in SECTIONS:
        if document.get(section):
            label = "TFLOP/s, counted without skipping" if unit == "tflops" else "TB/s of keys and values"
            lines += [f"## {section} ({label})", ""]
            lines += ["| B H S D | what | ms | rate | differs from ours by |", "|---|---|---|---|---|"]
            for entry in document[section]:
                for row in entry["rows"]:
                    figures = f"{row['ms']:.4f} | {row[unit]:.2f}" if "ms" in row else f"- | {row['error']}"
                    differs = f"{row['difference']:.1e}" if "difference" in row else "-"
                    lines.append(f"| {entry['shape']} | {row['name']} | {figures} | {differs} |")
            lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measures the ALiBi attention kernels and their peers.")
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--bundles", type=Path, default=Path("build/kernels"))
    parser.add_argument("--only", choices=("prefill", "decode", "others", "sharp", "inputs"), action="append")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--peer", action="append", help="only peers with this in their name; may be repeated")
    parser.add_argument("--repeat", type=int, default=40)
    options = parser.parse_args(arguments)
    sections = options.only or ["prefill", "decode", "others", "sharp", "inputs"]
    wanted = [] if options.no_peers else options.peer or [""]
    torch.manual_seed(0)
    torch.zeros(1, device="cuda")
    options.output.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"environment": environment(), "copy_tbytes": copy_tbytes(options.repeat)}
    with Worker() as worker:
        ours = Ours(options.bundles, worker)
        for section, shapes in (("prefill", PREFILL), ("decode", DECODE), ("others", OTHERS), ("sharp", SHARP)):
            if section in sections:
                document[section] = []
                for shape in shapes:
                    entry = measure(ours, shape, wanted, options.repeat, section == "prefill")
                    document[section].append(entry)
                    sys.stdout.write(json.dumps(entry) + "\n")
                    sys.stdout.flush()
                    (options.output / "kernels.json").write_text(json.dumps(document, indent=1))
        if "inputs" in sections:
            document["inputs"] = []
            for shape in VARIED:
                sets = inputs_of(shape)
                rows = []
                for extra in INPUTS if shape.causal else [x for x in INPUTS if x != "positions"]:
                    varied = dataclasses.replace(shape, extra=extra)
                    rows.append(attempt(extra, functools.partial(ours.runs, varied, sets), options.repeat))
                    if "ms" in rows[-1]:
                        rows[-1]["tflops"] = shape.flops / rows[-1]["ms"] / 1e9
                    ours.forget()
                document["inputs"].append({"shape": shape.title, "rows": rows})
                sys.stdout.write(json.dumps(document["inputs"][-1]) + "\n")
    (options.output / "kernels.json").write_text(json.dumps(document, indent=1))
    (options.output / "kernels.md").write_text(markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
