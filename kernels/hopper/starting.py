"""How a consumer of the Hopper kernel starts a tile: what it is told, where its row maxima start, its first weights."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .hidden import clear_hidden
from .lifting import UNSEEN, lifts
from .peaks import first_peaks
from .rows import block_info_of
from .shared import (  # fmt: skip
    BEGIN,
    DIAGONAL_BLOCKS,
    END,
    FIRST,
    FORM_SYMMETRIC,
    LEFT,
    RIGHT,
    ROWS_PER_CONSUMER,
    SLOPE,
    TAIL,
    TILE,
    clears_hidden,
    read_tile_info,
    stage_of,
)
from .state import Anchors, BiasLine, NearBlocks
from .vectors import masked, told_of_terms, vector_of, with_terms
from .weights import edge_weights


@gluon.jit
def start_tile(products, step, queries_seen, me):
    """Reads what is told of a tile and makes weights of its first block; nothing is rescaled there.

    Returns:
        The tile's near blocks, how many blocks lie left and right of them, its bias, the row maxima, where those
        started, and the weights.
    """
    settings = me.settings
    shared = me.shared
    sizes = me.sizes
    slot = queries_seen & (settings.QUERIES - 1)
    tile = read_tile_info(shared, slot, TILE)
    first = read_tile_info(shared, slot, FIRST)
    diagonal_blocks = read_tile_info(shared, slot, DIAGONAL_BLOCKS)
    edges = diagonal_blocks
    right = gl.to_tensor(0)
    if settings.FORM == FORM_SYMMETRIC:
        edges += read_tile_info(shared, slot, TAIL)
        right = read_tile_info(shared, slot, RIGHT)
    left = read_tile_info(shared, slot, LEFT)
    slope = read_tile_info(shared, slot, SLOPE).to(gl.float32, bitcast=True)
    reference = tile * (ROWS_PER_CONSUMER * settings.CONSUMERS) + sizes.s_kv - sizes.s_q
    row_as_key = reference + me.WHO * ROWS_PER_CONSUMER + me.row
    shift = slope * (me.WHO * ROWS_PER_CONSUMER + me.row).to(gl.float32)
    reach = gl.zeros_like(shift)
    if settings.MASK:
        beyond = gl.maximum(
            row_as_key - read_tile_info(shared, slot, END) + 1, read_tile_info(shared, slot, BEGIN) - row_as_key
        )
        reach = slope * gl.maximum(beyond, 0).to(gl.float32)
    products = with_terms(products, told_of_terms(step, me), step, me)
    start = first * settings.BLOCK_N
    said = block_info_of(shared, stage_of(step, settings), settings)[1], start, tile, slot
    if me.FIXED_MAX:
        products = masked(products, said, me)
    line = BiasLine(slope, reference, row_as_key, shift)
    peak, before, behind = first_peaks(products, start, line, reach, left, me)
    vector = vector_of(step, me)
    SEARCHES: gl.constexpr = not (me.FIXED_MAX and settings.MAX_FROM_RAW_SCORES)
    weights, _, peak = edge_weights(products, peak, vector, start, said, line, me, SEARCHES, True)
    if lifts(me) and (settings.MASK or settings.MASK_ROWS):
        # A row that sees no key there starts low.  If that was far too much or too little, its tile is done again.
        peak = gl.where(peak == float("-inf"), -UNSEEN, peak)
    if clears_hidden(settings) and not me.FIXED_MAX:
        clear_hidden(step, vector, me)
    return NearBlocks(tile, first, diagonal_blocks, edges), left, right, line, peak, Anchors(before, behind), weights
