"""Extents and element types of every value, in one pass in graph order.

Extents are polynomials in the unknown sizes of the graph inputs.  Names of dynamic axes only give one input axis a
readable name.  That two axes are equal is always learned from an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from onnx import NodeProto, TensorProto, ValueInfoProto

from ...algebra import Poly, Size, of, poly
from ...base.errors import ModelRejected
from ...fused.family import BY_OP_TYPE, DOMAIN, MaskKind, is_fused
from ...fused.layout import OPERANDS, OperandView, extents_of, layout_of
from ...graph.index import MAX_RANK, Scope, attribute, int_attribute, label, subgraphs
from . import contrib
from .extents import RULES, Dims, broadcast
from .operators import KNOWN, OPERATORS, UNKNOWN, Extents
from .schemas import inferred

if TYPE_CHECKING:
    from .engine import Interpreter

MAX_EXTENT = 1 << 63
"""Extents are int64."""

STANDARD = ("", "ai.onnx")
KNOWN_DOMAINS = (*STANDARD, "com.microsoft")


def has_known_extents(node: NodeProto) -> bool:
    """Whether there is a rule for the extents of what a node makes."""
    if node.domain == "com.microsoft" and node.op_type in contrib.RULES:
        return True
    row = OPERATORS.get(node.op_type, UNKNOWN)
    return (node.op_type in RULES or row.extents is not Extents.BY_RULE) and node.domain in KNOWN_DOMAINS


def infer(interpreter: Interpreter, nodes: list[NodeProto]) -> None:
    """Fill ``extents`` and ``dtypes`` for the scope's inputs, constants and the nodes' outputs."""
    scope = interpreter.scope
    for value in scope.graph.input:
        _declare(interpreter, value, named=scope.parent is None)
    hints = {v.name: v for v in (*scope.graph.value_info, *scope.graph.output)}
    for tensor in scope.graph.initializer:
        if tensor.name not in scope.inputs:
            interpreter.extents[tensor.name] = tuple(poly(d) for d in tensor.dims)
            interpreter.dtypes[tensor.name] = tensor.data_type
    running = _running(scope)
    for node in nodes:
        if id(node) in running:
            _infer_node(interpreter, node, hints)
        else:
            with interpreter.nothing_learned():
                _infer_node(interpreter, node, hints)


def _running(scope: Scope) -> set[int]:
    """Nodes (by identity) that the outputs of a graph need.  A runtime drops the others, whatever they require."""
    found: set[int] = set()
    pending = sorted(scope.outputs)
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        node = scope.producers.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        if id(node) not in found:
            found.add(id(node))
            pending.extend(node.input)
            if node.attribute:
                pending.extend(_captured(node))
    return found


def _captured(node: NodeProto) -> Iterator[str]:
    """Names that the bodies inside a node mention.  What they take from outside is among them."""
    pending = [body for _, body in subgraphs(node)]
    while pending:
        body = pending.pop()
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from inner.input
            pending.extend(deeper for _, deeper in subgraphs(inner))


def _infer_node(interpreter: Interpreter, node: NodeProto, hints: Mapping[str, ValueInfoProto]) -> None:
    interpreter.guarded(node, partial(_infer_types, interpreter, node))
    dims_list = interpreter.guarded(node, partial(_infer_dims, interpreter, node)) or []
    for position, name in enumerate(node.output):
        if not name:
            continue
        dims = dims_list[position] if position < len(dims_list) else None
        hint = hints.get(name)
        if hint is not None and not interpreter.dtypes.get(name):
            interpreter.dtypes[name] = hint.type.tensor_type.elem_type
        if dims is None and hint is not None:
            dims = _hinted(interpreter, hint)
        interpreter.extents[name] = interpreter.guarded(node, partial(_normal, interpreter, node, dims))


def _normal(interpreter: Interpreter, node: NodeProto, dims: Dims) -> Dims:
    """Extents as they are remembered.

    Raises:
        ValueError: An extent is no number that a tensor can have.
        ModelRejected: There are too many.  A chain of operators can double them, and onnxruntime takes all memory then.
    """
    if dims is None:
        return None
    if len(dims) > MAX_RANK:
        raise ModelRejected(
            f"node '{label(node)}' makes a tensor of {len(dims)} axes; no more than {MAX_RANK} are read. "
            "Export the model again."
        )
    known = tuple(map(interpreter.facts.normal, dims))
    for extent in known:
        number = extent.constant
        if number is not None and not 0 <= number < MAX_EXTENT:
            raise ValueError("an extent that no tensor has")
    return known


def _declare(interpreter: Interpreter, value: ValueInfoProto, *, named: bool) -> None:
    tensor = value.type.tensor_type
    interpreter.dtypes[value.name] = tensor.elem_type
    if not tensor.HasField("shape") or len(tensor.shape.dim) > MAX_RANK:
        interpreter.extents[value.name] = None
        return
    dims = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(poly(dim.dim_value))
        elif dim.dim_param and named:
            dims.append(of(Size(dim.dim_param if dim.dim_param.isidentifier() else f"{value.name}.{axis}")))
        else:
            dims.append(of(Size(f"{value.name}.{axis}")))
    interpreter.extents[value.name] = tuple(dims)


def _hinted(interpreter: Interpreter, value: ValueInfoProto) -> Dims:
    """What the file says about a value that no rule knows: its rank and its fixed extents."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or len(tensor.shape.dim) > MAX_RANK:
        return None
    return tuple(
        poly(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else interpreter.fresh_size()
        for d in tensor.shape.dim
    )


def _infer_types(interpreter: Interpreter, node: NodeProto) -> None:
    result = _type(interpreter, node) if node.domain in (*KNOWN_DOMAINS, DOMAIN) else 0
    for name in node.output:
        if name:
            interpreter.dtypes[name] = result


def _type(interpreter: Interpreter, node: NodeProto) -> int:
    """The type of what a node makes, 0 where it is unknown."""
    kind, row = node.op_type, OPERATORS.get(node.op_type, UNKNOWN)
    if row.dtype:
        return row.dtype
    if row.typed_by:
        return next((d for p in row.typed_by if (d := interpreter.dtype(node.input[p]))), 0)
    if kind in TYPE_RULES:
        return TYPE_RULES[kind](interpreter, node)
    if kind in contrib.RULES and node.domain == "com.microsoft":
        position = contrib.TYPED_BY.get(kind, len(node.input))
        return interpreter.dtype(node.input[position]) if position < len(node.input) else 0
    first = next((interpreter.dtype(n) for n in node.input if n), 0)
    if is_fused(node):
        return first  # the type of the query
    if has_known_extents(node):
        return first or next((d for n in node.input if n and (d := interpreter.dtype(n))), 0)
    return 0  # an operator without a rule may make another type than it takes


def _cast_type(interpreter: Interpreter, node: NodeProto) -> int:
    return int_attribute(node, "to", TensorProto.FLOAT)


def _constant_type(interpreter: Interpreter, node: NodeProto) -> int:
    value, array = attribute(node, "value"), interpreter.scope.constant(node.output[0])
    known = value.data_type if isinstance(value, TensorProto) else 0
    if not known and array is not None:
        return TensorProto.FLOAT if array.dtype.kind == "f" else TensorProto.INT64
    return known


def _filled_type(interpreter: Interpreter, node: NodeProto) -> int:
    value = attribute(node, "value")
    return value.data_type if isinstance(value, TensorProto) else TensorProto.FLOAT


def _given_type(interpreter: Interpreter, node: NodeProto) -> int:
    return int_attribute(node, "dtype", next((interpreter.dtype(n) for n in node.input if n), 0))


def _quantised_type(interpreter: Interpreter, node: NodeProto) -> int:
    zero = node.input[2] if len(node.input) > 2 else ""
    return interpreter.dtype(zero) if zero else int_attribute(node, "output_dtype", 0) or TensorProto.UINT8


TYPE_RULES: Mapping[str, Callable[[Interpreter, NodeProto], int]] = {
    "Cast": _cast_type,
    "Constant": _constant_type,
    "ConstantOfShape": _filled_type,
    "EyeLike": _given_type,
    "RandomNormalLike": _given_type,
    "QuantizeLinear": _quantised_type,
}
"""Types that attributes and constants say."""


def _infer_dims(interpreter: Interpreter, node: NodeProto) -> list[Dims]:
    kind = node.op_type
    inputs = [interpreter.dims(n) if n else None for n in node.input]
    if is_fused(node):
        return [_fused_attention(interpreter, node, inputs)]
    if kind in KNOWN and node.domain in STANDARD and not interpreter.understands(node):
        return [None] * len(node.output)
    if kind in RULES and node.domain in KNOWN_DOMAINS:
        return RULES[kind](interpreter, node, inputs)
    if node.domain not in KNOWN_DOMAINS:
        return [None] * len(node.output)  # another operator of the same name
    extents = OPERATORS.get(kind, UNKNOWN).extents
    if extents is Extents.BROADCAST:
        known = [d for n, d in zip(node.input, inputs, strict=True) if n]
        if any(d is None for d in known):
            return [None]
        return [broadcast(interpreter, [d for d in known if d is not None], node)]
    if extents is Extents.AS_FIRST:
        return [inputs[0]] * len(node.output) if inputs else [None]
    if node.domain == "com.microsoft":
        return contrib.RULES[kind](interpreter, node, inputs) if kind in contrib.RULES else [None] * len(node.output)
    found = inferred(interpreter, node)
    for name, (dtype, _) in zip(node.output, found, strict=True):
        if name:
            interpreter.dtypes[name] = dtype
    return [dims for _, dims in found]


def operand_extents(interpreter: Interpreter, view: OperandView, dims: Dims) -> Dims:
    """[B, H, S, D] of an operand, of the extents of its tensor; None at another rank than the view's."""
    normal = [interpreter.facts.normal(extent) for extent in dims or ()]
    found = extents_of(view, [e if e.constant is None else int(e.constant) for e in normal])
    return None if found is None else tuple(extent if isinstance(extent, Poly) else poly(extent) for extent in found)


def _fused_attention(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> Dims:
    """The output's extents; a mask has to fit [B, H, S_q, S_kv], which tells how those are related."""
    try:
        layout = layout_of(node)
    except ValueError:
        return None
    query, key, value = (
        operand_extents(interpreter, layout[name], dims) for name, dims in zip(OPERANDS, inputs, strict=False)
    )
    if query is None or key is None or value is None:
        return None
    for name, dims in zip(OPERANDS, inputs, strict=False):
        if dims is not None and layout[name].reshapes:
            whole = poly(layout[name].shape[2] * layout[name].shape[3])
            interpreter.facts.learn(dims[2], whole, label(node), by_broadcast=False)
    for mine, other in ((query[0], key[0]), (key[0], value[0]), (key[1], value[1]), (key[2], value[2])):
        interpreter.facts.learn(mine, other, label(node), by_broadcast=False)
    scores: tuple[Poly, ...] = (*query[:3], key[2])
    masked = BY_OP_TYPE[node.op_type].mask != MaskKind.NONE.value
    mask = inputs[4] if masked and len(inputs) > 4 else None
    if mask is not None:
        scores = broadcast(interpreter, [scores, mask], node)
    result = (*scores[:3], value[3])
    moved = tuple(result[axis] for axis in layout.output.perm)
    return (*moved[:2], poly(layout.output.shape[2])) if layout.output.reshapes else moved
