"""Weights from the model's files into those of the ranks, a piece at a time.

Every weight is read once.  No more of it is in memory than one piece, so a model may be larger than the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from onnx import TensorProto, external_data_helper, numpy_helper

from ..base.errors import ModelRejected
from ..graph.index import numpy_type
from ..graph.tensors import declared_bytes
from .cuts import Ranges
from .rank import RankModel, Weight

PIECE = 8 << 20
"""Bytes that are read at once."""

INLINE = 4096
"""Weights below this many bytes stay in the model file, where runtimes look for shapes and the like."""

PAGE = 4096
"""Large weights begin at multiples of this, so that a runtime can map them."""

Tell = Callable[[int, int], None]
"""Told (bytes read, bytes in all)."""


class Source(Protocol):
    """The bytes of one weight."""

    def read(self, offset: int, length: int) -> bytes:
        """Some of them."""


@dataclass
class _InMemory:
    content: bytes

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


@dataclass
class _InFile:
    stream: BinaryIO
    start: int
    weight: str

    def read(self, offset: int, length: int) -> bytes:
        self.stream.seek(self.start + offset)
        content = self.stream.read(length)
        if len(content) != length:  # the file was whole when the model was loaded
            raise ModelRejected(f"'{self.stream.name}' ends within the weight '{self.weight}'. Copy it again.")
        return content


@dataclass
class Target:
    """Where a rank's weights go.

    Attributes:
        rank: The rank's model; gets the weights' places.
        location: The name of its data file.
        stream: That file, open.
        written: Bytes of weights so far, those in the model file included.
        sliced: Of these, bytes of weights that are cut.
    """

    rank: RankModel
    location: str
    stream: BinaryIO
    written: int = 0
    sliced: int = 0


def write(targets: Sequence[Target], base_dir: Path, tell: Tell | None = None) -> None:
    """Write the weights of all ranks.

    Args:
        targets: One per rank.
        base_dir: Where the model's external data are.
        tell: Told about progress.

    Raises:
        OSError: Something cannot be read or written.
        ModelRejected: A data file is shorter than it was.
    """
    wanted: dict[int, list[tuple[Target, Weight]]] = {}
    sources: dict[int, TensorProto] = {}
    for target in targets:
        for weight in target.rank.weights:
            wanted.setdefault(id(weight.source), []).append((target, weight))
            sources[id(weight.source)] = weight.source
    whole = sum(_bytes(tensor) for tensor in sources.values())
    done = 0
    for key, tensor in sources.items():
        with _Opened(tensor, base_dir) as source:
            for target, weight in wanted[key]:
                _place(target, weight, source)
        done += _bytes(tensor)
        if tell is not None:
            tell(done, whole)


def _bytes(tensor: TensorProto) -> int:
    return int(declared_bytes(tensor))


class _Opened:
    """A weight's bytes for the time of a block."""

    def __init__(self, tensor: TensorProto, base_dir: Path) -> None:
        self._tensor, self._base_dir = tensor, base_dir
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Source:
        tensor = self._tensor
        if external_data_helper.uses_external_data(tensor):
            info = external_data_helper.ExternalDataInfo(tensor)
            self._stream = (self._base_dir / info.location).open("rb")
            return _InFile(self._stream, info.offset or 0, tensor.name)
        if tensor.HasField("raw_data"):
            return _InMemory(tensor.raw_data)
        array = numpy_helper.to_array(tensor)
        return _InMemory(numpy_helper.from_array(array).raw_data)

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.close()


def _place(target: Target, weight: Weight, source: Source) -> None:
    """Write one weight of one rank, and note in its model where it is."""
    tensor = target.rank.model.graph.initializer.add()
    if numpy_type(weight.tensor.data_type) is None or weight.source.data_type == TensorProto.STRING:
        tensor.CopyFrom(weight.source)
        return
    tensor.CopyFrom(weight.tensor)
    size = size_of(weight)
    target.written += size
    target.sliced += size if weight.axis >= 0 else 0
    if size < INLINE:
        tensor.raw_data = b"".join(pieces(weight, source, size))
        return
    stream = target.stream
    stream.write(b"\0" * (-stream.tell() % PAGE))
    offset = stream.tell()
    for piece in pieces(weight, source, size):
        stream.write(piece)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", target.location), ("offset", offset), ("length", size)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def size_of(weight: Weight) -> int:
    """Bytes of a weight; those of types that share bytes are as many as there are in the source."""
    source = weight.source
    if weight.axis >= 0:
        return int(declared_bytes(weight.tensor))
    if source.HasField("raw_data"):
        return len(source.raw_data)
    if external_data_helper.uses_external_data(source):
        return external_data_helper.ExternalDataInfo(source).length or int(declared_bytes(source))
    return len(numpy_helper.from_array(numpy_helper.to_array(source)).raw_data)


def pieces(weight: Weight, source: Source, size: int) -> Iterator[bytes]:
    """The bytes of a rank's part of a weight, in order, a piece at a time."""
    if weight.axis < 0:
        for offset in range(0, size, PIECE):
            yield source.read(offset, min(PIECE, size - offset))
        return
    dims = list(weight.source.dims)
    dtype = numpy_type(weight.source.data_type)
    assert dtype is not None
    inner = math.prod(dims[weight.axis + 1 :]) * dtype.itemsize
    outer, extent = math.prod(dims[: weight.axis]), dims[weight.axis]
    if extent * inner > PIECE:
        for row in range(outer):
            for start, stop in weight.ranges:
                begin, end = (row * extent + start) * inner, (row * extent + stop) * inner
                for offset in range(begin, end, PIECE):
                    yield source.read(offset, min(PIECE, end - offset))
        return
    index = _index(weight.ranges)
    at_once = max(1, PIECE // max(1, extent * inner))
    for row in range(0, outer, at_once):
        count = min(at_once, outer - row)
        block = np.frombuffer(source.read(row * extent * inner, count * extent * inner), np.uint8)
        yield block.reshape(count, extent, inner)[:, index].tobytes()


def _index(ranges: Ranges) -> slice | np.ndarray[tuple[int], np.dtype[np.int64]]:
    if len(ranges) == 1:
        return slice(*ranges[0])
    return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in ranges])
