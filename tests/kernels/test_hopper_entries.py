"""What the scout of the Hopper kernel finds in masks: its own functions, computed with NumPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

from alibi_rewriter.kernels.hopper import entries
from on_numbers import ENTRY, Pointer, keys, load, new_entry, on_numbers

LOWEST = float(np.finfo(np.float32).min)


PLAIN = SimpleNamespace(
    maximum=max, minimum=min, arange=lambda a, b, layout: keys(np.arange(a, b)), to_tensor=lambda x: x, load=load,
    where=lambda which, a, b: keys(np.where(which, a, b)) if np.ndim(which) else a if which else b,
    min=lambda x, _: int(x.min()), max=lambda x, _: int(x.max()), BlockedLayout=lambda *_: None, int64=None,
    float32=None, static_assert=lambda _: None,
)  # fmt: skip


NAMES = on_numbers(entries, PLAIN, Entry=new_entry)
visible_keys, find_plain = NAMES["_visible_keys"], NAMES["find_plain"]


def mask_of(rng: np.random.Generator, additive: bool) -> Any:
    """A mask of some keys: padding at either end or both, now and then with holes, soft parts, or nothing visible."""
    s_kv = int(rng.integers(1, 700))
    shown = np.ones(s_kv, bool)
    begin, end = sorted(rng.integers(0, s_kv + 1, 2))
    kind = rng.integers(6)
    shown[: begin if kind in (1, 3) else 0] = False
    shown[end if kind in (2, 3) else s_kv :] = False
    if kind == 4:
        shown &= rng.random(s_kv) > 0.02
    if kind == 5:
        shown[:] = False
    if not additive:
        return shown
    mask = np.where(shown, 0.0, rng.choice([-np.inf, LOWEST, -1e38, -3e4]))
    if rng.integers(3) == 0:
        at = rng.integers(0, s_kv, 3)
        mask[at] += rng.choice([-5.0, -70.0, 2.0, np.nan], 3)
    return mask.astype(np.float32)


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("column", [1, 3])
@pytest.mark.parametrize("block", [64, 128])
def test_what_is_called_plain_is(additive: bool, column: int, block: int) -> None:
    rng = np.random.default_rng(block + column + additive)
    settings = SimpleNamespace(BLOCK_N=block, ADDITIVE=additive, LENGTHS=False)
    found = 0
    for _ in range(100):
        mask = mask_of(rng, additive)
        s_kv = mask.size
        memory = np.zeros(s_kv * column, mask.dtype)
        memory[::column] = mask
        says = ~mask if not additive else ~(mask == 0)
        entry = SimpleNamespace(**dict.fromkeys(ENTRY, 0))
        blocks = rng.permutation(-(-s_kv // block)) if rng.integers(2) else np.arange(-(-s_kv // block))
        for start in (int(number) * block for number in blocks):
            entry, said = find_plain(entry, start, Pointer(memory), column, s_kv, settings)
            assert said or not says[start : start + block].any()
            assert not says[entry.plain_from : entry.plain_to].any() and entry.plain_to <= s_kv
            if not said:
                assert entry.plain_from <= start and min(start + block, s_kv) <= entry.plain_to
                found += 1
        if not says.any() and (blocks == np.arange(blocks.size)).all():
            assert (entry.plain_from, entry.plain_to) == (0, s_kv)
    assert found > 60


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("first_pass", [False, True])
def test_the_ends_of_a_mask(additive: bool, first_pass: bool) -> None:
    rng = np.random.default_rng(2 * additive + first_pass)
    settings = SimpleNamespace(ADDITIVE=additive)

    def ends(shown: Any) -> tuple[int, int]:
        at = np.flatnonzero(shown)
        return (int(at[0]), int(at[-1]) + 1) if at.size else (shown.size, 0)

    for _ in range(300):
        mask = mask_of(rng, additive)
        found = visible_keys(Pointer(mask), 1, mask.size, settings, first_pass)
        if additive:
            read = ends(mask > (entries.FAR.value if first_pass else LOWEST))
            near = ends(mask > entries.NEAR.value)
            near = near if near[1] else read
            seen = ends(mask > LOWEST)[0]
        else:
            read = near = ends(mask)
            seen = read[0]
        assert found == (seen, *read, *near)
