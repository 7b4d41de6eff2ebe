"""What each model input is for, read from the operators that consume it.

Numbers for an input cannot be drawn from its type alone.  An int64 may be a token id that must lie inside an
embedding, a padding mask, or a position.  Consumers say which.  Names only help where consumers leave it open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, numpy_helper

from ...graph.index import numpy_type
from ..errors import RunError


class InputKind(Enum):
    """How an input's numbers are drawn."""

    TOKENS = "tokens"
    PADDING_MASK = "padding mask"
    WIDE_MASK = "wide mask"
    POSITIONS = "positions"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    FLOAT = "float"


@dataclass(frozen=True)
class ModelInput:
    """One model input.

    Attributes:
        name: Its name.
        dtype: Numpy type of what is drawn (float32 for 16-bit floats).
        dims: Fixed size, symbolic text, or None where nothing is declared.
        kind: How its numbers are drawn.
        bound: For tokens, the number of rows of the smallest table it indexes.
        additive: For a mask of floats: it is added to scores (0 / very low), not 1 / 0.
        inverted: For a padding mask: 1 means padding.
    """

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | str | None, ...]
    kind: InputKind
    bound: int | None = None
    additive: bool = False
    inverted: bool = False


# fmt: off
_VIEWS = frozenset((
    "Cast", "CastLike", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
))
"""Operators whose first input passes its numbers on."""

_TABLE_VIEWS = frozenset(("Cast", "CastLike", "Identity", "DequantizeLinear"))
"""Operators that keep the shape of a constant table."""

_MASK_OPS = frozenset((
    "Add", "And", "CumSum", "Einsum", "Equal", "GatherND", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "MatMul", "Mul", "Not", "Or", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Sub", "Where", "Xor",
))
"""Operators that end the way of a mask of integers or booleans."""
# fmt: on


@dataclass
class _Use:
    bound: int | None
    indexes: bool
    ends: list[str]


def describe_inputs(proto: onnx.ModelProto) -> tuple[ModelInput, ...]:
    """Describes the inputs that a caller has to give, in the model's order.

    Args:
        proto: The model, with or without its external tensors; it is not changed.

    Raises:
        RunError: An input has no type that anything could be drawn of.
    """
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    given = {tensor.name for tensor in proto.graph.initializer}
    consumers = _Consumers(proto)
    return tuple(
        _describe(value, consumers.use_of(value.name)) for value in proto.graph.input if value.name not in given
    )


def _describe(value: onnx.ValueInfoProto, use: _Use) -> ModelInput:
    tensor = value.type.tensor_type
    dims = tuple(_dim(dim) for dim in tensor.shape.dim)
    element = tensor.elem_type
    floating = element in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
    narrow = element in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    dtype = np.dtype(np.float32) if narrow else numpy_type(element or TensorProto.FLOAT)
    if dtype is None:
        raise RunError(f"input {value.name!r} is of type {element}, which is none")
    called_mask = "mask" in value.name.lower()
    additive = floating and "Add" in use.ends and not any(end in use.ends for end in ("Sub", "Equal", "Where", "Mul"))
    if called_mask and len(dims) >= 3:
        return ModelInput(value.name, dtype, dims, InputKind.WIDE_MASK, additive=floating and additive)
    if called_mask and len(dims) == 2:
        return ModelInput(value.name, dtype, dims, InputKind.PADDING_MASK, additive=additive)
    if floating:
        return ModelInput(value.name, dtype, dims, InputKind.FLOAT)
    if use.bound is not None:
        return ModelInput(value.name, dtype, dims, InputKind.TOKENS, bound=max(1, use.bound))
    if "position" in value.name.lower():
        return ModelInput(value.name, dtype, dims, InputKind.POSITIONS)
    if len(dims) == 2 and not use.indexes and use.ends and all(end in _MASK_OPS for end in use.ends):
        return ModelInput(value.name, dtype, dims, InputKind.PADDING_MASK)
    if dtype == np.bool_:
        return ModelInput(value.name, dtype, dims, InputKind.WIDE_MASK if len(dims) >= 3 else InputKind.BOOLEAN)
    return ModelInput(value.name, dtype, dims, InputKind.INTEGER)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


class _Consumers:
    """Who consumes what, across a graph and the bodies of its If and Loop nodes."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._uses: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._scalars: dict[str, int] = {}
        for graph in _graphs(proto.graph):
            for tensor in graph.initializer:
                self._constant(tensor.name, tensor)
            for node in graph.node:
                for index, name in enumerate(node.input):
                    self._uses.setdefault(name, []).append((node, index))
                for name in node.output:
                    self._producers[name] = node
                if node.op_type == "Constant":
                    for attribute in node.attribute:
                        if attribute.HasField("t"):
                            self._constant(node.output[0], attribute.t)

    def use_of(self, name: str) -> _Use:
        """Follows an input through views to the operators where its way ends."""
        use = _Use(None, False, [])
        waiting, seen = [(name, 0)], {name}
        while waiting:
            current, offset = waiting.pop()
            for node, index in self._uses.get(current, []):
                if node.op_type in ("Gather", "GatherElements") and index == 1:
                    self._indexed(use, node, node.input[0], offset)
                    continue
                if node.op_type == "EmbedLayerNormalization" and index < 2:
                    self._indexed(use, node, node.input[2 if index == 0 else 4], offset)
                    continue
                step = self._passes_on(node, index)
                if step is None:
                    if node.op_type not in ("Shape", "Size", "ConstantOfShape"):
                        use.ends.append(node.op_type)
                    continue
                for output in node.output:
                    if output and output not in seen:
                        seen.add(output)
                        waiting.append((output, offset + step))
        use.ends.sort()
        return use

    def _passes_on(self, node: onnx.NodeProto, index: int) -> int | None:
        """What is added to the numbers on their way through a node, or None where they do not come through."""
        if node.op_type in _VIEWS and (index == 0 or node.op_type == "Concat"):
            return 0
        if node.op_type in ("Add", "Sub") and len(node.input) == 2:
            other = self._scalars.get(node.input[1 - index])
            if other is not None and (node.op_type == "Add" or index == 0):
                return other if node.op_type == "Add" else -other
        return None

    def _indexed(self, use: _Use, node: onnx.NodeProto, table: str, offset: int) -> None:
        use.indexes = True
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        while table not in self._shapes and table in self._producers:
            producer = self._producers[table]
            if producer.op_type not in _TABLE_VIEWS:
                return
            table = producer.input[0]
        shape = self._shapes.get(table)
        if shape and -len(shape) <= axis < len(shape):
            rows = shape[axis] - max(0, offset)
            use.bound = rows if use.bound is None else min(use.bound, rows)

    def _constant(self, name: str, tensor: TensorProto) -> None:
        self._shapes[name] = tuple(tensor.dims)
        inline = tensor.data_location != TensorProto.EXTERNAL
        if inline and tensor.data_type in (TensorProto.INT64, TensorProto.INT32) and tuple(tensor.dims) in ((), (1,)):
            self._scalars[name] = int(numpy_helper.to_array(tensor).reshape(-1)[0])


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    waiting: list[onnx.GraphProto] = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        for node in current.node:
            waiting.extend(_bodies(node.attribute))


def _bodies(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.GraphProto]:
    for attribute in attributes:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
