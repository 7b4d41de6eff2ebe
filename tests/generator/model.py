"""A whole model: its inputs, its layers, its outputs."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from .graph import Writer
from .misses.inputs import INPUTS
from .misses.scores import EXPOSING
from .parts.attention import attention
from .parts.bias import bias_of
from .parts.layout import unpacked
from .parts.positions import locate
from .spelling import DEPTH, DIRECT, STATIC, Spelling


def build(sp: Spelling) -> onnx.ModelProto:
    """The model that a spelling describes."""
    w = Writer(sp)
    declare_inputs(w)
    query, key, value = unpacked(w) if sp.layout == "packed" else ("query", "key", "value")
    locate(w, query)
    result, bias = layers(w, query, key, value)
    w.g.nodes.append(helper.make_node("Identity", [result], ["output"], name="last"))
    if sp.dead:
        w.g.op("Neg", w.g.op("Sub", w.g.unsqueeze(w.rows, 1), w.g.unsqueeze(w.keys, 0)))
    batch, new = dims(sp)[:2]
    shape = [batch, new, sp.heads * DEPTH] if sp.layout == "packed" else list(w.g.inputs["query"][1])
    w.g.outputs["output"] = (w.kind, shape)
    if sp.output_bias and sp.miss not in EXPOSING:
        w.expose(bias, "bias", "bias_out", [])
    return finished(w)


def dims(sp: Spelling) -> tuple[object, object, object, object]:
    """Batch, new keys, past keys and all keys: numbers or names."""
    batch, new, past = STATIC if sp.static else ("batch", "seq", "past")
    if not sp.cache:
        return batch, new, 0, new
    return batch, new, past, STATIC[1] + STATIC[2] if sp.static else "total"


def declare_inputs(w: Writer) -> None:
    """Every input that some part may read; those that none reads are left out in the end."""
    sp, inputs = w.sp, w.g.inputs
    batch, new, past, total = dims(sp)
    if sp.layout == "packed":
        inputs["qkv"] = (w.kind, [batch, new, 3 * sp.heads * DEPTH])
    else:
        for name, heads in (("query", sp.heads), ("key", w.kv_heads), ("value", w.kv_heads)):
            direct = [batch, heads, new, DEPTH]
            flat = [new, batch, heads * DEPTH] if sp.layout == "seq-first" else [batch, new, heads * DEPTH]
            inputs[name] = (w.kind, direct if sp.layout in DIRECT else flat)
    if sp.cache:
        for name in ("past_key", "past_value"):
            inputs[name] = (w.kind, [batch, w.kv_heads, past, DEPTH])
    if sp.padding == "wide":
        inputs["wide_mask"] = (TensorProto.BOOL, [batch, 1, new, total])
    elif sp.padding == "wide-add":
        inputs["wide_mask_add"] = (w.kind, [batch, 1, new, total])
    elif sp.padding != "none":
        inputs["attention_mask"] = (TensorProto.BOOL if sp.padding == "bool" else TensorProto.INT64, [batch, total])
    if sp.slopes == "input":
        inputs["slopes"] = (w.bias_kind, [sp.heads])
    if sp.scale == "input":
        inputs["scale"] = (w.kind, [])
    if sp.miss in INPUTS:
        name, kind, shape = INPUTS[sp.miss](w, batch, new, total)
        inputs[name] = (kind, shape)


def layers(w: Writer, query: str, key: str, value: str) -> tuple[str, str]:
    """The last result, and the last bias."""
    g, sp = w.g, w.sp
    first = query, key, value
    result = bias = ""
    for layer in range(sp.layers):
        if not bias or not sp.share:
            bias = bias_of(w, layer)
        result = attention(w, layer, query, key, value, bias)
        if layer + 1 == sp.layers:
            break
        if w.kv_heads == sp.heads:
            query, key, value = (g.op("Add", n, result) for n in first)
        else:
            query = g.op("Add", query, result)
    return result, bias


def finished(w: Writer) -> onnx.ModelProto:
    """The model of what has been written, without nodes that nothing reads."""
    g, sp = w.g, w.sp
    make = helper.make_tensor_value_info
    nodes = g.nodes if sp.dead else live(g.nodes, set(g.outputs))
    used = {i for n in nodes for i in n.input}
    graph = helper.make_graph(
        nodes,
        "attention",
        [make(n, t, s) for n, (t, s) in g.inputs.items() if n in used],
        [make(n, t, s if s else None) for n, (t, s) in g.outputs.items()],
        [t for t in g.initializers if t.name in used],
    )
    if sp.body and set(g.outputs) == {"output"}:
        graph = in_a_branch(graph)
    imports = [helper.make_opsetid("", sp.opset)]
    if sp.layout in ("fused", "mha"):
        imports.append(helper.make_opsetid("com.microsoft", 1))
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8 if sp.opset < 19 else 10
    return model


def live(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that these tensors need, in their order."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def in_a_branch(graph: onnx.GraphProto) -> onnx.GraphProto:
    """The graph as one branch of an If, its inputs and constants outside, as in optimum's merged decoders."""
    value = graph.output[0]
    last = next(n for n in graph.node if "output" in n.output)
    inner = [n for n in graph.node if n is not last and n != last]
    branch = helper.make_graph(
        [*inner, helper.make_node("Identity", [last.input[0]], ["output_of_branch"], name=last.name)],
        "then",
        [],
        [helper.make_tensor_value_info("output_of_branch", value.type.tensor_type.elem_type, None)],
    )
    kind = value.type.tensor_type.elem_type
    zero = helper.make_tensor("zero", kind, [1], [0.0])
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["output_of_other"], value=zero)],
        "else",
        [],
        [helper.make_tensor_value_info("output_of_other", kind, None)],
    )
    choice = helper.make_node("If", ["taken"], ["output"], name="choice", then_branch=branch, else_branch=other)
    taken = helper.make_tensor_value_info("taken", TensorProto.BOOL, [])
    return helper.make_graph([choice], "outer", [*graph.input, taken], list(graph.output), list(graph.initializer))
