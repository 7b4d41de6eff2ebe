"""The power check, which asks whether the comparison would have noticed a wrong rewrite.

The same input sets are run through mutants of the rewritten model.  One that the sets cannot tell from the
original shows that they are too weak for that kind of mistake, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from ..errors import RunError
from ..inputs.draw import InputSet
from ..judge.compare import RELATIVE_LIMIT, Allowance, OutputAxes, compare
from ..report import MutantResult, PowerResult
from ..run.runtime import Array, Arrays, Model, Session
from .mutants import FusedNode, MutantKind, concerns, find_sites, has_mask, mutate, not_applicable, other_causality

EACH_SITE_UP_TO = 4
"""Up to this many sites are mutated one at a time; in deeper models all sites are mutated at once."""


def no_progress(phase: str, done: int, whole: int) -> None:
    """Told where a caller asks for no progress."""


@dataclass(frozen=True)
class Baseline:
    """What mutants are compared with.

    Attributes:
        sets: The input sets.
        originals: The original's outputs on them.
        rewritten: The rewritten model's outputs on them.
        layouts: Axes of the outputs.
        allowances: What is added to the limits, by input set and output.
        query_length_fixed_at_one: Whether every input of this model has one query token.
        relative: The limit over the largest magnitude of an output.
        alone: The outputs are those of the fused node itself, so that it certainly runs.
        exposed: What is done to a mutant before it runs.
        seen: What is compared of the outputs on an input set.
    """

    sets: Sequence[InputSet]
    originals: Sequence[Arrays]
    rewritten: Sequence[Arrays]
    layouts: dict[str, OutputAxes]
    allowances: Sequence[Mapping[str, Allowance]]
    query_length_fixed_at_one: bool
    relative: float = RELATIVE_LIMIT
    alone: bool = False
    exposed: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda proto: proto
    seen: Callable[[InputSet, Arrays], Arrays] = lambda one, outputs: outputs


def check_power(
    rewritten: Model,
    baseline: Baseline,
    *,
    threads: int,
    progress: Callable[[str, int, int], None] = no_progress,
    kinds: Sequence[MutantKind] = tuple(MutantKind),
) -> PowerResult:
    """Runs mutants until each is told apart or the input sets are used up.

    Args:
        rewritten: The rewritten model as a float32 clone.
        baseline: Input sets and outputs.
        threads: Threads of onnxruntime.
        progress: Told (phase, work done, work in all) before each kind of mutant.
        kinds: Which mistakes to make.

    Raises:
        RuntimeMissingError: If onnxruntime is not installed.
    """
    results = []
    sites = find_sites(rewritten.proto)
    kernels = bool(rewritten.kernels)
    seen: set[str] = set()
    for number, kind in enumerate(kinds):
        progress("running mutants", number, len(kinds))
        for label, group in _groups(sites):
            chosen = [site for site in group if concerns(kind, site)]
            if not chosen:
                continue
            reasons = [not_applicable(kind, site, kernels=kernels) for site in chosen]
            applicable = [site for site, reason in zip(chosen, reasons, strict=True) if reason is None]
            if not applicable:
                results.append(MutantResult(kind.value, label, "not_applicable", None, 0.0, reasons[0] or ""))
                continue
            mutant = replace(
                rewritten, proto=baseline.exposed(mutate(rewritten.proto, kind, applicable, kernels=kernels))
            )
            reaches = baseline.alone or label in seen
            results.append(_judge(mutant, kind, label, applicable, baseline, threads, reaches=reaches))
            if results[-1].verdict == "killed":
                seen.add(label)
    return PowerResult(tuple(results))


def _groups(sites: Sequence[FusedNode]) -> Iterator[tuple[str, Sequence[FusedNode]]]:
    if len(sites) > EACH_SITE_UP_TO:
        yield "all", sites
    else:
        for site in sites:
            yield site.name, [site]


def _judge(
    mutant: Model,
    kind: MutantKind,
    label: str,
    sites: Sequence[FusedNode],
    baseline: Baseline,
    threads: int,
    *,
    reaches: bool,
) -> MutantResult:
    largest, identical = 0.0, True
    try:
        session = Session(mutant, threads=threads)
        runs = zip(baseline.sets, baseline.originals, baseline.rewritten, baseline.allowances, strict=True)
        for one, original, rewritten, allowances in runs:
            outputs = baseline.seen(one, session.run(one.arrays))
            errors = compare(one, original, outputs, baseline.layouts, allowances, relative=baseline.relative)
            worst = max((entry.factor for entry in errors if entry.compared), default=0.0)
            if worst > 1.0:
                return MutantResult(kind.value, label, "killed", one.name, worst, "")
            largest = max(largest, worst)
            identical = identical and _identical(rewritten, outputs)
    except RunError as error:
        # A mutant is our own construction.  That it does not run says nothing about the input sets.
        return MutantResult(kind.value, label, "survived", None, 0.0, f"the mutant does not run: {error}")
    argument = _equivalence(kind, sites, baseline, reaches=reaches) if identical else None
    if argument is not None:
        return MutantResult(kind.value, label, "equivalent", None, largest, argument)
    return MutantResult(
        kind.value,
        label,
        "survived",
        None,
        largest,
        f"the inputs are too weak: this mistake changes no compared output by more than {largest:.2g} of the limit",
    )


def _equivalence(kind: MutantKind, sites: Sequence[FusedNode], baseline: Baseline, *, reaches: bool) -> str | None:
    """Why a mutant that changed not one bit of any output computes the same function, if that can be argued.

    Args:
        kind: The mistake.
        sites: Where it was made.
        baseline: What it was compared with.
        reaches: Another mistake at the same sites was seen.  A branch that is not taken changes no bit either.
    """
    same_form = all(other_causality(site.variant).form == site.variant.form for site in sites)
    if kind is MutantKind.CAUSALITY and same_form and baseline.query_length_fixed_at_one:
        return "there is one query token, always the last one, so no key is later than it; no output bit differs"
    if not reaches:
        return None
    several_rows = any(one.new is not None and one.new > 1 for one in baseline.sets)
    if kind is MutantKind.CAUSALITY and same_form and several_rows and all(has_mask(site) for site in sites):
        return (
            "the mask input hides every later key by itself: a later key of nonzero weight would change an "
            "output, and no output bit differs"
        )
    if kind is MutantKind.KEY_BIAS_ROLLED:
        return "the key bias is the same for all heads: no output bit differs"
    if kind is MutantKind.HEADS_ROLLED and all(site.slopes is None for site in sites):
        return "the slopes, computed at run time, are the same for all heads: no output bit differs"
    return None


def _identical(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(_same_bits(first[name], second[name]) for name in first)


def _same_bits(first: Array, second: Array) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
