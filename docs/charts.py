"""Draws the pictures of docs/performance.md, and the table of README.md, from the recorded results of benchmarks/.

    python docs/charts.py

Nothing is typed in here: a test checks that pictures and table are what the records say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks"
GPU = RESULTS / "onnxruntime" / "results" / "h200.json"
CPU = RESULTS / "onnxruntime" / "results" / "cpu.md"
KERNELS = RESULTS / "kernels" / "results" / "h100.json"

MODELS = {"bloom": "BLOOM-560m", "mpt": "MPT-7B, a slice", "jina": "Jina-v2-base"}
BEGIN, END = "<!-- gains -->", "<!-- end of gains -->"

WIDTH, LEFT, BAR, GAP = 720, 190, 15, 12


@dataclass(frozen=True)
class Bar:
    """One bar: its class (and colour), its length in units, and what stands behind it."""

    kind: str
    value: float
    words: str


Rows = Sequence[tuple[str, Sequence[Bar]]]


def chart(title: str, rows: Rows, legend: dict[str, str]) -> str:
    """Horizontal bars in groups, for light and dark.

    Args:
        title: What stands above them, and what screen readers say.
        rows: Groups: a label and its bars.
        legend: Words for the kinds of bars.
    """
    longest = max(bar.value for _, bars in rows for bar in bars)
    room = WIDTH - LEFT - 160
    parts, y = [f"<text x='12' y='22' class='title'>{escape(title)}</text>"], 38
    x = 12
    for kind, words in legend.items():
        parts.append(f"<rect x='{x}' y='{y}' width='11' height='11' class='{kind}'/>")
        parts.append(f"<text x='{x + 16}' y='{y + 10}'>{escape(words)}</text>")
        x += 34 + round(6.4 * len(words))
    y += 28
    for label, bars in rows:
        middle = y + len(bars) * BAR / 2 + 4
        parts.append(f"<text x='{LEFT - 10}' y='{middle:g}' text-anchor='end'>{escape(label)}</text>")
        for bar in bars:
            wide = max(1.0, bar.value / longest * room)
            parts.append(f"<rect x='{LEFT}' y='{y}' width='{wide:.1f}' height='{BAR - 3}' class='{bar.kind}'/>")
            parts.append(f"<text x='{LEFT + wide + 6:.1f}' y='{y + 10}' class='soft'>{escape(bar.words)}</text>")
            y += BAR
        y += GAP
    light = (
        "--paper:#fff;--ink:#1b1f24;--soft:#5b6470;--ours:#1b5fc1;--original:#b4540a;--other:#8a94a0;--third:#c9a227"
    )
    dark = (
        "--paper:#14171b;--ink:#e6e9ee;--soft:#9aa4b1;--ours:#74aefc;--original:#f0a35e;--other:#6d7783;--third:#e3c55a"
    )
    rules = "".join(f".{kind}{{fill:var(--{kind})}}" for kind in ("ours", "original", "other", "third"))
    style = (
        f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}{rules}"
        "text{font:12px system-ui,sans-serif;fill:var(--ink)}.soft{fill:var(--soft)}"
        ".title{font-size:14px;font-weight:600}"
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' aria-label='{escape(title, quote=True)}' "
        f"viewBox='0 0 {WIDTH} {y}' width='{WIDTH}' height='{y}'><style>{style}</style>"
        f"<rect width='100%' height='100%' rx='8' fill='var(--paper)'/>{''.join(parts)}</svg>\n"
    )


def gpu() -> dict[str, Any]:
    """The record of onnxruntime on a GPU."""
    found: dict[str, Any] = json.loads(GPU.read_text(encoding="utf-8"))
    return found


def milliseconds(model: str, runner: str, case: str) -> float | None:
    """A median, None where it failed or was not run."""
    value = gpu()["models"][model].get(runner, {}).get("rows", {}).get(case, {}).get("ms")
    return None if value is None else float(value)


def fastest(model: str, case: str) -> float | None:
    """The original at its best: with a CUDA graph where onnxruntime captures it."""
    found = [milliseconds(model, runner, case) for runner in ("original", "original+g")]
    return min((value for value in found if value is not None), default=None)


def onnxruntime_on_a_gpu() -> str:
    """Prefill of one sequence, relative to the original; where that fails there is no bar."""
    rows = []
    for model, name in MODELS.items():
        for length in (512, 2048, 8192):
            case = f"prefill 1 {length}"
            before = fastest(model, case)
            bars = []
            for kind, runner in (("other", "function"), ("ours", "ours+g")):
                value = milliseconds(model, runner, case)
                if value is not None and before is not None:
                    bars.append(Bar(kind, before / value, f"{before / value:.2g} x ({value:.3g} of {before:.3g} ms)"))
                elif value is not None:
                    bars.append(Bar(kind, 0.0, f"{value:.3g} ms, where the original fails"))
            rows.append((f"{name}, {length:,}", bars))
    legend = {"other": "rewritten, nothing registered", "ours": "rewritten, our kernels in a CUDA graph"}
    return chart("Prefill in onnxruntime on an H200, float16: times as fast as the original", rows, legend)


def on_one_core() -> dict[str, dict[int, dict[str, float]]]:
    """The tables of the CPU's record: per table and length, milliseconds by runner; ``0`` holds peak memory in MiB."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for part in re.split(r"^## ", CPU.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, *lines = part.splitlines()
        table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        rows = {
            int(row[0]): {name: float(cell.split()[0]) for name, cell in zip(table[0][1:], row[1:], strict=True)}
            for row in table[2:]
        }
        memory = next(line for line in lines if line.startswith("Peak memory"))
        rows[0] = {name: float(mib) for name, mib in re.findall(r"(\w+) (\d+)(?=,|$)", memory.partition(":")[2])}
        found[title] = rows
    return found


def memory_on_a_cpu() -> str:
    """Peak memory at 8,192 tokens."""
    words = {"attention, encoder": "attention, encoder", "attention, decoder": "attention, decoder"}
    words |= {"model, encoder": "two-layer encoder", "model, decoder": "two-layer decoder"}
    tables = on_one_core()
    rows = []
    for title, label in words.items():
        found = tables[title][0]
        kinds = (("original", "original"), ("other", "openvino"), ("ours", "underflow"))
        rows.append((label, [Bar(k, found[n], f"{found[n]:,.0f} MiB") for k, n in kinds]))
    legend = {"original": "onnxruntime, the original", "other": "OpenVINO, the original", "ours": "our kernels"}
    return chart("Peak memory of a process at 8,192 tokens, on a CPU", rows, legend)


def kernels_alone() -> str:
    """The kernels beside others, prefill."""
    kinds = {
        "ours": "ours",
        "SDPA cuDNN, no bias": "other",
        "FlexAttention ALiBi": "third",
        "SDPA cuDNN, bias tensor": "original",
    }
    rows = []
    for entry in json.loads(KERNELS.read_text(encoding="utf-8"))["prefill"]:
        rate = {row["name"]: row.get("tflops") for row in entry["rows"]}
        bars = [Bar(kind, rate[name], f"{rate[name]:.0f}") for name, kind in kinds.items() if rate.get(name)]
        # Where cuDNN was timed without and with the bias, a row says the most.
        if len(bars) == len(kinds) and entry["shape"].endswith(" bfloat16"):
            rows.append((entry["shape"].removesuffix(" bfloat16"), bars))
    legend = {kind: words.removeprefix("SDPA ") for words, kind in kinds.items()}
    return chart("Attention alone on an H100, bfloat16, TFLOP/s (B H S D)", rows[:10], legend)


def gains() -> str:
    """The table of README.md."""
    lines = ["| | tokens | original | rewritten, our kernels | |", "|---|---|---|---|---|"]
    for model, name in MODELS.items():
        for length in (2048, 8192):
            before = fastest(model, f"prefill 1 {length}")
            after = milliseconds(model, "ours+g", f"prefill 1 {length}")
            assert after is not None
            told = ("fails", "runs") if before is None else (f"{before:.3g} ms", f"**{before / after:.1f} x**")
            lines.append(f"| {name}, H200, float16 | {length:,} | {told[0]} | {after:.3g} ms | {told[1]} |")
    tables = on_one_core()
    encoder = tables["attention, encoder"]
    before, after = encoder[2048]["original"], encoder[2048]["underflow"]
    cell = f"{before:.3g} ms | {after:.3g} ms | **{before / after:.1f} x**"
    lines.append(f"| one attention of an encoder, one CPU core | 2,048 | {cell} |")
    for kind in ("attention, encoder", "model, decoder"):
        memory = tables[kind][0]
        words = {"attention, encoder": "the same, peak memory", "model, decoder": "two-layer decoder, CPU, peak memory"}
        cell = f"{memory['original']:,.0f} MiB | {memory['underflow']:,.0f} MiB"
        lines.append(f"| {words[kind]} | 8,192 | {cell} | **{memory['original'] / memory['underflow']:.0f} x less** |")
    return "\n".join(lines)


def with_gains(readme: str) -> str:
    """README.md with the table."""
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{gains()}\n\n{END}{rest.partition(END)[2]}"


PICTURES = {
    "gains-gpu.svg": onnxruntime_on_a_gpu,
    "gains-memory.svg": memory_on_a_cpu,
    "gains-kernels.svg": kernels_alone,
}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (ROOT / "docs" / name).write_text(draw(), encoding="utf-8")
    (ROOT / "README.md").write_text(with_gains((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
