"""Hooks of mkdocs: pages that are not in docs/, and links between all of them.

The files of the repository stay what they are: README.md is the home page, SECURITY.md a page, each example one.  Links
lead to pages where there are pages, else to the repository (``ALIBI_REPOSITORY``), else they become plain text.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

TOP = {"README.md": "index.md", "SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md"}
TOP["CHANGELOG.md"] = "changes.md"

LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)#:\s]*)(#[^)\s]*)?\)")
"""A link without an address in front; its text may hold brackets, as slopes[h] does."""


def pages() -> dict[str, str]:
    """Pages of the site by their place in the repository."""
    found = {**TOP, **{f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")}}
    for folder in ("examples", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.md")):
            place = path.relative_to(ROOT).as_posix()
            found[place] = re.sub(r"README\.md$", "index.md", place)
    return found


def on_files(files: Files, config: Any) -> Files:
    """Adds what is not in docs/."""
    for place, page in pages().items():
        if not place.startswith("docs/"):
            text = (ROOT / place).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=linked(place, text)))
    picture = (ROOT / "docs").glob("*.svg")
    # README.md names pictures by docs/NAME; so the site has them at both places.
    for path in picture:
        files.append(File.generated(config, f"docs/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of pages in docs/."""
    place = f"docs/{page.file.src_uri}"
    return linked(place, markdown) if (ROOT / place).is_file() else markdown


def linked(place: str, text: str) -> str:
    """A page with links that fit the site.

    Args:
        place: Where the page lies in the repository.
        text: Its Markdown.
    """
    known = pages()
    here = posixpath.dirname(known[place])

    def replaced(found: re.Match[str]) -> str:
        picture, words, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or picture:
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        if there in known:
            return f"[{words}]({posixpath.relpath(known[there], here or '.')}{anchor})"
        if there.startswith("docs/") and there.endswith(".schema.json"):
            return found[0]
        address = os.environ.get("ALIBI_REPOSITORY", "").rstrip("/")
        return f"[{words}]({address}/blob/main/{there})" if address else words

    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts)
