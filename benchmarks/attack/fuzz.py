"""The long fuzzing run: broken models against the whole pass.

``python benchmarks/attack/fuzz.py --count 100000 --seed 1 --jobs 2`` prints outcomes with the numbers of some inputs,
saves the inputs of all others than verdicts and clear errors, and ends with status 1 if there were any.
``tests/fuzzing.py`` makes the inputs; seed and number decide an input, whatever ``--jobs`` is.
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
    parser.add_argument("--first", type=int, default=0, help="the number to begin with")
    parser.add_argument("--part", type=int, default=5_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path("fuzz-findings"), help="folder for inputs that are findings")
    options = parser.parse_args()
    start = time.perf_counter()
    total: dict[str, list[int]] = {}
    end = options.first + options.count
    for first in range(options.first, end, options.part):
        count = min(options.part, end - first)
        for outcome, numbers in fuzzing.fuzz(options.seed, first, count, options.jobs).items():
            total.setdefault(outcome, []).extend(numbers)
            if outcome not in fuzzing.FINE:
                save(options.save, options.seed, numbers)
        told = ", ".join(
            f"{name[:160]} {len(n)} {n[:2]}" for name, n in sorted(total.items(), key=lambda e: -len(e[1]))
        )
        print(f"seed {options.seed} up to {first + count}, {time.perf_counter() - start:.0f} s: {told}", flush=True)
    return 0 if set(total) <= set(fuzzing.FINE) else 1


def save(folder: Path, seed: int, numbers: list[int]) -> None:
    """Keep the first inputs of a finding as files named by seed and number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers[:5]:
        (folder / f"{seed}-{number}.onnx").write_bytes(fuzzing.made(seed, number))


if __name__ == "__main__":
    sys.exit(main())
