"""Mistakes in exported models against the proof alone.

``python benchmarks/attack/mutate.py --count 20000 --seed 1`` changes one thing in an accepted graph, runs the pass
without self-check and verification, and compares what it fused with the changed original at lengths up to 5,000.
It ends with status 1 if anything was fused wrongly, ended with a traceback, or did not end.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import mutant_judge
import mutations

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT / "tests/data", ROOT / "examples", ROOT / "tests/golden"]
MEMORY = 8 << 30
"""Bytes of address space: some mutants ask onnxruntime for a range over 2^31 positions."""

BAD = ("wrong", "traceback", "hang")


def usable(folders: list[Path], only: str) -> Iterator[mutant_judge.Base]:
    """Bases that are fused and equal as they are; why others are left out goes to stderr."""
    seen: set[str] = set()
    for base in mutant_judge.bases(folders, only):
        if base.name in seen:
            continue  # a model that two folders have: its mutants would be the same
        seen.add(base.name)
        try:
            verdict = mutant_judge.judge(base, base.model, long=False)
        except Exception as error:  # noqa: BLE001 - a model that cannot be run here
            verdict = mutant_judge.Verdict("skipped", f"{type(error).__name__}: {str(error)[:100]}")
        if verdict.kind == "equal" and base.target.nodes:
            yield base
        else:
            print(f"left out: {base.name}: {verdict.kind} {verdict.detail[:100]}", file=sys.stderr)


def mutant(base: mutant_judge.Base, seed: int, number: int) -> tuple[onnx.ModelProto, str]:
    """Mutant ``number`` of a base."""
    return mutations.mutate(random.Random(f"{seed}-{base.name}-{number}"), base.target)


def save(
    folder: Path, base: mutant_judge.Base, number: int, seed: int, said: str, verdict: mutant_judge.Verdict
) -> None:
    """Writes a finding: the mutant, and a sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{verdict.kind}-{seed}-{base.name}-{number}"
    onnx.save(mutant(base, seed, number)[0], folder / f"{stem}.onnx")
    title = f"{base.name}, mutant {number} of seed {seed}: {said}"
    text = f"{title}\n{verdict.kind}, length {verdict.length}: {verdict.detail}\n"
    (folder / f"{stem}.txt").write_text(text, encoding="utf-8")


def again(folder: Path, folders: list[Path], seconds: int) -> int:
    """Judges saved findings again; prints those that are still none of refused and equal."""
    bases: dict[str, mutant_judge.Base] = {}
    kinds: Counter[str] = Counter()
    for path in sorted(folder.glob("*.onnx")):
        said = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0]
        name = said.split(", mutant ")[0]
        if name not in bases:
            bases[name] = next(b for b in mutant_judge.bases(folders, name) if b.name == name)
        verdict = mutant_judge.judge(bases[name], onnx.load(path), seconds=seconds)
        kinds[verdict.kind] += 1
        if verdict.kind not in ("equal", "refused"):
            print(f"{verdict.kind} {verdict.length}: {path.stem}: {said}: {verdict.detail[:160]}", flush=True)
    print(dict(kinds))
    return 1 if any(kinds[k] for k in BAD) else 0


def main() -> int:
    """Run the attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=FOLDERS, help="of models; those of the tests by default"
    )
    parser.add_argument("--count", type=int, default=1000, help="mutants, taken from all models in turn")
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to go on where a run ended")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="models with this in their names")
    parser.add_argument("--seconds", type=int, default=60, help="that the pass may take for one mutant")
    parser.add_argument("--short", action="store_true", help="no lengths beyond 300")
    parser.add_argument("--save", type=Path, default=Path("mutant-findings"), help="folder for findings")
    parser.add_argument("--tally", type=Path, help="file to which the counts are written now and then, as JSON")
    parser.add_argument("--again", type=Path, help="judge the findings of this folder again, and nothing else")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if options.again:
        return again(options.again, options.folders, options.seconds)
    found = list(usable(options.folders, options.only))
    print(f"{len(found)} models", flush=True)
    kinds: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    unjudged = 0
    start = time.perf_counter()
    for index in range(options.first, options.first + options.count):
        base, number = found[index % len(found)], index // len(found)
        model, said = mutant(base, options.seed, number)
        verdict = mutant_judge.judge(base, model, seconds=options.seconds, long=not options.short)
        kinds[verdict.kind] += 1
        unjudged += bool(verdict.unjudged)
        if verdict.kind == "refused":
            codes[verdict.detail] += 1
        if verdict.kind in (*BAD, "rounding", "narrow", "blind"):
            save(options.save, base, number, options.seed, said, verdict)
            print(f"{verdict.kind} {verdict.length}: {base.name} {number}: {said}: {verdict.detail[:200]}", flush=True)
        if index % 100 == 99:
            took = time.perf_counter() - start
            print(f"# {index + 1}, {took:.0f} s: {dict(kinds)}, some lengths unjudged {unjudged}", flush=True)
            if options.tally:
                options.tally.write_text(json.dumps({"next": index + 1, "kinds": kinds, "codes": codes}))
    print(f"\nseed {options.seed}, {options.count} mutants of {len(found)} models, {time.perf_counter() - start:.0f} s")
    for name, count in kinds.most_common():
        print(f"  {name:<12} {count:>7}")
    print(f"  fused at lengths of which some could not be judged: {unjudged}")
    print("refused: " + ", ".join(f"{code} ({count})" for code, count in codes.most_common()))
    return 1 if any(kinds[k] for k in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
