"""The long fuzzing run: broken models against load, find and prove.

``python benchmarks/attack/fuzz.py --count 100000 --seed 1`` prints outcomes with the numbers of some inputs, and ends
with status 1 if anything but a verdict or a clear error came out.  ``tests/fuzzing.py`` makes the inputs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import fuzzing


def main() -> int:
    """Fuzz, with a line per part, so that an interrupted run is not lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", type=int, default=5_000)
    options = parser.parse_args()
    start = time.perf_counter()
    total: dict[str, list[int]] = {}
    for first in range(0, options.count, options.part):
        count = min(options.part, options.count - first)
        for outcome, numbers in fuzzing.fuzz(options.seed, first, count).items():
            total.setdefault(outcome, []).extend(numbers)
        told = ", ".join(
            f"{name[:120]} {len(n)} {n[:2]}" for name, n in sorted(total.items(), key=lambda e: -len(e[1]))
        )
        print(f"{first + count} inputs, {time.perf_counter() - start:.0f} s: {told}", flush=True)
    return 0 if set(total) <= {"verdict", "rejected"} else 1


if __name__ == "__main__":
    sys.exit(main())
