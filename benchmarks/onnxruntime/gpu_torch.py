"""The models of ``gpu_models`` as PyTorch modules: what PyTorch does with the same shapes.

Eager and compiled have scores and bias in memory, as the models' own code has them.  With ``sdpa`` the bias is made
once for all layers and goes into ``scaled_dot_product_attention`` as its mask.
"""

from __future__ import annotations

from typing import Any

import gpu_models
import torch
from torch import nn

Pasts = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class Attention(nn.Module):
    """One attention with its projections."""

    def __init__(self, shape: gpu_models.Shape, sdpa: bool) -> None:
        super().__init__()
        self.shape, self.sdpa = shape, sdpa
        self.packed = nn.Linear(shape.width, 3 * shape.width, bias=shape.biased)
        self.out = nn.Linear(shape.width, shape.width, bias=shape.biased)

    def forward(self, x: torch.Tensor, terms: list[torch.Tensor], past: Any) -> tuple[torch.Tensor, Any]:
        """Hidden states, and keys and values for the cache."""
        batch, rows, _ = x.shape
        packed = self.packed(x).view(batch, rows, 3, self.shape.heads, self.shape.depth)
        query, key, value = (packed[:, :, i].transpose(1, 2) for i in range(3))
        if past is not None:
            key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
        if self.sdpa:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=terms[0])
        else:
            scores = torch.matmul(query, key.transpose(-1, -2)) * self.shape.depth**-0.5
            for term in terms:
                scores = scores + term
            mixed = torch.matmul(torch.softmax(scores.float(), dim=-1).to(x.dtype), value)
        merged = mixed.transpose(1, 2).reshape(batch, rows, self.shape.width)
        return self.out(merged), (key, value)


class Layer(nn.Module):
    """Attention and feed-forward part: before norms with a cache, after them without."""

    def __init__(self, shape: gpu_models.Shape, sdpa: bool) -> None:
        super().__init__()
        self.cache = shape.cache
        self.attention = Attention(shape, sdpa)
        self.first, self.second = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        wide = shape.inner if shape.cache else 2 * shape.inner
        self.up = nn.Linear(shape.width, wide, bias=shape.biased and shape.cache)
        self.down = nn.Linear(shape.inner, shape.width, bias=shape.biased)

    def forward(self, x: torch.Tensor, terms: list[torch.Tensor], past: Any) -> tuple[torch.Tensor, Any]:
        """Hidden states, and keys and values for the cache."""
        if self.cache:
            mixed, kept = self.attention(self.first(x), terms, past)
            x = x + mixed
            return x + self.down(nn.functional.gelu(self.up(self.second(x)))), kept
        mixed, kept = self.attention(x, terms, None)
        x = self.first(x + mixed)
        gate, up = self.up(x).chunk(2, -1)
        return self.second(x + self.down(nn.functional.gelu(gate) * up)), kept


class Model(nn.Module):
    """Token numbers and mask in; hidden states, last logits and the cache out."""

    def __init__(self, name: str, sdpa: bool) -> None:
        super().__init__()
        shape = gpu_models.MODELS[name]
        self.name, self.shape, self.sdpa = name, shape, sdpa
        self.words = nn.Embedding(shape.words, shape.width)
        self.first, self.last = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.layers = nn.ModuleList(Layer(shape, sdpa) for _ in range(shape.layers))
        self.register_buffer("slopes", torch.tensor(gpu_models.slopes(shape.heads)).view(1, -1, 1, 1))

    def terms(self, mask: torch.Tensor, rows: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """What is added to the scores."""
        keys, slopes = torch.arange(mask.shape[1], device=mask.device), self.slopes.float()
        lowest = torch.finfo(dtype).min
        kept = mask[:, None, None]
        if not self.shape.cache:
            distance = (keys[None] - keys[:, None]).abs()
            return [(1 - kept.to(dtype)) * lowest, (-slopes * distance).to(dtype)]
        seen = (keys[None] <= keys[-rows:, None]) & kept.bool()
        if self.name == "bloom":
            bias = (slopes * ((mask.cumsum(1) - 1) * mask)[:, None, None]).to(dtype)
            return [bias, torch.where(seen, 0.0, lowest).to(dtype)]
        bias = slopes * (keys - keys[-1])[None, None, None]
        return [bias, torch.where(seen, 0.0, torch.finfo(torch.float32).min)]

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, pasts: Pasts | None = None) -> tuple[Any, ...]:
        """Hidden states and logits of the last token (a decoder), and the cache."""
        x = self.first(self.words(ids))
        terms = self.terms(mask, ids.shape[1], x.dtype)
        if self.sdpa:
            terms = [(terms[0] + terms[1]).clamp(min=torch.finfo(x.dtype).min).to(x.dtype)]
        cache = []
        for number, layer in enumerate(self.layers):
            x, kept = layer(x, terms, None if pasts is None else pasts[number])
            cache.append(kept)
        if not self.shape.cache:
            return (x,)
        x = self.last(x)
        return x, nn.functional.linear(x[:, -1:], self.words.weight), tuple(cache)


def build(name: str, *, sdpa: bool = False) -> Model:
    """On the GPU, in float16, with random weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("cuda"):
            return Model(name, sdpa).eval()
    finally:
        torch.set_default_dtype(before)
