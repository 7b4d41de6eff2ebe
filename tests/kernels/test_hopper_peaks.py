"""Where the row maxima of the Hopper kernel start: its own functions, computed with NumPy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("triton")

from alibi_rewriter.kernels.hopper import peaks
from alibi_rewriter.kernels.hopper.shared import FORM_CAUSAL, FORM_SYMMETRIC
from on_numbers import keys, on_numbers

ROWS = 128
"""Of a tile."""

PLAIN = SimpleNamespace(
    maximum=np.maximum, abs=abs, float32=None,
    where=lambda which, a, b: keys(np.where(which, a, b)),
)  # fmt: skip

OF_PEAKS = on_numbers(peaks, PLAIN)


@pytest.mark.parametrize("form", [FORM_CAUSAL.value, FORM_SYMMETRIC.value])
def test_rows_that_start_above_their_scores_weigh_enough(form: int) -> None:
    """The first block alone makes them heavier than 2^-CREST, whatever the scores are: it is below LEAST_TOTAL."""
    dice = np.random.default_rng(0)
    above = 0
    for _ in range(2000):
        block = int(dice.choice([64, 128]))
        keys_there = int(dice.integers(1, 2000))
        reference = int(dice.integers(0, keys_there))
        start = int(dice.integers(0, keys_there)) // block * block
        slope = float(dice.choice([0.0, 0.01, 0.3, 0.8, 2.0]))
        line = SimpleNamespace(reference=keys(reference), slope=slope)
        settings = SimpleNamespace(BLOCK_N=block, CONSUMERS=2, FORM=form)
        me = SimpleNamespace(settings=settings, sizes=SimpleNamespace(s_kv=keys_there))
        room = float(OF_PEAKS["_room"](keys(start), line, me))
        if room == peaks.LEAST_ROOM.value:
            continue
        above += 1
        rows = np.arange(reference, min(reference + ROWS, keys_there))[:, None]
        columns = np.arange(start, start + block)[None, :]
        assert columns.max() < keys_there
        assert form == FORM_SYMMETRIC.value or columns.max() <= rows.min()
        raw = dice.normal(scale=float(dice.choice([1.0, 30.0])), size=(len(rows), block))
        scores = raw - slope * np.abs(rows - columns)
        half = raw[:, : block // 2].max(1)
        assert (scores.max(1) - (half + room) >= -peaks.CREST.value - 1e-6).all()
    assert above > 300
