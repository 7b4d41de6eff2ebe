"""Checks compiled candidates against float32 and times them, all of a class side by side; needs PyTorch."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from alibi_rewriter.kernels.launch.launcher import Bundle
from building import TRYING
from inputs import Buffers, Run, extras_of, inputs_of, interleaved_ms, slopes
from shapes import Shape

LOWEST = float(torch.finfo(torch.float32).min)
ACCEPTED = {"bfloat16": 5e-3, "float16": 1e-3, "float32": 1e-5}
"""Largest error in the norm, as in the tests of long sequences."""
ROWS_AT_ONCE = 2048
ROUNDS = 12
PATIENCE_SECONDS = 30.0
HANGS = 75
"""Exit status of a run that had to give up."""


def attend(buffers: Buffers, *, causal: bool) -> Any:
    """The output in float32, from docs/specification.md, some rows of one head at a time."""
    batch, heads, s_q, _ = buffers.query.shape
    kv_heads, s_kv = buffers.key.shape[1:3]
    key_index = torch.arange(s_kv, device=buffers.query.device)
    result = torch.empty(buffers.output.shape, dtype=torch.float32, device=buffers.query.device)
    for entry in range(batch):
        for head in range(heads):
            own = head * kv_heads // heads
            key, value = buffers.key[entry, own].float(), buffers.value[entry, own].float()
            for start in range(0, s_q, ROWS_AT_ONCE):
                end = min(start + ROWS_AT_ONCE, s_q)
                row = torch.arange(start, end, device=key.device)[:, None] + (s_kv - s_q)
                distance = _distance(buffers, entry, row, key_index, causal).float()
                scores = buffers.scale * (buffers.query[entry, head, start:end].float() @ key.T)
                scores += buffers.slopes[head] * distance
                scores = _masked(scores, buffers.mask, entry, head, start, end)
                if buffers.key_bias is not None:
                    scores += buffers.key_bias[entry, 0]
                if causal:
                    scores = scores.masked_fill(key_index > row, -torch.inf)
                if buffers.window[0] >= 0:
                    scores = scores.masked_fill(row - key_index > buffers.window[0], -torch.inf)
                peak = scores.amax(1, keepdim=True)
                weights = torch.exp(scores - torch.where(torch.isfinite(peak), peak, 0.0))
                total = weights.sum(1, keepdim=True)
                found = (weights @ value) / torch.where(total > 0, total, 1.0)
                result[entry, head, start:end] = torch.where(total > 0, found, value.mean(0))
    return result


def _distance(buffers: Buffers, entry: int, row: Any, key_index: Any, causal: bool) -> Any:
    if not causal:
        return -(key_index - row).abs()
    if buffers.positions is None:
        return key_index - row
    position = buffers.positions[entry % buffers.positions.shape[0]]
    return position[None, :] - position[row.clamp(0, len(position) - 1)]


def _masked(scores: Any, mask: Any, entry: int, head: int, start: int, end: int) -> Any:
    if mask is None:
        return scores
    part = mask[entry % mask.shape[0], head % mask.shape[1]]
    part = part if part.shape[0] == 1 else part[start:end]
    if part.dtype == torch.bool:
        return scores.masked_fill(~part, -torch.inf)
    return torch.where(part.float() > LOWEST, scores + part.float(), -torch.inf)


def _prepared(bundle: Bundle, all_buffers: list[Buffers], workspaces: list[Any]) -> list[Run]:
    """A run per set of buffers; candidates share a workspace, as they run one after the other."""
    plans = [bundle.plan(buffers.call) for buffers in all_buffers]
    size = max(plan.workspace_bytes for plan in plans) + 256
    if not workspaces or workspaces[-1].numel() < size:
        workspaces.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    start = -(-workspaces[-1].data_ptr() // 256) * 256
    stream = torch.cuda.current_stream().cuda_stream
    return [bundle.prepare(plan, start, stream) for plan in plans]


class DeviceLostError(RuntimeError):
    """A candidate left the device unusable for this process; ``args[0]`` names it."""


@contextlib.contextmanager
def _watched(marker: Path) -> Iterator[None]:
    """Ends the process if a launch does not return; the marker stays and tells the next run which it was."""

    def give_up() -> None:
        sys.stderr.write(f"{marker.parent} does not return; run again, and it is left out\n")
        sys.stderr.flush()
        os._exit(HANGS)

    marker.touch()
    timer = threading.Timer(PATIENCE_SECONDS, give_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    marker.unlink()


def _verdict(run: Run, buffers: Buffers, wanted: Any, accepted: float) -> str | None:
    """Why the result of a run is wrong, or None."""
    buffers.output.fill_(float("nan"))
    run()
    torch.cuda.synchronize()
    found = buffers.output.float()
    if not bool(torch.isfinite(found).all()):
        return "the result is not finite"
    error = float((found - wanted).norm() / wanted.norm())
    return None if error <= accepted else f"the result is off by {error:.1e}"


def time_shape(shape: Shape, bundles: Mapping[str, Path], rounds: int = ROUNDS) -> dict[str, float | str]:
    """For each candidate its time in milliseconds, or what is wrong with it.

    Args:
        shape: The attention.
        bundles: Directories of the candidates' bundles, by any names.
        rounds: How often all of them take turns.

    Raises:
        DeviceLostError: If a candidate breaks the context; its marker stays, so the next run leaves it out.
    """
    torch.manual_seed(0)
    slope, extras = slopes(shape.heads), extras_of(shape)
    all_buffers = [Buffers.of(each, slope, *extras) for each in inputs_of(shape)]
    wanted = attend(all_buffers[0], causal=shape.causal)
    found: dict[str, float | str] = {}
    runs: dict[str, list[Run]] = {}
    workspaces: list[Any] = []
    for name, directory in bundles.items():
        try:
            prepared = _prepared(Bundle(directory), all_buffers, workspaces)
            with _watched(directory.parent / TRYING):
                wrong = _verdict(prepared[0], all_buffers[0], wanted, ACCEPTED[shape.dtype])
        except (RuntimeError, ValueError, LookupError, OSError) as error:
            wrong = f"{type(error).__name__}: {[*str(error).splitlines(), ''][0][:200]}"
            try:
                torch.cuda.synchronize()
            except RuntimeError as lost:
                raise DeviceLostError(name) from lost
            (directory.parent / TRYING).unlink(missing_ok=True)
        if wrong:
            found[name] = wrong
        else:
            runs[name] = prepared
    del wanted
    if runs:
        found.update(interleaved_ms(runs, rounds))
    return found


def environment() -> Iterator[tuple[str, str]]:
    """What is measured on."""
    yield "gpu", torch.cuda.get_device_name()
    yield "torch", str(torch.__version__)
    yield "cuda", str(torch.version.cuda)


def device() -> tuple[int, str]:
    """Architecture and short name of the device: 90 and ``H200``."""
    torch.zeros(1, device="cuda")  # makes PyTorch's context current
    major, minor = torch.cuda.get_device_capability()
    words = torch.cuda.get_device_name().removeprefix("NVIDIA ").split()
    return 10 * major + minor, words[0]
