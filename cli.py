"""The command line: ``rewrite model.onnx``, and the commands beside it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .engine import command as engine
from .isolation import leave_working_folder
from .rewriter.errors import AlibiError, ExitCode, UsageError
from .rewriter.version import __version__
from .terminal import coloured, is_lively
from .writing import write_file

if TYPE_CHECKING:
    from .rewriter.pipeline import RewriteResult

EPILOG = """\
commands
  rewrite explain MODEL             why each attention is fused or not; no model
  rewrite doctor                    what is installed, and what cures each gap
  rewrite completion bash|zsh|fish  a completion script for the shell

exit codes
  0 done                                4 verification failed
  1 internal error                      5 engine build failed
  2 usage                               6 plugin missing or not used
  3 nothing, or only a part, rewritten  7 input rejected (broken or unsafe)

example
  rewrite model.onnx --report page.html    writes model.alibi.onnx and a page
"""


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``rewrite MODEL``."""
    made = _parser("rewrite", "Fuse the attentions of an ONNX model whose added bias is proven to be ALiBi.", EPILOG)
    made.add_argument("model", metavar="MODEL", type=Path, help="the ONNX model; it is never changed")
    made.add_argument("-o", "--output", metavar="OUT", type=Path, help="where to write (default: STEM.alibi.onnx)")
    made.add_argument("--dry-run", action="store_true", help="find and prove, write no model")
    made.add_argument("--allow-partial", action="store_true", help="write even if some biased sites are refused")
    made.add_argument("--copy-external-data", action="store_true", help="give OUT data files of its own")
    _add_common(made)
    _add_seeing(made.add_argument_group("seeing it"), explain=True)
    _add_verification(made.add_argument_group("verification"))
    engine.add_arguments(made)
    return made


def explain_parser() -> argparse.ArgumentParser:
    """The argument parser of ``rewrite explain MODEL``: ``--explain --dry-run`` under a name of its own."""
    made = _parser("rewrite explain", "Show why each attention of a model can be fused or not. Writes no model.")
    made.add_argument("model", metavar="MODEL", type=Path, help="the ONNX model; it is never changed")
    _add_seeing(made, explain=False)
    _add_common(made)
    return made


def _parser(name: str, description: str, epilog: str = "", argument: str = "MODEL") -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name,
        usage=f"{name} [options] {argument}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )


def _add_common(made: argparse.ArgumentParser) -> None:
    made.add_argument("-h", "--help", action="help", help="show this help")
    made.add_argument("--version", action="version", version=f"alibi-rewriter {__version__}", help="show the version")
    made.add_argument("-v", "--verbose", action="store_true", help="more of everything; tracebacks")
    made.add_argument(
        "--val-range",
        metavar="NAME:[LO,HI]",
        action="append",
        nargs="+",
        default=[],
        help="values of an input; integers in [0,1] are boolean",
    )


def _add_seeing(made: argparse._ActionsContainer, *, explain: bool) -> None:
    if explain:
        made.add_argument("--explain", action="store_true", help="show every step of every proof and refusal")
    made.add_argument("--site", metavar="REGEX", help="explain and extract only sites whose name matches")
    made.add_argument("--json", metavar="FILE", type=Path, help="the report as JSON ('-' for stdout)")
    made.add_argument("--report", metavar="FILE", type=Path, help="the report as a page (HTML, offline)")
    made.add_argument("--extract", metavar="DIR", type=Path, help="each site's subgraph as small .onnx files")


def _add_verification(made: argparse._ActionsContainer) -> None:
    made.add_argument("--no-verify", action="store_true", help="do not compare with the original")
    made.add_argument("--verify-sites", action="store_true", help="compare each attention alone, without weights")
    made.add_argument("--inputs", metavar="NPZ", type=Path, help="given inputs, one array per graph input")
    made.add_argument("--seed", metavar="N", type=int, default=0, help="of the drawn inputs (default 0)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if arguments is None:  # as a program, and not called from one
        leave_working_folder()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS.get(words[0]) if words else None
    try:
        return _guarded(_rewrite, words) if command is None else _guarded(command, words[1:])
    except SystemExit as stop:
        return int(stop.code or 0)


def _guarded(command: Callable[[list[str]], int], words: list[str]) -> int:
    """Every command ends in an exit code and at most one line on stderr."""
    try:
        return command(words)
    except AlibiError as error:
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except Exception as error:  # the last resort: a bug of ours, never a traceback by default
        return _broken(error, bool({"-v", "--verbose"} & set(words)), "Nothing was written.")


def _broken(error: Exception, verbose: bool, state: str) -> int:
    """Say that there is a bug of ours, and what it leaves behind."""
    if verbose:
        traceback.print_exception(error)
    print(
        f"error: internal error in alibi-rewriter {__version__}: {type(error).__name__}: {_printable(str(error))}. "
        f"{state} Please report it with the output of --verbose.",
        file=sys.stderr,
    )
    return int(ExitCode.INTERNAL)


def _rewrite(words: list[str]) -> int:
    return _run(parser().parse_args(words))


def _explain(words: list[str]) -> int:
    options = parser().parse_args(["MODEL", "--explain", "--dry-run", "--no-verify"])
    vars(options).update(vars(explain_parser().parse_args(words)))
    return _run(options)


def _completion(words: list[str]) -> int:
    from .completion import SHELLS, script

    made = _parser(
        "rewrite completion", "Print a completion script: source <(rewrite completion bash)", argument="SHELL"
    )
    made.add_argument("shell", choices=SHELLS)
    made.add_argument("-h", "--help", action="help", help="show this help")
    shell = made.parse_args(words).shell
    _print(script(shell, parser(), {"explain": explain_parser()}, {"completion": SHELLS, "doctor": ()}))
    return int(ExitCode.DONE)


def _doctor(words: list[str]) -> int:
    from .engine.doctor import examine, to_text

    made = _parser(
        "rewrite doctor", "Say what is installed, what works with what, and what cures each gap.", argument=""
    )
    made.add_argument("-h", "--help", action="help", help="show this help")
    made.parse_args(words)
    _print(to_text(examine()))
    return int(ExitCode.DONE)


COMMANDS: dict[str, Callable[[list[str]], int]] = {"explain": _explain, "doctor": _doctor, "completion": _completion}
"""Commands by their name; anything else as the first word is a model."""


def _run(options: argparse.Namespace) -> int:
    from .rewriter.pipeline import Options, default_target, rewrite
    from .rewriter.progress import ProgressBar
    from .rewriter.report import to_json, to_text

    request = engine.Request.of(options)
    ranges = dict(parse_range(text) for group in options.val_range for text in group)
    site = _pattern(options.site)
    if site is not None and not _looks(options):
        raise UsageError("--site chooses what is shown: give it with --explain, --report or --extract.")
    targets = {"--json": options.json, "--report": options.report}
    for name, target in targets.items():
        if target is not None and not (name == "--json" and str(target) == "-"):
            taken = (
                [options.model] if options.dry_run else [options.model, options.output or default_target(options.model)]
            )
            _check_report(name, target, taken + [t for n, t in targets.items() if t is not None and n != name])
    with ProgressBar(sys.stderr) as progress:
        result = rewrite(
            options.model,
            options.output,
            options=Options(
                allow_partial=options.allow_partial,
                dry_run=options.dry_run,
                verify=not options.no_verify,
                verify_sites=options.verify_sites,
                seed=options.seed,
                inputs=options.inputs,
                val_ranges=ranges,
                copy_data=options.copy_external_data,
                progress=progress.update,
            ),
        )
    report = to_json(result)
    built = engine.Outcome() if request is None else request.carry_out(result)
    if built.facts is not None:
        report["engine"] = built.facts
    lively = str(options.json) != "-" and is_lively(sys.stdout)
    details: dict[str, list[str]] | None = None
    notes: list[str] = []
    failure: Exception | None = None
    if _looks(options):
        try:
            details, notes = _see(result, report, options, ranges, site, lively)
        except AlibiError:
            raise
        except Exception as error:  # a bug of ours: the run itself is done, and what it found is still said
            failure = error
    text = to_text(result, explain=options.explain, verbose=options.verbose, details=details)
    text = "\n".join([text, *built.lines, *notes])
    code = ExitCode.DONE if built.done else result.exit_code
    if options.json is not None:
        content = json.dumps(report, indent=2, allow_nan=False) + "\n"
        if str(options.json) == "-":
            print(text, file=sys.stderr)
            sys.stdout.write(content)
        else:
            write_file(options.json, content.encode(), "--json")
    if str(options.json) != "-":
        _print(coloured(text) if lively else text)
    if built.error is not None:
        raise built.error
    return int(code) if failure is None else _broken(failure, options.verbose, "The run itself is done.")


def _looks(options: argparse.Namespace) -> bool:
    return bool(options.explain or options.report or options.extract)


def _see(
    result: RewriteResult,
    report: dict[str, object],
    options: argparse.Namespace,
    ranges: dict[str, tuple[float, float]],
    site: re.Pattern[str] | None,
    bars: bool,
) -> tuple[dict[str, list[str]] | None, list[str]]:
    """Explanations for the report, and the page and the subgraphs that were asked for."""
    from .explain import Look, page_facts, write_pairs

    binary = [n for n, (low, high) in ranges.items() if low >= 0 and high <= 1]
    look = Look(result, binary, site)
    if site is not None and not look.sites:
        names = ", ".join(f"'{s.name}'" for s in result.analysis.sites[:8] if s.is_attention)
        raise UsageError(f"--site '{site.pattern}' matches no attention site. There are: {names or 'none'}.")
    look.explain(report)
    notes = []
    if options.report is not None:
        from .page import to_html

        page_facts(look, report)
        write_file(options.report, to_html(report).encode(), "--report")
        notes.append(_printable(f"page: {options.report}"))
    if options.extract is not None:
        written = write_pairs(look.pairs(), options.extract, result.source.path)
        notes.append(_printable(f"subgraphs: {len(written)} files in {options.extract}"))
    return (look.lines(bars=bars) if options.explain else None), notes


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"--site '{text}' is no regular expression: {error}. Example: --site 'layers\\.0'") from None


def _print(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        # Names may hold what the terminal cannot write.
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # Whoever read the report has gone; the work is done, and the exit code says how it went.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_range(text: str) -> tuple[str, tuple[float, float]]:
    """``name:[lo,hi]`` as (name, (lo, hi)).

    Raises:
        UsageError: It is written otherwise.
    """
    match = re.fullmatch(r"(.+):\[([^,\]]+),([^,\]]+)\]", text.strip())
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


def _check_report(option: str, report: Path, taken: Sequence[Path]) -> None:
    """Before anything is done: the report has a place of its own that can be written."""
    if any(report.resolve() == path.resolve() for path in taken):
        raise UsageError(f"{option} '{report}' is the model, the output or the other report. Choose another file.")
    if report.is_dir() or not report.parent.is_dir() or not os.access(report.parent, os.W_OK):
        raise UsageError(f"the report '{report}' cannot be written there. Choose another {option}.")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


if __name__ == "__main__":
    sys.exit(main())
