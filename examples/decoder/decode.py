"""Drive a decoder token by token through onnxruntime: original, rewritten, and with its cache in place.

    python decode.py MODEL [--tokens 24]

The tokens must be the same in all three.
MODEL has the inputs of a text-generation export: ``input_ids`` [B, S], ``attention_mask`` [B, P + S], and per layer
``past_key_values.N.key`` and ``.value`` [B, H, P, D]; its outputs are ``logits`` and, in the same order, ``present``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import alibi_rewriter
import numpy as np
import numpy.typing as npt
import onnxruntime
from alibi_rewriter import rewrite

Array = npt.NDArray[np.generic]


class Growing:
    """A model whose cache grows."""

    def __init__(self, path: Path, batch: int) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        past = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values")]
        # An empty cache: no token has been seen yet.
        self.cache: dict[str, Array] = {i.name: np.zeros((batch, i.shape[1], 0, i.shape[3]), np.float32) for i in past}

    def step(self, tokens: Array, mask: Array) -> Array:
        """Logits [B, V] of the last token; the cache grows by the new tokens."""
        feeds = {"input_ids": tokens, "attention_mask": mask, **self.cache}
        logits, *present = self.session.run(None, feeds)
        self.cache = dict(zip(self.cache, present, strict=True))
        last: Array = logits[:, -1]
        return last


def generate(path: Path, prompt: Array, mask: Array, count: int) -> Iterator[Array]:
    """Greedy tokens [B], one array per step: the prompt at once, then one token at a time."""
    decoder = Growing(path, len(prompt))
    tokens = prompt
    for _ in range(count):
        chosen = decoder.step(tokens, mask).argmax(axis=-1)
        yield chosen
        tokens = chosen[:, None].astype(prompt.dtype)
        mask = np.concatenate([mask, np.ones((len(mask), 1), mask.dtype)], axis=1)


def main() -> None:
    """Rewrite the model and decode with both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("-o", "--output", type=Path, help="the rewritten model (default: beside the original)")
    options = parser.parse_args()
    result = rewrite(options.model, options.output or options.model.with_suffix(".alibi.onnx"))
    if result.output is None:
        raise SystemExit(f"nothing was written: exit code {int(result.exit_code)}")
    print(f"rewrote {len(result.fused)} attention sites; verification {result.verification.status}")

    # Two prompts of different length: the shorter one is padded on the left.
    prompt = np.array([[0, 0, 17, 4, 25], [31, 8, 2, 19, 30]], np.int64)
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int64)
    found = {
        name: np.stack(list(generate(path, prompt, mask, options.tokens)), axis=1)
        for name, path in (("original", options.model), ("rewritten", result.output))
    }
    # In place nothing is padded: each sequence has a length of its own.
    held = result.output.with_name(f"{options.model.stem}.in-place.onnx")
    in_place = rewrite(options.model, held, cache="in-place")
    print(f"caches in place: {len(in_place.cache.buffers)} buffers; verification {in_place.verification.status}")
    decoder = alibi_rewriter.Decoder(held, 2, capacity=prompt.shape[1] + options.tokens)
    prompts = [row[kept.astype(bool)].tolist() for row, kept in zip(prompt, mask, strict=True)]
    found["in place"] = np.array(list(decoder.generate(prompts, options.tokens))).T
    for name, rows in found.items():
        for row in rows:
            print(f"{name:>9}: {' '.join(map(str, row))}")
    same = int(((found["original"] == found["rewritten"]) & (found["original"] == found["in place"])).sum())
    print(f"{same} of {found['original'].size} tokens are the same in all three")
    raise SystemExit(0 if same == found["original"].size else 1)


if __name__ == "__main__":
    main()
