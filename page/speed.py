"""What `rewrite bench` measured, for reports that have the key ``bench``; every part of it is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .markup import esc, numeral, section, size, svg, table, text

Record = Mapping[str, Any]

NAMES = {"original": "original", "function": "rewritten, no kernels", "kernel": "rewritten, our kernels"}
"""Models by their keys in the report, which are the classes of their bars, too."""

WIDTH, LEFT, ROW, GAP = 640.0, 150.0, 18.0, 14.0


def bench_section(report: Record) -> str:
    """Bars and a table of run times; nothing where nothing was measured."""
    bench = report.get("bench")
    if not isinstance(bench, Mapping) or not bench.get("cases"):
        return ""
    cases = [case for case in bench["cases"] if isinstance(case, Mapping)]
    lead = (
        f"{esc(bench.get('runtime'))}, {esc(bench.get('provider'))}, {esc(bench.get('threads') or 'default')} threads. "
        "Each bar is the median time of one run; the models took turns. Memory is the peak of a process of its own."
    )
    left_out = bench.get("library")
    note = f"<p class='note'>Our kernels are left out: {esc(left_out, 400)}</p>" if left_out else ""
    return section("bench", "Speed on this machine", _chart(cases) + _table(cases) + note, lead)


def _chart(cases: Sequence[Record]) -> str:
    """Bars relative to the original of the same case: lengths differ by orders of magnitude."""
    parts = []
    y = 6.0
    for case in cases:
        results = case.get("results") or {}
        original = (results.get("original") or {}).get("seconds")
        parts.append(text(LEFT - 10, y + ROW * len(results) / 2 + 4, case.get("name"), "label", "end", 24))
        slowest = max([r.get("seconds") or 0.0 for r in results.values()] or [0.0])
        for name, result in results.items():
            parts.append(_bar(name, result, y, original, slowest))
            y += ROW
        y += GAP
    there = dict.fromkeys(name for case in cases for name in case.get("results") or {})
    legend = ", ".join(f"<span class='bar-{esc(name)}'>■</span> {esc(NAMES.get(name, name))}" for name in there)
    drawing = svg(WIDTH, y, "".join(parts), "time of one run by size and model", "chart")
    return f"<figure>{drawing}<figcaption>{legend}</figcaption></figure>"


def _bar(name: str, result: Record, y: float, original: float | None, slowest: float) -> str:
    seconds = result.get("seconds")
    if not seconds or not slowest:
        return text(LEFT, y + 12, f"{NAMES.get(name, name)}: fails", "warn")
    width = max(1.0, seconds / slowest * (WIDTH - LEFT - 190))
    words = duration(seconds)
    if name != "original" and original:
        words += f", {result.get('times_faster') or original / seconds:.2f} times as fast"
    title = f"<title>{esc(NAMES.get(name, name))}: {esc(words)}</title>"
    bar = f"<rect x='{LEFT:g}' y='{y + 2:g}' width='{width:.1f}' height='{ROW - 5:g}' class='{esc(name)}'>"
    return f"{bar}{title}</rect>{text(LEFT + width + 6, y + 13, words, 'tick')}"


def _table(cases: Sequence[Record]) -> str:
    rows = []
    for case in cases:
        for name, result in (case.get("results") or {}).items():
            memory = result.get("device_bytes") or result.get("peak_host_bytes")
            per_second = result.get("tokens_per_second")
            faster = result.get("times_faster")
            rows.append(
                [
                    esc(case.get("name")),
                    esc(NAMES.get(name, name)),
                    esc(
                        duration(result["seconds"]) if result.get("seconds") else result.get("failure") or "fails", 300
                    ),
                    ""
                    if name == "original" or faster is None
                    else f"{faster:.2f}" + (" (noisy)" * bool(result.get("noisy"))),
                    "" if per_second is None else f"{per_second:,.0f}",
                    "" if memory is None else size(float(memory)),
                ]
            )
    return table(["size", "model", "one run", "times faster", "tokens per second", "peak memory"], rows, "numbers")


def duration(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{numeral(seconds)} s"
