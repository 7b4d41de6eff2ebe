"""A progress line on stderr for what takes long, on a terminal only.

A thread of its own draws it, so that work that reports nothing for a while (onnxruntime running a model) is still seen
to go on.  It has no colours that NO_COLOR could turn off.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from types import TracebackType
from typing import TextIO

DELAY = 2.0
"""Seconds before anything is drawn."""

INTERVAL = 0.2
"""Seconds between two drawings."""


class ProgressBar:
    """A context manager whose ``update`` is called with (phase, work done, work in all).

    Args:
        stream: Where to draw; nothing is drawn unless it is a terminal that can move its cursor.
        delay: Seconds of silence at the start.
    """

    def __init__(self, stream: TextIO, delay: float = DELAY) -> None:
        self._stream = stream
        self._delay = delay
        self._state = ("", 0, 0)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._drawn = False

    def __enter__(self) -> ProgressBar:
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._thread = threading.Thread(target=self._draw_until_stopped, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._drawn:
            self._write("\r\x1b[K")

    def update(self, phase: str, done: int, whole: int) -> None:
        """What is going on; ``whole`` is 0 where the amount of work is unknown."""
        self._state = (phase, done, whole)

    def _draw_until_stopped(self) -> None:
        start = time.monotonic()
        self._stop.wait(self._delay)
        while not self._stop.is_set():
            width = shutil.get_terminal_size().columns
            self._write("\r" + line(*self._state, time.monotonic() - start, width) + "\x1b[K")
            self._drawn = True
            self._stop.wait(INTERVAL)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # The terminal is gone.  The work goes on.
            self._stop.set()


def line(phase: str, done: int, whole: int, seconds: float, width: int) -> str:
    """One line of at most ``width - 1`` characters: phase, bar, share and time."""
    clock = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    text = f"{phase:<20} {clock}"
    if whole > 0:
        share = min(1.0, done / whole)
        size = max(0, min(30, width - len(text) - 10))
        filled = int(share * size)
        text = f"{phase:<20} [{'#' * filled}{'.' * (size - filled)}] {int(100 * share):3d} % {clock}"
    return text[: max(0, width - 1)]
