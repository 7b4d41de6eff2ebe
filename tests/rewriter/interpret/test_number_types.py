"""Number types that do not hold a bias, and operators that mean something else than they seem to: by the proof alone.

Each body makes ``bias`` out of the positions of one small attention.  Without self-check and verification it has to
be refused, or what is written has to compute the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options, PassResult
from onnx import ModelProto, numpy_helper
from textgraphs import fused, run

pytest.importorskip("onnxruntime")

PROOF_ALONE = Options(verify=False, probe=False)
SLOPES = "float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}"

ATTENTION = """
<ir_version: 9, opset_import: ["" : 18]>
g (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,8] v) => (float[B,4,S,8] y)
<int64 nought = {0}, int64 one = {1}, int64 two = {2}, int64[1] first = {0}, int64[1] second = {1},
 float scale = {0.35}, SLOPES, CONSTANTS>
{
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    qk = MatMul (q, kt)
    scaled = Mul (qk, scale)
    q_shape = Shape (q)
    rows = Gather (q_shape, two)
    k_shape = Shape (k)
    keys = Gather (k_shape, two)
    j = Range (nought, keys, one)
    i_only = Range (nought, rows, one)
    past = Sub (keys, rows)
    i = Add (i_only, past)
    column = Unsqueeze (j, first)
    row = Unsqueeze (i, second)
    distance = Sub (column, row)
    distance_float = Cast <to = 1> (distance)
    linear = Mul (distance_float, slopes)
    BODY
    scores = Add (scaled, bias)
    p = Softmax <axis = -1> (scores)
    y = MatMul (p, v)
}
"""


def model(body: str, constants: str = "float unused = {0}") -> ModelProto:
    text = ATTENTION.replace("SLOPES", SLOPES).replace("CONSTANTS", constants).replace("BODY", body)
    return onnx.parser.parse_model(text)


def refusal(result: PassResult) -> str:
    (site,) = result.analysis.sites
    return "" if site.refusal is None else site.refusal.code.number


WRAPPING = {
    "int32 wraps": (
        "jj = Cast <to = 6> (j)\\n m = Mul (jj, large)\\n d = Div (m, large)\\n"
        " f = Cast <to = 1> (d)\\n bias = Mul (f, slopes)",
        "int32 large = {16777216}",
    ),
    "int64 wraps": (
        "m = Mul (j, large)\\n d = Div (m, large)\\n f = Cast <to = 1> (d)\\n bias = Mul (f, slopes)",
        "int64 large = {1152921504606846976}",
    ),
    "uint32": ("u = Cast <to = 12> (distance)\\n f = Cast <to = 1> (u)\\n bias = Mul (f, slopes)", ""),
    "uint64": ("u = Cast <to = 13> (distance)\\n f = Cast <to = 1> (u)\\n bias = Mul (f, slopes)", ""),
    "uint8 positions": ("u = Cast <to = 2> (j)\\n f = Cast <to = 1> (u)\\n bias = Mul (f, slopes)", ""),
    "int8 positions": ("u = Cast <to = 3> (j)\\n f = Cast <to = 1> (u)\\n bias = Mul (f, slopes)", ""),
    "int16 positions": ("u = Cast <to = 5> (j)\\n f = Cast <to = 1> (u)\\n bias = Mul (f, slopes)", ""),
    "bias through bfloat16": ("r = Cast <to = 16> (linear)\\n bias = Cast <to = 1> (r)", ""),
    "bias through float16": ("r = Cast <to = 10> (linear)\\n bias = Cast <to = 1> (r)", ""),
    "truncated power of integers": (
        "w = Pow (base, half)\\n f = Cast <to = 1> (w)\\n bias = Mul (linear, f)",
        "int32 base = {2}, float half = {0.5}",
    ),
    "the lowest number on every key": ("bias = Add (linear, lowest)", "float lowest = {-3.4028235e+38}"),
    "absorbed and taken back": (
        "a = Add (linear, huge)\\n bias = Sub (a, huge)",
        "float huge = {1e9}",
    ),
}
"""Refused with ALB207."""

OTHER = {
    "a ceiling that is reached": (
        "s = Mul (linear, steep)\\n bias = Min (s, ceiling)",
        "float steep = {2000}, float ceiling = {65504}",
    ),
    "a clip that every key reaches": (
        "s = Sub (linear, far)\\n bias = Clip (s, low, high)",
        "float far = {100000}, float low = {-65504}, float high = {65504}",
    ),
    "a range in steps": (
        "r = Range (nought, keys, step)\\n f = Cast <to = 1> (r)\\n bias = Mul (f, slopes)",
        "int64 step = {64}",
    ),
    "to float8": ("r = Cast <to = 17> (linear)\\n bias = Cast <to = 1> (r)", ""),
    "to int4": ("r = Cast <to = 22> (j)\\n f = Cast <to = 1> (r)\\n bias = Mul (f, slopes)", ""),
    "a mean of integers": (
        "t = Mul (column, two)\\n c = Concat <axis = 0> (column, t)\\n m = ReduceMean (c, first)\\n"
        " f = Cast <to = 1> (m)\\n bias = Mul (f, slopes)",
        "",
    ),
    "a product of integers": (
        "r = Expand (distance, wide)\\n m = ReduceProd <keepdims = 0> (r, first)\\n"
        " f = Cast <to = 1> (m)\\n bias = Mul (f, slopes)",
        "int64[3] wide = {2, 1, 1}",
    ),
    "an attribute that no rule knows": (
        "c = CumSum <backwards = 1> (ones, nought)\\n f = Cast <to = 1> (c)\\n bias = Mul (f, slopes)\\n",
        "int64[1] lone = {1}",
    ),
}
"""Refused with whatever code."""


@pytest.mark.parametrize("name", WRAPPING)
def test_a_type_that_does_not_hold_the_bias_refuses_it(name: str) -> None:
    body, constants = WRAPPING[name]
    graph = model(body.replace("\\n", "\n"), constants or "float unused = {0}")
    graph.opset_import[0].version = 21 if "to = 2" in body else 18
    assert refusal(rewrite(graph, options=PROOF_ALONE)) == "ALB207"


@pytest.mark.parametrize("name", OTHER)
def test_what_only_looks_like_slope_times_distance_is_refused(name: str) -> None:
    body, constants = OTHER[name]
    if "CumSum" in body:
        body = "n = Unsqueeze (keys, first)\n ones = Expand (lone, n)\n" + body
    graph = model(body.replace("\\n", "\n"), constants or "float unused = {0}")
    graph.opset_import[0].version = 21
    assert refusal(rewrite(graph, options=PROOF_ALONE)) != ""


EXACT = {
    "positions through bfloat16": ("r = Cast <to = 16> (j)\n f = Cast <to = 1> (r)\n bias = Mul (f, slopes)", ""),
    "positions through float16": ("r = Cast <to = 10> (j)\n f = Cast <to = 1> (r)\n bias = Mul (f, slopes)", ""),
    "slope times position in float16": (
        "r = Cast <to = 10> (j)\n s = Cast <to = 10> (slopes)\n b = Mul (r, s)\n bias = Cast <to = 1> (b)",
        "",
    ),
    "positions through int32": ("u = Cast <to = 6> (j)\n f = Cast <to = 1> (u)\n bias = Mul (f, slopes)", ""),
    "a bound that nothing reaches": ("bias = Clip (linear, low, )", "float low = {-3.4028235e+38}"),
    "a difference of halves": (
        "b = Add (linear, half)\n bias = Sub (b, half)",
        "float half = {0.5}",
    ),
    "a slope written at index -1": (
        "t = ScatterND (flat, at, new)\n s = Reshape (t, shape)\n bias = Mul (distance_float, s)",
        "float[4] flat = {0.5, 0.25, 0.125, 0.0625}, int64[1,1] at = {-1}, "
        "float[1] new = {3}, int64[3] shape = {4,1,1}",
    ),
    "integer distances up to five, and what is beyond": (
        "a = Abs (distance)\n near = Min (a, five)\n over = Sub (a, five)\n far = Max (over, nought)\n"
        " n = Neg (near)\n d = Sub (n, far)\n f = Cast <to = 1> (d)\n bias = Mul (f, slopes)",
        "int64 five = {5}",
    ),
    "the sign times the absolute value": ("s = Sign (linear)\n a = Abs (linear)\n bias = Mul (s, a)", ""),
    "counted backwards": (
        "n = Unsqueeze (keys, first)\n ones = Expand (lone, n)\n c = CumSum <reverse = 1> (ones, nought)\n"
        " f = Cast <to = 1> (c)\n g = Neg (f)\n bias = Mul (g, slopes)",
        "int64[1] lone = {1}",
    ),
    "counted from zero, in floats": (
        "n = Unsqueeze (keys, first)\n ones = Expand (lone, n)\n c = CumSum <exclusive = 1> (ones, nought)\n"
        " bias = Mul (c, slopes)",
        "float[1] lone = {1}",
    ),
}
"""Rewritten, and equal."""


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_is_rewritten_and_computes_the_same(name: str) -> None:
    body, constants = EXACT[name]
    graph = model(body, constants or "float unused = {0}")
    result = rewrite(graph, options=PROOF_ALONE)
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    random = np.random.default_rng(0)
    for rows, keys in ((1, 1), (5, 5), (3, 7), (1, 300), (2, 2100)):
        feeds = {
            n: random.standard_normal((2, 4, s, 8)).astype(np.float32)
            for n, s in (("q", rows), ("k", keys), ("v", keys))
        }
        (wanted,), (found,) = run(graph, feeds), run(result.model, feeds)
        assert np.abs(wanted - found).max() < 2e-4


@pytest.mark.parametrize("cap", ["Min (a, five)", "Clip (a, nought, five)"])
def test_an_integer_distance_with_a_cap_is_refused_for_the_cap(cap: str) -> None:
    """Its normal form has halves inside, and is a whole number all the same."""
    body = f"a = Abs (distance)\n c = {cap}\n n = Neg (c)\n f = Cast <to = 1> (n)\n bias = Mul (f, slopes)"
    assert refusal(rewrite(model(body, "int64 five = {5}"), options=PROOF_ALONE)) == "ALB200"


def test_a_narrow_integer_that_holds_every_likely_size_is_an_assumption() -> None:
    result = rewrite(model(*EXACT["positions through int32"][:1]), options=PROOF_ALONE)
    (site,) = result.analysis.sites
    assert site.binding is not None
    assert any("int32" in a and "2147483648" in a for a in site.binding.proof.assumptions)


def test_scores_of_a_narrow_type_round_as_the_bias_does() -> None:
    """The same positions in a float16 model.  Their rounding is told, and does not refuse the site."""
    graph = model("r = Cast <to = 10> (j)\n bias = Mul (r, slopes)")
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            tensor.CopyFrom(half)
    dead = [n for n in graph.graph.node if n.output[0] in ("distance_float", "linear")]
    for node in dead:
        graph.graph.node.remove(node)
    (site,) = rewrite(graph, options=PROOF_ALONE).analysis.sites
    assert site.binding is not None, site.refusal
    assert any("float16" in step for step in site.binding.proof.steps)


def with_table(table: npt.NDArray[np.generic], body: str, constants: str = "float unused = {0}") -> ModelProto:
    graph = model(body, constants)
    graph.graph.initializer.append(numpy_helper.from_array(table, "table"))
    return graph


def test_a_float16_table_of_a_float32_graph_has_to_be_exact() -> None:
    """0.7 * j is a line to one unit of float16, and up to 0.5 beside it beyond j = 1463."""
    cut = "n = Unsqueeze (keys, first)\n cut = Slice (table, first, n, second_axis)\n bias = Cast <to = 1> (cut)"
    axis = "int64[1] second_axis = {2}"
    rounds = (np.arange(3000)[None, None] * np.array([0.7, 0.3, 0.1, 0.05])[:, None, None]).astype(np.float16)
    assert refusal(rewrite(with_table(rounds, cut, axis), options=PROOF_ALONE)) == "ALB201"
    exact = (np.arange(2048)[None, None] * np.array([0.5, 0.25, 0.125, 0.0625])[:, None, None]).astype(np.float16)
    assert refusal(rewrite(with_table(exact, cut, axis), options=PROOF_ALONE)) == ""


def test_a_hiding_value_that_is_made_small_hides_nothing() -> None:
    """-1e5 above the diagonal of a table, times 1e-4: future keys get -10, and stay visible."""
    table = np.triu(np.full((9, 9), -1e5, np.float32), 1)
    body = "small = Mul (table, tenth)\n bias = Add (linear, small)"
    graph = with_table(table, body, "float tenth = {0.0001}")
    result = rewrite(graph, options=PROOF_ALONE)
    assert "AlibiAttentionCausal" not in (fused(result.model) if result.model is not None else [])


def test_a_comparison_that_the_last_bit_decides_is_read_and_not_decided() -> None:
    """0.1 * 3 * j is 0.3 * j in real numbers; in float32 it is above it for some keys only, and those are masked."""
    body = (
        "f = Cast <to = 1> (j)\n a = Mul (f, tenth)\n b = Mul (a, three)\n c = Mul (f, tenths)\n"
        " above = Greater (b, c)\n penalty = Where (above, lowest, nothing)\n bias = Add (linear, penalty)"
    )
    constants = (
        "float tenth = {0.1}, float three = {3}, float tenths = {0.3}, "
        "float lowest = {-3.4028235e+38}, float nothing = {0}"
    )
    graph = model(body, constants)
    result = rewrite(graph, options=PROOF_ALONE)
    if result.model is None:
        return
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal((1, 4, 40, 8)).astype(np.float32) for name in ("q", "k", "v")}
    (wanted,), (found,) = run(graph, feeds), run(result.model, feeds)
    assert np.abs(wanted - found).max() < 2e-4
