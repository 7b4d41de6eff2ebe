"""Mistakes with slopes that were made elsewhere: custom ones, odd numbers of heads, shards, the scale on the bias."""

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
