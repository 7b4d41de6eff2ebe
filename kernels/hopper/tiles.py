"""Which blocks of keys a tile of the Hopper kernel needs, and in which order."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC, LOWEST, ROWS_PER_CONSUMER

FAR = gl.constexpr(-1e38)
"""An additive mask at or below this makes a weight of zero in the first pass: it has no value in log2 units."""
NEAR = gl.constexpr(-64.0)
"""A key whose additive mask is not above this is no place to look for the maximum of a row."""


LONGEST_BLOCK = gl.constexpr(256)
"""Keys; no block has more."""

SPAN = gl.constexpr(256)
"""Keys that are looked at at once."""


@gluon.jit
def _keys_from(start):
    return start + gl.arange(0, SPAN, layout=gl.BlockedLayout([1], [32], [1], [0]))


@gluon.jit
def _look(base, start, mask_column, s_kv, settings):
    """What the mask adds to SPAN keys: -inf where it hides and where there are none."""
    key = _keys_from(start)
    loaded = gl.load(base + key.to(gl.int64) * mask_column, mask=key < s_kv, other=0)
    if settings.ADDITIVE:
        added = gl.where(key < s_kv, loaded.to(gl.float32), float("-inf"))
    else:
        added = gl.where(loaded != 0, 0.0, float("-inf"))
    return added


@gluon.jit
def _first(added, start, floor, s_kv):
    """The first of the keys from ``start`` on whose mask is above ``floor``, or s_kv."""
    return gl.min(gl.where(added > floor, _keys_from(start), s_kv), 0)


@gluon.jit
def _end(added, start, floor):
    """The end of the keys from ``start`` on whose mask is above ``floor``, or 0."""
    return gl.max(gl.where(added > floor, _keys_from(start) + 1, 0), 0)


@gluon.jit
def visible_keys(base, mask_column, s_kv, within, settings):
    """Looks at both ends of a mask of one batch entry (or head).

    A boolean mask has one kind of visible key.  Of an additive one the first pass (``within``) leaves out what is
    at or below FAR at both ends; tiles whose rows have no other keys are done again, with all visible ones.

    Returns:
        The first visible key; the first and the end of those that this pass reads; the first and the end of those whose
        mask is near zero (``NEAR``).  If there are none, the first is s_kv and the end 0.
    """
    last = (s_kv - 1) // SPAN * SPAN
    # Both ends asked for at once.
    head = _look(base, gl.to_tensor(0), mask_column, s_kv, settings)
    tail = _look(base, last, mask_column, s_kv, settings)
    floor_near = float("-inf")
    floor_read = float("-inf")
    floor_seen = float("-inf")
    if settings.ADDITIVE:
        floor_near = NEAR
        floor_seen = LOWEST
        floor_read = gl.where(within, FAR, LOWEST)
    begin_near = _first(head, 0, floor_near, s_kv)
    begin = _first(head, 0, floor_read, s_kv)
    begin_seen = _first(head, 0, floor_seen, s_kv)
    start = gl.to_tensor(SPAN)
    while (start < s_kv) & (begin_near == s_kv):
        head = _look(base, start, mask_column, s_kv, settings)
        begin_near = _first(head, start, floor_near, s_kv)
        begin = gl.minimum(begin, _first(head, start, floor_read, s_kv))
        begin_seen = gl.minimum(begin_seen, _first(head, start, floor_seen, s_kv))
        start += SPAN
    end_near = _end(tail, last, floor_near)
    end = _end(tail, last, floor_read)
    start = last - SPAN
    while (start >= 0) & (end_near == 0):
        tail = _look(base, start, mask_column, s_kv, settings)
        end_near = _end(tail, start, floor_near)
        end = gl.maximum(end, _end(tail, start, floor_read))
        start -= SPAN
    if settings.ADDITIVE:
        none = begin_near == s_kv
        begin_near = gl.where(none, begin, begin_near)
        end_near = gl.where(none, end, end_near)
    return begin_seen, begin, end, begin_near, end_near


@gluon.jit
def keys_there(key_lengths, batch, lengths_batch, rows_first, s_kv):
    """Which keys a batch entry has (LENGTHS).

    Keys are counted so that row i is key ``i + s_kv - s_q``, as everywhere here.  If the last row is the last key, the
    keys of a batch are the last ones then, and the copies begin before them: where that is before the tensor, there
    are zeros.

    Returns:
        The first key and the end of the keys (if there are none, the first is s_kv and the end 0); and how many keys
        before the first one in memory key 0 is.
    """
    length = gl.load(key_lengths + batch.to(gl.int64) * lengths_batch)
    length = gl.minimum(gl.maximum(length, 0), s_kv).to(gl.int32)
    shift = gl.where(rows_first != 0, 0, s_kv - length)
    none = length == 0
    # Without keys the one block that comes is one of zeros: what lies in memory may be NaN.
    return gl.where(none, s_kv, shift), gl.where(none, 0, shift + length), gl.where(none, s_kv + LONGEST_BLOCK, shift)


@gluon.jit
def blocks_of(tile, begin, end, begin_near, end_near, begin_seen, empty_mean, sizes, settings):
    """Cuts the keys of a tile into blocks.

    The blocks that are compared key by key are those of the diagonal.  If all keys there are hidden, it is the nearest
    block with a visible key, so that rows find their maximum early.  With an additive mask that is one whose mask is
    near zero, and all between it and the diagonal are compared, too.

    Returns:
        FIRST, DIAGONAL_BLOCKS, TAIL, LEFT, RIGHT, EXTRA and SEEN_FROM as ``shared`` explains them.
    """
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    s_q = sizes.s_q
    s_kv = sizes.s_kv
    reference = tile * rows_per_tile + s_kv - s_q
    tail = gl.to_tensor(0)
    right = gl.to_tensor(0)
    extra = gl.to_tensor(0)
    seen_from = gl.to_tensor(0)
    last_row = gl.minimum(tile * rows_per_tile + rows_per_tile, s_q) + s_kv - s_q
    near = reference
    beyond = last_row
    if settings.FORM == FORM_LINEAR:
        near = gl.maximum(end - 1, 0)
        beyond = near + 1
    if settings.MASK:
        near = gl.maximum(gl.minimum(near, end_near - 1), 0)
        if settings.FORM == FORM_SYMMETRIC:
            near = gl.maximum(near, gl.minimum(begin_near, s_kv - 1))
        beyond = gl.maximum(gl.minimum(beyond, end), near + 1)
    first = near // BLOCK_N
    diagonal_blocks = gl.cdiv(beyond, BLOCK_N) - first
    left = first
    whole = s_kv // BLOCK_N
    if settings.MASK:
        left = gl.maximum(first - begin // BLOCK_N, 0)
        whole = gl.minimum(whole, gl.cdiv(end, BLOCK_N))
        empty = begin_seen == s_kv
        if settings.FORM == FORM_CAUSAL:
            empty = reference < begin_seen
            seen_from = begin_seen
        else:
            seen_from = gl.where(empty, s_kv, 0)
        extra = gl.where(empty & (empty_mean != 0), gl.cdiv(s_kv, BLOCK_N), 0)
    if settings.FORM == FORM_SYMMETRIC:
        last = s_kv // BLOCK_N
        crossed = first + diagonal_blocks
        tail = gl.where((last * BLOCK_N < end) & (last >= crossed), 1, 0)
        right = gl.maximum(whole - crossed, 0)
    return first, diagonal_blocks, tail, left, right, extra, seen_from


@gluon.jit
def shared_mean(tile, extra, seen_from, empty_mean, sizes, settings):
    """All rows before the first visible key yield the same mean, for which all values have to be read (causal, MASK).

    Of the tiles that have no other rows, the first one reads them, and its output goes to all of them.

    Returns:
        How many blocks this tile averages, and to how many tiles, from this one on, its output goes.
    """
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    without = gl.maximum(gl.minimum(seen_from - (sizes.s_kv - sizes.s_q), sizes.s_q), 0) // rows_per_tile
    shares = (empty_mean != 0) & (tile < without)
    copies = gl.where(shares, gl.where(tile == 0, without, 0), 1)
    return gl.where(copies == 0, 0, extra), copies


@gluon.jit
def block_at(j, first, diagonal_blocks, tail, left, right, s_kv, BLOCK_N: gl.constexpr):
    """The ``j``-th block in processing order."""
    edge = diagonal_blocks + tail
    block = first + j
    block = gl.where(j >= diagonal_blocks, s_kv // BLOCK_N, block)
    block = gl.where(j >= edge, first - 1 - (j - edge), block)
    block = gl.where(j >= edge + left, first + diagonal_blocks + (j - edge - left), block)
    return gl.where(j >= edge + left + right, j - edge - left - right, block)
