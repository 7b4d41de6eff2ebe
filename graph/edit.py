"""The only writer.  Every change of a graph goes through one ``Editor``, which counts what it does.

The editor works on a copy of the model.  It never touches weights.  What no output needs any more is removed at the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .index import Array, bodies, subgraphs


@dataclass
class Counts:
    """What was changed."""

    nodes_added: int = 0
    nodes_removed: int = 0
    initializers_added: int = 0
    initializers_removed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass
class Editor:
    """Edits one graph of a model; nothing is written to the graph before ``finish``.

    Attributes:
        graph: The graph (part of the model that will be saved).
        opset: Version of the default domain.
        taken: All names of the model, shared between the editors of its graphs.
        counts: Changes so far.
    """

    graph: GraphProto
    opset: int
    taken: set[str]
    counts: Counts = field(default_factory=Counts)
    _nodes: list[NodeProto] = field(default_factory=list)
    _producers: dict[str, NodeProto] = field(default_factory=dict)
    _inserted: dict[int, list[NodeProto]] = field(default_factory=dict)
    _pending: list[NodeProto] = field(default_factory=list)
    _made: dict[str, str] = field(default_factory=dict)
    _constants: dict[tuple[str, bytes, tuple[int, ...]], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = list(self.graph.node)
        self._producers = {o: n for n in self._nodes for o in n.output if o}

    def fresh(self, hint: str) -> str:
        """A name that no value of the model has."""
        return fresh(hint, self.taken)

    def producer(self, value: str) -> NodeProto:
        """The original node that makes a value."""
        return self._producers[value]

    # --- making values ---------------------------------------------------------------------------------

    def constant(self, array: Array, hint: str) -> str:
        """An initializer with these data; equal ones are shared."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            name = self.fresh(hint)
            self.graph.initializer.append(numpy_helper.from_array(array, name))
            self.counts.initializers_added += 1
            self._constants[key] = name
        return self._constants[key]

    def integers(self, values: list[int], hint: str) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64), hint)

    def node(
        self,
        op_type: str,
        inputs: list[str],
        hint: str,
        *,
        output: str = "",
        further: Sequence[str] = (),
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
        **own: Any,
    ) -> str:
        """A node, placed by the next ``place``.  Returns the name of its output, the first of several.

        A node that was made before with the same inputs is used again (all layers share one mask), unless
        an output name is asked for or the node is of another domain.
        """
        own.update(attributes or {})
        key = repr((op_type, inputs, sorted(own.items())))
        if not output and not domain and key in self._made:
            return self._made[key]
        name = output or self.fresh(hint)
        made = helper.make_node(
            op_type, inputs, [name, *further], name=self.fresh(f"{hint}/{op_type}"), domain=domain, **own
        )
        self._pending.append(made)
        self._made.setdefault(key, name)
        self.counts.nodes_added += 1
        return name

    def last(self) -> NodeProto:
        """The node made last, to attach metadata to."""
        return self._pending[-1]

    def place(self, before: NodeProto) -> None:
        """The pending nodes will stand right before an original node of the graph."""
        self._inserted.setdefault(id(before), []).extend(self._pending)
        self._pending = []

    def take_over(self, value: str) -> None:
        """Free the name of a value for a new producer; the old producer gets another output name."""
        node = self._producers[value]
        spare = self.fresh(f"{value}/unfused")
        node.output[list(node.output).index(value)] = spare

    # --- what the model takes in and hands out ---------------------------------------------------------

    def add_input(self, hint: str, dtype: int, shape: Sequence[int | str]) -> str:
        """A further input of the graph, behind the others.  Returns its name."""
        name = self.fresh(hint)
        self.graph.input.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def remove_input(self, name: str) -> None:
        """An input that nothing reads any more goes."""
        _drop(self.graph.input, lambda entry: entry.name == name)

    def set_shape(self, name: str, shape: Sequence[int | str]) -> None:
        """The declared shape of an input or an output, whose type stays."""
        for entry in (*self.graph.input, *self.graph.output):
            if entry.name == name:
                dtype = entry.type.tensor_type.elem_type
                entry.type.CopyFrom(helper.make_tensor_type_proto(dtype, list(shape)))

    def fix_extent(self, name: str, axis: int, extent: int) -> None:
        """One declared extent of an input or an output."""
        for entry in (*self.graph.input, *self.graph.output):
            if entry.name == name:
                entry.type.tensor_type.shape.dim[axis].dim_value = extent

    # --- layouts in any opset --------------------------------------------------------------------------

    def transpose(self, value: str, perm: list[int], hint: str, *, output: str = "") -> str:
        """Transpose; nothing for the identity."""
        return value if perm == sorted(perm) else self.node("Transpose", [value], hint, output=output, perm=perm)

    def unsqueeze(self, value: str, axes: list[int], hint: str, *, output: str = "") -> str:
        """Unsqueeze; nothing without axes."""
        return self._with_axes("Unsqueeze", value, axes, hint, output)

    def squeeze(self, value: str, axes: list[int], hint: str, *, output: str = "") -> str:
        """Squeeze; nothing without axes."""
        return self._with_axes("Squeeze", value, axes, hint, output)

    def _with_axes(self, op_type: str, value: str, axes: list[int], hint: str, output: str) -> str:
        """An operator whose axes became an input in opset 13."""
        if not axes:
            return value
        if self.opset < 13:
            return self.node(op_type, [value], hint, output=output, axes=axes)
        return self.node(op_type, [value, self.integers(axes, f"{hint}/axes")], hint, output=output)

    def cast(self, value: str, source: int, target: int, hint: str, *, output: str = "") -> str:
        """Cast; nothing if the type is right already."""
        return value if source == target else self.node("Cast", [value], hint, output=output, to=target)

    def extents(self, value: str, axes: list[int], hint: str) -> str:
        """The extents of some axes as an int64 vector."""
        shape = self.node("Shape", [value], f"{hint}/shape")
        return self.node("Gather", [shape, self.integers(axes, f"{hint}/axes")], f"{hint}/extents", axis=0)

    def reshape(self, value: str, target: list[int | tuple[str, int]], hint: str, *, output: str = "") -> str:
        """Reshape to numbers, at most one -1, and extents (tensor, axis) read at run time."""
        numbers = [t for t in target if isinstance(t, int)]
        if len(numbers) == len(target):
            to = self.integers(numbers, f"{hint}/to")
        else:
            parts = [
                self.integers([t], f"{hint}/to") if isinstance(t, int) else self.extents(t[0], [t[1]], hint)
                for t in target
            ]
            to = self.node("Concat", parts, f"{hint}/to", axis=0)
        return self.node("Reshape", [value, to], hint, output=output)

    # --- removing ----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the changes into the graph and remove what they made superfluous."""
        if not self._inserted:
            return
        nodes: list[NodeProto] = []
        for node in self._nodes:
            nodes.extend(self._inserted.get(id(node), ()))
            nodes.append(node)
        if not self._sweep(nodes):
            arrange(self.graph, nodes)
        self._nodes, self._inserted = [], {}

    def sweep(self) -> None:
        """Remove nodes that no graph output needs, and initializers that only they used.

        Nodes that were dead before go as well, since they may read what is gone now.
        """
        self._sweep(list(self.graph.node))

    def _sweep(self, nodes: list[NodeProto]) -> bool:
        """Make the living ones of these the graph's nodes; False, and nothing is done, where all are alive."""
        dead = dead_nodes(self.graph, nodes)
        if not dead:
            return False
        gone = {o for n in dead for o in n.output if o}
        kept = [n for n in nodes if not any(o in gone for o in n.output if o)]
        self.counts.nodes_removed += len(nodes) - len(kept)
        freed = {i for n in dead for i in uses(n)}
        arrange(self.graph, kept)
        used = used_names(self.graph)
        inputs = {i.name for i in self.graph.input}
        unused = {n for n in freed if n not in used and n not in inputs}
        self.counts.initializers_removed += _drop(self.graph.initializer, lambda t: t.name in unused)
        self.counts.initializers_removed += _drop(self.graph.sparse_initializer, lambda t: t.values.name in unused)
        _drop(self.graph.value_info, lambda v: v.name in gone or v.name in unused)
        return True


def uses(node: NodeProto) -> list[str]:
    """Names that a node reads, those read inside its bodies included."""
    found = [i for i in node.input if i]
    pending = [body for _, body in subgraphs(node)] if node.attribute else []
    while pending:
        graph = pending.pop()
        found.extend(o.name for o in graph.output)
        for inner in graph.node:
            found.extend(i for i in inner.input if i)
        pending.extend(body for _, _, body in bodies(graph.node))
    return found


def fresh(hint: str, taken: set[str]) -> str:
    """A name that is not taken; it is from now on."""
    name, number = hint, 1
    while name in taken:
        number += 1
        name = f"{hint}_{number}"
    taken.add(name)
    return name


def used_names(graph: GraphProto) -> set[str]:
    """Names that the outputs and the nodes of a graph read, those read in bodies included."""
    used = {o.name for o in graph.output}
    for node in graph.node:
        used.update(uses(node))
    return used


def dead_nodes(graph: GraphProto, nodes: list[NodeProto]) -> list[NodeProto]:
    """Nodes from which no output of the graph can be reached."""
    live = {o.name for o in graph.output}
    dead = []
    for node in reversed(nodes):
        if any(o in live for o in node.output if o):
            live.update(uses(node))
        else:
            dead.append(node)
    return dead


def all_names(model: ModelProto) -> set[str]:
    """Every name in the model, in all scopes, so that new names do not collide with these."""
    found: set[str] = set()
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        found.update(v.name for v in (*graph.input, *graph.output, *graph.value_info))
        found.update(t.name for t in graph.initializer)
        for node in graph.node:
            found.add(node.name)
            found.update(node.output)
            found.update(node.input)
        pending.extend(body for _, _, body in bodies(graph.node))
    return found


def _drop(entries: Any, unwanted: Callable[[Any], bool]) -> int:
    """Remove entries of a repeated field, and return how many.  The others keep their order.

    They are removed together, since one by one would move the rest each time.
    """
    before = len(entries)
    count = sum(1 for e in entries if unwanted(e))
    if count:
        entries.sort(key=unwanted)
        del entries[before - count :]
    return count


def arrange(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Make these the nodes of a graph, in this order.

    Nodes that the graph has already are moved and not copied.  A graph may have a million, and protobuf gives the
    memory of replaced nodes back only with the whole model.
    """
    held = list(graph.node)  # as long as they are held, they keep their identity
    own = {id(n) for n in held}
    graph.node.extend(n for n in nodes if id(n) not in own)
    added = iter(list(graph.node)[len(held) :])
    order = [n if id(n) in own else next(added) for n in nodes]
    place = {id(n): k for k, n in enumerate(order)}
    graph.node.sort(key=lambda n: place.get(id(n), len(place)))
    del graph.node[len(order) :]


def float_type(data_type: int) -> bool:
    """Whether the fused node computes in this type."""
    return data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def set_attribute(node: NodeProto, name: str, value: str | bytes | float | int) -> None:
    """Give a node an attribute, in place of one with that name."""
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def call_as(model: ModelProto, node: NodeProto, domain: str) -> None:
    """Make a node call the same function under another domain; the function is copied there once.

    Args:
        model: The model that the node is in.
        node: Calls a model-local function.
        domain: Of the copy.

    Raises:
        ValueError: The model has no such function.
    """
    known = {(function.domain, function.name): function for function in model.functions}
    function = known.get((node.domain, node.op_type))
    if function is None:
        raise ValueError(f"the model has no function {node.domain}::{node.op_type}")
    if (domain, node.op_type) not in known:
        copied = model.functions.add()
        copied.CopyFrom(function)
        copied.domain = domain
    if all(entry.domain != domain for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, 1))
    node.domain = domain


def set_metadata(node: NodeProto, entries: dict[str, str]) -> None:
    """Provenance of a node, as metadata_props (IR version 10), with one entry per key."""
    for key, value in entries.items():
        entry = onnx.StringStringEntryProto()
        entry.key, entry.value = key, value
        node.metadata_props.append(entry)
