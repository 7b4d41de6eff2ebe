"""A proof says where in the model its claims rest, if that is asked for."""

from __future__ import annotations

from pathlib import Path

import onnx.parser
from alibi_rewriter.rewriter.analysis import analyse
from alibi_rewriter.rewriter.prepare.normalise import normalise
from alibi_rewriter.rewriter.records.site import Site

WINDOW = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,8] v) => (float[B,4,S,8] y)
<float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, float scale = {0.35355338},
 int64[1] axis0 = {0}, int64[1] axis1 = {1}, float low = {-3.4028235e38}, int64 width = {3}, float half = {0.5}>
{
   extent = Shape<start=2, end=3>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   rowextent = Shape<start=2, end=3>(q)
   rows = Squeeze(rowextent, axis0)
   past = Sub(keys, rows)
   ri = Range(zero, rows, one)
   rip = Add(ri, past)
   rcol = Unsqueeze(rip, axis1)
   bias = Mul(slopes, j)
   qs = Mul(q, half)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(qs, kt)
   scaled = Mul(qk, scale)
   biased = Add(scaled, bias)
   before = LessOrEqual(ji, rcol)
   apart = Sub(rcol, ji)
   close = Less(apart, width)
   visible = And(before, close)
   s = Where(visible, biased, low)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}
"""


def site_of(text: str, *, evidence: bool = True) -> Site:
    (site,) = analyse(normalise(onnx.parser.parse_model(text)), Path(), evidence=evidence).sites
    return site


def test_every_claim_has_the_element_that_says_it_first() -> None:
    binding = site_of(WINDOW).binding
    assert binding is not None
    found = binding.proof.evidence
    assert found is not None
    assert (found.scaled_query, found.scaled_key, found.scaled) == (("qs",), (), ("scaled",))
    assert found.added is not None
    assert found.added[0] == "biased"
    assert found.bias is not None
    assert found.bias[0] == "bias"
    assert found.slopes is not None
    assert found.slopes[0] == "slopes"
    assert found.causality is not None
    assert found.causality[0] == "before"
    (window,) = binding.proof.window.conditions
    assert found.conditions[window][0] == "close"


def test_who_does_not_ask_gets_none() -> None:
    binding = site_of(WINDOW, evidence=False).binding
    assert binding is not None
    assert binding.proof.evidence is None


def test_a_term_that_fits_nowhere_is_found_where_it_enters() -> None:
    squared = WINDOW.replace("bias = Mul(slopes, j)", "square = Mul(j, j) bias = Mul(slopes, square)")
    refusal = site_of(squared).refusal
    assert refusal is not None
    assert (refusal.code.number, refusal.enters) == ("ALB200", "bias")
    refusal = site_of(squared, evidence=False).refusal
    assert refusal is not None
    assert refusal.enters == ""
