"""Which blocks the Hopper kernel takes of masks with rows: its own functions, computed with plain numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

from alibi_rewriter.kernels.hopper import entries, rows, tiles
from alibi_rewriter.kernels.hopper.shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC
from on_numbers import Pointer, keys, load, new_entry, on_numbers

ROWS = 128
"""Of a tile."""

PLAIN = SimpleNamespace(
    maximum=max, minimum=min, cdiv=lambda a, b: -(-a // b), to_tensor=lambda x: x, load=lambda pointer, **of: (
        load(pointer, **of) if of else keys(pointer.memory[pointer.at])
    ),
    where=lambda which, a, b: keys(np.where(which, a, b)) if np.ndim(which) else a if which else b,
    arange=lambda a, b, layout: keys(np.arange(a, b)), BlockedLayout=lambda *_: None, int32=None,
    max=lambda x, _: int(x.max()), sum=lambda x, _: int(x.sum()),
)  # fmt: skip

OF_ROWS, OF_TILES = (on_numbers(module, PLAIN) for module in (rows, tiles))
OF_ENTRIES = on_numbers(entries, PLAIN, Entry=new_entry)
OF_ROWS["_highest_bit"] = lambda bits: bits.bit_length() - 1


def taken(form: int, block_n: int, tile: int, s_q: int, s_kv: int, codes: Any, every: bool, mean: bool) -> Any:
    """The blocks of a tile in order, which of their masks are read, and how the tile is cut."""
    settings = SimpleNamespace(BLOCK_N=block_n, CONSUMERS=2, FORM=form, MASK=False)
    sizes = SimpleNamespace(s_q=s_q, s_kv=s_kv)
    first, diagonal, tail, left, right, _, _ = OF_TILES["blocks_of"](
        tile, OF_ENTRIES["no_entry"](s_kv), 0, sizes, settings
    )
    cut = (first, left, right)
    where = Pointer(codes)
    first, left, right = OF_ROWS["count_needed"](where, every, first, diagonal, left, right, sizes, settings)
    keyed = diagonal + tail + left + right
    word, bits, masks = 0, 0, 0
    blocks, read = [], []
    for j in range(keyed + (-(-s_kv // block_n) if mean else 0)):
        block, reads, word, bits, masks = OF_ROWS["next_block"](
            j, first, diagonal, tail, left, right, where, every, word, bits, masks, sizes, block_n
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
        codes = dice.integers(0, 4, count) * (dice.random(count) < dice.choice([0.05, 0.5, 1.0]))
        every, mean = bool(dice.random() < 0.3), bool(dice.random() < 0.5)
        tile = int(dice.integers(0, -(-s_q // ROWS)))
        blocks, read, keyed, edges, first, crossed, cut = taken(form, block_n, tile, s_q, s_kv, codes, every, mean)
        needed = {b for b in range(count) if every or codes[b] & 1}
        far = blocks[edges:keyed]
        left, right = [b for b in far if b < first], [b for b in far if b >= crossed]
        assert far == left + right and left == sorted(left, reverse=True) and right == sorted(right)
        assert len(set(blocks[:keyed])) == keyed
        # Of what the form reads, all that is needed is taken, and of what lies away from the diagonal nothing else.
        reads = set(blocks[:edges]) | set(range(first)) | set(range(crossed, crossed + cut[2]))
        assert needed & reads <= set(blocks[:keyed])
        assert set(far) <= needed
        assert read == [bool(codes[b] >> 1) for b in blocks]
        assert blocks[keyed:] == (list(range(count)) if mean else [])
        if form == FORM_LINEAR.value and needed and not every:
            assert blocks[0] == max(needed)
        skipped += len(reads) - keyed
    assert skipped > 1000


def test_far_blocks_are_seen_whole_but_for_the_mask() -> None:
    dice = np.random.default_rng(7)
    for _ in range(300):
        block_n, s_kv = 64, int(dice.integers(1, 2000))
        s_q = int(dice.integers(1, s_kv + 1))
        form = int(dice.choice([FORM_CAUSAL.value, FORM_SYMMETRIC.value]))
        codes = dice.integers(0, 4, -(-s_kv // block_n))
        tile = int(dice.integers(0, -(-s_q // ROWS)))
        blocks, _, keyed, edges, *_ = taken(form, block_n, tile, s_q, s_kv, codes, False, False)
        top = tile * ROWS + s_kv - s_q
        below = min(top + ROWS, s_kv)
        for block in blocks[edges:keyed]:
            before = (block + 1) * block_n <= top + 1
            assert before or (form == FORM_SYMMETRIC.value and block * block_n >= below - 1)
            assert (block + 1) * block_n <= s_kv
