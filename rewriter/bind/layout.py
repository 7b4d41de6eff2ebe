"""Operands where the graph has them: the way up from [B, H, S, D] to a projection, and down from the output.

An exporter cuts a projection [B, S, 3 * H * D] with splits, reshapes and transposes.  On that way the index of an
operand's element in each tensor says whether the fused node can read it there (``fused/layout.py``).  The farthest such
tensor is taken.  What is passed only moves elements, so nothing is assumed that the interpreter does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import NodeProto

from ...algebra import ZERO, Index, Poly, of, substitute
from ...fused.layout import RESULT, OperandView, OutputView, packed
from ...graph.index import ints_attribute, operator
from ...patterns.caches import PAST, PRESENT
from ...patterns.layouts import COPYING, MAX_HOPS, Axis
from ..interpret import Interpreter
from ..interpret.digits import index_quotient
from ..interpret.movement import source
from ..recognise.views import digits_in, key_head
from ..records.binding import Binding, Located
from ..records.reading import View
from .guards import follow

Axes = tuple[Index | None, Index | None, Index | None, Index | None]
"""The indices of batch, head, sequence and feature; None for one that an operand does not have."""


@dataclass(frozen=True)
class _Step:
    """A tensor on the way up, the index in it, and the nodes passed that copy."""

    tensor: str
    indices: tuple[Poly, ...]
    copies: tuple[NodeProto, ...] = ()


def with_layout(interpreter: Interpreter, binding: Binding) -> Binding:
    """The binding with query, key, value and output where the graph has them, as far as the fused node can do that.

    Args:
        interpreter: For what tensors are made of.
        binding: What is to be written, with operands as [B, H, S, D].
    """
    attention = binding.proof.attention
    frame = attention.frame
    if binding.rows is not None or frame.head is None:
        return binding
    placed: dict[str, Located] = {}
    if binding.scale is None:
        found = _best(_ways(interpreter, attention.query, (frame.batch, frame.head, frame.row), binding.dtype))
        placed.update({} if found is None else {"query": found})
    placed.update(_keys_and_values(interpreter, binding))
    output, written, copies = _output(interpreter, binding)
    return replace(binding, placed=placed, output=output, output_view=written, output_copies=copies)


def _keys_and_values(interpreter: Interpreter, binding: Binding) -> dict[str, Located]:
    """Where keys and values lie.  Heads that both repeat for a group of queries are read once, if they do it alike."""
    attention = binding.proof.attention
    frame = attention.frame
    heads = key_head(attention.key, frame.head)
    ways: dict[str, list[Located]] = {}
    for name, view in (("key", attention.key), ("value", attention.value)):
        if attention.past.get(PAST[name]) or attention.extra_outputs.get(PRESENT[name]):
            continue  # It is joined with what is there already, and a cache is [B, H, S, D].
        new = next((i for i in view.indices if i.role is Axis.KEY), frame.key)
        ways[name] = _ways(interpreter, view, (frame.batch, heads, new), binding.dtype)
    groups = [{way.group for way in found} for found in ways.values()]
    common = max(set.intersection(*groups), default=1) if len(groups) == 2 else 1
    chosen = {name: _best([way for way in found if way.group == common]) for name, found in ways.items()}
    return {name: way for name, way in chosen.items() if way is not None}


def _best(ways: list[Located]) -> Located | None:
    """The farthest way up, and the nearer ones behind it; None if that is no better than where the operand is."""
    best: Located | None = None
    for way in ways:
        best = None if way.view.plain and way.group == 1 else replace(way, nearer=best)
    return best


def _ways(
    interpreter: Interpreter, view: View, roles: tuple[Index | None, Index | None, Index | None], dtype: int
) -> list[Located]:
    """The tensors on the way up that the fused node can read an operand from, nearest first."""
    if view.digits or view.prefix or interpreter.dtype(view.tensor) != dtype:
        return []
    feature = next((i for i in view.indices if i not in roles), None)
    if feature is None or feature.bound.constant is None:
        return []
    return ways(interpreter, view.tensor, tuple(map(_place, view.axes)), (*roles, feature), dtype)


def ways(interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...], axes: Axes, dtype: int) -> list[Located]:
    """The tensors on the way up that an operand can be read from as a view, nearest first.

    Args:
        interpreter: For what tensors are made of.
        tensor: Where the way begins.
        indices: Where element (b, h, s, d) of the operand lies in it.
        axes: Those four indices; None for one that the operand does not have.
        dtype: The type that the operand has to have.
    """
    found: list[Located] = []
    step: _Step | None = _Step(tensor, indices)
    for _ in range(MAX_HOPS):
        assert step is not None
        once, head, group = _once(step.indices, axes[1])
        here = view_at(interpreter, step.tensor, once, (axes[0], head, *axes[2:]))
        if here is not None and interpreter.dtype(step.tensor) == dtype:
            found.append(Located(step.tensor, here, step.copies, group))
        step = _above(interpreter, step)
        if step is None:
            break
    return found


def _place(names: tuple[Index, ...]) -> Poly:
    """The index in an axis that holds some, major first."""
    place = ZERO
    for name in names:
        place = place * name.bound + of(name)
    return place


def _once(indices: tuple[Poly, ...], head: Index | None) -> tuple[tuple[Poly, ...], Index | None, int]:
    """The index by the heads that are there, the head, and how many heads of queries use one.

    Where only ``h // G`` is read, that is the head.  Where none is read, there is one for all.
    """
    count = None if head is None else head.bound.constant
    if head is not None and count is not None and count > 1 and not any(i.depends_on(head) for i in indices):
        return indices, None, int(count)
    digits = next((d for d in digits_in(indices) if d.whole == head), None)
    group = None if digits is None else digits.minor.bound.constant
    if digits is None or group is None:
        return indices, head, 1
    quotient = index_quotient(digits.whole, digits.minor.bound)
    return tuple(substitute(i, {quotient: of(digits.major)}) for i in indices), digits.major, int(group)


def _above(interpreter: Interpreter, step: _Step) -> _Step | None:
    """The tensor that this one is moved from."""
    node = interpreter.scope.producer(step.tensor)
    if node is None or interpreter.scope.constant(step.tensor) is not None:
        return None
    moved = source(interpreter, node, list(node.output).index(step.tensor), step.indices)
    if moved is None:
        return None
    copies = (*step.copies, node) if node.op_type in COPYING else step.copies
    return _Step(moved[0], tuple(interpreter.facts.normal(i) for i in moved[1]), copies)


def view_at(interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...], axes: Axes) -> OperandView | None:
    """The view of a tensor that an operand is, if it is one.

    Args:
        interpreter: For the extents of the tensor.
        tensor: A tensor that the operand is moved from.
        indices: Where element (b, h, s, d) of the operand lies in it.
        axes: Those four indices; None for one that the operand does not have.
    """
    dims = interpreter.dims(tensor)
    if dims is None or len(dims) != len(indices):
        return None
    if len(dims) == 4:
        order = [_only(interpreter, index, dim, axes) for index, dim in zip(indices, dims, strict=True)]
        return _in_order(order)
    if len(dims) != 3:
        return None
    outer = [_only(interpreter, index, dim, axes) for index, dim in zip(indices[:2], dims[:2], strict=True)]
    return _cut(indices[2], dims[2], axes, _settled(outer, (0, 2)))


def _only(interpreter: Interpreter, index: Poly, extent: Poly, axes: Axes) -> int | None:
    """Which of the four an axis is: -1 for an axis of extent 1 that may be any, None for something else."""
    if index == ZERO:
        return -1 if extent == 1 else None
    for place, axis in enumerate(axes):
        if axis is not None and index == of(axis):
            return place if interpreter.same(axis.bound, extent) else None
    return None


def _settled(found: list[int | None], wanted: tuple[int, ...]) -> list[int] | None:
    """The axes by number, where those of extent 1 are what is left over, in order."""
    if None in found:
        return None
    left = [place for place in wanted if place not in found]
    places = [left.pop(0) if place == -1 and left else place for place in found if place is not None]
    return places if sorted(places) == sorted(wanted) else None


def _in_order(found: list[int | None]) -> OperandView | None:
    """The view of a tensor of rank 4 with these axes."""
    places = _settled(found, (0, 1, 2, 3))
    if places is None or places[3] != 3:
        return None
    return OperandView(perm=tuple(places.index(axis) for axis in range(4)))


def _cut(index: Poly, extent: Poly, axes: Axes, outer: list[int] | None) -> OperandView | None:
    """The view of a tensor of rank 3 whose last axis holds heads of features."""
    head, feature = axes[1], axes[3]
    whole, width = extent.constant, None if feature is None else feature.bound.constant
    heads = 1 if head is None else head.bound.constant
    if outer is None or whole is None or width is None or heads is None or feature is None:
        return None
    rest = index - of(feature)
    pitch: Poly | None = None
    if head is not None:
        pitch = rest.coefficient_of(head)
        rest = rest - pitch * of(head)
    start = rest.constant
    step = int(width) if pitch is None or pitch == ZERO else pitch.constant
    if start is None or step is None or start < 0 or step <= 0:
        return None
    first, within = divmod(int(start), int(step))
    # Cut, the tensor is [B, S, N, W] or [S, B, N, W].
    order = "".join("BHSD"[place] for place in outer) + "HD"
    try:
        return packed(
            int(heads), int(width), head_width=int(step), first=first, within=within, of=int(whole), order=order
        )
    except ValueError:
        return None


def _output(interpreter: Interpreter, binding: Binding) -> tuple[View, OutputView, tuple[NodeProto, ...]]:
    """The tensor farthest down that the fused node can write itself, how, and the nodes passed that copy."""
    frame = binding.proof.attention.frame
    plain = (binding.output, RESULT, ())
    if binding.output.digits or interpreter.dtype(binding.output.tensor) not in (0, binding.dtype):
        return plain
    feature = next((i for i in binding.output.indices if i not in frame.order), None)
    axes: Axes = (frame.batch, frame.head, frame.row, feature)
    best: tuple[View, OutputView, tuple[NodeProto, ...]] = plain
    current = binding.output
    copies: tuple[NodeProto, ...] = ()
    for _ in range(MAX_HOPS):
        found = _written(interpreter, current, axes)
        if found is not None:
            best = (current, found, copies)
        uses = interpreter.scope.consumers.get(current.tensor, [])
        if len(uses) != 1 or uses[0].scope is not interpreter.scope or uses[0].position != 0 or uses[0].node is None:
            break
        followed = _behind(interpreter, current, uses[0].node)
        if followed is None:
            break
        copies = (*copies, uses[0].node) if uses[0].node.op_type in COPYING else copies
        current = followed
    return plain if best[1].plain else best


def _behind(interpreter: Interpreter, view: View, node: NodeProto) -> View | None:
    """The view of what a single moving consumer makes of the output."""
    perm = ints_attribute(node, "perm")
    if operator(node) == "Transpose" and perm is not None and sorted(perm) == list(range(len(view.axes))):
        return View(node.output[0], tuple(view.axes[axis] for axis in perm))
    return follow(interpreter, view, node)


def _written(interpreter: Interpreter, view: View, axes: Axes) -> OutputView | None:
    """How the output becomes a tensor with these axes."""
    known = {axis: place for place, axis in enumerate(axes) if axis is not None}
    held = [[known.get(index) for index in names] for names in view.axes]
    single = [-1 if not names else names[0] if len(names) == 1 else None for names in held]
    if len(held) == 4:
        places = _settled(single, (0, 1, 2, 3))
        return None if places is None or places[3] != 3 else OutputView(tuple(places))
    if len(held) != 3:
        return None
    head, feature = axes[1], axes[3]
    merged = held[2] == [1, 3] or (held[2] == [3] and head is not None and head.bound == 1)
    places = _settled(single[:2], (0, 2))
    if not merged or places is None or head is None or feature is None:
        return None
    extent = (head.bound * feature.bound).constant
    return None if extent is None else OutputView((*places, 1, 3), (0, 0, int(extent)))
