"""Ctrl-C ends the process on the spot with one line, until something can have been written.

Importing what the tool needs takes a while, and an interrupt in the middle of it surfaces as a traceback or as an
``ImportError`` of a library.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count: 128 and the signal."""


def end_at_once() -> None:
    """From here on an interrupt ends the process.  One that is ignored, as for a job in the background, stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _at_once)


def interruptible() -> None:
    """From here on an interrupt is an exception, which unwinds and cleans up."""
    if signal.getsignal(signal.SIGINT) is _at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _at_once(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted; nothing was written\n")
    os._exit(INTERRUPTED)
