"""What a run says at its end: what was written is looked up, and what cannot be said is an error."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from alibi_rewriter.base.ending import Outputs, complain, leave, printable, show


def test_what_was_written_is_looked_up(tmp_path: Path) -> None:
    old, new, kept = tmp_path / "old", tmp_path / "new", tmp_path / "kept"
    old.write_text("before")
    kept.write_text("before")
    outputs = Outputs()
    outputs.expect(old, new, kept)
    assert (outputs.written(), outputs.state()) == ([], "nothing was written")
    fresh = tmp_path / ".hidden"
    fresh.write_text("after!")
    fresh.rename(old)
    new.write_text("new")
    assert outputs.written() == [old, new]
    assert outputs.state() == f"written: {old}, {new}"
    outputs.expect(new)
    assert new in outputs.written(), "what a file was before is noted once"


def test_a_file_that_was_removed_was_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("before")
    outputs = Outputs()
    outputs.expect(path)
    path.unlink()
    assert outputs.written() == []


def test_folders_in_which_files_come(tmp_path: Path) -> None:
    outputs = Outputs()
    outputs.expect_in(tmp_path)
    outputs.expect_in(tmp_path / "missing")
    (tmp_path / ".hidden").write_text("of another run")
    assert outputs.written() == []
    (tmp_path / "site.onnx").write_text("new")
    assert outputs.written() == [tmp_path]


@pytest.mark.parametrize(
    ("text", "told"),
    [("plain ü", "plain ü"), ("\x1b[2J", "\\x1b[2J"), ("a\nb\r", "a\\x0ab\\x0d"), (os.fsdecode(b"\xff"), "\\xff")],
)
def test_names_are_spelled_out(text: str, told: str) -> None:
    assert printable(text) == told


def test_a_text_that_a_terminal_cannot_write_is_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert show("slope · distance") is None
    assert stream.buffer.getvalue() == b"slope \\xb7 distance\n"  # type: ignore[attr-defined]


class Full(io.StringIO):
    """A stream on a full disk."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def fileno(self) -> int:
        raise ValueError("no file")


def test_what_cannot_be_shown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    assert show("text") == "standard output cannot be written: No space left on device"
    monkeypatch.setattr(sys, "stdout", None)
    assert show("text") == "standard output is closed"


def test_a_reader_that_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert show("text") is None
        monkeypatch.undo()


def test_complaints_and_the_end_never_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, Full()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        complain("text\x07")
        leave()
    monkeypatch.undo()
