"""Input sets for a cache in place, made of runs of the original, one sequence at a time.

The original appends to a cache that grows, so sequences of one batch are of one length, and shorter ones are padded.
In place each has a length of its own.  A set holds several sequences of different lengths, with other numbers in the
rows of the buffers that nobody uses.  What the original computes of each sequence alone is what the batch has to
compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import RunError
from .inputs.draw import Case, Drawer, InputSet, Padding
from .inputs.sizes import DrawnSizes, Relation, Symbols
from .inputs.usage import ModelInput
from .judge.compare import OutputAxes, find_layouts
from .run.runtime import Array, Arrays, Session

Premise = Callable[[Mapping[str, tuple[int, ...]]], str | None]

_CANONICAL = "BHSD"
_NOISE = 3.0
"""Standard deviation of what stands in rows that nobody uses."""


@dataclass(frozen=True)
class CacheBuffer:
    """The past of keys or values in both models.

    Attributes:
        past: The input.
        present: The output.
        axes: What each axis of it holds in the original, such as ``("B", "H", "S", "D")`` or ``("BH", "S", "D")``.
        heads: How many heads it has.
    """

    past: str
    present: str
    axes: tuple[str, ...]
    heads: int

    def canonical(self, array: Array, batch: int) -> Array:
        """[B, H, S, D] of what the original has."""
        letters = "".join(self.axes)
        known = {"B": batch, "H": self.heads}
        shape: list[int] = []
        for held, extent in zip(self.axes, array.shape, strict=True):
            shape += [extent] if len(held) == 1 else [known[letter] for letter in held]
        moved: Array = array.reshape(shape).transpose([letters.index(axis) for axis in _CANONICAL])
        return moved


class BufferSizes:
    """Shapes by symbols, where the axis along which a cache grows is known, whatever its shape suggests.

    Args:
        symbols: Which size each symbol is, as far as shapes say.
        buffers: The caches.
    """

    def __init__(self, symbols: Symbols, buffers: Sequence[CacheBuffer]) -> None:
        self._symbols = symbols
        self._buffers = {one.past: one for one in buffers}

    def shape(self, entry: ModelInput, sizes: DrawnSizes, relation: Relation) -> tuple[int, ...]:
        """The shape of one input of a set."""
        suggested = self._symbols.shape(entry, sizes, relation)
        one = self._buffers.get(entry.name)
        if one is None:
            return suggested
        known = {"S": sizes.past, "B": sizes.batch, "H": one.heads}
        return tuple(
            extent if "D" in held or held == "B" else math.prod(known[letter] for letter in held)
            for held, extent in zip(one.axes, suggested, strict=True)
        )


@dataclass(frozen=True)
class BatchStep:
    """One run of a batch.

    Attributes:
        name: What is special about it.
        past: Tokens that each sequence has already.
        new: Tokens that each gets; the shorter ones are padded on the right.
        capacity: Rows of the buffers.
    """

    name: str
    past: tuple[int, ...]
    new: tuple[int, ...]
    capacity: int

    @property
    def rows(self) -> int:
        """New tokens of the batch, padding included."""
        return max(self.new)

    def behind(self, name: str, new: tuple[int, ...]) -> BatchStep:
        """The step that follows."""
        return BatchStep(name, tuple(p + n for p, n in zip(self.past, self.new, strict=True)), new, self.capacity)


def step(name: str, past: Sequence[int], new: Sequence[int], *, spare: int = 5, most: int | None = None) -> BatchStep:
    """A step whose longest sequence leaves some rows of the buffers free.

    Args:
        name: What is special about it.
        past: Tokens that each sequence has already.
        new: Tokens that each gets.
        spare: Rows behind the longest sequence.
        most: The number of sequences, if the model takes no more.
    """
    past, new = tuple(past)[:most], tuple(new)[:most]
    return BatchStep(name, past, new, max(past) + max(new) + spare)


def steps(long: int, *, new: int | None, most: int | None, ragged: bool) -> tuple[BatchStep, ...]:
    """The runs that are compared, the cheap ones first.

    Args:
        long: A length at which even the smallest slope matters.
        new: The number of new tokens, where the model fixes it.
        most: The number of sequences, if the model takes no more.
        ragged: Sequences of one run may get different numbers of new tokens.  Causality hides what is behind the last
            of them, so the padding there matters to nobody; without it all get as many.
    """

    def several(*rows: int) -> tuple[int, ...]:
        if new is not None:
            return (new,) * len(rows)
        return rows if ragged else (max(rows),) * len(rows)

    return (
        step("prompts of different lengths", (0, 0, 0), several(6, 2, 4), most=most),
        step("one token behind each", (6, 2, 9), several(1, 1, 1), most=most),
        step("several tokens behind each", (3, 8), several(4, 3), most=most),
        step("up to the last row", (7, 4), several(2, 2), spare=0, most=most),
        step("long", (long - 2, long // 3), several(2, 2), most=most),
        step("one token, long", (long // 2, long - 1), several(1, 1), spare=0, most=most),
    )


@dataclass(frozen=True)
class State:
    """Where the sequences of a batch stand.

    Attributes:
        pasts: The caches of each sequence in the original, by input.
        buffers: The buffers of the batch, by input.
    """

    pasts: tuple[Arrays, ...]
    buffers: Mapping[str, Array]


class States:
    """Draws states of a batch and runs the original on each of its sequences.

    Args:
        session: The original.
        inputs: Its inputs.
        symbols: Their symbolic dimensions.
        drawer: Draws them.
        buffers: What is held in place.
        lengths: The input of the other model that says how many keys there are.
        removed: Inputs that the other model has not.
        premise: Why shapes are outside of what was proven, or None.
    """

    def __init__(
        self,
        session: Session,
        inputs: Sequence[ModelInput],
        symbols: BufferSizes,
        drawer: Drawer,
        buffers: Sequence[CacheBuffer],
        lengths: str,
        removed: Sequence[str],
        premise: Premise,
    ) -> None:
        self._premise = premise
        self._session = session
        self._symbols = symbols
        self._drawer = drawer
        self._buffers = buffers
        self._lengths = lengths
        left_out = {*removed, *(one.past for one in buffers)}
        self._shared = [entry for entry in inputs if entry.name not in left_out]

    def batches(self) -> bool:
        """Whether sequences can be put side by side: every input that both models have says which one it belongs to."""
        return all(self._axis(entry, "batch") is not None for entry in self._shared)

    def layouts(self, seed: int) -> dict[str, OutputAxes]:
        """Where the original's outputs have their batch and their tokens.

        Raises:
            RunError: The original does not run.
        """
        sizes = ((1, 3), (5, 2), (1, 7))
        sets = [self._drawn(f"{new} new, {past} past", new, past, (seed, new, past)) for new, past in sizes]
        return find_layouts(sets, [self._session.run(one.arrays) for one in sets])

    def draw(
        self, step: BatchStep, layouts: Mapping[str, OutputAxes], seed: Sequence[int], state: State | None = None
    ) -> tuple[InputSet, Arrays, State]:
        """A set for the model in place, what it has to compute, and the state behind it.

        Args:
            step: What to draw.
            layouts: From :meth:`layouts`.
            seed: Of every number.
            state: Where the sequences stand; drawn as well if None.

        Raises:
            RunError: The original does not run, or not within what was proven.
        """
        feeds: list[Arrays] = []
        wanted: list[Arrays] = []
        for number, (past, new) in enumerate(zip(step.past, step.new, strict=True)):
            own = self._drawn(step.name, new, past, (*seed, 2, number)).arrays
            wide = self._drawn(step.name, step.rows, past, (*seed, 3, number)).arrays
            for entry in self._shared:
                axis = self._axis(entry, "new")
                if axis is None:
                    wide[entry.name] = own[entry.name]
                else:
                    np.moveaxis(wide[entry.name], axis, 0)[:new] = np.moveaxis(own[entry.name], axis, 0)
            own.update({} if state is None else state.pasts[number])
            outside = self._premise({name: array.shape for name, array in own.items()})
            if outside is not None:
                raise RunError(outside)
            feeds.append({**wide, **{one.past: own[one.past] for one in self._buffers}})
            wanted.append(self._session.run(own))
        arrays = {entry.name: self._stacked(entry, feeds) for entry in self._shared}
        arrays[self._lengths] = np.array([past + step.rows for past in step.past], np.int64)
        expected, valid = self._outputs(step, layouts, wanted)
        rng = np.random.default_rng([*seed, 1])
        for one in self._buffers:
            buffer = self._buffer(one, step, feeds, rng) if state is None else state.buffers[one.past]
            arrays[one.past] = buffer
            expected[one.present], valid[one.present] = _appended(one, step, buffer, wanted)
        pasts = tuple({one.past: output[one.present] for one in self._buffers} for output in wanted)
        behind = State(pasts, {one.past: expected[one.present] for one in self._buffers})
        return InputSet(step.name, arrays, len(step.past), step.rows, (), valid), expected, behind

    def _buffer(self, one: CacheBuffer, step: BatchStep, feeds: Sequence[Arrays], rng: np.random.Generator) -> Array:
        """A buffer that begins with the past of each sequence."""
        before = [one.canonical(feed[one.past], 1)[0] for feed in feeds]
        shape = (len(before), before[0].shape[0], step.capacity, before[0].shape[2])
        buffer: Array = (_NOISE * rng.standard_normal(shape)).astype(before[0].dtype)
        for place, (part, past) in enumerate(zip(before, step.past, strict=True)):
            buffer[place, :, :past] = part
        return buffer

    def buffers_in(self, outputs: Arrays) -> dict[str, Array]:
        """The buffers among the outputs of the model in place, by the inputs that they are next."""
        return {one.past: outputs[one.present] for one in self._buffers}

    def _outputs(
        self, step: BatchStep, layouts: Mapping[str, OutputAxes], wanted: Sequence[Arrays]
    ) -> tuple[Arrays, dict[str, Array]]:
        """What is expected besides the buffers, and which of it is compared: outputs of tokens that are there."""
        caches = {one.present for one in self._buffers}
        expected: Arrays = {}
        valid: dict[str, Array] = {}
        for name in wanted[0]:
            if name in caches:
                continue
            axes = layouts.get(name, OutputAxes(None, None))
            batch, token = axes.batch_axis, axes.token_axis
            if batch is None or token is None:
                continue
            parts, kept = [], []
            for output, new in zip(wanted, step.new, strict=True):
                own = np.moveaxis(output[name], token, 0)
                padded = np.concatenate([own, np.zeros((step.rows - new, *own.shape[1:]), own.dtype)])
                mask = np.ones(padded.shape, bool)
                mask[len(own) :] = False
                parts.append(np.moveaxis(padded, 0, token))
                kept.append(np.moveaxis(mask, 0, token))
            expected[name] = np.concatenate(parts, axis=batch)
            valid[name] = np.concatenate(kept, axis=batch)
        return expected, valid

    def _drawn(self, name: str, new: int, past: int, seed: Sequence[int]) -> InputSet:
        """Inputs of the original for one sequence."""
        case = Case(name, DrawnSizes(1, new, past), Padding.NONE)
        return self._drawer.draw(case, Relation.PAST_AND_NEW, seed)

    def _stacked(self, entry: ModelInput, feeds: Sequence[Arrays]) -> Array:
        axis = self._axis(entry, "batch")
        if axis is None:
            return feeds[0][entry.name]
        return np.concatenate([feed[entry.name] for feed in feeds], axis=axis)

    def _axis(self, entry: ModelInput, what: str) -> int | None:
        """The axis of an input that grows with the batch, or with the new tokens."""
        base = DrawnSizes(1, 5, 11)
        grown = DrawnSizes(2, 5, 11) if what == "batch" else DrawnSizes(1, 6, 11)
        shapes = [self._symbols.shape(entry, sizes, Relation.PAST_AND_NEW) for sizes in (base, grown)]
        return next((axis for axis, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b), None)


def _appended(one: CacheBuffer, step: BatchStep, buffer: Array, wanted: Sequence[Arrays]) -> tuple[Array, Array]:
    """The buffer once the new tokens are in it, and which of its rows are compared: all but those of padding."""
    expected, valid = buffer.copy(), np.ones(buffer.shape, bool)
    for place, (output, past, new) in enumerate(zip(wanted, step.past, step.new, strict=True)):
        expected[place, :, : past + new] = one.canonical(output[one.present], 1)[0]
        valid[place, :, past + new : past + step.rows] = False
    return expected, valid
