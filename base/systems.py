"""Where this runs: on Linux, and on macOS without kernels and engines.  Windows is refused in one sentence.

What is written holds nothing of the system that it was written on.
"""

from __future__ import annotations

import sys

from .errors import UsageError

LINUX = "linux"

NAMES = {"darwin": "macOS", "win32": "Windows", "cygwin": "Cygwin"}
"""What people call ``sys.platform``."""

INSTEAD = {"win32": "WSL or a Linux container", "cygwin": "WSL or a Linux container"}


def name() -> str:
    """The system that this runs on, as people call it."""
    return NAMES.get(sys.platform, sys.platform)


def has_libraries() -> bool:
    """Whether the libraries with kernels can exist here.  They are built for Linux only."""
    return sys.platform.startswith(LINUX)


def no_libraries() -> str:
    """Why there are no libraries on another system than Linux, and what to do instead."""
    return f"its libraries are built for Linux only, and this is {name()}. Use {_instead()} for it"


def check_system() -> None:
    """Refuse a system where this was never run and where open files cannot be replaced.

    Raises:
        UsageError: This is Windows.
    """
    if sys.platform in INSTEAD:
        raise UsageError(
            f"alibi-rewriter does not run on {name()} itself. Use {_instead()}: the file that it writes runs anywhere."
        )


def check_kernels(option: str) -> None:
    """Refuse an option that needs the libraries, before anything is done.

    Raises:
        UsageError: This is not Linux.
    """
    if not has_libraries():
        raise UsageError(
            f"{option} needs Linux: kernels and engines are built there only, and this is {name()}. "
            f"Rewrite here without it, and use {_instead()} for the rest."
        )


def _instead() -> str:
    return INSTEAD.get(sys.platform, "a Linux machine or container")
