"""How much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes of memory that can be taken without swapping or being killed, or None where the system does not say."""
    found = [m for m in (_machine(), _control_group(), _address_space()) if m is not None]
    return min(found) if found else None


def _machine() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _control_group() -> int | None:
    """What a container has left, by its control group (version 2)."""
    own = next((line[3:] for line in _lines(Path("/proc/self/cgroup")) if line.startswith("0::/")), None)
    if own is None:
        return None
    folder = _GROUPS / own.strip("/")
    left = []
    # Every draw of inputs and every session asks: a file that has nothing to say is not opened.
    for place in (folder, *(parent for parent in folder.parents if parent.is_relative_to(_GROUPS))):
        most = _number(place / "memory.max")
        used = None if most is None else _number(place / "memory.current")
        if most is not None and used is not None:
            cached = next(
                (int(n.split()[1]) for n in _lines(place / "memory.stat") if n.startswith("inactive_file ")), 0
            )
            left.append(max(0, most - used + cached))
    return min(left) if left else None


def _address_space() -> int | None:
    """What a limit on the process leaves (``ulimit -v``)."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    pages = next(iter(_lines(Path("/proc/self/statm"))), "").split()
    if not pages:
        return None
    return max(0, most - int(pages[0]) * os.sysconf("SC_PAGE_SIZE"))


def _number(path: Path) -> int | None:
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
