"""How axes are named and ordered, and what may stand between the parts of an attention.

    scores    [B, H, S_q, S_kv]    query  [B, H, S_q, D]    key  [B, H_kv, S_kv, D]    value  [B, H_kv, S_kv, E]

A model may have fewer axes, several in one, and another order.  What they are is found out by ``recognise``; which ones
there can be is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from ..algebra import Index, Poly


class Axis(Enum):
    """What an index counts; the value is the letter that formulas have for it."""

    BATCH = "b"
    HEAD = "h"
    ROW = "i"
    KEY = "j"
    LEADING = "n"
    """Batch and heads in one axis, as long as it is not cut."""
    GROUP = "g"
    """Heads that share a key head, beside their number or folded into the rows."""
    FEATURE = "d"
    """What the product of query and key sums over."""
    VALUE_FEATURE = "e"
    """The axis of the values that the output keeps."""
    KEY_HEAD = "h_kv"
    """The head of keys and values that a head of the queries uses."""
    OPEN = "w"
    """An axis of the output whose meaning is not found yet."""
    SUMMED = "#"
    """What a sum or a condition runs over inside: no axis of the tensor itself."""


def axis(role: Axis, extent: Poly) -> Index:
    """The index of an axis, under the letter of its role."""
    return Index(role.value, extent, role)


OPERANDS: Final[Mapping[int, tuple[tuple[Axis, ...], ...]]] = {
    4: ((Axis.BATCH,), (Axis.HEAD,), (Axis.ROW,), (Axis.FEATURE,)),
    3: ((Axis.BATCH,), (Axis.ROW,), (Axis.HEAD, Axis.FEATURE)),
}
"""By the rank of an operand of an attention operator, what each axis holds, major first.

Keys and values have their own rows there.  Four axes are the canonical order.
"""

SEQUENCE: Final[Mapping[int, int]] = {
    rank: place for rank, axes in OPERANDS.items() for place, held in enumerate(axes) if Axis.ROW in held
}
"""By the rank of such an operand, the axis of its rows, or keys."""

BESIDE_KEYS: Final[Mapping[int, tuple[Axis, ...]]] = {
    2: (Axis.ROW,),
    3: (Axis.LEADING, Axis.ROW),
    4: (Axis.BATCH, Axis.HEAD, Axis.ROW),
    5: (Axis.BATCH, Axis.HEAD, Axis.GROUP, Axis.ROW),
}
"""By the rank of the scores, what their axes besides the keys are called until a reading says what they are."""

CUT_INTO: Final[Mapping[Axis, tuple[Axis, Axis]]] = {
    Axis.LEADING: (Axis.BATCH, Axis.HEAD),
    Axis.ROW: (Axis.ROW, Axis.GROUP),
}
"""Axes that may hold two indices, [B*H, S, S] or [B, H_kv, S*G, S], and the two, major first."""

READINGS: Final[Mapping[int, tuple[Axis, ...]]] = {
    1: (Axis.ROW,),
    2: (Axis.HEAD, Axis.ROW),
    3: (Axis.BATCH, Axis.HEAD, Axis.ROW),
}
"""By the number of axes besides the keys, which roles are given out among them, in canonical order."""

WITHOUT_HEADS: Final = (Axis.BATCH, Axis.ROW)
"""The other roles of two axes: one head."""

WITHOUT_ROWS: Final = (Axis.BATCH, Axis.HEAD)
"""The roles where there is but one row, which has no axis; a single axis is the last of them."""

MAX_HOPS: Final = 24
"""How far up from an operand of the product the search for a clean layout goes."""

SELECTING: Final = frozenset({"Slice", "Gather", "Split", "GatherND", "GatherElements"})
"""Movement that takes a part.  What it takes from is not the operand itself."""

COPYING: Final = SELECTING | {"Transpose", "Expand", "Tile"}
"""Movement that writes its result anew.  The other operators give the same memory another shape."""

CUTTING: Final = SELECTING | {"Reshape", "Transpose"}
"""Movement by which a projection comes apart."""

CHANGING_WEIGHTS: Final = frozenset({"Cast", "CastLike", "Where", "IsNaN", "Not", "Mul", "Add"})
"""Operators that may stand between the softmax and the product with the values, besides those that only move.

What they do to the probabilities is looked at afterwards.  They may copy them, or hide once more what is hidden."""

BEHIND: Final = frozenset({"Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze"})
"""Moves of the output that are followed, to a tensor with an axis for every index or to a guard."""

STORED_FORMS: Final = frozenset({"Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"})
"""Operators that make another form of a stored weight, besides those that only move."""

TO_THE_PRODUCT: Final = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Sum", "Where", "Max", "Min", "Clip", "Neg"),
        *("Cast", "CastLike", "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze"),
    }
)
"""Operators between scores and their product that keep the type in which it was computed in sight."""
