"""Chooses the tiles and options of the kernels by compiling and timing candidates, and rewrites configurations.json.

    python benchmarks/kernels/tune.py --compile-only build/tune --arch 90   # beforehand, without a device
    python benchmarks/kernels/tune.py --results results.json                # on a device: compile, check, time, write
    python benchmarks/kernels/tune.py --static --results static.json        # where nothing is timed: compile, write
    python benchmarks/kernels/tune.py --from results.json                   # only from results to configurations.json

What is chosen from is in ``candidates.py``.  Results are written class by class; classes that are in the file are not
done again, so a run that was cut short goes on.  The same results give the same configurations.json; after a change run
``python -m alibi_rewriter.kernels.compile.resources --missing``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import alibi_rewriter.kernels
import building
import candidates
import rules
from candidates import Kind

CONFIGURATIONS = Path(alibi_rewriter.kernels.__file__).parent / "compile" / "configurations.json"


def say(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def entry_of(kind: Kind, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The class in the results, before anything is timed; candidates that were not looked at are left out."""
    found = [
        {"tile": list(candidate.tile), "options": dict(candidate.options), **report, "ms": {}}
        for candidate, report in zip(kind.candidates, reports, strict=False)
    ]
    return {"name": kind.name, "choice": kind.choice, "rule": dict(kind.rule), "candidates": found}


def time_kind(root: Path, kind: Kind, entry: dict[str, Any]) -> None:
    """Adds the times of the candidates that are left, and drops those that compute something else."""
    from timing import DeviceLostError, time_shape

    for shape in kind.shapes:
        left = {
            candidate.key: (building.bundle_of(building.directory_of(root, kind, candidate), shape), found)
            for candidate, found in zip(kind.candidates, entry["candidates"], strict=True)
            if not found["dropped"]
        }
        try:
            outcome = time_shape(shape, {key: bundle for key, (bundle, _) in left.items()})
        except DeviceLostError as lost:
            raise rules.ResultsError(
                f"{kind.name}: {lost} on {shape.title} left the device unusable; run again, and it is left out"
            ) from lost
        for key, (_, found) in left.items():
            if isinstance(outcome[key], str):
                found["dropped"] = f"{shape.title}: {outcome[key]}"
            else:
                found["ms"][shape.title] = outcome[key]


def load(path: Path, head: dict[str, Any]) -> dict[str, Any]:
    """Results so far, or new ones.

    Raises:
        ResultsError: If the file has results of another device.
    """
    if not path.exists():
        return {"format": rules.FORMAT, **head, "classes": []}
    document: dict[str, Any] = json.loads(path.read_text())
    if document.get("format") != rules.FORMAT or document.get("device") != head["device"]:
        raise rules.ResultsError(
            f"{path} has results of {document.get('device')}, not of {head['device']}: another file?"
        )
    return document


def save(path: Path, document: dict[str, Any]) -> None:
    """Writes results; a run that is killed leaves the old ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(aside, path)


def summary(entry: dict[str, Any]) -> str:
    """A line for people: what was chosen, how many were left, how much better it is than the worst of them."""
    best = rules.choose(entry)
    left = [candidate for candidate in entry["candidates"] if not candidate["dropped"]]
    counts = f"{entry['name']}: {len(left)} of {len(entry['candidates'])} left"
    if best is None:
        return counts
    times = " ".join(f"{milliseconds:.4f}" for milliseconds in best["ms"].values())
    return f"{counts}, {best['tile']} {json.dumps(best['options'])} {times}".rstrip()


def rewrite(results: dict[str, Any], target: Path) -> None:
    """Brings configurations.json up to date and says what changed."""
    document, notes = rules.regenerate(json.loads(target.read_text()), results)
    text = rules.written(document)
    for note in notes:
        say(note)
    if text == target.read_text():
        say(f"{target} stays as it is")
        return
    target.write_text(text)
    say(f"{target} rewritten; now run python -m alibi_rewriter.kernels.compile.resources --missing")


def run(options: argparse.Namespace) -> int:
    """Compiles and, unless told otherwise, times; returns the exit status."""
    head: dict[str, Any] = {"device": None}
    if options.static:
        kinds = candidates.static()
    elif options.compile_only:
        kinds = candidates.timed(options.arch)
    else:
        from timing import device, environment

        arch, name = device()
        kinds, head = candidates.timed(arch), {"device": name, "environment": dict(environment())}
    kinds = tuple(kind for kind in kinds if not options.only or any(part in kind.name for part in options.only))
    root = options.compile_only or options.compiled
    results = {"classes": []} if options.compile_only else load(options.results, head)
    there = {entry["name"] for entry in results["classes"]}
    begin = time.monotonic()

    def tell(line: str) -> None:
        say(f"{time.monotonic() - begin:.0f} s  {line}")

    entries = []
    for kind, reports in building.build_all(root, [kind for kind in kinds if kind.name not in there], options.jobs):
        entries.append((kind, entry_of(kind, reports)))
        tell(f"{kind.name}: compiled, {sum(not report['dropped'] for report in reports)} of {len(reports)} left")
        if options.static:
            results["classes"].append(entries[-1][1])
            save(options.results, results)
    if options.compile_only:
        return 0
    # Only now, so that the host has nothing else to do while it launches.
    for kind, entry in () if options.static else entries:
        time_kind(root, kind, entry)
        results["classes"].append(entry)
        save(options.results, results)
        tell(summary(entry))
    rewrite(results, options.configurations)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Chooses tiles by timing and rewrites configurations.json.")
    parser.add_argument("--results", type=Path, default=Path("results/tune.json"), help="results, read and continued")
    parser.add_argument("--compiled", type=Path, default=Path("build/tune"), help="where compiled candidates are kept")
    parser.add_argument("--configurations", type=Path, default=CONFIGURATIONS, help="the file that is rewritten")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only classes with this in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compiling processes")
    parser.add_argument("--arch", type=int, default=90, help="for --compile-only")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--compile-only", type=Path, metavar="DIR", help="compile candidates into DIR; no device")
    what.add_argument(
        "--static", action="store_true", help="the rules that are not measured, from what compiling reports"
    )
    what.add_argument("--from", type=Path, dest="source", metavar="RESULTS", help="only rewrite, from these results")
    options = parser.parse_args(arguments)
    try:
        if options.source:
            rewrite(json.loads(options.source.read_text()), options.configurations)
            return 0
        return run(options)
    except (rules.ResultsError, OSError, json.JSONDecodeError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
