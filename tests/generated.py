"""Files that are made from something else and kept: ``REGENERATE=1 python -m pytest`` writes them anew.

Without the variable a test compares.  The difference is for people to review.
"""

from __future__ import annotations

import os
from pathlib import Path

REGENERATE = bool(os.environ.get("REGENERATE"))


def up_to_date(path: Path, wanted: str) -> bool:
    """Whether the file holds this text; it is written first where the variable says so."""
    if REGENERATE:
        path.write_text(wanted, encoding="utf-8")
    return path.read_text(encoding="utf-8") == wanted
