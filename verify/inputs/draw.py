"""Input sets: several batch sizes, lengths, caches and paddings, drawn from one seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import numpy as np

from ...base.memory import available_memory
from ...graph.index import MAX_RANK
from ..errors import MemoryLimitError, RunError
from ..run.runtime import Array, Arrays
from .lengths import exceeding
from .sizes import DrawnSizes, Relation, Symbols
from .usage import InputKind, ModelInput

HIDDEN = -1e4
"""What an additive mask holds at hidden keys.  Their weight is exactly 0, and every float type can hold the number."""

SMALLEST_NORMAL_HALF = 2.0**-14
"""Below it float16 has fewer bits."""

_FEWEST_SETS = 3

LARGEST_BATCH = 3
"""Sequences in an input set, at most."""

BYTES_PER_NUMBER = 32
"""While a number is drawn, cast and handed over."""


class Padding(Enum):
    """Where tokens are padded."""

    NONE = "none"
    LEFT = "left"
    RIGHT = "right"
    INTERIOR = "interior"
    WHOLE = "whole"
    """All tokens of the last entry of the batch are padded, so its rows see no key."""


@dataclass(frozen=True)
class Case:
    """One input set to draw.

    Attributes:
        name: What is special about it.
        sizes: Batch and lengths.
        padding: Which tokens are padded.
        quiet: The query is zero, so that bias and masks alone decide; only where the query is an input.
        turned: Flags that are true with a cache are true without one, so that other branches run.
    """

    name: str
    sizes: DrawnSizes
    padding: Padding
    quiet: bool = False
    turned: bool = False

    def halved(self) -> Case | None:
        """The same with half the length, or None if it is short already."""
        sizes = self.sizes
        if sizes.new >= 32:
            return replace(self, sizes=DrawnSizes(sizes.batch, sizes.new // 2, sizes.past))
        if sizes.past >= 32:
            return replace(self, sizes=DrawnSizes(sizes.batch, sizes.new, sizes.past // 2))
        return None


@dataclass(frozen=True)
class InputSet:
    """Arrays for every model input.

    Attributes:
        name: What is special about the set.
        arrays: By input name; 16-bit floats as float32 with 16-bit values.
        batch: Batch size, None if unknown.
        new: Number of new tokens, None if unknown.
        kept: True at tokens that are not padded, [B, L], one entry per padding mask.
        valid: True at the elements to compare, by output, where something better is known than padded tokens.
        padded_too: Outputs at padded tokens are compared like all others.
    """

    name: str
    arrays: Arrays
    batch: int | None
    new: int | None
    kept: tuple[Array, ...]
    valid: Mapping[str, Array] | None = None
    padded_too: bool = False


def longest(one: InputSet) -> int:
    """The longest axis of any input.  It says how long the sequences of a set are, as far as that can be told."""
    return max((extent for array in one.arrays.values() for extent in array.shape), default=0)


def is_masked(inputs: Sequence[ModelInput]) -> bool:
    """Whether some input says which tokens are padded."""
    return any(entry.kind in (InputKind.PADDING_MASK, InputKind.WIDE_MASK) for entry in inputs)


def standard_cases(has_new: bool, has_past: bool, long: int, beyond: Sequence[int] = ()) -> list[Case]:
    """The cases that are tried on every model, the cheap ones first.

    Args:
        has_new: Whether the number of new tokens is free.
        has_past: Whether there may be keys that are already there.
        long: Length at which even the smallest slope matters.
        beyond: Lengths that are to be exceeded, too.
    """
    cases = [
        Case("short", DrawnSizes(2, 7, 0), Padding.NONE),
        Case("left padding", DrawnSizes(2, 9, 0), Padding.LEFT),
        Case("right padding", DrawnSizes(3, 8, 0), Padding.RIGHT),
        Case("interior padding", DrawnSizes(2, 11, 0), Padding.INTERIOR),
        Case("an entry of padding", DrawnSizes(2, 6, 0), Padding.WHOLE),
        Case("one token", DrawnSizes(1, 1, 0), Padding.NONE),
    ]
    if has_past:
        cases += [
            Case("cache, one new token", DrawnSizes(2, 1, 9), Padding.NONE),
            Case("cache, left padding", DrawnSizes(2, 4, 7), Padding.LEFT),
            Case("cache, interior padding", DrawnSizes(3, 3, 10), Padding.INTERIOR),
        ]
    if has_new:
        cases += [
            Case("long", DrawnSizes(2, long, 0), Padding.NONE),
            Case("long, interior padding", DrawnSizes(2, long, 0), Padding.INTERIOR),
        ]
    if has_past:
        cases += [
            Case("long cache", DrawnSizes(1, 2, long - 2), Padding.NONE),
            Case("long cache, left padding", DrawnSizes(2, 1, long - 1), Padding.LEFT),
        ]
    for length in beyond:
        more = exceeding(length)
        if has_past:
            cases.append(Case(f"a cache beyond {length} tokens", DrawnSizes(1, 2, more - 2), Padding.NONE))
        elif has_new:
            cases.append(Case(f"beyond {length} tokens", DrawnSizes(1, more, 0), Padding.NONE))
    return cases


def unpadded(case: Case) -> Case:
    """A case for a model that has no mask, named by its sizes."""
    sizes = case.sizes
    name = f"{sizes.new} new tokens, {sizes.past} past, batch {sizes.batch}"
    return case if case.padding is Padding.NONE else replace(case, name=name, padding=Padding.NONE)


def plan(inputs: Sequence[ModelInput], symbols: Symbols, long: int, beyond: Sequence[int] = ()) -> tuple[Case, ...]:
    """Chooses the cases, the cheap ones first.

    Args:
        inputs: The model's inputs.
        symbols: Their symbolic dimensions.
        long: Length at which even the smallest slope matters.
        beyond: Lengths that are to be exceeded, too.
    """
    masked = is_masked(inputs)
    cases = standard_cases(symbols.has_new, symbols.has_past, long, beyond)
    chosen: dict[tuple[object, ...], Case] = {}
    for case in cases:
        case = case if masked else unpadded(case)
        shapes = tuple(symbols.shape(entry, case.sizes, Relation.PAST_AND_NEW) for entry in inputs)
        chosen.setdefault((shapes, case.padding), case)
    if any(entry.kind is InputKind.BOOLEAN for entry in inputs):
        for key, case in list(chosen.items()):
            turned = (*key, "turned")
            chosen[turned] = replace(case, name=f"{case.name}, flags turned", turned=True)
    first = cases[0]
    if len({shapes for shapes, *_ in chosen}) < _FEWEST_SETS:
        # Fixed shapes: only the numbers can differ, and short sequences show small slopes in few draws only.
        again = [Case(f"{first.name}, draw {number}", first.sizes, first.padding) for number in range(2, 8)]
        return (*chosen.values(), *again)
    return tuple(chosen.values())


class Shapes(Protocol):
    """Chooses the shape of every input."""

    def shape(self, entry: ModelInput, sizes: DrawnSizes, relation: Relation) -> tuple[int, ...]:
        """The shape of one input of a set."""


class Drawer:
    """Draws the arrays of a case.

    Args:
        inputs: The model's inputs.
        symbols: Their symbolic dimensions.
        val_ranges: Inclusive bounds that replace an input's own way of being drawn.
        half_values: Draw floats that a float16 and a bfloat16 can hold, for models of those types.
        sequence_first: Inputs of ids and features have their tokens on axis 0.
        empty_rows: Masks may hide all keys of a query; not where such rows need not be equal and nothing tells of them.
    """

    def __init__(
        self,
        inputs: Sequence[ModelInput],
        symbols: Shapes,
        val_ranges: Mapping[str, tuple[float, float]],
        *,
        half_values: bool,
        sequence_first: bool = False,
        empty_rows: bool = True,
    ) -> None:
        self._empty_rows = empty_rows
        self._inputs = inputs
        self._symbols = symbols
        self._ranges = val_ranges
        self._half = half_values
        self._sequence_first = sequence_first

    def draw(self, case: Case, relation: Relation, seed: Sequence[int]) -> InputSet:
        """Draws one input set; equal arguments give equal arrays.

        Raises:
            RunError: The model declares shapes that no array has.
            MemoryLimitError: The arrays would take more memory than there is.
        """
        self._check(case, relation)
        rng = np.random.default_rng(list(seed))
        masks: dict[tuple[int, ...], Array] = {}
        arrays: Arrays = {}
        for entry in self._inputs:
            shape = self._symbols.shape(entry, case.sizes, relation)
            if entry.name in self._ranges:
                arrays[entry.name] = _within(rng, self._ranges[entry.name], shape, entry.dtype)
            elif entry.kind is InputKind.PADDING_MASK:
                # Two masks of one shape describe the same tokens.
                if shape not in masks:
                    spared = case.padding is Padding.WHOLE and not self._empty_rows
                    masks[shape] = _kept(rng, shape, Padding.RIGHT if spared else case.padding)
                arrays[entry.name] = _as_mask(masks[shape], entry)
            elif entry.kind is InputKind.WIDE_MASK:
                # What is added to all keys of a row hides no key, and takes digits from their scores.
                spared = case.padding is Padding.WHOLE and (entry.additive or not self._empty_rows)
                visible = _visible(rng, shape, Padding.INTERIOR if spared else case.padding)
                arrays[entry.name] = _as_mask(visible, entry)
            else:
                arrays[entry.name] = self._values(rng, entry, shape, case)
        return input_set(case.name, self._inputs, arrays, sequence_first=self._sequence_first)

    def _check(self, case: Case, relation: Relation) -> None:
        numbers = 0
        for entry in self._inputs:
            shape = self._symbols.shape(entry, case.sizes, relation)
            if any(extent < 0 for extent in shape) or len(shape) > MAX_RANK:
                raise RunError(f"input {entry.name!r} would have the shape {list(shape[:8])}")
            numbers += math.prod(shape)
        available = available_memory()
        if available is not None and numbers * BYTES_PER_NUMBER > available:
            raise MemoryLimitError(f"inputs of {numbers} numbers take more memory than is available")

    def _values(self, rng: np.random.Generator, entry: ModelInput, shape: tuple[int, ...], case: Case) -> Array:
        if entry.kind is InputKind.TOKENS:
            assert entry.bound is not None
            return rng.integers(0, entry.bound, shape).astype(entry.dtype)
        if entry.kind is InputKind.POSITIONS:
            length = shape[-1] if shape else 1
            # Of the new tokens, or of the past ones as well.
            first = case.sizes.past if length <= case.sizes.new else 0
            return np.broadcast_to(np.arange(length) + first, shape).astype(entry.dtype)
        if entry.kind is InputKind.BOOLEAN:
            return np.full(shape, (case.sizes.past > 0) != case.turned)
        if entry.kind is InputKind.INTEGER:
            return rng.integers(0, 2, shape).astype(entry.dtype)
        values = rng.standard_normal(shape).astype(np.float32)
        if self._half:
            # 7 bits behind the point of the significand: what float16 and bfloat16 have in common.
            bits = values.view(np.uint32) & np.uint32(0xFFFF0000)
            values = np.where(np.abs(values) < SMALLEST_NORMAL_HALF, np.float32(0), bits.view(np.float32))
        return values.astype(entry.dtype)


def input_set(name: str, inputs: Sequence[ModelInput], arrays: Arrays, *, sequence_first: bool = False) -> InputSet:
    """Wraps arrays, reading batch, length and padding off them."""
    batch: int | None = None
    new: int | None = None
    wide: tuple[int, int] | None = None
    kept = []
    for entry in inputs:
        array = arrays[entry.name]
        if entry.kind is InputKind.PADDING_MASK:
            kept.append(array > HIDDEN / 2 if entry.additive else array.astype(bool) != entry.inverted)
        elif entry.kind is not InputKind.WIDE_MASK and new is None:
            if array.ndim == 3 or (array.ndim == 2 and array.dtype.kind in "iu"):
                batch, new = array.shape[int(sequence_first)], array.shape[int(not sequence_first)]
            elif array.ndim == 4 and wide is None:
                wide = array.shape[0], array.shape[2]
    if new is None and wide is not None:
        batch, new = wide
    return InputSet(name, arrays, batch, new, tuple(kept))


def _kept(rng: np.random.Generator, shape: tuple[int, ...], padding: Padding) -> Array:
    """True at tokens that are there, [B, L]; no whole entry is padded unless that is asked for."""
    batch, length = shape
    kept = np.ones(shape, bool)
    if padding is Padding.WHOLE:
        kept[batch - 1 :] = False
        return kept
    for row in range(batch):
        if padding is Padding.LEFT:
            kept[row, : rng.integers(min(1, length - 1), length // 2 + 1)] = False
        elif padding is Padding.RIGHT:
            kept[row, length - rng.integers(min(1, length - 1), length // 2 + 1) :] = False
        elif padding is Padding.INTERIOR and length > 2:
            kept[row, 1:-1] = rng.random(length - 2) > 0.25
            kept[row, rng.integers(1, length - 1)] = False
    if length == 1:
        kept[:] = True
    return kept


def _visible(rng: np.random.Generator, shape: tuple[int, ...], padding: Padding) -> Array:
    """True at visible keys, [..., S_q, S_kv].  A row sees its own key, unless rows without keys are asked for."""
    if padding is Padding.NONE:
        return np.ones(shape, bool)
    rows, keys = shape[-2], shape[-1]
    own = np.eye(rows, keys, keys - rows, dtype=bool)
    visible: Array = (rng.random(shape) < 0.75) | own
    if padding is Padding.WHOLE:
        visible[..., rows // 2 :, :] = False
    return visible


def _as_mask(kept: Array, entry: ModelInput) -> Array:
    if entry.additive:
        return np.where(kept, 0.0, HIDDEN).astype(entry.dtype)
    ones: Array = kept != entry.inverted
    return ones.astype(entry.dtype)


def _within(
    rng: np.random.Generator, bounds: tuple[float, float], shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> Array:
    low, high = bounds
    if dtype.kind in "iu":
        return rng.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
    return rng.uniform(low, high, shape).astype(dtype)
