"""Where in the model a claim rests: the node, constant or input from which the proof read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnx import NodeProto

from ..algebra import Cond, Ind, Poly, Read, at_most_zero
from ..graph.index import label
from ..rewriter.interpret import Interpreter
from ..rewriter.interpret.engine import Key
from ..rewriter.records.reading import Attention

MAX_HOPS = 64
"""How far apart two tensors of one operand may lie."""


@dataclass(frozen=True)
class Place:
    """What a claim rests on.

    Attributes:
        kind: ``node``, ``constant`` or ``input``.
        node: The node's name, or its first output where it has none; empty for constants and inputs.
        op_type: The node's operator; empty for constants and inputs.
        tensor: The value in question.
    """

    kind: str
    node: str
    op_type: str
    tensor: str

    @property
    def text(self) -> str:
        """E.g. ``Add 'node_add_3'`` or ``constant 'slopes'``."""
        return f"{self.op_type} '{self.node}'" if self.kind == "node" else f"{self.kind} '{self.tensor}'"


def place_of_node(node: NodeProto) -> Place:
    """A node as a place."""
    return Place("node", label(node), node.op_type, next((o for o in node.output if o), ""))


def place_of(interpreter: Interpreter, tensor: str) -> Place:
    """Where a tensor comes from."""
    node = interpreter.scope.producer(tensor)
    if node is not None and node.op_type != "Constant":
        return Place("node", label(node), node.op_type, tensor)
    owner = interpreter.scope.owner(tensor)
    constant = node is not None or (owner is not None and tensor in owner.initializers)
    return Place("constant" if constant else "input", "", "", tensor)


def elements(interpreter: Interpreter, attention: Attention) -> list[tuple[Key, Poly]]:
    """Every element that the scores of a site were computed from, nearest first."""
    return list(interpreter.visited(attention.scores, attention.scores_index))


def deepest(found: list[tuple[Key, Poly]], fits: Callable[[str, Poly], bool]) -> str | None:
    """The tensor farthest from the scores for which ``fits(tensor, value)`` holds."""
    return next((tensor for (tensor, _), value in reversed(found) if fits(tensor, value)), None)


def mentions(interpreter: Interpreter, value: Poly, condition: Cond) -> bool:
    """Whether an element was computed with this condition, or with its opposite."""
    wanted = at_most_zero(condition)
    wanted = None if wanted is None else interpreter.facts.normal(wanted)

    def says(other: Cond) -> bool:
        if other == condition:
            return True
        bound = at_most_zero(other)
        if bound is not None and wanted is not None:
            bound = interpreter.facts.normal(bound)
            return bound in (wanted, 1 - wanted)
        return any(says(p) for p in other.parts)

    return any(isinstance(a, Ind) and says(a.condition) for a in value.all_atoms())


def product_read(attention: Attention, value: Poly) -> Read | None:
    """The read of the query-key product among the atoms of an element."""
    return next((a for a in value.sorted_atoms() if isinstance(a, Read) and a.tensor == attention.product), None)


def between(interpreter: Interpreter, operand: str, origin: str, kinds: frozenset[str]) -> Iterator[NodeProto]:
    """Nodes of some kinds on the way up from an operand to the tensor it is taken from."""
    pending: list[tuple[str, tuple[NodeProto, ...]]] = [(operand, ())]
    seen: set[str] = set()
    for _ in range(MAX_HOPS):
        if not pending:
            return
        tensor, path = pending.pop(0)
        if tensor == origin:
            yield from (n for n in path if n.op_type in kinds)
            return
        node = interpreter.scope.producer(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        pending.extend((i, (*path, node)) for i in node.input if i)
