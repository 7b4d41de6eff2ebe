"""Commands that cure what is missing.  They work wherever this installation came from, a package index or a clone."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from typing import Any

PROJECT = "alibi-rewriter"

REQUIREMENTS = {
    "numpy": "numpy>=1.24",
    "onnx": "onnx>=1.21",
    "onnxruntime": "onnxruntime>=1.20",
    "onnx-ir": "onnx-ir",
    "onnx-graphsurgeon": "onnx-graphsurgeon>=0.5.8",
    "tensorrt": "tensorrt>=10.9",
    "tensorrt-rtx": "tensorrt-rtx-cu13>=1.7",
    "triton": "triton>=3.6,<3.7",
}
"""What is needed of other projects, as ``setup.cfg`` says it (a test compares)."""


def install(name: str) -> str:
    """The command that installs one of ``REQUIREMENTS``.

    It names the other project and no extra of ours, so it also works where ours came from a clone.
    """
    return f"pip install {shlex.quote(REQUIREMENTS[name])}"


def reinstall() -> str:
    """The command that builds and installs this project again, with a compiler that is there now."""
    return f"pip install --force-reinstall --no-deps {_origin()}"


def _origin() -> str:
    """Where pip got this installation, in pip's own words.  It is the name on an index if pip did not note a place."""
    try:
        text = importlib.metadata.distribution(PROJECT).read_text("direct_url.json")
        place: dict[str, Any] = json.loads(text or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return PROJECT
    address = str(place.get("url", ""))
    if not address:
        return PROJECT
    if "vcs_info" in place:
        version = place["vcs_info"]
        return shlex.quote(f"{version['vcs']}+{address}@{version['commit_id']}")
    editable = "-e " if place.get("dir_info", {}).get("editable") else ""
    return editable + shlex.quote(_local(address))


def _local(address: str) -> str:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    parts = urlsplit(address)
    return url2pathname(parts.path) if parts.scheme == "file" else address
