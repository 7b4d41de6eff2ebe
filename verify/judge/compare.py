"""Original against rewritten, output by output, at the tokens whose values mean something.

Rows of padded queries see no key, or few.  Where the proofs say that the original computes there what the fused nodes
do, they are compared like all others.  Elsewhere they are out of scope, since no valid token ever reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..inputs.draw import InputSet
from ..report import OutputError
from ..run.runtime import Array, Arrays

RELATIVE_LIMIT = 2e-5

TOLERANCE = (
    f"float32: {RELATIVE_LIMIT:g} of the largest magnitude of the output on that input set, at least of 1. One "
    "rounding is 1.2e-7 at most; two correct evaluations differ by the order of summation in each attention (dot "
    "products, softmax, weighted sum: some ten roundings each), which later layers amplify; that stays below about "
    "a quarter of the limit. The limit is fixed, with one exception that the notes state where it is made: bias "
    "tables that the file stores rounded to 16 bits."
)


Allowance = float | Array


@dataclass(frozen=True)
class OutputAxes:
    """Where an output has its batch and its tokens; both None if it has no such axes."""

    batch_axis: int | None
    token_axis: int | None


def find_layouts(sets: Sequence[InputSet], outputs: Sequence[Arrays]) -> dict[str, OutputAxes]:
    """Finds batch and token axes of every output.  Their sizes follow the inputs through all sets.

    Args:
        sets: The input sets.
        outputs: The original's outputs on each of them.
    """
    found: dict[str, OutputAxes] = {}
    for name in outputs[0] if outputs else ():
        ranks = {values[name].ndim for values in outputs}
        pairs = ((0, 2), (0, 1)) if ranks == {4} else ((0, 1), (1, 0))
        fitting = (
            OutputAxes(batch_axis, token_axis)
            for batch_axis, token_axis in pairs
            if all(_fits(values[name], one, batch_axis, token_axis) for one, values in zip(sets, outputs, strict=True))
        )
        found[name] = next(fitting, OutputAxes(None, None))
    return found


def _fits(value: Array, one: InputSet, batch_axis: int, token_axis: int) -> bool:
    if value.ndim <= max(batch_axis, token_axis) or value.shape[batch_axis] != one.batch:
        return False
    lengths = {one.new} | {kept.shape[1] for kept in one.kept}
    return value.shape[token_axis] in lengths


def compare(
    one: InputSet,
    originals: Arrays,
    rewritten: Arrays,
    layouts: dict[str, OutputAxes],
    allowances: Mapping[str, Allowance] | None = None,
    *,
    relative: float = RELATIVE_LIMIT,
) -> tuple[OutputError, ...]:
    """Compares all floating outputs on one input set.

    Args:
        one: The input set.
        originals: The original's outputs.
        rewritten: The other model's outputs.
        layouts: From :func:`find_layouts`.
        allowances: Absolute amounts added to the limit, by output, for all of it or for every element; only
            :mod:`.rounding` has a reason for one.
        relative: The limit over the largest magnitude of the output.
    """
    errors = []
    for name, original in originals.items():
        if np.issubdtype(original.dtype, np.floating):
            extra = (allowances or {}).get(name, 0.0)
            errors.append(_compare_output(name, original, rewritten.get(name), one, layouts[name], relative, extra))
    return tuple(errors)


def _compare_output(
    name: str,
    original: Array,
    other: Array | None,
    one: InputSet,
    layout: OutputAxes,
    relative: float,
    allowance: Allowance,
) -> OutputError:
    valid, scope = valid_elements(name, original, one, layout)
    wanted = original.astype(np.float64)
    nan_rows = _rows_with_nan(wanted)
    rows_out = np.isnan(wanted).any(axis=-1, keepdims=True) if wanted.ndim else np.isnan(wanted)
    chosen = valid & ~np.broadcast_to(rows_out, wanted.shape)
    compared = int(chosen.sum())
    finite = wanted[chosen & np.isfinite(wanted)]
    place: tuple[int, ...]
    magnitude = max(1.0, float(np.abs(finite).max(initial=0.0)))
    limits = np.broadcast_to(relative * magnitude + np.asarray(allowance, np.float64), wanted.shape)
    if other is None or other.shape != original.shape:
        max_abs, limit, place = float("inf"), relative * magnitude, ()
        scope = "all: the rewritten model has no such output of that shape"
    else:
        max_abs, limit, worst = _worst_difference(wanted[chosen], other.astype(np.float64)[chosen], limits[chosen])
        limit = limit or relative * magnitude
        flat = np.flatnonzero(chosen)[worst] if max_abs else 0
        place = tuple(int(i) for i in np.unravel_index(flat, wanted.shape)) if max_abs else ()
    return OutputError(
        output=name,
        max_abs=max_abs,
        max_rel=max_abs / magnitude,
        limit=limit,
        compared=compared,
        left_out=int(wanted.size) - compared,
        nan_rows=nan_rows,
        scope=scope,
        place=place,
    )


def valid_elements(name: str, value: Array, one: InputSet, layout: OutputAxes) -> tuple[Array, str]:
    """True at the elements of an output that are compared, and that choice in words.

    Args:
        name: The output's name.
        value: The output.
        one: The input set it belongs to.
        layout: Its axes.
    """
    if one.valid is not None and name in one.valid:
        return one.valid[name], "rows that see a key"
    everything = np.ones(value.shape, bool)
    hidden = [kept for kept in one.kept if not kept.all()]
    if one.padded_too or not hidden:
        return everything, "all"
    if layout.token_axis is None or layout.batch_axis is None:
        return ~everything, "nothing: the output has no token axis, and may be read off padded tokens"
    batch, length = value.shape[layout.batch_axis], value.shape[layout.token_axis]
    tokens = np.ones((batch, length), bool)
    for kept in hidden:
        if kept.shape[0] == batch and kept.shape[1] >= length:
            tokens &= kept[:, kept.shape[1] - length :]
    if layout.batch_axis > layout.token_axis:
        tokens = tokens.T
    shape = [1] * value.ndim
    shape[layout.batch_axis], shape[layout.token_axis] = batch, length
    return everything & tokens.reshape(shape), "kept tokens"


def _rows_with_nan(value: Array) -> int:
    return int(np.isnan(value).any(axis=-1).sum()) if value.ndim else int(np.isnan(value))


def _worst_difference(wanted: Array, other: Array, limits: Array) -> tuple[float, float, int]:
    """The difference that is largest beside its limit, that limit, and where; zeros where nothing is compared."""
    if wanted.size == 0:
        return 0.0, 0.0, 0
    same = wanted == other  # also for infinities
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(wanted - other))
    difference = np.where(np.isnan(difference), np.inf, difference)
    worst = int(np.argmax(difference / limits))
    return float(difference[worst]), float(limits[worst]), worst


def out_of_scope(sets: Sequence[InputSet], outputs: Sequence[Arrays], errors: Sequence[OutputError]) -> tuple[str, ...]:
    """What was not compared, in words, each thing once."""
    texts = []
    if any(not kept.all() for one in sets if not one.padded_too for kept in one.kept):
        texts.append(
            "outputs at padded tokens: no valid token reads them, and rows without keys are not proven to be equal"
        )
    nan_rows = sum(entry.nan_rows for entry in errors)
    if nan_rows:
        texts.append(f"{nan_rows} rows that are NaN in the original")
    names = list(outputs[0]) if outputs else []
    for name in names:
        if not np.issubdtype(outputs[0][name].dtype, np.floating):
            texts.append(f"output {name!r}: of type {outputs[0][name].dtype}, not floating")
    nowhere = [
        name for name in names if any(entry.output == name and entry.scope.startswith("nothing") for entry in errors)
    ]
    if nowhere:
        listed = ", ".join(repr(name) for name in nowhere)
        texts.append(f"outputs without a token axis on padded inputs: {listed}")
    return tuple(texts)
