"""Record and page of what a run of ``gpu.py`` told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpu_rows import ROWS

MEANING = {
    "original": "onnxruntime, the original",
    "original+g": "the same, captured into a CUDA graph",
    "function": "the rewritten file, nothing registered",
    "function+g": "the same, captured into a CUDA graph",
    "ours": "the rewritten file on our kernels",
    "ours+g": "the same, captured into a CUDA graph",
    "in place": "the rewritten file with its caches in place on our kernels: no mask, past and present in one memory",
    "in place+g": "the same, captured into a CUDA graph",
    "ours, plain": "the rewritten file on our kernels, operands transposed by the graph",
    "ours, plain+g": "the same, captured into a CUDA graph",
    "original bf16": "the original in bfloat16",
    "ours bf16": "the rewritten bfloat16 file on our kernels",
    "eager": "PyTorch, scores and bias in memory",
    "eager+g": "the same, captured into a CUDA graph",
    "sdpa": "PyTorch, the bias as the mask of scaled_dot_product_attention",
    "sdpa+g": "the same, captured into a CUDA graph",
    "compiled": "PyTorch eager after torch.compile",
    "compiled+g": "the same, captured into a CUDA graph",
}


def record(events: Path) -> dict[str, Any]:
    """What was told, by model and variant."""
    results: dict[str, Any] = {"about": "", "models": {}}
    for line in events.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        if "about" in told:
            results["about"] = told["about"]
            continue
        model, column = told.pop("model"), told.pop("column")
        found = results["models"].setdefault(model, {}).setdefault(column, {"rows": {}})
        if "row" in told:
            key = told.pop("row")
            found["rows"][key] = {"error": told["failed"]} if "failed" in told else told
        elif "compared" in told:
            value = told.get("error", told.get("failed"))
            found.setdefault("accuracy", {})[told["compared"]] = value
        elif "profiled" in told:
            found.setdefault("profile", {})[told.pop("profiled")] = told
        elif "mib" in told:
            found["mib"] = told["mib"]
        elif "failed" in told:
            found["error"] = told["failed"]
    return results


def cell(row: dict[str, Any] | None, original: dict[str, Any] | None) -> str:
    """Milliseconds, and how many times as fast as the original that is."""
    if row is None:
        return "-"
    if "error" in row:
        return "fails"
    ratio = f" ({original['ms'] / row['ms']:.2f})" if original and "ms" in original and row is not original else ""
    return f"{row['ms']:.3g}{ratio}"


def failures(found: dict[str, Any]) -> list[str]:
    """Why figures are missing."""
    texts = {
        f"{name}, {key}: {row['error']}" for name, of in found.items() for key, row in of["rows"].items()
        if "error" in row
    }  # fmt: skip
    return sorted(texts | {f"{name}: {of['error']}" for name, of in found.items() if "error" in of})


def profiles(found: dict[str, Any]) -> list[str]:
    """Where the time of a layer goes."""
    shown = {
        (name, key): of
        for name, whole in found.items()
        for key, of in whole.get("profile", {}).items()
        if "us_per_layer" in of
    }
    if not shown:
        return []
    kinds = list(dict.fromkeys(kind for of in shown.values() for kind in of["us_per_layer"]))
    rows = list(dict.fromkeys(key for _, key in shown))
    columns = [(name, key) for key in rows for name in MEANING if (name, key) in shown]
    lines = ["", "Kernels, us per layer:", ""]
    lines += ["| | " + " | ".join(f"{key}, {name}" for name, key in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for kind in kinds:
        cells = [f"{shown[column]['us_per_layer'].get(kind, 0):.1f}" for column in columns]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines.append("| kernels of a run | " + " | ".join(str(shown[column]["kernels"]) for column in columns) + " |")
    return lines


def page(results: dict[str, Any]) -> str:
    """For people."""
    lines = ["# onnxruntime on a GPU", "", results["about"], ""]
    used = {name for found in results["models"].values() for name in found}
    lines += [f"* `{name}`: {meaning}" for name, meaning in MEANING.items() if name in used]
    lines += [
        "",
        "Milliseconds (original / this). `fails`: below the table it says why. `-`: not run. What takes a few",
        "milliseconds without a CUDA graph is bound by the processor that launches it, and differs between machines.",
        "`left`: the mask hides a quarter of the keys, on the left. `ragged`: of each sequence another part, from",
        "nothing to three quarters (left of a decoder's tokens, right of an encoder's).",
        "",
    ]
    for model, found in results["models"].items():
        names = [name for name in MEANING if found.get(name, {}).get("rows")]
        names += [name for name, of in found.items() if name not in MEANING and of["rows"]]
        lines += [f"## {model}", "", f"| | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
        for row in ROWS[model]:
            of = {name: found[name]["rows"].get(row.key) for name in names}
            cells = [cell(of[name], of.get("original")) for name in names]
            lines.append(f"| {row.kind} {row.batch}x{row.length} {row.hides}".rstrip() + f" | {' | '.join(cells)} |")
        memory = ", ".join(f"{name} {found[name]['mib']}" for name in names if "mib" in found[name])
        lines += ["", f"Memory of the process after prefill, MiB: {memory}"]
        compared = [
            f"{name} " + ", ".join(f"{row} {value:.2g}" for row, value in of["accuracy"].items() if value is not None
                                   and not isinstance(value, str))
            for name, of in found.items() if of.get("accuracy") and name != "exact"
        ]  # fmt: skip
        if compared:
            lines += ["", "Hidden states, relative to the float32 original: " + "; ".join(compared)]
        lines += profiles(found)
        lines += ["", *(f"* {text}" for text in failures(found)), ""]
    return "\n".join(lines).rstrip() + "\n"


def report(events: Path) -> None:
    """Writes record and page beside what was told."""
    results = record(events)
    events.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    events.with_suffix(".md").write_text(page(results), encoding="utf-8")
