"""Which blocks the Hopper kernel takes of batches of every length: its own functions, computed with plain numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

from alibi_rewriter.kernels.hopper import entries, tiles
from alibi_rewriter.kernels.hopper.shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC
from on_numbers import on_numbers

ROWS = 128
"""Of a tile."""


class Number(int):
    """A number with the one method that the functions ask of a tensor."""

    def to(self, _: object) -> Number:
        return self


PLAIN = SimpleNamespace(
    maximum=max, minimum=lambda a, b: Number(min(a, b)), where=lambda which, a, b: a if which else b,
    cdiv=lambda a, b: -(-a // b), to_tensor=lambda x: x, load=lambda x: x, int32=None, int64=None, abs=abs,
)  # fmt: skip


OF_TILES, OF_ENTRIES = (on_numbers(module, PLAIN) for module in (tiles, entries))
blocks_of, block_at, keys_there = OF_TILES["blocks_of"], OF_TILES["block_at"], OF_ENTRIES["keys_there"]


def settings_of(form: int, block: int, lifts: bool) -> SimpleNamespace:
    return SimpleNamespace(
        BLOCK_N=block, CONSUMERS=2, FORM=form, MASK=True, MASK_ROWS=False, POSITIONS=False, LIFTS=lifts, D=128
    )


@dataclass(frozen=True)
class Tile:
    """A tile of rows of a batch, and the blocks that it takes."""

    form: int
    block: int
    first_row: int
    rows: int
    keys: int
    capacity: int
    aligned_first: bool
    begin: int
    end: int
    shift: int
    near: int
    crossed: tuple[int, ...]
    far: tuple[int, ...]
    seen_from: int
    extra: int
    slope: float

    @property
    def key_of_row(self) -> range:
        """The keys of its rows, as the kernel counts them."""
        offset = self.capacity - self.rows
        return range(self.first_row + offset, min(self.first_row + ROWS, self.rows) + offset)

    def visible(self, row: int) -> range:
        """The keys that a row sees, counted so."""
        return range(self.begin, min(self.end, row + 1) if self.form == FORM_CAUSAL.value else self.end)


def tiles_of(seed: int, count: int) -> Iterator[Tile]:
    draw = random.Random(seed)
    for _ in range(count):
        form = draw.choice([FORM_LINEAR, FORM_CAUSAL, FORM_SYMMETRIC]).value
        block, rows, first = draw.choice([64, 128]), draw.randint(1, 600), draw.random() < 0.5
        capacity = rows if first else rows + draw.choice([0, draw.randint(0, 800)])
        keys = draw.choice([0, 1, capacity, draw.randint(0, capacity), min(capacity, draw.randint(1, 130))])
        settings = settings_of(form, block, draw.random() < 0.5)
        sizes = SimpleNamespace(s_q=rows, s_kv=capacity)
        slope = draw.choice([0.0, 0.001, 0.3, 2.0, -0.001, -2.0])
        # A pointer that is the number itself, and the first of all batches.
        begin, end, shift = keys_there(Number(keys), Number(0), 0, first, capacity)
        entry = SimpleNamespace(begin_seen=begin, begin=begin, end=end, begin_near=begin, end_near=end)
        mean = draw.randint(0, 1) if end else 0
        for tile in range(-(-rows // ROWS)):
            near, diagonal, tail, left, right, extra, seen_from = blocks_of(tile, entry, slope, mean, sizes, settings)
            count_of = diagonal + tail + left + right
            taken = [block_at(j, near, diagonal, tail, left, right, capacity, block) for j in range(count_of)]
            edge = diagonal + tail
            yield Tile(
                form, block, tile * ROWS, rows, keys, capacity, first, begin, end, shift, near, tuple(taken[:edge]),
                tuple(taken[edge:]), seen_from, extra, slope,
            )  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> list[Tile]:
    return list(tiles_of(0, 4000))


def test_every_key_that_a_row_sees_is_in_one_block(drawn: list[Tile]) -> None:
    for tile in drawn:
        taken = [*tile.crossed, *tile.far]
        assert len(set(taken)) == len(taken), tile
        for row in tile.key_of_row:
            seen = tile.visible(row)
            if seen:
                needed = range(seen[0] // tile.block, seen[-1] // tile.block + 1)
                assert set(needed) <= set(taken), tile


def test_blocks_that_are_not_compared_key_by_key_are_seen_whole(drawn: list[Tile]) -> None:
    """But for keys that are not there, which the terms of the block hide."""
    for tile in drawn:
        for number in tile.far:
            first, last = number * tile.block, number * tile.block + tile.block - 1
            assert last < tile.capacity
            if tile.form != FORM_LINEAR.value:
                after = tile.form == FORM_SYMMETRIC.value and first >= tile.key_of_row[0] + ROWS - 1
                assert last <= tile.key_of_row[0] or after, tile


def test_nothing_is_read_that_no_row_needs(drawn: list[Tile]) -> None:
    """No block behind the keys; before them only where the rows themselves lie before them."""
    for tile in drawn:
        if tile.keys and tile.key_of_row[-1] >= tile.begin:
            for number in (*tile.crossed, *tile.far):
                assert number * tile.block < tile.end, tile
            for number in tile.far if tile.form == FORM_LINEAR.value else (*tile.crossed, *tile.far):
                assert (number + 1) * tile.block > tile.begin, tile


def test_rows_that_see_keys_see_one_in_the_first_block(drawn: list[Tile]) -> None:
    """There the first pass looks for their maximum."""
    found = 0
    for tile in drawn:
        if tile.form == FORM_CAUSAL.value:
            first = range(tile.crossed[0] * tile.block, (tile.crossed[0] + 1) * tile.block)
            for row in tile.key_of_row:
                seen = tile.visible(row)
                assert not seen or (seen[0] < first.stop and seen[-1] >= first.start), tile
            found += tile.key_of_row[0] < tile.begin <= tile.key_of_row[-1]
    assert found > 100


def test_long_flat_tiles_start_with_a_block_that_all_rows_see_whole(drawn: list[Tile]) -> None:
    """Their maxima start where it says; steep tiles and short ones start with their nearest keys."""
    moved = 0
    for tile in drawn:
        if tile.form == FORM_CAUSAL.value and tile.begin + 512 <= tile.key_of_row[0] < tile.end:
            starts = tile.crossed[0] * tile.block
            if abs(tile.slope) < 0.01:
                assert tile.begin <= starts and starts + tile.block <= tile.key_of_row[0] + 1, tile
                moved += 1
            elif abs(tile.slope) > 1:
                assert starts <= tile.key_of_row[0] < starts + tile.block, tile
    assert moved > 50


def test_soft_masks_leave_out_no_key_and_compare_what_is_not_seen_whole() -> None:
    """Additive masks: keys near zero are some of those that are read."""
    dice = random.Random(1)
    for _ in range(1500):
        form = dice.choice([FORM_CAUSAL, FORM_SYMMETRIC]).value
        block, keys = dice.choice([64, 128]), dice.randint(1, 900)
        rows = dice.randint(1, keys)
        ends = sorted(dice.randint(0, keys) for _ in range(4))
        begin, begin_near, end_near, end = ends if ends[1] < ends[2] else (ends[0], ends[0], ends[3], ends[3])
        if begin == end:
            begin, end, begin_near, end_near = keys, 0, keys, 0
        entry = SimpleNamespace(begin_seen=0, begin=begin, end=end, begin_near=begin_near, end_near=end_near)
        settings, slope = settings_of(form, block, dice.random() < 0.5), dice.choice([0.0, 0.1, 2.0])
        for tile in range(-(-rows // ROWS)):
            cut = blocks_of(tile, entry, slope, 0, SimpleNamespace(s_q=rows, s_kv=keys), settings)
            _, diagonal, tail, left, right, _, _ = cut
            taken = [block_at(j, *cut[:5], keys, block) for j in range(diagonal + tail + left + right)]
            assert len(set(taken)) == len(taken)
            top = tile * ROWS + keys - rows
            below = min(top + ROWS, keys)
            for row in range(top, below):
                last = min(end, row + 1) if form == FORM_CAUSAL.value else end
                if begin < last:
                    assert set(range(begin // block, (last - 1) // block + 1)) <= set(taken)
            for number in taken[diagonal + tail :]:
                seen_whole = (number + 1) * block <= top + 1
                assert seen_whole or (form == FORM_SYMMETRIC.value and number * block >= below - 1)


def test_the_blocks_lie_in_memory_where_the_keys_are(drawn: list[Tile]) -> None:
    """Row i is key i + keys - rows, or key i; and a batch without keys gets a block of zeros."""
    for tile in drawn:
        if tile.keys == 0:
            assert all(n * tile.block + tile.block - tile.shift <= 0 for n in (*tile.crossed, *tile.far)), tile
            assert tile.extra == 0 and (tile.form == FORM_CAUSAL.value or tile.seen_from == tile.capacity)
            continue
        assert (tile.begin - tile.shift, tile.end - tile.shift) == (0, tile.keys)
        row = tile.key_of_row[0] - tile.shift
        assert row == tile.first_row + (0 if tile.aligned_first else tile.keys - tile.rows)


def test_rows_without_keys_are_told_to_the_consumers(drawn: list[Tile]) -> None:
    empty = 0
    for tile in drawn:
        if tile.form != FORM_CAUSAL.value:
            continue
        for row in tile.key_of_row:
            assert (row < tile.seen_from) == (not tile.visible(row)), tile
            empty += not tile.visible(row)
    assert empty > 100


@pytest.mark.parametrize("empty_mean", [0, 1])
def test_every_tile_is_written_once_and_a_shared_mean_is_that_of_its_rows(empty_mean: int) -> None:
    shared = OF_TILES["shared_mean"]
    settings = SimpleNamespace(CONSUMERS=2, FORM=FORM_CAUSAL)
    dice = random.Random(0)
    many = 0
    for _ in range(400):
        s_kv = dice.randint(1, 1500)
        s_q = dice.randint(1, s_kv)
        seen_from = dice.choice((0, dice.randint(0, s_kv), s_kv))
        sizes = SimpleNamespace(s_q=s_q, s_kv=s_kv)
        written: list[int] = []
        for tile in range(-(-s_q // ROWS)):
            last = min(tile * ROWS + ROWS, s_q) - 1 + s_kv - s_q
            extra, copies = shared(tile, 7, seen_from, empty_mean, sizes, settings)
            places = range(tile, tile + copies)
            written += places
            assert extra == (7 if copies else 0)
            if len(places) != 1 or places[0] != tile:
                # Only rows that see no key are written for one another, or left to another tile.
                assert empty_mean and last < seen_from
                assert all(min(at * ROWS + ROWS, s_q) - 1 + s_kv - s_q < seen_from for at in places)
            many = max(many, copies)
        assert sorted(written) == list(range(-(-s_q // ROWS)))
    assert (many > 3) == bool(empty_mean)
