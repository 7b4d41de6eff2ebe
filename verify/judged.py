"""The rewritten model on input sets whose results are known: what it computes, and whether that is within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .inputs.draw import InputSet
from .judge.compare import Allowance, OutputAxes, compare
from .judge.rounding import describe, rounding_allowances
from .report import SetResult
from .run.runtime import Arrays, Model
from .runs import run_rewritten

Allowances = Sequence[Mapping[str, Allowance]]


@dataclass(frozen=True)
class Judgement:
    """What became of a comparison.

    Attributes:
        sets: The results, by input set.
        computed: What the rewritten model computes, on the sets that it runs on.
        complete: It runs on all of them.
        used: What the fixed limits were exceeded by, and may have been.
        allowances: What a mutant has to exceed them by, whether or not the right model needed it.
        notes: Why more than the fixed limits was allowed.
    """

    sets: tuple[SetResult, ...]
    computed: list[Arrays]
    complete: bool
    used: Allowances
    allowances: Allowances
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """It runs on all sets, and differs on none."""
        return self.complete and all(entry.passed for entry in self.sets)

    @property
    def empty(self) -> bool:
        """It runs on all sets, and none of its outputs has a number to compare."""
        return self.complete and not any(entry.compared for one in self.sets for entry in one.outputs)


def judge(
    model: Model,
    sets: Sequence[InputSet],
    wanted: Sequence[Arrays],
    layouts: dict[str, OutputAxes],
    stored: Sequence[str],
    *,
    power: bool,
    threads: int,
) -> Judgement:
    """Runs the rewritten model and compares what it computes.

    Args:
        model: Its float32 clone.
        sets: The input sets.
        wanted: What has to come out, by set.
        layouts: Axes of the outputs.
        stored: Types in which the original stores its bias; float32 if it stores none.
        power: Mutants will be compared as well.
        threads: Threads of onnxruntime.

    Raises:
        LimitError: It cannot be run here.
    """
    failures, outputs = run_rewritten(model, sets, threads=threads)
    none: Allowances = [{} for _ in sets]
    results = _results(sets, wanted, outputs, failures, layouts, none)
    computed = [other for other in outputs if other is not None]
    found = Judgement(results, computed, len(computed) == len(sets), none, none)
    if not found.complete or (found.passed and not power):
        return found
    narrow = tuple(stored) or ("float32",)
    limits = rounding_allowances(model, narrow, sets, computed, layouts, threads=threads) or none
    if not found.passed:
        allowed = _results(sets, wanted, outputs, failures, layouts, limits)
        if all(entry.passed for entry in allowed):
            return Judgement(allowed, computed, True, limits, limits, (describe(narrow),))
    return Judgement(results, computed, True, none, limits)


def _results(
    sets: Sequence[InputSet],
    wanted: Sequence[Arrays],
    outputs: Sequence[Arrays | None],
    failures: Sequence[str | None],
    layouts: dict[str, OutputAxes],
    allowances: Allowances,
) -> tuple[SetResult, ...]:
    found = []
    for one, expected, other, failure, extra in zip(sets, wanted, outputs, failures, allowances, strict=True):
        shapes = {name: tuple(array.shape) for name, array in one.arrays.items()}
        errors = () if other is None else compare(one, expected, other, layouts, extra)
        found.append(SetResult(one.name, shapes, errors, failure))
    return tuple(found)
