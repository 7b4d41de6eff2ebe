"""Original and rewritten unwidened, where a bias passes through a type that float32 clones do not round to.

A clone computes in float32 what the model computes in bfloat16, so that it says nothing about the rounding itself.
Here a model whose scores are float32 is run with the detour in it.  A bias that is kept rounded has to agree.  A bias
that was replaced by what it was before rounding (``--exact-bias``) moves the outputs, and the report says by how much.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RunError
from ..inputs.draw import InputSet
from ..report import SetResult
from ..run.clone import CloneSource
from ..run.runtime import Session
from .compare import OutputAxes, compare

AS_THEY_ARE = "as they are"
_UNMEASURED = "the rounding of the bias was not measured: onnxruntime does not run"


def compare_as_they_are(
    sources: tuple[CloneSource, CloneSource],
    sets: Sequence[InputSet],
    layouts: dict[str, OutputAxes],
    *,
    exact_bias: bool,
    threads: int,
) -> tuple[tuple[SetResult, ...], list[str]]:
    """Runs both models unwidened.

    Args:
        sources: Original and rewritten model as they are.
        sets: Input sets, some of them beyond the length that the narrow type is exact for.
        layouts: Axes of the outputs.
        exact_bias: The rewritten model does not round the bias.  The difference is told, and is not a failure.
        threads: Threads of onnxruntime.

    Returns:
        Results of the comparison (empty for an exact bias), and notes.
    """
    try:
        original = Session(sources[0].model, threads=threads)
        wanted = [original.run(one.arrays) for one in sets]
    except RunError as error:
        return (), [f"{_UNMEASURED} the original as it is: {error}"]
    del original
    results = []
    try:
        rewritten = Session(sources[1].model, threads=threads)
        for one, before in zip(sets, wanted, strict=True):
            errors = compare(one, before, rewritten.run(one.arrays), layouts)
            shapes = {name: tuple(array.shape) for name, array in one.arrays.items()}
            results.append(SetResult(f"{one.name}, {AS_THEY_ARE}", shapes, errors, None))
    except RunError as error:
        return (), [f"{_UNMEASURED} the output as it is: {error}"]
    if not exact_bias:
        return tuple(results), []
    return (), [_moved(results)]


def _moved(results: Sequence[SetResult]) -> str:
    """By how much an exact bias moves the outputs, on the set where that is most."""
    errors = [(entry.max_rel, entry, one.name) for one in results for entry in one.outputs if entry.compared]
    if not errors:
        return "by how much the exact bias moves the outputs is not known: none could be compared"
    _, entry, name = max(errors, key=lambda e: e[0])
    where = name.removesuffix(f", {AS_THEY_ARE}")
    return (
        f"the bias is not rounded any more, as asked for: output {entry.output!r} moves by up to {entry.max_abs:.1e}, "
        f"{entry.max_rel:.1e} of its largest magnitude ({where!r})"
    )
