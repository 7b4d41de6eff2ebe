"""Draw docs/before-after.svg: one attention of a Jina-BERT export before and after, from the model itself.

    python docs/picture.py

The drawing is the one of ``rewrite --report``; a test checks that the file is up to date.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from alibi_rewriter import Options, rewrite
from alibi_rewriter.explain import Look, page_facts
from alibi_rewriter.page.drawing import draw
from alibi_rewriter.rewriter.report import to_json

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "tests" / "data" / "jina__v2_sdpa_dynamo18_dyn.onnx"
TARGET = ROOT / "docs" / "before-after.svg"

GAP, CAPTION = 40, 30


def picture() -> str:
    """The picture as SVG text, for light and dark."""
    result = rewrite(MODEL, options=Options(dry_run=True))
    look, report = Look(result), to_json(result)
    page_facts(look, report)
    pictures = report["pictures"]
    assert isinstance(pictures, dict)
    bindings = next(s.binding for s in look.sites if s.binding is not None).proof.attention
    roles = {bindings.query.tensor: "query", bindings.key.tensor: "key", bindings.value.tensor: "value"}
    parts, left, height = [], 0.0, 0.0
    for when in ("before", "after"):
        drawing, width, _ = draw(pictures[when], when, roles)
        own = float(re.search(r" height='([\d.]+)'", drawing).group(1))  # type: ignore[union-attr]
        body = re.sub(r"<title>.*?</title>", "", re.sub(r"^<svg[^>]*>|</svg>$", "", drawing), flags=re.DOTALL)
        nodes = pictures[when]["nodes"]
        words = f"{when}: {len(nodes)} nodes" + (", one of them fused" if when == "after" else "")
        parts.append(
            f"<g transform='translate({left:.1f} {CAPTION})'>{body}</g>"
            f"<text class='caption' x='{left + width / 2:.1f}' y='20' text-anchor='middle'>{words}</text>"
        )
        left, height = left + width + GAP, max(height, own + CAPTION)
    style = resources.files("alibi_rewriter.page").joinpath("style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[:2]
    rules = "".join(re.findall(r"^(?:\.box|\.edge|svg text)[ .:].*$", style, flags=re.MULTILINE))
    css = f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}{rules}"
    css += "text{font-family:system-ui,sans-serif}svg .caption{font-size:15px;font-weight:600}"
    css = re.sub(r"\s+", " ", css)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {left - GAP:.0f} {height:.0f}' "
        f"width='{left - GAP:.0f}' height='{height:.0f}'><style>{css}</style>"
        f"<rect width='100%' height='100%' rx='8' fill='var(--panel)'/>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    TARGET.write_text(picture(), encoding="utf-8")
