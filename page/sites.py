"""Sections about sites: the drawing of one, the proof or refusal of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .drawing import draw
from .markup import code, details, esc, section, table

Record = Mapping[str, Any]

MOST_SITES = 150
"""Sites that are explained in full; the rest gets a line each, so that the page stays small."""

MOST_LINES = 600


def drawing_section(report: Record) -> str:
    """One site before and after."""
    pictures = report.get("pictures")
    if not isinstance(pictures, Mapping):
        return section("drawing", "Before and after", "<p>There is no attention to draw.</p>")
    figures = []
    hidden = 0
    for when in ("before", "after"):
        graph = pictures.get(when)
        if graph is None:
            continue
        drawing, width, plumbing = draw(graph, f"the site {when}", _roles(report, str(pictures["site"])))
        hidden += plumbing
        nodes = len(graph["nodes"])
        fused = [str(n["op"]) for n in graph["nodes"] if n["domain"] == "alibi"]
        words = f"{when}: {nodes} node{'s' if nodes != 1 else ''}" + (
            f", one of them {code(fused[0])}" if fused else ""
        )
        figures.append(
            f"<figure style='flex-basis:{width + 20:.0f}px'><div class='scroll'>{drawing}</div>"
            f"<figcaption>{words}</figcaption></figure>"
        )
    if not figures:
        return section("drawing", "Before and after", "<p>The site has too many nodes to be drawn.</p>")
    lead = (
        f"Site {code(pictures['site'])}. Dashed: tensors from outside; blue: products and softmax. Hover over a box or "
        "an edge for names and shapes. Chains of movement are one box"
        + (f"; {hidden} nodes that only compute shapes are not drawn." if hidden else ".")
    )
    return section("drawing", "Before and after", f"<div class='pair'>{''.join(figures)}</div>", lead)


def _roles(report: Record, name: str) -> dict[str, str]:
    """What the operands of a site are, by tensor."""
    sites: list[Record] = list(report.get("sites") or [])
    site: Record = next((s for s in sites if s.get("id") == name), {})
    bindings = (site.get("proof") or {}).get("bindings") or {}
    return {bindings[role]: role for role in ("query", "key", "value") if role in bindings}


def sites_section(report: Record) -> str:
    """Every site with its proof or refusal."""
    sites = list(report.get("sites") or [])
    parts = [_site(s, opened=k == 0) for k, s in enumerate(sites[:MOST_SITES])]
    rest = [[code(s["id"]), esc(s["verdict"])] for s in sites[MOST_SITES:MOST_LINES]]
    if rest:
        parts.append(table(["site", "verdict"], rest))
    if len(sites) > MOST_LINES:
        parts.append(f"<p>{len(sites) - MOST_LINES} more sites are in the JSON report.</p>")
    return section("sites", "Sites and proofs", "".join(parts) or "<p>No attention was found.</p>")


def _site(site: Record, *, opened: bool) -> str:
    verdict = str(site.get("verdict"))
    kind = {"rewritten": "good", "proven": "good"}.get(verdict, "warning")
    anchor = site.get("anchor") or {}
    head = f"{code(site['id'])} <span class='{kind}'>{esc(verdict)}</span> "
    head += f"<span class='note'>{esc(anchor.get('op_type'))}</span>"
    body = ""
    explanation = site.get("explanation") or {}
    formula = explanation.get("formula") or []
    if formula:
        body += "<pre>" + "\n".join(esc(line, 500) for line in formula) + "</pre>"
    body += _refusal(site.get("refusal"), explanation.get("stop"))
    steps = explanation.get("steps") or []
    if steps:
        rows = [[esc(s["about"]), esc(s["claim"], 400), "<br>".join(map(_place, s["rests_on"]))] for s in steps]
        body += table(["", "proven", "rests on"], rows, "proof")
    slopes = (site.get("proof") or {}).get("slopes")
    if slopes:
        shown = ", ".join(f"{float(v):.6g}" for v in slopes[:64]) + (", ..." if len(slopes) > 64 else "")
        body += f"<p>slopes: {esc(shown, 1200)} ({esc(explanation.get('slopes_are') or '')})</p>"
    node = site.get("node") or {}
    if node:
        attributes = ", ".join(f"{k} = {v}" for k, v in (node.get("attributes") or {}).items())
        body += f"<p>fused node: {code('alibi::' + str(node.get('op_type')))} {esc(attributes, 400)}</p>"
    return details(head, body or "<p>Nothing more is known.</p>", opened)


def _refusal(refusal: Record | None, stop: Record | None) -> str:
    if not refusal:
        return ""
    rows = [["refused", f"{code(refusal['code'])} {esc(refusal['title'])}: {esc(refusal['meaning'], 400)}"]]
    if stop:
        rows.append(["furthest stage", f"{esc(stop['number'])} of {esc(stop['stages'])}: {esc(stop['doing'])}"])
        rows.append(["stopped at", f"{_place(stop['place'])}, tensor {code(stop['tensor'])}"])
    elif refusal.get("node"):
        rows.append(["stopped at", code(refusal["node"])])
    if refusal.get("detail"):
        rows.append(["found", code(refusal["detail"], 600)])
    example = (stop or {}).get("counterexample")
    if example:
        place = ", ".join(f"{n}={x}" for n, x in zip("bhij", example["index"], strict=True))
        rows.append(
            [
                "for instance",
                f"at [{esc(place)}] {float(example['value']):.6g} is added relative to the row's own key; the closest "
                f"slope times distance is {float(example['expected']):.6g}",
            ]
        )
    rows.append(["what to do", esc(refusal.get("remedy"), 400)])
    return table(["", ""], rows, "proof")


def _place(place: Record) -> str:
    if place.get("kind") == "node":
        return f"{esc(place.get('op_type'))} {code(place.get('node'))}"
    return f"{esc(place.get('kind'))} {code(place.get('tensor'))}"
