"""What a terminal gets that a file does not: colours and bars."""

from __future__ import annotations

import os
import re
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}

_VERDICTS = (
    (re.compile(r"^(  )(?=\S.*: not rewritten \[)"), "yellow"),
    (re.compile(r"^NOT written"), "red"),
    (re.compile(r"^verification failed"), "red"),
    (re.compile(r"^(verification passed|wrote )"), "green"),
    (re.compile(r"^  \S+: (causal )?\w+(?=, (\d+ heads|scale))"), "bold"),
    (re.compile(r"^    (formula|proof|slopes per head|furthest stage|stopped at|for instance|what to do)"), "dim"),
)
"""Beginnings of lines and the colour of what they match; text stays text without them."""


def is_lively(stream: TextIO | None) -> bool:
    """Whether colours and bars make sense: a terminal with Unicode, and no wish against them (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream is not None and stream.isatty() and "utf" in (stream.encoding or "utf-8").lower()
    except ValueError:  # closed
        return False


def coloured(text: str) -> str:
    """A report with colours for a terminal; its words stay the same."""
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    for pattern, colour in _VERDICTS:
        match = pattern.match(line)
        if match is not None:
            end = match.end() or len(line)
            if colour in ("yellow", "red"):
                end = len(line)
            return f"\x1b[{_CODES[colour]}m{line[:end]}\x1b[0m{line[end:]}"
    return line
