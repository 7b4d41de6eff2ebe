"""Which blocks of keys a tile of the Hopper kernel needs, and in which order."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC, ROWS_PER_CONSUMER

LONG = gl.constexpr(512)
"""How many keys left of the diagonal make a causal tile long (``_starts_left``)."""


@gluon.constexpr_function
def may_start_left(settings):
    """Whether causal tiles may start with the block left of their nearest keys (``_starts_left``).

    It costs nothing or less where nothing else differs by key, and up to 4 % with positions, or masks at D <= 64.
    """
    slower = settings.POSITIONS or (settings.MASK and settings.D <= 64)
    return settings.FORM == FORM_CAUSAL and not (settings.MASK_ROWS or slower)


@gluon.constexpr_function
def _flat(settings):
    """By how many powers of two the bias may differ between the rows of a tile for it to count as flat.

    Maxima that are lifted would have to be lifted at once if it were more.
    """
    return 28.0 if settings.LIFTS else 64.0


@gluon.jit
def _starts_left(near, slope, entry, settings):
    """Whether a causal tile starts with the block left of its nearest keys, because its bias says little.

    All rows see the whole of that block.  Its scores tell more of what is to come than those of the few keys that the
    first rows see where the diagonal crosses a block.  Where the bias is steep, the nearest keys are those that count.
    """
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    return (near - entry.begin >= LONG) & (gl.abs(slope) * rows_per_tile <= _flat(settings))


@gluon.jit
def blocks_of(tile, entry, slope, empty_mean, sizes, settings):
    """Cuts the keys of a tile into blocks.

    The blocks that are compared key by key are those of the diagonal.  If all keys there are hidden, it is the nearest
    block with a visible key, so that rows find their maximum early.  With an additive mask it is one whose mask is near
    zero, if it lies left of the diagonal, and all between it and the diagonal are compared, too.  To the right it is
    the first block that is read: the bias of those before it is that of keys left of all rows.  Long causal tiles whose
    bias is flat start one block further left (``_starts_left``).

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
        near = gl.maximum(entry.end - 1, 0)
        beyond = near + 1
    if settings.MASK:
        near = gl.maximum(gl.minimum(near, entry.end_near - 1), 0)
        if settings.FORM == FORM_SYMMETRIC:
            near = gl.maximum(near, gl.minimum(entry.begin, s_kv - 1))
        if settings.FORM == FORM_CAUSAL:
            # Keys before the first visible one are not read, if a row sees any.
            near = gl.where(entry.begin < last_row, gl.maximum(near, entry.begin), near)
        beyond = gl.maximum(gl.minimum(beyond, entry.end), near + 1)
    if may_start_left(settings):
        near -= gl.where(_starts_left(near, slope, entry, settings), BLOCK_N, 0)
    first = near // BLOCK_N
    diagonal_blocks = gl.cdiv(beyond, BLOCK_N) - first
    left = first
    whole = s_kv // BLOCK_N
    if settings.MASK:
        left = gl.maximum(first - entry.begin // BLOCK_N, 0)
        whole = gl.minimum(whole, gl.cdiv(entry.end, BLOCK_N))
        empty = entry.begin_seen == s_kv
        if settings.FORM == FORM_CAUSAL:
            empty = reference < entry.begin_seen
            seen_from = entry.begin_seen
        else:
            seen_from = gl.where(empty, s_kv, 0)
        extra = gl.where(empty & (empty_mean != 0), gl.cdiv(s_kv, BLOCK_N), 0)
    if settings.FORM == FORM_SYMMETRIC:
        last = s_kv // BLOCK_N
        crossed = first + diagonal_blocks
        tail = gl.where((last * BLOCK_N < entry.end) & (last >= crossed), 1, 0)
        right = gl.maximum(whole - crossed, 0)
    return first, diagonal_blocks, tail, left, right, extra, seen_from


@gluon.jit
def usual_start(tile, sizes, settings):
    """The block that a tile starts with if nothing hides the keys there."""
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    near = tile * rows_per_tile + sizes.s_kv - sizes.s_q
    if settings.FORM == FORM_LINEAR:
        near = sizes.s_kv - 1
    return near // settings.BLOCK_N


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
