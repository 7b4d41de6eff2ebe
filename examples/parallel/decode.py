"""Decode with a model that was cut: one process per GPU, each with its part of every layer.

    rewrite MODEL --tensor-parallel 2 -o DIR
    torchrun --nproc-per-node 2 decode.py DIR [--prompt "17 4 25"] [--tokens 24]
    mpirun -n 2 python decode.py DIR

DIR has ``rank0.onnx``, ``rank1.onnx`` and so on.  Each has the inputs of a text-generation export, with its own heads
only: ``input_ids`` [B, S], ``attention_mask`` [B, P + S], and per layer ``past_key_values.N.key`` and ``.value``
[B, h, P, D]; its outputs are ``logits`` and, in the same order, ``present``.  Keys and values stay on
the GPU that computed them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alibi_rewriter
import numpy as np
import numpy.typing as npt
import onnxruntime
from alibi_rewriter.runtime import collectives

TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32}


def providers(device: int | None) -> list[Any]:
    """Where a session runs."""
    on_gpu = [] if device is None else [("CUDAExecutionProvider", {"device_id": str(device)})]
    return [*on_gpu, "CPUExecutionProvider"]


class Decoder:
    """A rank's model with past and present.

    Args:
        path: The file.
        device: The rank's GPU; None for the CPU.
    """

    def __init__(self, path: Path, device: int | None) -> None:
        self.session = alibi_rewriter.InferenceSession(path, providers=providers(device))
        if device is not None and self.session.get_providers()[0] != "CUDAExecutionProvider":
            raise SystemExit("this onnxruntime has no CUDA provider: pip install onnxruntime-gpu")
        self.where = ("cpu", 0) if device is None else ("cuda", device)
        past = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values")]
        self.present = [o.name for o in self.session.get_outputs() if o.name.startswith("present")]
        # An empty cache: no token has been seen yet.
        self.cache = {i.name: self._value(np.zeros((1, i.shape[1], 0, i.shape[3]), TYPES[i.type])) for i in past}

    def _value(self, array: npt.NDArray[Any]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, *self.where)

    def step(self, tokens: list[int], seen: int) -> int:
        """The token that follows these; ``seen`` tokens came before them.  All ranks get the same one."""
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, seen + len(tokens)), np.int64))
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits")
        for name in self.present:
            binding.bind_output(name, *self.where)
        self.session.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        self.cache = dict(zip(self.cache, present, strict=True))
        return int(logits.numpy()[0, -1].argmax())


def generate(path: Path, device: int | None, prompt: list[int], count: int, in_place: bool) -> Iterator[int]:
    """Greedy tokens: the prompt at once, then one token at a time."""
    if in_place:
        runner = alibi_rewriter.Decoder(
            path, 1, len(prompt) + count, providers=providers(device), cuda_graph=device is not None
        )
        yield from (int(row[0]) for row in runner.generate([prompt], count))
        return
    decoder, tokens, seen = Decoder(path, device), prompt, 0
    for _ in range(count):
        chosen = decoder.step(tokens, seen)
        yield chosen
        seen += len(tokens)
        tokens = [chosen]


def main() -> None:
    """Every rank decodes, and rank 0 prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", default="17 4 25", help="token numbers")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--in-place", action="store_true", help="the model was written with --cache in-place")
    parser.add_argument("--alone", action="store_true", help="a folder for one rank, on the CPU, to try this program")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        rank, size, device = 0, 1, None
        if not options.alone:
            group = stack.enter_context(collectives.connect())
            rank, size, device = group.rank, group.size, group.device
        ranks = json.loads((options.folder / "manifest.json").read_text(encoding="utf-8"))["ranks"]
        if ranks != size:
            raise SystemExit(f"'{options.folder}' was cut for {ranks} ranks, and there are {size}")
        prompt, path = [int(word) for word in options.prompt.split()], options.folder / f"rank{rank}.onnx"
        tokens = list(generate(path, device, prompt, options.tokens, options.in_place))
        if rank == 0:
            print(" ".join(map(str, tokens)))


if __name__ == "__main__":
    main()
