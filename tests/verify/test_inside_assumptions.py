"""The verification draws what the proofs take as given, and says where it found a difference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter import pipeline
from onnx import ModelProto, TensorProto, helper, numpy_helper
from textgraphs import read

pytest.importorskip("onnxruntime")


def decoder() -> ModelProto:
    """Positions of past and new tokens, whose number has a name of its own; the bias is as long as they are."""
    return onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        decoder (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v, int64[B,T] position_ids,
                 float[B,4,P,8] past_key, float[B,4,P,8] past_value) => (float[B,4,S,8] y, float[B,T,4] e)
        <float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1},
         float scale = {0.35355338}, int64[1] axis0 = {0}>
        {
           keys = Concat<axis=2>(past_key, k)
           values = Concat<axis=2>(past_value, v)
           extent = Shape<start=1, end=2>(position_ids)
           length = Squeeze(extent, axis0)
           ji = Range(zero, length, one)
           j = Cast<to=1>(ji)
           bias = Mul(slopes, j)
           kt = Transpose<perm=[0, 1, 3, 2]>(keys)
           qk = MatMul(q, kt)
           scaled = Mul(qk, scale)
           s = Add(scaled, bias)
           p = Softmax<axis=-1>(s)
           y = MatMul(p, values)
           e = Gather(table, position_ids)
        }
        """
    )


def with_table(made: ModelProto) -> ModelProto:
    table = np.random.default_rng(0).standard_normal((512, 4)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(table, "table"))
    onnx.checker.check_model(made)
    return made


def test_lengths_agree_with_what_the_proof_assumes(tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    onnx.save(with_table(decoder()), path)
    result = rewrite(path)
    assert result.verification is not None
    assert result.exit_code is ExitCode.DONE, result.verification.summary()
    sets = result.verification.sets
    cached = [one.shapes for one in sets if one.shapes["past_key"][2] > 0]
    assert cached, "and caches are still drawn"
    for one in sets:
        assert one.shapes["position_ids"][1] == one.shapes["past_key"][2] + one.shapes["q"][2]
    assert result.verification.power is not None and not result.verification.power.weak


def quantised() -> ModelProto:
    """An attention with a padding mask, whose result is quantised by the range of all of it."""
    made = read("positions/counted")
    result = made.graph.output[0].name
    made.graph.node.append(helper.make_node("DynamicQuantizeLinear", [result], ["small", "step", "zero_point"]))
    made.graph.node.append(helper.make_node("DequantizeLinear", ["small", "step", "zero_point"], ["z"]))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return made


def test_ranges_over_padded_tokens_do_not_decide(tmp_path: Path) -> None:
    path = tmp_path / "quantised.onnx"
    onnx.save(quantised(), path)
    for seed in range(3):
        result = rewrite(path, options=Options(seed=seed))
        assert result.verification is not None
        assert result.exit_code is ExitCode.DONE, result.verification.summary()
        assert "DynamicQuantizeLinear takes ranges over whole tensors" in (result.verification.by_sites or "")
        assert all(one.passed for one in result.verification.sites)


def test_steps_of_quantised_activations_do_not_decide() -> None:
    """Where a result lies between two steps, another order of a sum takes it to the other one."""
    made = read("forms/linear_causal")
    for name, value in (("step", np.float32(1e-6)), ("zero_point", np.int8(0))):
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    made.graph.node.append(helper.make_node("QuantizeLinear", [made.graph.output[0].name, "step", "zero_point"], ["n"]))
    made.graph.node.append(helper.make_node("DequantizeLinear", ["n", "step", "zero_point"], ["z"]))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    found = rewrite(made).verification
    assert found is not None and found.passed
    assert "QuantizeLinear rounds activations" in (found.by_sites or "")


def test_a_difference_is_named_by_set_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = pipeline.apply

    def emit(made: ModelProto, *rest: Any) -> None:
        honest(made, *rest)
        slopes = next(t for t in made.graph.initializer if t.name.endswith("/slopes"))
        changed = numpy_helper.to_array(slopes).copy()
        changed[2] *= np.float32(1.5)
        slopes.CopyFrom(numpy_helper.from_array(changed, slopes.name))

    monkeypatch.setattr(pipeline, "apply", emit)
    path = tmp_path / "m.onnx"
    onnx.save(read("forms/linear_causal"), path)
    result = rewrite(path)
    assert result.exit_code is ExitCode.VERIFICATION_FAILED and result.verification is not None
    said = result.verification.summary()
    found = re.search(r"at output 'y', index \[(\d+), (\d+), \d+, \d+\], input set '([^']+)'", said)
    assert found is not None, said
    assert found[2] == "2", "the head whose slope is wrong"
    assert found[3] in {one.name for one in result.verification.sets}
