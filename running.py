"""``rewrite MODEL``: what was asked for is checked first, then carried out, then said."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .base.ending import Outputs, complain, printable, show
from .base.errors import AlibiError, ExitCode, UsageError
from .base.interrupts import interruptible
from .base.targets import STANDARD_OUTPUT, check_place, same_file
from .base.terminal import coloured, is_lively
from .base.version import __version__
from .base.writing import write_text
from .engine import command as engine
from .shards import command as shards
from .shards.request import Request

if TYPE_CHECKING:
    from .explain import Look
    from .graph.load import ModelFile
    from .rewriter.records.site import Analysis
    from .rewriter.result import Options, PassResult


@dataclass(frozen=True)
class Done:
    """What a run has done and has to say.

    Attributes:
        result: Of the pass.
        code: How it ends.
        report, text, page: For programs, for people, and for browsers.
        error: Why the engine could not be built.
        failure: A bug of ours in what is only shown.
    """

    result: PassResult
    code: ExitCode
    report: dict[str, object]
    text: str
    page: str
    error: AlibiError | None
    failure: Exception | None


@dataclass
class Run:
    """One run of the command.

    Attributes:
        options: The command line.
        outputs: What it may write.
        request: The engine and kernels that are asked for.
        ranges: Declared values of inputs.
        site: Which sites are shown.
        cache: Whether caches are held in place, and in how many rows.
        ranks: The cut that is asked for; None for one file.
        notes: Lines for the end of the report.
    """

    options: argparse.Namespace
    outputs: Outputs
    request: engine.EngineRequest | None
    ranges: dict[str, tuple[float, float]]
    site: re.Pattern[str] | None
    cache: tuple[bool, int | None] = (False, None)
    ranks: Request | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def looks(self) -> bool:
        """Whether explanations are asked for."""
        return bool(self.options.explain or self.options.report or self.options.extract)

    @property
    def texts(self) -> dict[str, Path]:
        """Where text goes, by option."""
        wanted = {"--json": self.options.json, "--report": self.options.report}
        return {name: place for name, place in wanted.items() if place is not None}

    @property
    def says_on_stderr(self) -> bool:
        """Whether standard output belongs to a report."""
        return STANDARD_OUTPUT in self.texts.values()

    # --- before ------------------------------------------------------------------------------------------

    def check_places(self) -> None:
        """Before anything is done: every output has a place of its own that can be written.

        Raises:
            UsageError: One has not.
        """
        from .rewriter.pipeline import default_target

        options = self.options
        model = options.output or default_target(options.model)
        files = {} if options.dry_run or self.ranks is not None else {"-o": model}
        files |= {name: place for name, place in self.texts.items() if place != STANDARD_OUTPUT}
        if self.request is not None and self.request.engine is not None:
            files["--engine"] = self.request.plan_of(options.model if options.dry_run else model)
        ranks = () if self.ranks is None else self.ranks.files
        for name, place in files.items():
            others = [options.model, *(p for n, p in files.items() if n != name), *ranks]
            if name == "-o":
                continue  # what it may not be is checked with the model
            if any(same_file(place, other) for other in others):
                raise UsageError(f"{name} '{place}' is the model or another output. Choose another {name}.")
            check_place(place, name)
        if list(self.texts.values()).count(STANDARD_OUTPUT) > 1:
            raise UsageError("--json and --report cannot both go to standard output. Give one of them a file.")
        if options.extract is not None:
            _check_folder(options.extract)
            self.outputs.expect_in(options.extract)
        self.outputs.expect(*files.values(), *ranks)
        if "--engine" in files:
            self.outputs.expect(files["--engine"].with_name("libalibi_plugin.so"))

    def check(self, source: ModelFile, analysis: Analysis | None) -> None:
        """Told what was read, then what was found; whatever can be seen to fail fails here, before anything is written.

        Raises:
            AlibiError: It would fail.
        """
        if analysis is None:
            if self.request is not None:
                self.request.check(source.model, source.base_dir)
            return
        if self.site is not None and not any(s.is_attention and self.site.search(s.name) for s in analysis.sites):
            names = ", ".join(f"'{s.name}'" for s in analysis.sites[:8] if s.is_attention)
            raise UsageError(f"--site '{self.site.pattern}' matches no attention site. There are: {names or 'none'}.")
        written = not self.options.dry_run and (self.options.allow_partial or not analysis.refused)
        if self.request is not None and written:
            self.request.check_sites(analysis.bindings)

    # --- the run -----------------------------------------------------------------------------------------

    def carry_out(self) -> int:
        """Rewrite, build, explain, report; returns the exit code."""
        done = self.work()
        text = done.text
        if self.options.quiet:
            # What did not end well is said where errors are.
            text = ""
            if done.code is not ExitCode.DONE and done.error is None:
                complain(done.text.splitlines()[-1])
        problem = self._say(text, json.dumps(done.report, indent=2, allow_nan=False) + "\n", done.page)
        if done.error is not None:
            raise done.error
        if done.failure is not None:
            return broken(done.failure, verbose=self.options.verbose, state="The run itself is done.")
        if problem is not None:
            complain(f"error: {problem} ({self.outputs.state()})")
            return int(done.code) or int(ExitCode.USAGE)
        return int(done.code)

    def work(self) -> Done:
        """Rewrite, build and explain; nothing is said yet.

        Raises:
            AlibiError: The run cannot be done.
        """
        from .rewriter.report import to_json, to_text

        result, cutting = self._rewrite()
        report = to_json(result)
        built = engine.EngineOutcome() if self.request is None else self.request.carry_out(result)
        if built.facts is not None:
            report["engine"] = built.facts
        code = ExitCode.DONE if built.done else result.exit_code
        if cutting is not None:
            report["tensor_parallel"] = cutting.facts
            code = cutting.code
        if built.error is not None:
            code = built.error.exit_code
        report["exit_code"] = int(code)
        details: dict[str, list[str]] | None = None
        failure: Exception | None = None
        page = ""
        if self.looks:
            try:
                details, page = self._see(result, report)
            except AlibiError:
                raise
            except Exception as error:  # a bug of ours: the run itself is done, and what it found is still said
                failure = error
        text = to_text(result, explain=self.options.explain, verbose=self.options.verbose, details=details)
        if cutting is not None:  # whose last line is the verdict
            text = "\n".join([*text.splitlines()[:-1], *cutting.lines])
        text = "\n".join([text, *built.lines, *self.notes, *_without_libraries(result)])
        return Done(result, code, report, text, page, built.error, failure)

    def _rewrite(self) -> tuple[PassResult, shards.Cutting | None]:
        import sys

        from .base.progress import ProgressBar
        from .graph.load import load
        from .rewriter.pipeline import rewrite

        interruptible()
        with ProgressBar(sys.stderr) as progress:
            options = self._options(progress.update)
            if self.ranks is None:
                return rewrite(self.options.model, self.options.output, options=options), None
            result = rewrite(load(self.options.model), None, options=options)
            if result.exit_code is not ExitCode.DONE:
                return result, None
            return result, shards.carry_out(self.ranks, result, options)

    def _options(self, progress: Callable[[str, int, int], None]) -> Options:
        from .rewriter.result import Options
        from .runtime.gpu import CudaKernels

        options = self.options
        return Options(
            allow_partial=options.allow_partial,
            dry_run=options.dry_run,
            verify=not options.no_verify,
            verify_sites=options.verify_sites,
            verify_on=options.verify_on,
            kernels=(CudaKernels(),),
            exact_bias=options.exact_bias,
            inline=options.inline,
            views=not options.no_views,
            in_place=self.cache[0],
            capacity=self.cache[1],
            seed=options.seed,
            inputs=options.inputs,
            val_ranges=self.ranges,
            copy_data=options.copy_external_data,
            progress=progress,
            check=self.check,
        )

    def _see(self, result: PassResult, report: dict[str, object]) -> tuple[dict[str, list[str]] | None, str]:
        """Explanations for the report, the page, and the subgraphs that were asked for."""
        import sys

        from .explain import Look, page_facts, write_pairs
        from .rewriter.result import binary_inputs

        options = self.options
        look: Look = Look(result, binary_inputs(self.ranges), self.site)
        look.explain(report)
        page = ""
        if options.report is not None:
            from .page import to_html

            page_facts(look, report)
            page = to_html(report)
            if options.report != STANDARD_OUTPUT:
                self._write(options.report, page, "--report")
                self.notes.append(printable(f"page: {options.report}"))
        if options.extract is not None:
            written = write_pairs(look.pairs(), options.extract, result.source.path)
            self.notes.append(printable(f"subgraphs: {len(written)} files in {options.extract}"))
        bars = not self.says_on_stderr and is_lively(sys.stdout)
        return (look.lines(bars=bars) if options.explain else None), page

    def _say(self, text: str, report: str, page: str) -> str | None:
        """The report wherever it is wanted; returns why standard output could not be written."""
        import sys

        place = self.options.json
        if place is not None and place != STANDARD_OUTPUT:
            self._write(place, report, "--json")
        if self.says_on_stderr:
            complain_lines(text)
            return show(report if place == STANDARD_OUTPUT else page, raw=True)
        if not text:
            return None
        return show(coloured(text) if is_lively(sys.stdout) else text)

    def _write(self, place: Path, content: str, option: str) -> None:
        write_text(place, content, option, self.options.model)


def prepare(options: argparse.Namespace, outputs: Outputs, commands: Collection[str]) -> Run:
    """A run that is worth starting.

    Args:
        options: The command line.
        outputs: Gets to know what may be written.
        commands: Names of the commands, for who misspelled one.

    Raises:
        UsageError: Options contradict each other, are written wrongly, or name a place that cannot be written.
    """
    word = str(options.model)
    if not os.path.lexists(options.model):
        close = difflib.get_close_matches(word, commands, n=1, cutoff=0.75)
        if close:
            raise UsageError(f"'{word}' is neither a file nor a command. Did you mean: rewrite {close[0]}?")
    ranges = dict(parse_range(text) for group in options.val_range for text in group)
    request = engine.EngineRequest.of(options)
    ranks = shards.request_of(options)
    cache = _cache(options.cache)
    if cache[0] and request is not None and any(request.options.shapes.values()):
        raise UsageError(
            "--cache in-place changes the inputs that shapes are about. Write the file first, and give --engine with "
            "its shapes in a run of its own."
        )
    run = Run(options, outputs, request, ranges, _pattern(options.site), cache, ranks)
    if run.site is not None and not run.looks:
        raise UsageError("--site chooses what is shown: give it with --explain, --report or --extract.")
    run.check_places()
    return run


def _cache(text: str) -> tuple[bool, int | None]:
    from .rewriter.cache.choice import cache_choice

    try:
        return cache_choice(text)
    except UsageError as error:
        raise UsageError(f"--cache: {error}") from None


def parse_range(text: str) -> tuple[str, tuple[float, float]]:
    """``name:[lo,hi]`` as (name, (lo, hi)).

    Raises:
        UsageError: It is written otherwise.
    """
    match = RANGE.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        low, high = float(match.group(2)), float(match.group(3))
        if not low <= high:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--val-range '{text}' is not NAME:[LO,HI] with LO <= HI. Example: input_ids:[0,1000]"
        ) from None
    return match.group(1), (low, high)


RANGE = re.compile(r"(.+):\[([^,\]]+),([^,\]]+)\]")


def broken(error: Exception, *, verbose: bool, state: str) -> int:
    """Say that there is a bug of ours, and what it leaves behind."""
    if verbose:
        complain_lines("".join(traceback.format_exception(error)))
    complain(
        f"error: internal error in alibi-rewriter {__version__}: {type(error).__name__}: {error}. "
        f"{state} Please report it with the output of --verbose."
    )
    return int(ExitCode.INTERNAL)


def _without_libraries(result: PassResult) -> list[str]:
    """Pip shows nothing of what an installation prints, so that there was no compiler is said here."""
    from .base.cures import reinstall
    from .base.systems import has_libraries, no_libraries
    from .plugin import missing

    names = missing() if result.output is not None else []
    if not names:
        return []
    if not has_libraries():
        return [f"no kernels here, so fused nodes run as their function bodies: {no_libraries()}."]
    return [
        f"no kernels here: {' and '.join(names)} could not be built, so fused nodes run as their function bodies. "
        f"Install g++, then: {reinstall()}"
    ]


def complain_lines(text: str) -> None:
    """Several lines on standard error."""
    for line in text.splitlines():
        complain(line)


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"--site '{text}' is no regular expression: {error}. Example: --site 'layers\\.0'") from None


def _check_folder(folder: Path) -> None:
    """A folder for files of ours: there, or to be made."""
    if folder == STANDARD_OUTPUT:
        raise UsageError("--extract -: only text goes to standard output. Give a folder.")
    if folder.is_dir():
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"the folder '{folder}' cannot be written. Choose another --extract.")
    elif os.path.lexists(folder):
        raise UsageError(f"--extract '{folder}' is no folder. Choose another --extract.")
    elif not os.access(folder.parent, os.W_OK | os.X_OK):
        raise UsageError(f"the folder '{folder}' cannot be made. Choose another --extract.")
