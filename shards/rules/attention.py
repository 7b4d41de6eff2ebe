"""The fused node: query heads with their slopes, and the key heads that they need."""

from __future__ import annotations

from onnx import NodeProto

from ...fused.append import CACHED, INPUTS, OP_TYPE
from ...fused.family import BY_OP_TYPE, DOMAIN
from ...fused.layout import AS_IT_IS, OPERANDS, PARTS, VIEWS, OperandView, extents_of, layout_of
from ...graph.index import attribute, ints_attribute
from ..cuts import AxisCut, NotSeparable, Ranges, normal
from ..question import How, Question, Rule

HEAD_AXES = {"slopes": 0, "mask": 1, "key_bias": 1}
"""Inputs besides the operands that may tell heads apart, and where."""


def fused(q: Question) -> bool:
    """All inputs that tell heads apart are cut by heads, and so is the output."""
    if q.heads is None:
        raise NotSeparable("a fused attention is cut by heads only")
    layout = layout_of(q.node)
    names = BY_OP_TYPE[q.node.op_type].inputs
    for position, name in enumerate(names):
        if name in OPERANDS:
            parts = q.heads.queries if name == "query" else q.heads.keys
            q.want(position, of_operand(q, position, layout[name], parts), How.PART)
            continue
        axis = HEAD_AXES.get(name)
        dims = q.dims(position)
        if axis is None or dims[axis] == 1:
            q.whole(position)
        else:
            cut = AxisCut(axis, total(q.heads.queries), q.heads.queries)
            if dims[axis] != cut.period:
                raise NotSeparable(f"the extent of '{q.node.input[position]}' along its heads is unknown")
            q.want(position, cut, How.SLICED)
    heads = AxisCut(layout.output.perm.index(1), total(q.heads.queries), q.heads.queries)
    if layout.output.reshapes:
        width = layout.output.shape[2] // heads.period
        heads = AxisCut(2, layout.output.shape[2], tuple(_wider(part, width, 0) for part in heads.parts))
    q.give(heads)
    return True


def appended(q: Question) -> bool:
    """New keys and values go into buffers of the same heads."""
    cut = next((c for c in (*q.outputs.values(), q.inputs.get(0), q.inputs.get(1)) if c is not None), None)
    if cut is None:
        return False
    if cut.axis != HEADS_OF_BUFFER:
        raise NotSeparable("a cache is cut by heads only")
    for position, name in enumerate(INPUTS):
        if name.startswith("past_"):
            q.want(position, cut)
        elif name in CACHED:
            q.want(position, of_operand(q, position, appended_view(q.node, name), cut.parts), How.PART)
        else:
            q.whole(position)
    q.give_all(cut)
    return True


HEADS_OF_BUFFER = 1


def appended_view(node: NodeProto, name: str) -> OperandView:
    """Where the new keys or values lie in their tensor."""
    if attribute(node, "layout") != VIEWS.encode():
        return AS_IT_IS
    return OperandView(*(tuple(ints_attribute(node, f"{name}_{part}") or ()) for part in PARTS))


def total(parts: tuple[Ranges, ...]) -> int:
    """How many heads there are."""
    return max(part[-1][1] for part in parts)


def of_operand(q: Question, position: int, view: OperandView, parts: tuple[Ranges, ...]) -> AxisCut:
    """The cut of the tensor that an operand is a view of.  Pieces of it are taken whole, with what else they hold."""
    dims = q.dims(position)
    axis = view.perm[1]
    extent = dims[axis].constant
    if extent is None:
        raise NotSeparable(f"the extent of '{q.node.input[position]}' along its heads is unknown")
    start = view.starts[axis - 2] if axis >= 2 else 0
    if view.reshapes and axis == 2:
        width = view.shape[3]
        return AxisCut(2, int(extent), tuple(_wider(part, width, start) for part in parts))
    return AxisCut(axis, int(extent), tuple(_wider(part, 1, start) for part in parts))


def _wider(part: Ranges, width: int, start: int) -> Ranges:
    """Ranges of pieces as ranges of numbers, once they were moved."""
    return normal(((start + a) * width, (start + b) * width) for a, b in part)


def heads_of(q: Question) -> tuple[int, int]:
    """Query heads and key heads of a fused node.

    Raises:
        NotSeparable: They are unknown.
    """
    try:
        layout = layout_of(q.node)
    except ValueError as error:
        raise NotSeparable(f"it is no fused node: {error}") from None
    if len(q.node.input) != len(BY_OP_TYPE[q.node.op_type].inputs) or not all(q.node.input):
        raise NotSeparable("it is no fused node: it has another number of inputs")
    found = []
    for position, name in ((0, "query"), (1, "key")):
        normal_dims = [e if e.constant is None else int(e.constant) for e in q.dims(position)]
        extents = extents_of(layout[name], normal_dims)
        if extents is None or not isinstance(extents[1], int):
            raise NotSeparable("its number of heads is only known at run time")
        found.append(extents[1])
    if min(found) < 1 or found[0] % found[1]:
        raise NotSeparable(f"it is no fused node: {found[0]} heads on {found[1]} key heads")
    return found[0], found[1]


FUSED: dict[tuple[str, str], Rule] = {
    **{(DOMAIN, op_type): fused for op_type in BY_OP_TYPE},
    (DOMAIN, OP_TYPE): appended,
}
