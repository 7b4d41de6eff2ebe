"""Buffers on the device for the attentions that are measured, and how their time is taken."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from alibi_rewriter.kernels.launch.plan import Call, Tensor
from shapes import Shape, paper_slopes

Run = Callable[[], object]
ROTATE_BYTES = 256 << 20
HEAD_START_CYCLES = 30_000_000
LAUNCHES_PER_ROUND = 4


def slopes(heads: int, device: str = "cuda") -> torch.Tensor:
    """The slopes of the ALiBi paper."""
    return torch.tensor(paper_slopes(heads), dtype=torch.float32, device=device)


def inputs_of(shape: Shape, scale: float = 1.0, device: str = "cuda") -> list[tuple[Any, Any, Any]]:
    """Normally distributed query, key and value, as many sets as rotating takes; sharp and with a sink as asked for."""
    kind = getattr(torch, shape.dtype)
    query = (shape.batch, shape.heads, shape.s_q, shape.head_dim)
    key = (shape.batch, shape.kv_heads, shape.s_kv, shape.head_dim)
    sets = max(1, min(8, -(-ROTATE_BYTES // shape.input_bytes)))
    found = []
    for _ in range(sets):
        drawn = [
            torch.randn(size, device=device) * factor
            for size, factor in ((query, scale * shape.spread), (key, 1.0), (key, 1.0))
        ]
        if shape.sink:
            # One column of the heads is for the first key alone.
            drawn[0][..., 0], drawn[1][..., 0] = 1.0, 0.0
            drawn[1][:, :, 0] = 0.0
            drawn[1][:, :, 0, 0] = shape.sink * shape.head_dim**0.5
        found.append(tuple(each.to(kind) for each in drawn))
    return found


def extras_of(shape: Shape, device: str = "cuda") -> tuple[Any, Any]:
    """Mask and key positions, None where there are none."""
    hidden = shape.s_kv // 16
    if shape.extra in ("key padding", "right padding", "boolean heads", "positions and padding", "additive keys"):
        heads = shape.heads if shape.extra == "boolean heads" else 1
        mask = torch.ones(shape.batch, heads, 1, shape.s_kv, dtype=torch.bool, device=device)
        at_right = shape.extra in ("right padding", "additive keys")
        mask[:, :, :, slice(-hidden, None) if at_right else slice(0, hidden)] = False
        if shape.extra == "additive keys":
            kind = getattr(torch, shape.dtype)
            return torch.where(mask, 0.0, torch.finfo(kind).min).to(kind), None
        counted = (mask[:, 0, 0].cumsum(1) - 1).clamp(min=0).float() if shape.extra.startswith("positions") else None
        return mask, counted
    if shape.extra == "ragged padding":
        first = torch.arange(shape.batch, device=device) * shape.s_kv // shape.batch
        return torch.arange(shape.s_kv, device=device)[None, None, None] >= first[:, None, None, None], None
    if shape.extra in ("causal rows", "additive causal rows", "padded rows", "document rows"):
        keep = torch.ones(shape.s_q, shape.s_kv, dtype=torch.bool, device=device).tril(shape.s_kv - shape.s_q)
        keep = keep.repeat(shape.batch, 1, 1, 1)
        if shape.extra == "padded rows":
            keep[::2, ..., : shape.s_kv // 4] = False
        if shape.extra == "document rows":
            # Of unequal lengths: borders at the squares.
            document = (torch.arange(shape.s_kv, device=device).float() / shape.s_kv * 64).sqrt().long()
            keep = keep & (document[-shape.s_q :, None] == document[None, :])
        if shape.extra == "additive causal rows":
            kind = getattr(torch, shape.dtype)
            return torch.where(keep, 0.0, torch.finfo(kind).min).to(kind), None
        return keep, None
    if shape.extra == "boolean rows":
        return torch.rand(1, 1, shape.s_q, shape.s_kv, device=device) > 0.01, None
    if shape.extra == "additive rows":
        return torch.randn(1, 1, shape.s_q, shape.s_kv, device=device).to(getattr(torch, shape.dtype)), None
    if shape.extra == "positions":
        return None, torch.arange(shape.s_kv, device=device, dtype=torch.float32)[None]
    return None, None


def key_bias_of(shape: Shape, device: str = "cuda") -> Any:
    """What is added to the scores of each key, [B, 1, S_kv] float32; None where nothing is."""
    if shape.extra != "key bias":
        return None
    return torch.randn(shape.batch, 1, shape.s_kv, device=device)


@dataclass(frozen=True)
class Buffers:
    """All tensors of one call; outputs start as NaN."""

    query: Any
    key: Any
    value: Any
    output: Any
    slopes: Any
    mask: Any = None
    positions: Any = None
    key_bias: Any = None
    window: tuple[int, int] = (-1, -1)

    @classmethod
    def of(
        cls, each: tuple[Any, Any, Any], slope: Any, mask: Any = None, positions: Any = None, key_bias: Any = None,
        window: tuple[int, int] = (-1, -1),
    ) -> Buffers:  # fmt: skip
        """With an output of its own."""
        query, _, value = each
        shape = (*query.shape[:3], value.shape[3])
        output = torch.full(shape, float("nan"), dtype=query.dtype, device=query.device)
        return cls(*each, output, slope, mask, positions, key_bias, window)

    @property
    def scale(self) -> float:
        """What the products are multiplied by."""
        return float(self.query.shape[3]) ** -0.5

    @property
    def call(self) -> Call:
        """For a plan."""
        mask = None if self.mask is None else Tensor.of(self.mask)
        positions = None if self.positions is None else Tensor.of(self.positions)
        query, key, value = Tensor.of(self.query), Tensor.of(self.key), Tensor.of(self.value)
        output, slope = Tensor.of(self.output), Tensor.of(self.slopes)
        bias = None if self.key_bias is None else Tensor.of(self.key_bias)
        return Call(query, key, value, output, slope, self.scale, True, mask, positions, bias, *self.window)


def median_ms(runs: Sequence[Run], repeat: int) -> float:
    """The median time of one launch."""
    for run in runs:
        run()
    torch.cuda.synchronize()
    # The device starts late, so that the host is ahead of it and its own pace is not what is measured.
    torch.cuda._sleep(HEAD_START_CYCLES)
    events = [_timed(runs[number % len(runs)]) for number in range(repeat)]
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


def interleaved_ms(competitors: Mapping[str, Sequence[Run]], rounds: int) -> dict[str, float]:
    """The median time of one launch of each competitor, all of them in every round.

    So whatever the clocks do, they do it to all; every other round runs backwards.
    """
    for runs in competitors.values():
        for run in runs:
            run()
    torch.cuda.synchronize()
    names, number = list(competitors), 0
    events: dict[str, list[tuple[Any, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        torch.cuda._sleep(HEAD_START_CYCLES)
        for name in names if turn % 2 == 0 else reversed(names):
            runs = competitors[name]
            for _ in range(LAUNCHES_PER_ROUND):
                events[name].append(_timed(runs[number % len(runs)]))
                number += 1
        torch.cuda.synchronize()
    return {name: statistics.median(start.elapsed_time(end) for start, end in pairs) for name, pairs in events.items()}


def _timed(run: Run) -> tuple[Any, Any]:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    return start, end
