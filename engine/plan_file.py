"""What can be said about a serialized engine without a GPU, such as which kernels travel in it."""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .container import HEADER, MAGIC


@dataclass(frozen=True)
class PlanFacts:
    """Facts about a serialized engine.

    Attributes:
        bytes: Its size.
        sha256: Of the file.
        bundles: How many intact kernel bundles it holds: at least one per plugin layer.
        named: Which of the layers that were asked about it names.
    """

    bytes: int
    sha256: str
    bundles: int
    named: tuple[str, ...] = ()


def read_plan(path: Path, layers: Sequence[str] = ()) -> PlanFacts:
    """Read a serialized engine.

    Every plugin layer stores its name and its kernels in the plan, the kernels with a checksum (and several times:
    TensorRT-RTX 1.7 keeps two or three copies).  So what is intact in the plan can be told without knowing TensorRT's
    own format.

    Args:
        path: The file.
        layers: Names of the plugin layers that should be in it.

    Raises:
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        return PlanFacts(0, hashlib.sha256().hexdigest(), 0)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        digest = hashlib.sha256(content).hexdigest()
        bundles, place = 0, content.find(MAGIC)
        while place >= 0:
            end = _end_of_bundle(content, place)
            bundles += end is not None
            place = content.find(MAGIC, end if end is not None else place + 1)
        named = tuple(layer for layer in layers if content.find(layer.encode()) >= 0)
    return PlanFacts(size, digest, bundles, named)


def _end_of_bundle(content: mmap.mmap, start: int) -> int | None:
    """The end of the bundle that starts here, or None if none does (the plugin library holds the magic word too)."""
    if start + HEADER.size > len(content):
        return None
    _, length, _, crc = HEADER.unpack(content[start : start + HEADER.size])
    end = start + HEADER.size + int(length)
    if end > len(content) or zlib.crc32(content[start + HEADER.size : end]) != crc:
        return None
    return end
