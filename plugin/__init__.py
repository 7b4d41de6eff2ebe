"""The TensorRT plugin library: its place, and what it was built from.

It is compiled from ``native/`` when the package is installed (``setup.py``), with g++ alone.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

LIBRARY = "libalibi_plugin.so"
ONNXRUNTIME_LIBRARY = "libalibi_onnxruntime.so"


def library_path() -> Path | None:
    """The plugin library of this installation, or None if it was installed without a compiler."""
    path = Path(__file__).parent / LIBRARY
    return path if path.is_file() else None


def missing() -> list[str]:
    """The libraries that this installation was made without, by name."""
    return [name for name in (LIBRARY, ONNXRUNTIME_LIBRARY) if not (Path(__file__).parent / name).is_file()]


def self_test(library: Path) -> None:
    """Checks that the library's virtual tables are laid out as TensorRT expects.

    Raises:
        OSError: It cannot be loaded here, or it is not what TensorRT expects.
    """
    failed = ctypes.CDLL(str(library)).alibiSelfTest()
    if failed:
        raise OSError(f"'{library}' was compiled for another binary interface (check {failed})")
