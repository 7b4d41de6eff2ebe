"""Makes docs/executed.md from docs/executed.json; with files of evidence, counts them into that record first.

    ALIBI_EVIDENCE=build/evidence pytest tests/engine tests/runtime tests/fused tests/whole/test_exported.py
    python docs/executed.py build/evidence

Evidence of one runtime and level replaces what the record held about it; with ``--add`` in front it is added, which
is for runs that covered a part.  What tests cannot record is in the list ``stated``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("executed.json")
TARGET = Path(__file__).with_name("executed.md")

LEVELS = {
    "graph": "the graph builds: the function body passes onnx's checker with strict shape inference",
    "plan": "TensorRT's parser takes the node for the plugin, and an engine is built",
    "registry": "NVIDIA's own registry loads the library and makes the plugin in both phases",
    "executed": "it was executed on a device",
    "float64": "it was executed, and its results were compared with an evaluation in float64",
    "end to end": "whole exported models with it ran, and gave what the original gives",
}
"""From little to much."""

RUNTIMES = {
    "onnxruntime": "onnxruntime, CPU",
    "onnxruntime-cuda": "onnxruntime, CUDA",
    "registry": "TensorRT's registry, CPU",
    "rtx": "TensorRT-RTX, built on a CPU",
    "kernels": "kernels through the launcher",
    "plugin": "plugin library without TensorRT",
}

MASKS = ("", "BooleanMask", "AdditiveMask")

Entry = dict[str, Any]


def families() -> dict[str, list[str]]:
    """Op_types without their masks, and the members of each."""
    from alibi_rewriter.fused.family import FAMILY_MEMBERS

    found: dict[str, list[str]] = {}
    for member in FAMILY_MEMBERS:
        name = member.op_type.removeprefix("AlibiAttention")
        for mask in MASKS[1:]:
            name = name.removesuffix(mask)
        found.setdefault(name, []).append(member.op_type)
    return found


def counted(evidence: Sequence[Entry]) -> list[Entry]:
    """Evidence with equal entries put together and counted."""
    counts: dict[tuple[str, ...], list[str]] = {}
    for one in evidence:
        key = (one["runtime"], one["level"], one["member"], one["where"])
        counts.setdefault(key, []).append(one["what"])
    return [
        {"runtime": runtime, "level": level, "member": member, "where": where, "checks": len(what),
         "models": sorted({w for w in what if w})}
        for (runtime, level, member, where), what in sorted(counts.items())
    ]  # fmt: skip


def merged(record: Entry, evidence: Sequence[Entry], *, add: bool = False) -> Entry:
    """The record with new evidence in place of what it held about the same runtimes and levels, or beside it."""
    held, new = record["counted"], counted(evidence)
    new = _beside(held, new) if add else new
    depth = None if add else 2  # what is replaced: the same member in the same place, or all of a runtime and level
    seen = {_key(entry)[:depth] for entry in new}
    kept = [entry for entry in held if _key(entry)[:depth] not in seen]
    order = list(LEVELS)
    entries = sorted([*kept, *new], key=lambda e: (e["runtime"], order.index(e["level"]), e["member"], e["where"]))
    return {**record, "counted": entries}


def _key(entry: Entry) -> tuple[str, ...]:
    return entry["runtime"], entry["level"], entry["member"], entry["where"]


def _beside(held: Sequence[Entry], new: Sequence[Entry]) -> list[Entry]:
    """The new entries, with the checks and models that were held about the same added to theirs."""
    before = {_key(entry): entry for entry in held}
    found = []
    for entry in new:
        old = before.get(_key(entry), {"checks": 0, "models": []})
        models = sorted({*entry["models"], *old["models"]})
        found.append({**entry, "checks": entry["checks"] + old["checks"], "models": models})
    return found


def page(record: Entry) -> str:
    """The page."""
    lines = ["# What was executed where", "", _introduction(), "", "| level | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in LEVELS.items()]
    used = [name for name in RUNTIMES if any(entry["runtime"] == name for entry in record["counted"])]
    lines += ["", "## Families", "", f"| `AlibiAttention...` | {' | '.join(RUNTIMES[name] for name in used)} |"]
    lines += ["|---|" + "---|" * len(used)]
    for family, members in families().items():
        lines.append(f"| {family} | {' | '.join(_cell(record, runtime, members) for runtime in used)} |")
    lines += [
        "",
        "## Runtimes",
        "",
        "| runtime | level | where | members | checks | models |",
        "|---|---|---|---|---|---|",
    ]
    lines += _rows(record)
    lines += ["", "## What no count says", "", "| what | executed | where |", "|---|---|---|"]
    lines += [f"| {one['what']} | {one['executed']} | {one['where']} |" for one in record["stated"]]
    return "\n".join([*lines, ""])


def _introduction() -> str:
    return """\
Made by `docs/executed.py` from `docs/executed.json`, which tests have written (`tests/evidence.py`). A cell is the
highest level that members of the family have reached in a runtime, and how many of them: each has one member without a
mask, one with a boolean and one with an additive mask. An empty cell: nothing was shown."""


def _cell(record: Entry, runtime: str, members: Sequence[str]) -> str:
    for level in reversed(LEVELS):
        reached = {
            entry["member"]
            for entry in record["counted"]
            if (entry["runtime"], entry["level"]) == (runtime, level) and entry["member"] in members
        }
        if reached:
            return f"{level}, {len(reached)} of {len(members)}"
    return ""


def _rows(record: Entry) -> list[str]:
    rows: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in record["counted"]:
        rows.setdefault((entry["runtime"], entry["level"], entry["where"]), []).append(entry)
    found = []
    for (runtime, level, where), entries in rows.items():
        members = len({entry["member"] for entry in entries})
        models = len({model for entry in entries for model in entry["models"]})
        checks = sum(entry["checks"] for entry in entries)
        found.append(f"| {RUNTIMES[runtime]} | {level} | {where} | {members} | {checks} | {models or ''} |")
    return found


def main(files: Sequence[str]) -> int:
    """Counts the files of evidence, and writes record and page."""
    add, files = files[:1] == ["--add"], [file for file in files if file != "--add"]
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    evidence = [json.loads(line) for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    record = merged(record, evidence, add=add)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    TARGET.write_text(page(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
