"""Which tiles the programs of the Hopper kernel are dealt: its own functions, computed with plain numbers."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("triton")

from alibi_rewriter.kernels.hopper import order
from alibi_rewriter.kernels.hopper.shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC
from on_numbers import on_numbers

GRID = SimpleNamespace(programs=1, rank=0)
"""The launch, as the functions see it."""

PLAIN = SimpleNamespace(
    maximum=max, minimum=min, cdiv=lambda a, b: -(-a // b), to_tensor=lambda x: x,
    where=lambda which, a, b: a if which else b, num_programs=lambda _: GRID.programs, program_id=lambda _: GRID.rank,
    cast=lambda number, _: number, int32=None, int64=None,
)  # fmt: skip

FIELDS = ("tiles", "size", "bundles", "rounds", "deals", "per_tile")
OF_ORDER = on_numbers(order, PLAIN, Order=lambda *values: SimpleNamespace(**dict(zip(FIELDS, values, strict=True))))


def dealt(programs: int, tiles: int, sizes: Any, settings: Any) -> list[list[tuple[int, int]]]:
    """For every program the tiles of its first pass, with batch entry and head."""
    GRID.programs = programs
    found = []
    for rank in range(programs):
        GRID.rank = rank
        how = OF_ORDER["order_of"](tiles, sizes, settings)
        mine, done = [], 0
        for deal in range(how.deals):
            done, more, pair, tile, wanted = OF_ORDER["dealt_tile"](done, deal, 0, how, None, sizes, settings)
            assert more
            if wanted:
                mine.append((pair, tile))
        assert done == len(mine)
        found.append(mine)
    return found


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1))
@example(2**31 - 1, 1)
@example(2**31 - 1, 2**31 - 1)
@example(0, 1)
def test_a_quotient_by_an_inverse_is_exact(number: int, divisor: int) -> None:
    inverse = OF_ORDER["inverse_of"](divisor)
    assert number * inverse < 2**63
    short = SimpleNamespace(TERMS=True)
    for each in (number, number // divisor * divisor, max(number // divisor * divisor - 1, 0)):
        assert OF_ORDER["quotient"](each, divisor, inverse, short) == each // divisor


@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", [FORM_LINEAR.value, FORM_CAUSAL.value, FORM_SYMMETRIC.value])
def test_every_tile_is_dealt_once_and_evenly(form: int, masked: bool, terms: bool) -> None:
    dice = random.Random(3 * form + masked)
    several = 0
    for _ in range(60):
        group = dice.choice([1, 1, 4])
        batch, heads, tiles = dice.randint(1, 9), group * dice.randint(1, 12), dice.randint(1, 20)
        s_kv = 128 * tiles + dice.randint(0, 64) * 128
        programs = dice.choice([1, 7, 66, 132, batch * heads * tiles])
        programs = min(programs, batch * heads * tiles)
        settings = SimpleNamespace(
            FORM=form, MASK=masked, MASK_ROWS=False, SKIP=False, FIXED_MAX=True, D=64, V=64,
            BUNDLE_MIB=dice.choice([1, 16]), TERMS=terms,
        )  # fmt: skip
        sizes = SimpleNamespace(batch=batch, heads=heads, group=group, s_q=128 * tiles, s_kv=s_kv)
        found = dealt(programs, tiles, sizes, settings)
        everything = sorted(each for mine in found for each in mine)
        assert everything == [(pair, tile) for pair in range(batch * heads) for tile in range(tiles)]
        several += max(map(len, found)) > 3
        if form != FORM_CAUSAL.value:
            assert max(map(len, found)) == -(-len(everything) // programs)
    assert several > 20
