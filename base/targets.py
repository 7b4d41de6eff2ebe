"""Where an output may go, and who may read it.

Outputs get their name by a rename, which replaces whatever has that name, as root even a device.  So only a regular
file may be replaced.  That is checked before anything is done and again at the rename.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from .errors import UsageError

STANDARD_OUTPUT = Path("-")
"""Means standard output for outputs that are text."""

_KINDS = (
    (stat.S_ISLNK, "a symbolic link", "Give the file that it points to, or remove the link."),
    (stat.S_ISFIFO, "a pipe", ""),
    (stat.S_ISSOCK, "a socket", ""),
    (stat.S_ISCHR, "a device", ""),
    (stat.S_ISBLK, "a device", ""),
)
_READ_WRITE = 0o666


def check_place(target: Path, option: str, *, text: bool = False) -> None:
    """Whether a file can be written there, as far as that can be said before it is.

    Args:
        target: The file.
        option: What chose it, for the message.
        text: It is text, for which ``-`` means standard output.

    Raises:
        UsageError: Something else than a regular file is there, or the folder is missing or cannot be written.
    """
    if target == STANDARD_OUTPUT:
        if text:
            return
        raise UsageError(f"{option} -: only text goes to standard output. For a file of that name give ./-")
    try:
        here = target.parent.is_dir()
        usable = here and os.access(target.parent, os.W_OK | os.X_OK)
        if not here:
            raise UsageError(
                f"the folder '{target.parent}' of {option} '{target}' does not exist. Make it, or choose another "
                f"{option}."
            )
        refuse_special(target, option)
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror}. Choose another {option}.") from error
    if not usable:
        raise UsageError(
            f"'{target}' cannot be written there: its folder allows no new files. Choose another {option}."
        )


def refuse_special(target: Path, option: str) -> None:
    """Refuse a name that belongs to something else than a regular file.

    Raises:
        UsageError: It does.
        OSError: That cannot be found out.
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"{option} '{target}' is a folder. Give a file name with {option}.")
    kind, cure = next(((word, cure) for test, word, cure in _KINDS if test(mode)), ("something else than a file", ""))
    raise UsageError(
        f"{option} '{target}' is {kind}, which a file would replace. {cure or f'Choose another {option}.'}"
    )


def same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file, or will be."""
    try:
        return one.resolve() == other.resolve() or one.samefile(other)
    except OSError:  # one is not there yet, or may not be looked at
        return False


def put(made: Path, target: Path, option: str, like: Path | None = None) -> None:
    """Give a finished file its name and its mode, in one step.

    Args:
        made: The file, on the same file system.
        target: Its name.
        option: What chose it, for the message.
        like: What it was made from.

    Raises:
        UsageError: Something else than a regular file has the name by now.
        OSError: It cannot be done.
    """
    refuse_special(target, option)
    made.chmod(file_mode(target, like))
    os.replace(made, target)


def file_mode(target: Path, like: Path | None = None) -> int:
    """Who may read and write a file: as before if it is there, else as many as the umask and its origin allow.

    Args:
        target: The file.
        like: What it is made from.  What is made from a private file is private.
    """
    with contextlib.suppress(OSError):
        found = target.lstat()
        if stat.S_ISREG(found.st_mode):
            return stat.S_IMODE(found.st_mode) & 0o777
    allowed = _READ_WRITE
    if like is not None:
        with contextlib.suppress(OSError):
            allowed &= like.stat().st_mode
    return allowed & ~umask() | stat.S_IRUSR | stat.S_IWUSR


def umask() -> int:
    """The process's umask; asked for without changing it where the system tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    found = os.umask(0o077)
    os.umask(found)
    return found


def inside(folder: Path, model: Path) -> Path:
    """Where a rewritten model goes in a folder if no name is given for it."""
    return folder / f"{model.stem}.alibi.onnx"


def is_folder(path: Path) -> bool:
    """Whether a path is a folder.  One that cannot be looked at is not, and is refused where it is used."""
    try:
        return path.is_dir()
    except OSError:
        return False
