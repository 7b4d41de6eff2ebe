"""A small causal ALiBi language model of bytes, trained on the spot on Python's own standard library."""

from __future__ import annotations

import math
import statistics
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from shapes import paper_slopes
from torch import nn

BYTES = 256
MOST_TEXT = 48 << 20
HELD_OUT = 10
"""Every so many files."""


@dataclass(frozen=True)
class Settings:
    """Of the model and its training."""

    layers: int = 6
    heads: int = 16
    head_dim: int = 64
    context: int = 1024
    batch: int = 32
    steps: int = 4000
    seconds: float = 90.0
    rate: float = 1e-3
    lengths: tuple[int, ...] = (2048, 4096, 8192, 16384)
    windows: int = 2

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.heads * self.head_dim


TINY = Settings(2, 4, 16, 128, 4, 12, 20.0, 3e-3, (256, 384), 1)


def library_text() -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train on and bytes held out: the standard library's sources in the order of their names."""
    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    size = 0
    names = sorted(path for path in root.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts))
    for number, path in enumerate(names):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        parts[number % HELD_OUT == 0].append(content)
        size += len(content)
        if size > MOST_TEXT:
            break
    train, held_out = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
    return train, held_out


class Layer(nn.Module):
    """Attention and a perceptron, both after a normalisation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.head_dim = settings.heads, settings.head_dim
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def heads_of(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, each [B, H, S, D]."""
        batch, length, _ = x.shape
        found = self.project(self.before_attention(x)).view(batch, length, 3, self.heads, self.head_dim)
        query, key, value = found.permute(2, 0, 3, 1, 4)
        return query, key, value

    def forward(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The stream after this layer, given the output of its attention."""
        batch, _, length, _ = attended.shape
        x = x + self.join(attended.transpose(1, 2).reshape(batch, length, -1))
        hidden: torch.Tensor = x + self.narrow(functional.gelu(self.widen(self.before_perceptron(x))))
        return hidden


class Model(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, settings.width)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.layers))
        self.last, self.predict = nn.LayerNorm(settings.width), nn.Linear(settings.width, BYTES)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Logits; ``bias`` is added to the scores."""
        x = self.embed(tokens)
        for layer in self.layers:
            query, key, value = layer.heads_of(x)
            x = layer(x, functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype)))
        logits: torch.Tensor = self.predict(self.last(x))
        return logits


def bias_of(slope: torch.Tensor, rows: torch.Tensor, length: int) -> torch.Tensor:
    """Slope * (key - row), -inf for keys after the row: [H, rows, length]."""
    distance = torch.arange(length, device=slope.device)[None, :] - rows[:, None]
    plane = torch.where(distance > 0, -torch.inf, distance.float())
    return slope[:, None, None] * plane[None]


def batch_of(text: torch.Tensor, settings: Settings, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows and what follows each byte of them."""
    starts = torch.randint(len(text) - settings.context - 1, (settings.batch,), generator=generator)
    at = (starts[:, None] + torch.arange(settings.context + 1)[None]).to(text.device)
    window = text[at].long()
    return window[:, :-1], window[:, 1:]


def train(model: Model, text: torch.Tensor, settings: Settings) -> dict[str, Any]:
    """Trains until the steps or the seconds are used up; what came of it."""
    device = text.device
    slope = torch.tensor(paper_slopes(settings.heads), device=device)
    bias = bias_of(slope, torch.arange(settings.context, device=device), settings.context)[None]
    fast = device.type == "cuda"
    bias = bias.to(torch.bfloat16 if fast else torch.float32)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), settings.rate, betas=(0.9, 0.95), weight_decay=0.1, fused=fast)
    begin, losses, step, progress = time.monotonic(), [], 0, 0.0
    while progress < 1:
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        tokens, wanted = batch_of(text, settings, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            logits = model(tokens, bias)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress = max(step / settings.steps, (time.monotonic() - begin) / settings.seconds)
        if step % 20 == 0 or step == 1:
            losses.append(loss.item())  # also keeps the host from running ahead of the clock
    losses.append(loss.item())
    bits = [value / math.log(2) for value in losses]
    return {
        "steps": step, "bytes": step * settings.batch * settings.context, "seconds": time.monotonic() - begin,
        "bits_per_byte_first": bits[0], "bits_per_byte_last": statistics.mean(bits[-5:]),
    }  # fmt: skip
