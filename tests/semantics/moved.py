"""Cases of operators that only move elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from .elementwise import operands
from .material import ORDINARY, Graph, T, tame

Build = Callable[[Graph], str]
Found = Iterator[tuple[str, Build]]


def table(g: Graph, dtype: int, *shape: int) -> str:
    count = int(np.prod(shape))
    return g.const(dtype, np.array((tame(dtype) * count)[:count], object).reshape(shape))


def sources(dtype: int) -> Iterator[tuple[str, Build]]:
    """Matrices: of constants, at run time, of positions."""
    yield "input", lambda g: g.input(dtype, "R", "S")
    yield "constants", lambda g: table(g, dtype, 3, 4)
    if dtype in ORDINARY and dtype != T.BOOL:
        yield "grid", lambda g: g.grid(dtype)


def identity(version: int, dtype: int) -> Found:
    for label, make in operands(dtype):
        yield label, lambda g, m=make: g.add("Identity", m(g))


def dropout(version: int, dtype: int) -> Found:
    for label, make in sources(dtype):
        if version < 12:
            yield label, lambda g, m=make: g.add("Dropout", m(g))
            yield f"{label} ratio", lambda g, m=make: g.add("Dropout", m(g), ratio=0.4)
            continue
        yield label, lambda g, m=make: g.add("Dropout", m(g))
        yield f"{label} seed", lambda g, m=make: g.add("Dropout", m(g), seed=3)
        for ratio, mode in ((0.4, False), (0.0, True)):
            yield (
                f"{label} ratio {ratio} training {mode}",
                lambda g, m=make, r=ratio, t=mode: g.add(
                    "Dropout", m(g), g.const(T.FLOAT, np.array(r)), g.const(T.BOOL, np.array(t))
                ),
            )


def transpose(version: int, dtype: int) -> Found:
    for label, make in sources(dtype):
        yield label, lambda g, m=make: g.add("Transpose", m(g))
        for perm in ([0, 1], [1, 0]):
            yield f"{label} {perm}", lambda g, m=make, p=perm: g.add("Transpose", m(g), perm=p)
    for perm in ([2, 0, 1], [1, 2, 0], [0, 2, 1]):
        yield f"three axes {perm}", lambda g, p=perm: g.add("Transpose", g.input(dtype, "R", "S", 2), perm=p)


def unsqueeze(version: int, dtype: int) -> Found:
    for (label, make), axes in product(sources(dtype), ([0], [1], [2], [-1], [-3], [0, 3], [3, 0], [1, -1])):
        yield f"{label} {axes}", lambda g, m=make, a=axes: _with_axes(g, "Unsqueeze", m(g), a, version)
    if version >= 13:
        yield "axes at run time", lambda g: g.add("Unsqueeze", g.input(dtype, "R"), g.input(T.INT64, 1))


def _with_axes(g: Graph, op: str, data: str, axes: list[int], version: int) -> str:
    return g.add(op, data, g.ints(*axes)) if version >= 13 else g.add(op, data, axes=axes)


def squeeze(version: int, dtype: int) -> Found:
    for axes in ([0], [2], [-1], [0, 2], [-3, -1]):
        yield f"input {axes}", lambda g, a=axes: _with_axes(g, "Squeeze", g.input(dtype, 1, "S", 1), a, version)
        yield f"constants {axes}", lambda g, a=axes: _with_axes(g, "Squeeze", table(g, dtype, 1, 3, 1), a, version)
    yield "all, static", lambda g: g.add("Squeeze", table(g, dtype, 1, 3, 1))
    yield "all, of unknown extents", lambda g: g.add("Squeeze", g.input(dtype, "R", 1, "S"))
    if version >= 13:
        yield "no axes", lambda g: g.add("Squeeze", g.input(dtype, 1, "S"), g.ints())
        yield "axes at run time", lambda g: g.add("Squeeze", g.input(dtype, 1, "S"), g.input(T.INT64, 1))


def expand(version: int, dtype: int) -> Found:
    yield "scalar", lambda g: g.add("Expand", g.input(dtype), g.add("Shape", "x"))
    for shape in ([2, 3, 4], [1, 1], [3, 1], [1, 4], [4], [1]):
        yield f"constants to {shape}", lambda g, s=shape: g.add("Expand", table(g, dtype, 3, 4), g.ints(*s))
    yield "column", lambda g: g.add("Expand", g.input(dtype, "R", 1), g.add("Shape", "x"))
    yield "row", lambda g: g.add("Expand", g.input(dtype, "S"), g.add("Shape", "x"))
    yield "shape at run time", lambda g: g.add("Expand", g.input(dtype, 1), g.input(T.INT64, 1))


def tile(version: int, dtype: int) -> Found:
    for (label, make), repeats in product(sources(dtype), ([1, 1], [2, 1], [1, 3], [2, 2], [0, 1])):
        yield f"{label} {repeats}", lambda g, m=make, r=repeats: g.add("Tile", m(g), g.ints(*r))
    yield "as often as there are rows", lambda g: g.add("Tile", table(g, dtype, 1, 3), g.add("Shape", "x"))
    yield "repeats at run time", lambda g: g.add("Tile", g.input(dtype, "S"), g.input(T.INT64, 1))


def reshape(version: int, dtype: int) -> Found:
    for label, make in sources(dtype):
        for shape in ([-1], [0, -1], [-1, 1], [1, -1, 1], [0, 0], [1, 0, -1]):
            yield f"{label} to {shape}", lambda g, m=make, s=shape: g.add("Reshape", m(g), g.ints(*s))
    for shape in ([2, 6], [6, -1], [2, 2, 3], [12], [4, 3], [0, 2, -1]):
        yield f"constants to {shape}", lambda g, s=shape: g.add("Reshape", table(g, dtype, 3, 4), g.ints(*s))
    yield "transposed", lambda g: g.add("Reshape", g.input(dtype, "R", "S"), g.ints(-1))
    yield (
        "as x",
        lambda g: g.add("Reshape", g.add("Reshape", g.input(dtype, "R", "S"), g.ints(-1)), g.add("Shape", "x")),
    )
    yield "shape at run time", lambda g: g.add("Reshape", g.const(dtype, (tame(dtype) * 2)[:1]), g.input(T.INT64, 1))
    if version >= 14:
        for allow in (0, 1):
            yield (
                f"nothing, allowzero={allow}",
                lambda g, a=allow: g.add("Reshape", g.const(dtype, np.zeros((0, 3))), g.ints(3, 0), allowzero=a),
            )
            yield f"[R, S], allowzero={allow}", lambda g, a=allow: g.add("Reshape", "x", g.ints(1, -1), allowzero=a)


def flatten(version: int, dtype: int) -> Found:
    for axis in (None, 0, 1, 2, 3, -1, -2):
        given = {} if axis is None else {"axis": axis}
        yield f"input {given}", lambda g, a=given: g.add("Flatten", g.input(dtype, "R", 2, "S"), **a)
        yield f"constants {given}", lambda g, a=given: g.add("Flatten", table(g, dtype, 2, 3, 2), **a)


LARGE = (1 << 63) - 1


def slice_(version: int, dtype: int) -> Found:
    one = [
        *[(0, 2, 1), (1, LARGE, 1), (-2, LARGE, 1), (0, -1, 1), (-100, 100, 1), (2, 1, 1), (-3, -1, 1), (1, 2, 1)],
        *[(3, 0, -1), (-1, -LARGE, -1), (LARGE, -LARGE, -1), (0, LARGE, 2), (-1, -5, -2), (LARGE, 0, -3)],
    ]
    for label, make in sources(dtype):
        for (start, end, step), axis in product(one, (1, -1)):
            if version < 10 and step != 1:
                continue
            yield (
                f"{label} {start}:{end}:{step} along {axis}",
                lambda g, m=make, b=(start, end, step), x=axis: g.add(
                    "Slice", m(g), g.ints(b[0]), g.ints(b[1]), g.ints(x), *([] if b[2] == 1 else [g.ints(b[2])])
                ),
            )
        yield f"{label} both", lambda g, m=make: g.add("Slice", m(g), g.ints(0, 1), g.ints(1, LARGE))
        yield f"{label} both, named", lambda g, m=make: g.add("Slice", m(g), g.ints(0, 1), g.ints(2, 3), g.ints(1, 0))
    yield (
        "the first S of a constant",
        lambda g: g.add("Slice", table(g, dtype, 8), g.ints(0), g.add("Shape", g.row(T.INT64)), g.ints(0)),
    )
    yield "bounds at run time", lambda g: g.add("Slice", g.input(dtype, "S"), g.input(T.INT64, 1), g.ints(LARGE))


def gather(version: int, dtype: int) -> Found:
    for label, make in sources(dtype):
        for axis, indices in product((None, 0, 1, -1), (0, -1, [0], [0, -1], [[0], [0]])):
            given = {} if axis is None else {"axis": axis}
            yield (
                f"{label} {indices} {given}",
                lambda g, m=make, i=indices, a=given: g.add("Gather", m(g), g.const(T.INT64, np.array(i)), **a),
            )
    yield "row by row", lambda g: g.add("Gather", g.input(dtype, "S"), g.row(T.INT64))
    yield "from the end", lambda g: g.add("Gather", g.input(dtype, "S"), g.add("Neg", g.row(T.INT64, 1)))
    yield (
        "around zero",
        lambda g: g.add("Gather", table(g, dtype, 9), g.add("Min", g.row(T.INT64, -2), g.const(T.INT64, np.array(3)))),
    )
    yield "int32", lambda g: g.add("Gather", table(g, dtype, 4), g.const(T.INT32, [3, -4, 0]))
    yield "at run time", lambda g: g.add("Gather", g.input(dtype, 9), g.add("Abs", g.input(T.INT64, "S")))
    yield "at run time, of either sign", lambda g: g.add("Gather", table(g, dtype, 9), g.input(T.INT64, "S"))


def gather_elements(version: int, dtype: int) -> Found:
    for axis in (None, 0, 1, -1):
        given = {} if axis is None else {"axis": axis}
        yield (
            f"constants {given}",
            lambda g, a=given: g.add("GatherElements", table(g, dtype, 3, 3), g.const(T.INT64, [[0, 2], [-1, 1]]), **a),
        )
        yield (
            f"at run time {given}",
            lambda g, a=given: g.add("GatherElements", table(g, dtype, 9, 9), g.input(T.INT64, 2, 3), **a),
        )
    yield (
        "reversed",
        lambda g: g.add(
            "GatherElements",
            g.input(dtype, "R", "S"),
            g.add("Expand", g.add("Neg", g.row(T.INT64, 1)), g.add("Shape", "x")),
            axis=1,
        ),
    )


def gather_nd(version: int, dtype: int) -> Found:
    for indices in ([[0]], [[-1]], [[0, 1], [2, -1]], [[[0]], [[-3]]], [1]):
        yield (
            f"{indices}",
            lambda g, i=indices: g.add("GatherND", table(g, dtype, 3, 4), g.const(T.INT64, np.array(i))),
        )
    if version >= 12:
        for indices in ([[1], [0]], [[-1], [1]]):
            yield (
                f"batch {indices}",
                lambda g, i=indices: g.add(
                    "GatherND", table(g, dtype, 2, 3, 2), g.const(T.INT64, np.array(i)), batch_dims=1
                ),
            )
    yield (
        "row by row",
        lambda g: g.add("GatherND", g.input(dtype, "S", 2), g.add("Reshape", g.row(T.INT64), g.ints(-1, 1))),
    )


def split(version: int, dtype: int) -> Found:
    for axis in (None, 0, 1, -1):
        given = {} if axis is None else {"axis": axis}
        extent = 4 if axis is None or axis == 0 else 6
        parts = [1, extent - 1]
        for output in (0, 1):
            yield (
                f"sizes {parts} {given} [{output}]",
                lambda g, o=output, a=given, p=parts: _split(g, dtype, version, p, o, a),
            )
            yield f"halves {given} [{output}]", lambda g, o=output, a=given: _split(g, dtype, version, None, o, a)
    if version >= 18:
        for output in (0, 2):
            yield (
                f"uneven [{output}]",
                lambda g, o=output: _nth(g, g.add("Split", table(g, dtype, 7, 2), outputs=3, num_outputs=3), o),
            )
    if version >= 13:
        yield (
            "of unknown extent",
            lambda g: g.add(
                "Split",
                g.input(dtype, "S", 2),
                g.add("Concat", g.ints(0), g.add("Shape", g.row(T.INT64)), axis=0),
                outputs=2,
            ),
        )


def _split(g: Graph, dtype: int, version: int, parts: list[int] | None, output: int, given: dict[str, int]) -> str:
    data = table(g, dtype, 4, 6)
    attributes: dict[str, object] = dict(given)
    if parts is not None and version < 13:
        attributes["split"] = parts
    if parts is None and version >= 18:
        attributes["num_outputs"] = 2
    inputs = [g.ints(*parts)] if parts is not None and version >= 13 else []
    return _nth(g, g.add("Split", data, *inputs, outputs=2, **attributes), output)


def _nth(g: Graph, first: str, output: int) -> str:
    return str(g.nodes[-1].output[output])


CASES: dict[str, Callable[[int, int], Found]] = {
    "Identity": identity,
    "Dropout": dropout,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Squeeze": squeeze,
    "Expand": expand,
    "Tile": tile,
    "Reshape": reshape,
    "Flatten": flatten,
    "Slice": slice_,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Split": split,
}
