"""Making every float of a model wider: tensors, types, and the attributes that name types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ..errors import VerifyError

TO_FLOAT32: Mapping[int, int] = {TensorProto.FLOAT16: TensorProto.FLOAT, TensorProto.BFLOAT16: TensorProto.FLOAT}
TO_FLOAT64: Mapping[int, int] = {TensorProto.FLOAT: TensorProto.DOUBLE}

TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "stash_type")
"""Attributes that hold a TensorProto type, in any operator."""


def widen(proto: onnx.ModelProto, types: Mapping[int, int]) -> None:
    """Widens a model in place; names, shapes and order of inputs and outputs stay.

    Args:
        proto: The model, tensors of the given types loaded.
        types: The type that takes the place of each.
    """
    for graph in graphs(proto):
        for tensor in graph.initializer:
            widen_tensor(tensor, types)
        for sparse in graph.sparse_initializer:
            widen_tensor(sparse.values, types)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type, types)
    for function in proto.functions:
        for value in function.value_info:
            _widen_type(value.type, types)
    for node in nodes(proto):
        for attribute in node.attribute:
            _widen_attribute(attribute, types)
        if TensorProto.FLOAT in types:
            _say_type(node, types[TensorProto.FLOAT])


def _say_type(node: onnx.NodeProto, kind: int) -> None:
    """Operators that yield float32 unless they are told otherwise."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, dtype))))
    if node.op_type == "Constant":
        given = node.attribute[0]
        if given.name in ("value_float", "value_floats") and not given.ref_attr_name:
            array = np.asarray(helper.get_attribute_value(given), dtype)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))


def _widen_attribute(attribute: AttributeProto, types: Mapping[int, int]) -> None:
    for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
        widen_tensor(tensor, types)
    if attribute.HasField("sparse_tensor"):
        widen_tensor(attribute.sparse_tensor.values, types)
    if attribute.HasField("tp"):
        _widen_type(attribute.tp, types)
    if attribute.name in TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT and attribute.i in types:
        attribute.i = types[attribute.i]


def widen_tensor(tensor: TensorProto, types: Mapping[int, int]) -> None:
    """Widens a tensor that is loaded; its values stay.

    Raises:
        VerifyError: It has other bytes than it declares.
    """
    if tensor.data_type not in types:
        return
    try:
        array = numpy_helper.to_array(tensor)
    except ValueError as error:
        raise VerifyError(f"tensor {tensor.name!r} cannot be read: {error}") from error
    wide = array.astype(helper.tensor_dtype_to_np_dtype(types[tensor.data_type]))
    name, doc = tensor.name, tensor.doc_string
    tensor.CopyFrom(numpy_helper.from_array(wide, name))
    tensor.doc_string = doc


def _widen_type(kind: onnx.TypeProto, types: Mapping[int, int]) -> None:
    field = kind.WhichOneof("value")
    if field in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(kind, field)
        if tensor.elem_type in types:
            tensor.elem_type = types[tensor.elem_type]
    elif field in ("sequence_type", "optional_type"):
        _widen_type(getattr(kind, field).elem_type, types)
    elif field == "map_type":
        _widen_type(kind.map_type.value_type, types)


def graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
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


def nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a model, those of bodies and local functions included."""
    for graph in graphs(proto):
        yield from graph.node
    for function in proto.functions:
        yield from function.node
