"""Matrix products: columns of a weight make columns of the result; rows make a sum over the ranks."""

from __future__ import annotations

from ...graph.index import float_attribute, int_attribute
from ..cuts import AxisCut, NotSeparable
from ..question import Question, Rule


def matmul(q: Question) -> bool:
    """MatMul, and FusedMatMul where it transposes nothing or the weight alone."""
    if any(int_attribute(q.node, name, 0) for name in ("transA", "transBatchA", "transBatchB")):
        raise NotSeparable("FusedMatMul transposes its first operand")
    turned = bool(int_attribute(q.node, "transB", 0))
    left, right = q.dims(0), q.dims(1)
    if len(left) < 2 or len(right) < 2:
        raise NotSeparable("a product of a vector")
    rows, columns = (len(right) - 1, len(right) - 2) if turned else (len(right) - 2, len(right) - 1)
    rank = max(len(left), len(right))
    a, b, out = q.inputs.get(0), q.inputs.get(1), q.outputs.get(0)
    if (a is not None and a.axis == len(left) - 1) or (b is not None and b.axis == rows):
        cut = a if a is not None else b
        assert cut is not None
        _plain(q, cut, left[-1].constant)
        if not cut.exact:
            raise NotSeparable("a product would count what several ranks hold more than once")
        if out is not None:
            raise NotSeparable("a sum over the ranks would have to be cut")
        q.want(0, cut.on(len(left) - 1))
        q.want(1, cut.on(rows))
        q.partial.add(0)
        return True
    if out is None:
        if b is not None and b.axis == columns:
            out = b.on(rank - 1)
        elif a is not None:
            out = a.on(a.axis + rank - len(left))
        elif b is not None:
            out = b.on(b.axis + rank - len(right))
        else:
            return False
    q.give(out)
    if out.axis == rank - 1:
        q.whole(0)
        q.want(1, out.on(columns))
        return True
    if out.axis == rank - 2:
        q.want(0, out.on(len(left) - 2))
        q.whole(1)
        return True
    extent = q.dims_out()[out.axis]
    for position, dims in ((0, left), (1, right)):
        axis = out.axis - (rank - len(dims))
        if axis < 0 or dims[axis] == 1:
            q.whole(position)
        elif q.interpreter.same(dims[axis], extent):
            q.want(position, out.on(axis))
        else:
            raise NotSeparable("a product may be broadcast along what is cut")
    return True


def gemm(q: Question) -> bool:
    """Gemm; what it adds is added once, behind the sum over the ranks."""
    if int_attribute(q.node, "transA", 0):
        raise NotSeparable("Gemm transposes its first operand")
    turned = bool(int_attribute(q.node, "transB", 0))
    rows, columns = (1, 0) if turned else (0, 1)
    a, b, out = q.inputs.get(0), q.inputs.get(1), q.outputs.get(0)
    if (a is not None and a.axis == 1) or (b is not None and b.axis == rows):
        cut = a if a is not None else b
        assert cut is not None
        _plain(q, cut, q.dims(0)[1].constant)
        if not cut.exact:
            raise NotSeparable("a product would count what several ranks hold more than once")
        if q.has(2) and float_attribute(q.node, "beta", 1.0) != 1.0:
            raise NotSeparable("Gemm scales what it adds")
        if out is not None:
            raise NotSeparable("a sum over the ranks would have to be cut")
        q.want(0, cut.on(1))
        q.want(1, cut.on(rows))
        if q.has(2):
            q.whole(2)
        q.partial.add(0)
        return True
    if out is None:
        if b is not None:
            out = b.on(1)
        elif a is not None:
            out = a.on(0)
        elif 2 in q.inputs:
            out = q.inputs[2].on(q.inputs[2].axis + 2 - len(q.dims(2)))
        else:
            return False
    q.give(out)
    if out.axis == 1:
        q.whole(0)
        q.want(1, out.on(columns))
    else:
        q.want(0, out.on(0))
        q.whole(1)
    if q.has(2):
        dims = q.dims(2)
        axis = out.axis - (2 - len(dims))
        if axis < 0 or dims[axis] == 1:
            q.whole(2)
        elif q.interpreter.same(dims[axis], q.dims_out()[out.axis]):
            q.want(2, out.on(axis))
        else:
            raise NotSeparable(f"'{q.node.input[2]}' may be broadcast along what is cut")
    return True


def _plain(q: Question, cut: AxisCut, extent: object) -> None:
    if extent != cut.period:
        raise NotSeparable("a product sums over an axis in which batch and features are one")


PRODUCTS: dict[tuple[str, str], Rule] = {
    ("", "MatMul"): matmul,
    ("com.microsoft", "FusedMatMul"): matmul,
    ("", "Gemm"): gemm,
}
