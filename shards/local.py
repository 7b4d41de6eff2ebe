"""What a node says of extents, on one rank.

Most nodes are the same on all ranks.  Those that name extents or places of a cut axis are given those of the rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from ..fused.append import CACHED, INPUTS, OP_TYPE
from ..fused.family import DOMAIN, is_fused
from ..fused.layout import OPERANDS, VIEWS, WHOLE, OperandView, layout_of
from ..graph.edit import set_attribute
from ..graph.index import Array, attribute, int_attribute, operator
from .cuts import AxisCut, NotSeparable, local, mask_of, normal
from .question import Question
from .rules.attention import appended_view, of_operand
from .rules.movement import looked_up, slice_bounds, sliced_axes, split_bounds


@dataclass
class Change:
    """How a node differs on a rank.

    Attributes:
        attributes: New values; None removes one.
        inputs: Constants in place of inputs, by position.
        dropped: Inputs that go, from this position on; they are added behind the sum over the ranks.
        scaled: The input that holds a shape, which is scaled at run time; and the axis with its cut.
        restored: The output is a shape, in which the axis of this cut is told as it is in the whole model.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: dict[int, Array] = field(default_factory=dict)
    dropped: int | None = None
    scaled: tuple[int, AxisCut] | None = None
    restored: AxisCut | None = None


def change(q: Question, rank: int) -> Change | None:
    """What is different about a node on a rank; None if nothing is.

    Raises:
        NotSeparable: The rank's part cannot be said in the node's words.
    """
    if is_fused(q.node):
        return _fused(q, rank) if q.heads is not None else None
    if q.node.domain == DOMAIN and q.node.op_type == OP_TYPE:
        return _appended(q, rank) if q.outputs else None
    rule = _CHANGES.get(operator(q.node))
    return None if rule is None or not (q.inputs or q.outputs) else rule(q, rank)


def apply(node: NodeProto, made: Change, name: Callable[[Array, str], str]) -> None:
    """Make a node what it is on a rank, without what stands around it.

    Args:
        node: A copy of the node.
        made: What is different.
        name: Gives the name of a constant, from its content and a hint.
    """
    for key, value in made.attributes.items():
        if value is not None:
            set_attribute(node, key, value)
        else:
            kept = [entry for entry in node.attribute if entry.name != key]
            del node.attribute[:]
            node.attribute.extend(kept)
    for position, array in sorted(made.inputs.items()):
        while len(node.input) <= position:
            node.input.append("")
        node.input[position] = name(array, f"{node.output[0]}/{position}")
    if made.dropped is not None:
        del node.input[made.dropped :]


def scaling(cut: AxisCut, rank: int, axes: int, *, first: int = 0) -> tuple[Array, Array]:
    """Two vectors of ``axes`` extents from the axis ``first`` on: what a rank holds, and the period."""
    width, period = np.ones(axes, np.int64), np.ones(axes, np.int64)
    if 0 <= cut.axis - first < axes:
        width[cut.axis - first], period[cut.axis - first] = cut.width(rank), cut.period
    return width, period


def _fused(q: Question, rank: int) -> Change:
    assert q.heads is not None
    layout = layout_of(q.node)
    made = Change()
    views = attribute(q.node, "layout") == VIEWS.encode()
    for position, name in enumerate(OPERANDS):
        parts = q.heads.queries if name == "query" else q.heads.keys
        wanted = of_operand(q, position, layout[name], parts)
        held = q.inputs.get(position, wanted)
        view = _view(layout[name], wanted, held, rank, q.node.input[position])
        if views:
            made.attributes.update(view.attributes(name))
        elif view != layout[name]:
            raise NotSeparable(f"'{q.node.input[position]}' holds more on a rank than the attention reads")
    if layout.output.reshapes:
        width = layout.output.shape[2] // max(part[-1][1] for part in q.heads.queries)
        heads = sum(stop - start for start, stop in q.heads.queries[rank])
        made.attributes["output_shape"] = [0, 0, heads * width]
    return made


def _appended(q: Question, rank: int) -> Change:
    made = Change()
    cut = next(iter(q.outputs.values()))
    for name in CACHED:
        position = INPUTS.index(name)
        view = appended_view(q.node, name)
        wanted = of_operand(q, position, view, cut.parts)
        local_view = _view(view, wanted, q.inputs.get(position, wanted), rank, q.node.input[position])
        if attribute(q.node, "layout") == VIEWS.encode():
            made.attributes.update(local_view.attributes(name))
        elif local_view != view:
            raise NotSeparable(f"'{q.node.input[position]}' holds more on a rank than is appended")
    return made


def _view(view: OperandView, wanted: AxisCut, held: AxisCut, rank: int, name: str) -> OperandView:
    """The view of what a rank holds of an operand's tensor."""
    ((low, high),) = wanted.parts[rank] if len(wanted.parts[rank]) == 1 else _apart(name)
    begin, end = local(held.parts[rank], low, high)
    axis, whole = wanted.axis, held.width(rank)
    if end - begin != high - low:
        raise NotSeparable(f"a rank does not hold its heads of '{name}'")
    if axis < 2:
        if (begin, end) != (0, whole):
            raise NotSeparable(f"'{name}' holds more on a rank than the attention reads")
        return view
    width = view.shape[3] if view.reshapes and axis == 2 else 1
    if any(number % width for piece in held.parts[rank] for number in piece):
        raise NotSeparable(f"a rank's part of '{name}' cuts through heads")
    starts, ends = list(view.starts), list(view.ends)
    starts[axis - 2] = begin // width
    ends[axis - 2] = WHOLE if not view.reshapes and end == whole else end // width
    shape = (0, 0, whole // width, width) if view.reshapes and axis == 2 else view.shape
    return OperandView(shape, tuple(starts), tuple(ends), view.perm)


def _apart(name: str) -> tuple[tuple[int, int]]:
    raise NotSeparable(f"a rank's heads of '{name}' are not neighbours")


def _shaped(q: Question, rank: int) -> Change | None:
    """A Reshape or Expand is told the rank's extent."""
    cut = q.outputs.get(0)
    if cut is None:
        return None
    given = q.array(1)
    if given is None:
        if q.dims(1)[0].constant is None:
            raise NotSeparable("a shape is computed, and for how many axes is only known at run time")
        return Change(scaled=(1, cut))
    sizes = given.astype(np.int64).reshape(-1)
    held = q.inputs.get(0, cut)
    copied = [axis for axis in (cut.axis, held.axis) if axis < len(sizes) and sizes[axis] == 0]
    if copied and q.node.op_type == "Reshape" and held != cut:
        raise NotSeparable("a Reshape copies the extent of an axis that is cut otherwise")
    place = cut.axis - (len(q.dims_out()) - len(sizes))  # an Expand leaves out axes in front that stay as they are
    if place >= 0 and sizes[place] >= cut.period:
        sizes = sizes.copy()
        sizes[place] = sizes[place] * cut.width(rank) // cut.period
        return Change(inputs={1: sizes})
    return None


def _split(q: Question, rank: int) -> Change | None:
    cut = q.inputs.get(0)
    axis = int_attribute(q.node, "axis", 0) % len(q.dims(0))
    if cut is None or cut.axis != axis:
        return None
    sizes = []
    for start, stop in split_bounds(q, axis):
        begin, end = local(cut.parts[rank], start, stop)
        sizes.append(end - begin)
    if q.interpreter.scope.opset.get("", 0) < 13:
        return Change(attributes={"split": sizes})
    return Change(attributes={"num_outputs": None}, inputs={1: np.array(sizes, np.int64)})


def _slice(q: Question, rank: int) -> Change | None:
    cut = q.inputs.get(0)
    bounds = slice_bounds(q)
    if cut is None or cut.axis not in bounds:
        return None
    starts, ends = q.numbers(1), q.numbers(2)
    assert starts is not None and ends is not None
    place = sliced_axes(q).index(cut.axis)
    starts[place], ends[place] = local(cut.parts[rank], *bounds[cut.axis])
    # All numbers of a Slice have one type.
    kind = np.int32 if q.interpreter.dtype(q.node.input[1]) == TensorProto.INT32 else np.int64
    return Change(inputs={1: np.array(starts, kind), 2: np.array(ends, kind)})


def _gather(q: Question, rank: int) -> Change | None:
    cut = q.inputs.get(0)
    axis = int_attribute(q.node, "axis", 0) % len(q.dims(0))
    if cut is None or cut.axis != axis:
        return None
    part = mask_of(cut.parts[rank], cut.period)
    places = [int(part[:place].sum()) for place in looked_up(q, axis) if part[place]]
    return Change(inputs={1: np.array(places, np.int64)})


def _gemm(q: Question, rank: int) -> Change | None:
    summed = 0 in q.inputs and q.inputs[0].axis == 1
    return Change(dropped=2) if summed and q.has(2) else None


def _shape(q: Question, rank: int) -> Change | None:
    return Change(restored=q.inputs[0]) if 0 in q.inputs else None


_CHANGES: Mapping[str, Callable[[Question, int], Change | None]] = {
    "Reshape": _shaped,
    "Expand": _shaped,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Gemm": _gemm,
    "Shape": _shape,
}


def slices_of(
    value: str, cut: AxisCut, rank: int, name: Callable[[str], str], number: Callable[[Array, str], str]
) -> list[NodeProto]:
    """Nodes that take a rank's part of a whole tensor; the last one makes ``name(value)``.

    Raises:
        NotSeparable: The axis is a multiple of what is cut.
    """
    nodes = []
    made = []
    pieces = normal(cut.parts[rank])
    axis = number(np.array([cut.axis], np.int64), f"{value}/axis")
    for k, (start, stop) in enumerate(pieces):
        output = name(f"{value}/rank" if len(pieces) == 1 else f"{value}/rank/{k}")
        bounds = [number(np.array([at], np.int64), f"{value}/at") for at in (start, stop)]
        nodes.append(helper.make_node("Slice", [value, *bounds, axis], [output], name=name(f"{output}/Slice")))
        made.append(output)
    if len(made) > 1:
        output = name(f"{value}/rank")
        nodes.append(helper.make_node("Concat", made, [output], name=name(f"{output}/Concat"), axis=cut.axis))
    return nodes


__all__ = ["Change", "apply", "change", "scaling", "slices_of"]
