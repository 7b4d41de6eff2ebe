"""Mistakes in a graph: one small change of an exported model that a prover must not overlook.

A mutation changes a copy of a model in place and says in words what it did.  It need not make the model wrong, nor
valid: whoever uses it runs the result (``mutant_judge``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.shape_inference
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
INTEGERS = (TensorProto.INT64, TensorProto.INT32)
OTHER_TYPES = (
    *("FLOAT16", "BFLOAT16", "DOUBLE", "INT32", "INT64", "INT16", "INT8", "UINT8", "UINT16", "UINT32", "UINT64"),
    *("BOOL", "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT"),
)
GROUPS = (
    ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod"),
    ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"),
    ("And", "Or", "Xor"),
    ("Neg", "Abs", "Identity", "Relu", "Sqrt", "Floor", "Ceil", "Round", "Sign", "Exp", "Log", "Tanh", "Reciprocal"),
    ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"),
    ("Softmax", "LogSoftmax", "Hardmax"),
    ("Squeeze", "Unsqueeze"),
    ("Tile", "Expand"),
)
"""Operators that take the same inputs."""

NUMBERS = (0, 1, -1, 2, 3, -2, 7, 17, 64, 255, 256, 257, 1 << 16, 1 << 24, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1)
BOUNDS = (65504.0, -65504.0, -10000.0, -1e9, 3.4028235e38, -3.4028235e38, 1.0, 0.0, 100.0, -100.0, 2048.0, 1000.0)


class Inapplicable(Exception):
    """This mutation has nothing to change at this node."""


@dataclass(frozen=True)
class Target:
    """A model that is mutated.

    Attributes:
        model: The model; it is not changed.
        nodes: Nodes that may be changed, some of them more than once so that they are chosen more often: the way into
            bodies (node, attribute), and the position there.
        types: Element type per value.
        ranks: Rank per value, where it is known.
    """

    model: ModelProto
    nodes: tuple[tuple[tuple[tuple[int, int], ...], int], ...]
    types: dict[str, int]
    ranks: dict[str, int]


def target_of(model: ModelProto) -> Target:
    """What may be mutated: all that the last value is computed from, down to products with weights."""
    graph = model.graph
    weights = {t.name for t in graph.initializer}
    maker = {o: n for n, node in enumerate(graph.node) for o in node.output if o}
    heavy = {n for n, node in enumerate(graph.node) if _is_layer(node, weights, graph)}
    seen: set[int] = set()
    pending = [o.name for o in graph.output]
    while pending:
        place = maker.get(pending.pop())
        if place is None or place in seen or place in heavy:
            continue
        seen.add(place)
        if graph.node[place].op_type != "Shape":
            pending.extend(graph.node[place].input)
    beyond: dict[int, bool] = {}
    for n, node in enumerate(graph.node):  # nodes are sorted
        makers = [maker[i] for i in node.input if i in maker]
        beyond[n] = node.op_type != "Shape" and (n in heavy or any(beyond.get(m, False) for m in makers))
    chosen = [((), n) for n in sorted(seen) for _ in range(1 if beyond[n] else 4)]
    chosen += [place for n in sorted(seen) for place in _inside(graph.node[n], n)]
    inferred = onnx.shape_inference.infer_shapes(model)
    types: dict[str, int] = {t.name: t.data_type for t in graph.initializer}
    ranks: dict[str, int] = {t.name: len(t.dims) for t in graph.initializer}
    for value in _values(inferred.graph):
        kind = value.type.tensor_type
        types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            ranks[value.name] = len(kind.shape.dim)
    return Target(model, tuple(chosen), types, ranks)


def _inside(node: NodeProto, position: int) -> Iterator[tuple[tuple[tuple[int, int], ...], int]]:
    """Nodes in the bodies of a node."""
    for number, attribute in enumerate(node.attribute):
        if attribute.type == AttributeProto.GRAPH:
            for n, inner in enumerate(attribute.g.node):
                yield ((position, number),), n
                for way, place in _inside(inner, n):
                    yield ((position, number), *way), place


def _is_layer(node: NodeProto, weights: set[str], graph: onnx.GraphProto) -> bool:
    """Whether a node is a product with weights, a normalisation, or a table of embeddings."""
    if "Normalization" in node.op_type:
        return True
    sizes = {t.name: int(np.prod(t.dims, dtype=np.int64)) for t in graph.initializer if t.name in node.input}
    if node.op_type in ("MatMul", "Gemm"):
        return any(i in weights for i in node.input[:2])
    return node.op_type == "Gather" and sizes.get(node.input[0], 0) > 512 and len(node.input[0]) > 0


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from (*graph.value_info, *graph.input, *graph.output)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _values(attribute.g)


def mutate(rng: random.Random, target: Target) -> tuple[ModelProto, str]:
    """A copy of the model with one mistake, and what it is.

    Raises:
        Inapplicable: There is nothing to change.
    """
    for _ in range(1000 if target.nodes else 0):
        model = ModelProto()
        model.CopyFrom(target.model)
        way, place = rng.choice(target.nodes)
        change = rng.choices(CHANGES, [w for w, _ in WEIGHTED])[0]
        graph = model.graph
        for node, attribute in way:
            graph = graph.node[node].attribute[attribute].g
        edit = _Edit(rng, model, graph, place, target)
        try:
            said = change(edit)
        except (Inapplicable, OverflowError):
            continue
        return model, f"{edit.node.op_type} '{edit.name}': {said}"
    raise Inapplicable


class _Edit:
    """One node of the copy, and ways to change what is around it."""

    def __init__(
        self, rng: random.Random, model: ModelProto, graph: onnx.GraphProto, place: int, target: Target
    ) -> None:
        self.rng = rng
        self.model = model
        self.graph = graph
        self.node = graph.node[place]
        self.name = self.node.name or self.node.output[0]
        self.place = place
        self.target = target
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.made = 0

    def type(self, name: str) -> int:
        """The element type of a value."""
        found = self.target.types.get(name, 0)
        if not found:
            raise Inapplicable
        return found

    def constant(self, name: str) -> np.ndarray[Any, Any]:
        """The value of a constant."""
        for tensor in (*self.graph.initializer, *self.model.graph.initializer):
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        for node in self.graph.node:
            if node.op_type == "Constant" and name in node.output:
                return _value_of(node)
        raise Inapplicable

    def fresh(self, stem: str) -> str:
        """A name that is new."""
        self.made += 1
        return f"mutant/{stem}/{self.made}"

    def store(self, array: np.ndarray[Any, Any], stem: str = "constant") -> str:
        """A new constant."""
        name = self.fresh(stem)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def before(self, position: int, nodes: Callable[[str], list[NodeProto]]) -> None:
        """Puts nodes between an input and the node; the last one makes what the node reads."""
        made = nodes(self.node.input[position])
        self.node.input[position] = made[-1].output[0]
        rest = list(self.graph.node)
        place = next(n for n, other in enumerate(rest) if other is self.node or other == self.node)
        copies = [NodeProto.FromString(n.SerializeToString()) for n in (*rest[:place], *made, *rest[place:])]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        self.node = self.graph.node[place + len(made)]

    def input(self, kinds: tuple[int, ...] = ()) -> int:
        """An input of the node of one of the types."""
        found = [n for n, i in enumerate(self.node.input) if i and (not kinds or self.target.types.get(i, 0) in kinds)]
        if not found:
            raise Inapplicable
        return self.rng.choice(found)


def _value_of(node: NodeProto) -> np.ndarray[Any, Any]:
    attribute = node.attribute[0]
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    found = helper.get_attribute_value(attribute)
    if attribute.name in ("value_int", "value_ints"):
        return np.asarray(found, np.int64)
    if attribute.name in ("value_float", "value_floats"):
        return np.asarray(found, np.float32)
    raise Inapplicable


# --- constants -----------------------------------------------------------------------------------------------


def _constant(edit: _Edit) -> str:
    """Another number in a constant that the node reads."""
    position = edit.input()
    array = edit.constant(edit.node.input[position])
    if not array.size or array.size > 1 << 16 or array.dtype.kind not in "biuf":
        raise Inapplicable
    changed = np.array(array)
    said = _change_array(edit.rng, changed)
    if changed.tobytes() == array.tobytes():
        raise Inapplicable
    # Others that read the same constant keep it: a mistake is made at one place, or everywhere.
    if edit.rng.random() < 0.7:
        edit.node.input[position] = edit.store(changed)
        return f"input {position}, a constant: {said}"
    name = edit.node.input[position]
    for tensor in edit.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(changed, name))
            return f"constant '{name}' wherever it is read: {said}"
    edit.node.input[position] = edit.store(changed)
    return f"input {position}, a constant: {said}"


def _change_array(rng: random.Random, array: np.ndarray[Any, Any]) -> str:
    flat = array.reshape(-1)
    place = rng.randrange(flat.size)
    was = flat[place]
    whole = rng.random() < 0.3 and flat.size > 1
    if array.dtype == np.bool_:
        flat[place] = not was
        return f"entry {place} of {flat.size} is {flat[place]}"
    if flat.size > 1 and rng.random() < 0.2:
        other = rng.choice(("swap", "roll", "reverse"))
        if other == "swap":
            second = rng.randrange(flat.size)
            flat[[place, second]] = flat[[second, place]]
            return f"entries {place} and {second} of {flat.size} swapped"
        flat[:] = np.roll(flat, 1) if other == "roll" else flat[::-1].copy()
        return f"{other} of {flat.size} entries"
    if array.dtype.kind in "iu":
        step = rng.choice((1, -1, 2, -2, 0, None, None))
        if step == 0:
            new = -int(was)
        elif step is None:
            new = rng.choice(NUMBERS)
        else:
            new = int(was) + step
        info = np.iinfo(array.dtype)
        new = min(max(new, int(info.min)), int(info.max))
        if whole:
            flat[:] = flat + (new - int(was)) if abs(new - int(was)) < 100 else new
            return f"all {flat.size} entries moved by {new - int(was)}"
        flat[place] = new
        return f"entry {place} of {flat.size} is {new} and not {was}"
    kind = rng.randrange(7)
    with np.errstate(all="ignore"):
        made = [was * 1.01, was * 2, -was, was * 0, was + 1, rng.choice(BOUNDS), was * (1 + 2.0**-12)][kind]
        if whole and kind in (0, 1, 2, 4, 6):
            flat[:] = [flat * 1.01, flat * 2, -flat, flat, flat + 1, flat, flat * (1 + 2.0**-12)][kind]
            return f"all {flat.size} entries, like {was} to {made}"
        flat[place] = made
    return f"entry {place} of {flat.size} is {flat[place]} and not {was}"


# --- inputs --------------------------------------------------------------------------------------------------


def _swap(edit: _Edit) -> str:
    """Two inputs swapped."""
    if len(edit.node.input) < 2:
        raise Inapplicable
    a, b = edit.rng.sample(range(len(edit.node.input)), 2)
    left, right = edit.node.input[a], edit.node.input[b]
    if left == right or not left or not right:
        raise Inapplicable
    edit.node.input[a], edit.node.input[b] = right, left
    return f"inputs {a} and {b} swapped"


def _rewire(edit: _Edit) -> str:
    """Another value of the same type and rank in place of an input."""
    position = edit.input()
    name = edit.node.input[position]
    kind, rank = edit.type(name), edit.target.ranks.get(name)
    earlier = [o for n in list(edit.graph.node)[: edit.place] for o in n.output]
    earlier += [i.name for i in edit.graph.input]
    found = [o for o in earlier if edit.target.types.get(o) == kind and edit.target.ranks.get(o) == rank and o != name]
    if not found:
        raise Inapplicable
    other = edit.rng.choice(found)
    edit.node.input[position] = other
    return f"input {position} is '{other}' and not '{name}'"


def _drop(edit: _Edit) -> str:
    """An optional input left out."""
    if len(edit.node.input) < 2:
        raise Inapplicable
    position = edit.rng.randrange(1, len(edit.node.input))
    if position == len(edit.node.input) - 1:
        edit.node.input.pop()
    else:
        edit.node.input[position] = ""
    return f"input {position} left out"


def _bypass(edit: _Edit) -> str:
    """The node left out.  Its readers read its input."""
    node = edit.node
    if not node.input or any(o.name in node.output for o in edit.graph.output):
        raise Inapplicable
    position = edit.input()
    if edit.type(node.input[position]) != edit.type(node.output[0]):
        raise Inapplicable
    for other in edit.graph.node:
        for n, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[n] = node.input[position]
    return f"left out, its input {position} taken"


# --- attributes ----------------------------------------------------------------------------------------------


def _attribute(edit: _Edit) -> str:
    """Another value of an attribute: a flag, an axis, a permutation, a type."""
    found = [
        a for a in edit.node.attribute if a.type in (AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT)
    ]
    if not found:
        raise Inapplicable
    attribute = edit.rng.choice(found)
    if attribute.type == AttributeProto.FLOAT:
        was: Any = attribute.f
        attribute.f = edit.rng.choice((was * 2, -was, was + 1, was * 1.01))
        return f"{attribute.name} = {attribute.f} and not {was}"
    if attribute.type == AttributeProto.INTS:
        was = list(attribute.ints)
        made = list(was)
        if len(made) > 1 and (attribute.name == "perm" or edit.rng.random() < 0.5):
            a, b = edit.rng.sample(range(len(made)), 2)
            made[a], made[b] = made[b], made[a]
        elif made:
            made[edit.rng.randrange(len(made))] += edit.rng.choice((1, -1))
        del attribute.ints[:]
        attribute.ints.extend(made)
        if made == was:
            raise Inapplicable
        return f"{attribute.name} = {made} and not {was}"
    was = attribute.i
    if attribute.name == "to":
        attribute.i = _other_type(edit, edit.type(edit.node.input[0]))
    elif was in (0, 1) and "axis" not in attribute.name:
        attribute.i = 1 - was
    else:
        attribute.i = was + edit.rng.choice((1, -1, 2))
    if attribute.i == was:
        raise Inapplicable
    return f"{attribute.name} = {attribute.i} and not {was}"


def _schema(edit: _Edit) -> onnx.defs.OpSchema:
    try:
        if edit.node.domain in ("", "ai.onnx"):
            return onnx.defs.get_schema(edit.node.op_type, edit.opset, "")
    except onnx.defs.SchemaError:
        pass
    raise Inapplicable


def _flag(edit: _Edit) -> str:
    """An attribute that the standard has and the node does not, other than by default."""
    given = {a.name for a in edit.node.attribute}
    found = [a for a in _schema(edit).attributes.values() if a.name not in given]
    if edit.node.domain == "com.microsoft":
        raise Inapplicable
    if not found:
        raise Inapplicable
    chosen = edit.rng.choice(sorted(found, key=lambda a: str(a.name)))
    kind = str(chosen.type).rsplit(".", 1)[-1]
    default = helper.get_attribute_value(chosen.default_value) if chosen.default_value.type else None
    if kind == "INT":
        value: Any = 1 - default if default in (0, 1) else edit.rng.choice((0, 1, 2, -2, 4))
    elif kind == "FLOAT":
        value = edit.rng.choice((0.5, 2.0, -1.0, 100.0))
    elif kind == "INTS":
        value = edit.rng.choice(([0], [1], [1, 0], [0, 2, 1, 3], [-1]))
    elif kind == "STRING":
        value = edit.rng.choice(("tanh", "reflect", "edge", "wrap", "add", "mul", "max", "min"))
    else:
        raise Inapplicable
    edit.node.attribute.append(helper.make_attribute(chosen.name, value))
    return f"{chosen.name} = {value}, which was not there"


VENDOR_FLAGS: dict[str, tuple[tuple[str, Any], ...]] = {
    "MultiHeadAttention": (("unidirectional", 1), ("mask_filter_value", -1.0), ("scale", 0.25)),
    "GroupQueryAttention": (("local_window_size", 3), ("softcap", 2.0), ("do_rotary", 1), ("scale", 0.25)),
    "Attention": (("unidirectional", 1), ("do_rotary", 1), ("scale", 0.25), ("mask_filter_value", -1.0)),
    "FusedMatMul": (("transA", 1), ("transB", 1), ("transBatchA", 1), ("transBatchB", 1), ("alpha", 0.5)),
}


def _vendor_flag(edit: _Edit) -> str:
    """An attribute of one of onnxruntime's own operators."""
    if edit.node.domain != "com.microsoft" or edit.node.op_type not in VENDOR_FLAGS:
        raise Inapplicable
    name, value = edit.rng.choice(VENDOR_FLAGS[edit.node.op_type])
    kept = [a for a in edit.node.attribute if a.name != name]
    del edit.node.attribute[:]
    edit.node.attribute.extend((*kept, helper.make_attribute(name, value)))
    return f"{name} = {value}"


# --- operators and types -------------------------------------------------------------------------------------


def _operator(edit: _Edit) -> str:
    """Another operator that takes the same inputs."""
    group = next((g for g in GROUPS if edit.node.op_type in g), None)
    if group is None or edit.node.domain not in ("", "ai.onnx"):
        raise Inapplicable
    was = edit.node.op_type
    edit.node.op_type = edit.rng.choice([o for o in group if o != was])
    if was in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod"):
        del edit.node.attribute[:]
        if edit.node.op_type == "Mod" and edit.target.types.get(edit.node.input[0], 0) in FLOATS:
            edit.node.attribute.append(helper.make_attribute("fmod", 1))
    return f"{edit.node.op_type} and not {was}"


def _through(edit: _Edit) -> str:
    """An input goes through another type and back."""
    position = edit.input((*FLOATS, *INTEGERS))
    name = edit.node.input[position]
    kind = edit.type(name)
    other = _other_type(edit, kind)
    there, back = edit.fresh("there"), edit.fresh("back")
    edit.before(
        position,
        lambda value: [
            helper.make_node("Cast", [value], [there], to=other),
            helper.make_node("Cast", [there], [back], to=kind),
        ],
    )
    return f"input {position} goes through {TensorProto.DataType.Name(other)}"


def _other_type(edit: _Edit, kind: int) -> int:
    """A type to cast to; what a negative float becomes as an unsigned integer is different on every processor."""
    unsigned = kind in FLOATS
    names = [t for t in OTHER_TYPES if not (unsigned and t.startswith("UINT"))]
    return int(edit.rng.choice([v for t in names if (v := TensorProto.DataType.Value(t)) != kind]))


def _computed_in(edit: _Edit) -> str:
    """The node computes in another type."""
    node = edit.node
    if node.op_type not in ("Add", "Sub", "Mul", "Div", "Range", "CumSum", "Neg", "Abs", "Max", "Min", "Pow", "Mod"):
        raise Inapplicable
    kind = edit.type(node.output[0])
    if any(o.name == node.output[0] for o in edit.graph.output):
        raise Inapplicable
    other = TensorProto.DataType.Value(
        edit.rng.choice(
            ("FLOAT16", "BFLOAT16", "INT32", "INT64", "DOUBLE", "FLOAT", "INT16", "INT8", "UINT8", "UINT32")
        )
    )
    if other == kind or (kind in FLOATS and TensorProto.DataType.Name(other).startswith("UINT")):
        raise Inapplicable
    count = 1 if node.op_type == "CumSum" else len(node.input)
    casts = []
    for position in range(count):
        casts.append(helper.make_node("Cast", [node.input[position]], [edit.fresh("operand")], to=other))
        node.input[position] = casts[-1].output[0]
    own = edit.fresh("result")
    back = helper.make_node("Cast", [own], [node.output[0]], to=kind)
    node.output[0] = own
    rest = list(edit.graph.node)
    place = next(n for n, one in enumerate(rest) if own in one.output)
    made = [
        NodeProto.FromString(n.SerializeToString()) for n in (*rest[:place], *casts, node, back, *rest[place + 1 :])
    ]
    del edit.graph.node[:]
    edit.graph.node.extend(made)
    edit.node = edit.graph.node[place + len(casts)]
    return f"computes in {TensorProto.DataType.Name(other)}"


def _inserted(edit: _Edit) -> str:
    """An operator between an input and the node: a bound, a factor, a residue, a shift."""
    position = edit.input((*FLOATS, *INTEGERS))
    name = edit.node.input[position]
    kind = edit.type(name)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    whole = kind in INTEGERS
    rng = edit.rng

    def number(value: float) -> str:
        if whole:
            info = np.iinfo(dtype)
            return edit.store(np.array(min(max(int(value), int(info.min)), int(info.max))).astype(dtype))
        with np.errstate(all="ignore"):
            return edit.store(np.array(value).astype(dtype))

    choice = rng.choice(
        ("Min", "Max", "Clip", "Mul", "Add", "Abs", "Neg", "Mod", "wrap", "Floor", "Relu", "roll", "Sub")
    )
    bound = rng.choice(BOUNDS if not whole else NUMBERS)
    out = edit.fresh("value")
    if choice in ("Min", "Max", "Add", "Sub", "Mul"):
        if choice == "Max" and bound > 1 << 16:
            raise Inapplicable  # positions that are no numbers of tokens: all that is left of them is rounding
        value = bound if choice in ("Min", "Max") else rng.choice((1, -1, 2, 0.5, 3, 1.01, -1e4, 65504))
        constant = number(value)
        edit.before(position, lambda v: [helper.make_node(choice, [v, constant], [out])])
        return f"input {position} goes through {choice} with {value}"
    if choice == "Clip":
        low, high = number(-abs(bound)), number(abs(bound))
        chosen = rng.choice(([low, high], [low, ""], ["", high]))
        if edit.opset < 12:
            raise Inapplicable
        edit.before(position, lambda v: [helper.make_node("Clip", [v, *chosen], [out])])
        return f"input {position} goes through Clip at {abs(bound)}, bounds {[bool(c) for c in chosen]}"
    if choice == "Mod":
        constant = number(rng.choice((2, 64, 2048, 4096)))
        edit.before(position, lambda v: [helper.make_node("Mod", [v, constant], [out], fmod=0 if whole else 1)])
        return f"input {position} goes through Mod"
    if choice == "wrap":
        factor = number(rng.choice((1 << 20, 1 << 24, 1 << 53)))
        mid = edit.fresh("large")
        edit.before(
            position,
            lambda v: [helper.make_node("Mul", [v, factor], [mid]), helper.make_node("Div", [mid, factor], [out])],
        )
        return f"input {position} is multiplied and divided by a large number"
    if choice == "roll":
        rank = edit.target.ranks.get(name, 0)
        if not rank or edit.opset < 10:
            raise Inapplicable
        axis = edit.store(np.array([rng.randrange(rank)]))
        one, zero, end = (edit.store(np.array([v])) for v in (1, 0, (1 << 63) - 1))
        first, rest = edit.fresh("first"), edit.fresh("rest")
        edit.before(
            position,
            lambda v: [
                helper.make_node("Slice", [v, zero, one, axis], [first]),
                helper.make_node("Slice", [v, one, end, axis], [rest]),
                helper.make_node("Concat", [rest, first], [out], axis=int(edit.constant(axis)[0])),
            ],
        )
        return f"input {position} is rolled along axis {int(edit.constant(axis)[0])}"
    if choice == "Floor" and whole:
        raise Inapplicable
    edit.before(position, lambda v: [helper.make_node(choice, [v], [out])])
    return f"input {position} goes through {choice}"


def _integers(edit: _Edit) -> str:
    """One of the small integers around the node: an index, a bound, a step, an axis."""
    if edit.node.op_type not in (
        "Slice",
        "Gather",
        "Range",
        "Reshape",
        "Expand",
        "Concat",
        "Pad",
        "Trilu",
        "CumSum",
        "Tile",
    ):
        raise Inapplicable
    found = []
    for position, name in enumerate(edit.node.input):
        try:
            array = edit.constant(name) if name else None
        except Inapplicable:
            continue
        if array is not None and 0 < array.size <= 8 and array.dtype.kind == "i":
            found.append((position, array))
    if not found:
        raise Inapplicable
    position, array = edit.rng.choice(found)
    changed = np.array(array)
    place = edit.rng.randrange(changed.size)
    was = int(changed.reshape(-1)[place])
    made = edit.rng.choice((was + 1, was - 1, was + 2, -was, 0, 1, -1, 2))
    if made == was:
        raise Inapplicable
    changed.reshape(-1)[place] = made
    edit.node.input[position] = edit.store(changed)
    return f"input {position}, entry {place} of {changed.size}, is {made} and not {was}"


WEIGHTED: tuple[tuple[int, Callable[[_Edit], str]], ...] = (
    (5, _constant),
    (3, _integers),
    (2, _swap),
    (3, _rewire),
    (1, _drop),
    (2, _bypass),
    (4, _attribute),
    (2, _flag),
    (2, _vendor_flag),
    (4, _operator),
    (4, _through),
    (3, _computed_in),
    (5, _inserted),
)
CHANGES = [change for _, change in WEIGHTED]


def mutants(target: Target, seed: str) -> Iterator[tuple[ModelProto, str]]:
    """An endless row of mutants, decided by the seed."""
    number = 0
    while True:
        yield mutate(random.Random(f"{seed}-{number}"), target)
        number += 1
