"""Tiles and blocks of the Hopper kernel: which tile a program takes, and which blocks of keys that tile needs."""

# Compile-time parameters are in capitals, as is the custom in Triton.  Kernels are compiled, never called as
# Python: Triton's language has no types to check them with.
# ruff: noqa: N803, N806
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .hopper_shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC, ROWS


@gluon.jit
def order(tiles, sizes, settings):
    """How the tiles go round: (pairs of batch and head in a bundle, bundles, rounds of a bundle)."""
    pairs = sizes.batch * sizes.heads
    size = pairs
    bundles = gl.to_tensor(1)
    if settings.FORM == FORM_CAUSAL:
        width: gl.constexpr = (settings.D + settings.V) * 2
        fitting = gl.maximum((settings.BUNDLE_MIB * 1048576) // (sizes.s_kv * width) * sizes.group, 1)
        size = gl.cdiv(pairs, gl.cdiv(pairs, fitting))
        bundles = gl.cdiv(pairs, size)
    return size, bundles, gl.cdiv(size * tiles, gl.num_programs(0))


@gluon.jit
def tile_of(number, index, size, tiles, sizes, settings):
    """The ``index``-th tile of a bundle: (row tile, pair); the row is -1 if there is none.

    Keys and values are read from memory once if the programs that need them run at about the same time.  Where
    all tiles cost the same, those of a pair follow each other.  Causal tiles do not: there the pairs go in bundles
    whose keys and values fit the L2 cache, and within a bundle the rows with the most keys come first.
    """
    if settings.FORM == FORM_CAUSAL:
        count = gl.minimum(size, sizes.batch * sizes.heads - number * size)
        row = tiles - 1 - index // count
        pair = number * size + index % count
    else:
        count = size
        row = index % tiles
        pair = index // tiles
    return gl.where(index < count * tiles, row, -1), pair


@gluon.jit
def place_of(number, round_, size, tiles, settings):
    """Which tile of a bundle this program takes in a round, if costs are known beforehand.

    Every other round, and every other bundle, is dealt backwards, which evens out what a program gets; what an
    incomplete round leaves out wanders with the bundles.
    """
    programs = gl.num_programs(0)
    place = gl.program_id(0)
    if settings.FORM == FORM_CAUSAL:
        place = (place + programs - (number // 2) * (size * tiles % programs) % programs) % programs
        if (number + round_) % 2 == 1:
            place = programs - 1 - place
    return round_ * programs + place


@gluon.jit
def visible_keys(mask, batch, mask_batch, mask_column, s_kv):
    """The first visible key (s_kv if there is none) and the end of the visible ones (then 0)."""
    SPAN: gl.constexpr = 512
    LAYOUT: gl.constexpr = gl.BlockedLayout([16], [32], [1], [0])
    lane = gl.arange(0, SPAN, layout=LAYOUT)
    base = mask + batch.to(gl.int64) * mask_batch
    begin = s_kv
    start = gl.to_tensor(0)
    while (start < s_kv) & (begin == s_kv):
        key = start + lane
        keep = gl.load(base + key.to(gl.int64) * mask_column, mask=key < s_kv, other=0)
        begin = gl.min(gl.where(keep != 0, key, s_kv), 0)
        start += SPAN
    end = gl.to_tensor(0)
    start = (s_kv - 1) // SPAN * SPAN
    while (start >= 0) & (end == 0):
        key = start + lane
        keep = gl.load(base + key.to(gl.int64) * mask_column, mask=key < s_kv, other=0)
        end = gl.max(gl.where(keep != 0, key + 1, 0), 0)
        start -= SPAN
    return begin, end


@gluon.jit
def blocks_of(tile, begin, end, empty_mean, sizes, settings):
    """Cuts the keys of a tile into blocks: first, crossings, tail, left, right, extra, seen_from (see NOTES).

    The blocks that are compared key by key are those of the diagonal; if all keys there are hidden, the
    nearest block with a visible key is, so that rows find their maximum early.
    """
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    rows: gl.constexpr = ROWS * settings.CONSUMERS
    s_q = sizes.s_q
    s_kv = sizes.s_kv
    reference = tile * rows + s_kv - s_q
    tail = gl.to_tensor(0)
    right = gl.to_tensor(0)
    extra = gl.to_tensor(0)
    seen_from = gl.to_tensor(0)
    last_row = gl.minimum(tile * rows + rows, s_q) + s_kv - s_q
    near = reference
    beyond = last_row
    if settings.FORM == FORM_LINEAR:
        near = gl.maximum(end - 1, 0)
        beyond = near + 1
    if settings.MASK:
        near = gl.maximum(gl.minimum(near, end - 1), 0)
        if settings.FORM == FORM_SYMMETRIC:
            near = gl.maximum(near, gl.minimum(begin, s_kv - 1))
        beyond = gl.maximum(gl.minimum(beyond, end), near + 1)
    first = near // BLOCK_N
    crossings = gl.cdiv(beyond, BLOCK_N) - first
    left = first
    whole = s_kv // BLOCK_N
    if settings.MASK:
        left = gl.maximum(first - begin // BLOCK_N, 0)
        whole = gl.minimum(whole, gl.cdiv(end, BLOCK_N))
        empty = begin == s_kv
        if settings.FORM == FORM_CAUSAL:
            empty = reference < begin
            seen_from = begin
        else:
            seen_from = gl.where(empty, s_kv, 0)
        extra = gl.where(empty & (empty_mean != 0), gl.cdiv(s_kv, BLOCK_N), 0)
    if settings.FORM == FORM_SYMMETRIC:
        last = s_kv // BLOCK_N
        crossed = first + crossings
        tail = gl.where((last * BLOCK_N < end) & (last >= crossed), 1, 0)
        right = gl.maximum(whole - crossed, 0)
    return first, crossings, tail, left, right, extra, seen_from


@gluon.jit
def block_at(j, first, crossings, tail, left, right, s_kv, BLOCK_N: gl.constexpr):
    """The ``j``-th block in processing order."""
    edge = crossings + tail
    number = first + j
    number = gl.where(j >= crossings, s_kv // BLOCK_N, number)
    number = gl.where(j >= edge, first - 1 - (j - edge), number)
    number = gl.where(j >= edge + left, first + crossings + (j - edge - left), number)
    return gl.where(j >= edge + left + right, j - edge - left - right, number)
