"""The command `rewrite bench MODEL`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.ending import Outputs, complain
from ..base.errors import ModelRejected, NotRewritten, UsageError
from ..base.hidden import scratch
from ..base.targets import STANDARD_OUTPUT, check_place, same_file
from ..base.writing import write_text
from ..engine.shapes import check_shapes, inputs_of, parse_shapes
from ..graph.load import load
from ..graph.note import fused_nodes
from ..rewriter.pipeline import rewrite
from ..rewriter.result import Options, PassResult, binary_inputs
from ..verify.errors import RunError
from .cases import BenchCase, Cases
from .measure import Contender, Row, measure
from .report import to_json, to_text

CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True)
class BenchOutcome:
    """What a bench found.

    Attributes:
        facts: The figures as plain data.
        text: The same for people.
        result: The rewriting, where it was made here.
    """

    facts: dict[str, Any]
    text: str
    result: PassResult | None


def run(options: argparse.Namespace, ranges: Mapping[str, tuple[float, float]]) -> BenchOutcome:
    """Rewrites the model if need be, and measures.

    Args:
        options: The parsed options of ``add_arguments``.
        ranges: Inclusive bounds of values by input name.

    Raises:
        UsageError: Options contradict each other or do not fit the model.
        NotRewritten: There is nothing to compare with.
        ModelRejected: The model has inputs that nothing can be drawn of.
    """
    if options.rewritten is not None and options.report is not None:
        raise UsageError("--report shows the rewriting: leave out --rewritten, so that it is made here.")
    source = load(options.model)
    if fused_nodes(source.model):
        raise UsageError(
            f"'{options.model}' is rewritten already. Give the original as MODEL and this file as --rewritten."
        )
    cases = _cases(options, source.model, ranges)
    with scratch() as folder:
        result, rewritten = None, options.rewritten
        if rewritten is None:
            result = rewrite(
                options.model,
                folder / "rewritten.onnx",
                options=Options(verify=not options.no_verify, val_ranges=ranges),
            )
            rewritten = result.output
            if rewritten is None:
                raise NotRewritten(
                    f"'{options.model}' was not rewritten, so there is nothing to compare. "
                    "`rewrite explain MODEL` says why."
                )
        fused = len(fused_nodes(load(rewritten).model))
        if not fused:
            raise UsageError(f"--rewritten '{rewritten}' has no fused node: it is no output of `rewrite`.")
        library, refusal = _library()
        contenders = [Contender("original", options.model), Contender("function", rewritten)]
        contenders += [Contender("kernel", rewritten, library=True)] if library else []
        rows = _measure(cases, contenders, folder, options)
    settings = {
        "runtime": _runtime(),
        "provider": options.provider,
        "threads": options.threads,
        "fused": fused,
        "library": refusal or None,
    }
    facts = to_json(rows, settings)
    return BenchOutcome(facts, to_text(facts), result)


def _cases(options: argparse.Namespace, model: Any, ranges: Mapping[str, tuple[float, float]]) -> list[BenchCase]:
    inputs = inputs_of(model)
    try:
        made = Cases(model, ranges)
        if not options.shapes:
            return made.standard(options.lengths, options.batch, options.past)
        found = []
        for texts in options.shapes:
            shapes = parse_shapes("--shapes", texts)
            check_shapes("--shapes", shapes, inputs)
            found.append(made.of_shapes(shapes))
        return found
    except RunError as error:
        raise ModelRejected(f"'{options.model}': {error}") from error


def _measure(
    cases: Sequence[BenchCase], contenders: Sequence[Contender], folder: Path, options: argparse.Namespace
) -> list[Row]:
    progress = _Line()
    try:
        return [
            measure(
                case,
                contenders,
                folder,
                provider=options.provider,
                threads=options.threads,
                rounds=options.rounds,
                seconds=options.seconds,
                progress=progress.draw,
            )
            for case in cases
        ]
    finally:
        progress.clear()


class _Line:
    """One line of progress on a terminal, overwritten."""

    def __init__(self) -> None:
        self._shown = False

    def draw(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(CLEAR_LINE + text[:78])
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()


def _library() -> tuple[bool, str]:
    """Whether our kernels can be registered, and why not."""
    from ..runtime import NoLibrary, get_library_path

    try:
        get_library_path()
    except NoLibrary as error:
        return False, str(error)
    return True, ""


def _runtime() -> str:
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "onnxruntime"


def carry_out(options: argparse.Namespace, ranges: Mapping[str, tuple[float, float]], outputs: Outputs) -> str:
    """Measure, and write what was asked for; returns what standard output gets.

    Raises:
        AlibiError: As ``run``; or a report has no place that it can be written to.
    """
    texts = {"--json": options.json, "--report": options.report}
    places = {name: place for name, place in texts.items() if place is not None and place != STANDARD_OUTPUT}
    for name, place in texts.items():
        if place is None:
            continue
        check_place(place, name, text=True)
        taken = [options.model, options.rewritten, *(p for n, p in texts.items() if n != name)]
        if any(other is not None and same_file(place, other) for other in taken):
            raise UsageError(f"{name} '{place}' is a model or the other report. Choose another {name}.")
    outputs.expect(*places.values())
    found = run(options, ranges)
    content = {"--json": json.dumps(found.facts, indent=2, allow_nan=False) + "\n"}
    if options.report is not None:
        content["--report"] = _page(found, ranges)
    for name, place in places.items():
        write_text(place, content[name], name)
    shown = next((name for name, place in texts.items() if place == STANDARD_OUTPUT), None)
    if shown is None:
        return found.text
    complain(found.text)
    return content[shown].rstrip("\n")


def _page(outcome: BenchOutcome, ranges: Mapping[str, tuple[float, float]]) -> str:
    """The page of the rewriting, with what was measured."""
    from ..explain import Look, page_facts
    from ..page import to_html
    from ..rewriter.report import to_json as report_of

    assert outcome.result is not None
    report = report_of(outcome.result)
    look = Look(outcome.result, binary_inputs(ranges), None)
    look.explain(report)
    page_facts(look, report)
    report["bench"] = outcome.facts
    return to_html(report)
