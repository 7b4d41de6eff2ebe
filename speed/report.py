"""What was measured, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .measure import Row

TITLES = {"original": "original", "function": "rewritten, no kernels", "kernel": "rewritten, our kernels"}


def to_json(rows: Sequence[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """The measurement as plain data.

    Args:
        rows: One per case.
        settings: Provider, threads, versions and the like, as they are.
    """
    return {
        **settings,
        "cases": [
            {
                "name": row.case.name,
                "tokens": row.case.tokens,
                "results": {name: _result(row, name) for name in row.results},
            }
            for row in rows
        ],
    }


def _result(row: Row, name: str) -> dict[str, Any]:
    found = row.results[name]
    per_second = row.case.tokens / found.seconds if row.case.tokens and found.seconds else None
    return {
        "seconds": found.seconds,
        "visits": found.visits,
        "tokens_per_second": per_second,
        "times_faster": row.ratio(name),
        "noisy": row.is_noisy(name),
        "peak_host_bytes": found.host,
        "device_bytes": found.device,
        "claimed": found.claimed,
        "failure": found.failure or None,
        "note": found.note or None,
    }


def to_text(facts: dict[str, Any]) -> str:
    """The JSON of ``to_json`` as lines for people."""
    lines = [
        f"{facts['runtime']}, {facts['provider']}, {facts['threads'] or 'default'} threads; medians, taken in turn"
    ]
    names = list(facts["cases"][0]["results"]) if facts["cases"] else []
    width = max([len(case["name"]) for case in facts["cases"]] + [4])
    lines.append(" ".join([f"  {'size':<{width}}", *(f"{TITLES[n]:>34}" for n in names)]))
    for case in facts["cases"]:
        cells = [f"{_cell(case['results'][n], n):>34}" for n in names]
        lines.append(" ".join([f"  {case['name']:<{width}}", *cells]))
    lines += _notes(facts, names)
    return "\n".join(lines)


def _cell(result: dict[str, Any], name: str) -> str:
    if result["seconds"] is None:
        return "fails"
    memory = result["device_bytes"] or result["peak_host_bytes"]
    words = [duration(result["seconds"])]
    if name != "original" and result["times_faster"] is not None:
        words.append(f"{result['times_faster']:.2f} x" + ("?" if result["noisy"] else ""))
    if memory is not None:
        words.append(f"{memory / 2**20:,.0f} MiB")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _notes(facts: dict[str, Any], names: Sequence[str]) -> list[str]:
    """What a reader has to know beside the figures, each thing once."""
    notes: dict[str, None] = {}
    for case in facts["cases"]:
        for name in names:
            result = case["results"][name]
            if result["failure"]:
                notes[f"{case['name']}, {TITLES[name]}: {result['failure']}"] = None
            if result["note"]:
                notes[f"{TITLES[name]}: {result['note']}"] = None
            if result["noisy"] and name != "original":
                notes["?: the machine is noisy; the quartiles of this ratio are more than 10 % apart"] = None
            if result["claimed"] is not None and result["claimed"] != facts["fused"]:
                notes[f"our kernels run {result['claimed']} of {facts['fused']} fused nodes"] = None
    claims = [case["results"]["kernel"]["claimed"] for case in facts["cases"] if "kernel" in names]
    if claims and all(claimed == facts["fused"] for claimed in claims):
        notes[f"our kernels run all {facts['fused']} fused nodes"] = None
    if "kernel" not in names and facts.get("library"):
        notes[f"our kernels are left out: {facts['library']}"] = None
    return [f"  {note}" for note in notes]
