"""Conditions as windows, and roundings of a bias, without a model around them."""

from __future__ import annotations

from functools import partial

import pytest
from alibi_rewriter.algebra import (
    Apply,
    Cond,
    Index,
    Poly,
    Read,
    Size,
    absolute,
    less,
    less_equal,
    nonzero,
    of,
    poly,
)
from alibi_rewriter.fused.family import LARGEST_WINDOW, UNBOUNDED
from alibi_rewriter.patterns.layouts import Axis
from alibi_rewriter.rewriter.interpret.rounding import rounded
from alibi_rewriter.rewriter.prove.rounded import take_rounded, unrounded
from alibi_rewriter.rewriter.prove.windows import take_windows
from alibi_rewriter.rewriter.records.reading import Frame
from interpreted import read_text
from onnx import TensorProto

S = of(Size("S"))
BATCH, HEAD = Index("b", of(Size("B")), Axis.BATCH), Index("h", poly(4), Axis.HEAD)
ROW, KEY = Index("i", S, Axis.ROW), Index("j", S, Axis.KEY)
FRAME = Frame(BATCH, HEAD, ROW, KEY)
DISTANCE: Poly = of(KEY) - of(ROW)


def window(*conditions: Cond, causal: bool = False) -> tuple[int, int, int]:
    """(keys before the row, keys after it, how many conditions are not a window)."""
    asked = read_text("float[B,S] x", "y = Neg(x)")
    found, rest = take_windows(asked, conditions, DISTANCE, causal=causal)
    return found.left, found.right, len(rest)


@pytest.mark.parametrize(
    ("condition", "left", "right"),
    [
        (less_equal(-DISTANCE, poly(3)), 3, UNBOUNDED),
        (less(-DISTANCE, poly(3)), 2, UNBOUNDED),
        (less_equal(DISTANCE, poly(5)), UNBOUNDED, 5),
        (less(DISTANCE, poly(5)), UNBOUNDED, 4),
        (less_equal(absolute(DISTANCE), poly(7)), 7, 7),
        (less_equal(-DISTANCE * 2, poly(7)), 3, UNBOUNDED),
        (less_equal(-DISTANCE, poly(0)), 0, UNBOUNDED),
    ],
)
def test_bounds_on_the_distance_are_windows(condition: Cond, left: int, right: int) -> None:
    assert window(condition) == (left, right, 0)


@pytest.mark.parametrize(
    "condition",
    [
        less_equal(-DISTANCE, S),  # a width that only run time knows
        less_equal(-DISTANCE, poly(-1)),  # without the row's own key
        less_equal(-DISTANCE, poly(LARGEST_WINDOW + 1)),
        less_equal(of(KEY), poly(3)),  # no distance
        less_equal(of(KEY) - of(ROW) * 2, poly(3)),
        nonzero(of(Read("m", (of(KEY),)))),
    ],
)
def test_other_conditions_stay(condition: Cond) -> None:
    assert window(condition) == (UNBOUNDED, UNBOUNDED, 1)


def test_the_narrowest_of_several_bounds_decides() -> None:
    both = (less_equal(-DISTANCE, poly(3)), less_equal(-DISTANCE, poly(9)), less_equal(DISTANCE, poly(1)))
    assert window(*both) == (3, 1, 0)
    assert window(*both, causal=True) == (3, UNBOUNDED, 0), "later keys are hidden anyway"


def narrow(value: Poly) -> Poly:
    return of(Apply("round_bfloat16", (value,), partial(rounded, TensorProto.BFLOAT16)))


def test_what_is_rounded_by_key_is_kept_and_known_unrounded() -> None:
    slope = of(Read("slopes", (of(HEAD),)))
    by_key, by_row, plain = narrow(of(KEY) * slope), narrow(of(ROW) * slope), of(KEY) * slope
    kept, before = take_rounded(FRAME, by_key + plain)
    assert (kept, before) == (by_key, of(KEY) * slope)
    assert take_rounded(FRAME, by_row) == (poly(0), poly(0)), "a vector by key does not hold it"
    assert take_rounded(FRAME, narrow(slope) * of(KEY)) == (poly(0), poly(0)), "a slope may be rounded"
    assert unrounded(narrow(narrow(of(KEY)) * slope)) == of(KEY) * slope
