"""The Python side: ``rewrite`` for a model of any kind, what can be asked of its result, engines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base.errors import ExitCode, UsageError
from .base.systems import check_kernels, check_system
from .base.writing import write_text
from .graph import surgeon
from .graph.given import given
from .graph.index import Array
from .rewriter import pipeline, report
from .rewriter.cache.choice import GROWS, cache_choice
from .rewriter.result import Options, binary_inputs
from .rewriter.result import PassResult as Run

if TYPE_CHECKING:
    from .engine.facts import EngineFacts
    from .explain import Look

Shapes = Mapping[str, Sequence[int]]


@dataclass(repr=False)
class RewriteResult(Run):
    """Everything that happened, and what can be asked about it.

    Attributes:
        model: The rewritten model in the kind that was given: ``bytes``, ``onnx_ir.Model``, ``gs.Graph``, and a
            ``ModelProto`` for a path and a ``ModelProto``.  None if nothing was rewritten, or if the verification did
            not pass.
        binary: Inputs that were declared to hold 0 and 1 only.
    """

    model: Any = None
    binary: tuple[str, ...] = ()

    def graph(self) -> Any:
        """The rewritten model as a ``gs.Graph`` of onnx-graphsurgeon; the original where there is none.

        Raises:
            MissingDependency: onnx-graphsurgeon is not installed.
        """
        if surgeon.is_graph(self.model):
            return self.model
        return surgeon.to_graph(self.source.model if self.model is None else given(self.model).source.model)

    def to_json(self, *, explain: bool = False) -> dict[str, object]:
        """The report of ``--json`` as a dictionary of JSON types.

        Args:
            explain: With the explanation of each site, as with ``--explain``.
        """
        made = report.to_json(self)
        if explain:
            self._look(None).explain(made)
        return made

    def explain(self, site: str | None = None) -> str:
        """The text of ``--explain``: the formula of each site, every step of its proof, or what refused it.

        Args:
            site: A regular expression; only sites whose name matches are explained.
        """
        look = self._look(site)
        return report.to_text(self, explain=True, details=look.lines())

    def save_report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report: as a page for ``.html``, with explanations as JSON for ``.json``.

        Raises:
            UsageError: It is neither, or it cannot be written there.
        """
        target = Path(path)
        if target.suffix not in (".html", ".json"):
            raise UsageError(f"'{target}' is neither .html nor .json. Choose one of them for the report.")
        look = self._look(None)
        made = report.to_json(self)
        look.explain(made)
        if target.suffix == ".json":
            text = json.dumps(made, indent=2, allow_nan=False) + "\n"
        else:
            from .explain import page_facts
            from .page import to_html

            page_facts(look, made)
            text = to_html(made)
        write_text(target, text, "path", self.source.path)
        return target

    def build_engine(self, engine: str | os.PathLike[str] | None = None, **options: Any) -> EngineFacts:
        """Build an engine from the file that was written; see :func:`build_engine`.

        Raises:
            UsageError: No file was written.
        """
        if self.output is None:
            raise UsageError("an engine is built from a file: give rewrite() an output.")
        return build_engine(self.output, engine, **options)

    def _look(self, site: str | None) -> Look:
        from .explain import Look

        try:
            return Look(self, self.binary, None if site is None else re.compile(site))
        except re.error as error:
            raise UsageError(f"site '{site}' is no regular expression: {error}.") from None


_DEFAULT = Options()


def rewrite(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    options: Options | None = None,
    allow_partial: bool = _DEFAULT.allow_partial,
    dry_run: bool = _DEFAULT.dry_run,
    verify: bool = _DEFAULT.verify,
    probe: bool = _DEFAULT.probe,
    seed: int = _DEFAULT.seed,
    inputs: Mapping[str, Array] | Path | None = None,
    val_ranges: Mapping[str, tuple[float, float]] | None = None,
    verify_sites: bool = _DEFAULT.verify_sites,
    verify_on: str = _DEFAULT.verify_on,
    exact_bias: bool = _DEFAULT.exact_bias,
    inline: bool = _DEFAULT.inline,
    views: bool = _DEFAULT.views,
    cache: str = GROWS,
    copy_data: bool = _DEFAULT.copy_data,
    progress: Callable[[str, int, int], None] | None = None,
) -> RewriteResult:
    """Fuse every attention of a model whose added bias is proven to be ALiBi.

    Args:
        model: A path, the bytes of a file, a ``ModelProto``, an ``onnx_ir.Model`` or a ``gs.Graph``; it stays as it is.
        output: Where to write the rewritten model.  Nothing is written without it.
        options: Instead of the keywords that follow.
        allow_partial: Rewrite even if some sites with an ALiBi-like bias are left as they are.
        dry_run: Analyse only.
        verify: Compare original and rewritten in onnxruntime.
        probe: Evaluate each bias numerically and compare it with the proof.
        seed: Of the drawn inputs.
        inputs: Given inputs, per graph input, instead of drawn ones.
        val_ranges: (lowest, highest) per graph input, both included.
        verify_sites: Verify each attention alone, without weights.
        verify_on: Where the result runs on our kernels as well: ``auto``, ``cpu`` or ``cuda``.
        exact_bias: Leave out the rounding of a bias to a narrow type.
        inline: Write the function bodies in place of the fused nodes.
        views: Let fused nodes read their operands where the graph has them, such as in a packed projection.
        cache: ``grows``; or ``in-place`` or ``in-place=ROWS``: the caches that the model takes in and hands out become
            buffers of a fixed number of rows, and an input says how many keys each sequence has.
        copy_data: Give the output data files of its own.
        progress: Told (phase, work done, work in all) now and then.

    Returns:
        The result: ``result.model`` is of the kind that was given, ``result.exit_code`` is the verdict.

    Raises:
        ModelRejected: The model is broken or unsafe.
        UsageError: The arguments contradict each other, or the output cannot be written there.
        MissingDependency: onnxruntime is needed for the verification and not installed.
    """
    check_system()
    in_place, capacity = cache_choice(cache)
    chosen = Options(
        allow_partial=allow_partial,
        dry_run=dry_run,
        verify=verify,
        probe=probe,
        seed=seed,
        inputs=inputs,
        val_ranges=val_ranges or {},
        copy_data=copy_data,
        verify_sites=verify_sites,
        verify_on=verify_on,
        exact_bias=exact_bias,
        inline=inline,
        views=views,
        in_place=in_place,
        capacity=capacity,
        progress=progress,
    )
    if options is not None:
        if chosen != _DEFAULT:
            raise UsageError("rewrite() takes options=Options(...) or keywords, not both.")
        chosen = options
    else:
        from .runtime.gpu import CudaKernels

        chosen = replace(chosen, kernels=(CudaKernels(),))
    taken = given(model)
    run = pipeline.rewrite(taken.source, None if output is None else Path(output), options=chosen)
    values = {field.name: getattr(run, field.name) for field in fields(run)}
    made = RewriteResult(**values, binary=binary_inputs(chosen.val_ranges))
    # A model whose comparison failed is nobody's to run.
    sound = run.model is not None and run.exit_code is ExitCode.DONE
    return replace(made, model=taken.back(run.model) if sound and run.model is not None else None)


def unverified(result: RewriteResult) -> str:
    """Why a result is not to be handed on: its verification failed, or nothing could be compared; empty elsewhere."""
    if result.exit_code not in pipeline.UNVERIFIED.values():
        return ""
    return f"{result!r}: {result.verification and result.verification.summary()}"


def build_engine(
    model: str | os.PathLike[str],
    engine: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    strategy: str = "plugin",
    targets: Sequence[str] = (),
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    embed_plugin: bool | None = None,
    skip: bool = False,
    accumulate: str = "default",
) -> EngineFacts:
    """Build a TensorRT engine from a rewritten file; its fused nodes run our kernels.

    Args:
        model: A file that ``rewrite`` wrote.
        engine: Where the engine goes; ``<stem>.engine`` beside the model by default.
        backend: ``auto``, ``tensorrt`` or ``tensorrt-rtx``.
        strategy: ``plugin``, ``native`` (TensorRT compiles the function bodies) or ``auto``.
        targets: GPUs to build for, e.g. ``["sm_80", "sm_89"]``.
        min_shapes: Smallest shapes by input name; what is missing is derived.
        opt_shapes: Shapes that the engine is tuned for.
        max_shapes: Largest shapes.
        embed_plugin: Whether the plugin library travels in the plan; None for the backend's default.
        skip: Kernels that leave out provably negligible keys.
        accumulate: ``float32`` asks TensorRT's own attention for sums of float32.

    Returns:
        What was built.

    Raises:
        UsageError: A shape, a target or the output makes no sense.
        EngineFailed: TensorRT or the kernel compiler failed.
        PluginNotUsed: The plugin library is missing or was not used for every fused node.
        MissingDependency: TensorRT or Triton is not installed.
    """
    check_kernels("build_engine()")
    from .engine.build import build_engine as build
    from .engine.build import check_request
    from .engine.options import EngineOptions
    from .engine.targets import parse_targets

    shapes = {"min": min_shapes, "opt": opt_shapes, "max": max_shapes}
    wanted = EngineOptions(
        backend=backend,
        strategy=strategy,
        targets=parse_targets(list(targets)),
        shapes={kind: {name: tuple(shape) for name, shape in (some or {}).items()} for kind, some in shapes.items()},
        embed_plugin=embed_plugin,
        skip=skip,
        accumulate=accumulate,
    )
    check_request(wanted, engine=True, embed=False)
    source = Path(model)
    return build(source, source.with_suffix(".engine") if engine is None else Path(engine), wanted)
