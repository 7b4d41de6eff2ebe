"""The third run: the rewritten model on our kernels, against the original, with the mutants as well.

The first two runs say that the graph is right.  The specification of each fused node, which is its function body,
computes what the original does.  This run says that the kernels, which a user will run, compute it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from ..fused.family import KERNEL_MEMBERS
from .errors import KernelsMissingError, LimitError, RunError
from .inputs.draw import InputSet
from .judge.compare import Allowance, OutputAxes, compare
from .judge.precision import errors_of, shortest_and_longest
from .options import VerifyOptions
from .power.mutants import find_sites
from .power.power import Baseline, check_power
from .report import KernelResult, PrecisionResult, SetResult
from .run.clone import CloneSource
from .run.kernels import CpuKernels, Kernels
from .run.runtime import Arrays, Model
from .runs import run_rewritten

_FURTHER = 4.0
"""How much further from the float32 original than the models in their own type the kernels may be in it."""

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Largest relative error of one rounding."""

_ROUNDINGS = 8
"""Of the type itself, allowed on top.  Where the others round nothing, the kernel still rounds its output."""


@dataclass(frozen=True)
class Compared:
    """What the comparison of original and rewritten leaves for the kernels.

    Attributes:
        sets: The input sets.
        originals: The original's outputs on them.
        layouts: Axes of the outputs.
        used: What the rewritten model's limits were raised by, by set and output.
        allowances: The same for mutants.
        at_one: Whether every input of this model has one query token.
    """

    sets: Sequence[InputSet]
    originals: Sequence[Arrays]
    layouts: dict[str, OutputAxes]
    used: Sequence[Mapping[str, Allowance]]
    allowances: Sequence[Mapping[str, Allowance]]
    at_one: bool


def chosen(
    wanted: str, known: Sequence[Kernels], rewritten: onnx.ModelProto
) -> tuple[tuple[Kernels, ...], tuple[str, ...]]:
    """The kernels to run on, and notes about those that cannot be.

    Args:
        wanted: ``auto`` (whatever runs here), ``cpu`` or ``cuda``.
        known: All kernels that exist.
        rewritten: The model that they are for.

    Raises:
        KernelsMissingError: They cannot run where they are asked to, or do not compute a form of the model.
    """
    sites = find_sites(rewritten)
    unknown = sorted({f"the form {site.variant.form}" for site in sites if not site.variant.bias.kernels})
    unknown += sorted({site.variant.op_type for site in sites if site.variant not in KERNEL_MEMBERS and not unknown})
    if unknown:
        reason = f"there are none for {' and '.join(unknown)}, which the function body computes"
        if wanted != "auto":
            raise KernelsMissingError(f"--verify-on {wanted}: {reason}")
        return (), (f"the rewritten model was not run on the kernels: {reason}",)
    problems = [(kernels, kernels.problem()) for kernels in known if wanted in ("auto", kernels.where)]
    if wanted != "auto":
        why = "it is not known here; give Options(kernels=...)" if not problems else problems[0][1]
        if why is not None:
            raise KernelsMissingError(f"--verify-on {wanted}: {why}")
    here = tuple(kernels for kernels, problem in problems if problem is None)
    notes = tuple(
        f"the rewritten model was not run on the kernels of the CPU: {problem}"
        for kernels, problem in problems
        if problem is not None and kernels.where == CpuKernels.where
    )
    return here, notes


def check_kernels(
    kernels: Kernels,
    clone: Model,
    rewritten: CloneSource,
    given: Compared,
    options: VerifyOptions,
    precision: PrecisionResult | None,
) -> KernelResult:
    """Runs the rewritten model and its mutants on our kernels.

    Args:
        kernels: Which ones.
        clone: The rewritten model as a float32 clone.
        rewritten: The same as it is.
        given: What they are compared on, and with.
        options: As for the verification.
        precision: What original and rewritten do in their own 16-bit type; None for models without one.
    """
    options.progress(f"running the kernels ({kernels.where})", 0, 0)
    result, computed = compare_kernels(kernels, clone, given, threads=options.threads)
    power = None
    if options.power and result.skipped_reason is None and result.passed:
        model = on_kernels(clone, kernels)
        baseline = Baseline(given.sets, given.originals, computed, given.layouts, given.allowances, given.at_one)
        power = check_power(model, baseline, threads=options.threads, progress=options.progress)
    result = replace(result, power=power)
    if precision is not None and result.skipped_reason is None and result.passed:
        own, checked = _own_type(kernels, rewritten, given, precision, options.threads)
        result = replace(result, own_type=own, sets=(*result.sets, *checked))
    return result


def on_kernels(model: Model, kernels: Kernels) -> Model:
    """The same model with every fused node on kernels."""
    return replace(model, kernels=kernels, nodes=len(find_sites(model.proto)))


def compare_kernels(
    kernels: Kernels, clone: Model, given: Compared, *, threads: int
) -> tuple[KernelResult, list[Arrays]]:
    """Runs a rewritten model on our kernels and compares it with the original; its outputs as well.

    Args:
        kernels: Which ones.
        clone: The rewritten model as a float32 clone.
        given: What it is compared on, and with.
        threads: Threads of onnxruntime.
    """
    model = on_kernels(clone, kernels)
    try:
        failures, outputs = run_rewritten(model, given.sets, threads=threads)
    except LimitError as error:
        return KernelResult(kernels.where, model.nodes, (), None, None, str(error)), []
    results = []
    for one, wanted, other, failure, extra in zip(
        given.sets, given.originals, outputs, failures, given.used, strict=True
    ):
        shapes = {name: tuple(array.shape) for name, array in one.arrays.items()}
        found = () if other is None else compare(one, wanted, other, given.layouts, extra)
        results.append(SetResult(one.name, shapes, found, failure))
    computed = [other for other in outputs if other is not None]
    return KernelResult(kernels.where, model.nodes, tuple(results), None, None), computed


def _own_type(
    kernels: Kernels, rewritten: CloneSource, given: Compared, precision: PrecisionResult, threads: int
) -> tuple[dict[str, float] | None, tuple[SetResult, ...]]:
    """Errors of the kernels in the model's own type, and sets on which they are further off than that type explains."""
    if not precision.rewritten:
        return None, ()  # onnxruntime does not run the model in its type here, and the notes on precision say so
    name = f"in {', '.join(precision.types)}"
    try:
        model = on_kernels(rewritten.model, kernels)
        found = errors_of(model, shortest_and_longest(given.sets, given.originals), given.layouts, threads=threads)
    except RunError as error:
        return {}, (SetResult(name, {}, (), str(error)),)
    least = _ROUNDINGS * max(UNIT[kind] for kind in precision.types)
    peers = {n: max(precision.original.get(n, 0.0), precision.rewritten.get(n, 0.0)) for n in found}
    far = [
        f"output {output!r} is {error:.1e} of its largest magnitude from the float32 original on the kernels, and "
        f"{peers[output]:.1e} without them"
        for output, error in found.items()
        if not error <= _FURTHER * peers[output] + least
    ]
    return found, tuple(SetResult(name, {}, (), text) for text in far)
