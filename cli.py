"""The command line: ``rewrite model.onnx``."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from .rewriter.errors import AlibiError, ExitCode, UsageError
from .rewriter.version import __version__

EPILOG = """\
exit codes
  0 done                                4 verification failed
  1 internal error                      5 engine build failed
  2 usage                               6 plugin missing or not used
  3 nothing, or only a part, rewritten  7 input rejected (broken or unsafe model)

example
  rewrite model.onnx --explain          finds, proves, fuses, verifies; writes model.alibi.onnx
"""


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``rewrite``."""
    made = argparse.ArgumentParser(
        prog="rewrite",
        description="Fuse the attentions of an ONNX model whose added bias is proven to be ALiBi.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("model", metavar="MODEL", type=Path, help="the ONNX model; it is never changed")
    made.add_argument(
        "-o", "--output", metavar="OUT", type=Path, help="where to write (default: MODEL's stem + .alibi.onnx)"
    )
    made.add_argument("--json", metavar="REPORT", type=Path, help="write the report as JSON ('-' for stdout)")
    made.add_argument("--explain", action="store_true", help="show every step of every proof and refusal")
    made.add_argument("--dry-run", action="store_true", help="find and prove, write nothing")
    made.add_argument("--no-verify", action="store_true", help="do not compare with the original in onnxruntime")
    made.add_argument(
        "--copy-external-data",
        action="store_true",
        help="give OUT data files of its own (default: shared in the model's folder, copied elsewhere)",
    )
    made.add_argument(
        "--allow-partial",
        action="store_true",
        help="write even if some sites with an ALiBi-like bias are refused (exit 3)",
    )
    made.add_argument(
        "--inputs", metavar="NPZ", type=Path, help="inputs for the verification, one array per graph input"
    )
    made.add_argument(
        "--val-range",
        metavar="NAME:[LO,HI]",
        action="append",
        nargs="+",
        default=[],
        help="values of an input, both ends included; an integer input in [0,1] is taken as a boolean by the proofs",
    )
    made.add_argument("--seed", metavar="N", type=int, default=0, help="of the drawn inputs (default 0)")
    made.add_argument("-v", "--verbose", action="store_true", help="more of everything; tracebacks of internal errors")
    made.add_argument("--version", action="version", version=f"alibi-rewriter {__version__}")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return _run(options)
    except AlibiError as error:
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except Exception as error:  # the last resort: a bug of ours, never a traceback by default
        if options.verbose:
            traceback.print_exc()
        print(
            f"error: internal error in alibi-rewriter {__version__}: {type(error).__name__}: {_printable(str(error))}. "
            "Nothing was written. Please report it with the output of --verbose.",
            file=sys.stderr,
        )
        return int(ExitCode.INTERNAL)


def _run(options: argparse.Namespace) -> int:
    from .rewriter.pipeline import Options, default_target, rewrite
    from .rewriter.progress import ProgressBar
    from .rewriter.report import to_json, to_text

    ranges = dict(parse_range(text) for group in options.val_range for text in group)
    if options.json is not None and str(options.json) != "-":
        _check_report(options.json, (options.model, options.output or default_target(options.model)))
    with ProgressBar(sys.stderr) as progress:
        result = rewrite(
            options.model,
            options.output,
            options=Options(
                allow_partial=options.allow_partial,
                dry_run=options.dry_run,
                verify=not options.no_verify,
                seed=options.seed,
                inputs=options.inputs,
                val_ranges=ranges,
                copy_data=options.copy_external_data,
                progress=progress.update,
            ),
        )
    text = to_text(result, explain=options.explain, verbose=options.verbose)
    if options.json is not None:
        content = json.dumps(to_json(result), indent=2, allow_nan=False) + "\n"
        if str(options.json) == "-":
            print(text, file=sys.stderr)
            sys.stdout.write(content)
            return int(result.exit_code)
        _write_text(options.json, content)
    _print(text)
    return int(result.exit_code)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
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


def _check_report(report: Path, taken: tuple[Path, ...]) -> None:
    """Before anything is done: the report has a place of its own that can be written."""
    if any(report.resolve() == path.resolve() for path in taken):
        raise UsageError(f"--json '{report}' is the model or the output. Choose another file for the report.")
    if report.is_dir() or not report.parent.is_dir() or not os.access(report.parent, os.W_OK):
        raise UsageError(f"the report '{report}' cannot be written there. Choose another --json.")


def _write_text(target: Path, content: str) -> None:
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(
            f"the report '{target}' cannot be written: {error.strerror}. Choose another --json."
        ) from error


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


if __name__ == "__main__":
    sys.exit(main())
