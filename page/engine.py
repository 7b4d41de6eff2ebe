"""What an engine build found, for reports that have the key ``engine``; every part of it is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markup import code, details, esc, section, size, table

Record = Mapping[str, Any]


def engine_section(report: Record) -> str:
    """Facts and timings of a build; nothing where no engine was built."""
    engine = report.get("engine")
    if not isinstance(engine, Mapping) or not engine:
        return ""
    rows = []
    if engine.get("backend"):
        rows.append(["built with", f"{esc(engine['backend'])} {esc(engine.get('version') or '')}"])
    for key, name in (("strategy", "strategy"),):
        if engine.get(key):
            rows.append([name, esc(engine[key], 400)])
    if engine.get("targets"):
        rows.append(["targets", esc(", ".join(map(str, engine["targets"])), 400)])
    plan = engine.get("plan") or {}
    if plan.get("path"):
        rows.append(["plan", code(plan["path"])])
    if plan.get("bytes") is not None:
        rows.append(["size", size(float(plan["bytes"]))])
    if plan.get("sha256"):
        rows.append(["sha256", code(plan["sha256"])])
    layers = engine.get("plugin_layers") or {}
    if layers:
        found, expected = layers.get("found"), layers.get("expected")
        kind = "good" if found == expected else "bad"
        rows.append(["plugin layers", f"<span class='{kind}'>{esc(found)} of {esc(expected)} expected</span>"])
    if engine.get("embedded"):
        rows.append(["embedded in the plan", esc(", ".join(map(str, engine["embedded"])), 400)])
    if engine.get("accumulation"):
        rows.append(["attention accumulates in", esc(engine["accumulation"], 400)])
    if engine.get("caution"):
        rows.append(["warning", esc(engine["caution"], 400)])
    if engine.get("not_executed"):
        rows.append(["not executed", esc("; ".join(map(str, engine["not_executed"])), 800)])
    body = table(["", ""], rows) if rows else ""
    body += _profiles(engine) + _timings(engine)
    for label, text in (engine.get("load") or {}).items():
        body += details(f"how to load it: {esc(label)}", f"<pre>{esc_block(text)}</pre>", opened=True)
    return section("engine", "Engine", body)


def esc_block(text: object) -> str:
    """A block of code, line by line."""
    return "\n".join(esc(line, 400) for line in str(text).splitlines()[:200])


def _profiles(engine: Record) -> str:
    rows = []
    for number, profile in enumerate(engine.get("profiles") or []):
        for name, shapes in profile.items():
            texts = [esc(" x ".join(map(str, shapes.get(k) or []))) for k in ("min", "opt", "max")]
            rows.append([esc(number), code(name), *texts])
    return table(["profile", "input", "min", "opt", "max"], rows, "numbers") if rows else ""


def _timings(engine: Record) -> str:
    rows = [(str(t.get("name")), float(t.get("milliseconds") or 0.0)) for t in engine.get("timings") or []]
    if not rows:
        return ""
    largest = max(v for _, v in rows) or 1.0
    bars = [
        [
            esc(name),
            f"{value:.3f} ms",
            f"<svg class='bar' viewBox='0 0 200 12' width='200' height='12'>"
            f"<rect class='bias' width='{200 * value / largest:.1f}' height='12'/></svg>",
        ]
        for name, value in rows
    ]
    return table(["measured", "time", ""], bars, "numbers")
