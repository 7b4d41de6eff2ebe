"""The producer of the Hopper kernel: the order of tiles and blocks, and all copies.

Where something differs by key, a scout looks at it and decides (``scout``); the producer does as it is told.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .copies import copy_keys, copy_keys_ahead, copy_keys_if, copy_queries, copy_values
from .entries import no_entry
from .order import dealt_tile, drawn_tile, drawn_tiles, order_of
from .rows import codes_of, cut_by_rows, next_block, wanted_of
from .shared import (  # fmt: skip
    BATCH,
    CERTIFIED_AFTER,
    DIAGONAL_BLOCKS,
    EXTRA,
    FIRST,
    FORM_SYMMETRIC,
    HEAD,
    KV_HEAD,
    LEFT,
    LOG2E,
    RIGHT,
    ROWS_PER_CONSUMER,
    SHIFT,
    TAIL,
    TILE,
    needs_repeat,
    phase_of,
    read_tile_info,
    set_up_barriers,
    stage_of,
    tells_shift,
    write_block_info,
)
from .skipping import AHEAD, worth_a_try
from .telling import TileBlocks, TilePlace, certify, describe, end_pass
from .tiles import block_at, blocks_of, usual_start
from .vectors import natural


@gluon.jit
def produce(
    shared, sizes, query_map, key_map, value_map, slopes, key_norms, key_terms, ticket, previous, blocks_needed,
    mask_batch, mask_head, scale_natural, empty_mean, settings,
):  # fmt: skip
    """The producer warp where nothing differs by key: all copies, in the order in which the consumers need them."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    QUERIES: gl.constexpr = settings.QUERIES
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    set_up_barriers(shared, settings, settings.CONSUMERS)
    step = gl.to_tensor(0)
    queries_sent = gl.to_tensor(0)
    certified = gl.to_tensor(0)
    tiles = gl.cdiv(sizes.s_q, rows_per_tile)
    order = order_of(tiles, sizes, settings)
    s_kv = sizes.s_kv
    entry = no_entry(s_kv)
    passes = gl.to_tensor(1)
    number_of_pass = gl.to_tensor(0)
    # The unit of slopes in the consumers' current pass, and whether that is the first one.
    per_natural = gl.to_tensor(LOG2E)
    if natural(settings, settings.FIXED_MAX):
        per_natural = gl.to_tensor(1.0)
    within = gl.to_tensor(settings.FIXED_MAX)
    # Of a mask with rows, the group of blocks that is being walked.
    word, bits, masks = gl.to_tensor(0), gl.to_tensor(0), gl.to_tensor(0)
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
            copies = gl.to_tensor(1)
            if drawn_tiles(settings):
                done, ticket_before = tiles_done, drawn
                tiles_done, drawn, more, batch_head, tile, wanted = drawn_tile(
                    tiles_done, drawn, coming, more, number_of_pass, order, previous, shared, sizes, settings
                )
            else:
                tiles_done, more, batch_head, tile, wanted = dealt_tile(
                    tiles_done, deal, number_of_pass, order, shared, sizes, settings
                )
                deal += 1
            if settings.MASK_ROWS:
                # Elsewhere the same numbers are computed below: in front of the branch they would give other loops.
                batch = batch_head // sizes.heads
                head = batch_head - batch * sizes.heads
                first, diagonal_blocks, tail, left, right, extra, seen_from = blocks_of(
                    tile, entry, 0.0, empty_mean, sizes, settings
                )
                codes = codes_of(blocks_needed, batch, head, tile, mask_batch, mask_head, sizes, settings)
                edge_masks = gl.to_tensor(0)
                if wanted:
                    first, left, right, edge_masks, extra, seen_from, copies = cut_by_rows(
                        codes, within, tile, first, diagonal_blocks, tail, left, right, empty_mean, sizes, settings
                    )
                    wanted = copies > 0
                    if copies == 0:
                        # Its output comes from another tile.  Nobody knows of this one: its ticket is forgotten.
                        tiles_done, drawn = done, ticket_before
                        coming = gl.atomic_add(ticket, 1)
            if wanted:
                if not settings.MASK_ROWS:
                    batch = batch_head // sizes.heads
                    head = batch_head - batch * sizes.heads
                kv_head = head // sizes.group
                slope = gl.load(slopes + head) * per_natural
                if not settings.MASK_ROWS:
                    first, diagonal_blocks, tail, left, right, extra, seen_from = blocks_of(
                        tile, entry, slope, empty_mean, sizes, settings
                    )
                keyed = diagonal_blocks + tail + left + right
                blocks = keyed + extra
                certified_after = gl.to_tensor(0)
                if settings.SKIP:
                    worth = worth_a_try(slope, s_kv, settings) & (left + right > AHEAD)
                    if worth:
                        certified_after = diagonal_blocks + tail + AHEAD
                at = TilePlace(tile, batch, head, kv_head)
                cut = TileBlocks(first, diagonal_blocks, tail, extra, seen_from, copies)
                slot = queries_sent & (QUERIES - 1)
                mbarrier.wait(shared.query_empty.index(slot), ((queries_sent // QUERIES) & 1) ^ 1)
                copy_queries(query_map, batch, head, tile, slot, shared, settings)
                queries_sent += 1
                j = gl.to_tensor(0)
                while j < blocks:
                    if settings.MASK_ROWS:
                        block, reads_mask, word, bits, masks = next_block(
                            j, first, diagonal_blocks, tail, left, right, codes, wanted_of(within, settings),
                            edge_masks, word, bits, masks, sizes, BLOCK_N)  # fmt: skip
                    else:
                        block = block_at(j, first, diagonal_blocks, tail, left, right, s_kv, BLOCK_N)
                    stage = stage_of(step, settings)
                    # Once the weights of the block that was here are computed.
                    mbarrier.wait(shared.freed.index(stage), phase_of(step, settings) ^ 1, pred=step >= settings.STAGES)
                    if settings.MASK_ROWS:
                        write_block_info(shared, stage, 2 * block + reads_mask)
                        gl.thread_barrier()
                        copy_keys_if(j < keyed, key_map, batch, kv_head, block, 0, stage, shared, settings)
                    else:
                        copy_keys(key_map, batch, kv_head, block, 0, stage, shared, settings)
                    copy_values(value_map, batch, kv_head, block, 0, step, stage, shared, settings)
                    if j == 0:
                        # After the copies, which take longer.
                        describe(slot, at, cut, entry, left, right, slope, certified_after, certified, shared, settings)
                        if drawn_tiles(settings):
                            if number_of_pass == 0:
                                coming = gl.atomic_add(ticket, 1)
                    step += 1
                    j += 1
                    if settings.SKIP:
                        if j == certified_after:
                            certified, left, right = certify(
                                certified, left, right, at, cut, entry, slope, 0.0, slot, key_norms, key_terms,
                                scale_natural, shared, sizes, settings)  # fmt: skip
                            blocks = diagonal_blocks + tail + left + right
        queries_sent = end_pass(step, queries_sent, shared, settings)
        number_of_pass += 1
        if settings.FIXED_MAX:
            if number_of_pass == 1:
                passes = 1 + needs_repeat(shared, settings, 1)
                if settings.MASK_ROWS:
                    within = gl.to_tensor(False)
                if settings.ADDITIVE:
                    per_natural = gl.to_tensor(1.0)


@gluon.jit
def _told(shared, slot, field):
    return read_tile_info(shared, slot, field, 1)


@gluon.jit
def _sides_told(shared, slot, settings):
    """How many blocks to take left and right of those that are compared key by key."""
    left = _told(shared, slot, LEFT)
    right = gl.to_tensor(0)
    if settings.FORM == FORM_SYMMETRIC:
        right = _told(shared, slot, RIGHT)
    return left, right


@gluon.jit
def _copy_ahead(shared, sizes, query_map, key_map, settings):
    """Has queries and keys of this program's first tile copied before the scout tells which (MASK, D <= 64).

    Where tiles are dealt it does not depend on the mask which tile comes first, and it seldom does which keys come
    first in it.  A launch of a few tiles would notice if the wait for the mask came before that for the keys.

    Returns:
        Whether queries are on their way, and which block of keys is, or -1.
    """
    block = gl.to_tensor(-1)
    queried = gl.to_tensor(False)
    if settings.MASK and settings.D <= 64 and not drawn_tiles(settings):
        order = order_of(gl.cdiv(sizes.s_q, ROWS_PER_CONSUMER * settings.CONSUMERS), sizes, settings)
        zero = gl.to_tensor(0)
        _, _, batch_head, tile, queried = dealt_tile(zero, zero, 0, order, shared, sizes, settings)
        if queried:
            batch = batch_head // sizes.heads
            head = batch_head - batch * sizes.heads
            if not settings.LENGTHS:
                # Lengths may shift the keys.
                block = usual_start(tile, sizes, settings)
                copy_keys_ahead(key_map, batch, head // sizes.group, block, shared, settings)
            copy_queries(query_map, batch, head, tile, zero, shared, settings)
    return queried, block


@gluon.jit
def _copy_as_told(step, queries_sent, queried, ahead, shared, sizes, query_map, key_map, value_map, settings):
    """All copies of a pass, as the scout decides: (the counters that it was given).

    ``queried`` and ``ahead`` say what of the first tile is on its way already, as :func:`_copy_ahead` does.
    """
    QUERIES: gl.constexpr = settings.QUERIES
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    tile = gl.to_tensor(0)
    while tile >= 0:
        slot = queries_sent & (QUERIES - 1)
        mbarrier.wait(shared.told.index(slot), (queries_sent // QUERIES) & 1)
        tile = _told(shared, slot, TILE)
        if tile >= 0:
            batch = _told(shared, slot, BATCH)
            if not queried:
                copy_queries(query_map, batch, _told(shared, slot, HEAD), tile, slot, shared, settings)
            queried = gl.to_tensor(False)
            kv_head = _told(shared, slot, KV_HEAD)
            first = _told(shared, slot, FIRST)
            diagonal_blocks = _told(shared, slot, DIAGONAL_BLOCKS)
            left, right = _sides_told(shared, slot, settings)
            tail = gl.to_tensor(0)
            if settings.FORM == FORM_SYMMETRIC:
                tail = _told(shared, slot, TAIL)
            extra = _told(shared, slot, EXTRA)
            shift = gl.to_tensor(0)
            if tells_shift(settings):
                shift = _told(shared, slot, SHIFT)
            certified_after = gl.to_tensor(0)
            noted = gl.to_tensor(0)
            if settings.SKIP:
                noted = _told(shared, slot, CERTIFIED_AFTER)
                certified_after = noted >> 1
            keyed = diagonal_blocks + tail + left + right
            blocks = keyed + extra
            j = gl.to_tensor(0)
            while j < blocks:
                block = block_at(j, first, diagonal_blocks, tail, left, right, sizes.s_kv, BLOCK_N)
                stage = stage_of(step, settings)
                mbarrier.wait(shared.freed.index(stage), phase_of(step, settings) ^ 1, pred=step >= settings.STAGES)
                there = gl.to_tensor(False)
                if ahead >= 0:
                    # They have to be there in any case before others come to their place.
                    mbarrier.wait(shared.ahead, 0)
                    there = (ahead == block) & (j < keyed)
                    ahead = gl.to_tensor(-1)
                copy_keys_if((j < keyed) & (not there), key_map, batch, kv_head, block, shift, stage, shared, settings)
                copy_values(value_map, batch, kv_head, block, shift, step, stage, shared, settings)
                step += 1
                j += 1
                if settings.SKIP:
                    if j == certified_after:
                        mbarrier.wait(shared.certificate_ready, noted & 1)
                        left, right = _sides_told(shared, slot, settings)
                        keyed = diagonal_blocks + tail + left + right
                        blocks = keyed + extra
        queries_sent += 1
    return step, queries_sent


@gluon.jit
def produce_as_told(shared, sizes, query_map, key_map, value_map, settings):
    """The producer warp beside a scout: nothing but copies."""
    set_up_barriers(shared, settings, settings.CONSUMERS)
    queried, ahead = _copy_ahead(shared, sizes, query_map, key_map, settings)
    mbarrier.wait(shared.ready, 0)
    zero = gl.to_tensor(0)
    step, queries_sent = _copy_as_told(
        zero, zero, queried, ahead, shared, sizes, query_map, key_map, value_map, settings
    )
    if settings.FIXED_MAX:
        if needs_repeat(shared, settings, 1) != 0:
            none = gl.to_tensor(-1)
            _copy_as_told(
                step, queries_sent, gl.to_tensor(False), none, shared, sizes, query_map, key_map, value_map, settings
            )
