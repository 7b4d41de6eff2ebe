"""Cases of elementwise operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from .material import FLOATS, INTEGERS, ORDINARY, UNSIGNED, Graph, T, edges, tame

Build = Callable[[Graph], str]
Found = Iterator[tuple[str, Build]]


def scalar(g: Graph, dtype: int, value: object) -> str:
    return g.const(dtype, np.array(value))


def operands(dtype: int) -> Iterator[tuple[str, Build]]:
    """One operand of every kind."""
    yield "edges", lambda g: g.const(dtype, edges(dtype))
    yield "input", lambda g: g.input(dtype, "R", "S")
    if dtype == T.BOOL:
        yield "mask", lambda g: g.mask()
        return
    if dtype not in ORDINARY:
        return
    yield "grid", lambda g: g.grid(dtype)
    yield "row long", lambda g: g.row(dtype)
    yield "static", lambda g: g.const(dtype, np.arange(12).reshape(3, 4))
    if dtype in FLOATS:
        yield "halves", lambda g: g.halves(dtype)
        yield "hidden", lambda g: hidden(g, dtype)


def hidden(g: Graph, dtype: int) -> str:
    """[R, S]: the grid where a key is visible, minus infinity elsewhere."""
    return g.add("Where", g.mask(), g.grid(dtype), scalar(g, dtype, -np.inf))


def unary(op: str) -> Callable[[int, int], Found]:
    def cases(version: int, dtype: int) -> Found:
        for label, make in operands(dtype):
            yield label, lambda g, make=make: g.add(op, make(g))

    return cases


def seconds(dtype: int) -> list[object]:
    """Right operands: numbers at which results wrap, truncate or are undefined."""
    if dtype == T.BOOL or dtype not in ORDINARY:
        return tame(dtype)[:2]
    if dtype in UNSIGNED:
        return [0, 1, 2, 7, 200]
    if dtype in INTEGERS:
        return [0, 1, 2, 3, -1, -2, 100, int(np.iinfo(_np(dtype)).max) // 4]
    return [0.0, 1.0, -2.0, 0.1, 3.0, 1e8 if dtype != T.FLOAT16 else 3e4, -np.inf]


def _np(dtype: int) -> type:
    return {T.INT8: np.int8, T.INT16: np.int16, T.INT32: np.int32, T.INT64: np.int64}[dtype]


def binary(op: str, **attributes: object) -> Callable[[int, int], Found]:
    def cases(version: int, dtype: int) -> Found:
        extra = f" {attributes}" if attributes else ""
        five = 5 if dtype in ORDINARY and dtype != T.BOOL else tame(dtype)[1]
        crash = op in ("Div", "Mod") and dtype in INTEGERS
        for (label, make), value in product(operands(dtype), seconds(dtype)):
            # A division by zero, or of the lowest number by -1, may end the process.
            if not (crash and (not value or (value == -1 and label == "edges"))):
                yield (
                    f"{label}, {value}{extra}",
                    lambda g, make=make, value=value: g.add(op, make(g), scalar(g, dtype, value), **attributes),
                )
        for label, make in operands(dtype):
            if not crash:
                yield (
                    f"5, {label}{extra}",
                    lambda g, make=make: g.add(op, scalar(g, dtype, five), make(g), **attributes),
                )
        if dtype in ORDINARY and dtype != T.BOOL and not crash:
            yield f"row, column{extra}", lambda g: g.add(op, g.row(dtype), g.column(dtype), **attributes)
            yield f"grid, input{extra}", lambda g: g.add(op, g.grid(dtype), g.input(dtype, "R", "S"), **attributes)
            yield f"row, own row{extra}", lambda g: g.add(op, g.row(dtype, 1), g.row(dtype, 1), **attributes)
        if dtype in ORDINARY and dtype != T.BOOL:
            yield f"grid, row + 1{extra}", lambda g: g.add(op, g.grid(dtype), g.row(dtype, 1), **attributes)
            yield (
                f"single rows of constants{extra}",
                lambda g: g.add(
                    op, g.const(dtype, [[v] for v in tame(dtype)]), g.const(dtype, [1, 2, 3]), **attributes
                ),
            )
        if dtype in FLOATS:
            yield f"hidden, hidden{extra}", lambda g: g.add(op, hidden(g, dtype), hidden(g, dtype), **attributes)

    return cases


def mod(version: int, dtype: int) -> Found:
    if dtype in INTEGERS or version >= 28:
        yield from binary("Mod")(version, dtype)
    yield from binary("Mod", fmod=1)(version, dtype)


def power(version: int, dtype: int) -> Found:
    for label, make in operands(dtype):
        for value in (0, 1, 2, 3, -1, 0.5, 10):
            kinds = [dtype, T.FLOAT] if version >= 12 else [dtype]
            for kind in dict.fromkeys(kinds):
                if (kind in INTEGERS and value != int(value)) or (kind in UNSIGNED and value < 0):
                    continue
                if kind in INTEGERS and dtype in INTEGERS and value < 0:
                    continue  # undefined
                yield (
                    f"{label} ^ {value} as {T.DataType.Name(kind)}",
                    lambda g, make=make, value=value, kind=kind: g.add("Pow", make(g), scalar(g, kind, value)),
                )
    if dtype in ORDINARY:
        yield "2 ^ row", lambda g: g.add("Pow", scalar(g, dtype, 2), g.row(dtype))
        yield "column ^ row", lambda g: g.add("Pow", g.column(dtype), g.row(dtype))


def variadic(op: str) -> Callable[[int, int], Found]:
    def cases(version: int, dtype: int) -> Found:
        yield "one", lambda g: g.add(op, g.input(dtype, "R", "S"))
        if dtype in ORDINARY:
            yield "three", lambda g: g.add(op, g.row(dtype), g.column(dtype), scalar(g, dtype, 1))
            yield "three, constant first", lambda g: g.add(op, scalar(g, dtype, 2), g.row(dtype), g.grid(dtype))
        for bound in bounds(dtype):
            for label, make in operands(dtype):
                yield f"{label}, {bound}", lambda g, make=make, bound=bound: g.add(op, make(g), scalar(g, dtype, bound))
            if dtype in FLOATS:
                yield (
                    f"steep long, {bound}",
                    lambda g, bound=bound: g.add(
                        op, g.add("Mul", g.row(dtype), scalar(g, dtype, 200)), scalar(g, dtype, bound)
                    ),
                )
                yield (
                    f"far below, {bound}",
                    lambda g, bound=bound: g.add(
                        op, g.add("Sub", g.grid(dtype), scalar(g, dtype, 6e4)), scalar(g, dtype, bound)
                    ),
                )

    return cases


def bounds(dtype: int) -> list[object]:
    if dtype in UNSIGNED:
        return [0, 2]
    if dtype in INTEGERS:
        return [-2, 1, int(np.iinfo(_np(dtype)).min)]
    if dtype == T.FLOAT16:
        return [-2.0, 1.5, -65504.0, 65504.0]
    return [-2.0, 1.5, -65504.0, 65504.0, -1e5, -3.38e38, 3.38e38, -np.inf, np.inf]


def clip(version: int, dtype: int) -> Found:
    pairs: list[tuple[object, object]] = [(None, None), (None, 1), (0, None), (0, 2), (2, 0), (2, 2)]
    if dtype in FLOATS:
        pairs += [(-65504.0, 65504.0), (-65504.0, None), (None, 65504.0)]
        if dtype != T.FLOAT16:
            pairs += [(-3.38e38, 3.38e38), (-1e5, 1e5), (-np.inf, np.inf)]
    for (low, high), (label, make) in product(pairs, operands(dtype)):
        if version < 11:
            yield (
                f"{label} in {low}, {high}",
                lambda g, make=make, low=low, high=high: g.add(
                    "Clip", make(g), **{k: float(v) for k, v in (("min", low), ("max", high)) if v is not None}
                ),
            )
            continue
        yield (
            f"{label} in {low}, {high}",
            lambda g, make=make, low=low, high=high: g.add(
                "Clip", make(g), *("" if v is None else scalar(g, dtype, v) for v in (low, high))
            ),
        )
    if version >= 11 and dtype in ORDINARY:
        yield (
            "row with a bound at run time",
            lambda g: g.add("Clip", g.row(dtype), g.input(dtype), ""),
        )


def where(version: int, dtype: int) -> Found:
    for label, make in operands(dtype):
        value = tame(dtype)[0]
        yield f"mask, {label}, constant", lambda g, m=make, v=value: g.add("Where", g.mask(), m(g), scalar(g, dtype, v))
        yield f"mask, constant, {label}", lambda g, m=make, v=value: g.add("Where", g.mask(), scalar(g, dtype, v), m(g))
    yield (
        "input, input, input",
        lambda g: g.add("Where", g.input(T.BOOL, "R", "S"), g.input(dtype, "S"), g.input(dtype, "R", 1)),
    )
    if dtype in FLOATS:
        yield "hidden twice", lambda g: g.add("Where", g.mask(), hidden(g, dtype), hidden(g, dtype))


SOURCES = (T.BOOL, T.INT8, T.INT32, T.INT64, T.UINT8, T.UINT32, T.FLOAT16, T.FLOAT, T.DOUBLE, T.BFLOAT16)


def cast(op: str) -> Callable[[int, int], Found]:
    def cases(version: int, dtype: int) -> Found:
        for source in SOURCES:
            for label, make in operands(source):
                yield (
                    f"from {T.DataType.Name(source)}: {label}",
                    lambda g, make=make, source=source: (
                        g.add("Cast", make(g), to=dtype)
                        if op == "Cast"
                        else g.add("CastLike", make(g), g.input(dtype, 1))
                    ),
                )
            yield (
                f"from {T.DataType.Name(source)}: small numbers",
                lambda g, source=source: (
                    g.add("Cast", g.const(source, tame(source)), to=dtype)
                    if op == "Cast"
                    else g.add("CastLike", g.const(source, tame(source)), g.input(dtype, 1))
                ),
            )
        extra = {
            k: v for k, v in (("saturate", 0), ("round_mode", "down")) if version >= (24 if k == "round_mode" else 19)
        }
        for attribute, value in extra.items():
            yield (
                f"{attribute}={value}",
                lambda g, a=attribute, v=value: (
                    g.add("Cast", g.const(T.FLOAT, edges(T.FLOAT)), to=dtype, **{a: v})
                    if op == "Cast"
                    else g.add("CastLike", g.const(T.FLOAT, edges(T.FLOAT)), g.input(dtype, 1), **{a: v})
                ),
            )

    return cases


UNARY = (
    *("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "IsNaN", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round"),
    *("Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Tanh"),
)
BINARY = (
    *("Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
)

CASES: dict[str, Callable[[int, int], Found]] = {
    **{op: unary(op) for op in UNARY},
    **{op: binary(op) for op in BINARY},
    **{op: variadic(op) for op in ("Sum", "Max", "Min")},
    "Mod": mod,
    "Pow": power,
    "Clip": clip,
    "Where": where,
    "Cast": cast("Cast"),
    "CastLike": cast("CastLike"),
}
