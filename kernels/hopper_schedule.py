"""The producer of the Hopper kernel: notes about the tiles to come, and all copies."""

# Compile-time parameters are in capitals, as is the custom in Triton.  Kernels are compiled, never called as
# Python: Triton's language has no types to check them with.
# ruff: noqa: N806, SIM102
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .hopper_shared import (
    BATCH,
    BEGIN,
    CROSSINGS,
    END,
    EXTRA,
    FIRST,
    FORM_SYMMETRIC,
    HEAD,
    LEFT,
    LOG2E,
    RIGHT,
    ROWS,
    SEEN_FROM,
    SLOPE,
    SURE,
    TAIL,
    TILE,
    in_doubt,
    judge,
    note,
    phase_of,
    set_up_barriers,
    stage_of,
)  # fmt: skip
from .hopper_skipping import AHEAD, needed_blocks, worth_a_try
from .hopper_tiles import block_at, blocks_of, order, place_of, tile_of, visible_keys


@gluon.jit
def _key_vector(
    mask, key_positions, batch, mask_batch, mask_column, positions_batch, start, kind, slope, own, s_kv, settings,
):  # fmt: skip
    """What a key adds to its scores, [BLOCK_N]: its bias relative to the block or the tile, -inf if it is hidden.

    ``kind``: 1 left of the diagonal, -1 right of it, 0 where the diagonal's block adds the bias itself.
    """
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    LAYOUT: gl.constexpr = gl.BlockedLayout([BLOCK_N // 32], [32], [1], [0])
    lane = gl.arange(0, BLOCK_N, layout=LAYOUT)
    key = start + lane
    inside = key < s_kv
    if settings.POSITIONS:
        at = key_positions + batch.to(gl.int64) * positions_batch + key
        vector = slope * (gl.load(at, mask=inside, other=0.0) - own)
    else:
        vector = (slope * kind.to(gl.float32)) * lane.to(gl.float32)
    if settings.MASK:
        at = mask + batch.to(gl.int64) * mask_batch + key.to(gl.int64) * mask_column
        keep = gl.load(at, mask=inside, other=0)
        vector = gl.where(keep != 0, vector, float("-inf"))
    return vector


@gluon.jit
def produce(
    shared, sizes, query_map, key_map, value_map, slopes, key_norms, ticket, previous, mask, key_positions, mask_batch,
    mask_column, positions_batch, scale_natural, empty_mean, settings,
):  # fmt: skip
    """The producer warp: all copies, in the order in which the consumers need them."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    QUERIES: gl.constexpr = settings.QUERIES
    rows: gl.constexpr = ROWS * settings.CONSUMERS
    VECTOR: gl.constexpr = settings.MASK or settings.POSITIONS
    set_up_barriers(shared, settings, settings.CONSUMERS)
    step = gl.to_tensor(0)
    served = gl.to_tensor(0)
    certified = gl.to_tensor(0)
    tiles = gl.cdiv(sizes.s_q, rows)
    size, bundles, rounds = order(tiles, sizes, settings)
    s_kv = sizes.s_kv
    passes = gl.to_tensor(1)
    number_of_pass = gl.to_tensor(0)
    begin = gl.to_tensor(0)
    end = s_kv
    scanned = gl.to_tensor(-1)
    turn = gl.to_tensor(0)
    # With SKIP costs are not known beforehand: programs draw tickets for tiles, in the same order.
    drawn = gl.to_tensor(-1)
    coming = gl.to_tensor(0)
    if settings.SKIP:
        coming = gl.atomic_add(ticket, 1)
    mbarrier.wait(shared.ready, 0)
    while number_of_pass < passes:
        if not settings.SKIP:
            turn = gl.to_tensor(0)
        place = gl.to_tensor(0)
        more = gl.to_tensor(True)
        while more:
            if settings.SKIP:
                if number_of_pass == 0:
                    number = coming // (size * tiles)
                    row, pair = tile_of(number, coming - number * size * tiles, size, tiles, sizes, settings)
                    exists = coming < tiles * sizes.batch * sizes.heads
                    more = exists
                    if exists:
                        gl.store(previous + coming, drawn)
                        drawn = coming
                        turn += 1
                    taken = exists
                else:
                    # Back along the tickets that this program had.
                    more = drawn >= 0
                    number = drawn // (size * tiles)
                    row, pair = tile_of(number, drawn - number * size * tiles, size, tiles, sizes, settings)
                    taken = more
                    if more:
                        turn -= 1
                        drawn = gl.load(previous + drawn)
                        if settings.STEADY:
                            taken = in_doubt(shared, turn, settings)
            else:
                number = place // rounds
                index = place_of(number, place - number * rounds, size, tiles, settings)
                row, pair = tile_of(number, index, size, tiles, sizes, settings)
                more = place < bundles * rounds
                exists = more & (row >= 0)
                taken = exists
                if settings.STEADY:
                    if exists & (number_of_pass == 1):
                        taken = in_doubt(shared, turn, settings)
                turn += gl.where(exists, 1, 0)
                place += 1
            if taken:
                batch = pair // sizes.heads
                head = pair - batch * sizes.heads
                kv_head = head // sizes.group
                slope = gl.load(slopes + head) * LOG2E
                if settings.MASK:
                    if batch != scanned:
                        begin, end = visible_keys(mask, batch, mask_batch, mask_column, s_kv)
                        scanned = batch
                first, crossings, tail, left, right, extra, seen_from = blocks_of(
                    row, begin, end, empty_mean, sizes, settings
                )
                own = 0.0
                if settings.POSITIONS:
                    last_row = gl.minimum(row * rows + rows, sizes.s_q) - 1 + s_kv - sizes.s_q
                    own = gl.load(key_positions + batch.to(gl.int64) * positions_batch + last_row)
                blocks = crossings + tail + left + right + extra
                sure = gl.to_tensor(0)
                if settings.SKIP:
                    if worth_a_try(slope, s_kv) & (left + right > AHEAD):
                        sure = crossings + tail + AHEAD
                slot = served & (QUERIES - 1)
                mbarrier.wait(shared.query_empty.index(slot), ((served // QUERIES) & 1) ^ 1)
                mbarrier.expect(shared.query_full.index(slot), query_map.block_type.nbytes * settings.CONSUMERS)
                for w in gl.static_range(settings.CONSUMERS):
                    tma.async_copy_global_to_shared(
                        query_map, [batch, head, row * rows + w * ROWS, 0], shared.query_full.index(slot),
                        shared.query_tile.index(slot * settings.CONSUMERS + w))  # fmt: skip
                served += 1
                j = gl.to_tensor(0)
                while j < blocks:
                    number = block_at(j, first, crossings, tail, left, right, s_kv, BLOCK_N)
                    stage = stage_of(step, settings)
                    if VECTOR:
                        # Asked for before the wait, so that it is there after it.
                        kind = gl.where(j < crossings + tail + left, 1, -1)
                        if settings.FORM == FORM_SYMMETRIC:
                            kind = gl.where(j < crossings + tail, 0, kind)
                        vector = _key_vector(
                            mask, key_positions, batch, mask_batch, mask_column, positions_batch, number * BLOCK_N,
                            kind, slope, own, s_kv, settings)  # fmt: skip
                    # Once the weights of the block that was here are computed.
                    mbarrier.wait(shared.freed.index(stage), phase_of(step, settings) ^ 1, pred=step >= settings.STAGES)
                    mbarrier.expect(shared.key_full.index(stage), key_map.block_type.nbytes)
                    tma.async_copy_global_to_shared(
                        key_map, [batch, kv_head, number * BLOCK_N, 0], shared.key_full.index(stage),
                        shared.key_tile.index(stage))  # fmt: skip
                    if VECTOR:
                        shared.vector_tile.index(stage).store(vector)
                        mbarrier.arrive(shared.key_full.index(stage), count=1)
                    # One step later the values of the block that was here are used too.
                    mbarrier.wait(
                        shared.freed.index(stage_of(step + 1, settings)), phase_of(step + 1, settings) ^ 1,
                        pred=step >= settings.STAGES)  # fmt: skip
                    mbarrier.expect(shared.value_full.index(stage), value_map.block_type.nbytes)
                    tma.async_copy_global_to_shared(
                        value_map, [batch, kv_head, number * BLOCK_N, 0], shared.value_full.index(stage),
                        shared.value_tile.index(stage))  # fmt: skip
                    if j == 0:
                        # After the copies, which take longer, and the slope last, because it has to be loaded.  The
                        # barrier is full when both the queries and the notes are there.
                        note(shared, slot, TILE, row)
                        note(shared, slot, BATCH, batch)
                        note(shared, slot, HEAD, head)
                        note(shared, slot, FIRST, first)
                        note(shared, slot, CROSSINGS, crossings)
                        note(shared, slot, TAIL, tail)
                        note(shared, slot, LEFT, left)
                        note(shared, slot, RIGHT, right)
                        note(shared, slot, EXTRA, extra)
                        note(shared, slot, SEEN_FROM, seen_from)
                        if settings.MASK:
                            note(shared, slot, BEGIN, begin)
                            note(shared, slot, END, end)
                        if settings.SKIP:
                            note(shared, slot, SURE, 2 * sure + (certified & 1))
                        note(shared, slot, SLOPE, slope.to(gl.int32, bitcast=True))
                        mbarrier.arrive(shared.query_full.index(slot), count=1)
                        if settings.SKIP:
                            if number_of_pass == 0:
                                coming = gl.atomic_add(ticket, 1)
                    step += 1
                    j += 1
                    if settings.SKIP:
                        if j == sure:
                            mbarrier.wait(shared.weighed, certified & 1)
                            certified += 1
                            left, right = needed_blocks(
                                shared, key_norms, batch, kv_head, row, first, crossings, left, right, slope,
                                scale_natural, sizes, settings)  # fmt: skip
                            note(shared, slot, LEFT, left)
                            note(shared, slot, RIGHT, right)
                            mbarrier.arrive(shared.certain, count=1)
                            blocks = crossings + tail + left + right
        # What closes the pass is no tile: there are notes only.
        slot = served & (QUERIES - 1)
        mbarrier.wait(shared.query_empty.index(slot), ((served // QUERIES) & 1) ^ 1)
        note(shared, slot, TILE, -1)
        mbarrier.arrive(shared.query_full.index(slot), count=2)
        served += 1
        if step == 0:
            # A program without a tile: its consumers ask for the first scores before they know.
            mbarrier.arrive(shared.key_full.index(0), count=2 if VECTOR else 1)
        number_of_pass += 1
        if settings.STEADY:
            if number_of_pass == 1:
                passes = 1 + judge(shared, settings, 1)
