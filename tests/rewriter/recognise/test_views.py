"""Views: which index lies on which axis of a tensor, and which tensor upstream an operand is best taken from."""

from __future__ import annotations

from fractions import Fraction

import pytest
from alibi_rewriter.algebra import Apply, Index, Size, of, poly
from alibi_rewriter.patterns.layouts import Axis
from alibi_rewriter.rewriter.recognise import views
from alibi_rewriter.rewriter.records.reading import View
from interpreted import read_text

B, S = of(Size("B")), of(Size("S"))
BATCH, HEAD = Index("b", B, Axis.BATCH), Index("h", poly(4), Axis.HEAD)
ROW, FEATURE = Index("i", S, Axis.ROW), Index("d", poly(8), Axis.FEATURE)
CANONICAL = (BATCH, HEAD, ROW, FEATURE)
SHAPES = "int64[4] split = {0, -1, 4, 8}, int64[3] joined = {-1, 6, 8}, float half = {0.5}"


def test_an_axis_holds_the_indices_that_are_merged_in_it() -> None:
    asked = read_text("float[B,S,32] x", "y = Identity(x)")
    assert views.radix(asked, of(BATCH) * 4 + of(HEAD)) == (BATCH, HEAD)
    assert views.radix(asked, of(HEAD) * B + of(BATCH)) == (HEAD, BATCH)
    assert views.radix(asked, poly(0)) == ()
    assert views.radix(asked, poly(1)) is None, "the second entry is no whole axis"
    assert views.radix(asked, of(BATCH) * 5 + of(HEAD)) is None, "there are 4 heads"
    assert views.radix(asked, of(BATCH) * 4 + of(HEAD) + 1) is None
    assert views.radix(asked, of(BATCH) * 4) is None, "nothing moves along the inner part"


def test_a_view_names_every_index_once() -> None:
    asked = read_text("float[B,S,32] x", "y = Identity(x)")
    features = Index("f", poly(32))
    view = views.as_view(asked, "x", (of(BATCH), of(ROW), of(features)))
    assert view is not None and view.indices == (BATCH, ROW, features) and not view.merged
    assert views.as_view(asked, "x", (of(BATCH), of(BATCH), of(features))) is None
    assert views.as_view(asked, "x", (of(BATCH), of(ROW), of(FEATURE))) is None, "8 of 32 features"
    merged = views.as_view(asked, "x", (of(BATCH), of(ROW), of(HEAD) * 8 + of(FEATURE)))
    assert merged is not None and merged.merged and merged.axes[2] == (HEAD, FEATURE)


def test_the_beginning_of_an_axis_is_a_view_where_that_is_asked_for() -> None:
    asked = read_text("float[B,16,32] x", "y = Identity(x)")
    short, features = Index("i", poly(5), Axis.ROW), Index("f", poly(32))
    place = (of(BATCH), of(short), of(features))
    assert views.as_view(asked, "x", place) is None
    view = views.as_view(asked, "x", place, parts=True)
    assert view is not None and view.prefix == (1,)


def test_heads_of_keys_are_a_digit_of_the_heads() -> None:
    group = Apply("floordiv", (of(HEAD), poly(2)), lambda v: v, integer=True)
    (digits,) = views.digits_in((of(BATCH), of(group)))
    assert digits.whole == HEAD and digits.major.bound == 2 and digits.major.role is Axis.KEY_HEAD
    assert digits.minor.bound == 2
    assert views.joined((BATCH, digits.major, digits.minor), [digits]) == (BATCH, HEAD)
    assert views.joined((digits.minor, digits.major), [digits]) == (digits.minor, digits.major)
    assert views.digits_of(HEAD, poly(3)) is None, "4 heads in groups of 3"


def test_a_reshape_keeps_indices_whole() -> None:
    asked = read_text("float[B,S,32] x", "y = Identity(x)")
    view = View("x", ((BATCH,), (ROW,), (HEAD, FEATURE)))
    found = views.reshaped(asked, view, "r", (B, S, poly(4), poly(8)))
    assert found is not None and found.axes == ((BATCH,), (ROW,), (HEAD,), (FEATURE,))
    assert views.reshaped(asked, view, "r", (B, S, poly(8), poly(4))) is None, "a head in two halves"
    assert views.reshaped(asked, view, "r", (B, S, poly(4))) is None, "features are left over"


def test_the_nearest_clean_layout_and_the_factors_on_the_way() -> None:
    asked = read_text(
        "float[B,6,32] x",
        "r = Reshape(x, split)\n t = Transpose<perm=[0,2,1,3]>(r)\n m = Mul(t, half)\n y = Reshape(m, joined)",
        SHAPES,
    )
    row = Index("i", poly(6), Axis.ROW)
    wanted = (BATCH, HEAD, row, FEATURE)
    place = (of(BATCH) * 4 + of(HEAD), of(row), of(FEATURE))
    view = views.find_view(asked, "y", place, wanted)
    assert view is not None
    assert (view.tensor, view.indices, view.factor) == ("t", wanted, Fraction(1, 2))
    whole = views.find_view(asked, "y", place, wanted, factors=False)
    assert whole is not None and (whole.tensor, whole.factor) == ("m", 1), "it stops before the factor"
    only = views.find_view(asked, "y", place, wanted, lambda found: found.tensor == "y")
    assert only is not None and only.merged
    assert views.find_view(asked, "y", place, wanted, lambda found: False) is None


def test_features_beside_heads_are_seen_where_a_projection_makes_both() -> None:
    asked = read_text("float[B,S,32] x", "r = Reshape(x, split)\n y = Transpose<perm=[0,2,1,3]>(r)", SHAPES)
    place = tuple(of(index) for index in CANONICAL)
    assert views.beside(asked, "y", place, FEATURE) == {HEAD}
    assert views.beside(asked, "y", place, ROW) == set()
    assert views.origin(asked, "y", place) == (of(BATCH), of(ROW), of(HEAD) * 8 + of(FEATURE))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("y = Mul(x, half)", Fraction(1, 2)),
        ("y = Mul(half, x)", Fraction(1, 2)),
        ("y = Div(x, half)", 2),
        ("y = Div(half, x)", None),
        ("y = Add(x, half)", None),
        ("y = Mul(x, x)", None),
        ("y = Mul(x, wide)", None),
    ],
)
def test_a_factor_is_one_number_that_adds_no_axis(line: str, expected: Fraction | None) -> None:
    asked = read_text("float[B,S] x", line, f"{SHAPES}, float[1,1,1] wide = {{2.0}}")
    node = asked.scope.producer("y")
    assert node is not None
    found = views.scalar_factor(asked, node)
    assert found == (None if expected is None else ("x", expected))


def test_before_opset_13_a_softmax_is_over_all_the_last_axes() -> None:
    asked = read_text("float[B,4,S,1] x", "y = Softmax<axis=2>(x)")
    other = read_text("float[B,4,S,8] x", "y = Softmax<axis=2>(x)")
    for scope, version, axis in ((asked, 18, 2), (asked, 11, 2), (other, 18, 2), (other, 11, None)):
        node = scope.scope.producer("y")
        assert node is not None
        assert views.softmax_axis(scope, node, version) == axis
