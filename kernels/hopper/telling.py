"""What the consumers of the Hopper kernel are told of a tile, by the producer or, where there is one, by the scout."""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from ..aggregate import aggregate
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
    KV_HEAD,
    LEFT,
    RIGHT,
    SEEN_FROM,
    SHIFT,
    SLOPE,
    TAIL,
    TILE,
    release,
    scouts,
    tells_shift,
    write_block_info,
    write_tile_info,
)
from .skipping import needed_blocks


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
    copies: gl.tensor


@gluon.jit
def end_pass(step, queries_sent, shared, settings):
    """Tells the consumers that there is no tile and the pass is over; how many queries were sent, these included."""
    QUERIES: gl.constexpr = settings.QUERIES
    slot = queries_sent & (QUERIES - 1)
    mbarrier.wait(shared.query_empty.index(slot), ((queries_sent // QUERIES) & 1) ^ 1)
    write_tile_info(shared, slot, TILE, -1)
    if scouts(settings):
        mbarrier.arrive(shared.told.index(slot), count=1)
    if settings.MASK_ROWS:
        if step == 0:
            # No mask is to be read for the scores of which the next comment speaks.
            write_block_info(shared, 0, 0)
    mbarrier.arrive(shared.query_full.index(slot), count=2)
    queries_sent += 1
    if step == 0:
        # This program had no tile.  Its consumers ask for the first scores before they know.
        mbarrier.arrive(shared.key_full.index(0), count=2 if scouts(settings) else 1)
    return queries_sent


@gluon.jit
def describe(slot, at, cut, entry, left, right, slope, certified_after, certified, shared, settings):
    """Tells the consumers what a tile is (the fields are explained in ``shared``).

    The slope comes last, because it has to be loaded.  The barrier is full when both queries and info are there.  With
    a scout the producer is told, too, and need not wait for the slope.
    """
    write_tile_info(shared, slot, TILE, at.tile)
    write_tile_info(shared, slot, BATCH, at.batch)
    write_tile_info(shared, slot, HEAD, at.head)
    write_tile_info(shared, slot, FIRST, cut.first)
    write_tile_info(shared, slot, DIAGONAL_BLOCKS, cut.diagonal_blocks)
    if (settings.MASK or settings.MASK_ROWS) and settings.FORM == FORM_CAUSAL:
        write_tile_info(shared, slot, COPIES, cut.copies)
    else:
        write_tile_info(shared, slot, TAIL, cut.tail)
    write_tile_info(shared, slot, LEFT, left)
    write_tile_info(shared, slot, RIGHT, right)
    write_tile_info(shared, slot, EXTRA, cut.extra)
    write_tile_info(shared, slot, SEEN_FROM, cut.seen_from)
    if settings.MASK:
        write_tile_info(shared, slot, BEGIN, entry.begin_near)
        write_tile_info(shared, slot, END, entry.end_near)
    if settings.SKIP:
        write_tile_info(shared, slot, CERTIFIED_AFTER, 2 * certified_after + (certified & 1))
    if scouts(settings):
        write_tile_info(shared, slot, KV_HEAD, at.kv_head)
        if tells_shift(settings):
            write_tile_info(shared, slot, SHIFT, entry.shift)
        release(shared.told.index(slot))
    write_tile_info(shared, slot, SLOPE, slope.to(gl.int32, bitcast=True))
    mbarrier.arrive(shared.query_full.index(slot), count=1)


@gluon.jit
def certify(
    certified, left, right, at, cut, entry, slope, own, slot, key_norms, key_terms, scale_natural, shared, sizes,
    settings,
):  # fmt: skip
    """Makes the certificate of a tile, once its near blocks are weighed (SKIP).

    Returns:
        How many certificates were made so far, and how many blocks the tile takes left and right of the diagonal.
    """
    mbarrier.wait(shared.weighed, certified & 1)
    certified += 1
    left, right = needed_blocks(
        shared, key_norms, key_terms, at.batch, at.head, at.kv_head, at.tile, cut.first, cut.diagonal_blocks, left,
        right, slope, own, entry.end, entry.shift, scale_natural, sizes, settings)  # fmt: skip
    write_tile_info(shared, slot, LEFT, left)
    write_tile_info(shared, slot, RIGHT, right)
    mbarrier.arrive(shared.certificate_ready, count=1)
    return certified, left, right
