"""What attention is accumulated in.  TensorRT's own sums in float16 in a float16 model, unless the operands are cast.

TensorRT documents from 11.3 on that query, key and value cast to float32 around the attention make it one attention
of 16-bit operands with sums of float32.  The casts go into the function bodies, right around the attention: behind what
takes the operands from the tensors of a node, before what moves the output.  One body serves all nodes of a kind, and
the graph around the nodes stays as it is.
"""

from __future__ import annotations

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from ..fused.body import RESULT_HEADS
from ..fused.family import DOMAIN
from ..fused.layout import OPERANDS
from ..fused.operand import VIEWED
from . import versions

DEFAULT, FLOAT32 = "default", "float32"
CHOICES = (DEFAULT, FLOAT32)

DOCUMENTED = (11, 3)
"""The first version of TensorRT whose documentation says so."""

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def widen_bodies(model: ModelProto) -> int:
    """Let every function body of the fused family cast its operands to float32, and its result back.

    Args:
        model: A rewritten model; changed.

    Returns:
        How many bodies were changed.
    """
    bodies = [function for function in model.functions if function.domain == DOMAIN]
    for body in bodies:
        _widen(body)
    return len(bodies)


def _widen(body: FunctionProto) -> None:
    made = {name for node in body.node for name in node.output}
    operands = {name: next((n for n in (f"{name}_{v}" for v in VIEWED) if n in made), name) for name in OPERANDS}
    result = RESULT_HEADS if RESULT_HEADS in made else body.output[0]
    last = max((i for i, node in enumerate(body.node) if node.output[0] in operands.values()), default=-1)
    end = next(i for i, node in enumerate(body.node) if result in node.output)
    views, attention, moves = body.node[: last + 1], body.node[last + 1 : end + 1], body.node[end + 1 :]
    # An operand that is moved gives its type by its own name.
    wide = {known: f"{name}_float32" for name, moved in operands.items() for known in (name, moved)}
    wide[result] = f"{result}_float32"
    narrow = [_cast_back(node) for node in attention if _narrows(node)]
    for node in attention:
        if _narrows(node):
            node.attribute[0].i = TensorProto.FLOAT
        node.input[:] = [wide.get(name, name) for name in node.input]
        node.output[:] = [wide.get(name, name) for name in node.output]
    before = [helper.make_node("Cast", [moved], [wide[moved]], to=TensorProto.FLOAT) for moved in operands.values()]
    # Before opset 15 there is no CastLike, and the body is written for one type.
    back = narrow[0] if narrow else helper.make_node("CastLike", ["", OPERANDS[0]], [""])
    if not narrow and _opset(body) < 15:
        back = helper.make_node("Identity", [""], [""])
    back.input[0], back.output[0] = wide[result], result
    nodes = [*views, *before, *attention, back, *moves]
    del body.node[:]
    body.node.extend(nodes)


def _narrows(node: NodeProto) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i in NARROW


def _cast_back(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _opset(body: FunctionProto) -> int:
    return next(entry.version for entry in body.opset_import if entry.domain == "")


def statement(strategy: str, wanted: str, backend: str, version: str) -> str:
    """What the plan was asked for, for the report."""
    if strategy == "plugin":
        return "float32, by our kernels"
    if wanted == DEFAULT:
        return "left to TensorRT, which accumulates float16 attention in float16 (--accumulate float32 asks for more)"
    asked = "float32, asked for by casts around the attention"
    if backend == "tensorrt" and versions.number(version) >= DOCUMENTED:
        return asked
    name = versions.TITLES[backend]
    return f"{asked}; TensorRT documents that from {'.'.join(map(str, DOCUMENTED))} on, {name} {version} does not"
