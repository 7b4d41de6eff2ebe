"""Cutting one site out of a graph: the nodes between its operands and its output, without foreign weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ...algebra import Poly
from ...graph.index import Scope, operator, subgraphs
from ..interpret import Interpreter
from ..interpret.shapes import MAX_EXTENT
from ..recognise.products import is_contraction
from ..recognise.values import value_product
from ..records.site import Site
from ..verdicts import Refusal

MAX_ELEMENTS = 4096
"""Constants with more elements become graph inputs."""

MAX_NAME = 60
"""Longer extents are left open, since people do not read them and tools limit their length."""


@dataclass
class Cut:
    """A part of a graph.

    Attributes:
        nodes: Its nodes, in graph order.
        inputs: Tensors that come from outside.
        outputs: Tensors that it is cut out for.
        constants: Small constants.
    """

    nodes: list[NodeProto] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)


def cut(
    scope: Scope,
    outputs: Iterable[str],
    operands: frozenset[str],
    products: frozenset[int],
    *,
    largest: int | None = MAX_ELEMENTS,
    measured: Callable[[str], bool] = lambda tensor: False,
    foreign: Callable[[NodeProto], bool] | None = None,
) -> Cut:
    """Everything that the outputs are computed from, down to the operands.

    Args:
        scope: The graph.
        outputs: What to cut out.
        operands: Tensors not to go beyond.
        products: Matrix products that belong to the site, by identity; beyond any other one lie foreign weights.
        largest: Constants of more elements become inputs; None keeps all of them.
        measured: Whether a tensor's shape is known apart from the graph: a Shape of it then becomes an input.
        foreign: Whether a node that is no product of the site lies beyond it; products are, if None.
    """
    found = Cut(outputs=list(dict.fromkeys(outputs)))
    beyond = foreign or is_contraction
    chosen: dict[int, NodeProto] = {}
    needed: set[str] = set()
    shapes_of: dict[str, None] = {}
    pending = list(found.outputs)
    while pending:
        name = pending.pop()
        if name in needed or not name:
            continue
        needed.add(name)
        node = None if name in operands else scope.producer(name)
        if name not in operands and (_is_initializer(scope, name) or _is_read(scope, name, node)):
            _constant(scope, name, found, largest)
        elif (
            node is None
            or (id(node) not in products and beyond(node))
            or any(True for _ in subgraphs(node))
            or (operator(node) == "Shape" and measured(node.input[0]))
        ):
            found.inputs.append(name)
        elif id(node) not in chosen:
            chosen[id(node)] = node
            if operator(node) == "Shape":
                shapes_of[node.input[0]] = None  # only its extents matter, not how it is computed
            else:
                pending.extend(node.input)
    found.inputs.extend(n for n in shapes_of if n not in needed)
    found.nodes = sorted(chosen.values(), key=lambda n: scope.order.get(id(n), -1))
    found.inputs = sorted(dict.fromkeys(found.inputs))
    made = {o for n in found.nodes for o in n.output}
    found.outputs = [o for o in found.outputs if o in made]
    return found


def _is_initializer(scope: Scope, name: str) -> bool:
    owner = scope.owner(name)
    return owner is not None and name in owner.initializers


def _is_read(scope: Scope, name: str, node: NodeProto | None) -> bool:
    """Whether a node is a Constant whose data can be read; one of another kind stays a node."""
    return node is not None and node.op_type == "Constant" and scope.constant(name) is not None


def _constant(scope: Scope, name: str, found: Cut, largest: int | None) -> None:
    owner = scope.owner(name)
    tensor = None if owner is None else owner.initializers.get(name)
    if tensor is not None and largest is None and owner is not None and name not in owner.inputs:
        found.constants.append(tensor)
        return
    if tensor is not None and largest is not None and _count(tensor.dims) > largest:
        found.inputs.append(name)
        return
    array = scope.constant(name)
    if array is None or (largest is not None and array.size > largest):
        found.inputs.append(name)
    else:
        found.constants.append(numpy_helper.from_array(array, name))


def _count(dims: Iterable[int]) -> int:
    total = 1
    for extent in dims:
        total *= extent
    return total


def products_of(site: Site) -> frozenset[int]:
    """The product of query and key, and that with the values, by identity."""
    reading = site.reading
    above = site.scope.producer(reading.product) if reading is not None and reading.product else None
    return frozenset(id(n) for n in (above, weighing(site)) if n is not None)


def weighing(site: Site) -> NodeProto | None:
    """The product of probabilities and values; None for an operator, and where no product follows."""
    if operator(site.anchor) != "Softmax":
        return None
    if site.reading is not None:
        return site.scope.producer(site.reading.weighing)
    try:
        return value_product(site.interpreter, site.anchor)[0]
    except Refusal:
        return None


def model_of(part: Cut, whole: ModelProto, interpreter: Interpreter, title: str) -> ModelProto:
    """The part as a model of its own, with types and shapes as far as they are known."""
    known = cache(lambda: _declared(whole))
    names = [o for n in part.nodes for o in n.output if o and o not in part.outputs]
    infos = [v for n in names if (v := _value(interpreter, known, n, guess=False)) is not None]
    graph = helper.make_graph(
        [_copy(n) for n in part.nodes],
        title,
        [v for n in part.inputs if (v := _value(interpreter, known, n)) is not None],
        _shaped([v for n in part.outputs if (v := _value(interpreter, known, n)) is not None]),
        part.constants,
        value_info=infos,
    )
    used = {(n.domain, n.op_type) for n in part.nodes}
    made = helper.make_model(
        graph,
        opset_imports=list(whole.opset_import),
        ir_version=whole.ir_version,
        functions=[f for f in whole.functions if (f.domain, f.name) in used],
    )
    made.producer_name = "alibi-rewriter"
    return made


def _shaped(outputs: list[ValueInfoProto]) -> list[ValueInfoProto]:
    """Only the first output may lack a shape.  onnx requires one for each, and the others are by-products."""
    return outputs[:1] + [v for v in outputs[1:] if v.type.tensor_type.HasField("shape")]


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    # Exporters leave the source's stack trace on every node, which is ten times the size of the graph itself.
    copy.ClearField("doc_string")
    kept = [p for p in node.metadata_props if p.key.startswith("alibi")]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    return copy


def _declared(model: ModelProto) -> Mapping[str, ValueInfoProto]:
    graph = model.graph
    return {v.name: v for group in (graph.value_info, graph.input, graph.output) for v in group}


def _value(
    interpreter: Interpreter, known: Callable[[], Mapping[str, ValueInfoProto]], name: str, *, guess: bool = True
) -> ValueInfoProto | None:
    dims = interpreter.dims(name)
    kind = interpreter.dtype(name)
    if dims is None and name in known():
        return known()[name]
    if not kind and not guess:
        return None
    shape = None if dims is None else [_extent(d) for d in dims]
    value: ValueInfoProto = helper.make_tensor_value_info(name, kind or TensorProto.FLOAT, shape)
    return value


def _extent(dim: Poly) -> int | str | None:
    constant = dim.constant
    if constant is not None:
        return int(constant) if 0 <= constant < MAX_EXTENT else None
    text = repr(dim)
    return None if "?" in text or len(text) > MAX_NAME else text
