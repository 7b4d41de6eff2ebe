"""Time, memory and size of engine builds with TensorRT-RTX on a CPU.

    python benchmarks/engine/build.py MODEL... [--output results/]

Each model is rewritten once; then every strategy is built for every set of targets, kernels compiled anew (empty cache)
and again (full cache).  One build per row; times are of the whole build, the memory is that of the child process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from alibi_rewriter import Options, rewrite
from alibi_rewriter.engine.build import build_engine
from alibi_rewriter.engine.options import EngineOptions

TARGETS = ((89,), (80, 86, 89, 120))
HEADER = "| model | fused | strategy | targets | kernels | seconds | of them TensorRT | child's peak MiB | engine MiB |"


def rows(model: Path, folder: Path) -> Iterator[str]:
    """One line per build."""
    rewritten = folder / f"{model.stem}.alibi.onnx"
    rewrite(model, rewritten, options=Options(verify=False))
    for strategy in ("plugin", "native"):
        for targets in TARGETS:
            for kernels in ("compiled", "cached") if strategy == "plugin" else ("-",):
                if kernels == "compiled":
                    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=folder)
                started = time.perf_counter()
                options = EngineOptions(backend="tensorrt-rtx", strategy=strategy, targets=targets)
                facts = build_engine(rewritten, folder / "engine", options)
                seconds = time.perf_counter() - started
                names = " ".join(f"sm_{t}" for t in targets)
                yield (
                    f"| {model.stem} | {facts.expected or '-'} | {strategy} | {names} | {kernels} | {seconds:.1f} | "
                    f"{facts.seconds:.1f} | {facts.peak_bytes / 2**20:.0f} | {facts.bytes / 2**20:.1f} |"
                )


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [HEADER, "|---|---|---|---|---|---|---|---|---|"]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for line in rows(model, Path(folder)):
                print(line, flush=True)
                lines.append(line)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        note = "Builds with TensorRT-RTX on a CPU (`benchmarks/engine/build.py`); one run, nothing was executed.\n\n"
        (options.output / "builds.md").write_text(note + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
