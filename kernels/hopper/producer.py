"""The producer of the Hopper kernel: which tile comes, its blocks, all copies, certificates."""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from ..aggregate import aggregate
from .order import dealt_tile, drawn_tile, drawn_tiles, order_of
from .rows import codes_of, count_needed, next_block
from .shared import (  # fmt: skip
    BATCH,
    BEGIN,
    CERTIFIED_AFTER,
    COPIES,
    DIAGONAL_BLOCKS,
    END,
    EXTRA,
    FIRST,
    FORM_CAUSAL,
    HEAD,
    LEFT,
    LOG2E,
    RIGHT,
    ROWS_PER_CONSUMER,
    SEEN_FROM,
    SLOPE,
    TAIL,
    TILE,
    needs_repeat,
    phase_of,
    release,
    set_up_barriers,
    stage_of,
    write_block_info,
    write_tile_info,
)
from .skipping import AHEAD, needed_blocks, worth_a_try
from .terms import ask_terms, find_plain, terms_of_keys, write_terms
from .tiles import block_at, blocks_of, keys_there, shared_mean, visible_keys
from .weights import natural


@aggregate
class TilePlace:
    """Which tile it is."""

    tile: gl.tensor
    batch: gl.tensor
    head: gl.tensor
    kv_head: gl.tensor


@aggregate
class TileBlocks:
    """How a tile's keys are cut into blocks, but for how many lie left and right (``tiles.blocks_of``).

    And to how many tiles its output goes (``tiles.shared_mean``).
    """

    first: gl.tensor
    diagonal_blocks: gl.tensor
    tail: gl.tensor
    extra: gl.tensor
    seen_from: gl.tensor
    begin_near: gl.tensor
    end_near: gl.tensor
    copies: gl.tensor


@gluon.jit
def _place_of(block, shift, settings):
    """Where a block begins in memory: with LENGTHS ``shift`` keys before the one that it begins with."""
    place = block * settings.BLOCK_N
    if settings.LENGTHS:
        place -= shift
    return place


@gluon.jit
def _copy_keys(key_map, batch, kv_head, block, shift, stage, shared, settings):
    """Has the keys of a block copied to a stage."""
    mbarrier.expect(shared.key_full.index(stage), key_map.block_type.nbytes)
    tma.async_copy_global_to_shared(
        key_map, [batch, kv_head, _place_of(block, shift, settings), 0], shared.key_full.index(stage),
        shared.key_tile.index(stage))  # fmt: skip


@gluon.jit
def _copy_keys_if(needed, key_map, batch, kv_head, block, shift, stage, shared, settings):
    """As :func:`_copy_keys`, if they are ``needed``: a block of the mean of all values takes no keys."""
    if needed:
        _copy_keys(key_map, batch, kv_head, block, shift, stage, shared, settings)
    else:
        mbarrier.arrive(shared.key_full.index(stage), count=1)


@gluon.jit
def _copy_values(value_map, batch, kv_head, block, shift, step, stage, shared, settings):
    """Has the values of block ``step`` copied to its stage, once those that are there have been used.

    That is one step later than the weights of their block are computed.
    """
    mbarrier.wait(
        shared.freed.index(stage_of(step + 1, settings)), phase_of(step + 1, settings) ^ 1,
        pred=step >= settings.STAGES)  # fmt: skip
    mbarrier.expect(shared.value_full.index(stage), value_map.block_type.nbytes)
    tma.async_copy_global_to_shared(
        value_map, [batch, kv_head, _place_of(block, shift, settings), 0], shared.value_full.index(stage),
        shared.value_tile.index(stage))  # fmt: skip


@gluon.jit
def _copy_queries(query_map, batch, head, tile, slot, shared, settings):
    """Has the queries of a tile copied to a slot, a part for each consumer."""
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    mbarrier.expect(shared.query_full.index(slot), query_map.block_type.nbytes * settings.CONSUMERS)
    for w in gl.static_range(settings.CONSUMERS):
        tma.async_copy_global_to_shared(
            query_map, [batch, head, tile * rows_per_tile + w * ROWS_PER_CONSUMER, 0], shared.query_full.index(slot),
            shared.query_tile.index(slot * settings.CONSUMERS + w))  # fmt: skip


@gluon.jit
def _cut(tile, begin, end, begin_near, end_near, begin_seen, empty_mean, within, sizes, settings):
    """Cuts the keys of a tile into blocks as ``tiles.blocks_of`` does, for the consumers' current pass.

    A batch entry without visible keys is left to the second pass, like rows that are not to be trusted.  The code for
    it would take registers of the first pass.
    """
    first, diagonal_blocks, tail, left, right, extra, seen_from = blocks_of(
        tile, begin, end, begin_near, end_near, begin_seen, empty_mean, sizes, settings
    )
    if settings.MASK and settings.FIXED_MAX and settings.FORM != FORM_CAUSAL:
        if (empty_mean != 0) & within:
            extra = gl.to_tensor(0)
            seen_from = gl.to_tensor(0)
    return first, diagonal_blocks, tail, left, right, extra, seen_from


@gluon.jit
def _end_pass(step, queries_sent, shared, settings):
    """Tells the consumers that there is no tile and the pass is over; how many queries were sent, these included."""
    QUERIES: gl.constexpr = settings.QUERIES
    slot = queries_sent & (QUERIES - 1)
    mbarrier.wait(shared.query_empty.index(slot), ((queries_sent // QUERIES) & 1) ^ 1)
    write_tile_info(shared, slot, TILE, -1)
    mbarrier.arrive(shared.query_full.index(slot), count=2)
    queries_sent += 1
    if step == 0:
        # This program had no tile.  Its consumers ask for the first scores before they know.
        mbarrier.arrive(shared.key_full.index(0), count=2 if settings.POSITIONS else 1)
    return queries_sent


@gluon.jit
def _describe(slot, at, cut, left, right, slope, certified_after, certified, shared, settings):
    """Tells the consumers what a tile is (the fields are explained in ``shared``).

    The slope comes last, because it has to be loaded.  The barrier is full when both queries and info are there.
    """
    write_tile_info(shared, slot, TILE, at.tile)
    write_tile_info(shared, slot, BATCH, at.batch)
    write_tile_info(shared, slot, HEAD, at.head)
    write_tile_info(shared, slot, FIRST, cut.first)
    write_tile_info(shared, slot, DIAGONAL_BLOCKS, cut.diagonal_blocks)
    if settings.MASK and settings.FORM == FORM_CAUSAL:
        write_tile_info(shared, slot, COPIES, cut.copies)
    else:
        write_tile_info(shared, slot, TAIL, cut.tail)
    write_tile_info(shared, slot, LEFT, left)
    write_tile_info(shared, slot, RIGHT, right)
    write_tile_info(shared, slot, EXTRA, cut.extra)
    write_tile_info(shared, slot, SEEN_FROM, cut.seen_from)
    if settings.MASK:
        write_tile_info(shared, slot, BEGIN, cut.begin_near)
        write_tile_info(shared, slot, END, cut.end_near)
    if settings.SKIP:
        write_tile_info(shared, slot, CERTIFIED_AFTER, 2 * certified_after + (certified & 1))
    write_tile_info(shared, slot, SLOPE, slope.to(gl.int32, bitcast=True))
    mbarrier.arrive(shared.query_full.index(slot), count=1)


@gluon.jit
def _certify(
    certified, left, right, at, cut, slope, own, slot, key_norms, key_terms, scale_natural, shared, sizes, settings
):  # fmt: skip
    """Makes the certificate of a tile, once its near blocks are weighed (SKIP).

    Returns:
        How many certificates were made so far, and how many blocks the tile takes left and right of the diagonal.
    """
    mbarrier.wait(shared.weighed, certified & 1)
    certified += 1
    left, right = needed_blocks(
        shared, key_norms, key_terms, at.batch, at.head, at.kv_head, at.tile, cut.first, cut.diagonal_blocks, left,
        right, slope, own, scale_natural, sizes, settings)  # fmt: skip
    write_tile_info(shared, slot, LEFT, left)
    write_tile_info(shared, slot, RIGHT, right)
    mbarrier.arrive(shared.certificate_ready, count=1)
    return certified, left, right


@gluon.jit
def produce(
    shared, sizes, query_map, key_map, value_map, slopes, key_norms, key_terms, ticket, previous, blocks_needed,
    mask, key_positions, mask_batch, mask_head, mask_column, positions_batch, scale_natural, empty_mean, key_lengths,
    lengths_batch, rows_first, settings,
):  # fmt: skip
    """The producer warp: all copies, in the order in which the consumers need them.

    What it knows of masks goes through its loops number by number.  An aggregate for each of the two entries was tried:
    loops then carry the numbers in another order, and the PTX is another.
    """
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    QUERIES: gl.constexpr = settings.QUERIES
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    VECTOR: gl.constexpr = settings.MASK or settings.POSITIONS
    # Where every block has terms, its keys do not wait for them.
    LATE: gl.constexpr = settings.POSITIONS
    set_up_barriers(shared, settings, settings.CONSUMERS)
    step = gl.to_tensor(0)
    queries_sent = gl.to_tensor(0)
    certified = gl.to_tensor(0)
    tiles = gl.cdiv(sizes.s_q, rows_per_tile)
    order = order_of(tiles, sizes, settings)
    s_kv = sizes.s_kv
    passes = gl.to_tensor(1)
    number_of_pass = gl.to_tensor(0)
    begin = gl.to_tensor(0)
    end = s_kv
    begin_near = gl.to_tensor(0)
    end_near = s_kv
    begin_seen = gl.to_tensor(0)
    scanned = gl.to_tensor(-1)
    # The unit of slopes in the consumers' current pass, and whether that is the first one.
    per_natural = gl.to_tensor(LOG2E)
    if natural(settings, settings.FIXED_MAX):
        per_natural = gl.to_tensor(1.0)
    within = gl.to_tensor(settings.FIXED_MAX)
    per_scale = 1.0 / scale_natural
    # From which block to which the mask of this batch entry is known to say nothing.
    plain_from = gl.to_tensor(0)
    plain_to = gl.to_tensor(0)
    # The same of another entry.  Every other round is dealt backwards, so tiles that follow each other come from two.
    scanned_b = gl.to_tensor(-1)
    begin_seen_b, begin_b, end_b, begin_near_b, end_near_b = begin_seen, begin, end, begin_near, end_near
    plain_from_b, plain_to_b = plain_from, plain_to
    # How many keys before the first one in memory key 0 is, for both entries.
    shift, shift_b = 0, 0
    if settings.LENGTHS:
        shift, shift_b = gl.to_tensor(0), gl.to_tensor(0)
    # Of a mask with rows, the group of blocks that is being walked.
    word, bits, masks = gl.to_tensor(0), gl.to_tensor(0), gl.to_tensor(0)
    # A bit for every stage whose terms are not zero.
    stages_with_terms = gl.to_tensor(0)
    tiles_done = gl.to_tensor(0)
    # With SKIP and MASK_ROWS costs are not known beforehand.  There programs draw tickets for tiles, in the same order.
    drawn = gl.to_tensor(-1)
    coming = gl.to_tensor(0)
    if drawn_tiles(settings):
        coming = gl.atomic_add(ticket, 1)
    mbarrier.wait(shared.ready, 0)
    while number_of_pass < passes:
        if not drawn_tiles(settings):
            tiles_done = gl.to_tensor(0)
        deal = gl.to_tensor(0)
        more = gl.to_tensor(True)
        while more:
            if drawn_tiles(settings):
                tiles_done, drawn, more, batch_head, tile, wanted = drawn_tile(
                    tiles_done, drawn, coming, more, number_of_pass, order, previous, shared, sizes, settings
                )
            else:
                tiles_done, more, batch_head, tile, wanted = dealt_tile(
                    tiles_done, deal, number_of_pass, order, shared, sizes, settings
                )
                deal += 1
            if wanted:
                batch = batch_head // sizes.heads
                head = batch_head - batch * sizes.heads
                kv_head = head // sizes.group
                slope_natural = gl.load(slopes + head)
                slope = slope_natural * per_natural
                of_entry = mask
                if settings.MASK:
                    # One mask of a batch entry for all heads, or one of each.
                    if settings.LENGTHS:
                        entry = batch
                    else:
                        of_entry = mask + batch.to(gl.int64) * mask_batch + head.to(gl.int64) * mask_head
                        entry = gl.where(mask_head != 0, batch_head, batch)
                    if entry != scanned:
                        scanned, scanned_b = scanned_b, scanned
                        begin, begin_b = begin_b, begin
                        end, end_b = end_b, end
                        plain_from, plain_from_b = plain_from_b, plain_from
                        plain_to, plain_to_b = plain_to_b, plain_to
                        if settings.LENGTHS:
                            shift, shift_b = shift_b, shift
                        if settings.ADDITIVE:
                            begin_seen, begin_seen_b = begin_seen_b, begin_seen
                            begin_near, begin_near_b = begin_near_b, begin_near
                            end_near, end_near_b = end_near_b, end_near
                    if entry != scanned:
                        if settings.LENGTHS:
                            begin, end, shift = keys_there(key_lengths, batch, lengths_batch, rows_first, s_kv)
                        else:
                            begin_seen, begin, end, begin_near, end_near = visible_keys(
                                of_entry, mask_column, s_kv, within, settings
                            )
                        scanned = entry
                        plain_from = gl.to_tensor(0)
                        plain_to = gl.to_tensor(0)
                    if not settings.ADDITIVE:
                        begin_seen, begin_near, end_near = begin, begin, end
                own_mean = empty_mean
                if settings.LENGTHS:
                    # There is no mean of nothing.
                    own_mean = gl.where(end > 0, empty_mean, 0)
                first, diagonal_blocks, tail, left, right, extra, seen_from = _cut(
                    tile, begin, end, begin_near, end_near, begin_seen, own_mean, within, sizes, settings
                )
                copies = gl.to_tensor(1)
                if settings.MASK and settings.FORM == FORM_CAUSAL:
                    extra, copies = shared_mean(tile, extra, seen_from, own_mean, sizes, settings)
                if settings.MASK_ROWS:
                    # The codes of an additive mask leave out blocks that only the second pass can weigh.
                    every = gl.to_tensor(False)
                    if settings.ADDITIVE:
                        every = not within
                    codes = codes_of(blocks_needed, batch, head, tile, mask_batch, mask_head, sizes, settings)
                    first, left, right = count_needed(
                        codes, every, first, diagonal_blocks, left, right, sizes, settings
                    )
                    if (empty_mean != 0) & (not within):
                        extra = gl.cdiv(s_kv, BLOCK_N)
                own = 0.0
                if settings.POSITIONS:
                    last_row = gl.minimum(tile * rows_per_tile + rows_per_tile, sizes.s_q) - 1 + s_kv - sizes.s_q
                    own = gl.load(key_positions + batch.to(gl.int64) * positions_batch + last_row)
                keyed = diagonal_blocks + tail + left + right
                blocks = keyed + extra
                certified_after = gl.to_tensor(0)
                if settings.SKIP:
                    worth = worth_a_try(slope, s_kv, settings) & (left + right > AHEAD)
                    if VECTOR:
                        # The second pass may have another unit, and it has few tiles.
                        worth = worth & within
                    if worth:
                        certified_after = diagonal_blocks + tail + AHEAD
                asked = not (within & (plain_from <= first) & (first < plain_to))
                if VECTOR:
                    loaded, position = ask_terms(
                        of_entry, key_positions, batch, mask_column, positions_batch, first * BLOCK_N,
                        gl.where(asked, s_kv, 0), begin, end, settings)  # fmt: skip
                at = TilePlace(tile, batch, head, kv_head)
                cut = TileBlocks(first, diagonal_blocks, tail, extra, seen_from, begin_near, end_near, copies)
                slot = queries_sent & (QUERIES - 1)
                mbarrier.wait(shared.query_empty.index(slot), ((queries_sent // QUERIES) & 1) ^ 1)
                _copy_queries(query_map, batch, head, tile, slot, shared, settings)
                queries_sent += 1
                j = gl.to_tensor(0)
                while j < blocks:
                    if settings.MASK_ROWS:
                        block, reads_mask, word, bits, masks = next_block(
                            j, first, diagonal_blocks, tail, left, right, codes, every, word, bits, masks, sizes,
                            BLOCK_N)  # fmt: skip
                    else:
                        block = block_at(j, first, diagonal_blocks, tail, left, right, s_kv, BLOCK_N)
                    stage = stage_of(step, settings)
                    if VECTOR:
                        here, here_position, has_terms = loaded, position, asked
                        if not settings.POSITIONS:
                            plain_from, plain_to, has_terms = find_plain(
                                plain_from, plain_to, loaded, block, asked, within, s_kv, settings
                            )
                        coming_block = block_at(j + 1, first, diagonal_blocks, tail, left, right, s_kv, BLOCK_N)
                        # Nothing is asked of blocks that are known to be plain, nor of those of the mean.
                        known = within & (plain_from <= coming_block) & (coming_block < plain_to)
                        asked = (j + 1 < keyed) & (not known)
                        if asked:
                            loaded, position = ask_terms(
                                of_entry, key_positions, batch, mask_column, positions_batch,
                                coming_block * BLOCK_N, s_kv, begin, end, settings)  # fmt: skip
                    # Once the weights of the block that was here are computed.
                    mbarrier.wait(shared.freed.index(stage), phase_of(step, settings) ^ 1, pred=step >= settings.STAGES)
                    if LATE:
                        _copy_keys_if(j < keyed, key_map, batch, kv_head, block, shift, stage, shared, settings)
                    if VECTOR:
                        if has_terms | ((stages_with_terms & (1 << stage)) != 0):
                            terms = terms_of_keys(here, here_position, slope_natural, own, settings)
                            stages_with_terms = write_terms(
                                stages_with_terms, has_terms, terms, within, per_scale, per_natural, slope, j,
                                diagonal_blocks + tail, left, stage, shared, settings)  # fmt: skip
                    if settings.MASK_ROWS:
                        write_block_info(shared, stage, 2 * block + reads_mask)
                        gl.thread_barrier()
                    if LATE:
                        release(shared.key_full.index(stage))
                    elif settings.MASK or settings.MASK_ROWS:
                        _copy_keys_if(j < keyed, key_map, batch, kv_head, block, shift, stage, shared, settings)
                    else:
                        _copy_keys(key_map, batch, kv_head, block, shift, stage, shared, settings)
                    _copy_values(value_map, batch, kv_head, block, shift, step, stage, shared, settings)
                    if j == 0:
                        # After the copies, which take longer.
                        _describe(slot, at, cut, left, right, slope, certified_after, certified, shared, settings)
                        if drawn_tiles(settings):
                            if number_of_pass == 0:
                                coming = gl.atomic_add(ticket, 1)
                    step += 1
                    j += 1
                    if settings.SKIP:
                        if j == certified_after:
                            certified, left, right = _certify(
                                certified, left, right, at, cut, slope, own, slot, key_norms, key_terms, scale_natural,
                                shared, sizes, settings)  # fmt: skip
                            blocks = diagonal_blocks + tail + left + right
                            if VECTOR:
                                keyed = blocks
                                blocks = keyed + extra
                                # What was asked for a block ahead may be another block's now.
                                coming_block = block_at(j, first, diagonal_blocks, tail, left, right, s_kv, BLOCK_N)
                                known = (plain_from <= coming_block) & (coming_block < plain_to)
                                asked = (j < keyed) & (not known)
                                if asked:
                                    loaded, position = ask_terms(
                                        of_entry, key_positions, batch, mask_column, positions_batch,
                                        coming_block * BLOCK_N, s_kv, begin, end, settings)  # fmt: skip
        queries_sent = _end_pass(step, queries_sent, shared, settings)
        number_of_pass += 1
        if settings.FIXED_MAX:
            if number_of_pass == 1:
                passes = 1 + needs_repeat(shared, settings, 1)
                if VECTOR:
                    within = gl.to_tensor(False)
                    stages_with_terms = gl.to_tensor(0)
                    scanned = gl.to_tensor(-1)
                    scanned_b = gl.to_tensor(-1)
                if settings.MASK_ROWS:
                    within = gl.to_tensor(False)
                if settings.ADDITIVE:
                    per_natural = gl.to_tensor(1.0)
