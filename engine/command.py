"""The command line's engine options: `rewrite MODEL --engine`, `--embed-kernels`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..rewriter.errors import UsageError
from .build import STRATEGIES, EngineOptions, Reporter
from .job import BACKENDS
from .process import Event
from .profiles import KINDS
from .shapes import parse_shapes
from .targets import parse_targets

NATIVE_SPELLING = {"min": "--minShapes", "opt": "--optShapes", "max": "--maxShapes"}
"""trtexec's names of the shape options."""

CLEAR_LINE = "\r\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the option group."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        metavar="PATH",
        nargs="?",
        const=Path(),
        type=Path,
        help="build a TensorRT engine (default: the output's stem + .engine)",
    )
    group.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="which TensorRT (default: auto)")
    group.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="plugin",
        help="plugin: our kernels; native: TensorRT compiles the function bodies; auto: the faster of both, timed here",
    )
    group.add_argument(
        "--target", metavar="SM", action="append", default=[], help="GPUs to build for, e.g. sm_80,sm_89"
    )
    for kind in KINDS:
        group.add_argument(
            f"--{kind}-shapes",
            NATIVE_SPELLING[kind],
            metavar="SHAPES",
            nargs="+",
            default=[],
            help="ids:1x32,mask:1x32 or ids:[1,32] mask:[1,32]; missing ones are derived"
            if kind == "min"
            else "likewise",
        )
    group.add_argument(
        "--embed-plugin",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="store the plugin library in the engine (default: with TensorRT-RTX)",
    )
    group.add_argument(
        "--embed-kernels", action="store_true", help="attach compiled kernels to the written model, for trtexec"
    )
    group.add_argument(
        "--skip", action="store_true", help="kernels that leave out keys proven negligible (docs/kernels.md)"
    )


def engine_options(options: argparse.Namespace) -> EngineOptions:
    """The options as a value.

    Raises:
        UsageError: A shape or target is not written as it has to be.
    """
    return EngineOptions(
        backend=options.backend,
        strategy=options.strategy,
        targets=parse_targets(options.target),
        shapes={kind: parse_shapes(f"--{kind}-shapes", getattr(options, f"{kind}_shapes")) for kind in KINDS},
        embed_plugin=options.embed_plugin,
        skip=options.skip,
    )


def engine_path(options: argparse.Namespace, model: Path) -> Path:
    """Where the engine goes."""
    given: Path = options.engine
    if given != Path():
        return given
    return model.with_name(f"{model.name.removesuffix('.onnx')}.engine")


def misplaced_model(options: argparse.Namespace) -> None:
    """`rewrite --engine model.onnx` takes the model for the engine: say so.

    Raises:
        UsageError: The engine's path ends like a model.
    """
    if options.engine is not None and options.engine.suffix == ".onnx":
        raise UsageError(f"--engine '{options.engine}' looks like a model. Put MODEL first: rewrite MODEL --engine")


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
        sys.stderr.write(f"[{time.monotonic() - self.started:6.1f} s] {text}\n")

    def _event(self, event: Event) -> None:
        if event["event"] == "progress" and self.terminal:
            done, steps = int(event["done"]), max(1, int(event["steps"]))
            sys.stderr.write(f"{CLEAR_LINE}{event['phase'][:50]} {done}/{steps}")
            sys.stderr.flush()
            self.drawn = True
        elif event["event"] == "parsed":
            self._say(f"parsed: {event['layers']} layers, {event['plugin_layers']} of them plugins")
        elif event["event"] == "log" and self.verbose:
            self._say(f"{event['level']}: {event['message']}")

    def _clear(self) -> None:
        if self.drawn:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()
            self.drawn = False
