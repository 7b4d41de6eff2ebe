"""Child processes that run nothing but what is installed, wherever the user stands.

A model is downloaded into a folder, and the tool is started there.  ``python -m`` would put that folder first on the
child's search path, so that a ``triton.py`` beside the model would be executed.  Every child is started through
``launcher.py`` instead, in an empty folder of its own, with the search path and the environment that are built here.

``-E`` and ``-I`` are not used, since both would also ignore ``PYTHONHOME``, without which some Pythons do not start.
No other variable of Python's is passed on, as with these flags.  The user's site folder is left out of the child's own
start (``-s``, no ``usercustomize``), and is on the search path if it is on the parent's.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).resolve().with_name("launcher.py")

PACKAGE = __name__.partition(".")[0]
"""This package, whatever it was imported as."""

INHERITED = frozenset(
    {
        "HOME", "LANG", "LANGUAGE", "LOGNAME", "PYTHONHOME", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR", "CUDA_CACHE_PATH", "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_MODULE_LOADING",
        "CUDA_MPS_PIPE_DIRECTORY", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
    }
)  # fmt: skip
"""Variables that a child gets as they are; those of the locale (``LC_...``) as well."""

SEARCHED = ("PATH", "LD_LIBRARY_PATH")
"""Lists of folders; entries that are empty or relative mean the working folder and are left out."""


def search_path() -> list[str]:
    """Where modules are looked for, without the working folder.

    A working folder that modules are installed in is kept.
    """
    try:
        here = Path.cwd().resolve()
    except OSError:  # it was removed
        here = None
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    installed = {Path(p).resolve() for p in (*sysconfig.get_paths().values(), *site.getsitepackages(), *user)}
    found = []
    for entry in sys.path:
        if not Path(entry).is_absolute():
            continue
        place = Path(entry).resolve()
        if place != here or place in installed:
            found.append(entry)
    return found


def leave_working_folder() -> None:
    """Take the working folder off this process's search path, where ``python -m`` or an empty entry has put it."""
    sys.path[:] = search_path()


def environment(own: Mapping[str, str] | None = None, outer: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a child.

    Args:
        own: What is set for it.
        outer: What it may inherit from; this process's environment if None.
    """
    outer = os.environ if outer is None else outer
    made = {name: value for name, value in outer.items() if name in INHERITED or name.startswith("LC_")}
    for name in SEARCHED:
        folders = [folder for folder in outer.get(name, "").split(os.pathsep) if Path(folder).is_absolute()]
        if folders:
            made[name] = os.pathsep.join(folders)
    return {**made, **(own or {})}


def start(
    module: str,
    arguments: Iterable[str] = (),
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[Any]:
    """Start ``main()`` of a module of this package in a child process.

    Args:
        module: Below this package: ``engine.child``.
        arguments: Its command line.
        folder: Its working folder; no other user may have put anything there.
        variables: What is set in its environment.
        **options: Of ``subprocess.Popen``.

    Raises:
        OSError: It cannot be started.
    """
    safe = ["-P"] if hasattr(sys.flags, "safe_path") else []  # from Python 3.11 on; the launcher does it before
    request = json.dumps({"module": f"{PACKAGE}.{module}", "path": search_path()})
    command = [sys.executable, "-s", *safe, str(LAUNCHER), request, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment(variables), **options)
