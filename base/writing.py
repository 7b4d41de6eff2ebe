"""Writing one file: completely under its name, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UsageError
from .hidden import make_file, remove_leftovers
from .targets import put


def write_file(target: Path, content: bytes, option: str, like: Path | None = None) -> None:
    """Write a file beside nothing half-written.

    Args:
        target: Where to.  What an earlier run that was killed left beside it is removed.
        content: What.
        option: The option that chose the target, for the message.
        like: What it is made from; the file is readable for the same users.

    Raises:
        UsageError: It cannot be written, or something else than a regular file has that name.
    """
    try:
        remove_leftovers(target)
        hidden = make_file(target)
        try:
            with hidden.path.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            put(hidden.path, target, option, like)
        finally:
            hidden.remove()
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror}. Choose another {option}.") from error


def write_text(target: Path, text: str, option: str, like: Path | None = None) -> None:
    """Write a report.  Names in it may hold bytes that are not UTF-8, as file systems allow.

    Args:
        target: As for :func:`write_file`.
        text: What.
        option: The option that chose the target.
        like: What it is made from.

    Raises:
        UsageError: It cannot be written.
    """
    write_file(target, text.encode("utf-8", "backslashreplace"), option, like)
