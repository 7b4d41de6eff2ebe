"""The pass: load, analyse, emit, save, verify -- and a result that says everything that happened."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from ..base.errors import ExitCode, ModelRejected, UsageError
from ..base.hidden import scratch
from ..base.targets import inside
from ..fused.family import DOMAIN
from ..graph import note, wellformed
from ..graph.given import given
from ..graph.index import opset_versions
from ..graph.load import ModelFile, check_target
from ..graph.save import Staged
from .absorb import absorb
from .apply import apply
from .cache.place import fix_capacity, hold_in_place
from .check.pairs import CutPairs
from .check.probe import probe
from .compared import compare, compare_steps, with_steps
from .emit.inlining import beside, inline_functions, verify_inlined
from .notices import empty_rows
from .records.site import Analysis
from .result import Options, PassResult, binary_inputs
from .working_copy import analyse_copy, working_copy


def rewrite(model: ModelFile | Any, output: str | Path | None = None, *, options: Options | None = None) -> PassResult:
    """Fuse every attention of a model whose added bias is proven to be ALiBi.

    Args:
        model: What ``graph.given`` takes, or a source that was read already.
        output: Where to write the rewritten model; for a path ``<stem>.alibi.onnx`` beside it by default.
            Anything else is only written if this is given.
        options: See ``Options``.

    Returns:
        The result; ``result.model`` is the rewritten model, ``result.exit_code`` the verdict.

    Raises:
        ModelRejected: The input is broken or unsafe.
        UsageError: The output cannot be written there.
        MissingDependency: onnxruntime is needed for the verification and not installed.
    """
    options = options or Options()
    if options.verify_sites and options.inputs is not None:
        raise UsageError("--inputs are inputs of the whole model: give them without --verify-sites.")
    clock = _Clock()
    source = source_of(model)
    target = _target(None if isinstance(model, ModelFile) else source.path, output)
    if target is not None and not options.dry_run:
        check_target(source, target)
    clock.lap("load")
    copy, result = _judged(source, options, clock)
    original, analysis = source.model, result.analysis
    if not analysis.proven or (analysis.refused and not options.allow_partial) or options.dry_run:
        result.notes += empty_rows(analysis.proven, [])
        if options.in_place and not options.dry_run:
            _expect_fused(source)
        result.exit_code = _without_a_rewrite(original, analysis, result, options)
        return result
    if options.views:
        result.analysis = analysis = absorb(analysis)
    sites = None
    if options.verify:

        def again() -> ModelProto:
            return working_copy(original, source.base_dir, analysis.kept)[0]

        sites = CutPairs.of(copy, analysis, source.base_dir, again)
    apply(copy, analysis, result)
    note.write(copy)
    result.notes += empty_rows(analysis.proven, result.fused)
    clock.lap("edit")
    if options.in_place:
        copy = _in_place(source, copy, result, options, sites, clock)
        options = dataclasses.replace(options, verify=False)
    if options.inline and not _failed(result):
        copy = _inline(source, copy, result, options, sites)
        clock.lap("verify")
        result.notes.append("function bodies are in place of the fused nodes, as asked for: no kernel replaces them")
        options = dataclasses.replace(options, verify=False)
    if result.cache is not None and options.capacity is not None:
        # What was compared leaves it open, and nothing in the graph depends on it.
        result.cache = fix_capacity(copy, result.cache, options.capacity)
    result.model = copy
    if _failed(result):
        pass
    elif target is not None:
        _write(source, copy, target, result, options, sites, clock)
    elif options.verify:
        with scratch() as folder:
            base_dir = source.base_dir if source.data else None
            with Staged(copy, folder / "rewritten.onnx", base_dir) as staged:
                result.verification = compare(source, staged, result, options, sites)
        clock.lap("verify")
    # What could not be compared is not written either.  --no-verify asks for an unverified model.
    status = "passed" if result.verification is None else result.verification.status
    result.exit_code = UNVERIFIED.get(status, ExitCode.DONE)
    return result


def _judged(source: ModelFile, options: Options, clock: _Clock) -> tuple[ModelProto, PassResult]:
    """A working copy, and the verdicts on all of its sites, checked in numbers if that is asked for."""
    original = source.model
    if options.check is not None:
        options.check(source, None)
    _check_versions(source)
    binary = frozenset(binary_inputs(options.val_ranges))
    wellformed.check(original)
    copy, analysis = analyse_copy(original, source, binary, options.progress, exact_bias=options.exact_bias)
    if options.check is not None:
        options.check(source, analysis)
    result = PassResult(source, analysis, seconds=clock.seconds)
    if analysis.malformed:
        some = ", ".join(analysis.malformed[:5])
        result.notes.append(f"nodes that contradict their inputs, so their results were taken for unknown: {some}")
    clock.lap("analyse")
    if options.exact_bias and not any(binding.proof.unrounded.terms for binding in analysis.bindings):
        result.notes.append("--exact-bias changes nothing: no bias that is proven is rounded to a narrower type")
    if options.probe:
        result.analysis = analysis = probe(copy, analysis, source.base_dir)
        unchecked = [s.name for s in analysis.proven if not s.checked]
        if unchecked:
            some = ", ".join(unchecked[:5])
            result.notes.append(f"the numeric self-check could not evaluate the bias at several keys of: {some}")
        clock.lap("probe")
    return copy, result


def _in_place(
    source: ModelFile,
    grown: ModelProto,
    result: PassResult,
    options: Options,
    sites: CutPairs | None,
    clock: _Clock,
) -> ModelProto:
    """A copy with the caches in place, verified in two steps.

    The original is compared with the fused model, then step by step with the one whose caches are in place.
    """
    held = ModelProto()
    held.CopyFrom(grown)
    result.cache = hold_in_place(held, source.base_dir, str(source.path or "the model"))
    result.counts += result.cache.counts
    clock.lap("edit")
    if not options.verify:
        return held
    base_dir = source.base_dir if source.data else None
    with (
        scratch() as folder,
        Staged(grown, folder / "rewritten.onnx", base_dir) as staged,
        Staged(held, folder / "held.onnx", base_dir) as second,
    ):
        found = compare(source, staged, result, options, sites)
        if found.status == "passed":
            found = with_steps(found, compare_steps(source, second, result, options))
        result.verification = found
    clock.lap("verify")
    return held


def _failed(result: PassResult) -> bool:
    """Whether the verification says that nothing is to be written."""
    return result.verification is not None and result.verification.status in UNVERIFIED


def _inline(
    source: ModelFile, rewritten: ModelProto, result: PassResult, options: Options, sites: CutPairs | None
) -> ModelProto:
    """The model with its function bodies in place of the calls, verified in two steps.

    The model with functions is compared with the original and attacked with mutants.  The one without functions has
    to compute what that one does.
    """
    inlined = inline_functions(rewritten)
    note.write(inlined, inlined=note.count(rewritten))
    if not options.verify:
        return inlined
    base_dir = source.base_dir if source.data else None
    with (
        scratch() as folder,
        Staged(rewritten, folder / "rewritten.onnx", base_dir) as staged,
        Staged(inlined, folder / "inlined.onnx", base_dir) as second,
    ):
        found = compare(source, staged, result, options, sites)
        if found.status == "passed":
            found = beside(found, verify_inlined(staged.path, second.path, staged.data_dir, options.seed))
        result.verification = found
    return inlined


def _expect_fused(source: ModelFile) -> None:
    """Nothing is rewritten, which is no reason to say so as usual where a file that was rewritten before is given.

    Raises:
        UsageError: It was.
    """
    if any(node.domain == DOMAIN for node in source.model.graph.node):
        raise UsageError(f"'{source.path or 'the model'}' was rewritten before. Give --cache with the original model.")


UNVERIFIED = {"failed": ExitCode.VERIFICATION_FAILED, "skipped": ExitCode.NOT_VERIFIED}


def _without_a_rewrite(original: ModelProto, analysis: Analysis, result: PassResult, options: Options) -> ExitCode:
    """How a run ends that rewrites nothing."""
    if analysis.proven:
        return ExitCode.NOT_REWRITTEN if analysis.refused and not options.allow_partial else ExitCode.DONE
    before = sum(node.domain == DOMAIN for node in original.graph.node)
    if before and not analysis.refused:
        result.rewritten_before = before
        return ExitCode.DONE
    return ExitCode.NOT_REWRITTEN


def _write(
    source: ModelFile,
    rewritten: ModelProto,
    target: Path,
    result: PassResult,
    options: Options,
    sites: CutPairs | None,
    clock: _Clock,
) -> None:
    """Verify what will be written before it gets its name: a failed check leaves nothing behind."""

    def copied(done: int, whole: int) -> None:
        if options.progress is not None:
            options.progress("copying data files", done, whole)

    base_dir = source.base_dir if source.data else None
    with Staged(rewritten, target, base_dir, own_data=options.copy_data, like=source.path) as staged:
        if options.copy_data:
            staged.bring_data(copied)
        clock.lap("save")
        if options.verify:
            result.verification = compare(source, staged, result, options, sites)
            clock.lap("verify")
            if result.verification.status in UNVERIFIED:
                return
        staged.commit(copied)
        result.output, result.sha256 = target, staged.sha256
        clock.lap("save")


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def source_of(model: ModelFile | Any) -> ModelFile:
    """A model, or the file or graph that holds one, with where it came from."""
    return model if isinstance(model, ModelFile) else given(model).source


def _target(path: Path | None, output: str | Path | None) -> Path | None:
    if output is not None:
        return Path(output)
    return None if path is None else default_target(path)


def default_target(model: Path) -> Path:
    """Where a rewritten model goes if nothing else is said."""
    return inside(model.parent, model)


def _check_versions(source: ModelFile) -> None:
    versions = opset_versions(source.model)
    name = source.path or "the model"
    if source.model.ir_version > onnx.IR_VERSION:
        raise ModelRejected(
            f"'{name}' has IR version {source.model.ir_version}; the installed onnx {onnx.__version__} knows up to "
            f"{onnx.IR_VERSION}. Run: pip install --upgrade onnx"
        )
    if "" not in versions:
        if any(n.domain in ("", "ai.onnx") for n in source.model.graph.node):
            raise ModelRejected(f"'{name}' does not import the ONNX operator set. Export it again.")
        return
    newest = onnx.defs.onnx_opset_version()
    if versions[""] > newest:
        raise ModelRejected(
            f"'{name}' uses opset {versions['']}; the installed onnx {onnx.__version__} knows up to {newest}. "
            "Run: pip install --upgrade onnx"
        )
