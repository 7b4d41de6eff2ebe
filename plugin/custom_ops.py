"""The library of custom ops.  It is found in the installed package and nowhere else."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from .. import plugin
from ..base.cures import reinstall
from ..base.systems import has_libraries, no_libraries

LIBRARY = plugin.ONNXRUNTIME_LIBRARY


class NoLibrary(OSError):
    """The library is not there, or must not be loaded; the message says what to do."""


def get_library_path() -> str:
    """Where the library is, for ``SessionOptions.register_custom_ops_library``.

    Raises:
        NoLibrary: It was installed without a compiler, or others can write where it is.
    """
    path = Path(plugin.__file__).parent / LIBRARY
    if not path.is_file() and not has_libraries():
        raise NoLibrary(f"{LIBRARY} is not here: {no_libraries()}")
    if not path.is_file():
        raise NoLibrary(f"{LIBRARY} was not built: there was no C++ compiler. Install g++, then {reinstall()}")
    problem = writable_by_others(path)
    if problem is not None:
        raise NoLibrary(f"{LIBRARY} is not loaded: {problem}")
    return str(path)


def writable_by_others(path: Path) -> str | None:
    """Why another user could have put a file there, as a phrase; None if no other user could.

    The owner of the running code is trusted already.  A folder with the sticky bit protects what is in it.
    """
    trusted = {0, os.geteuid(), Path(plugin.__file__).stat().st_uid}
    for place in (path, *path.parents):
        found = place.lstat()
        if found.st_uid not in trusted:
            return f"'{place}' belongs to user {found.st_uid}"
        sticky = place != path and found.st_mode & stat.S_ISVTX
        if found.st_mode & stat.S_IWOTH and not sticky and not stat.S_ISLNK(found.st_mode):
            return f"everybody can write to '{place}'. Take that right away with: chmod o-w '{place}'"
    return None


def self_test(path: str | Path) -> None:
    """Registers the library with a runtime of its own making, and computes with every instruction set that is here.

    Raises:
        OSError: It cannot be loaded here, or it does not do what it should.
    """
    failed = ctypes.CDLL(str(path)).alibiSelfTest()
    if failed:
        raise OSError(f"'{path}' fails its self-test at check {failed}; {reinstall()}")


def instruction_set(path: str | Path) -> str:
    """The instruction set that the CPU kernels use on this machine, e.g. ``avx2``."""
    ask = ctypes.CDLL(str(path)).alibiInstructionSet
    ask.restype = ctypes.c_char_p
    return str(ask().decode())


def claimed_here() -> int:
    """For how many nodes the calling thread has made kernels, without those that were dropped before the next reading.

    The difference of two readings is what was made between them and is still there, whatever else ends meanwhile.
    """
    count = ctypes.CDLL(get_library_path()).alibiClaimedNodes
    count.restype = ctypes.c_int64
    return int(count())
