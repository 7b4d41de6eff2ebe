"""Operators that make elements out of positions: ranges, shapes, constants, triangles, sums, scatters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from ...algebra import (
    ONE,
    ZERO,
    Atom,
    Cond,
    Ind,
    Index,
    Poly,
    Read,
    Sum,
    at_most_zero,
    conjunction,
    equal,
    exists,
    ind,
    is_nonnegative,
    is_nonpositive,
    less,
    less_equal,
    maximum,
    minimum,
    negation,
    of,
    poly,
    substitute,
)
from ...graph.index import attribute, float_attribute, int_attribute, ints_attribute, read_tensor
from ...patterns.layouts import Axis
from .arithmetic import exact
from .equations import einsum_labels
from .movement import reduced_axes

if TYPE_CHECKING:
    from .engine import Interpreter

Indices = tuple[Poly, ...]


def _range(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    start, step = interpreter.scalar(node.input[0]), interpreter.scalar(node.input[2])
    if start is None or step is None:
        return None
    return start + step * indices[0]


def _shape(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    dims = interpreter.dims(node.input[0])
    position = indices[0].constant
    if dims is None or position is None:
        return None
    start = int_attribute(node, "start", 0)
    start = max(0, start + len(dims)) if start < 0 else start
    axis = start + int(position)
    return dims[axis] if axis < len(dims) else None


def _size(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    dims = interpreter.dims(node.input[0])
    if dims is None:
        return None
    total = ONE
    for extent in dims:
        total = total * extent
    return total


def _constant_of_shape(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    value = attribute(node, "value")
    if value is None:
        return ZERO
    array = read_tensor(value, interpreter.scope.base_dir) if isinstance(value, TensorProto) else None
    if array is None or array.size != 1:
        return None
    number = array.reshape(-1)[0]
    if np.issubdtype(array.dtype, np.integer):
        return poly(int(number))
    return None if np.isnan(float(number)) else poly(exact(float(number)))


def _cumsum(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    axes = interpreter.constants(node.input[1])
    dims = interpreter.dims(node.input[0])
    if not axes or dims is None:
        return None
    axis = axes[0] % len(indices)
    counter = Index(f"#{node.output[0]}", dims[axis], Axis.SUMMED)
    term = interpreter.element(node.input[0], (*indices[:axis], of(counter), *indices[axis + 1 :]))
    own = 0 if int_attribute(node, "exclusive", 0) else 1
    if int_attribute(node, "reverse", 0):
        whole = _running_sum(term, counter, dims[axis])
        before = _running_sum(term, counter, indices[axis] + (1 - own))
        found = None if whole is None or before is None else whole - before
    else:
        found = _running_sum(term, counter, indices[axis] + own)
    if found is None and term.is_integer:
        return of(Read(node.output[0], indices, integer=True))  # in whatever type they are counted
    return found


def _running_sum(term: Poly, counter: Index, count: Poly) -> Poly | None:
    """The sum of ``term`` for counter = 0 .. count - 1, where that has a closed form.

    Terms that do not move count as often as there are steps; indicators of a comparison with the counter
    (triangles of ones) count the steps on one side of it.
    """
    total = ZERO
    for monomial, coefficient in term.terms:
        moving = [a for a, _ in monomial if of(a).depends_on(counter)]
        rest = Poly({tuple((a, p) for a, p in monomial if a not in moving): coefficient})
        if not moving:
            total = total + rest * count
            continue
        steps = _steps(moving[0], counter, count) if len(moving) == 1 else None
        if steps is None:
            return None
        total = total + rest * steps
    return total


def _steps(atom: Atom, counter: Index, count: Poly) -> Poly | None:
    """How many of counter = 0 .. count - 1 fulfil an indicator that compares the counter with a bound."""
    bound = at_most_zero(atom.condition) if isinstance(atom, Ind) else None
    if bound is None:
        return None
    slope = bound.coefficient_of(counter).constant
    limit = bound - of(counter) * (slope or 0)
    if slope not in (1, -1) or limit.depends_on(counter):
        return None
    if slope == 1:  # counter <= -limit
        return maximum(ZERO, minimum(count, ONE - limit))
    return count - maximum(ZERO, minimum(count, limit))  # counter >= limit


def _trilu(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    diagonal = ZERO
    if len(node.input) > 1 and node.input[1]:
        given = interpreter.scalar(node.input[1])
        if given is None:
            return None
        diagonal = given
    row, column = indices[-2], indices[-1]
    if int_attribute(node, "upper", 1):
        kept = less_equal(row + diagonal, column)
    else:
        kept = less_equal(column, row + diagonal)
    return interpreter.element(node.input[0], indices) * ind(kept)


def _eye_like(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    return ind(equal(indices[-1] - indices[-2], poly(int_attribute(node, "k", 0))))


def _concat(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    axis = int_attribute(node, "axis", 0) % len(indices)
    position = indices[axis]
    start = ZERO
    pieces: list[tuple[str, Poly, Poly]] = []
    for name in node.input:
        dims = interpreter.dims(name)
        if dims is None:
            return None
        pieces.append((name, start, start + dims[axis]))
        start = start + dims[axis]
    value: Poly | None = None
    # Where is the position?  In one piece for certain, or a case distinction over the pieces.
    for name, first, last in pieces:
        inside = conjunction((less_equal(first, position), less(position, last)))
        if inside.kind == "false":
            continue
        element_ = interpreter.element(name, (*indices[:axis], position - first, *indices[axis + 1 :]))
        if inside.kind == "true":
            return element_
        value = ind(inside) * element_ + (ZERO if value is None else value)
    return value


def _pad(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    if attribute(node, "mode", b"constant") not in (b"constant", "constant"):
        return None
    pads = ints_attribute(node, "pads") or interpreter.constants(node.input[1])
    fill: Poly | None = poly(exact(float_attribute(node, "value", 0.0)))
    if len(node.input) > 2 and node.input[2]:
        fill = interpreter.scalar(node.input[2])
    dims = interpreter.dims(node.input[0])
    if pads is None or fill is None or dims is None:
        return None
    if len(node.input) > 3 and node.input[3]:
        axes = interpreter.constants(node.input[3])
        if axes is None:
            return None
        whole = [0] * (2 * len(dims))
        for position, axis in enumerate(axes):
            whole[axis % len(dims)] = pads[position]
            whole[axis % len(dims) + len(dims)] = pads[position + len(axes)]
        pads = whole
    inside: list[Cond] = []
    moved = []
    for axis, (index, extent) in enumerate(zip(indices, dims, strict=True)):
        before, after = pads[axis], pads[axis + len(dims)]
        if before:
            inside.append(less_equal(poly(before), index))
        if after:
            inside.append(less(index, extent + before))
        moved.append(index - before)
    value = interpreter.element(node.input[0], tuple(moved))
    test = ind(conjunction(inside))
    return fill + test * (value - fill)


def _scatter_nd(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    """``data`` with a box of it replaced, when the indices name a box: x[a:b, c:d] = updates."""
    if attribute(node, "reduction", b"none") not in (b"none", "none"):
        return None
    dims, index_dims = interpreter.dims(node.input[0]), interpreter.dims(node.input[1])
    if dims is None or index_dims is None or index_dims[-1].constant is None:
        return None
    depth = int(index_dims[-1].constant)
    outer = len(index_dims) - 1
    where = tuple(of(Index(f"#{node.output[0]}.{axis}", index_dims[axis], Axis.SUMMED)) for axis in range(outer))
    position: list[Poly | None] = [None] * outer
    inside: list[Cond] = []
    for k in range(depth):
        target = inside_extent(interpreter, interpreter.element(node.input[1], (*where, poly(k))), dims[k])
        if target is None:
            return None
        moving = [axis for axis in range(outer) if target.depends_on(*where[axis].atoms)]
        if not moving:
            inside.append(equal(indices[k], target))
            continue
        if len(moving) > 1 or position[moving[0]] is not None:
            return None
        axis = moving[0]
        offset = target - where[axis]
        if any(offset.depends_on(*w.atoms) for w in where):
            return None
        position[axis] = indices[k] - offset
        inside.append(less_equal(offset, indices[k]))
        inside.append(less(indices[k], offset + index_dims[axis]))
    if any(p is None and index_dims[axis] != 1 for axis, p in enumerate(position)):
        return None
    condition = conjunction(interpreter_cond(interpreter, c) for c in inside)
    update_index = (*(p if p is not None else ZERO for p in position), *indices[depth:])
    updated = interpreter.element(node.input[2], update_index)
    test = ind(condition)
    if test == 1:
        return updated
    return interpreter.element(node.input[0], indices) * (ONE - test) + test * updated


def inside_extent(interpreter: Interpreter, index: Poly, extent: Poly) -> Poly | None:
    """An index that a Scatter uses, counted from the front; None where it may be negative for some sizes only.

    One that is too large ends the original with an error; a constant one is known to be there nevertheless, since
    an axis of unknown extent has few entries in some runs.
    """
    index = interpreter.facts.normal(index)
    if is_nonpositive(index + 1):
        index = index + extent
    there = index.constant is None or is_nonnegative(interpreter.facts.normal(extent - 1 - index))
    return index if there and is_nonnegative(index) else None


def _scatter_elements(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    """``data`` with one slice along an axis replaced: x[:, 3] = updates."""
    if attribute(node, "reduction", b"none") not in (b"none", "none"):
        return None
    data, places = interpreter.dims(node.input[0]), interpreter.dims(node.input[1])
    if data is None or places is None:
        return None
    axis = int_attribute(node, "axis", 0) % len(data)
    if places[axis] != 1 or any(
        a != axis and not interpreter.same(p, d) for a, (p, d) in enumerate(zip(places, data, strict=True))
    ):
        return None
    inner = (*indices[:axis], ZERO, *indices[axis + 1 :])
    target = inside_extent(interpreter, interpreter.element(node.input[1], inner), data[axis])
    if target is None or target.constant is None:
        return None
    test = ind(equal(indices[axis], target))
    old = interpreter.element(node.input[0], indices)
    return old + test * (interpreter.element(node.input[2], inner) - old)


def interpreter_cond(interpreter: Interpreter, condition: Cond) -> Cond:
    """The condition with everything that is known about sizes put in."""
    value = at_most_zero(condition)
    return condition if value is None else less_equal(interpreter.facts.normal(value), ZERO)


def _reduce(kind: str) -> Callable[[Interpreter, NodeProto, int, Indices], Poly | None]:
    def rule(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
        dims = interpreter.dims(node.input[0])
        if dims is None:
            return None
        reduced = reduced_axes(interpreter, node, len(dims))
        if reduced is None:
            return None
        keep = int_attribute(node, "keepdims", 1)
        counters = {a: Index(f"#{node.output[0]}.{a}", dims[a], Axis.SUMMED) for a in reduced}
        rest = iter(indices)
        inner = []
        for axis in range(len(dims)):
            if axis in counters:
                if keep:
                    next(rest)
                inner.append(of(counters[axis]))
            else:
                inner.append(next(rest))
        value = interpreter.element(node.input[0], tuple(inner))
        for axis in reduced:
            combined = _combine(kind, value, counters[axis])
            if combined is None:
                return None
            value = combined
        return value

    return rule


def _combine(kind: str, value: Poly, counter: Index) -> Poly | None:
    constant = counter.bound.constant
    if constant is not None and constant <= 16:
        parts = [substitute(value, {counter: poly(k)}) for k in range(int(constant))]
        if not parts:
            return None
        if kind in ("sum", "mean"):
            total = sum(parts, ZERO)
            return total if kind == "sum" else total / constant
        if kind == "prod" and len(parts) <= 8:
            product = ONE
            for part in parts:
                product = product * part
            return product if len(product.terms) < 64 else None
    if not value.depends_on(counter):
        return value if kind in ("max", "min", "mean") else (value * counter.bound if kind == "sum" else None)
    atom = value.single_atom
    if kind == "sum":
        closed = _running_sum(value, counter, counter.bound)
        return of(Sum(counter, value)) if closed is None else closed
    if kind == "max" and isinstance(atom, Ind):
        return ind(exists(counter, atom.condition))
    inverse = (ONE - value).single_atom
    if kind == "max" and isinstance(inverse, Ind):
        return ind(exists(counter, negation(inverse.condition)))
    if kind == "min" and isinstance(atom, Ind):
        return ONE - ind(exists(counter, negation(atom.condition)))
    if kind in ("max", "min") and value.is_integer and all(isinstance(a, Index) for a in value.all_atoms()):
        # An index expression that rises or falls with the counter has its extreme at an end.
        step = value.coefficient_of(counter)
        if step.constant is not None and not (value - step * of(counter)).depends_on(counter):
            last = (step.constant > 0) == (kind == "max")
            return substitute(value, {counter: counter.bound - 1 if last else ZERO})
    return None


def _matmul(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    """A matrix product over an inner extent of 1 is an outer product: slopes times positions, for instance."""
    left, right = interpreter.dims(node.input[0]), interpreter.dims(node.input[1])
    out = interpreter.dims(node.output[0])
    if left is None or right is None or out is None or len(left) < 2 or len(right) < 2 or left[-1] != 1:
        return None
    batch = len(out) - 2
    a = tuple(ZERO if left[k] == 1 else indices[batch - (len(left) - 2) + k] for k in range(len(left) - 2))
    b = tuple(ZERO if right[k] == 1 else indices[batch - (len(right) - 2) + k] for k in range(len(right) - 2))
    return interpreter.element(node.input[0], (*a, indices[-2], ZERO)) * interpreter.element(
        node.input[1], (*b, ZERO, indices[-1])
    )


def _einsum(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    """An Einsum that sums over nothing is a product of elements."""
    terms, result = einsum_labels(node, [interpreter.rank(name) for name in node.input])
    if result is None or any(label not in result for term in terms for label in term):
        return None
    place = dict(zip(result, indices, strict=True))
    value = ONE
    for name, term in zip(node.input, terms, strict=True):
        dims = interpreter.dims(name)
        if dims is None or len(dims) != len(term):
            return None
        single = [interpreter.is_single(d) for d in dims]  # spread over the others, as in a broadcast
        at = (ZERO if one else place[c] for c, one in zip(term, single, strict=True))
        value = value * interpreter.element(name, tuple(at))
    return value


RULES: dict[str, Callable[[Interpreter, NodeProto, int, Indices], Poly | None]] = {
    "Range": _range,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumsum,
    "Trilu": _trilu,
    "EyeLike": _eye_like,
    "Concat": _concat,
    "Pad": _pad,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("max"),
    "ReduceMin": _reduce("min"),
    "ReduceMean": _reduce("mean"),
    "ReduceProd": _reduce("prod"),
    "MatMul": _matmul,
    "Einsum": _einsum,
}
