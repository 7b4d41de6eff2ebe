"""Attention operators: the table against the installed schemas, and every form against the operator itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from alibi_rewriter.patterns.operators import ANY, PACKED, PATTERNS, READ, UNREAD, OperatorPattern
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.prepare.features import unsupported
from alibi_rewriter.rewriter.result import Options
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from operator_graphs import MICROSOFT, attention, grouped, multi_head, packed
from textgraphs import feeds_of, read
from textgraphs import run as on_runtime
from tiny import HEADS, LOWEST, SLOPES, WIDTH, Graph, draw, fused, refusals, run

pytest.importorskip("onnxruntime")

SIZES = [
    {"B": 2, "S": 5, "T": 9, "P": 4},
    {"B": 1, "S": 3, "T": 3, "P": 0},
    {"B": 2, "S": 1, "T": 7, "P": 6},
    {"B": 2, "S": 40, "T": 60, "P": 20},
]
TOLERANCE = 2e-5
FLOAT, INT32, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL


# --- the table -------------------------------------------------------------------------------------------


class Schema:
    """Names of what an operator takes and gives, wherever its schema comes from."""

    def __init__(self, schema: object) -> None:
        self.inputs = [i.name for i in schema.inputs]  # type: ignore[attr-defined]
        self.outputs = [o.name for o in schema.outputs]  # type: ignore[attr-defined]
        self.attributes = sorted(schema.attributes)  # type: ignore[attr-defined]
        self.version = schema.since_version  # type: ignore[attr-defined]


def contrib_schemas() -> list[object]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: list[object] = state.get_all_operator_schema()
    return found


def schemas_of(pattern: OperatorPattern) -> list[Schema]:
    every = [*onnx.defs.get_all_schemas_with_history(), *contrib_schemas()]
    return [Schema(s) for s in every if (s.domain, s.name) == (pattern.domain, pattern.op_type)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("pattern", [*PATTERNS, PACKED], ids=lambda p: f"{p.domain}.{p.op_type}")
def test_the_table_names_all_that_the_installed_schemas_have(pattern: OperatorPattern) -> None:
    """A new version, input, output or attribute of an operator fails here, and refuses at run time."""
    schemas = schemas_of(pattern)
    assert schemas
    assert {s.version for s in schemas} == set(pattern.versions)
    for schema in schemas:
        assert tuple(schema.inputs) == pattern.signature[: len(schema.inputs)], schema.version
        assert tuple(schema.outputs) == pattern.results[: len(schema.outputs)], schema.version
        assert set(schema.attributes) <= set(pattern.attributes), schema.version
    newest = max(schemas, key=lambda s: s.version)
    assert tuple(newest.inputs) == pattern.signature
    assert set(newest.attributes) == set(pattern.attributes)


def test_all_operators_with_a_bias_are_known() -> None:
    """Every attention of onnxruntime or onnx with a bias input is read, or refused by name."""
    known = {(p.domain, p.op_type) for p in (*PATTERNS, PACKED)} | set(UNREAD)
    for schema in contrib_schemas():
        names = [i.name for i in schema.inputs]  # type: ignore[attr-defined]
        if {"attention_bias", "attn_mask"} & set(names):
            place = (schema.domain, schema.name)  # type: ignore[attr-defined]
            assert place in known
            if place in UNREAD:
                assert names[UNREAD[place]] == "attention_bias"


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p.domain}.{p.op_type}")
def test_what_the_table_does_not_name_is_refused(pattern: OperatorPattern) -> None:
    version = pattern.versions[-1]
    needed = max(pattern.inputs.values()) + 1
    names = [f"x{k}" if k in pattern.inputs.values() else "" for k in range(needed)]

    def why(inputs: list[str], outputs: list[str] | None = None, **attributes: object) -> str | None:
        node = helper.make_node(pattern.op_type, inputs, outputs or ["y"], domain=pattern.domain, **attributes)
        return unsupported(node, pattern, version, FLOAT)

    assert why(names) is None
    assert "version" in str(unsupported(helper.make_node(pattern.op_type, names, ["y"]), pattern, version + 1))
    used = {*pattern.inputs.values(), *(pattern.lengths or ())}
    for position in range(len(pattern.signature) + 2):
        if position not in used:
            more = [*names, *[""] * (position + 1 - len(names))]
            more[position] = "extra"
            assert f"input {position}" in str(why(more))
    assert "output" in str(why(names, ["y", *[""] * (len(pattern.results) - 1), "z"]))
    assert "attribute new_in_the_next_opset is not known" in str(why(names, new_in_the_next_opset=1))
    for name, meaning in pattern.attributes.items():
        if isinstance(meaning, tuple):
            for value in meaning:
                if value != "own-type":
                    assert why(names, **{name: value}) is None
            other: object = "other" if "NONE" in meaning else 7.0 if 0.0 in meaning and name == "softcap" else 7
            assert name in str(why(names, **{name: other}))
        else:
            assert meaning in (READ, ANY)


# --- every form against the operator -----------------------------------------------------------------------


def scatter(*, opset: int = 24, symmetric: bool = False, **attributes: object) -> ModelProto:
    """Attention over caches of a fixed capacity, into which TensorScatter writes at places of their own."""
    graph = Graph(opset)
    graph.input("q", ("B", HEADS, "S", WIDTH))
    graph.input("w", ("B",), INT64)
    held = []
    for name in "kv":
        graph.input(name, ("B", 2, "S", WIDTH))
        held.append(graph.add("TensorScatter", graph.input(f"{name}c", ("B", 2, "T", WIDTH)), name, "w"))
    rows = graph.extent("q", 2)
    place = graph.add("Add", graph.add("Unsqueeze", graph.range(rows), graph.ints(0)), graph.column("w"))
    distance = graph.add("Sub", graph.range(graph.extent("kc", 2)), graph.add("Unsqueeze", place, graph.ints(1, 3)))
    distance = graph.add("Neg", graph.add("Abs", distance)) if symmetric else distance
    bias = graph.add("Mul", graph.add("Cast", distance, to=FLOAT), graph.const(SLOPES))
    seen = graph.add("Add", "w", rows)
    made = graph.add("Attention", "q", *held, bias, "", "", seen, **attributes)
    return graph.model(made, *held)


def places(sizes: dict[str, int]) -> np.ndarray:
    """Where each sequence of a batch writes: the last one that fits, and an earlier one."""
    last = sizes["T"] - sizes["S"]
    return np.array([max(0, last - 2 * b) for b in range(sizes["B"])], np.int64)


def lengths(sizes: dict[str, int], extent: str, dtype: type, least: int = 1) -> np.ndarray:
    """Per batch entry the last, and a shorter one."""
    longest = sizes[extent] + (sizes["P"] if extent == "P" else 0)
    return np.array([max(least, longest - 2 * b) for b in range(sizes["B"])], dtype)


FORMS: dict[str, tuple[Callable[[], ModelProto], Callable[[dict[str, int]], dict[str, np.ndarray]] | None]] = {
    "attention": (lambda: attention("T"), None),
    "attention-23": (lambda: attention("T", opset=23), None),
    "attention-causal": (lambda: attention(is_causal=1), None),
    "attention-causal-cache": (lambda: attention(cache=True, is_causal=1), None),
    "attention-causal-cache-23": (lambda: attention(cache=True, is_causal=1, opset=23), None),
    "attention-precision": (lambda: attention(softmax_precision=1), None),
    "attention-window": (lambda: attention(left_window_size=2, right_window_size=1), None),
    "attention-window-cross": (lambda: attention("T", left_window_size=2, right_window_size=3), None),
    "attention-window-left": (lambda: attention(left_window_size=3, is_causal=1), None),
    "attention-window-right": (lambda: attention(right_window_size=0), None),
    "attention-window-cache": (lambda: attention(cache=True, left_window_size=2, right_window_size=0), None),
    "attention-nonpad": (lambda: attention("T", nonpad=True), lambda s: {"n": lengths(s, "T", np.int64)}),
    "attention-nonpad-24": (
        lambda: attention("T", nonpad=True, opset=24),
        lambda s: {"n": lengths(s, "T", np.int64)},
    ),
    "attention-nonpad-causal": (
        lambda: attention("T", nonpad=True, is_causal=1),
        lambda s: {"n": lengths(s, "T", np.int64)},
    ),
    "attention-nonpad-window": (
        lambda: attention("T", nonpad=True, left_window_size=2),
        lambda s: {"n": lengths(s, "T", np.int64)},
    ),
    "multi-head": (lambda: multi_head(), None),
    "multi-head-causal": (lambda: multi_head(unidirectional=1), None),
    "multi-head-causal-cache": (lambda: multi_head(cache=True, unidirectional=1), None),
    "multi-head-padding": (lambda: multi_head(("B", "S")), None),
    "multi-head-padding-causal": (lambda: multi_head(("B", "S"), unidirectional=1), None),
    "multi-head-padding-lengths": (lambda: multi_head(("B",)), lambda s: {"m": lengths(s, "S", np.int32)}),
    "multi-head-padding-rows": (lambda: multi_head(("B", "S", "S")), None),
    "multi-head-padding-soft": (lambda: multi_head(("B", "S"), mask_filter_value=-3.0), None),
    "multi-head-padding-hard": (lambda: multi_head(("B", "S"), mask_filter_value=LOWEST), None),
    "multi-head-projection": (lambda: multi_head(projection=True), None),
    "multi-head-projection-cache": (lambda: multi_head(projection=True, cache=True, unidirectional=1), None),
    "multi-head-projection-padding": (lambda: multi_head(("B", "S"), projection=True), None),
    "scatter-24": (lambda: scatter(), lambda s: {"w": places(s)}),
    "scatter-25-causal": (lambda: scatter(opset=25, is_causal=1), lambda s: {"w": places(s)}),
    "grouped": (lambda: grouped(), None),
    "grouped-cache": (lambda: grouped(cache=True), None),
    "grouped-both-sides": (lambda: grouped(causal=0), None),
    "grouped-both-sides-cache": (lambda: grouped(cache=True, causal=0), None),
    "grouped-window": (lambda: grouped(local_window_size=3), None),
    "grouped-window-one": (lambda: grouped(local_window_size=1), None),
    "grouped-window-cache": (lambda: grouped(cache=True, local_window_size=3), None),
    "grouped-lengths": (lambda: grouped(ragged=True), lambda s: {"n": lengths(s, "S", np.int32) - 1}),
    "grouped-lengths-both-sides": (
        lambda: grouped(ragged=True, causal=0),
        lambda s: {"n": lengths(s, "S", np.int32) - 1},
    ),
    "grouped-lengths-window": (
        lambda: grouped(ragged=True, local_window_size=2),
        lambda s: {"n": lengths(s, "S", np.int32) - 1},
    ),
}
"""Forms that are fused: the model, and inputs that are not drawn."""


def projected(mask: tuple[str | int, ...] = (), **attributes: object) -> ModelProto:
    """com.microsoft.Attention, which holds its projections."""
    graph = Graph(17)
    graph.input("x", ("B", "S", HEADS * WIDTH))
    weights = np.random.default_rng(5).standard_normal((HEADS * WIDTH, 3 * HEADS * WIDTH)) * 0.2
    inputs = ["x", graph.const(weights), graph.const(np.linspace(-1, 1, 3 * HEADS * WIDTH)), "", "", ""]
    if mask:
        inputs[3] = graph.input("m", mask, INT32)
    keys = graph.extent("x", 1)
    distance = graph.add("Sub", graph.range(keys), graph.column(graph.range(keys)))
    inputs[5] = graph.add("Mul", graph.add("Cast", distance, to=FLOAT), graph.const(SLOPES[None]))
    return graph.model(graph.add("Attention", *inputs, domain=MICROSOFT, num_heads=HEADS, **attributes))


FORMS |= {
    "projected": (lambda: projected(), None),
    "projected-causal": (lambda: projected(unidirectional=1), None),
    "projected-padding": (lambda: projected(("B", "S")), None),
    "projected-padding-hard": (lambda: projected(("B", "S"), mask_filter_value=LOWEST), None),
    "projected-padding-rows": (lambda: projected(("B", "S", "S")), None),
    "projected-padding-lengths": (lambda: projected(("B",)), lambda s: {"m": lengths(s, "S", np.int32)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_compute_what_the_operator_computes(form: str) -> None:
    make, given = FORMS[form]
    model = make()
    rewritten = fused(model)
    assert sum(n.domain == "alibi" for n in rewritten.graph.node) == 1
    compared = 0
    for seed, sizes in enumerate(SIZES):
        feeds = {**draw(model, sizes, seed), **(given(sizes) if given else {})}
        try:
            wanted = run(model, feeds)[0]
        except Exception:  # noqa: BLE001 - sizes that the operator does not take; any backend error type
            continue
        compared += 1
        keep = np.isfinite(wanted)
        assert np.abs(wanted - run(rewritten, feeds)[0])[keep].max(initial=0.0) < TOLERANCE, sizes
        if model.opset_import[0].version >= 23:
            reference = ReferenceEvaluator(model).run(None, feeds)[0]
            assert np.abs(wanted - reference)[keep].max(initial=0.0) < TOLERANCE, sizes
    assert compared >= 2


def operator(
    op: str, domain: str, places: dict[int, str], opset: int = 25, results: int = 1, **attributes: object
) -> ModelProto:
    """An operator of 4-D operands (3-D for com.microsoft) whose bias is ALiBi, with further inputs."""
    graph = Graph(opset)
    graph.operands("S", "S", heads=HEADS)
    inputs = [""] * (max(places) + 1)
    for position, what in places.items():
        if what == "bias":
            inputs[position] = graph.bias()
        elif what in "qkv":
            inputs[position] = packed(graph, what) if domain else what
        else:
            inputs[position] = graph.input(f"{what}{position}", ("N",), INT32 if what == "ints" else FLOAT)
    made = graph.add(op, *inputs, results=results, domain=domain, **attributes)
    outputs = [made] if results < 4 else [made, f"{made}_3"]
    return graph.model(*outputs)


ONNX = {0: "q", 1: "k", 2: "v", 3: "bias"}
MULTI = {0: "q", 1: "k", 2: "v", 5: "bias"}
GROUP = {0: "q", 1: "k", 2: "v", 5: "ints", 6: "ints", 10: "bias"}


def cross_projection() -> ModelProto:
    """Keys of another attention as [B, H, S, D], to which no bias of a projection is added."""
    graph = Graph(17)
    graph.operands("S", "S")
    inputs = [packed(graph, "q"), "k", "v", graph.const(np.zeros(3 * HEADS * WIDTH)), "", graph.bias()]
    return graph.model(graph.add("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=HEADS))


def short_bias() -> ModelProto:
    graph = Graph(25)
    graph.operands("S", "T", heads=HEADS)
    graph.input("short", ("B", HEADS, "S", WIDTH))
    graph.input("columns", ("B", HEADS, "C", WIDTH))
    return graph.model(graph.add("Attention", "q", "k", "v", graph.bias("q", "columns")))


def heads_differ() -> ModelProto:
    """One key head and two value heads: no operator and no fused node has that, whatever a runtime makes of it."""
    graph = Graph(25)
    graph.input("q", ("B", 2, "S", WIDTH))
    graph.input("k", ("B", 1, "S", WIDTH))
    graph.input("v", ("B", 2, "S", WIDTH))
    distance = graph.add("Cast", graph.distance(), to=FLOAT)
    bias = graph.add("Unsqueeze", graph.add("Mul", distance, graph.const(SLOPES[:2])), graph.ints(0))
    return graph.model(graph.add("Attention", "q", "k", "v", bias))


def packed_operands() -> ModelProto:
    graph = Graph(17)
    graph.operands()
    graph.input("qkv", ("B", "S", HEADS, 3, WIDTH))
    return graph.model(
        graph.add("MultiHeadAttention", "qkv", "", "", "", "", graph.bias(), domain=MICROSOFT, num_heads=HEADS)
    )


REFUSED: dict[str, tuple[Callable[[], ModelProto], str, str]] = {
    "softcap": (lambda: operator("Attention", "", ONNX, softcap=5.0), "ALB402", "softcap"),
    "half-softmax": (lambda: operator("Attention", "", ONNX, softmax_precision=10), "ALB402", "softmax_precision"),
    "no-scale": (lambda: operator("Attention", "", ONNX, scale=0.0), "ALB402", "scale"),
    "scores-used": (lambda: operator("Attention", "", ONNX, results=4), "ALB120", ""),
    "unknown-window": (lambda: operator("Attention", "", ONNX, left_window_size=-3), "ALB402", "left_window_size"),
    "short-bias": (short_bias, "ALB402", "columns"),
    "causal-cross": (lambda: attention("T", is_causal=1), "ALB403", ""),
    "heads-differ": (heads_differ, "ALB400", "heads of values"),
    "projection-bias-of-heads": (cross_projection, "ALB402", "input 3 (bias)"),
    "scatter-symmetric": (lambda: scatter(symmetric=True), "ALB202", "w[b]"),
    "packed-offsets": (lambda: multi_head(("N",)), "ALB402", "key_padding_mask"),
    "packed-operands": (packed_operands, "ALB402", "no key"),
    "beams": (
        lambda: operator("MultiHeadAttention", MICROSOFT, {**MULTI, 9: "ints"}, num_heads=HEADS),
        "ALB402",
        "cache_indirection",
    ),
    "window-of-zero": (lambda: grouped(local_window_size=0), "ALB402", "local_window_size"),
    "lengths-and-cache": (
        lambda: grouped(ragged=True, cache=True),
        "ALB402",
        "behind its own past ones",
    ),
    "smooth-softmax": (lambda: grouped(smooth_softmax=1), "ALB402", "smooth_softmax"),
    "rotary": (lambda: grouped(do_rotary=1), "ALB402", "do_rotary"),
    "window-cache": (lambda: grouped(sliding_window_cache=1, local_window_size=2), "ALB402", "window"),
    **{
        f"grouped-input-{position}": (
            lambda position=position: operator(
                "GroupQueryAttention", MICROSOFT, {**GROUP, position: "floats"}, num_heads=HEADS, kv_num_heads=HEADS
            ),
            "ALB402",
            f"input {position}",
        )
        for position in (7, 8, 9, 11, 12, 13, 14, 15, 16)
    },
    "decoder-masked": (
        lambda: operator(
            "DecoderMaskedMultiHeadAttention", MICROSOFT, {0: "q", 1: "k", 2: "v", 4: "bias"}, num_heads=HEADS
        ),
        "ALB402",
        "is not read",
    ),
    "projected-cache": (lambda: projected(past_present_share_buffer=1), "ALB402", "past_present_share_buffer"),
    "projected-rotary": (lambda: projected(do_rotary=1), "ALB402", "do_rotary"),
}


def test_what_is_unfolded_in_vain_is_refused_for_what_was_found() -> None:
    """A bias that grows with the square of the distance: the operator stays as it is, and its padding is no reason."""
    for model in (multi_head(("B", "S")), projected(("B", "S")), attention(left_window_size=2)):
        (cast,) = (n for n in model.graph.node if n.op_type == "Cast" and n.attribute[0].i == FLOAT)
        square = helper.make_node("Mul", ["distance", "distance"], [cast.output[0]], name="square")
        cast.output[0] = "distance"
        model.graph.node.insert(list(model.graph.node).index(cast) + 1, square)
        (refusal,) = refusals(model)
        assert refusal.code.number == "ALB200", str(refusal)


@pytest.mark.parametrize("form", REFUSED)
def test_forms_that_are_refused_say_what_is_not_understood(form: str) -> None:
    make, code, detail = REFUSED[form]
    (refusal,) = refusals(make())
    assert refusal.code.number == code, str(refusal)
    assert detail in refusal.detail


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (attention, -np.inf),
        (attention, LOWEST),
        (multi_head, LOWEST),
        (grouped, LOWEST),
        (grouped, -np.inf),
    ],
    ids=["attention-inf", "attention-lowest", "multi-head-lowest", "grouped-lowest", "grouped-inf"],
)
def test_rows_without_keys_yield_what_the_operator_yields(make: Callable[[], ModelProto], value: float) -> None:
    """Zeros or the mean of the values: that depends on the operator and on what hides the keys."""
    model = make()
    (node,) = (n for n in model.graph.node if n.op_type.endswith("Attention"))
    place = next(p.inputs["bias"] for p in PATTERNS if p.op_type == node.op_type)
    model.graph.input.append(helper.make_tensor_value_info("seen", BOOL, ["B", 1, 1, "S"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), "hidden"))
    masked = helper.make_node("Where", ["seen", node.input[place], "hidden"], ["masked"])
    model.graph.node.insert(list(model.graph.node).index(node), masked)
    node.input[place] = "masked"
    rewritten = fused(model)
    feeds = draw(model, {"B": 2, "S": 6})
    feeds["seen"] = np.ones((2, 1, 1, 6), bool)
    feeds["seen"][1] = False
    wanted, got = run(model, feeds)[0], run(rewritten, feeds)[0]
    assert np.isfinite(wanted).all()
    assert np.abs(wanted - got).max() < TOLERANCE


@pytest.mark.parametrize("position", [0, 1, 2], ids=["query", "key", "value"])
@pytest.mark.parametrize("form", ["alone", "with a cache", "handed on", "of another domain"])
def test_a_factor_of_an_operand_is_not_lost(form: str, position: int) -> None:
    """A scale takes in what query and key are multiplied by; nothing does for values, a cache or an output."""
    golden = {"with a cache": "caches/onnx_attention", "handed on": "caches/onnx_attention"}
    golden |= {"alone": "operators/onnx_attention", "of another domain": "operators/multi_head_attention"}
    made = read(golden[form])
    node = next(n for n in made.graph.node if n.op_type in ("Attention", "MultiHeadAttention"))
    if form == "handed on":  # present keys and values, and no past ones
        del node.input[4:]
        next(n for n in made.graph.node if n.output[0] == "cached").input[0] = "nothing"
        made.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 0, 1), np.float32), "nothing"))
        for value in (*made.graph.input, *made.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in ("P", "T"):
                    dim.dim_param = "S"
    made.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    at = list(made.graph.node).index(node)
    made.graph.node.insert(at, helper.make_node("Mul", [node.input[position], "two"], ["doubled"]))
    made.graph.node[at + 1].input[position] = "doubled"
    result = rewrite(made, options=Options(verify=False, probe=False))
    assert result.model is not None
    feeds = feeds_of(made, 0)
    for wanted, found in zip(on_runtime(made, feeds), on_runtime(result.model, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
