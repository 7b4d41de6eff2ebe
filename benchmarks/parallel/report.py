"""The table and the record of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Told = list[dict[str, Any]]


def values(told: Told, row: str, field: str) -> list[Any]:
    """What the ranks told of a row, in their order."""
    return [line[field] for line in told if line.get("row") == row and field in line]


def rows(told: Told) -> list[str]:
    """Their names, in order."""
    return list(dict.fromkeys(str(line["row"]) for line in told if "row" in line))


def slowest(told: Told, row: str) -> float | None:
    """Milliseconds of the slowest rank."""
    found = values(told, row, "ms")
    return max(found) if found else None


def line(model: str, row: str, one: Told, many: Told) -> list[str]:
    """Of the table."""
    alone, together = slowest(one, row), slowest(many, row)
    shares = [n / b for n, b in zip(values(many, row, "nccl_us"), values(many, row, "busy_us"), strict=True) if b]
    errors = values(many, row, "hidden_error")
    bits = values(many, row, "bits")
    return [
        model,
        row,
        _number(alone),
        _number(together),
        _number(alone / together if alone and together else None),
        " ".join(f"{share:.0%}" for share in shares),
        f"{max(errors):.1e}" if errors else "",
        " ".join(values(many, row, "same_tokens")[:1]),
        "yes" if len(set(bits)) == 1 and bits else "NO" if bits else "",
        _memory(values(one, row, "mib")),
        _memory(values(many, row, "mib")),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _memory(found: list[int]) -> str:
    return f"{max(found) / 1024:.1f}" if found else ""


def report(record: dict[str, Any], out: Path) -> None:
    """Writes ``out.json`` and ``out.md``, and prints the latter."""
    ranks = str(record["ranks"])
    heads = ["model", "row", "1 GPU, ms", f"{ranks} GPUs, ms", "ratio", "in NCCL, by rank", "difference", "same tokens"]
    heads += ["ranks have the same bits", "GiB, 1 GPU", "GiB, each"]
    lines, failed = [heads, ["---"] * len(heads)], []
    for model, found in record["models"].items():
        one, many = found.get("1", []), found.get(ranks, []) if ranks != "1" else []
        lines += [line(model, row, one, many) for row in rows(one or many)]
        failed += [f"{model}: {told}" for told in [*one, *many] if "failed" in told]
    notes = (
        "Milliseconds are those of the slowest rank, medians of wall time, with a CUDA graph. The difference is that "
        "of the hidden states from one GPU's, as a part of their norm. Time in NCCL has waiting for others in it."
    )
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = f"{record['about']}; {record['layers']} layers.\n\n{body}\n\n{notes}\n"
    text += "".join(f"\nFAILED {each}\n" for each in failed)
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
