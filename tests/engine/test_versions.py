"""The table of versions: what it says decides what is used, what is warned about, and what the page shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
from alibi_rewriter.engine import accumulation, versions
from alibi_rewriter.engine.accumulation import statement, widen_bodies
from alibi_rewriter.engine.backends import Backend
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import DOMAIN, KERNEL_MEMBERS
from generated import up_to_date
from onnx import TensorProto, helper

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
BEGIN, END = "<!-- versions -->\n\n", "\n<!-- end of versions -->"


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}{versions.table()}{END}{after}"
    assert up_to_date(PAGE, wanted)


@pytest.mark.parametrize(
    ("backend", "version", "fit", "said"),
    [
        ("tensorrt", "11.4.0.106", True, ""),
        ("tensorrt", "11.4.1.7", True, ""),
        ("tensorrt", "10.3.0", True, ""),
        ("tensorrt", "12.0.0.5", True, "newer than 11.4, the last that was tested; checked here: "),
        ("tensorrt", "11.10.0", True, "newer than 11.4"),
        ("tensorrt", "8.6.1", False, "none of those that were tested"),
        ("tensorrt-rtx", "1.7.1.116", True, ""),
        ("tensorrt-rtx", "1.8.0.1", True, "newer than 1.7"),
        ("tensorrt-rtx", "1.6.1.120", False, "none of those"),
        ("tensorrt-rtx", "1.5.0.114", False, "none of those"),
        ("tensorrt-rtx", "1.4.0.76", False, "none of those"),
        ("tensorrt", "nonsense", False, "none of those"),
    ],
)
def test_fit_and_caution(backend: str, version: str, fit: bool, said: str) -> None:
    found = Backend(backend, version)
    assert found.takes_plugins is fit
    assert said in found.caution and bool(said) == bool(found.caution)


def test_the_broken_interface_is_named() -> None:
    assert "binary interface is another than that of 1.4" in (versions.unfit("tensorrt-rtx", "1.5.0.114") or "")
    assert versions.first_fit("tensorrt-rtx") == "1.7"


# --- what attention is accumulated in --------------------------------------------------------------------


def attention(op_type: str, dtype: int, opset: int) -> onnx.ModelProto:
    """One fused node with its body."""
    member = next(m for m in KERNEL_MEMBERS if m.op_type == op_type)
    body = function_proto(member, opset, grouped=False, zero_rows=False, query_type=dtype)
    shapes: dict[str, tuple[int, list[int]]] = {n: (dtype, [1, 2, 5, 8]) for n in ("query", "key", "value")}
    shapes |= {"slopes": (TensorProto.FLOAT, [2]), "mask": (TensorProto.BOOL, [1, 1, 5, 5])}
    names = [n for n in member.inputs if n]
    inputs = [helper.make_tensor_value_info(n, *shapes[n]) for n in names]
    node = helper.make_node(op_type, names, ["y"], domain=DOMAIN, scale=0.25)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", dtype, [1, 2, 5, 8])])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("opset", [11, 13, 15, 18])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.FLOAT])
@pytest.mark.parametrize("op_type", ["AlibiAttentionCausal", "AlibiAttentionLinearBooleanMask"])
def test_operands_are_cast_and_results_cast_back(op_type: str, dtype: int, opset: int) -> None:
    ort = pytest.importorskip("onnxruntime")
    plain, wide = attention(op_type, dtype, opset), attention(op_type, dtype, opset)
    assert widen_bodies(wide) == 1
    onnx.checker.check_model(wide)
    body = wide.functions[0]
    assert [n.op_type for n in body.node[:3]] == ["Cast"] * 3
    products = [n for n in body.node if n.op_type == "MatMul"]
    inferred = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(wide), strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    made = [n for n in inferred.graph.node if n.op_type == "MatMul"]
    assert len(made) == len(products) == 2
    assert all(types.get(i, TensorProto.FLOAT) == TensorProto.FLOAT for n in made for i in n.input)
    rng = np.random.default_rng(0)
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    feeds = {n: rng.standard_normal((1, 2, 5, 8)).astype(numpy_type) for n in ("query", "key", "value")}
    feeds["slopes"] = np.array([0.5, 0.25], np.float32)
    if "Mask" in op_type:
        feeds["mask"] = np.tril(np.ones((1, 1, 5, 5), bool))
    found = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for m in (plain, wide)
    ]
    assert found[1].dtype == numpy_type
    np.testing.assert_allclose(found[1], found[0], atol=1e-6 if dtype == TensorProto.FLOAT else 4e-3)


@pytest.mark.parametrize(
    ("strategy", "wanted", "backend", "version", "said"),
    [
        ("plugin", "default", "tensorrt-rtx", "1.7.1", "float32, by our kernels"),
        ("plugin", "float32", "tensorrt", "11.4.0", "float32, by our kernels"),
        ("native", "default", "tensorrt", "11.4.0", "left to TensorRT"),
        ("native", "float32", "tensorrt", "11.3.0.99", "asked for by casts around the attention"),
        ("native", "float32", "tensorrt", "11.2.1.2", "from 11.3 on, TensorRT 11.2.1.2 does not"),
        ("native", "float32", "tensorrt-rtx", "1.7.1.116", "TensorRT-RTX 1.7.1.116 does not"),
    ],
)
def test_the_report_says_what_was_asked_for(strategy: str, wanted: str, backend: str, version: str, said: str) -> None:
    assert said in statement(strategy, wanted, backend, version)
    assert set(accumulation.CHOICES) == {"default", "float32"}
