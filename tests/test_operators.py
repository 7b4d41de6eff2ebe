"""Attention operators: the table against the installed schemas, and every form against the operator itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from alibi_rewriter.patterns.operators import ANY, PACKED, PATTERNS, READ, UNREAD, OperatorPattern
from alibi_rewriter.rewriter.features import unsupported
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tiny import HEADS, LOWEST, SLOPES, WIDTH, Graph, codes, draw, fused, gaps, refusals, run

pytest.importorskip("onnxruntime")

SIZES = [
    {"B": 2, "S": 5, "T": 9, "P": 4},
    {"B": 1, "S": 3, "T": 3, "P": 0},
    {"B": 2, "S": 1, "T": 7, "P": 6},
    {"B": 2, "S": 40, "T": 60, "P": 20},
]
TOLERANCE = 2e-5
MICROSOFT = "com.microsoft"
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
    """Whatever in onnxruntime or onnx is an attention with a bias input is read, or refused by name."""
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


def packed(graph: Graph, name: str) -> str:
    """[B, S, H * D] of [B, H, S, D]."""
    turned = graph.add("Transpose", name, perm=[0, 2, 1, 3])
    return graph.add("Reshape", turned, graph.ints(0, 0, -1))


def attention(
    keys: str = "S", *, opset: int = 25, cache: bool = False, nonpad: bool = False, offset: bool = True, **attributes: object
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


def multi_head(mask: tuple[str | int, ...] = (), *, cache: bool = False, **attributes: object) -> ModelProto:
    graph = Graph(17)
    graph.operands("S", "S")
    inputs = [*(packed(graph, n) for n in "qkv"), "", "", ""]
    whole = "k"
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
