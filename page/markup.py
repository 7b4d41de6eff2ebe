"""Text into markup, safely: names come from the model file and may be anything."""

from __future__ import annotations

import html
from collections.abc import Sequence

LIMIT = 160
"""Characters of a name; a name of a megabyte would fill the page."""


def esc(text: object, limit: int = LIMIT) -> str:
    """Text for element content and for quoted attributes."""
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text)[: limit + 1])
    if len(plain) > limit:
        plain = plain[: limit - 1] + "…"
    return html.escape(plain, quote=True)


def middle(text: object, limit: int) -> str:
    """A long name without its middle: the ends tell layers apart."""
    plain = str(text)
    head = (limit - 1) // 3
    return plain if len(plain) <= limit else f"{plain[:head]}…{plain[-(limit - 1 - head) :]}"


def code(text: object, limit: int = LIMIT) -> str:
    """Text in a fixed-width face."""
    return f"<code>{esc(text, limit)}</code>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of finished markup, scrollable where it is too wide."""
    heads = "".join(f"<th scope='col'>{h}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table class='{kind}'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def section(name: str, title: str, body: str, lead: str = "") -> str:
    """A section with an anchor."""
    intro = f"<p class='lead'>{lead}</p>" if lead else ""
    return f"<section id='{name}'><h2>{title}</h2>{intro}{body}</section>"


def details(summary: str, body: str, opened: bool = False) -> str:
    """Something to unfold; printed unfolded."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"


def svg(width: float, height: float, body: str, label: str, kind: str = "") -> str:
    """A drawing that shrinks with its column."""
    return (
        f"<svg class='{kind}' role='img' aria-label='{esc(label)}' viewBox='0 0 {width:g} {height:g}' "
        f"width='{width:g}' height='{height:g}'>{body}</svg>"
    )


def text(x: float, y: float, content: object, kind: str = "", anchor: str = "start", limit: int = 60) -> str:
    """Text in a drawing."""
    return f"<text x='{x:g}' y='{y:g}' class='{kind}' text-anchor='{anchor}'>{esc(content, limit)}</text>"


def size(value: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1024
    raise AssertionError  # pragma: no cover


def numeral(value: float) -> str:
    """A measured number in two digits."""
    return "0" if value == 0 else f"{value:.1e}" if not 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"
