"""The page: sections in the order in which one asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from .engine import engine_section
from .evidence import bias_section, memory_section, precision_section, slopes_section, verification_section
from .headline import headline
from .markup import code, details, esc, section, table
from .sites import drawing_section, sites_section
from .speed import bench_section

Record = Mapping[str, Any]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page asks for nothing: no script, no picture, no font, no address."""


def to_html(report: Record) -> str:
    """The report as a page.

    Args:
        report: The JSON report, with ``explanation`` at its sites and with ``pictures``; all of it is optional.
    """
    name = (report.get("input") or {}).get("path") or "model"
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    measured = [
        slopes_section(report),
        bias_section(report),
        verification_section(report),
        precision_section(report),
        memory_section(report),
        engine_section(report),
        bench_section(report),
    ]
    # Where nothing is proven, the refusals are the news and the measurements are empty.
    refused = bool(report.get("sites")) and not (report.get("census") or {}).get("proven")
    middle = [sites_section(report), *measured] if refused else [*measured, sites_section(report)]
    sections = [drawing_section(report), *middle, _provenance(report)]
    links = "".join(f"<a href='#{s}'>{t}</a>" for s, t in _contents(report))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{esc(name)} - alibi-rewriter</title><style>{style}</style></head><body>"
        f"<header><h1>{esc(name)}</h1>{headline(report)}<nav>{links}</nav></header>"
        f"<main>{_census(report)}{''.join(sections)}</main></body></html>\n"
    )


def _contents(report: Record) -> list[tuple[str, str]]:
    found = [
        ("drawing", "before and after"),
        ("slopes", "slopes"),
        ("bias", "bias"),
        ("verification", "verification"),
        ("precision", "precision"),
        ("memory", "memory"),
    ]
    if report.get("engine"):
        found.append(("engine", "engine"))
    if report.get("bench"):
        found.append(("bench", "speed"))
    return [*found, ("sites", "attentions and proofs"), ("provenance", "files and versions")]


def _census(report: Record) -> str:
    census = report.get("census") or {}
    names = {
        "sites": "attentions",
        "biased": "with a position bias",
        "proven": "proven ALiBi",
        "rewritten": "rewritten",
        "refused": "refused",
    }
    tiles = "".join(f"<li><b>{esc(census.get(k, 0))}</b><span>{w}</span></li>" for k, w in names.items())
    found = report.get("attention_found")
    note = f"<p>{esc(found, 600)}</p>" if found else ""
    return f"<section id='census'><ul class='tiles'>{tiles}</ul>{note}</section>"


def _provenance(report: Record) -> str:
    tool, source, output = report.get("tool") or {}, report.get("input") or {}, report.get("output") or {}
    rows = [
        ["tool", f"{esc(tool.get('name'))} {esc(tool.get('version'))}"],
        ["input", code(source.get("path"))],
        ["input sha256", code(source.get("sha256"))],
        ["producer", esc(source.get("producer"))],
        ["opset", esc(", ".join(f"{k} {v}" for k, v in (source.get("opset") or {}).items()))],
    ]
    if output.get("path"):
        rows += [["output", code(output["path"])], ["output sha256", code(output.get("sha256"))]]
    versions = report.get("versions") or {}
    rows.append(["versions", esc(", ".join(f"{k} {v}" for k, v in versions.items() if v), 400)])
    edits = report.get("edits") or {}
    rows.append(["edits", esc(", ".join(f"{str(k).replace('_', ' ')} {v}" for k, v in edits.items()))])
    rows += [["note", esc(n, 400)] for n in _texts(report.get("notes"))]
    seconds = report.get("timings") or {}
    times = table(["phase", "seconds"], [[esc(k), f"{float(v):.3f}"] for k, v in seconds.items()], "numbers")
    return section(
        "provenance",
        "Files and versions",
        table(["", ""], rows) + (details("time per phase", times) if seconds else ""),
    )


def _texts(value: object) -> Sequence[str]:
    return [str(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
