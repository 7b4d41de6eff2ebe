"""Where the process starts: Ctrl-C ends it with one line from the first moment on.

Importing what the tool needs takes a while, and an interrupt in the middle of it surfaces as a traceback or as an
``ImportError`` of a library.  Until something can have been written, the process ends on the spot instead.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count: 128 and the signal."""


def main() -> int:
    """The program ``rewrite``; returns the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
        signal.signal(signal.SIGINT, _at_once)
    from .cli import main as command

    return command()


def interruptible() -> None:
    """From here on an interrupt is an exception, which unwinds and cleans up."""
    if signal.getsignal(signal.SIGINT) is _at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _at_once(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted; nothing was written\n")
    os._exit(INTERRUPTED)
