"""The consumers of the Hopper kernel: each owns 64 rows of every tile, from scores to output."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma_wait

from .hidden import clear_hidden, clear_strange
from .lifting import declare_outgrown, lifts, settled
from .output import destination_of, finish, hand_over_repeat_mask, wait_written
from .products import (
    add_awaited_values,
    add_values,
    ask_scores,
    await_values,
    multiply,
    packed_weights,
    query_of,
    rescaled,
    rounded_weights,
    sums_layout,
    unpacked_weights,
)
from .rows import block_info_of
from .shared import (  # fmt: skip
    CERTIFIED_AFTER,
    COUNTS,
    EXTRA,
    FORM_CAUSAL,
    FORM_SYMMETRIC,
    LEFT,
    LOG2E,
    RIGHT,
    ROWS_PER_CONSUMER,
    SEEN_FROM,
    TILE,
    clear_repeat_mask,
    clears_hidden,
    needs_repeat,
    phase_of,
    read_tile_info,
    release,
    set_up_barriers,
    stage_of,
)
from .skipping import weigh_rows
from .starting import start_tile
from .state import ConsumerPass, NearBlocks, scores_layout
from .vectors import masked, natural, told_of_terms, vector_of, with_terms
from .weights import counted_from, edge_weights, far_start, far_weights, mean_weights, moves_at_edges


@gluon.constexpr_function
def _averages(settings, FIXED_MAX):
    """Whether a tile may end with the mean of all values, for rows that see no key."""
    return (settings.MASK or settings.MASK_ROWS) and (settings.FORM == FORM_CAUSAL or not FIXED_MAX)


@gluon.jit
def _multiply(weights, out, sums, peak, more, step, queries_seen, me):
    """Asks for the scores of block ``step`` and for what the weights of the one before add; lifts the row maxima."""
    if lifts(me):
        # Weights may be rounded before the scores are asked for, or while those are on their way: ptxas makes the
        # faster loop of the one or of the other.
        LATE: gl.constexpr = me.settings.EVERY or me.settings.V > 128
        packed = gl.to_tensor(0)
        if not LATE:
            packed = packed_weights(weights)
        scoring = ask_scores(step, queries_seen, me)
        await_values(step - 1, me)
        if LATE:
            packed = packed_weights(weights)
        packed, out, sums, peak = settled(packed, weights, out, sums, peak, me)
        adding, counting = add_awaited_values(unpacked_weights(packed, me), out, sums, more, step - 1, me)
    else:
        scoring, adding, counting = multiply(weights, out, sums, more, step, queries_seen, me)
    return scoring, adding, counting, peak


@gluon.jit
def _add_last(weights, out, sums, peak, more, step, me):
    """Adds what the weights of the block before ``step`` add and waits for it; lifts the row maxima."""
    if lifts(me):
        await_values(step - 1, me)
        packed, out, sums, peak = settled(packed_weights(weights), weights, out, sums, peak, me)
        ending = add_awaited_values(unpacked_weights(packed, me), out, sums, more, step - 1, me)
    else:
        ending = add_values(rounded_weights(weights, me), out, sums, more, step - 1, me)
    out, sums = warpgroup_mma_wait(0, deps=ending)
    return out, sums, peak


@gluon.jit
def _consume_pass(
    step, queries_seen, shared, sizes, row_mask, output_map, scale_natural, settings, FIXED_MAX: gl.constexpr,
    WHO: gl.constexpr,
):  # fmt: skip
    """All tiles of this program once; (the counters that it was given, 1 if a tile is not to be trusted, else 0)."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    QUERIES: gl.constexpr = settings.QUERIES
    SCORES: gl.constexpr = scores_layout(settings)
    BY_ROW: gl.constexpr = gl.SliceLayout(1, SCORES)
    MOVES: gl.constexpr = moves_at_edges(settings, FIXED_MAX)
    row = gl.arange(0, ROWS_PER_CONSUMER, layout=BY_ROW)
    column = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, SCORES))
    scale = scale_natural
    if not natural(settings, FIXED_MAX):
        scale = scale * LOG2E
    s_kv = sizes.s_kv
    me = ConsumerPass(shared, sizes, row_mask, row, column, scale, settings, FIXED_MAX, WHO)
    if lifts(me):
        declare_outgrown(me)
    tiles_done = gl.to_tensor(0)
    repeats = gl.to_tensor(0)
    repeat_mask = gl.zeros([ROWS_PER_CONSUMER], dtype=gl.int32, layout=BY_ROW)

    mbarrier.wait(shared.query_full.index(queries_seen & (QUERIES - 1)), (queries_seen // QUERIES) & 1)
    products = warpgroup_mma_wait(0, deps=(ask_scores(step, queries_seen, me),))
    near, left, right, line, peak, anchors, weights = start_tile(products, step, queries_seen, me)
    # The keys of this block and the values of the one before are done with.
    release(shared.freed.index(stage_of(step, settings)))
    step += 1
    out = gl.zeros([ROWS_PER_CONSUMER, settings.V], dtype=gl.float32, layout=sums_layout(settings.V))
    sums = gl.zeros([ROWS_PER_CONSUMER, COUNTS], dtype=gl.float32, layout=sums_layout(COUNTS))
    while near.tile >= 0:
        slot = queries_seen & (QUERIES - 1)
        j = gl.to_tensor(1)
        # With SKIP the loop is left twice: when the near blocks are in the sums, and when the far ones are known.
        stop = near.edges + left + right
        if settings.SKIP:
            stop = gl.where(read_tile_info(shared, slot, CERTIFIED_AFTER) > 1, near.edges + 1, stop)
        while j < stop:
            while j < stop:
                scoring, adding, counting, peak = _multiply(weights, out, sums, peak, j > 1, step, queries_seen, me)
                vector = vector_of(step, me)
                block, reads_mask = block_info_of(shared, stage_of(step, settings), settings)
                has_terms = told_of_terms(step, me)
                products, adding, counting = warpgroup_mma_wait(2, deps=(scoring, adding, counting))
                products = with_terms(products, has_terms, step, me)
                said = reads_mask, block * BLOCK_N, near.tile, slot
                if FIXED_MAX:
                    products = masked(products, said, me)
                # Weights of this block; the products of the one before with its values are still in flight.
                if j < near.edges:
                    start_e = gl.where(j >= near.diagonal_blocks, s_kv // BLOCK_N, near.first + j) * BLOCK_N
                    weights, keep, peak = edge_weights(products, peak, vector, start_e, said, line, me, MOVES, False)
                else:
                    start = block * BLOCK_N
                    if not settings.MASK_ROWS:
                        crossed = near.first + near.diagonal_blocks
                        start = far_start(j - near.edges, left, near.first, crossed, settings)
                    weights, keep, peak = far_weights(
                        products, peak, anchors, vector, start, j - near.edges, left, said, line, me
                    )
                out, sums = warpgroup_mma_wait(0, deps=(adding, counting))
                if not FIXED_MAX:
                    out, sums = rescaled(out, sums, keep)
                elif MOVES:
                    if j < near.edges:
                        out, sums = rescaled(out, sums, keep)
                if settings.FORM == FORM_SYMMETRIC and FIXED_MAX and settings.ROW_TWINS:
                    if j == near.edges + left:
                        # From here on two rows of a thread share what they share right of the diagonal.
                        crossing = gl.exp2((anchors.before - line.shift) - (anchors.behind + line.shift))
                        out, sums = rescaled(out, sums, crossing)
                if clears_hidden(settings) and not FIXED_MAX:
                    clear_hidden(step, vector, me)
                release(shared.freed.index(stage_of(step, settings)))
                step += 1
                j += 1
            if settings.SKIP:
                noted = read_tile_info(shared, slot, CERTIFIED_AFTER)
                certified_after = noted >> 1
                if j < certified_after:
                    scale_of_sums = peak
                    if settings.FORM == FORM_SYMMETRIC and FIXED_MAX and settings.ROW_TWINS:
                        scale_of_sums = gl.where(left == 0, anchors.behind + line.shift, peak)
                    weigh_rows(sums, scale_of_sums, query_of(queries_seen, me), line, me)
                    stop = certified_after
                elif j == certified_after:
                    mbarrier.wait(shared.certificate_ready, noted & 1)
                    left = read_tile_info(shared, slot, LEFT)
                    right = read_tile_info(shared, slot, RIGHT)
                    stop = near.edges + left + right
        if _averages(settings, FIXED_MAX):
            # The mean of all values, for rows that see no key; a loop of its own keeps it out of the one above.
            seen_from = read_tile_info(shared, slot, SEEN_FROM)
            keyed = stop
            stop += read_tile_info(shared, slot, EXTRA)
            empty = gl.zeros([ROWS_PER_CONSUMER], dtype=gl.int32, layout=BY_ROW)
            while j < stop:
                # There are no keys, but all who tell of them are to have told before the stage is given back.
                mbarrier.wait(shared.key_full.index(stage_of(step, settings)), phase_of(step, settings))
                out, sums, peak = _add_last(weights, out, sums, peak, j > 1, step, me)
                if settings.MASK_ROWS and not FIXED_MAX:
                    # Which rows see no key shows in their sums, once the last block that has keys is in them.
                    total = gl.convert_layout(gl.max(sums, 1), BY_ROW)
                    empty = gl.where(j == keyed, (total == 0.0).to(gl.int32), empty)
                else:
                    empty = (line.row_as_key < seen_from).to(gl.int32)
                weights = mean_weights(weights, j - near.edges - left - right, empty, column, s_kv, settings)
                if settings.LENGTHS:
                    weights = counted_from(weights, j - near.edges - left - right, seen_from, column, settings)
                if clears_hidden(settings) and not FIXED_MAX:
                    clear_strange(step, me)
                release(shared.freed.index(stage_of(step, settings)))
                step += 1
                j += 1
        queries_seen += 1
        if QUERIES > 1:
            mbarrier.wait(shared.query_full.index(queries_seen & (QUERIES - 1)), (queries_seen // QUERIES) & 1)
            coming = read_tile_info(shared, queries_seen & (QUERIES - 1), TILE)
            if coming >= 0:
                # The next tile's first scores, and the last of this one's output while they become weights.
                scoring, adding, counting, peak = _multiply(weights, out, sums, peak, j > 1, step, queries_seen, me)
                products, adding, counting = warpgroup_mma_wait(2, deps=(scoring, adding, counting))
                near, left, right, line, peak, anchors, weights = start_tile(products, step, queries_seen, me)
                out, sums = warpgroup_mma_wait(0, deps=(adding, counting))
            else:
                near = NearBlocks(coming, near.first, near.diagonal_blocks, near.edges)
                out, sums, peak = _add_last(weights, out, sums, peak, j > 1, step, me)
            destination = destination_of(slot, me)
            # The previous tile's copy out of the staging buffer has to be over before it is overwritten.
            tma.store_wait(0)
            gl.thread_barrier()
            if coming >= 0:
                mbarrier.expect(shared.freed.index(stage_of(step, settings)), 0)
                step += 1
            mbarrier.expect(shared.query_empty.index(slot), 0)
            repeat_mask = finish(out, sums, repeat_mask, destination, tiles_done, output_map, me)
        else:
            # This tile's output goes out by way of where its queries are, and the next ones come after it.
            out, sums, peak = _add_last(weights, out, sums, peak, j > 1, step, me)
            # All warps are done with the queries.
            gl.thread_barrier()
            destination = destination_of(slot, me)
            repeat_mask = finish(out, sums, repeat_mask, destination, tiles_done, output_map, me)
            tma.store_wait(0)
            release(shared.query_empty.index(slot))
            mbarrier.wait(shared.query_full.index(0), queries_seen & 1)
            near = NearBlocks(read_tile_info(shared, 0, TILE), near.first, near.diagonal_blocks, near.edges)
            if near.tile >= 0:
                products = warpgroup_mma_wait(0, deps=(ask_scores(step, queries_seen, me),))
                near, left, right, line, peak, anchors, weights = start_tile(products, step, queries_seen, me)
                release(shared.freed.index(stage_of(step, settings)))
                step += 1
        if FIXED_MAX:
            if ((tiles_done & 31) == 31) | (near.tile < 0):
                repeats = gl.maximum(repeats, hand_over_repeat_mask(repeat_mask, tiles_done, shared, WHO))
                repeat_mask = gl.zeros([ROWS_PER_CONSUMER], dtype=gl.int32, layout=BY_ROW)
        tiles_done += 1
    # The pass ends with the info that there is no tile.  Its slot is given back.
    release(shared.query_empty.index(queries_seen & (QUERIES - 1)))
    return step, queries_seen + 1, repeats


@gluon.jit
def consume(shared, sizes, row_mask, output_map, scale_natural, settings, WHO: gl.constexpr):
    """One consumer warpgroup: rows ``WHO * 64 ..`` of every tile of this program."""
    set_up_barriers(shared, settings, WHO)
    if settings.FIXED_MAX:
        clear_repeat_mask(shared, WHO)
    mbarrier.wait(shared.ready, 0)
    step = gl.to_tensor(0)
    queries_seen = gl.to_tensor(0)
    step, queries_seen, repeats = _consume_pass(
        step, queries_seen, shared, sizes, row_mask, output_map, scale_natural, settings, settings.FIXED_MAX, WHO
    )
    if settings.FIXED_MAX:
        LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        shared.wants_repeat.index(WHO).store(gl.full([1], repeats, gl.int32, LAYOUT))
        mbarrier.arrive(shared.verdict_ready, count=1)
        if needs_repeat(shared, settings, 4) != 0:
            wait_written()
            _consume_pass(step, queries_seen, shared, sizes, row_mask, output_map, scale_natural, settings, False, WHO)
    tma.store_wait(0)
