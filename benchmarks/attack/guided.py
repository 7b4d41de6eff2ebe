"""Fuzzing guided by coverage: what reaches new code of the pass is kept and mutated again.

Needs ``pip install atheris``.

``python benchmarks/attack/guided.py --runs 100000 --seed 1 --corpus FOLDER`` starts from the seeds of
``tests/fuzzing.py`` (and from what FOLDER already holds) and mutates structures and bytes; inputs that end in anything
but a verdict or a clear error are saved.  Instrumented is every module of ``alibi_rewriter``, by its bytecode:
branches, and what is compared in them.  Not instrumented are onnx, protobuf, numpy and onnxruntime, which are machine
code.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

MOST_BYTES = 1 << 18
"""Length of an input."""

MEMORY = 3 << 10
"""MiB that the process may take; one that finds nothing takes some hundred."""


class Finding(Exception):
    """An input that ended in something else than a verdict or a clear error."""


def child(arguments: list[str]) -> None:
    """The instrumented process: libFuzzer calls ``one`` with ever new inputs."""
    import atheris

    with atheris.instrument_imports(include=["alibi_rewriter"]):
        import fuzzing

    folder = Path(tempfile.mkdtemp(prefix="guided-"))

    def one(content: bytes) -> None:
        chosen = hashlib.blake2b(content, digest_size=1).digest()[0]
        effort = (
            fuzzing.Effort.EXPLAIN if chosen < 16 else fuzzing.Effort.PROBE if chosen < 64 else fuzzing.Effort.PROOF
        )
        outcome = fuzzing.survives(content, folder, effort)
        if outcome not in fuzzing.FINE:
            sys.stderr.write(f"finding: {outcome}\n")
            raise Finding(outcome)

    def mutate(content: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        made = fuzzing.mutate_structure(rng, content) if rng.random() < 0.75 else None
        if made is None or len(made) > longest:
            made = atheris.Mutate(content, longest)
        return made[:longest]

    def cross(first: bytes, second: bytes, longest: int, seed: int) -> bytes:
        made = fuzzing.cross(random.Random(seed), first, second)
        return made if made is not None and len(made) <= longest else first[:longest]

    atheris.Setup(arguments, one, custom_mutator=mutate, custom_crossover=cross)
    atheris.Fuzz()


def main() -> int:
    """Run children until all runs are done; one that dies of an input is replaced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="kept from run to run; a temporary folder if not given")
    parser.add_argument("--save", type=Path, default=Path("fuzz-findings"), help="folder for inputs that are findings")
    options = parser.parse_args()
    options.save.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        corpus = options.corpus or Path(temporary)
        corpus.mkdir(parents=True, exist_ok=True)
        plant(corpus)
        return run(options, corpus)


def plant(corpus: Path) -> None:
    """The seeds, as files named by their content."""
    import fuzzing

    for model in fuzzing.seeds():
        content = model.SerializeToString()
        if len(content) <= MOST_BYTES:
            (corpus / hashlib.sha1(content, usedforsecurity=False).hexdigest()).write_bytes(content)


def run(options: argparse.Namespace, corpus: Path) -> int:
    """Start children and say what they found."""
    start = time.perf_counter()
    done = died = 0
    reached = ""
    while done < options.runs:
        command = [sys.executable, "-W", "ignore", __file__, "--child", str(corpus)]
        command += [f"-runs={options.runs - done}", f"-seed={options.seed + died}", f"-max_len={MOST_BYTES}"]
        command += ["-timeout=60", f"-rss_limit_mb={MEMORY}", "-print_final_stats=1", "-len_control=0"]
        command += [f"-artifact_prefix={options.save}/{options.seed}-{died}-"]
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", child.stderr)
        done += int(executed.group(1)) if executed else 1
        reached = (re.findall(r"cov: \d+ ft: \d+", child.stderr) or [reached])[-1]
        told = f"{done} runs, {time.perf_counter() - start:.0f} s, {reached}, {len(list(corpus.iterdir()))} inputs kept"
        if child.returncode:
            died += 1
            said = re.findall(r"^(?:finding|ALARM|ERROR|==\d+== ?ERROR): .*", child.stderr, re.MULTILINE)
            told += f"; {said[0] if said else 'the process died'}"
        print(told, flush=True)
    return 1 if died else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child([sys.argv[0], *sys.argv[2:]])
    else:
        sys.exit(main())
