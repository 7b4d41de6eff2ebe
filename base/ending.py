"""How a run ends.  What was written is looked up and not remembered, and what cannot be said is an error, too."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

Identity = tuple[int, int, int]


class Outputs:
    """The files that a run may write.

    The file system says whether one was written.  A file that got its name has another number or time than what was
    there before.  So the answer is right wherever a run was interrupted.
    """

    def __init__(self) -> None:
        self._before: dict[Path, Identity | None] = {}
        self._folders: dict[Path, Mapping[Path, Identity | None]] = {}

    def expect(self, *places: Path) -> None:
        """Files that may come, as they are now."""
        for place in places:
            self._before.setdefault(place, _identity(place))

    def expect_in(self, folder: Path) -> None:
        """A folder in which files may come."""
        self._folders[folder] = _content(folder)

    def written(self) -> list[Path]:
        """What was written since."""
        found = [place for place, before in self._before.items() if _identity(place) not in (None, before)]
        found += [folder for folder, before in self._folders.items() if _content(folder) != before]
        return found

    def state(self) -> str:
        """In words: ``nothing was written``, or what was."""
        found = [str(place) for place in self.written()]
        return f"written: {', '.join(found)}" if found else "nothing was written"


def _identity(place: Path) -> Identity | None:
    try:
        found = place.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _content(folder: Path) -> dict[Path, Identity | None]:
    try:
        return {place: _identity(place) for place in folder.iterdir() if not place.name.startswith(".")}
    except OSError:
        return {}


def printable(text: str) -> str:
    """Names come from files.  What is not a character, and what drives a terminal, is spelled out."""
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\x{code:02x}"


def complain(text: str) -> None:
    """A line on standard error.  Without that stream the line is dropped."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()


def show(text: str, *, raw: bool = False) -> str | None:
    """Text on standard output.

    Args:
        text: What to show.
        raw: As it is, in UTF-8, without a line feed behind it.

    Returns:
        Why it could not be shown; None if it was, or if its reader has gone.
    """
    stream = sys.stdout
    if stream is None:
        return "standard output is closed"
    encoding = "utf-8" if raw else getattr(stream, "encoding", None) or "utf-8"
    try:
        # Names may hold what the terminal cannot write.
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + ("" if raw else "\n"))
        stream.flush()
    except BrokenPipeError:
        # The work is done, and the exit code says how it went.
        _give_up(stream.fileno())
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        with contextlib.suppress(OSError, ValueError):
            _give_up(stream.fileno())
        return f"standard output cannot be written: {reason}"
    return None


def _give_up(handle: int) -> None:
    """What is still in a buffer goes nowhere, so that the end of the process does not fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, handle)
    os.close(nowhere)


def settle_streams() -> None:
    """Give standard input, output and error their numbers, if the shell closed one of them.

    Otherwise the next file that is opened gets its number, and what a library prints lands in a model.
    """
    for handle in (0, 1, 2):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process lives


def leave() -> None:
    """At the end of the process.  A full standard error does not change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                _give_up(stream.fileno())
