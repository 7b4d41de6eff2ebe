"""Files and folders that exist only while a run works.  They are hidden and locked, and a next run removes leftovers.

Each lies beside what it will become, under a name that says so and says whose it is:

    .NAME.alibi-PID-START-RANDOM.partial

A leftover is removed only if everything says that it is one: the name, the user, a process that is gone (not another
one with its number, since START tells when it began), and a lock that no process holds.  The lock belongs to the
process, so it goes with it however it ends.  A child that goes on working in a folder is given the lock as well.  Links
are never followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None = importlib.import_module("fcntl") if os.name == "posix" else None
"""Not on Windows, where nothing is locked and leftovers are not removed."""

LONGEST_NAME = 160
"""Bytes of a name that are kept in that of a hidden file; file systems take 255 with what is added."""

_OWNED = re.compile(r"\.alibi-([0-9]+)-([0-9a-f]+)-[0-9a-f]{16}\.partial")


@dataclass(frozen=True)
class Hidden:
    """A hidden file or folder.

    Attributes:
        path: Where it is.
        handle: Open, and locked until it is closed.
    """

    path: Path
    handle: int

    def remove(self) -> None:
        """Remove it, unless it has got another name, and let it go."""
        try:
            if stat.S_ISDIR(os.fstat(self.handle).st_mode):
                shutil.rmtree(self.path, ignore_errors=True)
            else:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self.handle)


def make_file(wanted: Path) -> Hidden:
    """A locked, empty file beside ``wanted``.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        path = _name(wanted)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        made = _locked(path, handle)
        if made is not None:
            return made


def make_folder(wanted: Path) -> Hidden:
    """A locked, empty folder beside ``wanted``.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        path = _name(wanted)
        path.mkdir(0o700)
        made = _locked(path, os.open(path, os.O_RDONLY) if os.name == "posix" else os.open(os.devnull, os.O_RDONLY))
        if made is not None:
            return made


@contextlib.contextmanager
def folder(wanted: Path) -> Iterator[Hidden]:
    """A folder beside ``wanted`` for the time of a block; what runs that were killed left there is removed first.

    Raises:
        OSError: It cannot be made.
    """
    remove_leftovers(wanted)
    made = make_folder(wanted)
    try:
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder among the temporary files, for the time of a block.

    Raises:
        OSError: It cannot be made.
    """
    with scratch_folder() as made:
        yield made.path


def scratch_folder() -> contextlib.AbstractContextManager[Hidden]:
    """Like :func:`scratch`, with the lock: for a child that goes on working there."""
    return folder(Path(tempfile.gettempdir()) / "scratch")


def remove_leftovers(wanted: Path) -> None:
    """Remove what runs that were killed left beside ``wanted``."""
    if fcntl is None:
        return
    prefix = _prefix(wanted)
    with contextlib.suppress(OSError), os.scandir(wanted.parent) as entries:
        for entry in entries:
            owner = _OWNED.fullmatch(entry.name, len(prefix)) if entry.name.startswith(prefix) else None
            if owner is not None and not _is_alive(int(owner[1]), owner[2]):
                with contextlib.suppress(OSError):  # gone already, or of another user
                    _remove_leftover(Path(entry.path))


def _remove_leftover(path: Path) -> None:
    how = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, os.O_RDWR | how)  # file systems of other machines lock only what can be written
    except IsADirectoryError:
        handle = os.open(path, os.O_RDONLY | how)
    try:
        found = os.fstat(handle)
        ours = found.st_uid == os.geteuid() and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
        if ours and _lock(handle) is True and _is_at(handle, path):
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()
    finally:
        os.close(handle)


def _locked(path: Path, handle: int) -> Hidden | None:
    """What was just made, locked; None if another run took it for a leftover in the moment before."""
    if _lock(handle) is not False and (os.name != "posix" or _is_at(handle, path)):
        return Hidden(path, handle)
    os.close(handle)
    return None


def _name(wanted: Path) -> Path:
    own = f".alibi-{os.getpid()}-{process_mark(os.getpid()) or '0'}-{secrets.token_hex(8)}.partial"
    return wanted.with_name(_prefix(wanted) + own)


def _prefix(wanted: Path) -> str:
    """What hidden names for ``wanted`` begin with.  Of a long name it is a part, and what tells it from others."""
    name = os.fsencode(wanted.name)
    if len(name) <= LONGEST_NAME:
        return f".{wanted.name}"
    return f".{name[:40].decode(errors='ignore')}-{hashlib.blake2b(name, digest_size=12).hexdigest()}"


def process_mark(pid: int) -> str | None:
    """When a process began, as a short text; None if no process has that number, or where the system does not say."""
    try:
        began = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except (OSError, IndexError):
        return None
    return hashlib.blake2b(boot + began, digest_size=6).hexdigest()


def _is_alive(pid: int, mark: str) -> bool:
    if process_mark(os.getpid()) is not None:
        return process_mark(pid) == mark
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _lock(handle: int) -> bool | None:
    """Lock an open file until it is closed; False if another process has it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
