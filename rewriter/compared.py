"""What the analysis tells the verification: lengths to draw, sizes that belong together, what the proofs assume."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import ModelProto

from ..algebra import Poly, Substitution, of, poly, substitute
from ..base.errors import MissingDependency, ModelRejected, UsageError
from ..base.hidden import scratch
from ..graph.load import ModelFile
from ..verify import Verification, VerifyOptions, skipped, verify
from ..verify.errors import GivenInputError, KernelsMissingError, RuntimeMissingError, VerifyError
from ..verify.inputs.draw import LARGEST_BATCH
from ..verify.inputs.lengths import MOST_SCORES, exceeding
from ..verify.power.mistakes import Mistake
from ..verify.report import PowerResult
from ..verify.run.kernels import CpuKernels
from ..verify.steps import verify_steps
from .check.evaluation import beyond_memory
from .check.pairs import CutPairs
from .notices import policy_of
from .records.proof import Proof
from .records.site import Analysis
from .result import Options, PassResult


class Written(Protocol):
    """A model in a file that may not have its name yet."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def data_dir(self) -> Path:
        """Where the data files that it refers to are."""


def compare(
    source: ModelFile,
    staged: Written,
    result: PassResult,
    options: Options,
    sites: CutPairs | None,
    mistakes: Callable[[ModelProto], Sequence[Mistake]] | None = None,
) -> Verification:
    """Compare the original with what was staged.

    Args:
        source: The original.
        staged: The rewritten model, or another one that is to compute the same.
        result: What was found in the original.
        options: What is asked for.
        sites: For a comparison site by site; None where the other model has none of the original's sites.
        mistakes: Mutants for the power check in place of those of a rewrite; nothing runs on kernels then.

    Raises:
        MissingDependency: onnxruntime is not installed.
        UsageError: The given inputs do not fit, or kernels cannot run where they are asked to.
        ModelRejected: The original cannot be run.
    """
    beyond = beyond_memory(result.analysis.interpreters)
    if beyond is not None:
        return skipped(beyond)
    with _errors(), _original(source) as (original, original_dir), scratch() as folder:
        settings = _settings(source, result, options, _given(options, folder))
        settings = dataclasses.replace(settings, sites=sites, mistakes=mistakes)
        if mistakes is not None:
            settings = dataclasses.replace(settings, kernels=None)
        return verify(original, staged.path, options=settings, data_dir=staged.data_dir, original_dir=original_dir)


def compare_steps(source: ModelFile, staged: Written, result: PassResult, options: Options) -> Verification:
    """Compare the original step by step with a model whose caches are in place; raises as ``compare``."""
    cache = result.cache
    assert cache is not None
    with _errors(), _original(source) as (original, original_dir):
        settings = _settings(source, result, options, None)
        return verify_steps(
            original,
            staged.path,
            cache.buffers,
            cache.lengths,
            cache.removed,
            options=settings,
            data_dir=staged.data_dir,
            original_dir=original_dir,
        )


def with_steps(first: Verification, second: Verification) -> Verification:
    """The verification of the fused model, and what that of its caches in place adds.

    It is what is written, so what could not be run is not verified, though the model that it was made of was.
    """
    if second.status == "skipped":
        reason = f"the cache in place could not be run step by step: {second.skipped_reason}"
        return dataclasses.replace(second, skipped_reason=reason)
    sets = tuple(dataclasses.replace(one, name=f"in place: {one.name}") for one in second.sets)
    mutants = [one.mutants for one in (first.power, second.power) if one is not None]
    power = PowerResult(tuple(mutant for every in mutants for mutant in every)) if mutants else None
    return dataclasses.replace(
        first,
        sets=(*first.sets, *sets),
        power=power,
        notes=(*first.notes, *second.notes),
        kernels=(*first.kernels, *second.kernels),
    )


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What the verification raises, as users are told it."""
    try:
        yield
    except RuntimeMissingError as error:
        raise MissingDependency(str(error)) from error
    except (GivenInputError, KernelsMissingError) as error:
        raise UsageError(str(error)) from error
    except VerifyError as error:
        raise ModelRejected(str(error)) from error


@contextlib.contextmanager
def _original(source: ModelFile) -> Iterator[tuple[Path, Path | None]]:
    """The original as a file, and where its data are if they are elsewhere."""
    if source.path is not None:
        yield source.path, None
        return
    with scratch() as folder:
        path = folder / "original.onnx"
        path.write_bytes(source.model.SerializeToString())
        # A model in memory may have its data in a folder.  Its copy for the comparison lies elsewhere.
        yield path, source.base_dir if source.data else None


def _given(options: Options, folder: Path) -> Path | None:
    """The inputs that the user gives, as a file."""
    given = options.inputs
    if given is None or isinstance(given, Path):
        return given
    np.savez(folder / "inputs.npz", **{k: np.asarray(v) for k, v in given.items()})  # type: ignore[arg-type]
    return folder / "inputs.npz"


def _settings(source: ModelFile, result: PassResult, options: Options, given: Path | None) -> VerifyOptions:
    """What the analysis and the user say about the comparison."""
    analysis = result.analysis
    settings = VerifyOptions(
        seed=options.seed,
        inputs=given,
        val_ranges=dict(options.val_ranges),
        premise=premise(analysis),
        by_sites=options.verify_sites,
        room=_room(analysis),
        fit=_fitted(analysis, source.model),
        lengths=tuple(sorted({n for binding in analysis.bindings for n in binding.proof.lengths})),
        as_they_are=any(_is_rounded(binding.proof) for binding in analysis.bindings),
        exact_bias=options.exact_bias,
        rows_agree=all(
            s.binding.rows_without_keys.comparable(policy_of(s, result.fused))
            for s in analysis.proven
            if s.binding is not None
        ),
        kernels=options.verify_on,
        known=(CpuKernels(), *options.kernels),
    )
    return settings if options.progress is None else dataclasses.replace(settings, progress=options.progress)


def _is_rounded(proof: Proof) -> bool:
    """Whether the model rounds this bias, kept or left out."""
    return bool(proof.rounded.terms or proof.unrounded.terms)


Shapes = Mapping[str, tuple[int, ...]]
"""Of inputs, by name."""


TENSORS_OF_SCORES = 16
"""Tensors of the size of the scores that a model makes on its way through an attention, and after it."""


def _room(analysis: Analysis) -> int:
    """Bytes that the attentions' scores take at the lengths that a verification draws, or that the model fixes."""
    most = 0
    for binding in analysis.bindings:
        frame = binding.proof.attention.frame
        entries = {VerifyOptions.max_length: 1, max(map(exceeding, binding.proof.lengths), default=0): 1}
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


def premise(analysis: Analysis) -> Callable[[Mapping[str, tuple[int, ...]]], str | None]:
    """What the proofs take as given about extents, such as that a buffer is long enough.

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
