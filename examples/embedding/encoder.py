"""A text embedding encoder in the style of Jina-BERT: symmetric ALiBi, no positions in the embedding.

    python encoder.py                 # writes encoder.onnx

The bias is a buffer [1, H, L, L] of -slope * |i - j|, of which every run slices its S x S part.  Needs torch.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST = 200, 48, 6, 2, 128


def slopes(heads: int) -> Tensor:
    """The geometric slopes of the paper, for a number of heads that need not be a power of two."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2.0 ** (-8.0 * (k + 1) / power) for k in range(power)]
    more = [2.0 ** (-8.0 * (k + 1) / (2 * power)) for k in range(0, 2 * power, 2)]
    return torch.tensor(first + more[: heads - power])


class Layer(nn.Module):
    """Attention with an added bias, and a gated feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        nn.init.normal_(self.packed.weight, std=0.3)  # trained attention is not almost uniform
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]; the bias is [B or 1, H, S, S]."""
        batch, length, _ = x.shape
        q, k, v = (t.view(batch, length, HEADS, -1).transpose(1, 2) for t in self.packed(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + bias
        attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, length, WIDTH)
        x = self.norms[0](x + self.out(attended))
        up, gate = self.gate(x).chunk(2, dim=-1)
        result: Tensor = self.norms[1](x + self.down(up * nn.functional.gelu(gate)))
        return result


class Encoder(nn.Module):
    """Ids and mask to one unit vector per text."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        place = torch.arange(LONGEST)
        distance = (place[:, None] - place[None, :]).abs().float()
        self.register_buffer("alibi", -slopes(HEADS)[None, :, None, None] * distance)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, S] and [B, S] to [B, E]."""
        length = input_ids.shape[1]
        hidden = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        bias = self.alibi[:, :, :length, :length] + hidden
        x = self.words(input_ids)
        for layer in self.layers:
            x = layer(x, bias)
        weight = attention_mask[:, :, None].float()
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean, dim=-1)


def main() -> None:
    """Write the encoder with a free batch and sequence length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("encoder.onnx"))
    target = parser.parse_args().output
    torch.manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (2, 9))
    axes = {0: "batch", 1: "sequence"}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder().eval(),
            (ids, torch.ones_like(ids)),
            str(target),
            input_names=["input_ids", "attention_mask"],
            output_names=["embedding"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    print(f"wrote {target}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
