"""Which value of a padding mask means padding.

Most models read 1 as "this token is there", but a ``key_padding_mask`` in PyTorch's sense reads True as
"ignore this one".  Taking it the wrong way round would compare exactly the tokens that are out of scope, so the
original is asked.  What a padded token holds must not change any other token's output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..errors import LimitError, RunError
from ..judge.compare import find_layouts
from ..run.runtime import Array, Arrays, Session
from .draw import Case, Drawer, InputSet, Padding
from .influence import moved, other_content
from .sizes import DrawnSizes, Relation, Symbols
from .usage import InputKind, ModelInput


def settle_polarity(
    session: Session, inputs: Sequence[ModelInput], symbols: Symbols, seed: int
) -> tuple[ModelInput, ...]:
    """Marks the padding masks of a model whose 1 means padding.

    Args:
        session: The original as a float32 clone.
        inputs: Its inputs.
        symbols: Their symbolic dimensions.
        seed: Of the numbers drawn for the question.

    Returns:
        The inputs, padding masks with ``inverted`` set if so; unchanged where the model's outputs do not say.
    """
    masks = [entry for entry in inputs if entry.kind is InputKind.PADDING_MASK and not entry.additive]
    if not masks:
        return tuple(inputs)
    drawer = Drawer(inputs, symbols, {}, half_values=False, sequence_first=symbols.sequence_first)
    for sizes in (DrawnSizes(2, 9, 0), DrawnSizes(2, 5, 4)):
        for relation in Relation:
            try:
                one = drawer.draw(Case("polarity", sizes, Padding.INTERIOR), relation, (seed, 0, 0))
                outputs = session.run(one.arrays)
                inverted = _is_inverted(session, inputs, one, outputs, turned=symbols.sequence_first)
            except LimitError:
                raise
            except RunError:
                continue
            if not inverted:
                return tuple(inputs)
            return tuple(dataclasses.replace(entry, inverted=True) if entry in masks else entry for entry in inputs)
    return tuple(inputs)


def _is_inverted(
    session: Session, inputs: Sequence[ModelInput], one: InputSet, outputs: Arrays, *, turned: bool
) -> bool:
    """Whether zeros, not ones, are the tokens that the others see."""
    if one.new is None or not one.kept or one.kept[0].shape[1] < one.new:
        return False
    ones = one.kept[0][:, one.kept[0].shape[1] - one.new :]
    ones = ones.T if turned else ones  # as the inputs have them
    if ones.all() or not _influences(session, inputs, one, outputs, changed=~ones, seen_at=ones):
        return False
    return not _influences(session, inputs, one, outputs, changed=ones, seen_at=~ones)


def _influences(
    session: Session, inputs: Sequence[ModelInput], one: InputSet, outputs: Arrays, *, changed: Array, seen_at: Array
) -> bool:
    """Whether other content at the tokens ``changed`` moves any output at the tokens ``seen_at``.

    Both are as the inputs are, [B, T] or [T, B].
    """
    arrays = dict(one.arrays)
    for entry in inputs:
        array = arrays[entry.name]
        if array.shape[:2] != changed.shape or entry.kind not in (InputKind.TOKENS, InputKind.FLOAT):
            continue
        where = changed.reshape(changed.shape + (1,) * (array.ndim - 2))
        arrays[entry.name] = np.where(where, other_content(entry, array), array).astype(array.dtype)
    changed_outputs = session.run(arrays)
    for name, layout in find_layouts([one], [outputs]).items():
        before, after = outputs[name], changed_outputs[name]
        if {layout.batch_axis, layout.token_axis} != {0, 1} or before.shape[:2] != seen_at.shape:
            continue
        if moved(before, after, seen_at):
            return True
    return False
