"""A table of the bias for many positions, of which the end is read: MPT's, whose last key has a bias of zero."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from alibi_rewriter import rewrite
from onnx import ModelProto, numpy_helper
from textgraphs import parsed

SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,8] v) => (float[B,4,S,8] y)
<int64[1] most = {0}, int64[1] end = {9223372036854775807}, int64[1] last = {2}, float scale = {0.35355338}>
{
   keys = Shape<start=2, end=3>(k)
   first = Sub(most, keys)
   bias = Slice(table, first, end, last)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   s = Add(scaled, bias)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}
"""


def with_table(most: int, shift: int = 0) -> ModelProto:
    """Slope times the distance to the last key, plus ``shift`` times the slope at every key."""
    model = parsed(TEXT)
    distance = np.arange(most) - (most - 1) + shift
    table = SLOPES[:, None, None] * distance.astype(np.float32)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors["most"].CopyFrom(numpy_helper.from_array(np.array([most], np.int64), "most"))
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("most", [64, 65536])
def test_its_length_does_not_matter_where_only_its_end_is_read(most: int) -> None:
    done = rewrite(with_table(most))
    assert [fused.variant.op_type for _, fused in done.fused] == ["AlibiAttentionLinear"]
    assert done.verification is not None
    assert done.verification.status == "passed"


def test_what_every_key_gets_may_be_as_large_as_scores_can_bear() -> None:
    assert len(rewrite(with_table(64, shift=1000), verify=False).fused) == 1


def test_more_than_that_takes_the_digits_of_all_scores() -> None:
    (site,) = rewrite(with_table(64, shift=1 << 16), verify=False).analysis.sites
    assert site.refusal is not None
    assert site.refusal.code.number == "ALB301"
    assert "takes the digits of all scores" in site.refusal.detail
