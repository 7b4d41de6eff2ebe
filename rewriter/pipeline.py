"""The pass: load, analyse, emit, save, verify -- and a result that says everything that happened."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from . import surgeon, wellformed
from .algebra import Poly, Substitution, of, poly, substitute
from .analyse import Analysis, Site, analyse
from .edit import Counts, Editor, all_names
from .emit import emit, is_grouped, variant_of
from .errors import ExitCode, MissingDependency, ModelRejected, Refusal, UsageError
from .evaluation import beyond_memory
from .function_body import MINIMUM_OPSET, function_proto
from .graph import Array, opset_versions, walk
from .hidden import scratch
from .inlining import beside, inline_functions, verify_inlined
from .io import Source, check_target, load
from .normalise import normalise
from .pairs import SitePairs
from .probe import probe
from .prove import Proof
from .spec import DOMAIN, DOMAIN_VERSION, FusedAttention
from .staging import Staged
from .unfold import unfold_masks
from .unpack import unpack_attention
from .verify import Verification, VerifyOptions, skipped, verify
from .verify.draw import LARGEST_BATCH
from .verify.errors import GivenInputError, KernelsMissingError, RuntimeMissingError, VerifyError
from .verify.lengths import MOST_SCORES, exceeding
from .written_out import restore_softmax

FUNCTIONS_SINCE_IR = 8
"""Model-local functions exist from this IR version on."""


@dataclass(frozen=True)
class Options:
    """What the user asks for.

    Attributes:
        allow_partial: Write a model in which some sites with an ALiBi-like bias are left as they are.
        dry_run: Analyse only.
        verify: Compare original and rewritten in onnxruntime.
        probe: Evaluate each bias numerically and compare it with the proof.
        seed: Of the drawn inputs.
        inputs: Given inputs, per graph input, instead of drawn ones.
        val_ranges: (lowest, highest) per graph input, both included.  An integer input declared to be
            in 0 .. 1 may be taken as a boolean by the proof.
        verify_on: Where the rewritten model runs on our kernels as well: ``auto`` (wherever they are there), ``cpu``
            or ``cuda``.
        verify_sites: Verify each attention site alone, without weights, even if the whole model fits into memory.
        exact_bias: Where the model rounds its bias to a narrow type on the way to wide scores, leave the rounding out.
        inline: Write the function bodies in place of the fused nodes, for runtimes that refuse local functions.
        copy_data: Give the output data files of its own, even in the original's folder.
        progress: Told (phase, work done, work in all) now and then; the work in all may be 0 for unknown.
        check: Told the source once it was read, with None, and again with the analysis.  It may raise an
            ``AlibiError``, which ends the run before anything is rewritten or written.
    """

    allow_partial: bool = False
    dry_run: bool = False
    verify: bool = True
    probe: bool = True
    seed: int = 0
    inputs: Mapping[str, Array] | Path | None = None
    val_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    copy_data: bool = False
    verify_sites: bool = False
    verify_on: str = "auto"
    exact_bias: bool = False
    inline: bool = False
    progress: Callable[[str, int, int], None] | None = None
    check: Callable[[Source, Analysis | None], None] | None = None


@dataclass
class RewriteResult:
    """Everything that happened.

    Attributes:
        source: The input.
        analysis: All sites with their proofs or refusals.
        model: The rewritten model, or None if nothing was rewritten.
        output: Where it was written, or None.
        fused: Per rewritten site its node's attributes, in site order.
        counts: Graph changes.
        verification: The comparison, if it ran.
        exit_code: What the command line returns.
        seconds: Time per phase.
        notes: What else the user should know.
        rewritten_before: Fused nodes that the input holds, where there is nothing else to rewrite.
        left: Per rewritten site that still has one, a tensor of S_q x S_kv elements (a mask, or a bias that
            something else uses) in the rewritten graph.
    """

    source: Source
    analysis: Analysis
    model: ModelProto | None = None
    output: Path | None = None
    sha256: str = ""
    fused: list[tuple[Site, FusedAttention]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    verification: Verification | None = None
    exit_code: ExitCode = ExitCode.NOT_REWRITTEN
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    rewritten_before: int = 0

    def graph(self) -> Any:
        """The rewritten model as a ``gs.Graph`` of onnx-graphsurgeon; the original where nothing was rewritten.

        Raises:
            MissingDependency: onnx-graphsurgeon is not installed.
        """
        return surgeon.to_graph(self.source.model if self.model is None else self.model)


def rewrite(
    model: ModelProto | str | Path | Any, output: str | Path | None = None, *, options: Options | None = None
) -> RewriteResult:
    """Fuse every attention of a model whose added bias is proven to be ALiBi.

    Args:
        model: An ONNX file, or a model in memory (its external data must be absolute or absent), also as a
            ``gs.Graph`` of onnx-graphsurgeon; ``result.graph()`` then gives one back.
        output: Where to write the rewritten model; ``<stem>.alibi.onnx`` beside the input by default.
            A model in memory is only written if this is given.
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
    source = _source(model)
    target = _target(source, output)
    if target is not None and not options.dry_run:
        check_target(source, target)
    clock.lap("load")
    original = source.model
    if options.check is not None:
        options.check(source, None)
    _check_versions(source)
    binary = frozenset(n for n, (low, high) in options.val_ranges.items() if low >= 0 and high <= 1)
    wellformed.check(original)
    copy, analysis = _analyse(original, source, binary, options.progress, exact_bias=options.exact_bias)
    if options.check is not None:
        options.check(source, analysis)
    result = RewriteResult(source, analysis, seconds=clock.seconds)
    if analysis.malformed:
        some = ", ".join(analysis.malformed[:5])
        result.notes.append(f"nodes that contradict their inputs, so their results were taken for unknown: {some}")
    clock.lap("analyse")
    if options.exact_bias and not any(s.plan.proof.unrounded.terms for s in analysis.proven if s.plan is not None):
        result.notes.append("--exact-bias changes nothing: no bias that is proven is rounded to a narrower type")
    if options.probe:
        probe(copy, analysis, source.base_dir)
        unchecked = [s.name for s in analysis.proven if not s.checked]
        if unchecked:
            some = ", ".join(unchecked[:5])
            result.notes.append(f"the numeric self-check could not evaluate the bias at several keys of: {some}")
        clock.lap("probe")
    if not analysis.proven or (analysis.refused and not options.allow_partial) or options.dry_run:
        result.exit_code = _without_a_rewrite(original, analysis, result, options)
        return result
    sites = None
    if options.verify:

        def again() -> ModelProto:
            return _working_copy(original, source.base_dir, analysis.kept)[0]

        sites = SitePairs.of(copy, analysis, source.base_dir, again)
    _emit_all(copy, analysis, result)
    clock.lap("edit")
    if options.inline:
        copy = _inline(source, copy, result, options, sites)
        clock.lap("verify")
        result.notes.append("function bodies are in place of the fused nodes, as asked for: no kernel replaces them")
        options = dataclasses.replace(options, verify=False)
    result.model = copy
    if result.verification is not None and result.verification.status in UNVERIFIED:
        pass
    elif target is not None:
        _write(source, copy, target, result, options, sites, clock)
    elif options.verify:
        with scratch() as folder:
            base_dir = source.base_dir if source.data else None
            with Staged(copy, folder / "rewritten.onnx", base_dir) as staged:
                result.verification = _verify(source, staged, analysis, options, sites)
        clock.lap("verify")
    # What could not be compared is not written either: an unverified model is what --no-verify asks for.
    status = "passed" if result.verification is None else result.verification.status
    result.exit_code = UNVERIFIED.get(status, ExitCode.DONE)
    return result


def _inline(
    source: Source, rewritten: ModelProto, result: RewriteResult, options: Options, sites: SitePairs | None
) -> ModelProto:
    """The model with its function bodies in place of the calls, verified in two steps.

    What is compared with the original, and attacked with mutants, is the model with functions; the one without has
    to compute what that does.
    """
    inlined = inline_functions(rewritten)
    if not options.verify:
        return inlined
    base_dir = source.base_dir if source.data else None
    with (
        scratch() as folder,
        Staged(rewritten, folder / "rewritten.onnx", base_dir) as staged,
        Staged(inlined, folder / "inlined.onnx", base_dir) as second,
    ):
        found = _verify(source, staged, result.analysis, options, sites)
        if found.status == "passed":
            found = beside(found, verify_inlined(staged.path, second.path, staged.data_dir, options.seed))
        result.verification = found
    return inlined


UNVERIFIED = {"failed": ExitCode.VERIFICATION_FAILED, "skipped": ExitCode.NOT_VERIFIED}


def _without_a_rewrite(original: ModelProto, analysis: Analysis, result: RewriteResult, options: Options) -> ExitCode:
    """How a run ends that rewrites nothing."""
    if analysis.proven:
        return ExitCode.NOT_REWRITTEN if analysis.refused and not options.allow_partial else ExitCode.DONE
    before = sum(node.domain == DOMAIN for node in original.graph.node)
    if before and not analysis.refused:
        result.rewritten_before = before
        return ExitCode.DONE
    return ExitCode.NOT_REWRITTEN


def _write(
    source: Source,
    rewritten: ModelProto,
    target: Path,
    result: RewriteResult,
    options: Options,
    sites: SitePairs | None,
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
            result.verification = _verify(source, staged, result.analysis, options, sites)
            clock.lap("verify")
            if result.verification.status in UNVERIFIED:
                return
        staged.commit(copied)
        result.output, result.sha256 = target, staged.sha256
        clock.lap("save")


def _analyse(
    original: ModelProto,
    source: Source,
    binary: frozenset[str],
    progress: Callable[[str, int, int], None] | None = None,
    *,
    exact_bias: bool = False,
) -> tuple[ModelProto, Analysis]:
    """Analyse a working copy; it differs from the model only where that leads to a rewrite.

    Where a site is refused although its bias looks like one, its softmax stays a node: the refusal speaks of it.
    """
    keep: frozenset[str] = frozenset()
    reasons: dict[str, Refusal] = {}
    while True:
        copy, unpacked, restored = _working_copy(original, source.base_dir, keep)
        analysis = analyse(copy, source.base_dir, binary, progress, exact_bias=exact_bias, kept=keep)
        analysis.kept = keep
        proven = {o for s in analysis.proven for o in s.anchor.output}
        biased = {o for s in analysis.refused for o in s.anchor.output}
        superfluous = unpacked - proven
        if proven:  # something will be written
            superfluous |= {quotient for made, quotient in restored.items() if made not in proven | biased}
        if not superfluous:
            _give_reasons(analysis, reasons)
            return copy, analysis
        reasons |= {
            o: s.refusal for s in analysis.sites if s.refusal is not None for o in s.anchor.output if o in unpacked
        }
        keep |= superfluous


def _give_reasons(analysis: Analysis, reasons: Mapping[str, Refusal]) -> None:
    """An operator that is left packed is refused for what was found when it was not."""
    for site in analysis.sites:
        reason = next((reasons[o] for o in site.anchor.output if o in reasons), None)
        if site.plan is None and reason is not None:
            known = site.scope.owner(reason.tensor) is not None
            site.refusal = dataclasses.replace(reason, tensor=reason.tensor if known else "")


def _working_copy(
    original: ModelProto, base_dir: Path, keep: frozenset[str]
) -> tuple[ModelProto, frozenset[str], dict[str, str]]:
    """A copy that is easier to read; operators with their packed parts and masks as nodes, Softmax nodes restored."""
    copy = normalise(original)
    unpacked = unpack_attention(copy, keep)
    unpacked |= unfold_masks(copy, base_dir, keep)
    return copy, unpacked, restore_softmax(copy, base_dir, keep)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _source(model: ModelProto | str | Path | Any) -> Source:
    if surgeon.is_graph(model):
        model = surgeon.to_model(model)
    if isinstance(model, ModelProto):
        return Source(None, model, Path.cwd(), "")
    return load(Path(model))


def _target(source: Source, output: str | Path | None) -> Path | None:
    if output is not None:
        return Path(output)
    return None if source.path is None else default_target(source.path)


def default_target(model: Path) -> Path:
    """Where a rewritten model goes if nothing else is said."""
    return model.with_name(f"{model.stem}.alibi.onnx")


def _check_versions(source: Source) -> None:
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


def _emit_all(model: ModelProto, analysis: Analysis, result: RewriteResult) -> None:
    """Write all fused nodes, then the function bodies that they need."""
    opset = opset_versions(model).get("", 1)
    if opset < MINIMUM_OPSET:
        raise ModelRejected(
            f"the model uses opset {opset}; function bodies need opset {MINIMUM_OPSET}. "
            "Convert it with onnx.version_converter or export it again."
        )
    plans = [s.plan for s in analysis.proven if s.plan is not None]
    zero = {variant_of(p) for p in plans if p.zero_rows}
    grouped = {variant_of(p) for p in plans if is_grouped(p)}
    if model.ir_version < FUNCTIONS_SINCE_IR:
        result.notes.append(f"IR version {model.ir_version} raised to {FUNCTIONS_SINCE_IR}: it has local functions")
        model.ir_version = FUNCTIONS_SINCE_IR
    taken = all_names(model)
    editors = {id(scope): Editor(scope.graph, opset, taken) for scope in walk(analysis.root)}
    for number, site in enumerate(analysis.proven):
        assert site.plan is not None
        editor = editors[id(site.scope)]
        fused = emit(
            site.interpreter,
            editor,
            site.plan,
            zero_rows=variant_of(site.plan) in zero,
            ir_version=model.ir_version,
            site=f"alibi_{number}",
        )
        result.fused.append((site, fused))
    made = list(editors.values())
    for editor in reversed(made):  # inner graphs first: what they stop using dies outside
        editor.finish()
    if len(made) > 1 and any(e.counts.nodes_added for e in made):
        for editor in made:
            editor.sweep()
    result.counts = sum((e.counts for e in made), Counts())
    result.left = _materialised(analysis)
    variants = sorted({f.variant for _, f in result.fused})
    dtypes = {f.variant: s.plan.dtype for s, f in result.fused if s.plan is not None}
    for variant in variants:
        body = function_proto(
            variant, opset, grouped=variant in grouped, zero_rows=variant in zero, query_type=dtypes[variant]
        )
        if not any(f.domain == body.domain and f.name == body.name for f in model.functions):
            model.functions.append(body)
    if not any(o.domain == DOMAIN for o in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def _materialised(analysis: Analysis) -> dict[str, str]:
    """Tensors over rows and keys that were read for the scores of a site and are still made."""
    left: dict[str, str] = {}
    made: dict[int, set[str]] = {}
    for site in analysis.proven:
        assert site.plan is not None
        attention = site.plan.proof.attention
        frame = attention.frame
        if id(site.scope) not in made:
            made[id(site.scope)] = {o for n in site.scope.graph.node for o in n.output if o}
        alive = made[id(site.scope)]
        for (tensor, place), _ in site.interpreter.visited(attention.scores, attention.scores_index):
            moving = frozenset(a for x in place for a in x.all_atoms())
            if tensor in alive and frame.row in moving and frame.key in moving:
                left[site.name] = tensor
                break
    return left


def _verify(
    source: Source, staged: Staged, analysis: Analysis, options: Options, sites: SitePairs | None
) -> Verification:
    with scratch() as folder:
        original_path = source.path
        if original_path is None:
            original_path = folder / "original.onnx"
            original_path.write_bytes(source.model.SerializeToString())
        given = options.inputs
        if given is not None and not isinstance(given, Path):
            np.savez(folder / "inputs.npz", **{k: np.asarray(v) for k, v in given.items()})  # type: ignore[arg-type]
            given = folder / "inputs.npz"
        settings = VerifyOptions(
            seed=options.seed,
            inputs=given,
            val_ranges=dict(options.val_ranges),
            premise=_premise(analysis),
            sites=sites,
            by_sites=options.verify_sites,
            room=_room(analysis),
            fit=_fitted(analysis, source.model),
            lengths=tuple(sorted({n for s in analysis.proven if s.plan is not None for n in s.plan.proof.lengths})),
            as_they_are=any(_is_rounded(s.plan.proof) for s in analysis.proven if s.plan is not None),
            exact_bias=options.exact_bias,
            kernels=options.verify_on,
        )
        if options.progress is not None:
            settings = dataclasses.replace(settings, progress=options.progress)
        beyond = beyond_memory(analysis.interpreters)
        if beyond is not None:
            return skipped(beyond)
        try:
            return verify(original_path, staged.path, options=settings, data_dir=staged.data_dir)
        except RuntimeMissingError as error:
            raise MissingDependency(str(error)) from error
        except (GivenInputError, KernelsMissingError) as error:
            raise UsageError(str(error)) from error
        except VerifyError as error:
            raise ModelRejected(str(error)) from error


def _is_rounded(proof: Proof) -> bool:
    """Whether the model rounds this bias, and it is kept so or is not."""
    return bool(proof.rounded.terms or proof.unrounded.terms)


Shapes = Mapping[str, tuple[int, ...]]
"""Of inputs, by name."""

TENSORS_OF_SCORES = 16
"""Tensors of the size of the scores that a model makes on its way through an attention, and after it."""


def _room(analysis: Analysis) -> int:
    """Bytes that the attentions' scores take at the lengths that a verification draws, or that the model fixes."""
    most = 0
    for site in analysis.proven:
        assert site.plan is not None
        frame = site.plan.proof.attention.frame
        entries = {VerifyOptions.max_length: 1, max(map(exceeding, site.plan.proof.lengths), default=0): 1}
        for index in frame.order:
            fixed = index.bound.constant
            for length in entries:
                drawn = length if index in (frame.row, frame.key) else LARGEST_BATCH
                entries[length] *= drawn if fixed is None else max(1, int(fixed))
        # What is drawn beyond a length that the proof names is bounded itself.
        plain, *beyond = entries.values()
        most = max(most, plain, *(min(one, MOST_SCORES) for one in beyond))
    return most * TENSORS_OF_SCORES * np.dtype(np.float32).itemsize


def _fitted(analysis: Analysis, original: ModelProto) -> Callable[[Shapes], Shapes]:
    """Shapes of inputs as the proofs take them: what is known to be a sum of lengths is made that sum.

    A position per past and new token has a length of its own name, which nothing but the graph ties to the others.
    """
    interpreter = analysis.interpreters[0]
    given = {value.name for value in original.graph.input}
    extents = {
        name: tuple(interpreter.facts.normal(extent) for extent in dims)
        for name, dims in interpreter.extents.items()
        if dims is not None and name in given
    }

    def fit(shapes: Shapes) -> Shapes:
        sizes: Substitution = {}
        # Caches and activations say how long things are; masks and positions follow.
        for name in sorted(shapes, key=lambda n: -len(shapes[n])):
            for extent, number in zip(extents.get(name, ()), shapes[name], strict=False):
                rest = substitute(extent, sizes)
                atoms = rest.sorted_atoms()
                if len(atoms) == 1 and rest.coefficient_of(atoms[0]).constant == 1:
                    value = (poly(number) - (rest - of(atoms[0]))).constant
                    if value is not None and value >= 0:
                        sizes[atoms[0]] = poly(value)
        return {name: _shape_at(extents.get(name, ()), shape, sizes) for name, shape in shapes.items()}

    return fit


def _shape_at(extents: Sequence[Poly], shape: tuple[int, ...], sizes: Substitution) -> tuple[int, ...]:
    if len(extents) != len(shape):
        return shape
    values = [substitute(extent, sizes).constant for extent in extents]
    return tuple(
        number if value is None or value < 0 or value != int(value) else int(value)
        for value, number in zip(values, shape, strict=True)
    )


def _premise(analysis: Analysis) -> Callable[[Mapping[str, tuple[int, ...]]], str | None]:
    """What the proofs take as given about extents: that a buffer is long enough, for instance.

    Beyond it the original reads its buffers from the wrong end, so there is nothing to agree with.
    """
    interpreter = analysis.interpreters[0]
    every = (f for s in analysis.proven for f in s.interpreter.facts.learned if f.relation == ">=")
    facts = list(dict.fromkeys(every))

    def outside(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        sizes: Substitution = {}
        for name, shape in shapes.items():
            for extent, number in zip(interpreter.extents.get(name) or (), shape, strict=False):
                atom = extent.single_atom
                if atom is not None:
                    sizes[atom] = poly(number)
        for fact in facts:
            value = substitute(fact.left, sizes).constant
            if value is not None and value < 0:
                return f"the proof assumes {fact.left!r} >= 0 (node '{fact.node}')"
        return None

    return outside
