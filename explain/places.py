"""Where in the model a claim rests.  It is the node, constant or input from which the proof read it."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from ..graph.index import label
from ..rewriter.interpret import Interpreter


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
