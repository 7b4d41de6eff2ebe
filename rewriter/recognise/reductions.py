"""Reductions over one axis that stay reads: what is reduced, and where."""

from __future__ import annotations

from dataclasses import dataclass

from ...algebra import Poly, Read
from ...graph.index import int_attribute, operator
from ..interpret import Interpreter
from ..interpret.movement import axes_of

Indices = tuple[Poly, ...]


@dataclass(frozen=True)
class Reduction:
    """``reduced[before, a, after]`` over a, for one element of the result."""

    tensor: str
    axis: int
    before: Indices
    after: Indices

    def at(self, place: Poly) -> Indices:
        """The index of one of the elements that are reduced."""
        return (*self.before, place, *self.after)


def reduction(interpreter: Interpreter, read: Read, op_type: str) -> Reduction | None:
    """What a read is the reduction of, by the given operator over exactly one axis; None for any other read."""
    node = interpreter.scope.producer(read.tensor)
    if node is None or operator(node) != op_type:
        return None
    axes, rank = axes_of(interpreter, node), interpreter.rank(node.input[0])
    if axes is None or len(axes) != 1 or not rank:
        return None
    axis = axes[0] % rank
    kept = int_attribute(node, "keepdims", 1)
    if len(read.indices) != rank - (0 if kept else 1):
        return None
    return Reduction(node.input[0], axis, read.indices[:axis], read.indices[axis + kept :])
