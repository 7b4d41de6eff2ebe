"""Export BLOOM, MPT or Falcon from Hugging Face transformers to ONNX.

    python export.py bloom            # also mpt, falcon; writes bloom.onnx
    python export.py bloom --pretrained bigscience/bloom-560m

Without ``--pretrained`` the model is small and its weights are random, so nothing is downloaded: the graph is the
same, only the matrices are smaller.  Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    MptConfig,
    PretrainedConfig,
)
from transformers.models.falcon import modeling_falcon

SMALL: dict[str, PretrainedConfig] = {
    "bloom": BloomConfig(vocab_size=128, hidden_size=48, n_layer=2, n_head=6, initializer_range=0.3),
    "mpt": MptConfig(vocab_size=128, d_model=48, n_layers=2, n_heads=6, max_seq_len=256, initializer_range=0.3),
    "falcon": FalconConfig(
        vocab_size=128,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        alibi=True,
        multi_query=False,
        initializer_range=0.3,
    ),
}


class Logits(torch.nn.Module):
    """A causal language model from ids and attention mask to logits: a plain signature is easier to export."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, S, V] of ids [B, S] under a mask [B, S]."""
        logits: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, return_dict=True
        ).logits
        return logits


def falcon_bias(attention_mask: torch.Tensor, num_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """What transformers' Falcon computes, with slopes in float32.

    Its own function multiplies bfloat16 with int64, which the TorchScript exporter turns into complex numbers: a
    file that no runtime loads.
    """
    batch, length = attention_mask.shape
    power = 2 ** math.floor(math.log2(num_heads))
    values = [2.0 ** (-8.0 * (k + 1) / power) for k in range(power)]
    values += [2.0 ** (-8.0 * (k + 1) / (2 * power)) for k in range(0, 2 * power, 2)][: num_heads - power]
    slopes = torch.tensor(values, device=attention_mask.device)
    places = ((attention_mask.cumsum(dim=-1) - 1) * attention_mask)[:, None, :]
    return (slopes[:, None] * places.float()).reshape(batch * num_heads, 1, length).to(dtype)


def build(family: str, pretrained: str | None) -> torch.nn.Module:
    """The model, small and random, or as it was published."""
    modeling_falcon.build_alibi_tensor = falcon_bias
    if pretrained:
        return AutoModelForCausalLM.from_pretrained(pretrained, attn_implementation="eager")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(SMALL[family], attn_implementation="eager")


def export(family: str, target: Path, pretrained: str | None = None) -> None:
    """Write the model with a free batch and sequence length."""
    model = Logits(build(family, pretrained).eval())
    ids = torch.randint(2, 100, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    axes = {0: "batch", 1: "sequence"}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (ids, mask),
            str(target),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": axes},
            opset_version=17,
            dynamo=False,
        )


def main() -> None:
    """Export what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(SMALL))
    parser.add_argument("--pretrained", metavar="NAME", help="a published model instead of a small random one")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    target = options.output or Path(f"{options.family}.onnx")
    export(options.family, target, options.pretrained)
    print(f"wrote {target}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
