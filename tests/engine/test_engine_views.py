"""Fused nodes that have views of their tensors, on their way into an engine."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
from alibi_rewriter.base.errors import EngineFailed
from alibi_rewriter.engine.accumulation import widen_bodies
from alibi_rewriter.engine.build import EngineOptions, build_engine
from alibi_rewriter.engine.needs import Unserved, each_need
from alibi_rewriter.engine.operands import check_operands, fused_with_facts
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, DOMAIN, FusedAttention
from alibi_rewriter.fused.layout import Layout, Moves, OperandView, OutputView, in_order, packed
from alibi_rewriter.plugin import library_path
from onnx import ModelProto, TensorProto, helper
from slow import BESIDE

MEMBER = BY_OP_TYPE["AlibiAttentionCausal"]
HEADS, KV_HEADS, WIDTH, OPSET = 4, 2, 16, 18
MERGED = OutputView((0, 2, 1, 3), (0, 0, HEADS * WIDTH))
ROWS = OutputView((0, 2, 1, 3))
PIECES = HEADS + 2 * KV_HEADS

needs_rtx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tensorrt_rtx", "triton")) or library_path() is None,
    reason="needs TensorRT-RTX, Triton and the plugin library",
)


def thirds(width: int = WIDTH, head_width: int = WIDTH, output: OutputView = MERGED) -> Layout:
    """Query, key and value one behind the other."""

    def part(heads: int, first: int) -> OperandView:
        return packed(heads, width, head_width=head_width, first=first, of=PIECES * head_width, order="BSHD")

    return Layout(part(HEADS, 0), part(KV_HEADS, HEADS), part(KV_HEADS, HEADS + KV_HEADS), output)


def model(layout: Layout, extents: list[str | int], dtype: int = TensorProto.FLOAT, opset: int = OPSET) -> ModelProto:
    """A node whose three operands are views of one input."""
    node = FusedAttention(MEMBER, 0.25, layout=layout, views=True)
    made = helper.make_node(
        MEMBER.op_type, ["x", "x", "x", "slopes"], ["y"], "attention", domain=DOMAIN, **node.attributes()
    )
    slopes = helper.make_tensor("slopes", TensorProto.FLOAT, [HEADS], [0.5, 0.25, 0.125, 0.0625])
    axes = [f"y{i}" for i in range(3 if layout.output.reshapes else 4)]
    graph = helper.make_graph(
        [made], "g", [helper.make_tensor_value_info("x", dtype, extents)],
        [helper.make_tensor_value_info("y", dtype, axes)], [slopes],
    )  # fmt: skip
    body = function_proto(MEMBER, opset, grouped=True, zero_rows=False, query_type=dtype, moves=Moves.of([layout]))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=8)


def changed(model: ModelProto, name: str, numbers: list[int] | None) -> ModelProto:
    """With another attribute, or without it."""
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept + ([] if numbers is None else [helper.make_attribute(name, numbers)]))
    return model


WHOLE = ["B", "S", PIECES * WIDTH]


@pytest.mark.parametrize("extents", [WHOLE, ["B", "S", "W"], [2, 5, PIECES * WIDTH]])
def test_views_that_fit_pass(extents: list[str | int]) -> None:
    check_operands(model(thirds(), extents), Path())


@pytest.mark.parametrize(
    ("name", "numbers", "said"),
    [
        ("key_perm", None, "attribute 'key_perm' is missing"),
        ("key_perm", [0, 1, 3, 2], "not an order"),
        ("query_shape", [0, 0, 1 << 33, 16], "an extent of its views is beyond 32 bits"),
        ("query_shape", [0, 0, 9, 16], "the last axis of its query 'x' is 128 instead of 9 * 16"),
        ("query_shape", [0, 0, 0, 0], "its query 'x' has 3 axes instead of 4"),
        ("output_shape", [0, 0, 80], "its output is 80 wide instead of 4 * 16"),
        ("query_ends", [5, 16], "its output is 64 wide instead of 5 * 16"),
    ],
)
def test_attributes_that_do_not_fit_are_named(name: str, numbers: list[int] | None, said: str) -> None:
    with pytest.raises(EngineFailed, match="fused node 'attention'") as caught:
        check_operands(changed(model(thirds(), WHOLE), name, numbers), Path())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("output", "wanted"),
    [(MERGED, "(B, S, 64)"), (ROWS, "(B, S, 4, 16)"), (OutputView(), "(B, 4, S, 16)")],
)
def test_the_extents_behind_a_node_are_known(output: OutputView, wanted: str) -> None:
    interpreter, node = next(fused_with_facts(model(thirds(output=output), WHOLE), Path()))
    dims = interpreter.dims(node.output[0])
    assert dims is not None
    assert str(dims) == wanted


def need_of(layout: Layout, extents: list[str | int], dtype: int = TensorProto.FLOAT16):  # type: ignore[no-untyped-def]
    ((_, found),) = each_need(model(layout, extents, dtype), Path())
    return found


def test_kernels_are_asked_for_by_what_is_cut_out() -> None:
    found = need_of(thirds(8, 24), ["B", "S", PIECES * 24])
    assert (found.request.head_dim, found.request.value_dim) == (8, 8)
    assert not found.layout.contiguous


@pytest.mark.parametrize(
    ("perm", "starts", "ends", "output", "contiguous"),
    [
        ((0, 1, 2, 3), (0, 0), None, OutputView(), True),
        ((1, 0, 2, 3), (0, 0), None, OutputView((1, 0, 2, 3)), True),
        ((0, 1, 2, 3), (2, 0), None, OutputView(), True),
        ((0, 1, 2, 3), (0, 0), None, ROWS, False),
        ((0, 2, 1, 3), (0, 0), None, OutputView(), False),
        ((0, 1, 2, 3), (0, 8), None, OutputView(), False),
        ((0, 1, 2, 3), (0, 0), 8, OutputView(), False),
    ],
)
def test_rows_follow_on_each_other_or_not(
    perm: tuple[int, ...], starts: tuple[int, ...], ends: int | None, output: OutputView, contiguous: bool
) -> None:
    whole = (1 << 31) - 1
    view = OperandView(starts=starts, ends=(whole, whole if ends is None else ends), perm=perm)
    found = need_of(Layout(view, view, view, output), ["a", "b", "c", WIDTH])
    assert found.layout.contiguous is contiguous


@pytest.mark.parametrize(
    ("layout", "extents"),
    [
        (thirds(16, 20), ["B", "S", PIECES * 20]),
        (thirds(8, 12), ["B", "S", PIECES * 12]),
        (
            Layout(*(OperandView(starts=(0, 4), ends=(4, 12), perm=(0, 2, 1, 3)) for _ in range(3)), ROWS),
            ["B", "S", 4, 16],
        ),
    ],
)
def test_what_the_kernels_cannot_read_at_once_is_said(layout: Layout, extents: list[str | int]) -> None:
    found = need_of(layout, extents)
    assert isinstance(found, Unserved)
    assert "the kernels take multiples of 8" in str(found)


def test_float32_is_read_four_at_once() -> None:
    assert not isinstance(need_of(thirds(8, 12), ["B", "S", PIECES * 12], TensorProto.FLOAT), Unserved)


def test_a_view_that_is_none_has_no_kernels() -> None:
    ((_, found),) = each_need(changed(model(thirds(), WHOLE), "key_perm", None), Path())
    assert "attribute 'key_perm' is missing" in str(found)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.FLOAT])
@pytest.mark.parametrize("output", [MERGED, ROWS, OutputView()])
@pytest.mark.parametrize("name", ["thirds", "rank 4"])
def test_casts_stand_between_the_views_and_the_attention(name: str, output: OutputView, dtype: int, opset: int) -> None:
    ort = pytest.importorskip("onnxruntime")
    rows = in_order("BSHD")
    cut = dataclasses.replace(rows, ends=(KV_HEADS, WIDTH))
    layout = thirds(output=output) if name == "thirds" else Layout(rows, cut, cut, output)
    extents: list[str | int] = [*WHOLE] if name == "thirds" else ["B", "S", HEADS, WIDTH]
    plain, wide = model(layout, extents, dtype, opset), model(layout, extents, dtype, opset)
    assert widen_bodies(wide) == 1
    onnx.checker.check_model(wide)
    kinds = [node.op_type for node in wide.functions[0].node]
    first = kinds.index("Cast")
    assert kinds[first : first + 3] == ["Cast"] * 3
    assert "Transpose" in kinds[:first], "the views come first"
    moves = {"Reshape", "Transpose"} & set(kinds[len(kinds) - 3 :])
    assert bool(moves) is (not output.plain), "what moves the output comes last"
    inferred = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(wide), strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    products = [n for n in inferred.graph.node if n.op_type == "MatMul"]
    assert len(products) == 2
    assert all(types.get(i, TensorProto.FLOAT) == TensorProto.FLOAT for n in products for i in n.input)
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    x = np.random.default_rng(0).standard_normal((2, 5, *extents[2:])).astype(numpy_type)
    found = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (plain, wide)
    ]
    assert found[1].dtype == numpy_type
    np.testing.assert_allclose(found[1], found[0], atol=1e-6 if dtype == TensorProto.FLOAT else 4e-3)


@needs_rtx
@pytest.mark.parametrize("strategy", [pytest.param("plugin", marks=BESIDE), "native"])
def test_an_engine_is_built_of_views(tmp_path: Path, strategy: str) -> None:
    """The parser hands the numbers over, they are stored, and the extents of the output are computed of them."""
    made = model(thirds(), WHOLE, TensorProto.FLOAT16)
    del made.graph.output[:]
    product = helper.make_node("MatMul", ["y", "weight"], ["z"])
    made.graph.node.append(product)
    weight = helper.make_tensor("weight", TensorProto.FLOAT16, [64, 3], np.ones(192, np.float16).tobytes(), raw=True)
    made.graph.initializer.append(weight)
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT16, ["B", "S", 3]))
    onnx.save(made, tmp_path / "m.onnx")
    options = EngineOptions(backend="tensorrt-rtx", strategy=strategy, targets=(89,))
    facts = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options)
    assert facts.found == facts.expected == (strategy == "plugin")
    content = (tmp_path / "m.engine").read_bytes()
    wanted = np.array([0, 0, PIECES, WIDTH], np.int32).tobytes()
    assert (wanted in content and b"query_shape" in content) is (strategy == "plugin")
