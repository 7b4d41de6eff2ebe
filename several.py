"""``rewrite A.onnx B.onnx ... -o OUT/``: one run after the other, a line for each, and one report."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from .base.ending import Outputs, complain, printable, show
from .base.errors import AlibiError, ExitCode, UsageError
from .base.targets import STANDARD_OUTPUT, check_place, inside, is_folder, same_file
from .base.writing import write_text
from .running import Done, Run, broken, prepare

FOR_ONE = {"report": "--report", "extract": "--extract", "inputs": "--inputs", "explain": "--explain", "site": "--site"}
"""Options that say something about one model."""

HEADER = ("model", "sites", "biased", "fused", "verification", "exit", "")
MILD = (ExitCode.DONE, ExitCode.NOT_REWRITTEN)


@dataclass(frozen=True)
class FileRow:
    """What became of one model.

    Attributes:
        model: Its path.
        code: How its run ended.
        sites, biased, fused: Attentions; those with a position bias; those that were rewritten.
        verification: Passed, failed, skipped, or not run.
        what: What was written, or why nothing was.
        report: For programs; None where the run could not be done.
    """

    model: Path
    code: int
    sites: int | None = None
    biased: int | None = None
    fused: int | None = None
    verification: str = ""
    what: str = ""
    report: dict[str, object] | None = None

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        counts = ("" if n is None else str(n) for n in (self.sites, self.biased, self.fused))
        return (str(self.model), *counts, self.verification, str(self.code), self.what)


def carry_out(options: argparse.Namespace, models: Sequence[Path], outputs: Outputs, commands: Collection[str]) -> int:
    """Rewrite several models; what fails for one does not keep the others from being tried.

    Args:
        options: The command line.
        models: The models, in the order in which they were given.
        outputs: Gets to know what may be written.
        commands: Names of the commands, for who misspelled one.

    Returns:
        The exit code of the first model that went wrong; 3 if some were merely not rewritten; else 0.

    Raises:
        UsageError: An option is for one model only, or two models would get one output.
    """
    _check(options, models)
    # Words that are wrong are so for all models, and are told before the first one.
    runs = [_prepared(options, model, outputs, commands) for model in models]
    rows = []
    for model, run in zip(models, runs, strict=True):
        rows.append(_row(model, run, verbose=options.verbose))
        if options.verbose and rows[-1].report is None:
            complain(f"{model}: {rows[-1].what}")
    summary = {
        "schema_version": 1,
        "models": [{"model": str(row.model), "exit_code": row.code, "report": row.report} for row in rows],
        "exit_code": _code(rows),
    }
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    shown = _table([row for row in rows if row.code or not options.quiet]) if _code(rows) or not options.quiet else []
    if options.json == STANDARD_OUTPUT:
        for line in shown:
            complain(line)
        problem = show(text, raw=True)
    else:
        if options.json is not None:
            write_text(options.json, text, "--json")
        problem = show("\n".join(printable(line) for line in shown)) if shown else None
    if problem is not None:
        complain(f"error: {problem} ({outputs.state()})")
        return _code(rows) or int(ExitCode.USAGE)
    return _code(rows)


def _check(options: argparse.Namespace, models: Sequence[Path]) -> None:
    """Whatever can be known to go wrong goes wrong before the first model."""
    for name, option in FOR_ONE.items():
        if getattr(options, name):
            raise UsageError(f"{option} is about one model, and there are {len(models)}. Give it in a run of its own.")
    if options.tensor_parallel is not None:
        raise UsageError("--tensor-parallel writes a folder for one model. Give it in a run of its own.")
    if options.engine not in (None, Path()):
        raise UsageError("--engine PATH is one engine, and there are several models. Give --engine without a path.")
    folder = options.output
    if folder is not None:
        if folder == STANDARD_OUTPUT or (os.path.lexists(folder) and not is_folder(folder)):
            raise UsageError(f"-o '{folder}' is no folder, and there are {len(models)} models. Choose a folder.")
        if not is_folder(folder.parent):
            raise UsageError(f"the folder '{folder.parent}' does not exist. Make it, or choose another -o.")
    places: dict[Path, Path] = {}
    for model in models:
        target = _target(options, model)
        if target in places:
            raise UsageError(
                f"'{places[target]}' and '{model}' would both be written to '{target}'. Give each a run of its own."
            )
        places[target] = model
    if options.json not in (None, STANDARD_OUTPUT):
        if any(same_file(options.json, place) for place in (*models, *places)):
            raise UsageError(f"--json '{options.json}' is a model or another output. Choose another --json.")
        check_place(options.json, "--json")
    if folder is not None and not options.dry_run:
        folder.mkdir(exist_ok=True)


def _target(options: argparse.Namespace, model: Path) -> Path:
    return inside(model.parent if options.output is None else options.output, model)


def _prepared(options: argparse.Namespace, model: Path, outputs: Outputs, commands: Collection[str]) -> Run:
    own = argparse.Namespace(**vars(options))
    own.model, own.output, own.json = model, _target(options, model), None
    return prepare(own, outputs, commands)


def _row(model: Path, run: Run, *, verbose: bool) -> FileRow:
    try:
        done = run.work()
    except AlibiError as error:
        return FileRow(model, int(error.exit_code), what=f"error: {error}")
    except Exception as error:  # a bug of ours with one model is no reason to leave out the others
        code = broken(error, verbose=verbose, state=f"The model is '{model}'.")
        return FileRow(model, code, what=f"internal error: {type(error).__name__}")
    if verbose:
        show(done.text)
    return _of(model, done)


def _of(model: Path, done: Done) -> FileRow:
    result = done.result
    sites = [site for site in result.analysis.sites if site.is_attention]
    if done.error is not None:
        what = f"error: {done.error}"
    elif result.output is not None:
        what = str(result.output)
    else:
        refused = sorted({s.refusal.code.number for s in result.analysis.refused if s.refusal is not None})
        reasons = {
            ExitCode.VERIFICATION_FAILED: "the verification failed; nothing was written",
            ExitCode.NOT_VERIFIED: "nothing could be compared; nothing was written",
            ExitCode.DONE: "rewritten already" if result.rewritten_before else "dry run",
        }
        what = reasons.get(done.code, f"refused: {', '.join(refused)}" if refused else "nothing to rewrite")
    return FileRow(
        model,
        int(done.code),
        len(sites),
        sum(site.is_biased for site in sites),
        len(result.fused),
        "not run" if result.verification is None else result.verification.status,
        what,
        done.report,
    )


def _code(rows: Sequence[FileRow]) -> int:
    wrong = [row.code for row in rows if row.code not in MILD]
    return wrong[0] if wrong else max((row.code for row in rows), default=0)


def _table(rows: Sequence[FileRow]) -> list[str]:
    """The rows in columns, and a sum."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER) - 1)]
    lines = []
    for line in cells:
        padded = [
            text.rjust(width) if 0 < column < 4 or column == 5 else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=False))
        ]
        lines.append("  ".join([*padded, line[-1]]).rstrip())
    written = sum(row.report is not None and bool(row.fused) and row.code == 0 for row in rows)
    return [*lines, f"{len(rows)} models: {written} rewritten, {sum(row.code not in MILD for row in rows)} went wrong"]
