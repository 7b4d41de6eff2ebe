"""Axes in which batch and heads are one, in the joined model: a rank holds its heads of every sequence.

Index ``row * period + place`` of such an axis is that of a sequence's head.  How many rows there are is known when the
model runs, so the indices are computed there, and a Gather takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from ..base.errors import ModelRejected
from ..graph.index import Array
from .cuts import AxisCut, local

Number = Callable[[Array, str], str]
"""Gives the name of a constant, from its content and a hint."""


def taken_of(value: str, output: str, cut: AxisCut, rank: int, number: Number) -> list[NodeProto]:
    """Nodes that take a rank's part of a tensor.

    Args:
        value: The whole tensor.
        output: What the part is called; names of what stands between begin with it.
        cut: How its axis is divided.
        rank: Whose part is taken.
        number: For constants.
    """
    places = np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in cut.parts[rank]])
    return [
        *_rows(value, output, cut.axis, cut.period, number),
        helper.make_node("Mul", [f"{output}/row", number(np.array([cut.period], np.int64), output)], [f"{output}/at"]),
        helper.make_node("Add", [f"{output}/at", number(places, output)], [f"{output}/places"]),
        *_gathered(value, output, cut.axis, number),
    ]


def put_together(parts: Sequence[str], output: str, cut: AxisCut, number: Number) -> list[NodeProto]:
    """Nodes that make the whole tensor of all ranks' parts; every index comes from the first rank that holds it.

    Args:
        parts: The parts, by rank.
        output: What the whole is called; names of what stands between begin with it.
        cut: How its axis is divided.
        number: For constants.

    Raises:
        ModelRejected: No rank holds some of it.
    """
    widths = [cut.width(rank) for rank in range(cut.ranks)]
    found = []
    for place in range(cut.period):
        rank = next((r for r, part in enumerate(cut.parts) if any(a <= place < b for a, b in part)), None)
        if rank is None:
            raise ModelRejected(f"no rank holds all of '{output}'.")
        found.append((sum(widths[:rank]), widths[rank], local(cut.parts[rank], place, place + 1)[0]))
    # Of all parts one behind the other, a rank's begin behind as many rows as there are, of those before it.
    before, width, there = (number(np.array(column, np.int64), output) for column in zip(*found, strict=True))
    return [
        *_rows(parts[0], output, cut.axis, widths[0], number),
        helper.make_node("Mul", [f"{output}/rows", before], [f"{output}/begin"]),
        helper.make_node("Mul", [f"{output}/row", width], [f"{output}/moved"]),
        helper.make_node("Add", [f"{output}/begin", f"{output}/moved"], [f"{output}/at"]),
        helper.make_node("Add", [f"{output}/at", there], [f"{output}/places"]),
        helper.make_node("Concat", list(parts), [f"{output}/parts"], axis=cut.axis),
        *_gathered(f"{output}/parts", output, cut.axis, number),
    ]


def _rows(value: str, output: str, axis: int, width: int, number: Number) -> list[NodeProto]:
    """How many rows an axis has, [1], is ``output/rows``; their numbers, [rows, 1], are ``output/row``."""
    names = [f"{output}/{word}" for word in ("shape", "extent", "rows", "ones", "numbers", "row")]
    at, wide = (number(np.array([n], np.int64), output) for n in (axis, width))
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    return [
        helper.make_node("Shape", [value], names[:1]),
        helper.make_node("Gather", [names[0], at], names[1:2]),
        helper.make_node("Div", [names[1], wide], names[2:3]),
        helper.make_node("ConstantOfShape", [names[2]], names[3:4], value=one),
        helper.make_node("NonZero", [names[3]], names[4:5]),
        helper.make_node("Transpose", [names[4]], names[5:6], perm=[1, 0]),
    ]


def _gathered(value: str, output: str, axis: int, number: Number) -> list[NodeProto]:
    """What lies at ``output/places``, row by row."""
    flat = number(np.array([-1], np.int64), output)
    return [
        helper.make_node("Reshape", [f"{output}/places", flat], [f"{output}/index"]),
        helper.make_node("Gather", [value, f"{output}/index"], [output], axis=axis),
    ]
