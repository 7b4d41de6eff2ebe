"""Where the process starts: Ctrl-C ends it with one line from the first moment on."""

from __future__ import annotations

from .base.interrupts import end_at_once


def main() -> int:
    """The program ``rewrite``; returns the exit status."""
    end_at_once()
    from .cli import main as command

    return command()
