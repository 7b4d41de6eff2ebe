"""Whether a tensor holds as much as it declares.  Shapes, types and data of a file may contradict each other."""

from __future__ import annotations

import math

from onnx import TensorProto

from ..base.errors import ModelRejected
from .index import MAX_RANK, SUB_BYTE_TYPES, numpy_type

FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.INT64: "int64_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
"""Where entries of a type are kept that are not raw bytes; of the other numbers, in ``int32_data``."""

UNCHECKED = SUB_BYTE_TYPES | {TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128}
"""Types whose entries are not entries of a field.  No bias is made of them."""


def declared_bytes(tensor: TensorProto) -> int:
    """Bytes that the declared shape and type need; 0 where the type has no fixed size.

    Raises:
        ModelRejected: No tensor can have the shape.
    """
    check_shape(tensor)
    dtype = numpy_type(tensor.data_type)
    if dtype is None:
        return 0
    count = math.prod(tensor.dims)
    return count // 2 if tensor.data_type in SUB_BYTE_TYPES else count * dtype.itemsize


def check_shape(tensor: TensorProto) -> None:
    """Raises ``ModelRejected`` where an extent is negative or there are too many."""
    if len(tensor.dims) > MAX_RANK:
        raise ModelRejected(
            f"tensor '{tensor.name}' has {len(tensor.dims)} axes; no more than {MAX_RANK} are read. "
            "Export the model again."
        )
    if any(d < 0 for d in tensor.dims):
        raise ModelRejected(f"tensor '{tensor.name}' has a negative extent. Export the model again.")


def check_data(tensor: TensorProto) -> None:
    """Raises ``ModelRejected`` where a tensor in the model file has another number of entries than its shape."""
    check_shape(tensor)
    dtype = numpy_type(tensor.data_type)
    if dtype is None or tensor.data_type in UNCHECKED or tensor.data_location == TensorProto.EXTERNAL:
        return
    needed = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), needed * dtype.itemsize, "bytes"
    else:
        held, unit = len(getattr(tensor, FIELDS.get(tensor.data_type, "int32_data"))), "entries"
    if held != needed:
        raise ModelRejected(
            f"tensor '{tensor.name}' holds {held} {unit}, but its shape needs {needed}. Export the model again."
        )
