"""What certified skipping visits on a trained model: trains a small causal ALiBi language model first.

    python benchmarks/kernels/activations.py --output results/            # a CUDA device: some three minutes
    python benchmarks/kernels/activations.py --output results/ --tiny     # a CPU: seconds; shows that it runs, no more

The model reads bytes of Python's own standard library, which is wherever this runs; every tenth file is held out.  It
has the slopes of the ALiBi paper, trains on short contexts and is looked at on longer ones: queries and keys of every
layer and head, rounded to bfloat16, go through the criterion of docs/kernels.md (``certificate``).  Beside that: the
same for normal random inputs, and ``exact``: as many blocks from the first key on left out as weigh, together and on
every row, no more than the criterion allows.  No criterion can visit less.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from certificate import BITS, BLOCK, CRITERIA, TILE, Head, reach, taken
from shapes import paper_slopes
from small_model import TINY, Model, Settings, bias_of, library_text, train
from visited import normal_heads

ROWS_AT_ONCE = 1024


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Causal ALiBi attention of one sequence [H, S, D] in float32, some rows at a time."""
    length, scale = query.shape[1], query.shape[2] ** -0.5
    parts = []
    for start in range(0, length, ROWS_AT_ONCE):
        rows = torch.arange(start, min(start + ROWS_AT_ONCE, length), device=query.device)
        end = int(rows[-1]) + 1
        scores = scale * (query[:, rows] @ key[:, :end].transpose(1, 2)) + bias_of(slope, rows, end)
        parts.append(torch.softmax(scores, -1) @ value[:, :end])
    return torch.cat(parts, 1)


def needed(query: torch.Tensor, key: torch.Tensor, slope: torch.Tensor) -> list[float]:
    """The share of blocks that are left when those before them weigh at most 2^-(BITS + 1) on any row; per head."""
    heads, length, _ = query.shape
    scale = query.shape[2] ** -0.5
    some, everything = torch.zeros(heads, device=query.device), 0
    for tile in range(-(-length // TILE)):
        rows = torch.arange(tile * TILE, min(tile * TILE + TILE, length), device=query.device)
        end = min((tile + 1) * TILE, length)
        scores = scale * (query[:, rows] @ key[:, :end].transpose(1, 2)) + bias_of(slope, rows, end)
        weights = functional.pad(torch.softmax(scores, -1), (0, (tile + 1) * BLOCK - end))
        before = weights.view(heads, len(rows), tile + 1, BLOCK).sum(-1).cumsum(-1).amax(1)
        some += tile + 1 - (before <= 2.0 ** -(BITS + 1)).sum(1)
        everything += tile + 1
    return [float(x) for x in some / everything]


def shares(heads: Sequence[Head], rows: dict[str, list[float]]) -> None:
    """Appends the visited share of each head by every criterion."""
    for criterion in CRITERIA:
        for head in heads:
            some, everything = taken(head, *reach(head, criterion))
            rows.setdefault(criterion, []).append(some / everything)


def looked_at(model: Model, text: torch.Tensor, settings: Settings, length: int) -> Iterator[dict[str, Any]]:
    """The shares of every layer on held-out text of one length: criterion to one share per head, window by window."""
    slope = torch.tensor(paper_slopes(settings.heads), device=text.device)
    for window in range(settings.windows):
        start = (len(text) - length - 1) * (2 * window + 1) // (2 * settings.windows)
        tokens = text[start : start + length].long()[None]
        x, loss = model.embed(tokens), None
        for number, layer in enumerate(model.layers):
            query, key, value = (part[0].bfloat16().float() for part in layer.heads_of(x))
            rows: dict[str, list[float]] = {"exact": needed(query, key, slope)}
            arrays = [(q.cpu().numpy(), k.cpu().numpy()) for q, k in zip(query, key, strict=True)]
            shares(
                [Head(q, k, float(s), settings.head_dim**-0.5) for (q, k), s in zip(arrays, slope, strict=True)], rows
            )
            largest = settings.head_dim**-0.5 * float(query.norm(dim=-1).max() * key.norm(dim=-1).max())
            yield {"window": window, "layer": number, "largest_product_of_norms": largest, **rows}
            x = layer(x, attend(query, key, value, slope)[None])
        following = text[start + 1 : start + length + 1].long()
        loss = functional.cross_entropy(model.predict(model.last(x))[0].float(), following)
        yield {"window": window, "bits_per_byte": float(loss) / math.log(2)}


def random_shares(settings: Settings, length: int, device: torch.device) -> dict[str, list[float]]:
    """The shares of normal inputs, one per head."""
    heads = normal_heads(settings.heads, length, settings.head_dim, causal=True)
    query, key = (torch.from_numpy(np.stack([getattr(h, name) for h in heads])).to(device) for name in ("query", "key"))
    rows = {"exact": needed(query, key, torch.tensor(paper_slopes(settings.heads), device=device))}
    shares(heads, rows)
    return rows


def markdown(document: dict[str, Any]) -> str:
    """The figures for people."""
    names = ("own", "near", "exact")
    training = document["training"]
    lines = [
        "# Blocks of keys that certified skipping visits", "",
        f"{document['device']}; PyTorch {document['torch']}. A model of {document['settings']['layers']} layers with "
        f"{document['settings']['heads']} heads of {document['settings']['head_dim']}, trained for {training['steps']} "
        f"steps on {training['bytes'] / 1e6:.0f} MB of Python sources ({training['seconds']:.0f} s, contexts of "
        f"{document['settings']['context']}): {training['bits_per_byte_last']:.2f} bits per byte.", "",
        "Shares of blocks of 128 keys, of those without skipping, mean over layers, heads and windows. `own`: a row is "
        "known to score what its own key scores; `near`: what the blocks on its diagonal weigh; `exact`: no "
        "criterion can visit less.", "",
        "| keys | bits per byte | trained: own | near | exact | random: own | near | exact |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for entry in document["lengths"]:
        figures = [
            f"{statistics.mean(entry[of][name]):.3f}" for of in ("trained_by_head", "random_by_head") for name in names
        ]
        lines.append(f"| {entry['length']} | {entry['bits_per_byte']:.2f} | {' | '.join(figures)} |")
    last = document["lengths"][-1]
    lines += ["", f"By head, {last['length']} keys, mean over layers:", "", "| head | slope | own | near | exact |"]
    lines += ["|---|---|---|---|---|"]
    for number, slope in enumerate(document["slopes"]):
        figures = [f"{last['trained_by_head'][name][number]:.3f}" for name in names]
        lines.append(f"| {number} | {slope:.4g} | {' | '.join(figures)} |")
    lines += ["", f"By layer, {last['length']} keys, mean over heads; the bound on any score is in nats:", ""]
    lines += ["| layer | own | near | exact | largest norm product |", "|---|---|---|---|---|"]
    for number, layer in enumerate(last["trained_by_layer"]):
        figures = [f"{layer[name]:.3f}" for name in names]
        lines.append(f"| {number} | {' | '.join(figures)} | {layer['largest_product_of_norms']:.1f} |")
    return "\n".join(lines) + "\n"


def summed_up(rows: list[dict[str, Any]], settings: Settings, length: int) -> dict[str, Any]:
    """One length: means over windows by head and by layer."""
    layers = [row for row in rows if "layer" in row]
    names = ("exact", *CRITERIA)
    by_layer = []
    for number in range(settings.layers):
        own = [row for row in layers if row["layer"] == number]
        means = {name: statistics.mean(x for row in own for x in row[name]) for name in names}
        by_layer.append({**means, "largest_product_of_norms": max(row["largest_product_of_norms"] for row in own)})
    return {
        "length": length,
        "bits_per_byte": statistics.mean(row["bits_per_byte"] for row in rows if "bits_per_byte" in row),
        "trained_by_head": {
            name: [statistics.mean(row[name][head] for row in layers) for head in range(settings.heads)]
            for name in names
        },
        "trained_by_layer": by_layer,
        "trained": layers,
    }


@torch.no_grad()
def measure(model: Model, held_out: torch.Tensor, settings: Settings) -> Iterator[dict[str, Any]]:
    """All figures, a length at a time."""
    for length in settings.lengths:
        found = summed_up(list(looked_at(model, held_out, settings, length)), settings, length)
        yield {**found, "random_by_head": random_shares(settings, length, held_out.device)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Visited blocks of certified skipping on a model trained on the spot.")
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU, to see that it runs")
    parser.add_argument("--heads", type=int, help="instead of 16")
    parser.add_argument("--seconds", type=float, help="of training, instead of 90")
    options = parser.parse_args(arguments)
    given = {name: value for name in ("heads", "seconds") if (value := getattr(options, name)) is not None}
    settings = Settings(**{**asdict(TINY if options.tiny else Settings()), **given})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.exit(1, f"{parser.prog}: no CUDA device; --tiny runs without one\n")
    torch.manual_seed(0)
    text, held_out = (torch.from_numpy(part.copy()).to(device) for part in library_text())
    if len(held_out) <= max(settings.lengths) + 1 or len(text) <= settings.context + 1:
        parser.exit(1, f"{parser.prog}: the standard library's sources are not there or too short\n")
    model = Model(settings).to(device)
    training = train(model, text, settings)
    sys.stderr.write(json.dumps(training) + "\n")
    document: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU", "torch": str(torch.__version__),
        "settings": asdict(settings), "slopes": paper_slopes(settings.heads), "training": training, "lengths": [],
    }  # fmt: skip
    options.output.mkdir(parents=True, exist_ok=True)
    for entry in measure(model, held_out, settings):
        document["lengths"].append(entry)
        (options.output / "activations.json").write_text(json.dumps(document, indent=1) + "\n")
        (options.output / "activations.md").write_text(markdown(document))
        sys.stderr.write(f"{entry['length']} keys done\n")
    sys.stdout.write(markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
