"""A small runner for decoders whose caches are in place: prompts in, tokens out, one buffer per cache.

It is documentation that runs.  For serving see ``docs/serving.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import telemetry
from ..base.telemetry import CPU, CUDA
from ..graph.note import HeldCache, read_cache
from .sampling import GREEDY, Sampler, Sampling
from .session import InferenceSession

onnxruntime: Any = telemetry.onnxruntime()

_ELEMENTS = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(bfloat16)": 16}
"""Types of buffers and logits as ONNX numbers them."""

_NUMPY: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""Those that numpy has.  No function body runs in bfloat16 in onnxruntime, and the kernels read no such rows."""

_GRAPH = "gpu_graph_id"
_NO_GRAPH, _DECODE_GRAPH = "-1", "1"
"""Run option of CUDA graphs: steps of one token are captured once, all others are not."""


class CacheFull(RuntimeError):
    """A sequence needs more rows than its buffer has.  Nothing was run and nothing was written."""


class Decoder:
    """Generates tokens with a model that ``rewrite --cache in-place`` wrote.

    Past and present of each cache are one buffer on the device.  Sequences of a batch have lengths of their own.
    Shorter prompts are padded on the right, and what follows takes the place of the padding.

    Args:
        path: The model.
        batch: Sequences at once.
        capacity: Rows of the buffers, where the file leaves them open.
        providers: As for :class:`InferenceSession`: the CPU unless told otherwise.
        cuda_graph: Capture the step of one token into a CUDA graph (with the CUDA provider only).
        sess_options: Options of onnxruntime.

    Attributes:
        session: onnxruntime's session.
        capacity: Rows of the buffers.
        lengths: [B] keys that each sequence has in its buffers.

    Raises:
        ValueError: The model has no caches in place, or no one input of tokens, or its capacity is not known.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch: int,
        capacity: int | None = None,
        *,
        providers: Sequence[Any] | None = None,
        cuda_graph: bool = False,
        sess_options: Any = None,
    ) -> None:
        given = [CPU] if providers is None else list(providers)
        names = [one[0] if isinstance(one, tuple) else one for one in given]
        self._device = ("cuda", _number(given[0])) if names[0] == CUDA else ("cpu", 0)
        self._graph = cuda_graph and names[0] == CUDA
        if self._graph:
            given[0] = _with_graph(given[0])
        self.session = InferenceSession(path, sess_options, given)
        held = read_cache(self.session.get_modelmeta().custom_metadata_map)
        if held is None:
            raise ValueError(f"'{path}' has no caches in place. Write it with: rewrite MODEL --cache in-place")
        inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self._held = held
        self._tokens = _tokens(inputs, held)
        self._logits = next(e for e in self.session.get_outputs() if e.name not in {p for _, p in held.buffers})
        self.capacity = _capacity(inputs, held, capacity)
        self.lengths = np.zeros(batch, np.int64)
        self._buffers = [self._buffer(inputs[past]) for past, _ in held.buffers]
        self._steps: dict[int, _Step] = {}

    @property
    def batch(self) -> int:
        """Sequences at once."""
        return len(self.lengths)

    def reset(self) -> None:
        """Forget all tokens.  The buffers keep their memory, and what is in it does not matter."""
        self.lengths[:] = 0

    def step(self, tokens: NDArray[np.int64], counts: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Append tokens to the sequences.

        Args:
            tokens: [B, S].
            counts: [B], how many of each row are tokens; what is behind them is padding.  All if None.

        Returns:
            [B, V], the logits of the last token of each sequence.

        Raises:
            CacheFull: A sequence has not so many rows left.
        """
        rows = tokens.shape[1]
        counts = np.full(self.batch, rows, np.int64) if counts is None else counts
        self._expect_room(rows)
        step = self._steps.get(rows) or self._bind(rows)
        step.tokens.update_inplace(np.ascontiguousarray(tokens))
        step.lengths.update_inplace(self.lengths + rows)
        options = onnxruntime.RunOptions()
        if self._graph:
            options.add_run_config_entry(_GRAPH, _DECODE_GRAPH if rows == 1 else _NO_GRAPH)
        self.session.run_with_iobinding(step.binding, options)
        logits = step.logits.numpy()
        self.lengths += counts
        last: NDArray[Any] = logits[np.arange(self.batch), counts - 1]
        return last

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        *,
        sampling: Sampling = GREEDY,
        stop: int | None = None,
    ) -> Iterator[list[int | None]]:
        """Tokens as they come, a list per step with one for each sequence; None behind the end of a sequence.

        Args:
            prompts: Tokens of each sequence, one at least.
            most: Steps at most.
            sampling: How tokens are chosen.
            stop: The token that ends a sequence.

        Raises:
            ValueError: There is not a prompt for every sequence, or one is empty.
            CacheFull: A sequence has no row left.
        """
        if len(prompts) != self.batch or not all(prompts):
            raise ValueError(f"{self.batch} prompts of one token or more are needed, and {len(prompts)} were given")
        self.reset()
        sampler = Sampler(sampling)
        counts = np.array([len(prompt) for prompt in prompts], np.int64)
        tokens = np.zeros((self.batch, int(counts.max())), np.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        ended = [False] * self.batch
        logits = self.step(tokens, counts)
        for number in range(most):
            chosen = sampler.choose(logits)
            yield [None if over else int(token) for token, over in zip(chosen, ended, strict=True)]
            ended = [over or token == stop for token, over in zip(chosen, ended, strict=True)]
            if all(ended) or number + 1 == most:
                return
            logits = self.step(chosen[:, None])

    def _expect_room(self, rows: int) -> None:
        longest = int(self.lengths.argmax())
        if self.lengths[longest] + rows > self.capacity:
            raise CacheFull(
                f"sequence {longest} has {self.lengths[longest]} keys and gets {rows} more, and its buffer has "
                f"{self.capacity} rows. Give the Decoder a larger capacity, or begin again with reset()."
            )

    def _buffer(self, entry: Any) -> Any:
        """A buffer of zeros on the device: function bodies multiply what nobody sees with zero, so it is finite."""
        shape = [self.batch, entry.shape[1], self.capacity, entry.shape[3]]
        make = onnxruntime.OrtValue
        if entry.type in _NUMPY:
            return make.ortvalue_from_numpy(np.zeros(shape, _NUMPY[entry.type]), *self._device)
        return make.ortvalue_from_shape_and_type(shape, _ELEMENTS[entry.type], *self._device)

    def _bind(self, rows: int) -> _Step:
        """Memory for steps of so many tokens, which stays where it is."""
        step = _Step(self.session, self._device, self.batch, rows)
        binding = step.binding
        binding.bind_ortvalue_input(self._tokens, step.tokens)
        binding.bind_ortvalue_input(self._held.lengths, step.lengths)
        for (past, present), buffer in zip(self._held.buffers, self._buffers, strict=True):
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)
        step.bind_logits(self._logits, self._device)
        self._steps[rows] = step
        return step


class _Step:
    """What a run reads and writes, at fixed addresses, so that a captured run finds it again."""

    def __init__(self, session: InferenceSession, device: tuple[str, int], batch: int, rows: int) -> None:
        self.binding = session.io_binding()
        make = onnxruntime.OrtValue.ortvalue_from_numpy
        self.tokens = make(np.zeros((batch, rows), np.int64), *device)
        self.lengths = make(np.zeros(batch, np.int64), *device)
        self._shape = (batch, rows)
        self.logits: Any = None

    def bind_logits(self, entry: Any, device: tuple[str, int]) -> None:
        """Where the logits go."""
        width = entry.shape[-1]
        shape = [*self._shape, width]
        self.logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _ELEMENTS[entry.type], *device)
        self.binding.bind_ortvalue_output(entry.name, self.logits)


def _number(provider: Any) -> int:
    """The GPU that a provider is told to use."""
    return int(provider[1].get("device_id", 0)) if isinstance(provider, tuple) else 0


def _with_graph(provider: Any) -> Any:
    name, given = provider if isinstance(provider, tuple) else (provider, {})
    return name, {**given, "enable_cuda_graph": "1"}


def _tokens(inputs: dict[str, Any], held: HeldCache) -> str:
    """The input of tokens [B, S]."""
    caches = {past for past, _ in held.buffers}
    others = [name for name in inputs if name not in caches and name != held.lengths]
    if len(others) != 1 or inputs[others[0]].type != "tensor(int64)":
        raise ValueError(f"besides its caches the model takes {', '.join(others)}, and not tokens [B, S] alone")
    return others[0]


def _capacity(inputs: dict[str, Any], held: HeldCache, given: int | None) -> int:
    """The rows of the buffers, of the file or as given."""
    declared = inputs[held.buffers[0][0]].shape[2]
    fixed = declared if isinstance(declared, int) else None
    if fixed is None and given is None:
        raise ValueError("the file leaves the capacity of its buffers open. Give the Decoder one.")
    if fixed is not None and given not in (None, fixed):
        raise ValueError(f"the buffers of this file have {fixed} rows, and not {given}")
    return int(fixed or given or 0)
