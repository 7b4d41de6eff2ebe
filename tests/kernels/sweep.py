"""Interpreter checks of the kernels against float64, as a command.

    python tests/kernels/sweep.py                 # everything: about half an hour on one core
    python tests/kernels/sweep.py --step 24       # every 24th combination

Prints a line per failure and a summary; the exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Sequence

import interpreter
import numpy as np
from adversarial import skipping_trials
from alibi_rewriter.kernels.variants import Tile
from cases import Trial, sample, tolerance
from reference import attend
from unfused import unfused_trials

PATHS = (("prefill", 1), ("decode", 1), ("decode", 3))
TILE = Tile(16, 16, 4, 2)


def check(item: Trial, path: str, splits: int) -> float:
    """The largest error of one path, as a share of what is accepted; infinite for NaN."""
    output = interpreter.run(
        item.case, item.dtype, path=path, tile=TILE, mask_dtype=item.mask_dtype, layout=item.layout, splits=splits
    )
    error = float(np.abs(output - attend(item.case)).max())
    return error / tolerance(item) if np.isfinite(error) else float("inf")


def check_skipping(step: int) -> tuple[int, list[str]]:
    """Runs every ``step``-th adversarial input with and without skipping; (checks, failures)."""
    count, failures = 0, []
    for name, case, dtype, bound in itertools.islice(skipping_trials(), 0, None, step):
        tile = Tile(64, 64, 4, 2)
        plain = interpreter.run(case, dtype, path="prefill", tile=tile)
        skipped = interpreter.run(case, dtype, path="prefill", tile=tile, skip=True)
        count += 1
        alike = np.isnan(plain) == np.isnan(skipped)
        worst = float(np.nanmax(np.abs(plain - skipped), initial=0.0))
        if not alike.all() or worst > bound:
            failures.append(f"skipping {name}: differs by {worst:.2e}, allowed {bound:.2e}, NaN alike {alike.all()}")
    return count, failures


def check_unfused() -> tuple[int, list[str]]:
    """The kernel has to be nearer to float64 than the graph that it replaces, computed in its own type."""
    failures, count = [], 0
    for name, case, dtype, emulated in unfused_trials():
        wanted = attend(case)
        fused = interpreter.run(case, dtype, path="prefill", tile=Tile(32, 32, 4, 2))
        ours, theirs = (float(np.linalg.norm(x - wanted) / np.linalg.norm(wanted)) for x in (fused, emulated))
        count += 1
        if not ours < theirs:
            failures.append(f"unfused {name}: the kernel is off by {ours:.1e}, the graph by {theirs:.1e}")
    return count, failures


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Checks the kernels in Triton's interpreter.")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--skipping", action="store_true", help="only the checks of certified skipping")
    parser.add_argument("--unfused", action="store_true", help="only the comparison with the unfused graph")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy: log of zero, inf - inf in lanes that are thrown away
    begin, worst = time.monotonic(), 0.0
    everything = options.step == 1 and not options.unfused
    count, failures = check_skipping(options.step) if options.skipping or everything else (0, [])
    if options.unfused or (everything and not options.skipping):
        more, failed = check_unfused()
        count, failures = count + more, failures + failed
    for item in () if options.skipping or options.unfused else sample(options.step, options.first):
        for path, splits in PATHS:
            share = check(item, path, splits)
            count += 1
            worst = max(worst, share)
            if share > 1.0:
                failures.append(f"{item.name} by {path}/{splits}: {share:.2f} of the accepted error")
    for line in failures:
        sys.stdout.write(f"FAILED {line}\n")
    seconds = time.monotonic() - begin
    sys.stdout.write(f"{count} checks, {len(failures)} failed, worst {worst:.2f} of accepted, {seconds:.0f} s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
