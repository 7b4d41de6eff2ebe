"""Where the row maxima of a tile start in the Hopper kernel, by the scores of its first block."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .shared import FORM_CAUSAL, FORM_SYMMETRIC, ROWS_PER_CONSUMER

DEPTH = gl.constexpr(88.0)
"""By how many powers of two maxima that are lifted may start below the raw scores of the first block."""
CREST = gl.constexpr(80.0)
"""How many powers of two above the raw scores of its first block a row may start, if it sees all keys of that.

It cannot weigh less than 2^-CREST then (LEAST_TOTAL is less), and later scores may be CREST + 90 above the first ones.
"""
LEAST_ROOM = gl.constexpr(16.0)
"""How many they are where the bias within the block takes more away, or the row may not see its largest score.

Such a row may weigh too little.  It seldom does: later scores are above the first ones more often than far below them.
"""


@gluon.jit
def larger_of_twins(numbers):
    """The larger of the numbers of rows r and r + 8, for both.  They are in one thread, which then keeps one number."""
    both = gl.max(numbers.reshape([ROWS_PER_CONSUMER // 16, 2, 8]), 1)
    spread = gl.expand_dims(both, 1) + gl.zeros_like(numbers.reshape([ROWS_PER_CONSUMER // 16, 2, 8]))
    return gl.convert_layout(spread.reshape([ROWS_PER_CONSUMER]), numbers.type.layout)


@gluon.jit
def _smaller_of_twins(numbers):
    return -larger_of_twins(-numbers)


@gluon.jit
def _largest_of_half(products, like):
    """The largest product of each row in half of a block; as ``like``."""
    half: gl.constexpr = products.shape[1] // 2
    nearer, _ = gl.split(products.reshape([ROWS_PER_CONSUMER, 2, half]).permute((0, 2, 1)))
    return gl.convert_layout(gl.max(nearer, 1), like.type.layout)


@gluon.constexpr_function
def _starts_below_raw(settings, FIXED_MAX):
    plain = not (settings.MASK or settings.MASK_ROWS or settings.POSITIONS)
    return FIXED_MAX and settings.LIFTS and plain and settings.FORM == FORM_CAUSAL


@gluon.jit
def _room(start, line, me):
    """By how much rows start above the raw scores of the block from key ``start`` on: CREST, less its largest bias.

    Where the diagonal crosses the block, a row's largest score may be one that it does not see: LEAST_ROOM.
    """
    settings = me.settings
    last_row = line.reference + ROWS_PER_CONSUMER * settings.CONSUMERS - 1
    distance = last_row - start
    whole = start + settings.BLOCK_N <= line.reference + 1
    if settings.FORM == FORM_SYMMETRIC:
        distance = gl.maximum(distance, start + settings.BLOCK_N - 1 - line.reference)
        whole = start + settings.BLOCK_N <= me.sizes.s_kv
    room = gl.maximum(CREST - gl.abs(line.slope) * distance.to(gl.float32), LEAST_ROOM)
    return gl.where(whole, room, LEAST_ROOM)


@gluon.jit
def first_peaks(products, start, line, reach, left, me):
    """Where the row maxima start: (those of the crossed blocks, what is left of them, what is right of them).

    With MAX_FROM_RAW_SCORES the largest score in half of the first block, without its bias, stands for the largest of
    all with it.  As much is added as is safe or nearly so (:func:`_room`): far scores may exceed those of one block.
    With ROW_TWINS rows r and r + 8 have one number left of the diagonal and one right of it.  Their maxima differ by
    the bias between them, in opposite directions.  So the output changes its scale between the sides (``crossing`` in
    ``consumer``).

    Args:
        products: The first block's, [64, BLOCK_N].
        start: Its first key.
        line: The tile's bias.
        reach: The bias of the nearest visible key by row (MASK).
        left: How many blocks lie left of the crossed ones.
        me: The consumer.
    """
    settings = me.settings
    FIXED_MAX: gl.constexpr = me.FIXED_MAX
    shift = line.shift
    peak = gl.full_like(shift, float("-inf"))
    if FIXED_MAX and settings.MAX_FROM_RAW_SCORES:
        if (settings.MASK or settings.MASK_ROWS) and not settings.TERMS:
            # Hidden keys do not count; they may fill a half of the block, or, if all are hidden, the whole.
            peak = gl.max(products, 1) * me.scale
        else:
            peak = _largest_of_half(products, shift) * me.scale
        room = _room(start, line, me)
        if settings.MASK or settings.MASK_ROWS:
            # Nothing is known of a row that sees none of these keys.
            peak = gl.where(peak == float("-inf"), 0.0, peak + room)
        else:
            peak += room
        if settings.FORM == FORM_SYMMETRIC:
            # Distances are subtracted: a tile whose slope is negative is left to the second pass.
            peak = gl.where(line.slope < 0.0, float("nan"), peak)
        else:
            peak += shift
        if settings.MASK:
            peak -= reach
        if settings.ROW_TWINS:
            peak = _smaller_of_twins(peak)
    elif _starts_below_raw(settings, FIXED_MAX):
        # The first rows may see few keys of this block.  One far below those that they do not see cannot be lifted at
        # once by as much as the next blocks may ask for.
        peak = gl.where(left > 0, _largest_of_half(products, shift) * me.scale + shift - reach - DEPTH, peak)
    before = peak
    behind = peak
    if FIXED_MAX and settings.MAX_FROM_RAW_SCORES and settings.ROW_TWINS and settings.FORM == FORM_SYMMETRIC:
        middle = larger_of_twins(shift)
        before = peak + middle
        behind = peak - middle
        peak = before - shift
    return peak, before, behind
