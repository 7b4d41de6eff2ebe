"""Which blocks the Hopper kernel takes of masks with rows: its own functions, computed with plain numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

from alibi_rewriter.kernels.hopper import entries, rows, tiles
from alibi_rewriter.kernels.hopper.shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC
from alibi_rewriter.kernels.portable.blocks import FAINT, NEEDED, SAID, TOP
from on_numbers import Pointer, keys, load, new_entry, on_numbers

ROWS = 128
"""Of a tile."""
SEEN = NEEDED.value | FAINT.value
"""In the code of a block of which a row sees a key, in one of the passes."""

PLAIN = SimpleNamespace(
    maximum=max, minimum=min, cdiv=lambda a, b: -(-a // b), to_tensor=lambda x: x, load=lambda pointer, **of: (
        load(pointer, **of) if of else keys(pointer.memory[pointer.at])
    ),
    where=lambda which, a, b: keys(np.where(which, a, b)) if np.ndim(which) else a if which else b,
    arange=lambda a, b, layout: keys(np.arange(a, b)), BlockedLayout=lambda *_: None, int32=None,
    max=lambda x, _: int(x.max()), min=lambda x, _: int(x.min()), sum=lambda x, _: int(x.sum()),
)  # fmt: skip

OF_ROWS, OF_TILES = (on_numbers(module, PLAIN) for module in (rows, tiles))
OF_ENTRIES = on_numbers(entries, PLAIN, Entry=new_entry)
OF_ROWS["_highest_bit"] = lambda bits: bits.bit_length() - 1


def with_tops(codes: Any, dice: np.random.Generator) -> Any:
    """Codes of blocks and, where a row sees a key, how many of the first rows do not."""
    return codes | np.where(codes & SEEN, dice.integers(0, ROWS, len(codes)), ROWS) * TOP.value


def taken(form: int, block_n: int, tile: int, s_q: int, s_kv: int, codes: Any, within: bool, mean: bool) -> Any:
    """The blocks of a tile in order, which of their masks are read, and how the tile is cut."""
    settings = SimpleNamespace(
        BLOCK_N=block_n, CONSUMERS=2, FORM=form, MASK=False, MASK_ROWS=True, POSITIONS=False, ADDITIVE=True
    )
    sizes = SimpleNamespace(s_q=s_q, s_kv=s_kv)
    first, diagonal, tail, left, right, _, _ = OF_TILES["blocks_of"](
        tile, OF_ENTRIES["no_entry"](s_kv), 0.0, 0, sizes, settings
    )
    cut = (first, left, right)
    where = Pointer(codes)
    wanted = OF_ROWS["wanted_of"](within, settings)
    first, left, right, edges, top = OF_ROWS["count_needed"](
        where, wanted, first, diagonal, tail, left, right, sizes, settings
    )
    reach = codes[: first + diagonal] if form == FORM_CAUSAL.value else codes
    assert top == min(ROWS, (reach // TOP.value).min(initial=ROWS)) or form == FORM_LINEAR.value
    keyed = diagonal + tail + left + right
    word, bits, masks = 0, 0, 0
    blocks, read = [], []
    for j in range(keyed + (-(-s_kv // block_n) if mean else 0)):
        block, reads, word, bits, masks = OF_ROWS["next_block"](
            j, first, diagonal, tail, left, right, where, wanted, edges, word, bits, masks, sizes, block_n
        )
        blocks.append(int(block))
        read.append(bool(reads))
    return blocks, read, keyed, diagonal + tail, first, first + diagonal, cut


@pytest.mark.parametrize("form", [FORM_LINEAR.value, FORM_CAUSAL.value, FORM_SYMMETRIC.value])
def test_needed_blocks_are_taken_once_the_nearest_first(form: int) -> None:
    dice = np.random.default_rng(form)
    skipped = 0
    for _ in range(150):
        block_n = int(dice.choice([64, 128]))
        s_kv = int(dice.choice([dice.integers(1, 700), dice.integers(1, 60 * block_n), 170 * block_n]))
        s_q = int(dice.integers(1, s_kv + 1))
        count = -(-s_kv // block_n)
        codes = with_tops(dice.integers(0, 8, count) * (dice.random(count) < dice.choice([0.05, 0.5, 1.0])), dice)
        within, mean = bool(dice.random() < 0.7), bool(dice.random() < 0.5)
        tile = int(dice.integers(0, -(-s_q // ROWS)))
        blocks, read, keyed, edges, first, crossed, cut = taken(form, block_n, tile, s_q, s_kv, codes, within, mean)
        needed = {b for b in range(count) if codes[b] & (NEEDED.value if within else SEEN)}
        far = blocks[edges:keyed]
        left, right = [b for b in far if b < first], [b for b in far if b >= crossed]
        assert far == left + right and left == sorted(left, reverse=True) and right == sorted(right)
        assert len(set(blocks[:keyed])) == keyed
        # Of what the form reads, all that is needed is taken, and of what lies away from the diagonal nothing else.
        reads = set(blocks[:edges]) | set(range(first)) | set(range(crossed, crossed + cut[2]))
        assert needed & reads <= set(blocks[:keyed])
        assert set(far) <= needed
        assert read[:keyed] == [bool(codes[b] & SAID.value) for b in blocks[:keyed]]
        assert not any(read[keyed:])
        assert blocks[keyed:] == (list(range(count)) if mean else [])
        if form == FORM_LINEAR.value and needed:
            assert blocks[0] == max(needed)
        skipped += len(reads) - keyed
    assert skipped > 1000


def test_far_blocks_are_seen_whole_but_for_the_mask() -> None:
    dice = np.random.default_rng(7)
    for _ in range(300):
        block_n, s_kv = 64, int(dice.integers(1, 2000))
        s_q = int(dice.integers(1, s_kv + 1))
        form = int(dice.choice([FORM_CAUSAL.value, FORM_SYMMETRIC.value]))
        codes = with_tops(dice.integers(0, 8, -(-s_kv // block_n)), dice)
        tile = int(dice.integers(0, -(-s_q // ROWS)))
        blocks, _, keyed, edges, *_ = taken(form, block_n, tile, s_q, s_kv, codes, True, False)
        top = tile * ROWS + s_kv - s_q
        below = min(top + ROWS, s_kv)
        for block in blocks[edges:keyed]:
            before = (block + 1) * block_n <= top + 1
            assert before or (form == FORM_SYMMETRIC.value and block * block_n >= below - 1)
            assert (block + 1) * block_n <= s_kv


def test_one_tile_yields_the_mean_for_all_that_see_no_key() -> None:
    dice = np.random.default_rng(3)
    settings = SimpleNamespace(BLOCK_N=64, CONSUMERS=2, FORM=FORM_CAUSAL.value)
    shared, alone = 0, 0
    for _ in range(200):
        tiles, blocks = int(dice.integers(1, 9)), int(dice.choice([3, 40, 300]))
        sizes = SimpleNamespace(s_q=(tiles - 1) * ROWS + int(dice.integers(1, ROWS + 1)), s_kv=64 * blocks - 5)
        width = -(-blocks // 4) * 4
        codes = np.full((tiles, width), 77)  # beyond the last block anything may be
        codes[:, :blocks] = SAID.value | ROWS * TOP.value
        sees = dice.random(tiles) < 0.4
        for tile in np.flatnonzero(sees):
            codes[tile, int(dice.integers(blocks))] = int(dice.choice([NEEDED.value, FAINT.value]))
        covered = []
        for tile in range(tiles):
            where = Pointer(codes.ravel(), tile * width)
            copies = OF_ROWS["copies_of"](where, 5 if sees[tile] else ROWS, tile, sizes, settings)
            if sees[tile]:
                assert copies == 1
            elif copies:
                assert not sees[tile : tile + copies].any() and (tile == 0 or sees[tile - 1])
                shared += copies > 1
                alone += copies == 1
            covered += range(tile, tile + copies)
        assert covered == list(range(tiles)), "every tile is written by one"
    assert shared > 100 and alone > 100


@pytest.mark.parametrize("form", [FORM_LINEAR.value, FORM_CAUSAL.value, FORM_SYMMETRIC.value])
def test_rows_that_surely_see_a_key_need_no_mean(form: int) -> None:
    dice = np.random.default_rng(form)
    settings = SimpleNamespace(BLOCK_N=64, CONSUMERS=2, FORM=form)
    found = {True: 0, False: 0}
    for _ in range(200):
        blocks = int(dice.choice([3, 40, 300]))
        first = int(dice.integers(blocks))
        codes = dice.choice([SAID.value, SAID.value | NEEDED.value, SAID.value | FAINT.value], blocks)
        codes = with_tops(codes, dice)
        codes[int(dice.integers(blocks))] = NEEDED.value
        sure = OF_ROWS["all_see"](Pointer(codes), first, SimpleNamespace(s_kv=64 * blocks), settings)
        # In the causal form the first rows do not reach the keys right of the block in which they are keys themselves.
        reach = codes[: first + 1] if form == FORM_CAUSAL.value else codes
        assert sure == bool((reach == NEEDED.value).any())
        found[bool(sure)] += 1
    assert found[True] > 50 and (found[False] > 50 or form != FORM_CAUSAL.value)
