"""Mistakes that a caller knows how to make, under the same power check as wrong rewrites.

A caller whose model can be wrong in ways of its own, such as one that was cut in parts, brings its mutants along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx

from ..errors import RunError
from ..judge.compare import compare
from ..report import MutantResult, PowerResult
from ..run.runtime import Model, Session
from .power import Baseline, no_progress


@dataclass(frozen=True)
class Mistake:
    """One mutant.

    Attributes:
        kind: A stable name.
        site: Where it is made.
        make: Makes it in a copy of the model; None where there is nothing to make wrong.
        reason: Why there is not.
        fails: An error while the mutant runs tells it apart too; otherwise it says nothing about the input sets.
    """

    kind: str
    site: str
    make: Callable[[onnx.ModelProto], None] | None
    reason: str = ""
    fails: bool = False


def check_mistakes(
    right: Model,
    baseline: Baseline,
    mistakes: Sequence[Mistake],
    *,
    threads: int,
    progress: Callable[[str, int, int], None] = no_progress,
) -> PowerResult:
    """Runs each mutant until it is told apart or the input sets are used up.

    Args:
        right: The model without the mistakes.
        baseline: Input sets and outputs.
        mistakes: What to make wrong.
        threads: Threads of onnxruntime.
        progress: Told (phase, work done, work in all) before each one.
    """
    results = []
    for number, mistake in enumerate(mistakes):
        progress("running mutants", number, len(mistakes))
        if mistake.make is None:
            results.append(MutantResult(mistake.kind, mistake.site, "not_applicable", None, 0.0, mistake.reason))
            continue
        proto = onnx.ModelProto()
        proto.CopyFrom(right.proto)
        mistake.make(proto)
        results.append(_judge(mistake, replace(right, proto=proto), baseline, threads))
    return PowerResult(tuple(results))


def _judge(mistake: Mistake, mutant: Model, baseline: Baseline, threads: int) -> MutantResult:
    largest, now = 0.0, ""
    try:
        session = Session(mutant, threads=threads)
        for one, original, allowances in zip(baseline.sets, baseline.originals, baseline.allowances, strict=True):
            now = one.name
            outputs = session.run(one.arrays)
            errors = compare(one, original, outputs, baseline.layouts, allowances, relative=baseline.relative)
            worst = max((entry.factor for entry in errors if entry.compared), default=0.0)
            if worst > 1.0:
                return MutantResult(mistake.kind, mistake.site, "killed", one.name, worst, "")
            largest = max(largest, worst)
    except RunError as error:
        if mistake.fails and now:
            return MutantResult(mistake.kind, mistake.site, "killed", now, largest, f"it fails: {error}")
        reason = f"the mutant does not run: {error}"
        return MutantResult(mistake.kind, mistake.site, "survived", None, 0.0, reason)
    reason = f"the inputs are too weak: this mistake changes no compared output by more than {largest:.2g} of the limit"
    return MutantResult(mistake.kind, mistake.site, "survived", None, largest, reason)
