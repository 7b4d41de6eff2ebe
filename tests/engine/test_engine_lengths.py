"""Fused nodes with key lengths on their way into an engine: kernels, plugin, and lengths as an input of their own."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter import rewrite
from alibi_rewriter.engine.build import EngineOptions, build_engine
from alibi_rewriter.engine.needs import Unserved, each_need
from alibi_rewriter.engine.operands import check_operands
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, DOMAIN, Alignment, FusedAttention
from alibi_rewriter.plugin import library_path
from onnx import ModelProto, TensorProto, helper, numpy_helper
from slow import BESIDE, SLOW

HEADS, WIDTH, CAPACITY, OPSET = 2, 16, 64, 18

needs_rtx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tensorrt_rtx", "triton")) or library_path() is None,
    reason="needs TensorRT-RTX, Triton and the plugin library",
)


def model(op_type: str, aligned: Alignment) -> ModelProto:
    """A node over a buffer of fixed capacity."""
    variant = BY_OP_TYPE[op_type]
    node = FusedAttention(variant, 0.25, rows=aligned)
    made = helper.make_node(op_type, list(variant.inputs), ["y"], "attention", domain=DOMAIN, **node.attributes())
    half = TensorProto.FLOAT16
    inputs = [
        helper.make_tensor_value_info("query", half, ["B", HEADS, "S", WIDTH]),
        helper.make_tensor_value_info("key", half, ["B", HEADS, CAPACITY, WIDTH]),
        helper.make_tensor_value_info("value", half, ["B", HEADS, CAPACITY, WIDTH]),
        helper.make_tensor_value_info("key_lengths", TensorProto.INT64, ["B"]),
    ]
    slopes = numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "slopes")
    output = helper.make_tensor_value_info("y", half, ["B", HEADS, "S", WIDTH])
    graph = helper.make_graph([made], "g", inputs, [output], [slopes])
    body = function_proto(variant, OPSET, grouped=False, zero_rows=False, query_type=half, aligned=aligned)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("op_type", ["AlibiAttentionCausalLengths", "AlibiAttentionSymmetricWindowLengths"])
def test_kernels_are_asked_for(op_type: str) -> None:
    made = model(op_type, Alignment.LAST)
    check_operands(made, Path())
    ((_, found),) = each_need(made, Path())
    assert not isinstance(found, Unserved)
    assert found.request.op_type == op_type and found.request.head_dim == WIDTH and found.layout.contiguous


@needs_rtx
@pytest.mark.parametrize(
    ("aligned", "strategy"),
    [
        pytest.param(Alignment.LAST, "plugin", marks=BESIDE),
        *(
            pytest.param(*p, marks=SLOW)
            for p in ((Alignment.LAST, "native"), (Alignment.FIRST, "plugin"), (Alignment.FIRST, "native"))
        ),
    ],
)
def test_an_engine_is_built_with_lengths(aligned: Alignment, strategy: str, tmp_path: Path) -> None:
    """As the plugin with kernels of ours, and as the function that TensorRT compiles."""
    onnx.save(model("AlibiAttentionCausalLengths", aligned), tmp_path / "m.onnx")
    # The other engines of the fast suite are for 89.
    options = EngineOptions(backend="tensorrt-rtx", strategy=strategy, targets=(86,))
    facts = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options)
    assert facts.targets == (86,)
    assert facts.found == facts.expected == (strategy == "plugin")
    assert strategy == "native" or "sm_86" in facts.embedded[0]
    content = (tmp_path / "m.engine").read_bytes()
    # The plugin stores which keys its rows are.
    stored = re.search(rb"\brows\W[\x00-\x40]{0,64}" + aligned.value.encode(), content) is not None
    assert stored is (strategy == "plugin")


@needs_rtx
@SLOW
def test_an_engine_of_a_model_whose_cache_is_in_place(tmp_path: Path) -> None:
    """The attentions are the plugin, and TensorRT compiles the function that appends."""
    source = Path(__file__).parents[1] / "data" / "bloom__optimum_textgen_past+onnxsim.onnx"
    rewrite(source, tmp_path / "m.onnx", cache="in-place=64", verify=False)
    options = EngineOptions(backend="tensorrt-rtx", strategy="plugin", targets=(89,))
    facts = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options)
    assert facts.found == facts.expected == 2
