"""The functions of the library of custom ops that concern the ranks, and where NCCL is."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

from ...plugin.custom_ops import get_library_path
from .ranks import NotConnected
from .rendezvous import ID_SIZE

NAME = "libnccl.so.2"
VARIABLE = "ALIBI_NCCL_LIBRARY"
_ROOM = 1024


def nccl() -> str:
    """NCCL: what ``ALIBI_NCCL_LIBRARY`` names, else that of the wheel nvidia-nccl, else that of the system."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    try:
        found = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        found = None
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "lib" / NAME
        if path.is_file():
            return str(path)
    return NAME


def new_id() -> bytes:
    """An id of NCCL, which every rank has to get.

    Raises:
        NotConnected: There is no NCCL that can be used.
    """
    made = ctypes.create_string_buffer(ID_SIZE)
    problem = _told("alibiNewId", _path(nccl()), made)
    if problem:
        raise NotConnected(problem)
    return made.raw


def join(id_: bytes, rank: int, size: int, device: int) -> str | None:
    """Makes this process's communicator, which waits for all ranks.  Returns why there is none, or None."""
    numbers = (ctypes.c_int32(number) for number in (rank, size, device))
    return _told("alibiConnect", _path(nccl()), ctypes.create_string_buffer(id_, ID_SIZE), *numbers)


def problem() -> str | None:
    """What has gone wrong behind collectives that were enqueued, or None."""
    return _told("alibiConnectionProblem")


def leave() -> None:
    """Nodes refuse to run from now on."""
    _told("alibiDisconnect")


def _path(name: str) -> ctypes.c_char_p:
    return ctypes.c_char_p(os.fsencode(name))


def _told(name: str, *given: object) -> str | None:
    """Calls a function that returns 0, or 1 with a sentence."""
    told = ctypes.create_string_buffer(_ROOM)
    function = getattr(ctypes.CDLL(get_library_path()), name)
    if function(*given, told, ctypes.c_size_t(_ROOM)) == 0:
        return None
    return told.value.decode(errors="replace")
