"""What enters a fused node, checked in the graph: the number, ranks, types and extents of its inputs.

`rewrite` only writes nodes that pass.  A file from somewhere else may hold any node, and TensorRT would hand it to the
plugin at run time, when it is too late for a message with names in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from ..algebra import Poly
from ..base.errors import EngineFailed
from ..fused.family import BY_OP_TYPE, is_fused
from ..fused.layout import OPERANDS, WHOLE, Layout, layout_of
from ..graph.index import index_graph, label, opset_versions
from ..rewriter.interpret import Interpreter
from ..rewriter.interpret.scopes import interpreted
from ..rewriter.interpret.shapes import operand_extents

RANKS = {"slopes": 1, "mask": 4, "key_positions": 2, "key_bias": 3, "key_lengths": 1}
"""Axes of the inputs that nodes have no views of."""

TYPES = {
    **dict.fromkeys(("slopes", "key_positions", "key_bias"), TensorProto.FLOAT),
    "key_lengths": TensorProto.INT64,
}
"""Inputs that have one type, whatever the type of the query."""

_TYPE_NAMES = {TensorProto.FLOAT: "float32", TensorProto.INT64: "int64"}

AGAIN = "Rewrite the original again; `rewrite` writes no such node."


def check_operands(model: ModelProto, base_dir: Path) -> None:
    """Checks every fused node of a model.

    Args:
        model: A rewritten model.
        base_dir: Where its external data lie.

    Raises:
        EngineFailed: An input is missing or left over, or has another rank, type or extent than the node takes.
    """
    for interpreter, node in fused_with_facts(model, base_dir):
        check_node(interpreter, node)


def fused_with_facts(model: ModelProto, base_dir: Path) -> Iterator[tuple[Interpreter, NodeProto]]:
    """The fused nodes of all graphs, each with what knows the types and extents around it."""
    root = index_graph(model.graph, opset_versions(model), base_dir)
    for interpreter in interpreted(root):
        for node in interpreter.scope.graph.node:
            if is_fused(node):
                yield interpreter, node


def check_node(interpreter: Interpreter, node: NodeProto) -> None:
    """Checks one fused node.

    Raises:
        EngineFailed: As ``check_operands`` says.
    """
    names = BY_OP_TYPE[node.op_type].inputs
    where = f"fused node '{label(node)}' ({node.op_type})"
    if len(node.input) != len(names) or not all(node.input):
        raise EngineFailed(f"{where} has {len(node.input)} inputs instead of {', '.join(names)}. {AGAIN}")
    layout = node_layout(node)
    ranks = {**RANKS, **{name: layout[name].rank for name in OPERANDS}}
    found: dict[str, tuple[Poly, ...]] = {}
    for name, tensor in zip(names, node.input, strict=True):
        dims = interpreter.dims(tensor)
        if dims is not None and len(dims) != ranks[name]:
            raise EngineFailed(f"{where}: its {name} '{tensor}' has {len(dims)} axes instead of {ranks[name]}. {AGAIN}")
        dtype = interpreter.dtype(tensor)
        if name in TYPES and dtype not in (0, TYPES[name]):
            given, wanted = TensorProto.DataType.Name(dtype).lower(), _TYPE_NAMES[TYPES[name]]
            raise EngineFailed(f"{where}: its {name} '{tensor}' is {given} instead of {wanted}. {AGAIN}")
        if dims is not None:
            found[name] = dims
    _check_views(interpreter, node, where, found, layout)
    operands = {name: operand_extents(interpreter, layout[name], found.get(name)) for name in OPERANDS}
    found = {**found, **{name: extents for name, extents in operands.items() if extents is not None}}
    _check_output(interpreter, where, found, layout)
    _check_extents(interpreter, node, where, found)


def node_layout(node: NodeProto) -> Layout:
    """The views of a fused node.

    Raises:
        EngineFailed: Its attributes describe none.
    """
    where = f"fused node '{label(node)}' ({node.op_type})"
    try:
        layout = layout_of(node)
    except ValueError as error:
        raise EngineFailed(f"{where}: {error}. {AGAIN}") from error
    # TensorRT's parser hands numbers over as 32-bit ones.
    if max(max(layout[name].shape) for name in OPERANDS) > WHOLE or max(layout.output.shape) > WHOLE:
        raise EngineFailed(f"{where}: an extent of its views is beyond 32 bits. {AGAIN}")
    return layout


def _check_views(
    interpreter: Interpreter, node: NodeProto, where: str, found: dict[str, tuple[Poly, ...]], layout: Layout
) -> None:
    """The last axis of a tensor that is cut has to be as long as what it is cut into."""
    for position, name in enumerate(OPERANDS):
        view = layout[name]
        if name not in found or not view.reshapes:
            continue
        number, (heads, width) = interpreter.facts.normal(found[name][2]).constant, view.shape[2:]
        if number is not None and number != heads * width:
            raise EngineFailed(
                f"{where}: the last axis of its {name} '{node.input[position]}' is {number} instead of "
                f"{heads} * {width}. {AGAIN}"
            )


def _check_output(interpreter: Interpreter, where: str, found: dict[str, tuple[Poly, ...]], layout: Layout) -> None:
    """A merged output is as wide as its heads together."""
    if not layout.output.reshapes or "query" not in found or "value" not in found:
        return
    heads, width = (interpreter.facts.normal(found[n][a]).constant for n, a in (("query", 1), ("value", 3)))
    if heads is not None and width is not None and heads * width != layout.output.shape[2]:
        raise EngineFailed(
            f"{where}: its output is {layout.output.shape[2]} wide instead of {heads} * {width}. {AGAIN}"
        )


def _check_extents(interpreter: Interpreter, node: NodeProto, where: str, found: dict[str, tuple[Poly, ...]]) -> None:
    """Extents that are numbers have to fit [B, H, S_q, S_kv], as far as query and key say it in numbers."""
    if "query" not in found or "key" not in found:
        return
    batch, heads, rows, _ = found["query"]
    keys = found["key"][2]
    wanted = {
        "slopes": (heads,),
        "mask": (batch, heads, rows, keys),
        "key_positions": (batch, keys),
        "key_bias": (batch, heads, keys),
        "key_lengths": (batch,),
    }
    spread = {"slopes": (), "mask": (0, 1, 2, 3), "key_positions": (0,), "key_bias": (0, 1), "key_lengths": (0,)}
    for name, extents in wanted.items():
        for axis, (own, other) in enumerate(zip(found.get(name, ()), extents, strict=False)):
            number, whole = interpreter.facts.normal(own).constant, interpreter.facts.normal(other).constant
            if number is None or whole is None or number == whole or (number == 1 and axis in spread[name]):
                continue
            tensor = node.input[BY_OP_TYPE[node.op_type].inputs.index(name)]
            raise EngineFailed(f"{where}: axis {axis} of its {name} '{tensor}' is {number} instead of {whole}. {AGAIN}")
