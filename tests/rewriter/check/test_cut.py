"""Sites cut out of a graph, sizes that fit what a proof assumes, and polynomials as numbers."""

from __future__ import annotations

import numpy as np
import onnx.checker
import pytest
from alibi_rewriter.algebra import Index, Read, Size, absolute, ind, less_equal, min0, of, poly
from alibi_rewriter.rewriter.check.cut import cut, model_of, products_of, weighing
from alibi_rewriter.rewriter.check.measure import SiteSizes, allowed
from alibi_rewriter.rewriter.check.numbers import Grid
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.records.site import Site
from alibi_rewriter.rewriter.result import Options
from interpreted import read_text
from onnx import ModelProto
from textgraphs import feeds_of, read, run


def site_of(model: ModelProto) -> Site:
    """The only site of a model, in a graph that nothing has been written to."""
    (site,) = rewrite(model, options=Options(dry_run=True, verify=False, probe=False)).analysis.sites
    return site


def test_a_cut_stops_at_operands_and_takes_constants_along() -> None:
    asked = read_text(
        "float[B,6] x, float[6,6] u",
        "a = Mul(x, w)\n b = MatMul(a, u)\n c = Add(b, w)\n y = Neg(c)",
        "float[6] w = {1, 2, 3, 4, 5, 6}",
    )
    whole = cut(asked.scope, ["c"], frozenset(), frozenset())
    assert [n.op_type for n in whole.nodes] == ["Add"], "beyond a foreign product lie foreign weights"
    assert (whole.inputs, [t.name for t in whole.constants]) == (["b"], ["w"])
    product = asked.scope.producer("b")
    own = cut(asked.scope, ["c"], frozenset({"x"}), frozenset({id(product)}))
    assert [n.op_type for n in own.nodes] == ["Mul", "MatMul", "Add"]
    assert own.inputs == ["u", "x"]
    small = cut(asked.scope, ["c"], frozenset(), frozenset(), largest=5)
    assert (small.inputs, small.constants) == (["b", "w"], [])


def test_of_a_shape_only_the_extents_matter() -> None:
    asked = read_text("float[B,6] x", "a = Exp(x)\n s = Shape(a)\n y = ConstantOfShape(s)")
    found = cut(asked.scope, ["y"], frozenset(), frozenset())
    assert ([n.op_type for n in found.nodes], found.inputs) == (["Shape", "ConstantOfShape"], ["a"])
    known = cut(asked.scope, ["y"], frozenset(), frozenset(), measured=lambda tensor: True)
    assert ([n.op_type for n in known.nodes], known.inputs) == (["ConstantOfShape"], ["s"])


@pytest.mark.parametrize("name", ["forms/linear", "masks/boolean_padding", "layouts/merged_heads"])
def test_what_is_cut_out_computes_what_the_whole_does(name: str) -> None:
    pytest.importorskip("onnxruntime")
    model = read(name)
    site = site_of(model)
    product = weighing(site)
    assert product is not None and product.op_type == "MatMul" and id(product) in products_of(site)
    operands = frozenset(value.name for value in model.graph.input)
    part = model_of(cut(site.scope, ["y"], operands, products_of(site)), model, site.interpreter, "part")
    onnx.checker.check_model(part)
    assert {v.name for v in part.graph.input} <= operands
    feeds = feeds_of(model, 1)
    (wanted,) = run(model, feeds)
    (found,) = run(part, {v.name: feeds[v.name] for v in part.graph.input})
    np.testing.assert_array_equal(wanted, found)


def test_an_operator_weighs_inside() -> None:
    assert weighing(site_of(read("operators/multi_head_attention"))) is None


def test_sizes_are_chosen_as_the_model_leaves_them_open() -> None:
    site = site_of(read("caches/concatenated"))
    assert site.reading is not None
    sizes = SiteSizes(site.interpreter, site.reading.frame, [])
    assert sizes.settle(2, 3, 4) == (2, 3, 4)
    solved = sizes.solve(2, 3, 4)
    assert solved is not None
    numbers = {size.name: number for size, number in solved.items()}
    assert (numbers["B"], numbers["S"], numbers["P"]) == (2, 3, 4)
    assert allowed(site.interpreter, solved)
    fixed = site_of(read("forms/table_with_batch"))
    assert fixed.reading is not None
    assert SiteSizes(fixed.interpreter, fixed.reading.frame, []).settle(7, 7, 7) == (2, 5, 0)


def test_polynomials_are_evaluated_over_all_rows_and_keys() -> None:
    asked = read_text("float[S] x", "y = Neg(x)")
    row, key, size = Index("i", of(Size("S"))), Index("j", of(Size("S"))), Size("S")
    grid = Grid(asked, (None, None, row, key), (1, 1, 3, 4), {size: 4}, {"x": np.array([5.0, 6.0, 7.0, 8.0])})
    i, j = np.arange(3)[:, None], np.arange(4)[None, :]

    def values(found: object) -> np.ndarray:
        return np.broadcast_to(np.asarray(found), (1, 1, 3, 4))[0, 0]

    np.testing.assert_array_equal(values(grid.evaluate(-absolute(of(key) - of(row)))), -np.abs(j - i))
    np.testing.assert_array_equal(values(grid.evaluate(min0(of(key) - of(row)))), np.minimum(j - i, 0))
    np.testing.assert_array_equal(values(grid.evaluate(ind(less_equal(of(key), of(row))) * 2)), 2.0 * (j <= i))
    np.testing.assert_array_equal(values(grid.evaluate(of(Read("x", (of(key),))) + of(size))), 9.0 + j + 0 * i)
    assert grid.evaluate(of(Read("unknown", (of(key),)))) is None
    assert grid.evaluate(of(Index("other", poly(2)))) is None
    assert grid.evaluate(of(Read("x", (of(key) + 9,)))) is None, "the tensor is shorter than the proof says"
