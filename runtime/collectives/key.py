"""What the ranks of one user know and others do not, so that nobody else takes part in a rendezvous.

It is a file that only the user can read, made when it is first needed, or ``ALIBI_RENDEZVOUS_KEY`` where hosts do not
share the user's folder.  Whoever has NCCL's id can join the ranks, and NCCL itself asks for nothing else.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from .ranks import NotConnected

VARIABLE = "ALIBI_RENDEZVOUS_KEY"
LEAST = 16
_SIZE = 32


def key() -> bytes:
    """The key of this user.

    Raises:
        NotConnected: It is too short, or the file cannot be made or is not this user's alone.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        if len(given) < LEAST:
            raise NotConnected(f"{VARIABLE} has fewer than {LEAST} characters; make one with: openssl rand -hex 16")
        return given.encode("utf-8", "surrogateescape")
    try:
        return _kept()
    except OSError as error:
        why = f"the key cannot be kept in '{path()}' ({error.strerror}); set {VARIABLE} instead"
        raise NotConnected(why) from error


def path() -> Path:
    """Where the file is (``XDG_CACHE_HOME``)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alibi-rewriter" / "rendezvous.key"


def _kept() -> bytes:
    where = path()
    if not os.path.lexists(where):
        _make(where)
    number = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        found = os.fstat(file.fileno())
        content = file.read(_SIZE + 1)
    private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    if not private or len(content) != _SIZE:
        raise NotConnected(f"'{where}' is not the key of this user alone: remove it, and it is made anew")
    return content


def _make(where: Path) -> None:
    """Ranks start at once: the file appears whole, and the first one stays."""
    where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mine = where.with_name(f".{where.name}.{os.getpid()}.{secrets.token_hex(4)}")
    number = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(secrets.token_bytes(_SIZE))
        os.link(mine, where)
    except FileExistsError:
        pass
    finally:
        mine.unlink()
