"""Attentions that are one operator, with an ALiBi bias beside it: what their tests are made of."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto
from tiny import HEADS, WIDTH, Graph

INT32, INT64 = TensorProto.INT32, TensorProto.INT64
MICROSOFT = "com.microsoft"


def packed(graph: Graph, name: str) -> str:
    """[B, S, H * D] of [B, H, S, D]."""
    turned = graph.add("Transpose", name, perm=[0, 2, 1, 3])
    return graph.add("Reshape", turned, graph.ints(0, 0, -1))


def attention(
    keys: str = "S",
    *,
    opset: int = 25,
    cache: bool = False,
    nonpad: bool = False,
    offset: bool = True,
    **attributes: object,
) -> ModelProto:
    """ONNX Attention of q, k, v with an ALiBi bias, perhaps with a cache or lengths."""
    graph = Graph(opset)
    graph.operands("S", keys, heads=2)
    inputs = ["q", "k", "v", ""]
    whole = "k"
    if cache:
        inputs += [graph.input("pk", ("B", 2, "P", WIDTH)), graph.input("pv", ("B", 2, "P", WIDTH))]
        whole = graph.add("Concat", "pk", "k", axis=2)
    elif nonpad:
        inputs += ["", "", graph.input("n", ("B",), INT64)]
    inputs[3] = graph.bias("q", whole, offset=offset)
    results = 3 if cache else 1
    return graph.model(graph.add("Attention", *inputs, results=results, **attributes))


def multi_head(
    mask: tuple[str | int, ...] = (), *, cache: bool = False, projection: bool = False, **attributes: object
) -> ModelProto:
    graph = Graph(17)
    graph.operands("S", "S")
    inputs = [*(packed(graph, n) for n in "qkv"), "", "", ""]
    whole = "k"
    if projection:
        inputs[3] = graph.const(np.linspace(-1, 2, 3 * HEADS * WIDTH))
    if mask:
        inputs[4] = graph.input("m", mask, INT32)
    if cache:
        inputs += [graph.input("pk", ("B", HEADS, "P", WIDTH)), graph.input("pv", ("B", HEADS, "P", WIDTH))]
        whole = graph.add("Concat", "pk", "k", axis=2)
    inputs[5] = graph.bias("q", whole)
    results = 3 if cache else 1
    made = graph.add("MultiHeadAttention", *inputs, results=results, domain=MICROSOFT, num_heads=HEADS, **attributes)
    return graph.model(made)


def grouped(*, ragged: bool = False, cache: bool = False, **attributes: object) -> ModelProto:
    graph = Graph(17)
    graph.operands("S", "S", heads=2)
    inputs = [*(packed(graph, n) for n in "qkv"), "", ""]
    whole = "k"
    if cache:
        inputs[3:] = [graph.input("pk", ("B", 2, "P", WIDTH)), graph.input("pv", ("B", 2, "P", WIDTH))]
        whole = graph.add("Concat", "pk", "k", axis=2)
    total = graph.add("Cast", graph.extent(whole, 2), to=INT32)
    last = graph.add("Sub", total, graph.const(1, np.int32))
    batch = graph.add("Unsqueeze", graph.extent("q", 0), graph.ints(0))
    lengths = graph.input("n", ("B",), INT32) if ragged else graph.add("Expand", last, batch)
    inputs += [lengths, total, "", "", "", graph.bias("q", whole)]
    made = graph.add(
        "GroupQueryAttention", *inputs, results=3, domain=MICROSOFT, num_heads=HEADS, kv_num_heads=2, **attributes
    )
    return graph.model(made)
