"""Extents of results, per operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from onnx import NodeProto

from ...algebra import ONE, ZERO, Poly, Read, Size, maximum, poly
from ...graph.index import MAX_RANK, int_attribute, ints_attribute, label
from ...patterns.layouts import SEQUENCE
from .digits import divide, floordiv
from .equations import einsum_labels
from .movement import axes_of, reduced_axes, slice_bounds, split_sizes, squeezed_axes

if TYPE_CHECKING:
    from .engine import Interpreter

Dims = tuple[Poly, ...] | None


def broadcast(interpreter: Interpreter, shapes: list[tuple[Poly, ...]], node: NodeProto) -> tuple[Poly, ...]:
    """The common shape of broadcast operands; extents that must agree are learned to.

    An extent such as min(1, S) never exceeds 1.  It is spread over any other extent, and equals one only by chance.
    """
    rank = max((len(s) for s in shapes), default=0)
    result: list[Poly] = []
    for axis in range(rank):
        chosen: Poly = ONE
        for shape in shapes:
            position = axis - (rank - len(shape))
            if position < 0 or shape[position] == 1:
                continue
            extent = shape[position]
            if chosen == 1 or (interpreter.is_single(chosen) and not interpreter.is_single(extent)):
                chosen = extent
            elif not interpreter.is_single(extent) and not interpreter.same(chosen, extent):
                interpreter.agree(chosen, extent, node)
                if extent.constant is not None:
                    chosen = extent
        result.append(interpreter.facts.normal(chosen))
    return tuple(result)


def _constant(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    array = interpreter.scope.constant(node.output[0])
    if array is not None:
        return [tuple(poly(d) for d in array.shape)]
    return [None]


def _shape_of(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    if dims is None:
        return [(interpreter.fresh_size(),)]
    start = int_attribute(node, "start", 0)
    end = int_attribute(node, "end", len(dims))
    return [(poly(len(range(len(dims))[start:end])),)]


def _transpose(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    if dims is None:
        return [None]
    perm = ints_attribute(node, "perm") or list(range(len(dims)))[::-1]
    return [tuple(dims[p] for p in perm)]


def _unsqueeze(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims, axes = inputs[0], axes_of(interpreter, node)
    if dims is None or axes is None:
        return [None]
    rank = len(dims) + len(axes)
    added = {a % rank for a in axes}
    rest = iter(dims)
    return [tuple(ONE if axis in added else next(rest) for axis in range(rank))]


def _squeeze(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    if dims is None:
        return [None]
    dropped = squeezed_axes(interpreter, node, dims)
    if dropped is None:
        return [None]
    return [tuple(d for a, d in enumerate(dims) if a not in dropped)]


def _expand(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    target = _target(interpreter, node.input[1])
    if inputs[0] is None or target is None:
        return [None]
    return [broadcast(interpreter, [inputs[0], target], node)]


def _target(interpreter: Interpreter, name: str) -> Dims:
    """A shape given as a tensor; unknown entries become fresh sizes."""
    values = interpreter.integers(name)
    return None if values is None else tuple(values)


def _tile(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    repeats = interpreter.integers(node.input[1])
    if inputs[0] is None or repeats is None:
        return [None]
    return [tuple(d * r for d, r in zip(inputs[0], repeats, strict=True))]


def _reshape(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    target = interpreter.integers(node.input[1])
    if target is None:
        length = interpreter.dims(node.input[1])
        if length is None or len(length) != 1 or length[0].constant is None or length[0].constant > MAX_RANK:
            return [None]
        return [tuple(interpreter.fresh_size() for _ in range(int(length[0].constant)))]
    zero_is_zero = int_attribute(node, "allowzero", 0)
    result: list[Poly | None] = []
    for axis, extent in enumerate(target):
        if extent == 0 and not zero_is_zero:
            result.append(dims[axis] if dims is not None and axis < len(dims) else interpreter.fresh_size())
        elif extent == -1:
            result.append(None)
        else:
            result.append(_given(interpreter, extent))
    if None not in result:
        return [tuple(d for d in result if d is not None)]
    filler = (
        interpreter.fresh_size()
        if dims is None
        else _remaining(interpreter, list(dims), [d for d in result if d is not None])
    )
    return [tuple(filler if d is None else d for d in result)]


def _given(interpreter: Interpreter, extent: Poly) -> Poly:
    """An extent as a Reshape is given it.  One that is read at run time may be -1 or 0, which mean something else."""
    known = interpreter.facts.normal(extent)
    return interpreter.fresh_size() if any(isinstance(a, Read) for a in known.all_atoms()) else known


def _remaining(interpreter: Interpreter, whole: list[Poly], known: list[Poly]) -> Poly:
    """The extent that -1 stands for: prod(whole) / prod(known), after cancelling equal extents.

    Where that is not a polynomial, it is a size of its own, and its number of elements is noted.
    """
    whole = [interpreter.facts.normal(d) for d in whole]
    left = []
    for extent in known:
        match = next((w for w in whole if interpreter.same(w, extent)), None)
        if match is None:
            left.append(extent)
        else:
            whole.remove(match)
    total, divisor = ONE, ONE
    for extent in whole:
        total = total * extent
    for extent in left:
        divisor = divisor * extent
    found = divide(total, divisor)
    if found is None:
        found = interpreter.fresh_size()
        interpreter.counted.update({a: divisor * found - total for a in found.atoms if isinstance(a, Size)})
    return found


def _flatten(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    if dims is None:
        return [None]
    axis = int_attribute(node, "axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    left, right = ONE, ONE
    for position, extent in enumerate(dims):
        if position < axis:
            left = left * extent
        else:
            right = right * extent
    return [(left, right)]


def _slice(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    if dims is None:
        return [None]
    bounds = slice_bounds(interpreter, node)
    if bounds is None:
        axes = ints_attribute(node, "axes")
        if axes is None and len(node.input) > 3 and node.input[3]:
            axes = interpreter.constants(node.input[3])
        touched = range(len(dims)) if axes is None else {a % len(dims) for a in axes}
        return [tuple(interpreter.fresh_size() if a in touched else d for a, d in enumerate(dims))]
    result = list(dims)
    for axis, _, extent, _ in bounds:
        result[axis] = extent
    return [tuple(result)]


def _gather(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims, index_dims = inputs[0], inputs[1]
    if dims is None or index_dims is None:
        return [None]
    axis = int_attribute(node, "axis", 0) % len(dims)
    return [(*dims[:axis], *index_dims, *dims[axis + 1 :])]


def _gather_nd(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims, index_dims = inputs[0], inputs[1]
    if dims is None or index_dims is None or index_dims[-1].constant is None:
        return [None]
    batch = int_attribute(node, "batch_dims", 0)
    return [(*index_dims[:-1], *dims[batch + int(index_dims[-1].constant) :])]


def _split(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    if dims is None:
        return [None] * len(node.output)
    axis = int_attribute(node, "axis", 0) % len(dims)
    sizes = split_sizes(interpreter, node) or [interpreter.fresh_size() for _ in node.output]
    return [(*dims[:axis], s, *dims[axis + 1 :]) for s in sizes]


def _concat(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    known = [d for d in inputs if d is not None]
    if len(known) != len(inputs) or not known:
        return [None]
    axis = int_attribute(node, "axis", 0) % len(known[0])
    result = list(known[0])
    for other in known[1:]:
        for position, extent in enumerate(other):
            if position == axis:
                result[axis] = result[axis] + extent
            elif not interpreter.same(result[position], extent):
                interpreter.facts.learn(result[position], extent, label(node), by_broadcast=False)
    return [tuple(interpreter.facts.normal(d) for d in result)]


def _range(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    start, limit, step = (interpreter.scalar(n) for n in node.input)
    if start is None or limit is None or step is None or not step.constant:
        return [(interpreter.fresh_size(),)]
    span, stride = limit - start, Fraction(step.constant)
    if span.constant is not None:
        return [(poly(max(0, math.ceil(span.constant / stride))),)]
    if not span.is_integer or stride.denominator != 1:
        return [(interpreter.fresh_size(),)]
    if abs(stride) == 1:
        return [(maximum(ZERO, span * int(stride)),)]
    count = span * (1 if stride > 0 else -1) + (abs(stride) - 1)
    return [(maximum(ZERO, floordiv(count, poly(abs(int(stride))))),)]


def _constant_of_shape(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    return [_target(interpreter, node.input[0])]


def _matmul(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    left, right = inputs[0], inputs[1]
    if left is None or right is None or not left or not right:
        return [None]
    if int_attribute(node, "transBatchA", 0):
        left = (*left[1:-1], left[0], left[-1])
    if int_attribute(node, "transBatchB", 0):
        right = (*right[1:-1], right[0], right[-1])
    if int_attribute(node, "transA", 0) and len(left) > 1:
        left = (*left[:-2], left[-1], left[-2])
    if int_attribute(node, "transB", 0) and len(right) > 1:
        right = (*right[:-2], right[-1], right[-2])
    inner = right[-2] if len(right) > 1 else right[0]
    if not interpreter.same(left[-1], inner):
        interpreter.facts.learn(left[-1], inner, label(node), by_broadcast=False)
    batch = broadcast(interpreter, [left[:-2], right[:-2]], node)
    rows = (left[-2],) if len(left) > 1 else ()
    columns = (right[-1],) if len(right) > 1 else ()
    return [(*batch, *rows, *columns)]


def _gemm(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    return _matmul(interpreter, node, inputs[:2])


def _einsum(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    terms, result = einsum_labels(node, [None if d is None else len(d) for d in inputs])
    if result is None:
        return [None]
    sizes: dict[str, Poly] = {}
    for term, dims in zip(terms, inputs, strict=True):
        if dims is None or len(dims) != len(term):
            return [None]
        for letter, extent in zip(term, dims, strict=True):
            if letter in sizes and not interpreter.is_single(sizes[letter]) and not interpreter.is_single(extent):
                if not interpreter.same(sizes[letter], extent):
                    interpreter.facts.learn(sizes[letter], extent, label(node), by_broadcast=True)
            elif letter not in sizes or interpreter.is_single(sizes[letter]):
                sizes[letter] = extent
    return [tuple(sizes[c] for c in result)]


def _reduce(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    if dims is None:
        return [None]
    reduced = reduced_axes(interpreter, node, len(dims))
    if reduced is None:
        return [None]
    keep = int_attribute(node, "keepdims", 1)
    return [tuple(ONE if a in reduced else d for a, d in enumerate(dims) if keep or a not in reduced)]


def _pad(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    dims = inputs[0]
    pads = ints_attribute(node, "pads")
    if pads is None and len(node.input) > 1:
        pads = interpreter.constants(node.input[1])
    if dims is None:
        return [None]
    if pads is None or (len(node.input) > 3 and node.input[3]) or len(pads) != 2 * len(dims):
        return [tuple(interpreter.fresh_size() for _ in dims)]
    return [tuple(d + (pads[a] + pads[a + len(dims)]) for a, d in enumerate(dims))]


def _same_as_second(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    return [inputs[1] if len(inputs) > 1 else None]


def _attention(interpreter: Interpreter, node: NodeProto, inputs: list[Dims]) -> list[Dims]:
    """Attention operators: the output is laid out like the query, with the value's feature size."""
    query = inputs[0]
    value = inputs[2] if len(inputs) > 2 else None
    results: list[Dims] = [None] * len(node.output)
    if query is None:
        return results
    if node.op_type == "Attention" and node.domain == "com.microsoft":
        weights = inputs[1]
        sizes = ints_attribute(node, "qkv_hidden_sizes")
        hidden = poly(sizes[2]) if sizes else (divide(weights[1], poly(3)) if weights and len(weights) == 2 else None)
        if len(query) == 3 and hidden is not None:
            results[0] = (*query[:2], hidden)
        return results
    keys = inputs[1] if len(inputs) > 1 else None
    if keys is not None and value is not None and len(keys) == len(value) and len(keys) in SEQUENCE:
        place = SEQUENCE[len(keys)]
        if not interpreter.same(keys[place], value[place]):
            interpreter.facts.learn(keys[place], value[place], label(node), by_broadcast=False)
    if len(query) == 4 and value is not None and len(value) == 4:
        results[0] = (*query[:3], value[3])
    elif len(query) == 3:
        grouped = node.op_type == "GroupQueryAttention" or value is None or len(value) != 3
        same = grouped or interpreter.same(query[2], inputs[1][2] if inputs[1] and len(inputs[1]) == 3 else query[2])
        results[0] = (*query[:2], query[2] if grouped or value is None else (value[2] if same else query[2]))
    return results


RULES: dict[str, Callable[[Interpreter, NodeProto, list[Dims]], list[Dims]]] = {
    "Attention": _attention,
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "Constant": _constant,
    "Shape": _shape_of,
    "Size": lambda i, n, d: [()],
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Tile": _tile,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _same_as_second,
    "GatherND": _gather_nd,
    "Split": _split,
    "Concat": _concat,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "ReduceSum": _reduce,
    "ReduceMax": _reduce,
    "ReduceMin": _reduce,
    "ReduceMean": _reduce,
    "ReduceProd": _reduce,
    "ReduceL2": _reduce,
    "ReduceSumSquare": _reduce,
    "Pad": _pad,
    "DynamicQuantizeLinear": lambda i, n, d: [d[0], (), ()],
}
