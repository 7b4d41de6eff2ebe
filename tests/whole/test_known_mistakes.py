"""Mistakes that were made elsewhere, of which docs/coming-from-tensorrt-llm.md has the list.

Custom slopes, odd numbers of heads, shards, the scale on the bias, a bias that is added twice, masks that are dropped,
rows that are counted without the cache.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from alibi_rewriter import ExitCode, rewrite
from onnx import ModelProto, helper, numpy_helper
from textgraphs import feeds_of, read, run

SCALE = 0.35355338


def paper(heads: int) -> list[float]:
    """The recipe of the ALiBi paper: those of the power of two below, then every second of the next one."""
    power = 2 ** int(np.log2(heads))
    first = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return first + [2.0 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]


def with_slopes(slopes: list[float], *, scaled_bias: bool = False) -> ModelProto:
    """The golden causal attention with these slopes, one per head; with scale * (q k + bias) if asked for."""
    model = read("forms/linear_causal")
    tensor = next(t for t in model.graph.initializer if t.name == "slopes")
    values = np.array(slopes, np.float32).reshape(-1, 1, 1)
    tensor.CopyFrom(numpy_helper.from_array(values, "slopes"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = len(slopes)
    if scaled_bias:
        nodes = {node.output[0]: node for node in model.graph.node}
        nodes["scaled"].CopyFrom(helper.make_node("Add", ["qk", "bias"], ["scaled"]))
        nodes["added"].CopyFrom(helper.make_node("Mul", ["scaled", "scale"], ["added"]))
    onnx.checker.check_model(model)
    return model


CASES = {
    "custom slopes": ([0.7, 0.013, 1.9, 0.31], False),
    "slopes in no order, one of them zero": ([0.0625, 0.5, 0.0, 0.25], False),
    "six heads": (paper(6), False),
    "twelve heads": (paper(12), False),
    "the second of two shards": (paper(8)[4:], False),
    "the last shard of twelve heads": (paper(12)[8:], False),
    "negative slopes": ([-0.5, -0.25, 0.125, 0.0625], False),
    "scale on product and bias": (paper(4), True),
}


@pytest.mark.parametrize("case", CASES)
def test_the_slopes_are_the_models_own(case: str) -> None:
    slopes, scaled_bias = CASES[case]
    original = with_slopes(slopes, scaled_bias=scaled_bias)
    result = rewrite(original)
    assert result.exit_code is ExitCode.DONE and result.verification is not None and result.verification.passed
    (node,) = [node for node in result.model.graph.node if node.domain == "alibi"]
    stored = next(t for t in result.model.graph.initializer if t.name == node.input[3])
    wanted = np.array(slopes, np.float64) * (SCALE if scaled_bias else 1.0)
    np.testing.assert_allclose(numpy_helper.to_array(stored), wanted, rtol=1e-6)
    feeds = feeds_of(original, 0)
    np.testing.assert_allclose(run(result.model, feeds)[0], run(original, feeds)[0], atol=2e-5)


def fused_and_equal(original: ModelProto) -> tuple[ModelProto, onnx.NodeProto]:
    """The rewritten model and its fused node, after both have computed the same."""
    result = rewrite(original)
    assert result.exit_code is ExitCode.DONE and result.verification is not None and result.verification.passed
    feeds = feeds_of(original, 0)
    np.testing.assert_allclose(run(result.model, feeds)[0], run(original, feeds)[0], atol=2e-5)
    (node,) = [node for node in result.model.graph.node if node.domain == "alibi"]
    return result.model, node


def slopes_of(model: ModelProto, node: onnx.NodeProto) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[3]))


def test_a_bias_that_is_added_twice_counts_twice() -> None:
    """Falcon's eager attention in transformers; whoever takes away one addition is wrong."""
    original = with_slopes(paper(4))
    nodes = list(original.graph.node)
    place = next(k for k, node in enumerate(nodes) if node.output[0] == "added")
    nodes[place].output[0] = "once"
    nodes.insert(place + 1, helper.make_node("Add", ["once", "bias"], ["added"]))
    del original.graph.node[:]
    original.graph.node.extend(nodes)
    model, node = fused_and_equal(original)
    np.testing.assert_allclose(slopes_of(model, node), 2 * np.array(paper(4)), rtol=1e-6)


ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,8] v{inputs}) => (float[B,4,S,8] y)
<float[4,1,1] slopes = {{0.25, 0.0625, 0.015625, 0.00390625}}, int64 zero = {{0}}, int64 one = {{1}},
 float scale = {{{scale}}}, int64[1] axis0 = {{0}}, int64[1] axis1 = {{1}}, float low = {{-3.4028235e38}}>
{{
   keys_shape = Shape<start=2, end=3>(k)
   keys = Squeeze(keys_shape, axis0)
   rows_shape = Shape<start=2, end=3>(q)
   rows = Squeeze(rows_shape, axis0)
   past = Sub(keys, rows)
   ji = Range(zero, keys, one)
   ri = Range(zero, rows, one)
   rip = Add(ri, past)
   row = Unsqueeze({row}, axis1)
   distance = Sub(ji, row)
   far = Abs(distance)
   away = Neg(far)
   float_away = Cast<to=1>(away)
   bias = Mul(slopes, float_away)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   {body}
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}}
"""


def attention(body: str, *, row: str = "rip", scale: float = SCALE, inputs: str = "") -> ModelProto:
    """An attention with -slope * |row - j|, of which ``body`` makes ``s`` from ``scaled`` and ``bias``."""
    model = onnx.parser.parse_model(ATTENTION.format(body=body, row=row, scale=scale, inputs=inputs))
    onnx.checker.check_model(model)
    return model


def test_jais() -> None:
    """1/D as scale, the mask before the bias, and a symmetric bias that causality makes linear."""
    masked = "seen = Greater(distance, zero)\n hidden = Where(seen, low, scaled)\n s = Add(hidden, bias)"
    model, node = fused_and_equal(attention(masked, scale=0.125))
    assert node.op_type == "AlibiAttentionCausal"
    assert next(a.f for a in node.attribute if a.name == "scale") == 0.125
    np.testing.assert_allclose(slopes_of(model, node), paper(4), rtol=1e-6)


def test_a_row_that_is_counted_without_the_cache_is_no_alibi() -> None:
    right, wrong = attention("s = Add(scaled, bias)"), attention("s = Add(scaled, bias)", row="ri")
    _, node = fused_and_equal(right)
    assert node.op_type == "AlibiAttentionSymmetric"
    result = rewrite(wrong)
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    assert [s.refusal.code.number for s in result.analysis.sites if s.refusal is not None] == ["ALB203"]


def test_a_mask_that_nobody_knows_is_passed_on() -> None:
    """An additive input in the place of a mask: it is not dropped, and not taken for causality."""
    body = "with_mask = Add(scaled, mask)\n s = Add(with_mask, bias)"
    _, node = fused_and_equal(attention(body, inputs=", float[B,1,S,T] mask"))
    assert node.op_type == "AlibiAttentionSymmetricAdditiveMask" and "mask" in node.input
