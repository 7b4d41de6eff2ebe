"""com.microsoft.Attention holds the projections of query, key and value.  Here they become nodes of their own.

    Attention(x, W, b, padding, bias)  =  MultiHeadAttention(q, k, v, padding, bias)   with   q, k, v = split(x @ W + b)

That is what the operator computes, so the rewritten graph means the same.  Operators whose site is not rewritten in
the end are left packed (see ``working_copy``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ...graph.edit import all_names, arrange
from ...graph.index import float_attribute, int_attribute, ints_attribute, label, opset_versions
from ...graph.load import graphs
from ...patterns.operators import PACKED
from ..prepare.features import unsupported

PADDING_INPUT = PACKED.inputs["padding"]
BIAS_INPUT = PACKED.inputs["bias"]

FILTER_VALUE = -10000.0
"""What onnxruntime adds to the scores of padded keys unless it is told otherwise."""


def unpack_attention(model: ModelProto, keep: frozenset[str] = frozenset()) -> frozenset[str]:
    """Replace packed attention operators that have a bias, in place.

    Args:
        model: A working copy.
        keep: Output names of operators to leave packed.

    Returns:
        Output names of the operators that were unpacked.
    """
    opset = opset_versions(model).get("", 1)
    taken: set[str] = set()
    done: list[str] = []
    for graph in graphs(model):
        if not any(_is_packed(node) for node in graph.node):
            continue
        taken = taken or all_names(model)
        weights = {t.name: tuple(t.dims) for t in graph.initializer}
        nodes: list[NodeProto] = []
        before = len(done)
        for node in graph.node:
            wanted = _is_packed(node) and not (node.output and node.output[0] in keep)
            made = _unpack(graph, node, weights, opset, taken) if wanted else None
            nodes.extend(made or [node])
            if made:
                done.append(node.output[0])
        if len(done) > before:
            arrange(graph, nodes)
    return frozenset(done)


def _is_packed(node: NodeProto) -> bool:
    return (node.domain, node.op_type) == (PACKED.domain, PACKED.op_type)


def _unpack(
    graph: GraphProto, node: NodeProto, weights: dict[str, tuple[int, ...]], opset: int, taken: set[str]
) -> list[NodeProto] | None:
    if len(node.output) != 1:
        return None
    inputs = list(node.input)
    if len(inputs) <= BIAS_INPUT or not inputs[BIAS_INPUT]:
        return None
    if unsupported(node, PACKED, PACKED.versions[-1]) is not None:
        return None
    shape = weights.get(inputs[1])
    if shape is None or len(shape) != 2:
        return None
    sizes = ints_attribute(node, "qkv_hidden_sizes") or [shape[1] // 3] * 3
    if sum(sizes) != shape[1]:
        return None

    def fresh(hint: str) -> str:
        name, number = f"{label(node)}/{hint}", 1
        while name in taken:
            number += 1
            name = f"{label(node)}/{hint}_{number}"
        taken.add(name)
        return name

    projected = fresh("projected")
    made = [helper.make_node("MatMul", [inputs[0], inputs[1]], [projected], name=fresh("MatMul"))]
    if inputs[2]:
        biased = fresh("biased")
        made.append(helper.make_node("Add", [projected, inputs[2]], [biased], name=fresh("Add")))
        projected = biased
    parts = [fresh("query"), fresh("key"), fresh("value")]
    if opset >= 13:
        counts = fresh("sizes")
        graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), counts))
        made.append(helper.make_node("Split", [projected, counts], parts, name=fresh("Split"), axis=-1))
    else:
        made.append(helper.make_node("Split", [projected], parts, name=fresh("Split"), axis=-1, split=sizes))
    settings: dict[str, Any] = {"num_heads": int_attribute(node, "num_heads", 1)}
    scale = float_attribute(node, "scale", 0.0)
    if scale:
        settings["scale"] = scale
    if int_attribute(node, "unidirectional", 0):
        settings["unidirectional"] = 1
    if inputs[PADDING_INPUT]:
        settings["mask_filter_value"] = float_attribute(node, "mask_filter_value", FILTER_VALUE)
    made.append(
        helper.make_node(
            "MultiHeadAttention",
            [*parts, "", inputs[PADDING_INPUT], inputs[BIAS_INPUT]],
            [node.output[0]],
            name=node.name,
            domain="com.microsoft",
            **settings,
        )
    )
    return made
