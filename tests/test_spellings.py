"""Attentions written in other ways: each is accepted and computes the same, and its near miss is refused.

A case is a graph in ONNX text syntax with one replacement that makes it something else.  The replacement keeps the
graph runnable, so that what refuses it is the proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import pytest
from alibi_rewriter.rewriter.errors import ExitCode
from alibi_rewriter.rewriter.pipeline import Options, rewrite
from onnx import ModelProto
from textgraphs import feeds_of, fused, run

pytest.importorskip("onnxruntime")

TOLERANCE = 2e-5

INPUTS = "float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v"

CONSTANTS = """
   float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, float scale = {0.35355338},
   float lowest = {-3.4028234663852886e+38}, float nothing = {0.0}, int64[1] axis0 = {0}, int64[1] axis1 = {1},
   int64[1] axis2 = {2}, int64[1] axis3 = {3}, int64[1] last = {-1}
"""

POSITIONS = """
   extent = Shape<start=2, end=3>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   bias = Mul(slopes, j)
"""

SCORES = """
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   s = Add(scaled, bias)
"""


@dataclass(frozen=True)
class Case:
    """A spelling.

    Attributes:
        body: Nodes behind those of ``before``.
        miss: What to replace in the whole text, by what: the near miss.
        code: The code that refuses the near miss; empty where it is no attention at all.
        op_type: What the spelling becomes.
        before: Nodes that most spellings share.
        constants: Initializers besides the common ones.
        inputs: Of the graph.
        output: Of the graph.
        opset: Its opset.
        tolerance: How far the outputs may differ, relative to the largest.
    """

    body: str
    miss: tuple[str, str]
    code: str
    op_type: str = "AlibiAttentionLinear"
    before: str = POSITIONS + SCORES
    constants: str = ""
    inputs: str = INPUTS
    output: str = "float[B,4,S,8] y"
    opset: int = 18
    tolerance: float = TOLERANCE

    @property
    def text(self) -> str:
        constants = CONSTANTS.strip() + (", " + self.constants if self.constants else "")
        return f"""<ir_version: 8, opset_import: ["" : {self.opset}, "com.microsoft" : 1]>
attention ({self.inputs}) => ({self.output})
<{constants}>
{{
{self.before}
{self.body}
}}
"""


SOFTMAX = """
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
"""

CASES = {
    "softmax_written_out": Case(
        """
   m = ReduceMax<keepdims=1>(s, last)
   d = Sub(s, m)
   e = Exp(d)
   t = ReduceSum<keepdims=1>(e, last)
   p = Div(e, t)
   y = MatMul(p, v)
""",
        ("t = ReduceSum<keepdims=1>(e, last)", "t = ReduceSum<keepdims=1>(e, axis2)"),
        "ALB101",
    ),
    "softmax_by_a_reciprocal": Case(
        """
   m = ReduceMax<keepdims=0>(s, last)
   m4 = Unsqueeze(m, last)
   d = Sub(s, m4)
   e = Exp(d)
   t = ReduceSum<keepdims=0>(e, last)
   t4 = Unsqueeze(t, last)
   r = Reciprocal(t4)
   p = Mul(r, e)
   y = MatMul(p, v)
""",
        ("p = Mul(r, e)", "p = Mul(t4, e)"),
        "",
    ),
    "softmax_by_log_sum_exp": Case(
        """
   m = ReduceLogSumExp<keepdims=1>(s, last)
   d = Sub(s, m)
   p = Exp(d)
   y = MatMul(p, v)
""",
        ("m = ReduceLogSumExp<keepdims=1>(s, last)", "m = ReduceLogSumExp<keepdims=1>(scaled, last)"),
        "",
    ),
    "softmax_by_a_logarithm": Case(
        """
   m = ReduceMax<keepdims=1>(s, last)
   d = Sub(s, m)
   e = Exp(d)
   t = ReduceSum<keepdims=1>(e, last)
   l = Log(t)
   g = Sub(d, l)
   p = Exp(g)
   y = MatMul(p, v)
""",
        ("g = Sub(d, l)", "g = Sub(s, l)"),
        "",
    ),
    "softmax_of_log_softmax": Case(
        """
   l = LogSoftmax<axis=-1>(s)
   p = Exp(l)
   y = MatMul(p, v)
""",
        ("l = LogSoftmax<axis=-1>(s)", "l = LogSoftmax<axis=2>(s)"),
        "ALB101",
    ),
    "softmax_written_out_in_16_bits": Case(
        """
   q16 = Cast<to=10>(q)
   k16 = Cast<to=10>(k)
   kt = Transpose<perm=[0, 1, 3, 2]>(k16)
   qk = MatMul(q16, kt)
   scale16 = Cast<to=10>(scale)
   scaled = Mul(qk, scale16)
   bias16 = Cast<to=10>(bias)
   s = Add(scaled, bias16)
   s32 = Cast<to=1>(s)
   m = ReduceMax<keepdims=1>(s32, last)
   d = Sub(s32, m)
   e = Exp(d)
   t = ReduceSum<keepdims=1>(e, last)
   p = Div(e, t)
   p16 = Cast<to=10>(p)
   v16 = Cast<to=10>(v)
   y16 = MatMul(p16, v16)
   y = Cast<to=1>(y16)
""",
        ("p = Div(e, t)", "t1 = Add(t, scale)\n p = Div(e, t1)"),
        "",
        before=POSITIONS,
        tolerance=2e-2,
    ),
    "largest_score_subtracted": Case(
        """
   m = ReduceMax<keepdims=1>(s, last)
   d = Sub(s, m)
   p = Softmax<axis=-1>(d)
   y = MatMul(p, v)
""",
        ("m = ReduceMax<keepdims=1>(s, last)", "m = ReduceMax<keepdims=1>(s, axis2)"),
        "ALB120",
    ),
}

GROUPED = "float[B,S,4,8] q, float[B,S,2,8] k, float[B,S,2,8] v"

GROUPED_POSITIONS = """
   extent = Shape<start=1, end=2>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   bias = Mul(slopes, j)
"""

GROUPED_SHAPES = "int64[5] apart = {0, 0, 2, 2, 8}, int64[5] spread = {1, 2, 2, 1, -1}, int64[4] whole = {0, 0, 4, 8}"

CASES |= {
    "groups_by_einsum": Case(
        """
   q5 = Reshape(q, apart)
   qk = Einsum<equation="btkgd,bskd->bkgts">(q5, k)
   scaled = Mul(qk, scale)
   bias5 = Reshape(bias, spread)
   s = Add(scaled, bias5)
   p = Softmax<axis=-1>(s)
   o = Einsum<equation="bkgts,bskd->btkgd">(p, v)
   y = Reshape(o, whole)
""",
        ("bkgts,bskd->btkgd", "bkgts,bsgd->btkgd"),
        "ALB400",
        inputs=GROUPED,
        output="float[B,S,4,8] y",
        before=GROUPED_POSITIONS,
        constants=GROUPED_SHAPES,
    ),
    "groups_by_matmul": Case(
        """
   qt = Transpose<perm=[0, 2, 1, 3]>(q)
   q5 = Reshape(qt, heads)
   kt = Transpose<perm=[0, 2, 3, 1]>(k)
   k5 = Unsqueeze(kt, axis2)
   qk = MatMul(q5, k5)
   scaled = Mul(qk, scale)
   bias5 = Reshape(bias, spread)
   s = Add(scaled, bias5)
   p = Softmax<axis=-1>(s)
   vt = Transpose<perm=[0, 2, 1, 3]>(v)
   v5 = Unsqueeze(vt, axis2)
   o = MatMul(p, v5)
   y = Transpose<perm=[0, 3, 1, 2, 4]>(o)
""",
        ("v5 = Unsqueeze(vt, axis2)", "v5 = Unsqueeze(vt, axis1)"),
        "ALB400",
        inputs=GROUPED,
        output="float[B,S,2,2,8] y",
        before=GROUPED_POSITIONS,
        constants=GROUPED_SHAPES + ", int64[5] heads = {0, 2, 2, -1, 8}",
    ),
    "groups_in_front": Case(
        """
   q5 = Reshape(q, apart)
   qg = Transpose<perm=[3, 0, 2, 1, 4]>(q5)
   kt = Transpose<perm=[0, 2, 3, 1]>(k)
   qk = MatMul(qg, kt)
   scaled = Mul(qk, scale)
   bias4 = Reshape(bias, spread)
   bias5 = Transpose<perm=[2, 0, 1, 3, 4]>(bias4)
   s = Add(scaled, bias5)
   p = Softmax<axis=-1>(s)
   vt = Transpose<perm=[0, 2, 1, 3]>(v)
   o = MatMul(p, vt)
   ot = Transpose<perm=[1, 3, 2, 0, 4]>(o)
   y = Reshape(ot, whole)
""",
        ("perm=[2, 0, 1, 3, 4]>(bias4)", "perm=[2, 0, 1, 4, 3]>(bias4)"),
        "ALB100",
        inputs=GROUPED,
        output="float[B,S,4,8] y",
        before=GROUPED_POSITIONS,
        constants=GROUPED_SHAPES,
    ),
    "einsum_with_an_ellipsis": Case(
        """
   qk = Einsum<equation="...td,...sd->...ts">(q, k)
   scaled = Mul(qk, scale)
   s = Add(scaled, bias)
   p = Softmax<axis=-1>(s)
   y = Einsum<equation="...ts,...sd->...td">(p, v)
""",
        ("...ts,...sd->...td", "...ts,...td->...sd"),
        "ALB101",
        before=POSITIONS,
    ),
    "probabilities_times_the_mask": Case(
        """
   keep = Less(zero, mask)
   keep4 = Unsqueeze(keep, axes12)
   low = Where(keep4, s, lowest)
   p0 = Softmax<axis=-1>(low)
   kept = Cast<to=1>(keep4)
   p = Mul(p0, kept)
   y = MatMul(p, v)
""",
        ("kept = Cast<to=1>(keep4)", "none = Not(keep4)\n kept = Cast<to=1>(none)"),
        "ALB103",
        op_type="AlibiAttentionLinearBooleanMask",
        inputs=INPUTS + ", int64[B,S] mask",
        constants="int64[2] axes12 = {1, 2}",
    ),
    "padding_and_causality_by_the_smaller": Case(
        """
   ij = Unsqueeze(ji, last)
   future = LessOrEqual(ji, ij)
   causal = Cast<to=7>(future)
   pad = Unsqueeze(mask, axis1)
   both = Min(pad, causal)
   both4 = Unsqueeze(both, axis1)
   keep = Greater(both4, zero)
   low = Where(keep, s, lowest)
   p0 = Softmax<axis=-1>(low)
   p = Where(keep, p0, nothing)
   y = MatMul(p, v)
""",
        ("p = Where(keep, p0, nothing)", "p = Where(keep, p0, scale)"),
        "ALB103",
        op_type="AlibiAttentionCausalBooleanMask",
        inputs=INPUTS + ", int64[B,S] mask",
    ),
}


def model(text: str) -> ModelProto:
    made = onnx.parser.parse_model(text)
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("name", CASES)
def test_accepted(name: str) -> None:
    original = model(CASES[name].text)
    result = rewrite(original, options=Options(verify=False))
    assert [str(s.refusal) for s in result.analysis.sites if s.refusal is not None] == []
    assert result.exit_code is ExitCode.DONE
    assert result.model is not None
    onnx.checker.check_model(result.model)
    assert fused(result.model) == [CASES[name].op_type]
    for seed in range(2):
        feeds = feeds_of(original, seed)
        for wanted, got in zip(run(original, feeds), run(result.model, feeds), strict=True):
            assert wanted.shape == got.shape
            assert np.abs(wanted - got).max() <= CASES[name].tolerance * max(1.0, float(np.abs(wanted).max()))


@pytest.mark.parametrize("name", CASES)
def test_near_miss_is_refused(name: str) -> None:
    old, new = CASES[name].miss
    assert CASES[name].text.count(old) == 1
    original = model(CASES[name].text.replace(old, new))
    run(original, feeds_of(original, 0))  # it runs, so it is the proof that refuses it
    result = rewrite(original, options=Options(verify=False, probe=False))
    assert result.fused == []
    assert result.model is None
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    codes = [s.refusal.code.number for s in result.analysis.sites if s.refusal is not None]
    assert set(codes) == ({CASES[name].code} if CASES[name].code else set())
