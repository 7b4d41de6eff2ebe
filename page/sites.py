"""Sections about sites: the drawing of one, the proof or refusal of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .drawing import draw, listing
from .headline import WITHOUT_BIAS
from .markup import code, details, esc, section, table
from .misfit import misfit

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
            f"<figure style='flex-basis:{width + 20:.0f}px'><input type='checkbox' id='large-{when}'>"
            f"<label for='large-{when}'>full size</label><div class='scroll'>{drawing}</div>"
            f"<figcaption>{words}</figcaption>{details('its nodes as a list', listing(graph))}</figure>"
        )
    if not figures:
        return section("drawing", "Before and after", "<p>The site has too many nodes to be drawn.</p>")
    lead = (
        f"Attention {code(pictures['site'])}. Dashed: tensors from outside; blue: products and softmax. Names "
        "and shapes are in the list under each drawing, and where a pointer rests. Reshapes and transposes in a row "
        "are one box" + (f"; {hidden} node{'s' * (hidden != 1)} that only compute shapes left out." if hidden else ".")
    )
    return section("drawing", "Before and after", f"<div class='pair'>{''.join(figures)}</div>", lead)


def _roles(report: Record, name: str) -> dict[str, str]:
    """What the operands of a site are, by tensor."""
    sites: list[Record] = list(report.get("sites") or [])
    site: Record = next((s for s in sites if s.get("id") == name), {})
    bindings = (site.get("proof") or {}).get("bindings") or {}
    return {bindings[role]: role for role in ("query", "key", "value") if role in bindings}


def sites_section(report: Record) -> str:
    """Every site with its proof or refusal; those that are the same up to names stand together."""
    sites = list(report.get("sites") or [])
    groups: dict[str, list[Record]] = {}
    for site in sites:
        groups.setdefault(str((site.get("explanation") or {}).get("same_as") or site["id"]), []).append(site)
    alike = list(groups.values())
    parts = [_site(group, opened=k == 0) for k, group in enumerate(alike[:MOST_SITES])]
    rest = [site for group in alike[MOST_SITES:] for site in group]
    if rest:
        lines = [[code(s["id"]), esc(kind_of(s))] for s in rest[:MOST_LINES]]
        parts.append(table(["attention", "verdict"], lines))
    if len(rest) > MOST_LINES:
        parts.append(f"<p>{len(rest) - MOST_LINES} more are in the JSON report.</p>")
    body = _filter(sites) + "".join(parts)
    return section("sites", "Attentions and proofs", body or "<p>No attention was found.</p>")


KINDS = {"rewritten": "good", "proven": "good", "refused": "warning", "no bias": "note"}
"""Verdicts as the page names them, and how each looks."""


def kind_of(site: Record) -> str:
    """The verdict of a site; an attention without a bias is not called refused."""
    refusal = site.get("refusal") or {}
    return "no bias" if refusal.get("code") == WITHOUT_BIAS else str(site.get("verdict"))


def _filter(sites: list[Record]) -> str:
    """Buttons that leave one verdict; they stand before the sites, whose style depends on what is checked."""
    counts = Counter(kind_of(site) for site in sites)
    if len(counts) < 2:
        return ""
    shown = [("all", len(sites)), *((kind, counts[kind]) for kind in KINDS if kind in counts)]
    return "".join(
        f"<input type='radio' name='verdict' id='show-{_class(kind)}'{' checked' * (kind == 'all')}>"
        f"<label for='show-{_class(kind)}'>{kind} ({count})</label>"
        for kind, count in shown
    )


def _class(kind: str) -> str:
    return kind.replace(" ", "-")


def _site(group: list[Record], *, opened: bool) -> str:
    site, others = group[0], group[1:]
    kind = kind_of(site)
    anchor = site.get("anchor") or {}
    head = f"{code(site['id'])} <span class='{KINDS.get(kind, 'warning')}'>{esc(kind)}</span> "
    head += f"<span class='note'>{esc(anchor.get('op_type'))}</span>"
    if others:
        head += f" <b>and {len(others)} more that are the same up to names</b>"
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
    if others:
        names = ", ".join(code(other["id"]) for other in others[:MOST_LINES])
        body += f"<p class='note'>The same, up to names: {names}{', ...' * (len(others) > MOST_LINES)}</p>"
    body = body or "<p>Nothing more is known.</p>"
    return f"<div class='site {_class(kind)}'>{details(head, body, opened)}</div>"


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
    return table(["", ""], rows, "proof") + (misfit(example) if example else "")


def _place(place: Record) -> str:
    if place.get("kind") == "node":
        return f"{esc(place.get('op_type'))} {code(place.get('node'))}"
    return f"{esc(place.get('kind'))} {code(place.get('tensor'))}"
