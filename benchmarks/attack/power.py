"""An attack on the verifier: is every wrong rewrite of an accepted model noticed?

``python benchmarks/attack/power.py --count 500 --seed 1`` rewrites random true models with the verification on and
takes down what became of each kind of mutant.  A mutant that survived is run against the rewritten model on other,
strong inputs: if it computes the same there, it is no mistake; if not, the verification's inputs were too weak.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import generator
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.verify.power.mutants import MutantKind, find_sites, mutate, not_applicable
from alibi_rewriter.verify.run.clone import float32_clone, read
from alibi_rewriter.verify.run.runtime import Model, Session

SAME = 2e-6
"""Relative difference below which two float32 models are the same function."""


def changed(spelling: generator.Spelling, rewritten: Model, kind: MutantKind, label: str) -> float:
    """The largest relative difference that a mutant makes at valid queries, on inputs of our own."""
    sites = find_sites(rewritten.proto)
    chosen = [s for s in sites if label in ("all", s.name) and not_applicable(kind, s) is None]
    first = Session(rewritten)
    second = Session(Model(mutate(rewritten.proto, kind, chosen), rewritten.folder))
    worst = 0.0
    rng = np.random.default_rng(spelling.seed + 11)
    for shape in generator.shapes(spelling):
        batch, new, past = shape
        for mask in generator.mask_patterns(spelling, batch, past + new, rng):
            given = generator.feeds(spelling, shape, mask, rng)
            chosen_inputs = {n: np.asarray(given[n]) for n in first.input_types}
            one, other = first.run(chosen_inputs)["output"], second.run(chosen_inputs)["output"]
            valid = mask[:, past:] > 0
            keep = np.broadcast_to(generator.spread(spelling, valid), one.shape) & np.isfinite(one)
            if keep.any():
                gap = np.abs(one[keep].astype(np.float64) - other[keep]).max()
                worst = max(worst, float(gap) / max(1e-3, float(np.abs(one[keep]).max())))
    return worst


def main() -> int:
    """Run the attack; status 1 if a mutant that changes the function survived without being reported."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.perf_counter()
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    weak: list[str] = []
    status: Counter[str] = Counter()
    for index in range(options.count):
        spelling = generator.sample(random.Random(f"{options.seed}-{index}-power"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(generator.build(spelling), path)
            result = rewrite(path, options=Options(seed=index))
            if result.verification is None:
                status["refused"] += 1
                continue
            status[result.verification.status] += 1
            if result.verification.status == "failed":
                weak.append(f"FAILED {generator.told(spelling)}")
                continue
            if result.verification.power is None:
                continue
            scratch = Path(folder) / "clone"
            scratch.mkdir()
            assert result.output is not None
            rewritten = float32_clone(read(result.output), scratch)
            for mutant in result.verification.power.mutants:
                verdict = mutant.verdict
                if verdict in ("survived", "equivalent"):
                    effect = changed(spelling, rewritten, MutantKind(mutant.kind), mutant.site)
                    verdict += ", same function" if effect <= SAME else ", CHANGED"
                    if effect > SAME:
                        weak.append(
                            f"{mutant.kind} {effect:.2g}, {mutant.reason[:90]}\n      {generator.told(spelling)}"
                        )
                verdicts[mutant.kind][verdict] += 1
    print(f"seed {options.seed}, {options.count} models, {time.perf_counter() - start:.0f} s, {dict(status)}")
    for kind, counts in verdicts.items():
        killed = counts["killed"]
        real = killed + sum(n for v, n in counts.items() if v.endswith("CHANGED"))
        share = 100 * killed / max(1, real)
        others = ", ".join(f"{v} {n}" for v, n in sorted(counts.items()) if v != "killed")
        print(f"  {kind:<30} killed {killed:>5} of {real:>5} that change the function ({share:6.2f} %); {others}")
    print(f"not noticed: {len(weak)}")
    for text in weak[:12]:
        print(f"    {text}")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
