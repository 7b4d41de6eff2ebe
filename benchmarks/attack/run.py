"""The long attack: random true models and near misses against the pass, judged by onnxruntime alone.

``python benchmarks/attack/run.py --count 10000 --seed 1 --jobs 2`` prints a table and ends with status 1 if
any fused model differs from its original or the pass crashed.  Each such case is shrunk to a small model file.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import generator

Row = tuple[generator.Spelling, str, str, str, bool]


def one(job: tuple[int, int, bool]) -> Row:
    """Attack with case ``index`` of a seed."""
    seed, index, near = job
    rng = random.Random(f"{seed}-{index}-{near}")
    miss = generator.MISSES[index % len(generator.MISSES)] if near else ""
    spelling = generator.sample(rng, miss)
    try:
        verdict = generator.attack(spelling)
    except Exception as error:  # noqa: BLE001 - an original that onnxruntime cannot run is the generator's fault
        return spelling, "invalid", type(error).__name__, str(error)[:300], True
    right = verdict.kind != "fused" or generator.right(spelling, verdict)
    return spelling, verdict.kind, verdict.code, verdict.detail, right


def failing(kind: str, detail: str) -> Callable[[generator.Spelling], bool]:
    """Whether a spelling fails in the same way."""
    broken = "invalid" in detail

    def fails(spelling: generator.Spelling) -> bool:
        try:
            verdict = generator.attack(spelling)
        except Exception:  # noqa: BLE001 - no valid original
            return False
        return verdict.kind == kind and ("invalid" in verdict.detail) == broken

    return fails


def table(title: str, counts: Counter[str], total: int) -> None:
    """One block of the report."""
    print(f"\n{title} ({total})")
    for name, number in sorted(counts.items(), key=lambda c: (-c[1], c[0])):
        print(f"  {name:<48} {number:>7} {100 * number / max(1, total):6.2f} %")


def main() -> int:
    """Run the attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="of true models, and of near misses")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path("attack-failures"), help="folder for shrunk failures")
    parser.add_argument("--shrink", type=int, default=8, help="how many failures to shrink")
    options = parser.parse_args()
    start = time.perf_counter()
    jobs = [(options.seed, i, near) for i in range(options.count) for near in (False, True)]
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            rows = list(pool.map(one, jobs, chunksize=16))
    else:
        rows = [one(job) for job in jobs]
    true: Counter[str] = Counter()
    near: Counter[str] = Counter()
    fused_misses: Counter[str] = Counter()
    examples: dict[str, str] = {}
    failures: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        spelling, kind, code, detail, right = row
        name = {"fused": "fused" if not spelling.miss else "fused, equal", "wrong": "FUSED WRONG"}.get(
            kind, f"{kind} {code}"
        )
        (near if spelling.miss else true)[name] += 1
        if spelling.miss and kind == "fused":
            fused_misses[spelling.miss] += 1
        if not spelling.miss and kind == "refused":
            examples.setdefault(code, f"{detail}\n      {generator.told(spelling)}")
        if kind in ("wrong", "crash", "invalid"):
            failures[f"{kind} {'near ' + spelling.miss if spelling.miss else 'true'}"].append(row)
        elif not right:
            failures["slopes differ from the truth, or a fault beyond the tested lengths"].append(row)
    print(f"seed {options.seed}, {time.perf_counter() - start:.0f} s")
    table("true", true, options.count)
    table("near misses", near, options.count)
    table("near misses that were fused and are equal", fused_misses, options.count)
    print("\nfirst refusal of a true model, by code")
    for code, text in sorted(examples.items()):
        print(f"  {code}: {text}")
    print(f"\nfailures: {sum(len(r) for r in failures.values())}")
    left = options.shrink
    for name, found in sorted(failures.items()):
        print(f"  {name}: {len(found)}")
        for spelling, kind, code, detail, _ in found[: max(0, min(2, left))]:
            left -= 1
            if kind in ("wrong", "crash"):
                spelling = generator.shrink(spelling, failing(kind, detail))
            print(f"    {kind} {code} {detail[:300]}\n    {generator.told(spelling)}")
            if kind != "invalid":
                options.save.mkdir(parents=True, exist_ok=True)
                path = options.save / f"{kind}-{options.seed}-{options.shrink - left}.onnx"
                onnx.save(generator.build(spelling), path)
                print(f"    saved as {path}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
