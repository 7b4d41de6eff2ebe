"""The command line: ``rewrite model.onnx``, and the commands beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .base.ending import Outputs, complain, leave, settle_streams, show
from .base.errors import AlibiError, ExitCode
from .base.interrupts import INTERRUPTED
from .base.isolation import leave_working_folder
from .base.systems import check_system
from .base.targets import STANDARD_OUTPUT, check_place, inside, is_folder
from .base.version import __version__
from .base.writing import write_text
from .engine import command as engine
from .running import broken, parse_range, prepare
from .shards import command as shards

Command = Callable[[list[str], Outputs], int]

MODEL_SUFFIX = ".onnx"

EPILOG = """\
commands
  rewrite model.onnx --report page.html  writes model.alibi.onnx and a page
  rewrite *.onnx -o OUT/            several models, with a table and one --json
  rewrite explain MODEL             why each attention is fused or not; no model
  rewrite check FILE                9 if other tools changed a written file
  rewrite bench MODEL               original against rewritten, on this machine
  rewrite doctor, completion SHELL  what is installed; a script for the shell

exit codes
  0 done               3 nothing rewritten      6 plugin missing or not used
  1 internal error     4 verification failed    7 input rejected
  2 usage              5 engine build failed    8 not verified, not written
"""


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``rewrite MODEL``."""
    what = "Fuse the attentions of ONNX models whose added bias is proven to be ALiBi."
    made = _parser("rewrite", what, EPILOG, "MODEL [MODEL ...]")
    made.add_argument("model", metavar="MODEL", type=Path, nargs="*", help=argparse.SUPPRESS)
    made.add_argument("-o", "--output", metavar="OUT", type=Path, help="file or folder (default: STEM.alibi.onnx)")
    made.add_argument("--dry-run", action="store_true", help="find and prove, write no model")
    made.add_argument("--allow-partial", action="store_true", help="write even if some biased sites are refused")
    made.add_argument("--exact-bias", action="store_true", help="leave out the rounding of a bias to a narrow type")
    made.add_argument("--inline", action="store_true", help="write function bodies in place of the fused nodes")
    made.add_argument("--no-views", action="store_true", help="leave splits and transposes of operands in the graph")
    made.add_argument("--cache", metavar="HOW", default="grows", help="in-place[=ROWS]: a cache of fixed buffers")
    made.add_argument("--copy-external-data", action="store_true", help="give OUT data files of its own")
    shards.add_arguments(made)
    _add_common(made)
    made.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    _add_seeing(made.add_argument_group("seeing it"), explain=True)
    _add_verification(made.add_argument_group("verification"))
    engine.add_arguments(made)
    return made


def explain_parser() -> argparse.ArgumentParser:
    """The argument parser of ``rewrite explain MODEL``: ``--explain --dry-run`` under a name of its own."""
    made = _parser("rewrite explain", "Show why each attention of a model can be fused or not. Writes no model.")
    made.add_argument("model", metavar="MODEL", type=Path, nargs="?", help="the ONNX model; it is never changed")
    _add_seeing(made, explain=False)
    _add_common(made)
    return made


def bench_parser() -> argparse.ArgumentParser:
    """The argument parser of ``rewrite bench MODEL``."""
    from .speed.options import add_arguments

    made = _parser("rewrite bench", "Time the original against the rewritten model on this machine, in onnxruntime.")
    add_arguments(made)
    _add_common(made)
    return made


def check_parser() -> argparse.ArgumentParser:
    """The argument parser of ``rewrite check FILE``."""
    made = _parser(
        "rewrite check",
        "Say whether a rewritten file is whole after other tools had it. Runs nothing.",
        argument="FILE",
    )
    made.add_argument("model", metavar="FILE", type=Path, help="a file that `rewrite` wrote")
    made.add_argument("--json", metavar="FILE", type=Path, help="the findings as JSON ('-' for stdout)")
    made.add_argument("-h", "--help", action="help", help="show this help")
    return made


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as the words before the descriptions are, so that none needs a line of its own."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=82)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.ONE_OR_MORE:
            return f"{action.metavar or default_metavar} ..."
        return super()._format_args(action, default_metavar)


def _parser(name: str, description: str, epilog: str = "", argument: str = "MODEL") -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name,
        usage=f"{name} [options] {argument}",
        description=description,
        epilog=epilog,
        formatter_class=_Help,
        add_help=False,
    )


def _add_common(made: argparse.ArgumentParser) -> None:
    made.add_argument("-h", "--help", action="help", help="show this help")
    made.add_argument("--version", action="version", version=f"alibi-rewriter {__version__}", help="show the version")
    made.add_argument("-v", "--verbose", action="store_true", help="more of everything; tracebacks")
    made.add_argument(
        "--val-range",
        metavar="R",
        action="append",
        nargs="+",
        default=[],
        help="NAME:[LO,HI], values of an input; [0,1] is boolean",
    )


def _add_seeing(made: argparse._ActionsContainer, *, explain: bool) -> None:
    if explain:
        made.add_argument("--explain", action="store_true", help="show every step of every proof and refusal")
    made.add_argument("--site", metavar="REGEX", help="explain and extract only sites whose name matches")
    made.add_argument("--json", metavar="FILE", type=Path, help="the report as JSON ('-' for stdout)")
    made.add_argument("--report", metavar="FILE", type=Path, help="the report as a page (HTML, offline; '-' likewise)")
    made.add_argument("--extract", metavar="DIR", type=Path, help="each site's subgraph as small .onnx files")


def _add_verification(made: argparse._ActionsContainer) -> None:
    made.add_argument("--no-verify", action="store_true", help="do not compare with the original")
    made.add_argument("--verify-sites", action="store_true", help="compare each attention alone, without weights")
    made.add_argument(
        "--verify-on",
        metavar="W",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="run our kernels too: auto, cpu, cuda",
    )
    made.add_argument("--inputs", metavar="NPZ", type=Path, help="given inputs, one array per graph input")
    made.add_argument("--seed", metavar="N", type=int, default=0, help="of the drawn inputs (default 0)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: The words; those of the process if None, which then belongs to this program.
    """
    if arguments is not None:
        return _answer(list(arguments))
    settle_streams()
    leave_working_folder()
    try:
        return _answer(sys.argv[1:])
    finally:
        leave()


def _answer(words: list[str]) -> int:
    command = COMMANDS.get(words[0]) if words else None
    try:
        return _guarded(_rewrite, words) if command is None else _guarded(command, words[1:])
    except SystemExit as stop:
        return int(stop.code or 0)


def _guarded(command: Command, words: list[str]) -> int:
    """Every command ends in an exit code and at most one line on stderr."""
    outputs = Outputs()
    try:
        return command(words, outputs)
    except AlibiError as error:
        state = f" ({outputs.state()})" if outputs.written() else ""
        complain(f"error: {error}{state}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        complain(f"interrupted; {outputs.state()}")
        return INTERRUPTED
    except Exception as error:  # the last resort: a bug of ours, never a traceback by default
        state = outputs.state()
        return broken(error, verbose=bool({"-v", "--verbose"} & set(words)), state=f"{state[0].upper()}{state[1:]}.")


def _rewrite(words: list[str], outputs: Outputs) -> int:
    options = _with_model(parser(), words)
    check_system()
    models = options.model
    if len(models) > 1:
        from .several import carry_out

        return carry_out(options, models, outputs, COMMANDS)
    (options.model,) = models
    if options.output is not None and options.tensor_parallel is None and is_folder(options.output):
        options.output = inside(options.output, options.model)
    return _run(options, outputs)


def _explain(words: list[str], outputs: Outputs) -> int:
    options = parser().parse_args(["MODEL", "--explain", "--dry-run", "--no-verify"])
    vars(options).update(vars(_with_model(explain_parser(), words)))
    check_system()
    return _run(options, outputs)


def _run(options: argparse.Namespace, outputs: Outputs) -> int:
    return prepare(options, outputs, COMMANDS).carry_out()


def _with_model(made: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The options, with MODEL wherever it stands.

    Options that take an optional or several values take the model for one of them, if it comes right behind.
    """
    # Intermixed: models may stand on both sides of an option.
    options = made.parse_intermixed_args(words)
    if not options.model:
        taken = _taken(options)
        if taken is not None:
            options.model = [taken] if isinstance(options.model, list) else taken
    if not options.model:
        made.error("MODEL is missing: give the path of an .onnx model")
    return options


def _taken(options: argparse.Namespace) -> Path | None:
    """The model, if an option has taken it for a value of its own."""
    found: Path | None = getattr(options, "engine", None)
    if found is not None and found.suffix == MODEL_SUFFIX:
        options.engine = Path()
        return found
    lists = [*options.val_range, *(getattr(options, f"{kind}_shapes", []) for kind in engine.KINDS)]
    for values in reversed([one for one in lists if len(one) > 1]):
        if values[-1].endswith(MODEL_SUFFIX) and ":" not in values[-1]:
            return Path(values.pop())
    return None


def _bench(words: list[str], outputs: Outputs) -> int:
    from .speed.command import carry_out

    options = bench_parser().parse_args(words)
    check_system()
    ranges = dict(parse_range(text) for group in options.val_range for text in group)
    return _shown(carry_out(options, ranges, outputs))


def _check(words: list[str], outputs: Outputs) -> int:
    import json

    from .intact import check

    options = check_parser().parse_args(words)
    check_system()
    if options.json is not None and options.json != STANDARD_OUTPUT:
        check_place(options.json, "--json")
        outputs.expect(options.json)
    found = check(options.model)
    report = json.dumps(found.to_json(), indent=2) + "\n"
    if options.json == STANDARD_OUTPUT:
        return _shown(report, found.exit_code, raw=True)
    if options.json is not None:
        write_text(options.json, report, "--json", options.model)
    return _shown(found.to_text(), found.exit_code)


def _completion(words: list[str], outputs: Outputs) -> int:
    from .completion import SHELLS, script

    made = _parser(
        "rewrite completion", "Print a completion script: source <(rewrite completion bash)", argument="SHELL"
    )
    made.add_argument("shell", choices=SHELLS)
    made.add_argument("-h", "--help", action="help", help="show this help")
    shell = made.parse_args(words).shell
    commands = {"explain": explain_parser(), "check": check_parser(), "bench": bench_parser()}
    return _shown(script(shell, parser(), commands, {"completion": SHELLS, "doctor": ()}))


def _doctor(words: list[str], outputs: Outputs) -> int:
    from .engine.doctor import examine, to_text

    made = _parser(
        "rewrite doctor", "Say what is installed, what works with what, and what cures each gap.", argument=""
    )
    made.add_argument("-h", "--help", action="help", help="show this help")
    made.parse_args(words)
    return _shown(to_text(examine()))


def _shown(text: str, code: ExitCode = ExitCode.DONE, *, raw: bool = False) -> int:
    problem = show(text, raw=raw)
    if problem is None:
        return int(code)
    complain(f"error: {problem}")
    return int(ExitCode.USAGE)


COMMANDS: dict[str, Command] = {
    "explain": _explain,
    "check": _check,
    "bench": _bench,
    "doctor": _doctor,
    "completion": _completion,
}
"""Commands by their name; anything else as the first word is a model."""


__all__ = ["COMMANDS", "bench_parser", "check_parser", "explain_parser", "main", "parse_range", "parser"]

if __name__ == "__main__":
    sys.exit(main())
