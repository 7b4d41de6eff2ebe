"""Charts: slopes, errors, precision and memory.  Numbers are in tables and titles as well."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .markup import esc, middle, numeral, size, svg, text

WIDTH = 640.0
LEFT, RIGHT = 56.0, 16.0


def _line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    return f"<line x1='{x0:.1f}' y1='{y0:.1f}' x2='{x1:.1f}' y2='{y1:.1f}' class='{kind}'/>"


def _dot(x: float, y: float, kind: str, title: str, radius: float = 4.5) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' class='{kind}'><title>{esc(title, 300)}</title></circle>"


def _power(value: int) -> str:
    return {0: "1", 1: "10"}.get(value, f"1e{value}")


def slopes_chart(own: Sequence[float], standard: Sequence[float]) -> str:
    """Slopes per head on a scale of powers of two, beside the standard geometric ones."""
    height, bottom = 240.0, 204.0
    found = [abs(v) for v in (*own, *standard) if v]
    low = math.floor(math.log2(min(found)))
    high = math.ceil(math.log2(max(found)))
    high = max(high, low + 1)
    step = max(1, math.ceil((high - low) / 6))

    def y(value: float) -> float:
        return 20 + (high - math.log2(abs(value))) / (high - low) * (bottom - 36)

    def x(head: int) -> float:
        return LEFT + (head + 0.5) * (WIDTH - LEFT - RIGHT) / len(own)

    parts = []
    for power in range(low, high + 1, step):
        parts.append(_line(LEFT, y(2.0**power), WIDTH - RIGHT, y(2.0**power), "grid"))
        parts.append(text(LEFT - 6, y(2.0**power) + 4, f"2^{power}", "tick", "end"))
    every = max(1, math.ceil(len(own) / 16))
    for head, (value, wanted) in enumerate(zip(own, standard, strict=True)):
        if head % every == 0:
            parts.append(text(x(head), bottom + 18, head, "tick", "middle"))
        parts.append(_dot(x(head), y(wanted), "ring", f"head {head}: standard {wanted:.6g}", 8))
        if value:
            parts.append(_dot(x(head), y(value), "rewritten", f"head {head}: {value:.6g}"))
    parts.append(text((LEFT + WIDTH) / 2, height - 2, "head", "tick", "middle"))
    return svg(WIDTH, height, "".join(parts), "slopes per head", "chart")


def _decades(low: int, high: int, bottom: float, start: float = LEFT) -> tuple[list[str], float]:
    unit = (WIDTH - start - RIGHT) / (high - low)
    parts = []
    step = max(1, math.ceil((high - low) / 7))
    for power in range(low, high + 1, step):
        x = start + (power - low) * unit
        parts.append(_line(x, 8, x, bottom, "grid"))
        parts.append(text(x, bottom + 16, _power(power), "tick", "middle"))
    return parts, unit


def errors_chart(outputs: Sequence[tuple[str, Sequence[tuple[str, float, float]]]]) -> str:
    """Errors per output, in units of their tolerance, on a log scale.

    Args:
        outputs: Per output its name and (input set, error, limit).
    """
    start, low, high, row = 150.0, -5, 1, 30.0
    bottom = 14 + row * len(outputs)
    parts, unit = _decades(low, high, bottom, start)
    limit = start - low * unit
    parts.append(_line(limit, 4, limit, bottom, "limit"))
    parts.append(text(limit - 4, bottom + 32, "tolerance", "warn", "middle"))
    for k, (name, sets) in enumerate(outputs):
        y = 14 + row * (k + 0.5)
        parts.append(text(start - 10, y + 4, middle(name, 20), "label", "end"))
        for where, error, bound in sets:
            share = error / bound if bound else math.inf
            place = math.log10(share) if share > 0 else low
            x = start + (min(high, max(low, place)) - low) * unit
            kind = "rewritten" if share <= 1 else "bad"
            parts.append(_dot(x, y, kind, f"{name}, {where}: error {numeral(error)}, tolerance {numeral(bound)}"))
    return svg(WIDTH, bottom + 40, "".join(parts), "errors in units of their tolerance", "chart")


def precision_chart(outputs: Sequence[tuple[str, float | None, float | None]]) -> str:
    """Original and rewritten, each against the float32 original, relative errors on a log scale."""
    found = [v for _, a, b in outputs for v in (a, b) if v]
    if not found:
        return ""
    start, row = 150.0, 34.0
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    high = max(high, low + 1)
    bottom = 14 + row * len(outputs)
    parts, unit = _decades(low, high, bottom, start)
    for k, (name, original, rewritten) in enumerate(outputs):
        y = 14 + row * (k + 0.5)
        parts.append(text(start - 10, y + 4, middle(name, 20), "label", "end"))
        ends = []
        for kind, value in (("original", original), ("rewritten", rewritten)):
            if value is None:
                continue
            x = start + ((math.log10(value) if value else low) - low) * unit
            ends.append((x, kind, value))
        if len(ends) == 2:
            parts.append(_line(ends[0][0], y, ends[1][0], y, "link"))
        for x, kind, value in ends:
            shape, radius = ("ring", 8.0) if kind == "original" else ("rewritten", 4.5)  # equal ones stay visible
            parts.append(_dot(x, y, shape, f"{name}: {kind} {numeral(value)}", radius))
    parts.append(text((start + WIDTH) / 2, bottom + 34, "largest relative error", "tick", "middle"))
    return svg(WIDTH, bottom + 40, "".join(parts), "16-bit errors of original and rewritten", "chart")


def memory_chart(lengths: Sequence[int], before: Sequence[int | None], after: Sequence[int | None]) -> str:
    """Bytes over the sequence length, both on log scales."""
    height, bottom = 260.0, 222.0
    lines = [("original", before), ("rewritten", after)]
    found = [v for _, values in lines for v in values if v]
    low = math.floor(math.log2(min(found)) / 4) * 4
    high = max(low + 4, math.ceil(math.log2(max(found)) / 4) * 4)
    step = 4 if high - low <= 28 else 8

    def x(length: int) -> float:
        span = math.log2(lengths[-1]) - math.log2(lengths[0])
        return LEFT + 14 + (math.log2(length) - math.log2(lengths[0])) / span * (WIDTH - LEFT - RIGHT - 110)

    def y(value: float) -> float:
        return 14 + (high - math.log2(value)) / (high - low) * (bottom - 14)

    parts = []
    for power in range(low, high + 1, step):
        parts.append(_line(LEFT + 14, y(2.0**power), x(lengths[-1]), y(2.0**power), "grid"))
        parts.append(text(LEFT + 8, y(2.0**power) + 4, size(2.0**power), "tick", "end"))
    for length in lengths[::2]:
        parts.append(text(x(length), bottom + 18, length, "tick", "middle"))
    parts.append(text((LEFT + x(lengths[-1])) / 2, height - 4, "sequence length", "tick", "middle"))
    for kind, values in lines:
        points = [(x(n), y(v), n, v) for n, v in zip(lengths, values, strict=True) if v]
        if not points:
            continue
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b, _, _ in points)
        parts.append(f"<path d='{path}' class='curve {kind}'/>")
        parts.extend(_dot(a, b, kind, f"{kind}, {n} tokens: {size(v)}", 3.5) for a, b, n, v in points)
        parts.append(text(points[-1][0] + 10, points[-1][1] + 4, kind, f"name {kind}"))
    return svg(WIDTH, height, "".join(parts), "memory of the bias over the sequence length", "chart")
