"""Nodes and constants under construction, and what the parts of one model share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .spelling import Spelling, float_of, kv_heads


class Graph:
    """Nodes and constants under construction."""

    def __init__(self, sp: Spelling) -> None:
        self.sp = sp
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: dict[str, tuple[int, list[object]]] = {}
        self.outputs: dict[str, tuple[int, list[object]]] = {}
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        out = self.name(kind.lower())
        self.add(kind, inputs, out, **attributes)
        return out

    def add(self, kind: str, inputs: Sequence[str], out: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"node_{out}", **attributes))

    def commute(self, kind: str, left: str, right: str) -> str:
        return self.op(kind, right, left) if self.sp.swap else self.op(kind, left, right)

    def const(self, value: object, dtype: type = np.int64) -> str:
        name = self.name("const")
        tensor = numpy_helper.from_array(np.asarray(value).astype(dtype), name)
        if self.sp.constants == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"node_{name}", value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def cast(self, value: str, dtype: type) -> str:
        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def unsqueeze(self, value: str, *axes: int) -> str:
        if self.sp.opset >= 13:
            return self.op("Unsqueeze", value, self.const(list(axes)))
        return self.op("Unsqueeze", value, axes=list(axes))

    def squeeze(self, value: str, *axes: int) -> str:
        if self.sp.opset >= 13:
            return self.op("Squeeze", value, self.const(list(axes)))
        return self.op("Squeeze", value, axes=list(axes))

    def size(self, value: str, axis: int) -> str:
        if self.sp.sizes == "bounds" and self.sp.opset >= 15:
            return self.squeeze(self.op("Shape", value, start=axis, end=axis + 1), 0)
        if self.sp.sizes == "slice":
            part = self.op(
                "Slice", self.op("Shape", value), self.const([axis]), self.const([axis + 1]), self.const([0])
            )
            return self.squeeze(part, 0)
        return self.op("Gather", self.op("Shape", value), self.const(axis), axis=0)

    def expand(self, value: str, shape: str) -> str:
        """Expand, to a shape that TorchScript looks through for -1."""
        if self.sp.wrapped:
            ones = self.op(
                "ConstantOfShape", self.op("Shape", shape), value=numpy_helper.from_array(np.ones(1, np.int64))
            )
            shape = self.op("Where", self.op("Equal", shape, self.const(-1)), ones, shape)
        return self.op("Expand", value, shape)

    def slice(self, value: str, start: str, end: str, axis: int) -> str:
        return self.op(
            "Slice", value, self.unsqueeze(start, 0), self.unsqueeze(end, 0), self.const([axis]), self.const([1])
        )

    def shape(self, *parts: int | str) -> str:
        items = [self.const([p]) if isinstance(p, int) else self.unsqueeze(p, 0) for p in parts]
        return self.op("Concat", *items, axis=0)


class Writer:
    """One model under construction: its graph, its types, and the tensors that several parts use.

    Attributes:
        float: Of scores and operands.
        bias_float: Of the bias before it is added.
        kv_heads: Heads of keys and values as they come in.
        heads_of_keys: Heads of keys in the product.
        batch: Scalar; so are ``new`` (queries), ``past`` (cached keys), ``total`` (keys) and ``own`` (the key index of
            the first query).
        keys: [S_kv], the index of every key; ``places`` is the same in the type that positions are counted in.
        rows: [S_q], the key index of every query; ``row_places`` is the same in that type.
        query: The projected query of the first layer.
        whole: Bias and masks in one tensor, where the spelling adds them so.
    """

    def __init__(self, sp: Spelling) -> None:
        self.sp = sp
        self.g = Graph(sp)
        self.float = float_of(sp)
        self.bias_float = float_of(sp, bias=True)
        self.kv_heads = kv_heads(sp)
        self.heads_of_keys = 1 if sp.kv == "one" else sp.heads
        self.batch = self.new = self.past = self.total = self.own = ""
        self.keys = self.places = self.rows = self.row_places = ""
        self.query = self.whole = ""

    @property
    def kind(self) -> int:
        """The element type of the model."""
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.float)))

    @property
    def bias_kind(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.bias_float)))

    @property
    def integer(self) -> type:
        """The type that positions are counted in."""
        return np.int32 if self.sp.int32 else np.int64

    def expose(self, value: str, output: str, node: str, shape: list[object]) -> None:
        """Make a tensor an output of the graph."""
        self.g.nodes.append(helper.make_node("Identity", [value], [output], name=node))
        self.g.outputs[output] = (self.kind, shape)
