"""The progress line: on a terminal and after a while only, and gone at the end."""

from __future__ import annotations

import io
import time

import pytest
from alibi_rewriter.base.progress import ProgressBar, line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_drawn_and_wiped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressBar(stream, delay=0.01) as bar:
        bar.update("copying", 1, 2)
        time.sleep(0.2)
    assert "copying" in stream.getvalue() and "50 %" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_nothing_on_what_is_no_terminal() -> None:
    stream = io.StringIO()
    with ProgressBar(stream, delay=0.0) as bar:
        bar.update("copying", 1, 2)
        time.sleep(0.05)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("term", "delay"), [("dumb", 0.0), ("xterm", 60.0)])
def test_nothing_on_a_dumb_terminal_or_for_short_work(monkeypatch: pytest.MonkeyPatch, term: str, delay: float) -> None:
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    with ProgressBar(stream, delay=delay):
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_a_terminal_that_goes_away_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressBar(stream, delay=0.0) as bar:
        stream.close()
        time.sleep(0.05)
        bar.update("more", 0, 0)


@pytest.mark.parametrize("width", [1, 10, 40, 80, 300])
@pytest.mark.parametrize("whole", [0, 7])
def test_a_line_fits(width: int, whole: int) -> None:
    text = line("verifying", 7, whole, 61.0, width)
    assert len(text) < max(2, width)
    if width >= 80:
        assert "1:01" in text and ("100 %" in text) == bool(whole)
