"""How long the long sequences of a verification are."""

from __future__ import annotations

import math

import pytest
from alibi_rewriter.verify.inputs.lengths import long_length


@pytest.mark.parametrize(
    ("slopes", "longest", "fitting", "length"),
    [
        ([0.5, 0.0625], 256, None, 64),  # 4 / 0.0625 is 64 already
        ([0.5, -0.02], 256, None, 200),
        ([0.5, 0.001], 256, None, 256),
        ([0.5, 0.0], 256, None, 64),
        ([], 256, None, 256),
        ([math.inf, math.nan], 256, None, 256),
        ([5e-324], 256, None, 256),  # whose length is infinite
        ([0.001], 256, 100, 100),
        ([0.001], 256, 3, 64),
        ([0.001], 8, 100, 8),
        ([0.001], 0, None, 1),
    ],
)
def test_a_length_at_which_the_smallest_slope_matters(
    slopes: list[float], longest: int, fitting: int | None, length: int
) -> None:
    assert long_length(slopes, longest, fitting=fitting) == length
