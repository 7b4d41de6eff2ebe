"""Operands of the generated graphs: constants at the edges of a type, positions, run-time inputs, masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[np.generic]
T = TensorProto

INTEGERS = (T.INT8, T.INT16, T.INT32, T.INT64, T.UINT8, T.UINT16, T.UINT32, T.UINT64)
FLOATS = (T.FLOAT16, T.FLOAT, T.DOUBLE, T.BFLOAT16)
SMALL = tuple(getattr(T, n) for n in ("INT2", "UINT2") if hasattr(T, n))
UNSIGNED = (T.UINT8, T.UINT16, T.UINT32, T.UINT64)
ORDINARY = (*INTEGERS, *FLOATS, T.BOOL)


def name_of(dtype: int) -> str:
    return str(T.DataType.Name(dtype)).lower()


def numpy_of(dtype: int) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(dtype))


def edges(dtype: int) -> list[object]:
    """Numbers at which rules go wrong."""
    if dtype not in ORDINARY:
        return tame(dtype)
    if dtype == T.BOOL:
        return [True, False]
    if dtype in INTEGERS:
        info = np.iinfo(numpy_of(dtype))
        return [v for v in (0, 1, 2, 3, 5, 7, -1, -3, int(info.min), int(info.max)) if info.min <= v <= info.max]
    largest = {T.FLOAT16: 65504.0, T.BFLOAT16: 3.3895313892515355e38, T.FLOAT: 3.4028234663852886e38}.get(dtype, 1e25)
    return [0.0, 1.0, -1.0, 0.5, -2.5, 3.75, 255.0, -2050.0, -65504.0, largest, np.inf, -np.inf, np.nan]


def tame(dtype: int) -> list[object]:
    """Numbers of which a product of some stays in range."""
    if dtype not in ORDINARY:
        return ["a", "b", "c"] if dtype == T.STRING else [1, 1, 2 if dtype not in SMALL else 1]
    if dtype == T.BOOL:
        return [True, False, True]
    if dtype in UNSIGNED:
        return [0, 1, 2, 3]
    return [0, 1, -1, 2, -3] if dtype in INTEGERS else [0.0, 1.0, -1.0, 0.5, -2.5]


@dataclass
class Graph:
    """A graph in the making, over a float input ``x`` of [R, S] that gives it its sizes."""

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    inputs: dict[str, tuple[int, tuple[str | int, ...]]] = field(default_factory=dict)
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [self.fresh() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0]

    def const(self, dtype: int, values: object) -> str:
        name = f"c{len(self.initializers)}"
        array = np.asarray(values)
        with np.errstate(all="ignore"):
            array = array.astype(numpy_of(dtype) if array.size or dtype != T.STRING else object)
        self.initializers.append(numpy_helper.from_array(array, name))
        self.initializers[-1].data_type = dtype
        return name

    def ints(self, *values: int) -> str:
        return self.const(T.INT64, np.array(values, np.int64))

    def input(self, dtype: int, *shape: str | int) -> str:
        name = f"in{len(self.inputs)}"
        self.inputs[name] = (dtype, shape)
        return name

    def size(self, axis: int) -> str:
        """R (axis 0) or S (axis 1) as a scalar."""
        return self.add("Gather", self.add("Shape", "x"), self.const(T.INT64, np.array(axis)))

    def cast(self, name: str, dtype: int) -> str:
        return name if dtype == T.INT64 else self.add("Cast", name, to=dtype)

    def range(self, axis: int) -> str:
        return self.add("Range", self.const(T.INT64, np.array(0)), self.size(axis), self.const(T.INT64, np.array(1)))

    def row(self, dtype: int, first: int = 0) -> str:
        """[S]: first, first + 1, ..."""
        found = self.range(1)
        if first:
            found = self.add("Add", found, self.const(T.INT64, np.array(first)))
        return self.cast(found, dtype)

    def column(self, dtype: int) -> str:
        """[R, 1]: 0, 1, ..."""
        return self.cast(self.add("Reshape", self.range(0), self.ints(-1, 1)), dtype)

    def grid(self, dtype: int) -> str:
        """[R, S]: column minus row, or row plus column for a type without a sign."""
        column = self.add("Reshape", self.range(0), self.ints(-1, 1))
        return self.cast(self.add("Add" if dtype in UNSIGNED else "Sub", self.range(1), column), dtype)

    def mask(self) -> str:
        """[R, S] of bool: the column is not after the row."""
        column = self.add("Reshape", self.range(0), self.ints(-1, 1))
        return self.add("Not", self.add("Less", column, self.range(1)))

    def halves(self, dtype: int) -> str:
        """[R, S]: the grid in steps of a half, for a float type."""
        if dtype not in FLOATS:
            return self.grid(dtype)
        return self.add("Mul", self.grid(dtype), self.const(dtype, np.array(0.5)))

    def model(self) -> ModelProto:
        inputs = [helper.make_tensor_value_info("x", T.FLOAT, ["R", "S"])]
        inputs += [helper.make_tensor_value_info(n, d, list(s)) for n, (d, s) in self.inputs.items()]
        made = [o for node in self.nodes for o in node.output]
        outputs = [helper.make_empty_tensor_value_info(o) for o in made]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset < 25 else 13)


def feed(model: ModelProto, rows: int, columns: int, seed: int = 0) -> dict[str, Array]:
    """Inputs for a model: zeros for ``x``, numbers at the edges for the others."""
    random = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [{"R": rows, "S": columns}.get(d.dim_param, d.dim_value) for d in kind.shape.dim]
        if value.name == "x":
            found["x"] = np.zeros(shape, np.float32)
        else:
            chosen = random.choice(np.array(tame(kind.elem_type), dtype=object), size=shape)
            found[value.name] = np.array(chosen, dtype=object).astype(numpy_of(kind.elem_type))
    return found
