"""Interpreter checks of the kernels against float64, as a command.

    python tests/kernels/sweep.py                 # everything: some twenty minutes on one core
    python tests/kernels/sweep.py --jobs 2        # on two
    python tests/kernels/sweep.py --only samples --step 24
    python tests/kernels/sweep.py --fast          # what CI runs: at least one of everything

Prints a line per failure and a summary; the exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import interpreter
import numpy as np
from adversarial import FAST, every_trial
from alibi_rewriter.kernels.compile.compiler import SELECTION
from alibi_rewriter.kernels.requests import Tile
from cases import (
    DTYPES,
    FAST_LONG_DECODES,
    LONG_DECODE,
    PATHS,
    TILE_SIDE,
    Trial,
    blocks_of,
    covering,
    long_decode,
    relative_error,
    row_masks,
    row_tolerance,
    sample,
)
from poisoned import poisoned, poisoned_trials, share_of
from reference import Array, Case, attend
from unfused import unfused_trials

GROUPS = ("samples", "decode", "skipping", "unfused", "blocks", "hidden")
TILE = Tile(TILE_SIDE, TILE_SIDE, 4, 2)
LONG_TILE = Tile(16, 64, 4, 4)
MOST_STEPS = 5000
FAST_BLOCKS = 5
"""The same of masks with rows."""
FAST_HIDDEN = 11
"""The same of hidden keys that are not finite."""
Check = Callable[[], tuple[str, float]]
"""Says what was checked and which share of the accepted error was found."""


def sampled(item: Trial, path: str, splits: int) -> tuple[str, float]:
    """The largest error of one path, row by row; infinite for NaN."""
    output = interpreter.run(
        item.case, item.dtype, path=path, tile=TILE, mask_dtype=item.mask_dtype, layout=item.layout, splits=splits
    )
    share = float((np.abs(output - attend(item.case)) / row_tolerance(item)).max())
    return f"{item.name} by {path}/{splits}", share if np.isfinite(share) else float("inf")


def decoded(item: Trial, splits: int) -> tuple[str, float]:
    """The error of a decode of a long cache, in the norm."""
    output = interpreter.run(
        item.case, item.dtype, path="decode", tile=LONG_TILE, mask_dtype=item.mask_dtype, layout=item.layout,
        splits=splits,
    )  # fmt: skip
    return f"decode {item.name} in {splits}", relative_error(item, output)


def skipped(name: str, case: Case, dtype: str, bound: float) -> tuple[str, float]:
    """The difference that certified skipping makes; infinite where one of both is NaN and the other is not."""
    tile = Tile(64, 64, 4, 2)
    of_mask = None if case.mask is None else "bool" if case.mask.dtype == bool else "float32"
    reached: list[Array] = []
    plain = interpreter.run(case, dtype, path="prefill", tile=tile, mask_dtype=of_mask)
    less = interpreter.run(case, dtype, path="prefill", tile=tile, mask_dtype=of_mask, skip=True, reached=reached)
    alike = (np.isnan(plain) == np.isnan(less)).all()
    worst = float(np.nanmax(np.abs(plain - less), initial=0.0))
    share = worst / bound if alike else float("inf")
    # What has to keep everything says so; of all else a tile leaves something out, or nothing was tried.
    if name.startswith(
        ("boolean", "lowest", "infinite", "bias soft", "additive soft", "positions left", "both left", "lengths")
    ):
        blocks = -(-case.key.shape[2] // 64)
        first, end = reached[0][..., 0] // 64, np.minimum(reached[0][..., 1] // 64, blocks)
        share = share if (end - first < (blocks if case.symmetric else blocks - 1)).any() else float("inf")
    return f"skipping {name}", share


def compared(name: str, case: Case, dtype: str, emulated: np.ndarray) -> tuple[str, float]:
    """The error in the norm, as a share of that of the graph that the kernel replaces, computed in its own type."""
    wanted = attend(case)
    fused = interpreter.run(case, dtype, path="prefill", tile=Tile(32, 32, 4, 2))
    ours, theirs = (float(np.linalg.norm(x - wanted)) for x in (fused, emulated))
    return f"unfused {name}", ours / theirs


def looked_at(item: Trial, block_n: int) -> tuple[str, float]:
    """How many blocks the launch that looks at a mask with rows takes for what they are not; 0 is accepted."""
    case = item.case
    found = interpreter.looked_at(case, item.mask_dtype, block_n)
    wrong = sum(int((ours != theirs).sum()) for ours, theirs in zip(found, blocks_of(case, block_n), strict=True))
    return f"blocks of {block_n} keys {item.name}", float("inf") if wrong else 0.0


def unnoticed(item: Trial, path: str, splits: int, bad: Array, held: float) -> tuple[str, float]:
    """The error where rows do not see keys that hold NaN or an infinity; infinite if a row that sees one is finite."""
    output = interpreter.run(
        poisoned(item.case, bad, held), item.dtype, path=path, tile=TILE, mask_dtype=item.mask_dtype,
        layout=item.layout, splits=splits,
    )  # fmt: skip
    return f"{held} hidden in {item.name} by {path}/{splits}", share_of(item, bad, output)


def long_decodes(fast: bool) -> Iterator[tuple[Trial, int]]:
    """The decodes of long caches in as many chunks as can be; unless ``fast``, also in one."""
    for index in FAST_LONG_DECODES if fast else range(len(LONG_DECODE)):
        item = long_decode(index, DTYPES[index % len(DTYPES)])
        if item.steps("decode") <= MOST_STEPS:
            most = max(1, min(SELECTION.max_splits, item.case.key.shape[2] // SELECTION.min_keys))
            yield from ((item, splits) for splits in sorted({most} if fast else {1, most}))


def checks(groups: Sequence[str], fast: bool, step: int, first: int) -> Iterator[Check]:
    """Every ``step``-th check of each group, or the fast subset of them."""
    every = slice(first % step, None, step)

    def chosen(found: Iterator[Check]) -> Iterator[Check]:
        return itertools.islice(found, every.start, None, every.step)

    if "samples" in groups:
        of_samples = covering() if fast else ((item, *path) for item in sample() for path in PATHS)
        yield from chosen(functools.partial(sampled, *entry) for entry in of_samples)
    if "decode" in groups:
        yield from chosen(functools.partial(decoded, *entry) for entry in long_decodes(fast))
    if "skipping" in groups:
        of_skipping = itertools.islice(every_trial(), 0, None, FAST if fast else 1)
        yield from chosen(functools.partial(skipped, *entry) for entry in of_skipping)
    if "blocks" in groups:
        trials = itertools.islice(row_masks(), 0, None, FAST_BLOCKS if fast else 1)
        yield from chosen(functools.partial(looked_at, item, size) for item in trials for size in (64, 128))
    if "hidden" in groups:
        hidden = itertools.islice(poisoned_trials(), 0, None, FAST_HIDDEN if fast else 1)
        yield from chosen(functools.partial(unnoticed, *entry) for entry in hidden)
    if "unfused" in groups:
        yield from chosen(functools.partial(compared, *entry) for entry in unfused_trials())


def run(part: int, parts: int, groups: Sequence[str], fast: bool, step: int, first: int) -> list[tuple[str, float]]:
    """One of several parts of the checks."""
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy: log of zero, inf - inf in lanes that are thrown away
    return [check() for check in itertools.islice(checks(groups, fast, step, first), part, None, parts)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Checks the kernels in Triton's interpreter.")
    parser.add_argument("--only", choices=GROUPS, action="append", help="a group of checks; may be repeated")
    parser.add_argument("--fast", action="store_true", help="the subset that CI runs")
    parser.add_argument("--step", type=int, default=1, help="every so many checks of a group")
    parser.add_argument("--first", type=int, default=0, help="which of them comes first")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    if options.step < 1 or options.jobs < 1:
        parser.error("--step and --jobs have to be positive")
    begin = time.monotonic()
    settings = (options.only or GROUPS, options.fast, options.step, options.first)
    if options.jobs == 1:
        results = run(0, 1, *settings)
    else:
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = [pool.submit(run, part, options.jobs, *settings) for part in range(options.jobs)]
            results = [result for part in parts for result in part.result()]
    failures = [(name, share) for name, share in results if not share <= 1.0]
    for name, share in failures:
        sys.stdout.write(f"FAILED {name}: {share:.2f} of what is accepted\n")
    worst = max((share for _, share in results), default=0.0)
    seconds = time.monotonic() - begin
    sys.stdout.write(f"{len(results)} checks, {len(failures)} failed, worst {worst:.2f} of accepted, {seconds:.0f} s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
