"""Cases of operators that make elements out of positions, or combine many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from .elementwise import operands, scalar
from .material import FLOATS, INTEGERS, ORDINARY, UNSIGNED, Graph, T, tame

Build = Callable[[Graph], str]
Found = Iterator[tuple[str, Build]]


def range_(version: int, dtype: int) -> Found:
    whole: list[tuple[object, object, object]] = [(0, "S", 1), (2, "S", 1), (0, "S", 3), (0, "S", 64), (0, 10, 4)]
    if dtype not in UNSIGNED:
        whole += [("S", 0, -1), (-3, "S", 2), (10, 0, -3), (5, 0, 1), (0, "S", -1)]
    if dtype in FLOATS:
        whole += [(0.0, 2.5, 1.0), (0.5, "S", 1.0), (0.0, "S", 0.5), (0.0, 1.0, 0.3), (2.0, -2.0, -0.75)]
    extra = [{}, *([{"stash_type": 10 if dtype == T.FLOAT16 else 1}] if version >= 27 else [])]
    for (start, limit, step), attributes in product(whole, extra):
        yield (
            f"{start} to {limit} by {step}{' long' if step == 1 else ''} {attributes or ''}",
            lambda g, ends=(start, limit, step), a=attributes: g.add("Range", *(_end(g, dtype, e) for e in ends), **a),
        )
    yield "from a number at run time", lambda g: g.add("Range", g.input(dtype), _end(g, dtype, 4), _end(g, dtype, 1))


def _end(g: Graph, dtype: int, value: object) -> str:
    return g.cast(g.size(1), dtype) if value == "S" else scalar(g, dtype, value)


def shape(version: int, dtype: int) -> Found:
    ends: list[dict[str, int]] = [{}]
    if version >= 15:
        ends += [{"start": 1}, {"end": 1}, {"start": -1}, {"end": -1}, {"start": 1, "end": 1}, {"start": 5}, {"end": 7}]
        ends += [{"start": -7}, {"end": -7}, {"start": 2, "end": 1}]
    for given in ends:
        yield str(given), lambda g, given=given: g.add("Shape", "x", **given)
        yield (
            f"{given} of four axes",
            lambda g, given=given: g.add("Shape", g.add("Reshape", "x", g.ints(1, -1, 1, 1)), **given),
        )


def size(version: int, dtype: int) -> Found:
    yield "of [R, S]", lambda g: g.add("Size", "x")
    yield "of a constant", lambda g: g.add("Size", g.const(T.FLOAT, np.zeros((3, 0))))


def constant_of_shape(version: int, dtype: int) -> Found:
    import onnx

    from .material import numpy_of

    values: list[object] = [tame(dtype)[0], tame(dtype)[1]]
    if dtype == T.INT64:
        values += [(1 << 53) + 1, -5]
    if dtype in FLOATS:
        values += [-np.inf, np.nan]
    for value in values:
        array = np.array([value], dtype=object).astype(numpy_of(dtype))
        tensor = onnx.numpy_helper.from_array(array)
        tensor.data_type = dtype
        yield f"{value}", lambda g, t=tensor: g.add("ConstantOfShape", g.add("Shape", "x"), value=t)
    if dtype == T.FLOAT:
        yield "nothing given", lambda g: g.add("ConstantOfShape", g.ints(2, 3))


def eye_like(version: int, dtype: int) -> Found:
    for k in (None, 0, 1, -1, 9):
        given = {} if k is None else {"k": k}
        yield f"{given}", lambda g, given=given: g.add("EyeLike", "x", dtype=dtype, **given)
        yield f"{given} like", lambda g, given=given: g.add("EyeLike", g.input(dtype, "R", "S"), **given)


def cumsum(version: int, dtype: int) -> Found:
    kinds = list(operands(dtype))
    if dtype in ORDINARY:
        kinds += [("ones long", lambda g: g.add("Expand", scalar(g, dtype, 1), g.add("Shape", "x")))]
        kinds += [("mask long", lambda g: g.add("Cast", g.mask(), to=dtype))]
        kinds += [("tokens", lambda g: g.add("Cast", g.input(T.BOOL, "R", "S"), to=dtype))]
    for (label, make), axis in product(kinds, (0, 1, -1)):
        for given in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
            yield (
                f"{label} axis {axis} {given}",
                lambda g, m=make, axis=axis, given=given: g.add(
                    "CumSum", m(g), g.const(T.INT64, np.array(axis)), **given
                ),
            )
    yield (
        "axis as int32 vector",
        lambda g: g.add("CumSum", g.grid(dtype), g.const(T.INT32, np.array([1]))),
    )


def trilu(version: int, dtype: int) -> Found:
    kinds = [(label, make) for label, make in operands(dtype) if label in ("grid", "input", "static", "mask", "hidden")]
    for (label, make), upper, k in product(kinds, (None, 0, 1), (None, 0, 1, -1, 5, -5)):
        given = {} if upper is None else {"upper": upper}
        yield (
            f"{label} {given} k={k}",
            lambda g, m=make, k=k, given=given: g.add(
                "Trilu", m(g), *([] if k is None else [g.const(T.INT64, np.array(k))]), **given
            ),
        )


def concat(version: int, dtype: int) -> Found:
    for axis in (0, 1, -1, -2):
        yield (
            f"inputs along {axis}",
            lambda g, axis=axis: g.add("Concat", g.input(dtype, "R", "S"), g.input(dtype, "R", "S"), axis=axis),
        )
    yield "one", lambda g: g.add("Concat", g.input(dtype, "R", "S"), axis=0)
    if dtype in ORDINARY and dtype != T.BOOL:
        yield (
            "row, constant, row",
            lambda g: g.add("Concat", g.row(dtype), g.const(dtype, tame(dtype)), g.row(dtype, 2), axis=0),
        )
        yield (
            "with nothing between",
            lambda g: g.add("Concat", g.row(dtype), g.const(dtype, np.zeros(0)), g.const(dtype, [1]), axis=-1),
        )


def pad(version: int, dtype: int) -> Found:
    kinds = [(label, make) for label, make in operands(dtype) if label in ("grid", "input", "static", "mask")]
    amounts = [(0, 0, 0, 0), (1, 0, 0, 2), (0, 2, 1, 0), (0, -1, 0, 0), (0, 1, 0, -1), (-1, 1, 1, 1)]
    fill = tame(dtype)[1]
    for (label, make), pads, mode in product(kinds, amounts, (None, "constant", "reflect", "edge", "wrap")):
        if mode == "wrap" and version < 19:
            continue
        given = {} if mode is None else {"mode": mode}
        if version >= 11:
            yield (
                f"{label} {pads} {mode}",
                lambda g, m=make, p=pads, given=given: g.add("Pad", m(g), g.ints(*p), **given),
            )
            if mode is None:
                yield (
                    f"{label} {pads} filled",
                    lambda g, m=make, p=pads: g.add("Pad", m(g), g.ints(*p), scalar(g, dtype, fill)),
                )
    if version >= 18:
        for axes in ((1,), (-1,), (0,), (1, 0), (-1, -2)):
            pads = (1, 2, 3, 0)[: 2 * len(axes)]
            for label, make in kinds:
                yield (
                    f"{label} axes {axes}",
                    lambda g, m=make, p=pads, a=axes: g.add(
                        "Pad", m(g), g.ints(*p), scalar(g, dtype, fill), g.ints(*a)
                    ),
                )
    if version >= 11:
        yield (
            "a fill at run time",
            lambda g: g.add("Pad", g.input(dtype, "R", "S"), g.ints(0, 1, 0, 1), g.input(dtype)),
        )


REDUCTIONS = ((None,), ("none",), ("add",), ("mul",), ("max",), ("min",))


def scatter_nd(version: int, dtype: int) -> Found:
    reductions = [None] if version < 16 else [None, "none", "add", "mul", *(["max", "min"] if version >= 18 else [])]
    for reduction in reductions:
        given = {} if reduction is None else {"reduction": reduction}
        for where in ([[0]], [[2]], [[-1]], [[-4]], [[1], [2]], [[1], [1]], [[3], [0]], [[-1], [0]]):
            yield (
                f"constant at {where} {given}",
                lambda g, w=where, a=given: g.add(
                    "ScatterND",
                    g.const(dtype, (tame(dtype) * 2)[:4]),
                    g.const(T.INT64, w),
                    g.const(dtype, (tame(dtype) * 2)[1 : 1 + len(w)]),
                    **a,
                ),
            )
        yield (
            f"whole rows {given}",
            lambda g, a=given: g.add(
                "ScatterND", g.input(dtype, 3, "S"), g.const(T.INT64, [[-1]]), g.input(dtype, 1, "S"), **a
            ),
        )
        yield (
            f"places {given}",
            lambda g, a=given: g.add(
                "ScatterND", g.input(dtype, 3, 2), g.const(T.INT64, [[1, 0], [2, -1]]), g.input(dtype, 2), **a
            ),
        )
        for first in (0, 2):
            yield (
                f"a box from {first} {given}",
                lambda g, a=given, f=first: (
                    g.add(
                        "ScatterND",
                        g.add("Pad", g.input(dtype, "S"), g.ints(1, 3)),
                        g.add("Reshape", g.row(T.INT64, f), g.ints(-1, 1)),
                        g.input(dtype, "S"),
                        **a,
                    )
                    if g.opset >= 13
                    else g.add(
                        "ScatterND",
                        g.input(dtype, "S"),
                        g.add("Reshape", g.row(T.INT64), g.ints(-1, 1)),
                        g.input(dtype, "S"),
                    )
                ),
            )
        yield (
            f"all but the last, from the end {given}",
            lambda g, a=given: g.add(
                "ScatterND",
                g.input(dtype, "S"),
                g.add("Reshape", g.add("Neg", g.row(T.INT64, 1)), g.ints(-1, 1)),
                g.input(dtype, "S"),
                **a,
            ),
        )
        yield (
            f"around zero {given}",
            lambda g, a=given: g.add(
                "ScatterND",
                g.const(dtype, (tame(dtype) * 3)[:6]),
                g.add("Reshape", g.add("Min", g.row(T.INT64, -1), g.const(T.INT64, np.array(3))), g.ints(-1, 1)),
                g.input(dtype, "S"),
                **a,
            ),
        )


def scatter_elements(version: int, dtype: int) -> Found:
    reductions = [None] if version < 16 else [None, "none", "add", "mul", *(["max", "min"] if version >= 18 else [])]
    for reduction, axis in product(reductions, (None, 0, 1, -1)):
        given: dict[str, object] = {} if reduction is None else {"reduction": reduction}
        given |= {} if axis is None else {"axis": axis}
        along = (axis or 0) % 2
        for place in (0, 1, -1, -3):
            indices = np.full((1, 3) if along == 0 else (3, 1), place)
            yield (
                f"a slice at {place} {given}",
                lambda g, i=indices, a=given: g.add(
                    "ScatterElements",
                    g.const(dtype, np.array((tame(dtype) * 4)[:9], object).reshape(3, 3)),
                    g.const(T.INT64, i),
                    g.const(dtype, np.array((tame(dtype) * 2)[1:4], object).reshape(i.shape)),
                    **a,
                ),
            )
        yield (
            f"two places {given}",
            lambda g, a=given: g.add(
                "ScatterElements", g.input(dtype, 3, 3), g.const(T.INT64, [[0, 2], [-1, 1]]), g.input(dtype, 2, 2), **a
            ),
        )


def reduce(op: str) -> Callable[[int, int], Found]:
    def cases(version: int, dtype: int) -> Found:
        listed = version < (13 if op == "ReduceSum" else 18)
        kinds = [k for k in operands(dtype) if k[0] not in ("edges",)]
        if dtype in ORDINARY and dtype != T.BOOL:
            kinds += [
                ("parabola", lambda g: g.add("Mul", g.grid(dtype), g.add("Sub", g.grid(dtype), scalar(g, dtype, 1)))),
                ("ones", lambda g: g.add("Expand", scalar(g, dtype, 1), g.add("Shape", "x"))),
                ("mask as numbers", lambda g: g.add("Cast", g.mask(), to=dtype)),
                ("tokens", lambda g: g.add("Cast", g.input(T.BOOL, "R", "S"), to=dtype)),
            ]
        for (label, make), axes, keep in product(kinds, (None, (), (0,), (1,), (-1,), (0, 1)), (None, 0, 1)):
            if "row" in label and axes not in (None, (0,), ()):
                continue
            given: dict[str, object] = {} if keep is None else {"keepdims": keep}
            if listed:
                extra = {} if axes is None else {"axes": list(axes)}
                if axes == ():
                    continue
                yield f"{label} {axes} {given}", lambda g, m=make, a={**given, **extra}: g.add(op, m(g), **a)
                continue
            for noop in (None, 1):
                own = given if noop is None else {**given, "noop_with_empty_axes": 1}
                yield (
                    f"{label} {axes} {own}",
                    lambda g, m=make, x=axes, a=own: g.add(op, m(g), *([] if x is None else [g.ints(*x)]), **a),
                )

    return cases


def matmul(version: int, dtype: int) -> Found:
    yield "inputs", lambda g: g.add("MatMul", g.input(dtype, "R", 3), g.input(dtype, 3, "S"))
    if dtype in ORDINARY:
        yield (
            "outer product",
            lambda g: g.add("MatMul", g.column(dtype), g.add("Reshape", g.row(dtype, 1), g.ints(1, -1))),
        )
        yield (
            "outer products of a batch",
            lambda g: g.add(
                "MatMul", g.const(dtype, [[[1]], [[2]], [[3]]]), g.add("Reshape", g.row(dtype), g.ints(1, 1, -1))
            ),
        )
        yield (
            "outer product that overflows",
            lambda g: g.add("MatMul", g.const(dtype, [[100], [120]]), g.const(dtype, [[3, 100]])),
        )
    yield "vectors", lambda g: g.add("MatMul", g.input(dtype, "S"), g.input(dtype, "S"))


def einsum(version: int, dtype: int) -> Found:
    pairs = [
        ("i,j->ij", ("R",), ("S",)),
        ("i,j->ji", ("R",), ("S",)),
        ("ij,j->ij", ("R", "S"), ("S",)),
        ("ij,ij->ij", ("R", "S"), ("R", "S")),
        ("i,j", ("R",), ("S",)),
        ("j,i", ("R",), ("S",)),
        ("ij,jk->ik", ("R", "S"), ("S", 2)),
        ("ij,i->j", ("R", "S"), ("R",)),
        ("...i,...i->...i", ("R", "S"), ("R", "S")),
        ("i,i->i", ("S",), ("S",)),
        ("ij,kj->ikj", ("R", "S"), (1, "S")),
    ]
    for equation, left, right in pairs:
        yield (
            equation,
            lambda g, e=equation, a=left, b=right: g.add("Einsum", g.input(dtype, *a), g.input(dtype, *b), equation=e),
        )
    for equation, one in (("ij->ji", ("R", "S")), ("ii->i", ("S", "S")), ("ij->i", ("R", "S")), ("ij", ("R", "S"))):
        yield equation, lambda g, e=equation, a=one: g.add("Einsum", g.input(dtype, *a), equation=e)
    yield (
        "ij,ij->ij over a single row",
        lambda g: g.add(
            "Einsum", g.const(dtype, [[1, 2, 3]]), g.const(dtype, [[1, 2, 3], [3, 2, 1]]), equation="ij,ij->ij"
        ),
    )
    if dtype in ORDINARY:
        yield "i,j->ij of rows", lambda g: g.add("Einsum", g.row(dtype), g.row(dtype, 1), equation="i,j->ij")


CASES: dict[str, Callable[[int, int], Found]] = {
    "Range": range_,
    "Shape": shape,
    "Size": size,
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "CumSum": cumsum,
    "Trilu": trilu,
    "Concat": concat,
    "Pad": pad,
    "ScatterND": scatter_nd,
    "ScatterElements": scatter_elements,
    **{op: reduce(op) for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd")},
    "MatMul": matmul,
    "Einsum": einsum,
}

__all__ = ["CASES", "INTEGERS"]
