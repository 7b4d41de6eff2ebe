"""Float32 clones: the same model with every 16-bit float made a 32-bit one.

Two 16-bit models cannot be compared to better than 16 bits, and onnxruntime's CPU kernels do not compute in
16 bits anyway (it has none for bfloat16, and keeps float32 between the operators of a float16 model).  As
float32 clones original and rewritten can be compared to float32 accuracy, which is enough to tell a slope
that is 1 % off.  Values survive the widening unchanged: a mask of float16's lowest number stays -65504.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, external_data_helper, numpy_helper

from ..graph import numpy_type
from .runtime import Model

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""Types that a clone widens to float32."""

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "stash_type")
"""Attributes that hold a TensorProto type, in any operator."""

_MOVE_FROM = 1 << 24
"""Models with more inline weights than this get them moved to a file, so that copies of the model are cheap."""

_LARGE = 1 << 14
"""Smallest tensor, in bytes, that is worth moving."""


@dataclass(frozen=True)
class Source:
    """A model file as it is.

    Attributes:
        model: The file's content, external tensors not loaded.
        narrow: Names of the 16-bit float types it uses, in a fixed order.
        stored: Those among them that it stores vectors or larger tensors in.
        float32_bytes: Size of all its initializers once widened.
    """

    model: Model
    narrow: tuple[str, ...]
    stored: tuple[str, ...]
    float32_bytes: int


def read(path: Path, folder: Path | None = None) -> Source:
    """Reads a model without its large external tensors.

    Args:
        path: The ONNX file.
        folder: Where its external data lie; the file's own folder if None.

    Raises:
        OSError: If the file, or a small external tensor, cannot be read.
        ValueError: If an external tensor has other bytes than it declares.
    """
    proto = onnx.load(str(path), load_external_data=False)
    folder = folder or path.parent
    has_external = False
    for tensor in _all_tensors(proto):
        if external_data_helper.uses_external_data(tensor):
            if _declared_bytes(tensor) < _LARGE:
                # onnxruntime needs shapes and the like inside the model to infer types.
                _load_external(tensor, folder)
            else:
                has_external = True
    narrow = _names(_types(proto))
    stored = _names(frozenset(tensor.data_type for tensor in _all_tensors(proto) if tensor.dims))
    size = sum(_float32_bytes(tensor) for tensor in _all_tensors(proto))
    return Source(Model(proto, folder if has_external else None), narrow, stored, size)


def float32_clone(source: Source, scratch: Path) -> Model:
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
        for graph in _graphs(proto):
            for tensor in graph.initializer:
                if external_data_helper.uses_external_data(tensor):
                    assert folder is not None
                    _load_external(tensor, folder)
                _widen_tensor(tensor)
                if moved and len(tensor.raw_data) >= _LARGE:
                    _move(tensor, data, name)
            for sparse in graph.sparse_initializer:
                _widen_tensor(sparse.values)
            for value in (*graph.input, *graph.output, *graph.value_info):
                _widen_type(value.type)
        for function in proto.functions:
            for value in function.value_info:
                _widen_type(value.type)
        for node in _nodes(proto):
            for attribute in node.attribute:
                _widen_attribute(attribute, folder)
    return Model(proto, scratch if moved else None)


def _widen_attribute(attribute: AttributeProto, folder: Path | None) -> None:
    tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    for tensor in tensors:
        if external_data_helper.uses_external_data(tensor) and folder is not None:
            _load_external(tensor, folder)
        _widen_tensor(tensor)
    if attribute.HasField("sparse_tensor"):
        _widen_tensor(attribute.sparse_tensor.values)
    if attribute.HasField("tp"):
        _widen_type(attribute.tp)
    if attribute.name in _TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT and attribute.i in NARROW:
        attribute.i = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type not in NARROW:
        return
    wide = numpy_helper.to_array(tensor).astype(np.float32)
    name, doc = tensor.name, tensor.doc_string
    tensor.CopyFrom(numpy_helper.from_array(wide, name))
    tensor.doc_string = doc


def _widen_type(kind: onnx.TypeProto) -> None:
    field = kind.WhichOneof("value")
    if field in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(kind, field)
        if tensor.elem_type in NARROW:
            tensor.elem_type = TensorProto.FLOAT
    elif field in ("sequence_type", "optional_type"):
        _widen_type(getattr(kind, field).elem_type)
    elif field == "map_type":
        _widen_type(kind.map_type.value_type)


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


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """All graphs of a model, outer before inner, without recursion."""
    waiting = [proto.graph]
    waiting.extend(graph for function in proto.functions for graph in _inner(function.node))
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting.extend(_inner(graph.node))


def _inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph in _graphs(proto):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


def _all_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(proto):
        yield from graph.initializer
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _names(kinds: frozenset[int]) -> tuple[str, ...]:
    return tuple(TensorProto.DataType.Name(kind).lower() for kind in NARROW if kind in kinds)


def _types(proto: onnx.ModelProto) -> frozenset[int]:
    """The element types of tensors and inputs, and the targets of casts; enough to see any 16-bit float."""
    seen = {tensor.data_type for tensor in _all_tensors(proto)}
    for graph in _graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            seen.add(value.type.tensor_type.elem_type)
    for node in _nodes(proto):
        seen.update(attribute.i for attribute in node.attribute if attribute.name in _TYPE_ATTRIBUTES)
    return frozenset(seen)
