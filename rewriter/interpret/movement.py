"""Operators that only move elements.  Each output element is one input element.

``source(interpreter, node, output, indices)`` says which: the tensor and the index in it.  The same table
serves the interpreter (what is the value) and the layout search (where does the query come from).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx import NodeProto

from ...algebra import ZERO, Poly, Read, Size, is_nonnegative, is_nonpositive, lower_bound, maximum, minimum, of, poly
from ...graph.index import int_attribute, ints_attribute, label
from .digits import digits, divide, product, regroup

if TYPE_CHECKING:
    from .engine import Interpreter

OPEN_END = 1 << 31
"""A bound of a Slice from here on means the end: exporters write the largest int32 plus one, or that of int64."""

BEFORE_FRONT = -(1 << 30)
"""A bound below this lies before the first element, however long the axis is."""

Source = tuple[str, tuple[Poly, ...]]
SourceRule = Callable[["Interpreter", NodeProto, int, tuple[Poly, ...]], Source | None]


def source(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    """The element that the given output element is a copy of, or None if the operator does more than move elements."""
    rule = RULES.get(node.op_type) if interpreter.understands(node) else None
    return (
        interpreter.guarded(node, lambda: _of_rank(interpreter, rule(interpreter, node, output, indices)))
        if rule
        else None
    )


def _of_rank(interpreter: Interpreter, found: Source | None) -> Source | None:
    """What a rule found.

    Raises:
        IndexError: The index has not as many entries as the tensor has axes: the node contradicts its input.
    """
    if found is not None and interpreter.rank(found[0]) not in (None, len(found[1])):
        raise IndexError("an index of another rank than the tensor")
    return found


def _identity(_: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    return node.input[0], indices


def _transpose(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    perm = ints_attribute(node, "perm") or list(range(len(indices)))[::-1]
    moved = [ZERO] * len(indices)
    for position, axis in enumerate(perm):
        moved[axis] = indices[position]
    return node.input[0], tuple(moved)


def axes_of(interpreter: Interpreter, node: NodeProto, position: int = 1) -> list[int] | None:
    """Axes given as an attribute (before opset 13) or as an input."""
    axes = ints_attribute(node, "axes")
    if axes is None and len(node.input) > position:
        axes = interpreter.constants(node.input[position])
    return axes


def reduced_axes(interpreter: Interpreter, node: NodeProto, rank: int) -> list[int] | None:
    """The axes that a reduction runs over, ascending; None where they are only known at run time."""
    axes = axes_of(interpreter, node)
    if axes is None and len(node.input) > 1 and node.input[1]:
        return None
    if not axes:  # absent or empty
        return [] if int_attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted({_axis(a, rank) for a in axes})


def _axis(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        IndexError: There is no such axis.
    """
    if not -rank <= axis < rank:
        raise IndexError(f"no axis {axis} of {rank}")
    return axis % rank


def squeezed_axes(interpreter: Interpreter, node: NodeProto, dims: tuple[Poly, ...]) -> set[int] | None:
    """The axes that a Squeeze removes, or None where only run time shows which axes have an extent of 1."""
    axes = axes_of(interpreter, node)
    if axes:
        return {_axis(a, len(dims)) for a in axes}
    if axes is not None or (len(node.input) > 1 and node.input[1]):
        return None  # an empty list, which runtimes read in two ways, or one that is not known
    if any(d.constant is None for d in dims):
        return None
    return {a for a, d in enumerate(dims) if d == 1}


def _unsqueeze(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    axes = axes_of(interpreter, node)
    if axes is None:
        return None
    dropped = {_axis(a, len(indices)) for a in axes}
    return node.input[0], tuple(x for axis, x in enumerate(indices) if axis not in dropped)


def _squeeze(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    dims = interpreter.dims(node.input[0])
    if dims is None:
        return None
    dropped = squeezed_axes(interpreter, node, dims)
    if dropped is None:
        return None
    rest = iter(indices)
    return node.input[0], tuple(ZERO if axis in dropped else next(rest) for axis in range(len(dims)))


def _expand(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    out = interpreter.dims(node.output[0])
    if out is None:
        return None
    try:
        return node.input[0], interpreter.aligned(node.input[0], indices, out, node)
    except LookupError:
        return None


def _tile(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    dims = interpreter.dims(node.input[0])
    out = interpreter.dims(node.output[0])
    if dims is None or out is None:
        return None
    result = []
    for extent, tiled, index in zip(dims, out, indices, strict=True):
        if extent == 1:
            result.append(ZERO)
        elif interpreter.same(extent, tiled):
            result.append(index)
        else:
            result.append(digits(interpreter, index, [extent])[1])
    return node.input[0], tuple(result)


def _reshape(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    inside = interpreter.dims(node.input[0])
    outside = interpreter.dims(node.output[0])
    if inside is None or outside is None:
        return None
    inside = tuple(interpreter.facts.normal(d) for d in inside)
    outside = tuple(interpreter.facts.normal(d) for d in outside)
    moved = regroup(interpreter, inside, outside, indices)
    if moved is None and learn_from_count(interpreter, list(inside), list(outside), label(node)):
        inside = tuple(interpreter.facts.normal(d) for d in inside)
        outside = tuple(interpreter.facts.normal(d) for d in outside)
        moved = regroup(interpreter, inside, outside, indices)
    return None if moved is None else (node.input[0], moved)


def learn_from_count(interpreter: Interpreter, inside: list[Poly], outside: list[Poly], node: str) -> bool:
    """A Reshape keeps the number of elements.  That may show that two extents agree."""
    for extent in list(inside):
        match = next((o for o in outside if interpreter.same(o, extent)), None)
        if match is not None:
            inside.remove(extent)
            outside.remove(match)
    for ours, theirs in ((inside, outside), (outside, inside)):
        powers = [e for e in ours if len(e.terms) > 1]
        ratio = divide(product(tuple(theirs)), product(tuple(e for e in ours if len(e.terms) == 1)))
        if len(powers) > 1 and len(set(powers)) == 1 and ratio is not None and len(ratio.terms) == 1:
            factors = ratio.terms[0][0]
            if ratio.terms[0][1] == 1 and len(factors) == 1 and factors[0][1] == len(powers):
                return interpreter.facts.learn(powers[0], of(factors[0][0]), node, by_broadcast=False)  # x*x == y*y
    return interpreter.facts.learn(product(tuple(inside)), product(tuple(outside)), node, by_broadcast=False)


def _flatten(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    return _reshape(interpreter, node, output, indices)


def slice_bounds(interpreter: Interpreter, node: NodeProto) -> list[tuple[int, Poly, Poly, int]] | None:
    """(axis, first, extent, step) of a Slice, or None where a bound's sign is unknown."""
    dims = interpreter.dims(node.input[0])
    if dims is None:
        return None
    starts: list[Poly] | None
    ends: list[Poly] | None
    if len(node.input) < 3:  # opset 9: attributes
        starts = [poly(s) for s in ints_attribute(node, "starts") or []]
        ends = [poly(e) for e in ints_attribute(node, "ends") or []]
        axes = ints_attribute(node, "axes") or list(range(len(starts)))
        steps = [1] * len(starts)
    else:
        starts = interpreter.integers(node.input[1])
        ends = interpreter.integers(node.input[2])
        given = node.input[3] if len(node.input) > 3 else ""
        listed = interpreter.constants(given) if given else list(range(len(starts or [])))
        stride = node.input[4] if len(node.input) > 4 else ""
        stepped = interpreter.constants(stride) if stride else [1] * len(starts or [])
        if listed is None or stepped is None:
            return None
        axes, steps = listed, stepped
    if starts is None or ends is None:
        return None
    result = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(dims)
        if step != 1:
            strided = _strided(start, end, dims[axis], step)
            if strided is None:
                return None
            result.append((axis, *strided, step))
            continue
        if dims[axis] == 1 and start == 0 and end.constant is None:
            continue  # [0:n] of an axis of extent 1 is all of it, since no run has an empty sequence
        first = _clamp(interpreter, start, dims[axis], node)
        last = _clamp(interpreter, end, dims[axis], node)
        if first is None or last is None:
            return None
        extent = interpreter.facts.normal(maximum(ZERO, last - first))
        result.append((axis, first, extent, 1))
    return result


def _strided(start: Poly, end: Poly, extent: Poly, step: int) -> tuple[Poly, Poly] | None:
    """(first, extent) of a Slice with another step than 1: whole reversals, or constant bounds."""
    if step == -1 and start.constant == -1 and end.constant is not None and end.constant < BEFORE_FRONT:
        return extent - 1, extent
    whole, first, last = extent.constant, start.constant, end.constant
    if whole is None or first is None or last is None:
        return None
    positions = range(int(whole))[slice(int(first), None if step < 0 and last < -whole else int(last), step)]
    return (poly(positions[0]) if len(positions) else ZERO), poly(len(positions))


def _clamp(interpreter: Interpreter, bound: Poly, extent: Poly, node: NodeProto) -> Poly | None:
    """A Slice bound as a position in [0, extent]: negative ones count from the end.

    A bound such as 64 - S, of either sign, is taken to be non-negative (the buffer is long enough), and that is
    recorded as an assumption.  None for a bound such as 1 - S, which cannot be assumed so, and for one that is read at
    run time.
    """
    bound = interpreter.facts.normal(bound)
    extent = interpreter.facts.normal(extent)
    constant = bound.constant
    if constant is not None and constant >= OPEN_END:
        return extent
    if is_nonnegative(bound):
        return minimum(bound, extent)
    if is_nonpositive(bound):
        return maximum(ZERO, bound + extent)
    if any(isinstance(a, Read) for a in bound.atoms) or not interpreter.facts.assume_nonnegative(bound, label(node)):
        return None
    return interpreter.facts.normal(minimum(bound, extent))


def _slice(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    bounds = slice_bounds(interpreter, node)
    if bounds is None:
        return None
    moved = list(indices)
    for axis, first, _, step in bounds:
        moved[axis] = first + indices[axis] * step
    return node.input[0], tuple(moved)


def _gather(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    dims = interpreter.dims(node.input[0])
    index_dims = interpreter.dims(node.input[1])
    if dims is None or index_dims is None:
        return None
    axis = int_attribute(node, "axis", 0) % len(dims)
    inner = len(index_dims)
    chosen = interpreter.element(node.input[1], indices[axis : axis + inner])
    counted = from_front(interpreter, chosen, dims[axis], node)
    return None if counted is None else (node.input[0], (*indices[:axis], counted, *indices[axis + inner :]))


def from_front(interpreter: Interpreter, index: Poly, extent: Poly, node: NodeProto) -> Poly | None:
    """An index that a Gather uses, counted from the front; None where its sign is only known at run time.

    An index expression that is negative for some sizes would silently wrap around there.  Other sizes are recorded as
    an assumption, as long as the assumption does not exclude short sequences.
    """
    if is_nonnegative(index):
        return index
    if is_nonpositive(index + 1):
        return extent + index
    bound = lower_bound(index)
    lowest = None if bound is None else interpreter.facts.normal(bound)
    if lowest is None or any(not isinstance(a, Size) for a in lowest.all_atoms()):
        return None
    return index if interpreter.facts.assume_nonnegative(lowest, label(node)) else None


def _gather_nd(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    batch = int_attribute(node, "batch_dims", 0)
    dims = interpreter.dims(node.input[0])
    index_dims = interpreter.dims(node.input[1])
    if dims is None or index_dims is None:
        return None
    depth = index_dims[-1].constant
    if depth is None:
        return None
    outer = len(index_dims) - 1
    position = indices[:outer]
    chosen: list[Poly] = []
    for k in range(int(depth)):
        place = interpreter.element(node.input[1], (*position, poly(k)))
        counted = from_front(interpreter, place, dims[batch + k], node)
        if counted is None:
            return None
        chosen.append(counted)
    return node.input[0], (*indices[:batch], *chosen, *indices[outer:])


def _gather_elements(
    interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]
) -> Source | None:
    axis = int_attribute(node, "axis", 0) % len(indices)
    dims = interpreter.dims(node.input[0])
    chosen = interpreter.element(node.input[1], indices)
    counted = None if dims is None else from_front(interpreter, chosen, dims[axis], node)
    return None if counted is None else (node.input[0], (*indices[:axis], counted, *indices[axis + 1 :]))


def _split(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    sizes = split_sizes(interpreter, node)
    if sizes is None:
        return None
    axis = int_attribute(node, "axis", 0) % len(indices)
    start = sum(sizes[:output], ZERO)
    return node.input[0], (*indices[:axis], start + indices[axis], *indices[axis + 1 :])


def split_sizes(interpreter: Interpreter, node: NodeProto) -> list[Poly] | None:
    """Extents of the parts of a Split."""
    listed = ints_attribute(node, "split")
    if listed is not None:
        return [poly(s) for s in listed]
    if len(node.input) > 1 and node.input[1]:
        return interpreter.integers(node.input[1])
    dims = interpreter.dims(node.input[0])
    if dims is None:
        return None
    whole = dims[int_attribute(node, "axis", 0) % len(dims)].constant
    parts = len(node.output)
    if whole is None:
        return None
    chunk = -(-int(whole) // parts)
    return [poly(min(chunk, int(whole) - chunk * k)) for k in range(parts)]


def _dropout(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Source | None:
    if output != 0 or dropout_is_live(interpreter, node):
        return None
    return node.input[0], indices


def dropout_is_live(interpreter: Interpreter, node: NodeProto) -> bool:
    """Whether a Dropout changes values: training_mode is (or may be) true and the ratio is not zero."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    mode = interpreter.scalar(node.input[2])
    if mode is not None and mode == 0:
        return False
    if len(node.input) > 1 and node.input[1]:
        ratio = interpreter.scalar(node.input[1])
        if ratio is not None and ratio == 0:
            return False
    return True


RULES: dict[str, SourceRule] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Tile": _tile,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": _gather_elements,
    "Split": _split,
}
