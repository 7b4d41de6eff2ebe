"""An ``.npz`` file that is not trusted.  A zip archive may hold anything, and a few bytes of it may become gigabytes.

Every member is judged by its header before its content is read.  It has to hold plain numbers, and all members together
no more than can be run.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import GivenInputError
from ..run.runtime import Array, Arrays

PLAIN = "biuf"
"""Kinds of types: booleans, integers and floats."""

_FAULTS = (
    OSError, ValueError, EOFError, RuntimeError, NotImplementedError, MemoryError, OverflowError, KeyError, TypeError,
    struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError, SyntaxError, tokenize.TokenError,
)  # fmt: skip
"""What ``zipfile``, its decompressors and numpy's reader raise for a file that is not an archive of arrays."""


def read_arrays(path: Path, most: int | None) -> Arrays:
    """All arrays of an ``.npz`` file, by name.

    Args:
        path: The file.
        most: Numbers in all arrays together, at most; None for no limit.

    Raises:
        GivenInputError: It is not an archive of plain arrays, or holds too much; the message names the member.
    """
    where = str(path)
    try:
        found: Arrays = {}
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            sizes = []
            for member in members:
                where = f"{path}, member {member.filename!r}"
                with archive.open(member) as stream:
                    sizes.append(_declared(stream, member.file_size))
                if most is not None and sum(sizes) > most:
                    raise ValueError(f"{sum(sizes)} numbers take more memory than is available")
            for member in members:
                where = f"{path}, member {member.filename!r}"
                name = member.filename.removesuffix(".npy")
                if name in found:
                    raise ValueError("two members have this name")
                with archive.open(member) as stream:
                    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
                found[name] = array
    except _FAULTS as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise GivenInputError(f"{where}: cannot be read as an .npz file of plain arrays: {reason}") from error
    return found


def _declared(stream: IO[bytes], size: int) -> int:
    """How many numbers a member declares; ValueError if they are not plain numbers or more than it holds."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format {version} is for arrays of records")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.kind not in PLAIN:
        raise ValueError(f"it holds {dtype}, not numbers")
    if any(extent < 0 for extent in shape):
        raise ValueError(f"its shape is {shape}")
    count = math.prod(shape)
    if count * dtype.itemsize > size:
        raise ValueError(f"it declares {count} numbers and holds {size} bytes")
    return count
