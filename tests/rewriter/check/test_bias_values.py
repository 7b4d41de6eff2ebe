"""The bias of a site in numbers: what is cut out of the model, what it is given, and where its scores end up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from alibi_rewriter.algebra import Size
from alibi_rewriter.graph.index import Array
from alibi_rewriter.rewriter.analysis import analyse
from alibi_rewriter.rewriter.check.bias_values import bias_part, feeds_of, placed, scores_shape
from alibi_rewriter.rewriter.check.evaluation import evaluator
from alibi_rewriter.rewriter.prepare.normalise import normalise
from alibi_rewriter.rewriter.records.site import Site
from onnx import ModelProto

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,8] v, int64[B,T] m) => (float[B,4,S,8] y)
<float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1},
 int64[1] axis0 = {0}, int64[2] mid = {1, 2}, float low = {-3.4028235e38}>
{
   extent = Shape<start=2, end=3>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   bias = Mul(slopes, j)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   biased = Add(qk, bias)
   wide = Unsqueeze(m, mid)
   seen = Cast<to=9>(wide)
   s = Where(seen, biased, low)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}
"""
SIZES = {Size("B"): 2, Size("S"): 3, Size("T"): 5}


@pytest.fixture
def found() -> tuple[ModelProto, Site]:
    model = normalise(onnx.parser.parse_model(TEXT))
    (site,) = analyse(model, Path()).sites
    return model, site


def test_scores_are_the_bias_where_products_are_zero(found: tuple[ModelProto, Site]) -> None:
    model, site = found
    assert site.reading is not None
    part = bias_part(model, site.scope, site.interpreter, ["s"], {"qk"})
    # The inputs of the model first, then products, then shapes; no query and no key.
    assert part.inputs == ("m", "qk", "extent")
    assert (part.outputs, part.foreign) == (("s",), ())

    def last_is_hidden(shape: object) -> Array:
        values = np.ones(shape, np.int64)  # type: ignore[call-overload]
        values[:, -1] = 0
        return values

    feeds = feeds_of(part, site.interpreter, SIZES, last_is_hidden, 1000)
    assert feeds is not None
    assert feeds["extent"].tolist() == [5]
    assert not feeds["qk"].any()
    run = evaluator(part.model, None)
    shape = scores_shape(site.interpreter, site.reading, SIZES)
    assert run is not None
    assert shape == [2, 4, 3, 5]
    values = placed(site.interpreter, site.reading, run(feeds)["s"], shape, SIZES)
    assert values is not None
    np.testing.assert_allclose(values[0, 1, 2], [0.0, 0.25, 0.5, 0.75, np.finfo(np.float32).min])


def test_nothing_is_made_up_beyond_a_limit(found: tuple[ModelProto, Site]) -> None:
    model, site = found
    part = bias_part(model, site.scope, site.interpreter, ["s"], {"qk"})
    assert feeds_of(part, site.interpreter, SIZES, np.ones, 2 * 4 * 3 * 5) is None
    assert feeds_of(part, site.interpreter, SIZES, np.ones, 2 * 4 * 3 * 5 + 2 * 5) is not None
    assert feeds_of(part, site.interpreter, {Size("B"): 2}, np.ones, 1000) is None


def test_an_extent_that_is_unknown_or_zero_is_no_shape(found: tuple[ModelProto, Site]) -> None:
    _, site = found
    assert site.reading is not None
    assert scores_shape(site.interpreter, site.reading, {**SIZES, Size("T"): 0}) is None
    assert scores_shape(site.interpreter, site.reading, SIZES, most=100) is None
    without = {size: number for size, number in SIZES.items() if size != Size("B")}
    assert scores_shape(site.interpreter, site.reading, without) is None
    assert scores_shape(site.interpreter, site.reading, without, batch=1) == [1, 4, 3, 5]


def test_a_foreign_product_is_a_border_unless_it_is_asked_for(found: tuple[ModelProto, Site]) -> None:
    model, site = found
    part = bias_part(model, site.scope, site.interpreter, ["s"], set())
    assert part.foreign == ("qk",)
    part = bias_part(model, site.scope, site.interpreter, ["s"], set(), foreign=lambda node: False)
    assert part.foreign == ()
    assert part.inputs == ("q", "k", "m", "extent")
