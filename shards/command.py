"""The command line's side: `rewrite MODEL --tensor-parallel N -o DIR`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import ExitCode, UsageError
from .request import MANIFEST, ONNXRUNTIME, RUNTIMES, Request

if TYPE_CHECKING:
    from ..rewriter.result import Options, PassResult
    from ..verify import Verification


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds the options."""
    parser.add_argument("--tensor-parallel", metavar="N", type=int, help="cut by heads for N ranks; -o is a folder")
    parser.add_argument("--collectives", choices=RUNTIMES, help=argparse.SUPPRESS)  # a page says more about it
    parser.add_argument("--cut-vocabulary", action="store_true", help="cut embedding and last product for ranks, too")


def request_of(options: argparse.Namespace) -> Request | None:
    """What a command line asks for; None if it asks for one file.

    Raises:
        UsageError: Options have nothing to say something about, or exclude each other.
    """
    if options.tensor_parallel is None:
        for name in ("collectives", "cut_vocabulary"):
            if getattr(options, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} says something about ranks: give it with --tensor-parallel N."
                )
        return None
    for name, why in EXCLUDED.items():
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--tensor-parallel and --{name.replace('_', '-')}: {why}.")
    if options.output is None:
        raise UsageError("--tensor-parallel writes several files: give a folder with -o.")
    made = Request(options.tensor_parallel, options.output, options.collectives or ONNXRUNTIME, options.cut_vocabulary)
    made.check()
    return made


EXCLUDED = {
    "engine": "build an engine of each rank's file, in runs of their own",
    "embed_kernels": "embed kernels into each rank's file, in runs of their own",
    "inline": "heads are cut where there are fused nodes, and --inline leaves none",
    "dry_run": "a dry run writes nothing, and what is cut is known once it was cut",
    "copy_external_data": "ranks have data files of their own in any case",
    "verify_sites": "ranks are compared as a whole, or with --no-verify not at all",
}
"""Options that go with one file only, and why."""


@dataclass(frozen=True)
class Cutting:
    """What became of a request.

    Attributes:
        lines: For people.
        facts: The report's ``tensor_parallel`` object.
        code: How the run ends.
    """

    lines: Sequence[str]
    facts: dict[str, Any]
    code: ExitCode


def carry_out(request: Request, result: PassResult, options: Options) -> Cutting:
    """Cut what was rewritten.

    Args:
        request: What is asked for.
        result: Of the pass, which has not written anything.
        options: Of the run.

    Raises:
        NotRewritten: Nothing can be cut.
        UsageError: The files cannot be written.
    """
    from .cut import cut
    from .manifest import to_text

    made = cut(result, request, options)
    lines = to_text(made.manifest, str(request.folder))
    if made.verification is not None:
        lines += _verified(made.verification)
    where = request.folder / MANIFEST
    if made.written:
        lines.append(f"wrote {len(request.files)} files: {where} says what belongs together")
    elif made.code is ExitCode.NOT_VERIFIED:
        lines.append(
            "NOT written: the ranks together could not be compared (exit 8). --no-verify writes them unverified."
        )
    else:
        lines.append(
            "NOT written: the ranks together do not compute what the original computes (exit 4). Report this model."
        )
    facts = {
        "folder": str(request.folder),
        "written": made.written,
        "manifest": made.manifest,
        "verification": None if made.verification is None else made.verification.to_json(),
    }
    return Cutting(lines, facts, made.code)


def _verified(found: Verification) -> list[str]:
    lines = [f"all ranks together: verification {found.summary()}"]
    if found.power is not None and found.power.weak:
        lines.append("  some wrong cuts pass too, so the check has no power over these: give better --inputs")
        lines += [f"  {m.kind} at {m.site}: {m.reason}" for m in found.power.mutants if m.verdict == "survived"]
    return lines
