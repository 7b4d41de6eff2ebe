"""Files in.  Models are read without their weights, and what they refer to is checked.  See ``save`` for output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from ..base.errors import ModelRejected, UsageError
from ..base.targets import check_place, same_file
from .index import bodies
from .tensors import declared_bytes

MAX_FILE = (1 << 31) - 1
"""Bytes that protobuf reads at most."""

MAX_NESTING = 24
"""Depth of bodies inside bodies that is accepted (TensorRT's own limit)."""


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read.

    Attributes:
        path: The file; None for a model that was given as an object.
        model: Its content, external data not loaded.
        base_dir: Where relative external data lie.
        sha256: Of the file; empty for a model that was given as an object.
        data: Locations of its external data, sorted.
    """

    path: Path | None
    model: ModelProto = field(repr=False)
    base_dir: Path
    sha256: str
    data: tuple[str, ...] = ()


def load(path: Path) -> ModelFile:
    """Read a model file; external data are checked, not loaded.

    Raises:
        ModelRejected: It is missing, is not an ONNX model, or refers to data unsafely.
    """
    try:
        if not path.is_file():
            raise ModelRejected(f"'{path}' is not a file. Give the path of an .onnx model.")
        if path.stat().st_size > MAX_FILE:
            raise ModelRejected(
                f"'{path}' is larger than 2 GiB, which protobuf cannot read. Export with external data."
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelRejected(f"'{path}' cannot be read: {error.strerror}.") from error
    return checked(parse(content, f"'{path}'"), path, path.parent, f"'{path}'", hashlib.sha256(content).hexdigest())


def parse(content: bytes, name: str) -> ModelProto:
    """The model in a file's bytes; ``name`` is for messages.

    Raises:
        ModelRejected: The bytes hold no model.
    """
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelRejected(f"{name} is not an ONNX model (protobuf): {error}. Export it again.") from error
    if not model.graph.node and not model.graph.output:
        raise ModelRejected(f"{name} holds no graph. Is it a data file of a model?")
    return model


def checked(model: ModelProto, path: Path | None, base_dir: Path, name: str, sha256: str = "") -> ModelFile:
    """A model with external data that are there and lie below a folder.

    Args:
        model: Data not loaded.
        path: Its file, if it has one.
        base_dir: The folder.
        name: For messages.
        sha256: Of the file.

    Raises:
        ModelRejected: It refers to data unsafely, or they are not there.
    """
    external = list(external_tensors(model))
    for tensor in external:
        try:
            _check_external(name, base_dir, tensor)
        except OSError as error:
            raise ModelRejected(f"{name}: its data '{error.filename}' cannot be read: {error.strerror}.") from error
    data = tuple(sorted({_entries(t).get("location", "") for t in external}))
    return ModelFile(path, model, base_dir, sha256, data)


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph and all bodies.

    Raises:
        ModelRejected: Bodies are nested too deeply.
    """
    pending = [(model.graph, 0)]
    while pending:
        graph, depth = pending.pop()
        if depth > MAX_NESTING:
            raise ModelRejected(f"graph '{graph.name}' is nested more than {MAX_NESTING} levels deep.")
        yield graph
        pending.extend((body, depth + 1) for _, _, body in bodies(graph.node))


def external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Tensors whose data lie outside the model file."""
    for graph in graphs(model):
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                yield tensor
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_location == TensorProto.EXTERNAL:
                    yield attribute.t


def data_files(model: ModelProto) -> list[str]:
    """Locations of all external data, sorted."""
    return sorted({_entries(t).get("location", "") for t in external_tensors(model)})


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {e.key: e.value for e in tensor.external_data}


def _check_external(name: str, base_dir: Path, tensor: TensorProto) -> None:
    entries = _entries(tensor)
    location = entries.get("location", "")
    where = f"{name}: tensor '{tensor.name}' has its data in '{location}'"
    if not location:
        raise ModelRejected(f"{name}: tensor '{tensor.name}' is external but names no file. Export the model again.")
    relative = Path(location)
    if relative.is_absolute() or ".." in relative.parts or "\x00" in location:
        raise ModelRejected(f"{where}, outside the model's folder. Move the data beside the model.")
    target = base_dir / relative
    if any((base_dir / Path(*relative.parts[: n + 1])).is_symlink() for n in range(len(relative.parts))):
        raise ModelRejected(
            f"{where}, which is a symbolic link. Copy the data beside the model (caches of model hubs link them)."
        )
    if not target.is_file():
        raise ModelRejected(f"{where}, which does not exist. Copy the data file beside the model.")
    try:
        offset, length = int(entries.get("offset", "0") or 0), int(entries.get("length", "-1") or -1)
    except ValueError as error:
        raise ModelRejected(f"{where} at an offset that is no number. Export the model again.") from error
    needed = declared_bytes(tensor)
    if offset < 0 or offset + max(length, needed) > target.stat().st_size:
        raise ModelRejected(f"{where} beyond the end of that file. Copy the complete data file.")
    if 0 <= length < needed:
        raise ModelRejected(f"{where}, {length} bytes of it, but its shape needs {needed}. Export the model again.")


def check_target(source: ModelFile, target: Path) -> None:
    """The output may not be the input or one of the files it needs, nor replace anything but a file.

    Raises:
        UsageError: It is, or it cannot be written there.
    """
    if source.path is not None and same_file(target, source.path):
        raise UsageError(f"the output '{target}' is the input itself. Choose another name with -o.")
    check_place(target, "-o")
    for location in source.data:
        if target.resolve() in ((source.base_dir / location).resolve(), (target.parent / location).resolve()):
            raise UsageError(f"the output '{target}' has the name of the model's data file. Choose another -o.")
