"""A node that is read as an attention.  What is not understood of it refuses it."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from ...patterns.operators import OperatorPattern
from ..interpret import Interpreter
from ..prepare.features import unsupported, version_of
from ..verdicts import Code, Refuser, Stage

_refuse = Refuser(Stage.ANCHOR)


def check_features(interpreter: Interpreter, node: NodeProto, pattern: OperatorPattern) -> None:
    """Refuse what is not understood of a node.

    Raises:
        Refusal: It has an input, an attribute, an output or a version that the table does not allow, or an output
            that something uses although the fused node does not make it.
    """
    why = unsupported(node, pattern, version_of(interpreter.scope, pattern), _own_type(interpreter, node))
    if why is not None:
        raise _refuse(Code.FEATURE, node, why)
    for position in pattern.unused:
        output = node.output[position] if position < len(node.output) else ""
        if output and interpreter.scope.consumers.get(output):
            raise _refuse(Code.ESCAPES, node, tensor=output, stage=Stage.LIVENESS)


def _own_type(interpreter: Interpreter, node: NodeProto) -> int:
    name = next(iter(node.input), "")
    dtype = interpreter.dtype(name) if name else 0
    return dtype if dtype != TensorProto.UNDEFINED else 0
