"""What later steps take for granted: operators with as many inputs as they have, imported domains, one maker a value.

onnx's own checker would say more, but it loads weights, follows links and recurses.
"""

from __future__ import annotations

from functools import lru_cache

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from ..base.errors import ModelRejected
from ..fused.family import BY_OP_TYPE, DOMAIN
from .index import label, opset_versions
from .load import graphs
from .tensors import check_data

STANDARD = ("", "ai.onnx")

CONTRIBUTED = {"Attention": 2, "MultiHeadAttention": 1, "GroupQueryAttention": 7, "FusedMatMul": 2, "Gelu": 1}
"""Inputs that operators of com.microsoft have at least; onnx holds no schemas for them."""


def check(model: ModelProto) -> None:
    """Check nodes, names and the sizes of constants of all graphs.

    Raises:
        ModelRejected: A node has too few or too many inputs or outputs, or a domain that is not imported; or a
            name is not text, or stands for two values; or no node makes an output; or a tensor holds something
            else than it declares.
    """
    versions = opset_versions(model)
    _check_outputs(model.graph)
    for graph in graphs(model):
        _check_text(graph)
        _check_names(graph)
        _check_tensors(graph)
        for node in graph.node:
            _check_node(node, versions)


def _check_text(graph: GraphProto) -> None:
    """Protobuf hands out bytes where a text is not UTF-8."""
    try:
        for node in graph.node:
            "".join((*node.input, *node.output, node.name, node.op_type, node.domain))
        for value in (*graph.input, *graph.output, *graph.value_info):
            "".join((value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim)))
        "".join(t.name for t in graph.initializer)
    except (TypeError, UnicodeDecodeError) as error:
        raise ModelRejected(f"a name in graph '{graph.name!r}' is not UTF-8. Export the model again.") from error


def _check_names(graph: GraphProto) -> None:
    for what, names in (
        ("input", [v.name for v in graph.input]),
        ("initializer", [t.name for t in graph.initializer]),
    ):
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise ModelRejected(f"the {what} '{name}' is there twice. Export the model again.")
            seen.add(name)
    constants = seen | {v.name for v in graph.input}
    for node in graph.node:
        for name in node.output:
            if name and name in constants:
                raise ModelRejected(
                    f"node '{label(node)}' makes '{name}', which is an input or initializer. Export the model again."
                )


def _check_outputs(graph: GraphProto) -> None:
    there = {o for node in graph.node for o in node.output}
    there |= {v.name for v in graph.input} | {t.name for t in graph.initializer}
    there |= {t.values.name for t in graph.sparse_initializer}
    for value in graph.output:
        if value.name not in there:
            raise ModelRejected(f"no node makes the output '{value.name}'. Export the model again.")


def _check_tensors(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        check_data(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                check_data(attribute.t)


def _check_node(node: NodeProto, versions: dict[str, int]) -> None:
    domain = "" if node.domain in STANDARD else node.domain
    if domain not in versions:
        raise ModelRejected(
            f"node '{label(node)}' is of domain '{domain or 'ai.onnx'}', which the model does not import. "
            "Export it again."
        )
    if domain == "":
        limits = _limits(node.op_type, versions[""])
        if limits is None:
            return
        fewest, most, fewest_out, most_out, required, variadic = limits
    elif domain == "com.microsoft":
        fewest, most, fewest_out, most_out = CONTRIBUTED.get(node.op_type, 0), 1 << 31, 1, 1 << 31
        required = (0,) if fewest else ()
        variadic = most
    elif domain == DOMAIN and node.op_type in BY_OP_TYPE:
        fewest = most = len(BY_OP_TYPE[node.op_type].inputs)
        fewest_out = most_out = 1
        required, variadic = tuple(range(most)), most
    else:
        return
    given, made = len(node.input), len(node.output)
    if not fewest <= given <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}" if most < 1 << 20 else f"{fewest} or more"
        raise ModelRejected(f"node '{label(node)}' has {given} inputs; {node.op_type} has {wanted}. Export it again.")
    if not fewest_out <= made <= most_out or (fewest_out and not any(node.output)):
        raise ModelRejected(f"node '{label(node)}' ({node.op_type}) has {made} outputs. Export it again.")
    if any(not node.input[position] for position in required) or not all(node.input[variadic:]):
        raise ModelRejected(f"node '{label(node)}' ({node.op_type}) lacks an input that it needs. Export it again.")


@lru_cache(maxsize=1024)
def _limits(op_type: str, version: int) -> tuple[int, int, int, int, tuple[int, ...], int] | None:
    """Fewest and most inputs and outputs of a standard operator, and which inputs it cannot do without.

    Those are single inputs by position, and, from the last number on, all of a list (onnxruntime dies of an empty
    name in one).  None for an operator that onnx does not know.
    """
    try:
        schema = onnx.defs.get_schema(op_type, max_inclusive_version=version, domain="")
    except (onnx.defs.SchemaError, TypeError):  # a name that is not text, a version that is not an int32
        return None
    options = [entry.option for entry in schema.inputs]
    kinds = onnx.defs.OpSchema.FormalParameterOption
    required = tuple(k for k, option in enumerate(options[: schema.min_input]) if option == kinds.Single)
    variadic = next((k for k, option in enumerate(options) if option == kinds.Variadic), schema.max_input)
    return schema.min_input, schema.max_input, schema.min_output, schema.max_output, required, variadic
