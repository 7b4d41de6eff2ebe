"""Export BLOOM models of many layers with both of PyTorch's exporters, for ``bench.py``.

``python benchmarks/pass/export.py FOLDER [--layers 2 24 70 140]`` needs torch and transformers.  The weights are
random and small: what the pass costs depends on the graph and not on the width of its matrices.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from transformers import BloomConfig, BloomForCausalLM

HEADS, WIDTH, VOCABULARY = 4, 32, 128


class Logits(torch.nn.Module):
    """BLOOM from token ids and attention mask to logits, without a cache."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(layers)
        config = BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=layers, n_head=HEADS, use_cache=False)
        config._attn_implementation = "eager"
        self.bloom = BloomForCausalLM(config).eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, S, V] of ids [B, S] under a mask [B, S]."""
        return self.bloom(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def export(layers: int, exporter: str, target: Path) -> None:
    """Write one model; ``exporter`` is ``torchscript`` or ``dynamo``."""
    model = Logits(layers)
    ids = torch.randint(0, VOCABULARY, (2, 7))
    mask = torch.ones((2, 7), dtype=torch.int64)
    mask[0, :2] = 0
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["logits"]}
    with torch.no_grad():
        if exporter == "torchscript":
            axes = {"input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"}}
            torch.onnx.export(
                model, (ids, mask), str(target), dynamo=False, opset_version=17, dynamic_axes=axes, **names
            )
        else:
            batch, length = torch.export.Dim("batch", min=2), torch.export.Dim("seq", min=3)
            shapes = {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
            program = torch.onnx.export(
                model, (ids, mask), dynamo=True, opset_version=18, dynamic_shapes=shapes, **names
            )
            program.save(str(target), external_data=False)


def main() -> None:
    """Export everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 24, 70, 140])
    parser.add_argument("--exporters", nargs="+", default=["torchscript", "dynamo"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for layers in options.layers:
        for exporter in options.exporters:
            target = options.folder / f"bloom-{exporter}-{layers}.onnx"
            if target.exists():
                continue
            start = time.perf_counter()
            export(layers, exporter, target)
            print(f"{target}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
