"""How query, key, value and output lie in the tensors that a graph has: one description for all who read them.

The fused node computes with [B, H, S, D].  A graph may hold a projection [B, S, 3 * H * D] instead, from which an
exporter takes the three by splits, reshapes and transposes.  The node can take them itself.  An operand is a *view* of
a tensor, in the words of ONNX::

    operand = Transpose(Slice(Reshape(tensor, shape), starts, ends, axes = [2, 3]), perm)          [B, H, S, D]
    output  = Reshape(Transpose(result, perm), shape)                              of [B, H, S, D_v]

A tensor of rank 3, [B, S, N * W], becomes [B, S, N, W] by its shape (0, 0, N, W), where 0 keeps an extent.  The slice
takes heads and features of that.  Element [b, h, s, d] is at ``(first + h) * W + within + d`` of the last axis, so
packed projections of all orders are such views.  A tensor of rank 4 is not reshaped.  The last axis stays the last, so
rows of D numbers lie in one piece.

Nothing is copied: such a view has an offset and three strides.  ``docs/specification.md`` says the same for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import NodeProto

BHSD = "BHSD"
"""The layout of a node whose tensors are [B, H, S, D], and that has no attributes of views."""

VIEWS = "views"
"""The layout of a node that describes its tensors by attributes.  A library that knows no views refuses the word."""

OPERANDS = ("query", "key", "value")
PARTS = ("shape", "starts", "ends", "perm")
"""What an operand's attributes are called behind its name, in the order of ``OperandView``."""

KEEP = (0, 0, 0, 0)
"""The shape of a tensor of rank 4, which is not reshaped."""

WHOLE = (1 << 31) - 1
"""The end of a slice that takes all that is left."""

IN_ORDER = (0, 1, 2, 3)
SLICED = (2, 3)
"""The axes of a slice: those of heads and features before the transposition."""


def _expect_order(perm: tuple[int, ...]) -> None:
    if sorted(perm) != list(IN_ORDER) or perm[3] != 3:
        raise ValueError(f"not an order of B, H, S and, last, D: {list(perm)}")


@dataclass(frozen=True)
class OperandView:
    """Where an operand lies in its tensor.

    Attributes:
        shape: (0, 0, N, W), which cuts the last axis of a tensor of rank 3; or ``KEEP`` for one of rank 4.
        starts: What is taken of the last two axes then.
        ends: The ends of that.
        perm: The order of axes that makes [B, H, S, D] of it.  The last one stays.

    Raises:
        ValueError: It is no such view.
    """

    shape: tuple[int, ...] = KEEP
    starts: tuple[int, ...] = (0, 0)
    ends: tuple[int, ...] = (WHOLE, WHOLE)
    perm: tuple[int, ...] = IN_ORDER

    def __post_init__(self) -> None:
        cuts = len(self.shape) == 4 and self.shape[:2] == (0, 0) and min(self.shape[2:]) > 0
        if not cuts and self.shape != KEEP:
            raise ValueError(f"the shape of an operand is {list(KEEP)} or [0, 0, heads, width]: {list(self.shape)}")
        if len(self.starts) != 2 or len(self.ends) != 2:
            raise ValueError(f"an operand is sliced along two axes: {list(self.starts)}, {list(self.ends)}")
        if any(not 0 <= start < end <= WHOLE for start, end in zip(self.starts, self.ends, strict=True)):
            raise ValueError(f"an operand takes nothing of its tensor: {list(self.starts)} to {list(self.ends)}")
        if cuts and any(start >= n for start, n in zip(self.starts, self.shape[2:], strict=True)):
            raise ValueError(f"an operand begins behind its tensor: {list(self.starts)} in {list(self.shape)}")
        _expect_order(self.perm)

    @property
    def reshapes(self) -> bool:
        """The tensor has rank 3."""
        return self.shape != KEEP

    @property
    def slices(self) -> bool:
        """Only a part of the tensor is meant."""
        whole = self.shape[2:] if self.reshapes else (WHOLE, WHOLE)
        return self.starts != (0, 0) or any(end < extent for end, extent in zip(self.ends, whole, strict=True))

    @property
    def moves(self) -> bool:
        """The axes are in another order."""
        return self.perm != IN_ORDER

    @property
    def plain(self) -> bool:
        """The tensor is the operand."""
        return not (self.reshapes or self.slices or self.moves)

    @property
    def rank(self) -> int:
        """Axes of the tensor."""
        return 3 if self.reshapes else 4

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The operand [B, H, S, D] in an array, which it shares memory with where numpy can."""
        cut = array.reshape(*array.shape[:2], *self.shape[2:]) if self.reshapes else array
        (h0, d0), (h1, d1) = self.starts, self.ends
        part: npt.NDArray[Any] = cut[:, :, h0:h1, d0:d1].transpose(self.perm)
        return part

    def overlaps(self, other: OperandView) -> bool:
        """Whether two views of one tensor may share an element.  Views that cut it in different ways are said to."""
        if self.shape != other.shape:
            return True
        sides = zip(self.starts, self.ends, other.starts, other.ends, strict=True)
        return all(start < other_end and other_start < end for start, end, other_start, other_end in sides)

    def attributes(self, name: str) -> dict[str, list[int]]:
        """The attributes of a node that say so."""
        numbers = (self.shape, self.starts, self.ends, self.perm)
        return {f"{name}_{part}": list(one) for part, one in zip(PARTS, numbers, strict=True)}


@dataclass(frozen=True)
class OutputView:
    """Where the output [B, H, S_q, D_v] goes.

    Attributes:
        perm: The order of axes of the tensor.  The last one stays.
        shape: (0, 0, H * D_v), which merges the last two axes; or ``KEEP``.

    Raises:
        ValueError: It is no such view.
    """

    perm: tuple[int, ...] = IN_ORDER
    shape: tuple[int, ...] = KEEP

    def __post_init__(self) -> None:
        _expect_order(self.perm)
        if self.shape != KEEP and not (len(self.shape) == 3 and self.shape[:2] == (0, 0) and self.shape[2] > 0):
            raise ValueError(f"the shape of an output is {list(KEEP)} or [0, 0, width]: {list(self.shape)}")
        if self.reshapes and self.perm[2] != 1:
            raise ValueError(f"heads are merged with features where they stand before them: {list(self.perm)}")

    @property
    def reshapes(self) -> bool:
        """The tensor has rank 3."""
        return self.shape != KEEP

    @property
    def moves(self) -> bool:
        """The axes are in another order."""
        return self.perm != IN_ORDER

    @property
    def plain(self) -> bool:
        """The tensor is [B, H, S_q, D_v]."""
        return not (self.reshapes or self.moves)

    def attributes(self) -> dict[str, list[int]]:
        """The attributes of a node that say so."""
        return {"output_perm": list(self.perm), "output_shape": list(self.shape)}


AS_IT_IS = OperandView()
"""The view of a tensor that is [B, H, S, D]."""

RESULT = OutputView()
"""The output as [B, H, S_q, D_v]."""


@dataclass(frozen=True)
class Layout:
    """The views of one node.

    Attributes:
        query: Of [B, H, S_q, D].
        key: Of [B, H_kv, S_kv, D].
        value: Of [B, H_kv, S_kv, D_v].
        output: Of [B, H, S_q, D_v].
    """

    query: OperandView = AS_IT_IS
    key: OperandView = AS_IT_IS
    value: OperandView = AS_IT_IS
    output: OutputView = RESULT

    @property
    def plain(self) -> bool:
        """All tensors are [B, H, S, D]."""
        return self.query.plain and self.key.plain and self.value.plain and self.output.plain

    def __getitem__(self, name: str) -> OperandView:
        """The view of ``query``, ``key`` or ``value``."""
        return {"query": self.query, "key": self.key, "value": self.value}[name]

    def attributes(self) -> dict[str, list[int]]:
        """The attributes of a node of layout ``VIEWS``."""
        found: dict[str, list[int]] = {}
        for name in OPERANDS:
            found.update(self[name].attributes(name))
        return {**found, **self.output.attributes()}


PLAIN = Layout()
"""All tensors are [B, H, S, D]."""


def layout_of(node: NodeProto) -> Layout:
    """What a fused node says of its tensors.

    Raises:
        ValueError: An attribute of a view is missing or says what no view is.
    """
    held = {entry.name: entry for entry in node.attribute}
    name = held["layout"].s.decode("utf-8", "replace") if "layout" in held else BHSD
    if name == BHSD:
        return PLAIN
    if name != VIEWS:
        raise ValueError(f"layout {name[:40]!r} is neither {BHSD!r} nor {VIEWS!r}")

    def numbers(attribute: str) -> tuple[int, ...]:
        if attribute not in held:
            raise ValueError(f"attribute {attribute!r} is missing")
        return tuple(held[attribute].ints)

    query, key, value = (OperandView(*(numbers(f"{name}_{part}") for part in PARTS)) for name in OPERANDS)
    return Layout(query, key, value, OutputView(numbers("output_perm"), numbers("output_shape")))


@dataclass(frozen=True)
class Moves:
    """What a function body has to do about the layouts of all nodes that use it.

    Attributes:
        reshaped: Operands that a node has in a tensor of rank 3; ``output`` may be one.
        sliced: Operands that a node has in a part of a tensor.
        transposed: Operands whose axes a node has in another order; ``output`` may be one.
    """

    reshaped: frozenset[str] = frozenset()
    sliced: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, layouts: Sequence[Layout]) -> Moves:
        """Everything that one of these needs."""
        read = cls.of_views([(name, layout[name]) for layout in layouts for name in OPERANDS])
        output = [layout.output for layout in layouts]
        return cls(
            read.reshaped | {"output" for view in output if view.reshapes},
            read.sliced,
            read.transposed | {"output" for view in output if view.moves},
        )

    @classmethod
    def of_views(cls, views: Sequence[tuple[str, OperandView]]) -> Moves:
        """Everything that one of these operands, each with its name, needs."""
        return cls(
            frozenset(name for name, view in views if view.reshapes),
            frozenset(name for name, view in views if view.slices),
            frozenset(name for name, view in views if view.moves),
        )

    def __bool__(self) -> bool:
        return bool(self.reshaped or self.sliced or self.transposed)


NO_MOVES = Moves()
"""All nodes have [B, H, S, D]."""


def packed(
    heads: int, width: int, *, head_width: int, first: int = 0, within: int = 0, of: int, order: str = "BSHD"
) -> OperandView:
    """The view of ``heads`` heads of ``width`` numbers in a tensor of rank 3, such as [B, S, 3 * H * D].

    Args:
        heads: How many heads the operand has.
        width: D, numbers of a head.
        head_width: W, from one head to the next one.
        first: Pieces of W before the first head.
        within: Numbers before the head in its own piece.
        of: Extent of the last axis, a multiple of W.
        order: The axes of the tensor once the last one is cut.

    Raises:
        ValueError: The tensor has no such heads.
    """
    if of % head_width or first + heads > of // head_width or within + width > head_width:
        raise ValueError(f"{heads} heads of {width} at {first} * {head_width} + {within} are not in an axis of {of}")
    shape = (0, 0, of // head_width, head_width)
    return OperandView(shape, (first, within), (first + heads, within + width), tuple(order.index(a) for a in BHSD))


def in_order(order: str) -> OperandView:
    """The view of an operand whose tensor has these axes, say ``BSHD``."""
    return OperandView(perm=tuple(order.index(axis) for axis in BHSD))


def extents_of(view: OperandView, extents: Sequence[Any]) -> tuple[Any, ...] | None:
    """The extents [B, H, S, D] of an operand, of those of its tensor: numbers or expressions; None at another rank.

    An end beyond its axis means all of it.
    """
    if len(extents) != view.rank:
        return None
    cut = [*extents[:2], *view.shape[2:]] if view.reshapes else list(extents)
    for axis, start, end in zip(SLICED, view.starts, view.ends, strict=True):
        known = cut[axis] if isinstance(cut[axis], int) else None
        stop = end if known is None else min(end, known)
        cut[axis] = cut[axis] - start if stop in (WHOLE, known) else stop - start
    return tuple(cut[axis] for axis in view.perm)
