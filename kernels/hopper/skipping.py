"""Certified skipping in the Hopper kernel: which far blocks of keys a tile needs, once its near ones are weighed.

The consumers tell how much their rows weigh so far and how long their queries are; the producer, or the scout, compares
that with the norms of the keys (docs/kernels.md, "Skipping").
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .shared import FORM_CAUSAL, FORM_SYMMETRIC, LOG2E, ROWS_PER_CONSUMER, release

AHEAD = gl.constexpr(3)
"""Far blocks that every tile takes: they keep the consumers busy while the certificate is made."""
BITS = gl.constexpr(14)
NORM_KEYS = gl.constexpr(64)


@gluon.jit
def _margin(slope, groups, settings):
    """By how many powers of two a group of keys has to be lighter than the row (docs/kernels.md, "Skipping")."""
    share = -gl.log2(1.0 - gl.exp2(-slope))
    if settings.POSITIONS:
        share = 6.0
    return (BITS + 1) + gl.log2(groups.to(gl.float32)) + share


@gluon.jit
def worth_a_try(slope, s_kv, settings):
    """Whether the bias of the farthest key reaches the margin at all; ``slope`` in powers of two per key."""
    return (slope > 0.0) & (slope * s_kv.to(gl.float32) > _margin(slope, gl.cdiv(s_kv, NORM_KEYS), settings))


@gluon.jit
def weigh_rows(sums, peak, query, line, me):
    """Tells how much this warpgroup's rows weigh so far, and how long their queries are (SKIP).

    The least logarithm of a row's weight relative to a score of zero on its own key (with positions: on that of the
    tile's last row), and the largest square of a norm; the producer, or the scout, turns them into a certificate.
    """
    settings = me.settings
    total = gl.convert_layout(gl.max(sums, 1), peak.type.layout)
    weight = gl.log2(total) + peak
    if settings.FORM == FORM_CAUSAL and not settings.POSITIONS:
        weight -= line.shift
    weight = gl.where(line.row_as_key < me.sizes.s_kv, weight, float("inf"))
    BY_COLUMNS: gl.constexpr = gl.BlockedLayout([1, 8], [256 // settings.D, settings.D // 8], [4, 1], [1, 0])
    wide = query.load(BY_COLUMNS).to(gl.float32)
    square = gl.max(gl.sum(wide * wide, 1), 0)
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    me.shared.bounds.index(2 * me.WHO).store(gl.full([1], gl.min(weight, 0), gl.float32, LAYOUT))
    me.shared.bounds.index(2 * me.WHO + 1).store(gl.full([1], square, gl.float32, LAYOUT))
    release(me.shared.weighed)


@gluon.jit
def needed_blocks(
    shared, key_norms, key_terms, batch, head, kv_head, tile, first, diagonal_blocks, left, right, slope, own, end,
    shift, scale_natural, sizes, settings,
):  # fmt: skip
    """How many blocks left and right of the diagonal are needed, at least those that are on their way already.

    ``own`` is the position of the tile's last row (POSITIONS).  ``end`` is the end of the keys, and ``shift`` how many
    of them come before the first one in memory (LENGTHS).
    """
    VECTOR: gl.constexpr = (settings.MASK and not settings.LENGTHS) or settings.POSITIONS
    SCAN: gl.constexpr = 128
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    LAYOUT: gl.constexpr = gl.BlockedLayout([4], [32], [1], [0])
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    least = gl.max(shared.bounds.index(0).load(ONE), 0)
    square = gl.max(shared.bounds.index(1).load(ONE), 0)
    for i in gl.static_range(1, settings.CONSUMERS):
        least = gl.minimum(least, gl.max(shared.bounds.index(2 * i).load(ONE), 0))
        square = gl.maximum(square, gl.max(shared.bounds.index(2 * i + 1).load(ONE), 0))
    groups = gl.cdiv(sizes.s_kv, NORM_KEYS)
    # The factor and the terms below cover the rounding of norms, products (at most 256 terms in float32), weights
    # (to the type, before they are added up) and bias.
    longest = gl.sqrt(square) * gl.abs(scale_natural) * (LOG2E * 1.001)
    threshold = least - _margin(slope, groups, settings)
    threshold = threshold - 0.02 - 1e-6 * gl.abs(threshold)
    offset = sizes.s_kv - sizes.s_q
    first_row = tile * rows_per_tile + offset
    last_row = gl.minimum(tile * rows_per_tile + rows_per_tile, sizes.s_q) - 1 + offset
    if VECTOR:
        terms = key_terms + (batch.to(gl.int64) * sizes.heads + head) * groups
    norms = key_norms + (batch.to(gl.int64) * (sizes.heads // sizes.group) + kv_head) * groups
    lowest = groups
    highest = gl.to_tensor(0)
    lane = gl.arange(0, SCAN, layout=LAYOUT)
    start = gl.to_tensor(0)
    there = groups
    stop = gl.minimum((first + diagonal_blocks) * (BLOCK_N // NORM_KEYS), groups)
    if settings.LENGTHS:
        # Groups are counted from the first key in memory.
        there = gl.cdiv(gl.maximum(end - shift, 0), NORM_KEYS)
        stop = gl.minimum(gl.cdiv((first + diagonal_blocks) * BLOCK_N - shift, NORM_KEYS), there)
    if settings.FORM == FORM_SYMMETRIC:
        stop = there
    while start < stop:
        group = start + lane
        norm = gl.load(norms + group, mask=group < groups, other=0.0)
        key = group * NORM_KEYS
        if settings.LENGTHS:
            key += shift
        nearest = gl.maximum(first_row - (key + (NORM_KEYS - 1)), key - last_row)
        most = longest * norm
        if not settings.POSITIONS:
            most -= slope * nearest.to(gl.float32) * 0.99999
        if VECTOR:
            term = gl.load(terms + group, mask=group < groups, other=0.0)
            # Its rounding.
            most += gl.maximum(term * 0.999999, term * 1.000001)
        if settings.POSITIONS:
            most -= slope * own * gl.where(own < 0.0, 1.000001, 0.999999)
        # Written so that a NaN anywhere keeps the group.
        light = most < threshold
        needed = gl.where(light & (nearest > 0), 0, 1) * gl.where(group < there, 1, 0)
        lowest = gl.minimum(lowest, gl.min(gl.where(needed != 0, group, groups), 0))
        highest = gl.maximum(highest, gl.max(needed * (group + 1), 0))
        start += SCAN
    sent = gl.minimum(left, AHEAD)
    lowest_key = lowest * NORM_KEYS
    highest_key = highest * NORM_KEYS
    if settings.LENGTHS:
        lowest_key += shift
        highest_key += shift
    wanted = first - gl.minimum(lowest_key // BLOCK_N, first)
    fewer_left = gl.minimum(gl.maximum(wanted, sent), left)
    fewer_right = right
    if settings.FORM == FORM_SYMMETRIC:
        beyond = gl.cdiv(highest_key, BLOCK_N) - (first + diagonal_blocks)
        fewer_right = gl.minimum(gl.maximum(beyond, gl.minimum(right, AHEAD - sent)), right)
    return fewer_left, fewer_right
