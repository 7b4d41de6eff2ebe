"""The judge of two outputs, without a model: what is compared, where, and beside which magnitude."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter.verify.inputs.draw import InputSet
from alibi_rewriter.verify.inputs.influence import moved
from alibi_rewriter.verify.judge.compare import (
    RELATIVE_LIMIT,
    OutputAxes,
    compare,
    find_layouts,
    out_of_scope,
    valid_elements,
)

NOWHERE = OutputAxes(None, None)
USUAL = OutputAxes(0, 1)


def inputs(batch: int, new: int, *kept: np.ndarray, padded_too: bool = False) -> InputSet:
    return InputSet("drawn", {}, batch, new, kept, padded_too=padded_too)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ([(2, 7, 8), (3, 5, 8)], OutputAxes(0, 1)),
        ([(7, 2, 8), (5, 3, 8)], OutputAxes(1, 0)),
        ([(2, 4, 7, 8), (3, 4, 5, 8)], OutputAxes(0, 2)),
        ([(2, 7, 4, 8), (3, 5, 4, 8)], OutputAxes(0, 1)),
        ([(2, 8), (3, 8)], NOWHERE),
        ([(2, 7, 8), (3, 7, 8)], NOWHERE),  # 7 tokens by chance, in one of the sets
    ],
)
def test_axes_follow_the_inputs_through_all_sets(shapes: list[tuple[int, ...]], wanted: OutputAxes) -> None:
    sets = [inputs(2, 7), inputs(3, 5)]
    assert find_layouts(sets, [{"y": ones(*s)} for s in shapes]) == {"y": wanted}


def test_padded_tokens_are_left_out() -> None:
    kept = np.array([[True, True, True], [True, False, False]])
    chosen, said = valid_elements("y", ones(2, 3, 4), inputs(2, 3, kept), USUAL)
    assert said == "kept tokens"
    np.testing.assert_array_equal(chosen[:, :, 0], kept)
    turned, _ = valid_elements("y", ones(3, 2, 4), inputs(2, 3, kept), OutputAxes(1, 0))
    np.testing.assert_array_equal(turned[:, :, 0], kept.T)
    cached, _ = valid_elements("y", ones(2, 2, 4), inputs(2, 2, kept), USUAL)
    np.testing.assert_array_equal(cached[:, :, 0], kept[:, 1:], "new tokens are the last ones")


def test_padded_tokens_are_compared_where_the_proofs_say_so() -> None:
    kept = np.array([[True, False]])
    everything, said = valid_elements("y", ones(1, 2, 4), inputs(1, 2, kept, padded_too=True), USUAL)
    assert said == "all" and everything.all()
    nothing, said = valid_elements("y", ones(1, 4), inputs(1, 2, kept), NOWHERE)
    assert said.startswith("nothing") and not nothing.any()


def test_a_difference_is_beside_the_largest_magnitude() -> None:
    original = ones(1, 2, 3)
    original[0, 0, 0] = 100
    other = original.copy()
    other[0, 1, 2] += 1e-3
    (error,) = compare(inputs(1, 2), {"y": original}, {"y": other}, {"y": USUAL})
    assert error.limit == pytest.approx(100 * RELATIVE_LIMIT) and error.passed
    assert error.place == (0, 1, 2) and error.compared == 6
    assert error.max_rel == pytest.approx(1e-5, rel=0.01)
    other[0, 1, 2] += 1e-2
    (error,) = compare(inputs(1, 2), {"y": original}, {"y": other}, {"y": USUAL})
    assert not error.passed
    (error,) = compare(inputs(1, 2), {"y": original}, {"y": other}, {"y": USUAL}, {"y": 0.02})
    assert error.passed, "with what rounding allows"


def test_rows_that_are_no_numbers_are_left_out_and_infinities_are_not() -> None:
    original = ones(1, 3, 2)
    original[0, 0] = np.nan
    original[0, 1, 0] = -np.inf
    (error,) = compare(inputs(1, 3), {"y": original}, {"y": original.copy()}, {"y": USUAL})
    assert (error.nan_rows, error.left_out, error.compared, error.max_abs) == (1, 2, 4, 0.0)
    other = original.copy()
    other[0, 1, 0] = 0
    (error,) = compare(inputs(1, 3), {"y": original}, {"y": other}, {"y": USUAL})
    assert error.max_abs == np.inf and not error.passed
    other = original.copy()
    other[0, 2, 1] = np.nan
    (error,) = compare(inputs(1, 3), {"y": original}, {"y": other}, {"y": USUAL})
    assert not error.passed, "a new NaN is no match"


@pytest.mark.parametrize("other", [{}, {"y": ones(1, 2, 4)}])
def test_an_output_that_is_not_there_does_not_pass(other: dict[str, np.ndarray]) -> None:
    (error,) = compare(inputs(1, 2), {"y": ones(1, 2, 3)}, other, {"y": USUAL})
    assert not error.passed and "no such output" in error.scope


def test_what_is_left_out_is_said_once() -> None:
    kept = np.array([[True, False]])
    sets = [inputs(1, 2, kept), inputs(1, 2, kept)]
    outputs = [{"y": ones(1, 2, 3), "n": np.ones((1, 2), np.int64)}] * 2
    errors = [e for one, values in zip(sets, outputs, strict=True) for e in compare(one, values, values, {"y": USUAL})]
    said = out_of_scope(sets, outputs, errors)
    assert len(said) == 2 and "padded tokens" in said[0] and "'n': of type int64" in said[1]


def test_influence_is_more_than_rounding() -> None:
    before = np.full((2, 3), 1000.0)
    after = before.copy()
    after[1] += 0.01
    assert not moved(before, after, np.s_[1])
    after[1] += 1
    assert moved(before, after, np.s_[1]) and not moved(before, after, np.s_[0])
    after[0, 0] = np.nan
    assert not moved(before, after, np.s_[0]), "no number says nothing"
