"""16-bit models as they are, and which of original and rewritten is the more accurate one.

Rewriting in 16 bits changes results within 16-bit rounding, often for the better.  A bias that grows with the sequence
swallows the scores of a 16-bit model; a computed float32 bias does not.  So both are measured against the float32
original instead of against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RunError
from ..inputs.draw import InputSet, longest
from ..report import PrecisionResult
from ..run.clone import CloneSource
from ..run.runtime import Arrays, Model, Session
from .compare import OutputAxes, compare

_MOST_SETS = 6
"""Input sets used; 16-bit kernels of the CPU are slow."""


def measure_precision(
    sources: tuple[CloneSource, CloneSource],
    sets: Sequence[InputSet],
    oracle: Sequence[Arrays],
    layouts: dict[str, OutputAxes],
    *,
    threads: int,
) -> PrecisionResult:
    """Measures both models, unchanged, against the float32 original.

    Args:
        sources: Original and rewritten model as they are.
        sets: Input sets.
        oracle: Outputs of the original's float32 clone on them.
        layouts: Axes of the outputs.
        threads: Threads of onnxruntime.
    """
    notes: list[str] = []
    chosen = shortest_and_longest(sets, oracle)
    errors: list[dict[str, float]] = []
    for label, source in zip(("original", "rewritten"), sources, strict=True):
        try:
            errors.append(errors_of(source.model, chosen, layouts, threads=threads))
        except RunError as error:
            errors.append({})
            notes.append(f"the {label} does not run as it is in onnxruntime on the CPU: {error}")
    types = tuple(dict.fromkeys((*sources[0].narrow, *sources[1].narrow)))
    if errors[0] or errors[1]:
        notes.append(
            "onnxruntime's CPU keeps float32 between many operators of a 16-bit model: errors on a GPU are larger"
        )
    return PrecisionResult(types, errors[0], errors[1], tuple(notes))


def shortest_and_longest(sets: Sequence[InputSet], oracle: Sequence[Arrays]) -> list[tuple[InputSet, Arrays]]:
    """A few input sets and the outputs that belong to them, the longest among them."""
    runs = list(zip(sets, oracle, strict=True))
    # Rounding grows with the length, so the longest set tells most.
    return runs[: _MOST_SETS - 1] + sorted(runs[_MOST_SETS - 1 :], key=lambda run: longest(run[0]))[-1:]


def errors_of(
    model: Model, runs: Sequence[tuple[InputSet, Arrays]], layouts: dict[str, OutputAxes], *, threads: int
) -> dict[str, float]:
    """The largest relative error of each output over the runs.

    Args:
        model: What to run, as it is.
        runs: Input sets and what is right on them.
        layouts: Axes of the outputs.
        threads: Threads of onnxruntime.

    Raises:
        RunError: onnxruntime does not run it.
    """
    session = Session(model, threads=threads)
    worst: dict[str, float] = {}
    for one, wanted in runs:
        for entry in compare(one, wanted, session.run(one.arrays), layouts):
            worst[entry.output] = max(worst.get(entry.output, 0.0), entry.max_rel)
    return worst
