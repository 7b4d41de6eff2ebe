"""A refused bias beside the closest slope times distance, along the row where they are farthest apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markup import details, esc, svg, table, text

Record = Mapping[str, Any]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640.0, 220.0, 64.0, 16.0, 12.0, 172.0


def misfit(example: Record) -> str:
    """A chart and its numbers; empty where the report has no row."""
    keys, added, closest = (example.get(name) or [] for name in ("keys", "added", "closest"))
    shown = [v for v in (*added, *closest) if v is not None]
    if len(keys) < 2 or not shown:
        return ""
    index = example["index"]
    words = (
        f"query row {esc(index[2])}, head {esc(index[1])}: <span class='key-original'>●</span> what the model adds, "
        f"<span class='key-rewritten'>━</span> the closest slope times distance (slope {float(example['slope']):.4g}); "
        f"they are farthest apart at key {esc(index[3])}"
    )
    rows = [
        [esc(k), "hidden" if a is None else f"{float(a):.6g}", f"{float(c):.6g}"]
        for k, a, c in zip(keys, added, closest, strict=True)
    ]
    numbers = details("as a table", table(["key", "added", "closest"], rows, "numbers"))
    return f"<figure>{_chart(example, keys, added, closest, shown)}<figcaption>{words}</figcaption></figure>{numbers}"


def _chart(
    example: Record, keys: list[int], added: list[float | None], closest: list[float], shown: list[float]
) -> str:
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0

    def x(key: float) -> float:
        return LEFT + (key - keys[0]) / (keys[-1] - keys[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return BOTTOM - (value - low) / span * (BOTTOM - TOP)

    parts = []
    for level in (low, (low + high) / 2, high):
        parts.append(
            f"<line x1='{LEFT:g}' y1='{y(level):.1f}' x2='{WIDTH - RIGHT:g}' y2='{y(level):.1f}' class='grid'/>"
        )
        parts.append(text(LEFT - 6, y(level) + 4, f"{level:.4g}", "tick", "end"))
    for key in keys[:: max(1, len(keys) // 8)]:
        parts.append(text(x(key), BOTTOM + 18, key, "tick", "middle"))
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 6, "key", "tick", "middle"))
    path = "M" + "L".join(f"{x(k):.1f} {y(c):.1f}" for k, c in zip(keys, closest, strict=True))
    parts.append(f"<path d='{path}' class='curve rewritten'/>")
    seen = [(key, value) for key, value in zip(keys, added, strict=True) if value is not None]
    for key, value in seen:
        title = f"<title>key {esc(key)}: {value:.6g}</title>"
        parts.append(f"<circle cx='{x(key):.1f}' cy='{y(value):.1f}' r='3.5' class='original'>{title}</circle>")
    worst = example["index"][3]
    if worst in keys:
        place = f"cx='{x(worst):.1f}' cy='{y(float(example['value'])):.1f}'"
        parts.append(f"<circle {place} r='8' class='ring'/>")
    return svg(WIDTH, HEIGHT, "".join(parts), "the bias of one row and the closest line", "chart")
