"""Which of its first two axes a model's inputs have their tokens on.

Most models take [B, S, ...], but fairseq's take [S, B, ...], and a shape does not say which it is.  Where a mask does
not tell either, the original is asked.  A token changes others of its own sequence, but not those of another batch
entry.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import LimitError, RunError
from ..run.runtime import Arrays, Session
from .draw import Case, Drawer, InputSet, Padding
from .influence import moved, other_content
from .sizes import DrawnSizes, Relation, Symbols
from .usage import InputKind, ModelInput


def is_sequence_first(session: Session, inputs: Sequence[ModelInput], seed: int) -> bool:
    """Whether inputs of ids and features are [S, B] and [S, B, D].

    Args:
        session: The original as a float32 clone.
        inputs: Its inputs.
        seed: Of the numbers drawn for the question.
    """
    carriers = [entry for entry in inputs if _carries_tokens(entry)]
    if not carriers:
        return False
    told = _by_masks(inputs, carriers)
    if told is not None:
        return told
    drawer = Drawer(inputs, Symbols(inputs), {}, half_values=False)
    for sizes in (DrawnSizes(3, 5, 0), DrawnSizes(3, 5, 4)):
        for relation in Relation:
            try:
                one = drawer.draw(Case("orientation", sizes, Padding.NONE), relation, (seed, 0, 1))
                outputs = session.run(one.arrays)
                mixed = [_mixes(session, carriers, one, outputs, axis) for axis in (0, 1)]
            except LimitError:
                raise
            except RunError:
                continue
            return mixed[0] and not mixed[1]
    return False


def _carries_tokens(entry: ModelInput) -> bool:
    rank = {InputKind.FLOAT: 3, InputKind.TOKENS: 2}.get(entry.kind)
    return rank is not None and len(entry.dims) == rank


def _by_masks(inputs: Sequence[ModelInput], carriers: Sequence[ModelInput]) -> bool | None:
    """What a padding mask [B, S] says, if its extents are written as those of the tokens are."""
    for mask in inputs:
        if mask.kind is not InputKind.PADDING_MASK or None in mask.dims or mask.dims[0] == mask.dims[1]:
            continue
        for entry in carriers:
            if entry.dims[:2] == mask.dims:
                return False
            if entry.dims[:2] == mask.dims[::-1]:
                return True
    return None


def _mixes(session: Session, carriers: Sequence[ModelInput], one: InputSet, outputs: Arrays, axis: int) -> bool:
    """Whether the first slice along an axis of the inputs moves other slices of an output."""
    arrays = dict(one.arrays)
    lead = arrays[carriers[0].name].shape[:2]
    if lead[axis] < 2:
        return False
    first = tuple([slice(None)] * axis + [0])
    for entry in carriers:
        array = arrays[entry.name].copy()
        if array.shape[:2] == lead:
            array[first] = other_content(entry, array[first])
        arrays[entry.name] = array
    others = tuple([slice(None)] * axis + [slice(1, None)])
    for name, after in session.run(arrays).items():
        before = outputs[name]
        if before.shape[:2] != lead or after.shape != before.shape or not np.issubdtype(before.dtype, np.floating):
            continue
        if moved(before, after, others):
            return True
    return False
