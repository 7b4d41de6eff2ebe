"""From an element of a tensor up to the node whose output it is, through operators that only move elements."""

from __future__ import annotations

from onnx import NodeProto

from ...algebra import Poly
from ...graph.index import operator
from ...patterns.layouts import MAX_HOPS
from .engine import Interpreter
from .movement import source


def moved_from(
    interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...], kind: str
) -> tuple[NodeProto, tuple[Poly, ...]] | None:
    """The nearest node of a kind that an element is moved from, and its index in that node's output.

    Args:
        interpreter: Of the scope.
        tensor: Where the element is.
        indices: Its index there.
        kind: The standard operator that is looked for.

    Returns:
        None where something else than a move stands before it, or it is too far away.
    """
    for _ in range(MAX_HOPS):
        node = interpreter.scope.producer(tensor)
        if node is None:
            return None
        if operator(node) == kind:
            return node, indices
        moved = source(interpreter, node, list(node.output).index(tensor), indices)
        if moved is None:
            return None
        # In normal form, so that an index that was split and merged again is what it was.
        tensor, indices = moved[0], tuple(interpreter.facts.normal(index) for index in moved[1])
    return None
