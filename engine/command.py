"""The command line's engine options: `rewrite MODEL --engine`, `--embed-kernels`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import AlibiError, EngineFailed, UsageError
from ..base.systems import check_kernels
from .accumulation import CHOICES, DEFAULT
from .job import BACKENDS
from .options import AUTO, STRATEGIES, EngineOptions, Reporter

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..rewriter.records.binding import Binding
    from ..rewriter.result import PassResult

KINDS = ("min", "opt", "max")
TRTEXEC = {"min": "--minShapes", "opt": "--optShapes", "max": "--maxShapes"}
"""trtexec's names of the shape options."""

YES = {"yes": True, "no": False}
CLEAR_LINE = "\r\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the option group."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine", metavar="PATH", nargs="?", const=Path(), type=Path, help="build an engine (default: STEM.engine)"
    )
    group.add_argument("--backend", choices=(AUTO, *BACKENDS), metavar="NAME", help=", ".join(BACKENDS))
    group.add_argument("--strategy", choices=STRATEGIES, metavar="S", help="plugin, native (function bodies) or auto")
    group.add_argument(
        "--accumulate", choices=CHOICES, metavar="T", help="float32: with native, ask for sums of float32"
    )
    group.add_argument("--target", metavar="SM", action="append", default=[], help="GPUs to build for: sm_80,sm_89")
    for kind in KINDS:
        shapes: Any = {"metavar": "S", "nargs": "+", "dest": f"{kind}_shapes"}
        # One text for the three, since a short help is read and a long one is scrolled past.
        text = "e.g. ids:1x32,mask:1x32; missing ones are derived" if kind == "min" else None
        group.add_argument(f"--{kind}-shapes", default=[], help=text, **shapes)
        group.add_argument(TRTEXEC[kind], default=argparse.SUPPRESS, help=argparse.SUPPRESS, **shapes)
    group.add_argument("--embed-plugin", choices=tuple(YES), metavar="Y|N", help="plugin library inside: yes, no")
    group.add_argument("--embed-kernels", action="store_true", help="kernels in the written model, for trtexec")
    group.add_argument("--skip", action="store_true", help="kernels that leave out provably negligible keys")


@dataclass(frozen=True)
class EngineOutcome:
    """What became of the request.

    Attributes:
        lines: For people.
        facts: The report's ``engine`` object; empty if no engine was asked for.
        done: A model that was rewritten before was built as it is, since nothing was left to rewrite.
        error: Why it failed.  The rewriting is done and reported all the same.
    """

    lines: tuple[str, ...] = ()
    facts: dict[str, object] | None = None
    done: bool = False
    error: AlibiError | None = None


@dataclass(frozen=True)
class EngineRequest:
    """What the command line asks for besides rewriting.

    Attributes:
        engine: Where an engine goes; an empty path for the default place, None for no engine.
        embed: Attach kernels to the written model.
        options: How to build.
        explain, verbose: How much to say.
    """

    engine: Path | None
    embed: bool
    options: EngineOptions
    explain: bool = False
    verbose: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> EngineRequest | None:
        """The request of a command line, or None if it asks for no engine and no kernels.

        Raises:
            UsageError: A shape or target is not written as it has to be, an option has nothing to say something about,
                or MODEL stands behind --engine.
        """
        embed = getattr(options, "embed_kernels", False)
        if getattr(options, "engine", None) is None:
            _refuse_idle(options, embed)
            if not embed:
                return None
        check_kernels("--engine" if options.engine is not None else "--embed-kernels")
        if getattr(options, "inline", False):
            raise UsageError("--inline leaves no fused node to build an engine from. Give it in a run of its own.")
        if options.engine is not None and options.engine.suffix == ".onnx":
            # The option takes a path, so `rewrite --engine model.onnx` takes the model for the engine.
            raise UsageError(f"--engine '{options.engine}' looks like a model. Put MODEL first: rewrite MODEL --engine")
        from .shapes import parse_shapes
        from .targets import parse_targets

        shapes = {kind: parse_shapes(f"--{kind}-shapes", getattr(options, f"{kind}_shapes")) for kind in KINDS}
        wanted = EngineOptions(
            backend=options.backend or AUTO,
            strategy=options.strategy or STRATEGIES[0],
            targets=parse_targets(options.target),
            shapes=shapes,
            embed_plugin=YES.get(options.embed_plugin),
            skip=options.skip,
            accumulate=options.accumulate or DEFAULT,
        )
        return cls(options.engine, options.embed_kernels, wanted, options.explain, options.verbose)

    def plan_of(self, model: Path) -> Path:
        """Where the engine of a written model goes."""
        assert self.engine is not None
        return self.engine if self.engine != Path() else model.with_suffix(".engine")

    def check(self, model: ModelProto, base_dir: Path) -> None:
        """Fails for what can be known to fail before anything is rewritten.

        Args:
            model: The original.
            base_dir: Where its external data lie.

        Raises:
            UsageError: A shape names no input or does not fit, or a target cannot be built for.
            MissingDependency: TensorRT or Triton is not installed.
            EngineFailed: TensorRT is too old, or there is no GPU to build for.
            PluginNotUsed: The plugin library is missing.
        """
        from .build import check_name, check_request
        from .profiles import make_profile
        from .shapes import check_shapes, inputs_of

        for kind in KINDS:
            check_shapes(f"--{kind}-shapes", self.options.shapes[kind], inputs_of(model))
        if any(self.options.shapes.values()):
            make_profile(model, base_dir, self.options.shapes)
        for place in (base_dir, self.engine):
            if place is not None:
                check_name(place)
        check_request(self.options, engine=self.engine is not None, embed=self.embed)

    def check_sites(self, bindings: Iterable[Binding]) -> None:
        """Fails for what can be known to fail once the fused nodes are known.

        Raises:
            EngineFailed: A node has a form of the bias that no kernel computes.
        """
        from ..graph.index import label
        from ..rewriter.emit.nodes import variant_of
        from .needs import NATIVE_INSTEAD

        if not self.embed and self.options.strategy == "native":
            return
        for binding in bindings:
            variant = variant_of(binding)
            if not variant.bias.kernels:
                attention = binding.proof.attention
                raise EngineFailed(
                    f"attention '{label(attention.anchor)}' (scores '{attention.scores}') becomes {variant.op_type}, "
                    f"and no kernel computes the form {variant.form!r} of the bias. {NATIVE_INSTEAD}"
                )

    def carry_out(self, result: PassResult) -> EngineOutcome:
        """Builds what was asked for from a rewritten model, or from one that was rewritten before."""
        from ..graph.note import fused_nodes

        model, before = result.output, False
        if model is None and not result.fused and result.source.path is not None:
            before = bool(fused_nodes(result.source.model))
            model = result.source.path if before else None
        if model is None:
            return EngineOutcome()
        try:
            return self._carry_out(model, before)
        except AlibiError as error:
            return EngineOutcome(facts={"error": str(error)}, error=error)

    def _carry_out(self, model: Path, before: bool) -> EngineOutcome:
        from .build import build_engine, embed_kernels

        progress = Progress(self.verbose)
        lines: list[str] = []
        if self.embed:
            if before:
                raise UsageError(f"'{model}' is rewritten already and is never changed. Start from the original.")
            attached = embed_kernels(model, self.options, progress)
            size = attached.bytes / 2**20
            lines.append(f"attached {size:.1f} MiB of kernels to {len(attached.nodes)} nodes of {model}")
        if self.engine is None:
            return EngineOutcome(tuple(lines), done=before)
        plan = self.plan_of(model)
        facts = build_engine(model, plan, self.options, progress)
        return EngineOutcome((*lines, *facts.lines(explain=self.explain)), facts.to_json(), done=before)


def _refuse_idle(options: argparse.Namespace, embed: bool) -> None:
    """Refuses options of an engine that is not asked for, since they would do nothing.

    Raises:
        UsageError: One was given.
    """
    names = ["backend", "strategy", "accumulate", "embed_plugin", *(f"{kind}_shapes" for kind in KINDS)]
    names += [] if embed else ["target", "skip"]
    for name in names:
        if getattr(options, name, None):
            option = f"--{name.replace('_', '-')}"
            more = " or --embed-kernels" if name in ("target", "skip") else ""
            raise UsageError(f"{option} is about an engine. Give it with --engine{more}.")


class Progress(Reporter):
    """Progress on stderr: lines for steps, and on a terminal a line that is overwritten."""

    def __init__(self, verbose: bool) -> None:
        super().__init__(self._say, self._event)
        self.verbose = verbose
        self.terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.drawn = False

    def _say(self, text: str) -> None:
        self._clear()
        self._write(f"[{time.monotonic() - self.started:6.1f} s] {text}\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # The terminal is gone, or the file is full.  The work goes on.
            sys.stderr.write(text)
            sys.stderr.flush()

    def _event(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress" and self.terminal:
            done, steps = int(event["done"]), max(1, int(event["steps"]))
            self._write(f"{CLEAR_LINE}{event['phase'][:50]} {done}/{steps}")
            self.drawn = True
        elif event["event"] == "parsed":
            self._say(f"parsed: {event['layers']} layers, {event['plugin_layers']} of them plugins")
        elif event["event"] == "log" and self.verbose:
            self._say(f"{event['level']}: {event['message']}")

    def _clear(self) -> None:
        if self.drawn:
            self._write(CLEAR_LINE)
            self.drawn = False
