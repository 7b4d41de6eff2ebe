"""Float32 clones.  A clone is the same model with every 16-bit float made a 32-bit one.

Two 16-bit models cannot be compared to better than 16 bits, and onnxruntime's CPU kernels do not compute in
16 bits anyway (it lacks those for bfloat16, and keeps float32 between the operators of a float16 model).  As float32
clones original and rewritten can be compared to float32 accuracy, which is enough to tell a slope that is 1 % off.
Values survive the widening unchanged.  A mask of float16's lowest number stays -65504.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto, external_data_helper

from ...graph.index import numpy_type
from .runtime import Model
from .widen import TO_FLOAT32, TYPE_ATTRIBUTES, graphs, nodes, widen, widen_tensor

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""Types that a clone widens to float32."""

_MOVE_FROM = 1 << 24
"""Models with more inline weights than this get them moved to a file, so that copies of the model are cheap."""

_LARGE = 1 << 14
"""Smallest tensor, in bytes, that is worth moving."""


@dataclass(frozen=True)
class CloneSource:
    """A model file as it is.

    Attributes:
        model: The file's content, external tensors not loaded.
        narrow: Names of the 16-bit float types it uses, in a fixed order.
        stored: Its constants of these types by name: the type, and the number of elements.
        float32_bytes: Size of all its initializers once widened.
    """

    model: Model
    narrow: tuple[str, ...]
    stored: Mapping[str, tuple[str, int]]
    float32_bytes: int


def read(path: Path, folder: Path | None = None) -> CloneSource:
    """Reads a model without its large external tensors.

    Args:
        path: The ONNX file.
        folder: Where its external data lie; the file's own folder if None.

    Raises:
        OSError: If the file, or a small external tensor, cannot be read.
        ValueError: If an external tensor has other bytes than it declares.
    """
    return source_of(onnx.load(str(path), load_external_data=False), folder or path.parent)


def source_of(proto: onnx.ModelProto, folder: Path) -> CloneSource:
    """A model in memory as it is; its small external tensors are read into it.

    Args:
        proto: The model, external tensors not loaded.
        folder: Where its external data lie.

    Raises:
        OSError: If a small external tensor cannot be read.
        ValueError: If it has other bytes than it declares.
    """
    has_external = False
    for tensor in _all_tensors(proto):
        if external_data_helper.uses_external_data(tensor):
            if _declared_bytes(tensor) < _LARGE:
                # onnxruntime needs shapes and the like inside the model to infer types.
                _load_external(tensor, folder)
            else:
                has_external = True
    narrow = _names(_types(proto))
    stored = {
        name: (TensorProto.DataType.Name(tensor.data_type).lower(), math.prod(tensor.dims))
        for name, tensor in _named_constants(proto)
        if tensor.data_type in NARROW
    }
    size = sum(_float32_bytes(tensor) for tensor in _all_tensors(proto))
    return CloneSource(Model(proto, folder if has_external else None), narrow, stored, size)


def float32_clone(source: CloneSource, scratch: Path) -> Model:
    """The float32 clone of a model; a model without 16-bit floats is its own clone.

    Names, shapes and order of inputs and outputs stay.

    Args:
        source: What to clone; it is not changed.
        scratch: An existing, empty folder of this clone alone; large tensors are written there.

    Raises:
        OSError: If an external tensor cannot be read, or ``scratch`` not written.
        ValueError: If an external tensor has other bytes than it declares.
    """
    folder = source.model.folder
    inline = sum(len(tensor.raw_data) for tensor in source.model.proto.graph.initializer)
    if not source.narrow and (folder is not None or inline < _MOVE_FROM):
        return source.model
    proto = onnx.ModelProto()
    proto.CopyFrom(source.model.proto)
    moved = folder is not None or inline >= _MOVE_FROM
    name = "weights.bin"
    with (scratch / name).open("wb") as data:
        # One tensor at a time, so that no more than one is in memory.
        for graph in graphs(proto):
            for tensor in graph.initializer:
                _load(tensor, folder)
                widen_tensor(tensor, TO_FLOAT32)
                if moved and len(tensor.raw_data) >= _LARGE:
                    _move(tensor, data, name)
        for node in nodes(proto):
            for attribute in node.attribute:
                for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                    _load(tensor, folder)
    widen(proto, TO_FLOAT32)
    return Model(proto, scratch if moved else None)


def _load(tensor: TensorProto, folder: Path | None) -> None:
    if external_data_helper.uses_external_data(tensor):
        assert folder is not None
        _load_external(tensor, folder)


def _load_external(tensor: TensorProto, folder: Path) -> None:
    """Reads an external tensor into ``raw_data``, from inside ``folder`` only."""
    info = external_data_helper.ExternalDataInfo(tensor)
    path = folder / info.location
    if Path(info.location).is_absolute() or ".." in Path(info.location).parts:
        raise ValueError(f"external tensor {tensor.name!r} points outside the model's folder: {info.location!r}")
    size = _declared_bytes(tensor)
    with path.open("rb") as file:
        file.seek(info.offset or 0)
        raw = file.read(size)
    if len(raw) != size:
        raise ValueError(f"external tensor {tensor.name!r} has {len(raw)} of its {size} bytes in {info.location!r}")
    tensor.raw_data = raw
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _move(tensor: TensorProto, data: BinaryIO, location: str) -> None:
    """Appends a tensor's bytes to the data file and points the tensor there."""
    # Page-aligned, so that the runtime can map the tensor instead of copying it.
    data.write(b"\0" * (-data.tell() % mmap.ALLOCATIONGRANULARITY))
    offset, raw = data.tell(), tensor.raw_data
    data.write(raw)
    external_data_helper.set_external_data(tensor, location, offset, len(raw))
    tensor.ClearField("raw_data")


def _declared_bytes(tensor: TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    dtype = numpy_type(tensor.data_type)
    return 0 if dtype is None else count * dtype.itemsize


def _float32_bytes(tensor: TensorProto) -> int:
    return _declared_bytes(tensor) * (2 if tensor.data_type in NARROW else 1)


def _named_constants(proto: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Initializers and what Constant nodes hold, under the names that nodes use."""
    for graph in graphs(proto):
        for tensor in graph.initializer:
            yield tensor.name, tensor
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t") and node.output:
                yield node.output[0], attribute.t


def _all_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(proto):
        yield from graph.initializer
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _names(kinds: frozenset[int]) -> tuple[str, ...]:
    return tuple(TensorProto.DataType.Name(kind).lower() for kind in NARROW if kind in kinds)


def _types(proto: onnx.ModelProto) -> frozenset[int]:
    """The element types of tensors and inputs, and the targets of casts; enough to see any 16-bit float."""
    seen = {tensor.data_type for tensor in _all_tensors(proto)}
    for graph in graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            seen.add(value.type.tensor_type.elem_type)
    for node in nodes(proto):
        seen.update(attribute.i for attribute in node.attribute if attribute.name in TYPE_ATTRIBUTES)
    return frozenset(seen)
