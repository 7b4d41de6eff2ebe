"""Two checkouts in one run: how much longer the pass takes in this one than in another, and whether it writes the same.

    git worktree add ../before v1.2 && python benchmarks/pass/compare.py ../before

Both rewrite the same models (``models.py``) in child processes that take turns.  Compared is the time of the processor,
not that of a clock; the first pair only warms up.  Two processes that run one after the other find the machine in the
same state more or less, so the ratio is taken pair by pair, and its median is printed.  Where other work shares the
processor, the times of a pair still differ by a tenth; the ratio of calls of functions, which stands beside, does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from models import EXPORTS, model_of

HERE = Path(__file__).resolve().parents[2]

CHILD = """
import cProfile, json, pstats, sys, time
from alibi_rewriter import Options, rewrite
rewrite(sys.argv[4], options=Options(verify=False))  # imports what is imported late
profile = cProfile.Profile() if sys.argv[3] == "calls" else None
started = time.process_time()
if profile is not None:
    profile.enable()
result = rewrite(sys.argv[1], sys.argv[2], options=Options(verify=False))
if profile is not None:
    profile.disable()
seconds = time.process_time() - started
print("RESULT", json.dumps([pstats.Stats(profile).total_calls if profile else seconds, len(result.fused)]))
"""


@dataclass(frozen=True)
class Run:
    """One rewrite.

    Attributes:
        cost: Seconds of a processor, without imports; or calls of functions.
        fused: Sites that were rewritten.
        written: The output's bytes.
    """

    cost: float
    fused: int
    written: bytes


def run(checkout: Path, model: Path, small: Path, what: str) -> Run:
    """Rewrite a model with a checkout, in a process of its own that has rewritten a small one before.

    Args:
        checkout: The checkout.
        model: The model.
        small: The small one.
        what: Counted are ``seconds`` or ``calls``.

    Raises:
        RuntimeError: It fails; the message holds what it said.
    """
    # A checkout is the package itself: it is imported by a name that its folder need not have.
    folder = model.parent
    packages = folder / ("here" if checkout == HERE else "there")
    packages.mkdir(exist_ok=True)
    link = packages / "alibi_rewriter"
    if not link.exists():
        link.symlink_to(checkout, target_is_directory=True)
    target = folder / "out.onnx"
    target.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(model), str(target), what, str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        raise RuntimeError(f"{checkout}: {done.stderr[-2000:]}")
    cost, fused = json.loads(found[0].removeprefix("RESULT "))
    return Run(cost, fused, target.read_bytes())


def main() -> int:
    """Compare; the exit status is 1 if the two write different models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout to compare with")
    parser.add_argument("--layers", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--exporters", nargs="+", choices=EXPORTS, default=list(EXPORTS))
    options = parser.parse_args()
    status = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for exporter in options.exporters:
            model, small = (folder / f"bloom-{exporter}-{size}.onnx" for size in (f"{options.layers}", "small"))
            onnx.save(model_of(exporter, options.layers), model)
            onnx.save(model_of(exporter, 2), small)
            checkouts = (HERE, options.other.resolve())
            pairs = []
            for number in range(options.rounds + 1):
                # Neither is always the first.
                order = (0, 1) if number % 2 else (1, 0)
                made = {place: run(checkouts[place], model, small, "seconds") for place in order}
                pairs.append((made[0], made[1]))
            own, other = ([pair[place].cost for pair in pairs[1:]] for place in (0, 1))
            ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
            calls = [run(checkout, model, small, "calls").cost for checkout in checkouts]
            same = all(mine.written == theirs.written for mine, theirs in pairs)
            status |= not same
            low, high = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else (ratios[0], ratios[0])
            print(
                f"{exporter}, {options.layers} layers, {pairs[0][0].fused} fused: "
                f"ratio {statistics.median(ratios):.3f}, half of the pairs {low:.3f} to {high:.3f}; "
                f"at least {min(own):.2f} s here, {min(other):.2f} s there; calls {calls[0] / calls[1]:.3f}; "
                f"{'the same bytes' if same else 'OTHER BYTES'}",
                flush=True,
            )
    return status


if __name__ == "__main__":
    sys.exit(main())
