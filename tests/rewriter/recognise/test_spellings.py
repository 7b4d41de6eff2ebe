"""Attentions written in other ways.  Each is accepted and computes the same, and its near miss is refused.

A case is a graph in ONNX text syntax with one replacement that makes it something else.  The replacement keeps the
graph runnable, so that what refuses it is the proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
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
        code: The code that refuses the near miss; empty where it is not an attention.
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
        "ALB105",
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


DISTANCES = """
   extent = Shape<start=2, end=3>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   ii = Unsqueeze(ji, axis1)
   di = Sub(ji, ii)
   d = Cast<to=1>(di)
   far = Abs(d)
"""

PRODUCT = """
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
"""

CASES |= {
    "logarithm_of_a_decay": Case(
        """
   decay = Pow(gamma, far)
   bias = Log(decay)
   s = Add(scaled, bias)
"""
        + SOFTMAX,
        ("bias = Log(decay)", "more = Add(decay, scale)\n bias = Log(more)"),
        "ALB200",
        op_type="AlibiAttentionSymmetric",
        before=DISTANCES + PRODUCT,
        constants="float[4,1,1] gamma = {0.60653066, 0.7788008, 0.8824969, 0.9394131}",
    ),
    "logarithm_of_an_exponential": Case(
        """
   steep = Mul(slopes, far)
   less = Neg(steep)
   decay = Exp(less)
   bias = Log(decay)
   s = Add(scaled, bias)
"""
        + SOFTMAX,
        ("bias = Log(decay)", "bias = Sqrt(decay)"),
        "ALB200",
        op_type="AlibiAttentionSymmetric",
        before=DISTANCES + PRODUCT,
    ),
    "sign_times_size": Case(
        """
   sign = Sign(d)
   signed = Mul(sign, far)
   bias = Mul(slopes, signed)
   s = Add(scaled, bias)
"""
        + SOFTMAX,
        ("signed = Mul(sign, far)", "root = Sqrt(far)\n signed = Mul(sign, root)"),
        "ALB200",
        before=DISTANCES + PRODUCT,
    ),
    "shift_of_relative_attention": Case(
        """
   back = Sub(ji, keys)
   next = Add(back, one)
   r = Cast<to=1>(next)
   row = Mul(slopes, r)
   square = Concat<axis=0>(extent, extent)
   whole = Concat<axis=0>(four, square)
   table = Expand(row, whole)
   padded = Pad(table, pads)
   wider = Add(keys, one)
   wide = Unsqueeze(wider, axis0)
   turned = Concat<axis=0>(four, wide, extent)
   regrouped = Reshape(padded, turned)
   cut = Slice(regrouped, axis1, huge, axis1)
   bias = Reshape(cut, whole)
   seen = LessOrEqual(ji, ii)
   added = Add(scaled, bias)
   s = Where(seen, added, lowest)
"""
        + SOFTMAX,
        ("cut = Slice(regrouped, axis1, huge, axis1)", "cut = Slice(regrouped, axis0, last, axis1)"),
        "ALB200",
        op_type="AlibiAttentionCausal",
        before=DISTANCES + PRODUCT,
        constants="int64[1] four = {4}, int64[6] pads = {0, 0, 1, 0, 0, 0}, int64[1] huge = {9223372036854775807}",
    ),
    "slopes_times_a_scalar": Case(
        """
   bias = Mul(slopes, far)
   times = Mul(bias, factor)
   s = Sub(scaled, times)
"""
        + SOFTMAX,
        ("times = Mul(bias, factor)", "times = Pow(bias, factor)"),
        "ALB100",
        op_type="AlibiAttentionSymmetric",
        before=DISTANCES + PRODUCT,
        inputs=INPUTS + ", float factor",
    ),
    "scores_times_a_scalar": Case(
        """
   bias = Mul(slopes, far)
   less = Sub(scaled, bias)
   s = Mul(less, factor)
"""
        + SOFTMAX,
        ("s = Mul(less, factor)", "s = Mul(less, less)"),
        "ALB104",
        op_type="AlibiAttentionSymmetric",
        before=DISTANCES + PRODUCT,
        inputs=INPUTS + ", float factor",
    ),
    "probabilities_kept_and_renormalised": Case(
        """
   keep = Less(zero, mask)
   keep4 = Unsqueeze(keep, axes12)
   kept = Cast<to=1>(keep4)
   p0 = Softmax<axis=-1>(s)
   p1 = Mul(p0, kept)
   t = ReduceSum<keepdims=1>(p1, last)
   some = Greater(t, nothing)
   t1 = Where(some, t, unit)
   p2 = Div(p1, t1)
   p = Where(some, p2, nothing)
   y = MatMul(p, v)
""",
        ("t = ReduceSum<keepdims=1>(p1, last)", "t = ReduceSum<keepdims=1>(p1, axis2)"),
        "ALB103",
        op_type="AlibiAttentionLinearBooleanMask",
        inputs=INPUTS + ", int64[B,S] mask",
        constants="int64[2] axes12 = {1, 2}, float unit = {1.0}",
    ),
    "exponentials_times_a_mask": Case(
        """
   keep = Less(zero, mask)
   keep4 = Unsqueeze(keep, axes12)
   kept = Cast<to=1>(keep4)
   m = ReduceMax<keepdims=1>(s, last)
   d = Sub(s, m)
   e0 = Exp(d)
   e = Mul(e0, kept)
   t = ReduceSum<keepdims=1>(e, last)
   p = Div(e, t)
   y = MatMul(p, v)
""",
        ("t = ReduceSum<keepdims=1>(e, last)", "t = ReduceSum<keepdims=1>(e0, last)"),
        "",
        op_type="AlibiAttentionLinearBooleanMask",
        inputs=INPUTS + ", int64[B,S] mask",
        constants="int64[2] axes12 = {1, 2}",
    ),
    "heads_folded_into_rows": Case(
        """
   rows = Reshape(q, folded)
   kt = Transpose<perm=[0, 2, 1]>(k)
   qk = MatMul(rows, kt)
   scaled = Mul(qk, scale)
   flat = Mul(sloped, d3)
   bias = Reshape(flat, table)
   s = Add(scaled, bias)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
""",
        ("bias = Reshape(flat, table)", "turned = Transpose<perm=[1, 0, 2]>(flat)\n bias = Reshape(turned, table)"),
        "ALB200",
        inputs="float[B,5,4,8] q, float[B,5,8] k, float[B,5,8] v",
        output="float[B,R,8] y",
        before="""
   extent = Shape<start=1, end=2>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   ii = Unsqueeze(ji, axis1)
   di = Sub(ji, ii)
   d = Cast<to=1>(di)
   d3 = Unsqueeze(d, axis1)
""",
        constants="""float[1,4,1] sloped = {0.5, 0.25, 0.125, 0.0625}, int64[3] folded = {0, -1, 8},
   int64[2] table = {-1, 5}""",
    ),
    "packed_weights_around_it": Case(
        """
   f = Reshape(q, flat)
   g = MatMulNBits<K=32, N=32, bits=4, block_size=32>(f, packed, scales)
   q4 = Reshape(g, apart)
   qt = Transpose<perm=[0, 2, 1, 3]>(q4)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(qt, kt)
   scaled = Mul(qk, scale)
   s = Add(scaled, bias)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
""".replace("MatMulNBits", "com.microsoft.MatMulNBits"),
        ("s = Add(scaled, bias)", "bent = Mul(bias, bias)\n s = Add(scaled, bent)"),
        "ALB200",
        inputs="float[B,S,4,8] q, float[B,4,S,8] k, float[B,4,S,8] v",
        before=POSITIONS,
        constants="int64[3] flat = {0, 0, 32}, int64[4] apart = {0, 0, 4, 8}, float[32] scales = {"
        + ", ".join("0.0625" for _ in range(32))
        + "}, uint8[32,1,16] packed = {"
        + ", ".join(str((37 * k) % 251) for k in range(512))
        + "}",
    ),
}

TILED = "{" + ", ".join(["0.5, 0.25, 0.125, 0.0625"] * 4) + "}"
REPEATED = "{" + ", ".join(f"{s}, {s}, {s}, {s}" for s in (0.5, 0.25, 0.125, 0.0625)) + "}"

CASES |= {
    "as_many_batches_as_heads": Case(
        """
   q4 = Reshape(q, apart)
   k4 = Reshape(k, apart)
   v4 = Reshape(v, apart)
   qt = Transpose<perm=[0, 2, 1, 3]>(q4)
   kt = Transpose<perm=[0, 2, 3, 1]>(k4)
   vt = Transpose<perm=[0, 2, 1, 3]>(v4)
   q3 = Reshape(qt, rows)
   k3 = Reshape(kt, columns)
   v3 = Reshape(vt, rows)
   qk = MatMul(q3, k3)
   scaled = Mul(qk, scale)
   bias = Mul(each, j)
   s = Add(scaled, bias)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v3)
""",
        (TILED, REPEATED),
        "ALB200",
        inputs="float[4,6,32] q, float[4,6,32] k, float[4,6,32] v",
        output="float[16,6,8] y",
        before="""
   extent = Shape<start=1, end=2>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
""",
        constants="float[16,1,1] each = "
        + TILED
        + """, int64[4] apart = {0, 0, 4, 8}, int64[3] rows = {16, 6, 8},
   int64[3] columns = {16, 8, 6}""",
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
    run(original, feeds_of(original, 0))  # it runs, so the proof refuses it
    result = rewrite(original, options=Options(verify=False, probe=False))
    assert result.fused == []
    assert result.model is None
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    codes = [s.refusal.code.number for s in result.analysis.sites if s.refusal is not None]
    assert set(codes) == ({CASES[name].code} if CASES[name].code else set())


ONE_BATCH = """<ir_version: 8, opset_import: ["" : 18]>
attention (float[N,S,4,8] q, float[N,S,4,8] k, float[N,S,4,8] v) => (float[R,S,8] y)
<float[4,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, float scale = {0.35355338},
 int64[1] axis0 = {0}, int64[1] single = {1}, int64[1] four = {4}, int64[1] eight = {8}, int64[3] rest = {-1, 1, 1}>
{
   batch = Shape<start=0, end=1>(q)
   extent = Shape<start=1, end=2>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   to = Concat<axis=0>(batch, single)
   spread = Expand(slopes, to)
   each = Reshape(spread, rest)
   bias = Mul(each, j)
   rows = Mul(batch, four)
   shape = Concat<axis=0>(rows, extent, eight)
   qt = Transpose<perm=[2, 0, 1, 3]>(q)
   kt = Transpose<perm=[2, 0, 1, 3]>(k)
   vt = Transpose<perm=[2, 0, 1, 3]>(v)
   q3 = Reshape(qt, shape)
   k3 = Reshape(kt, shape)
   v3 = Reshape(vt, shape)
   k4 = Transpose<perm=[0, 2, 1]>(k3)
   qk = MatMul(q3, k4)
   scaled = Mul(qk, scale)
   s = Add(scaled, bias)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v3)
}
"""


def test_a_batch_that_only_can_be_one() -> None:
    """The slopes are spread to four batches or one, and four of them do not fit the sixteen rows of scores."""
    original = model(ONE_BATCH)
    result = rewrite(original, options=Options(verify=False))
    assert result.exit_code is ExitCode.DONE
    assert result.model is not None
    drawn = np.random.default_rng(0).standard_normal((3, 1, 6, 4, 8)).astype(np.float32)
    feeds = dict(zip("qkv", drawn, strict=True))
    (wanted,), (got,) = run(original, feeds), run(result.model, feeds)
    assert np.abs(wanted - got).max() <= TOLERANCE


def test_one_of_two_choices_is_none() -> None:
    """Where another extent was taken to agree by a broadcast as well, either of the two may be wrong."""
    both = ONE_BATCH.replace("float[N,S,4,8] q,", "float[N,S,4,8] q, float[M] other, float[L] more,")
    both = both.replace("(float[R,S,8] y)", "(float[R,S,8] y, float[A] added)")
    both = both.replace("   batch = Shape", "   added = Add(other, more)\n   batch = Shape")
    result = rewrite(model(both), options=Options(verify=False))
    assert result.fused == []
