"""A read-only index over one graph of a model.  It tells which node makes a value, what uses it, and what is constant.

A *scope* is the main graph or the body of an If, Loop or Scan.  Values of outer scopes are visible in
inner ones, as in ONNX.  What an inner scope makes is not visible outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from ..base.errors import ModelRejected

Array = npt.NDArray[np.generic]

NO_NUMBERS = frozenset({TensorProto.STRING, TensorProto.UNDEFINED, TensorProto.COMPLEX64, TensorProto.COMPLEX128})
"""Types whose elements are not real numbers."""

SUB_BYTE_TYPES = frozenset(
    getattr(TensorProto, name)
    for name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")
    if hasattr(TensorProto, name)
)
"""Types of which several elements share a byte."""

MAX_RANK = 64
"""The most axes of a tensor.  numpy has the same limit."""

MAX_CONSTANT_BYTES = 8 << 30
"""Constants larger than this are never read.  A bias table of 32 heads and 8192 positions has 8 GiB."""


def numpy_type(data_type: int) -> np.dtype[np.generic] | None:
    """The numpy type of a tensor type; None for a number without a type."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, TypeError, ValueError):
        return None


def operator(node: NodeProto) -> str:
    """The standard operator that a node is; empty for a node of another domain, whatever its op_type."""
    return node.op_type if node.domain in ("", "ai.onnx") else ""


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute, or the default."""
    for candidate in node.attribute:
        if candidate.name == name:
            return onnx.helper.get_attribute_value(candidate)
    return default


def int_attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    value = attribute(node, name, default)
    return value if isinstance(value, int) else default


def ints_attribute(node: NodeProto, name: str) -> list[int] | None:
    """A list-of-integers attribute, or None when absent."""
    value = attribute(node, name)
    return [int(v) for v in value] if isinstance(value, list | tuple) else None


def float_attribute(node: NodeProto, name: str, default: float) -> float:
    """A float attribute."""
    value = attribute(node, name, default)
    return float(value) if isinstance(value, int | float) else default


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """Graphs inside a node's attributes, with the attribute's name."""
    return ((name, body) for _, name, body in bodies((node,)))


def bodies(nodes: Iterable[NodeProto]) -> Iterator[tuple[NodeProto, str, GraphProto]]:
    """Graphs inside the attributes of nodes, with the node and the attribute's name.

    Most nodes have no graphs inside, and a model may have a million nodes.  This is the one loop over all of them.
    """
    graph, graphs = AttributeProto.GRAPH, AttributeProto.GRAPHS
    for node in nodes:
        for candidate in node.attribute:
            kind = candidate.type
            if kind == graph:
                yield node, candidate.name, candidate.g
            elif kind == graphs:
                for number, body in enumerate(candidate.graphs):
                    yield node, f"{candidate.name}[{number}]", body


def label(node: NodeProto) -> str:
    """What to call a node in messages: its name, else its first output."""
    return node.name or next((o for o in node.output if o), "") or f"unnamed {node.op_type}"


@dataclass(slots=True)
class Consumer:
    """One use of a value: an input of a node, or a graph output (node is None)."""

    node: NodeProto | None
    position: int
    scope: Scope


@dataclass
class Scope:
    """One graph, indexed.

    Attributes:
        graph: The graph itself; never changed through this class.
        opset: Imported version per domain.
        parent: The enclosing scope, if any.
        path: Where this scope is, e.g. ``""`` or ``If_12/then_branch``.
    """

    graph: GraphProto
    opset: dict[str, int]
    base_dir: Path
    parent: Scope | None = None
    path: str = ""
    producers: dict[str, NodeProto] = field(default_factory=dict)
    consumers: dict[str, list[Consumer]] = field(default_factory=dict)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    inputs: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    children: list[Scope] = field(default_factory=list)
    _arrays: dict[str, Array | None] = field(default_factory=dict)

    @cached_property
    def order(self) -> dict[int, int]:
        """Positions of the nodes visible here, by identity: those of outer scopes come first."""
        outer = {} if self.parent is None else self.parent.order
        return {**outer, **{id(n): len(outer) + k for k, n in enumerate(self.graph.node)}}

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes the value, in this scope or an enclosing one."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.producers:
                return scope.producers[name]
            if name in scope.inputs or name in scope.initializers:
                return None
            scope = scope.parent
        return None

    def owner(self, name: str) -> Scope | None:
        """The scope in which the value is made (by a node, an initializer or an input)."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.producers or name in scope.initializers or name in scope.inputs:
                return scope
            scope = scope.parent
        return None

    def constant(self, name: str) -> Array | None:
        """The value as an array if it is an initializer or a Constant node, else None.

        Large arrays are read from external data only here, so weights that no bias depends on are
        never loaded.
        """
        owner = self.owner(name)
        if owner is None:
            return None
        if name not in owner._arrays:
            owner._arrays[name] = owner._read_constant(name)
        return owner._arrays[name]

    def _read_constant(self, name: str) -> Array | None:
        tensor = self.initializers.get(name)
        if tensor is not None:
            if name in self.inputs:
                return None  # an initializer that is also an input is only a default value
            return read_tensor(tensor, self.base_dir)
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            return None
        for candidate in node.attribute:
            if candidate.name == "value":
                return read_tensor(candidate.t, self.base_dir)
            if candidate.name == "value_float":
                return np.array(candidate.f, np.float32)
            if candidate.name == "value_int":
                return np.array(candidate.i, np.int64)
            if candidate.name == "value_floats":
                return np.array(candidate.floats, np.float32)
            if candidate.name == "value_ints":
                return np.array(candidate.ints, np.int64)
        return None


def read_tensor(tensor: TensorProto, base_dir: Path) -> Array | None:
    """A tensor as an array, external data included; None when it is too large or holds no real numbers.

    External data are mapped and not loaded, so that what is not looked at costs no memory.
    """
    if tensor.data_type in NO_NUMBERS:
        return None
    try:
        dtype = numpy_type(tensor.data_type)
        if dtype is None:
            raise ValueError(f"{tensor.data_type} is no type")
        if math.prod(tensor.dims) * dtype.itemsize > MAX_CONSTANT_BYTES:
            return None
        if tensor.data_location == TensorProto.EXTERNAL:
            return _mapped(tensor, dtype, base_dir)
        return numpy_helper.to_array(tensor)
    except Exception as error:  # any of a dozen types: the data do not fit the declaration
        raise ModelRejected(f"tensor '{tensor.name}' cannot be read: {error}. Export the model again.") from error


def _mapped(tensor: TensorProto, dtype: np.dtype[np.generic], base_dir: Path) -> Array:
    """External data as an array on a mapped file; ``load`` has checked where they lie and how long they are."""
    entries = {e.key: e.value for e in tensor.external_data}
    path, offset = base_dir / entries["location"], int(entries.get("offset") or 0)
    if tensor.data_type in SUB_BYTE_TYPES:
        inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        with path.open("rb") as file:
            file.seek(offset)
            inline.raw_data = file.read(int(entries.get("length") or -1))
        return numpy_helper.to_array(inline)
    if 0 in tensor.dims:
        return np.zeros(tuple(tensor.dims), dtype)
    stored = dtype.newbyteorder("<") if dtype.isbuiltin == 1 else dtype
    return np.asarray(np.memmap(path, stored, "r", offset, tuple(tensor.dims)))


def index_graph(
    graph: GraphProto, opset: dict[str, int], base_dir: Path, parent: Scope | None = None, path: str = ""
) -> Scope:
    """Index a graph and, through ``children``, the bodies inside its nodes."""
    root = Scope(graph, opset, base_dir, parent, path)
    pending = [root]
    while pending:
        scope = pending.pop()
        _fill(scope)
        for node, name, body in bodies(scope.graph.node):
            child_path = f"{scope.path}/{label(node)}.{name}" if scope.path else f"{label(node)}.{name}"
            child = Scope(body, opset, base_dir, scope, child_path)
            scope.children.append(child)
            pending.append(child)
    _link_captured(root)
    return root


def _fill(scope: Scope) -> None:
    for tensor in scope.graph.initializer:
        scope.initializers[tensor.name] = tensor
    for value in scope.graph.input:
        scope.inputs[value.name] = value
    for node in scope.graph.node:
        for name in node.output:
            if name:
                scope.producers[name] = node
        for position, name in enumerate(node.input):
            if name:
                scope.consumers.setdefault(name, []).append(Consumer(node, position, scope))
    for position, value in enumerate(scope.graph.output):
        scope.outputs.add(value.name)
        scope.consumers.setdefault(value.name, []).append(Consumer(None, position, scope))


def _link_captured(root: Scope) -> None:
    """Uses inside bodies count as uses in the scope that owns the value."""
    for scope in walk(root):
        if scope.parent is None:
            continue
        for name, uses in scope.consumers.items():
            owner = scope.owner(name)
            if owner is not None and owner is not scope:
                owner.consumers.setdefault(name, []).extend(uses)


def walk(root: Scope) -> Iterator[Scope]:
    """The scope and all scopes inside it, outer ones first, in graph order."""
    pending = [root]
    while pending:
        scope = pending.pop()
        yield scope
        pending.extend(reversed(scope.children))


def opset_versions(model: ModelProto) -> dict[str, int]:
    """Imported opset version per domain; the default domain is ``""``."""
    return {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
