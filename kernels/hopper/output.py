"""The end of a tile in the Hopper kernel: division, the verdict on its rows, the way to memory."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from .shared import (
    BATCH,
    COPIES,
    FORM_CAUSAL,
    HEAD,
    ROWS_PER_CONSUMER,
    SEEN_FROM,
    TILE,
    add_to_repeat_mask,
    clears_hidden,
    read_tile_info,
)

LARGEST_TOTAL = gl.constexpr(1.2379400392853803e27)
"""2^90: far from the largest float32, also after the product with a value of up to 2^37."""


@gluon.constexpr_function
def knows_empty(settings):
    """Whether it is known of a tile which of its first rows see no key, before they are weighed (SEEN_FROM).

    In the forms without a diagonal all rows see the same keys; without any, their tile is left to the second pass.
    """
    return (settings.MASK or settings.MASK_ROWS) and settings.FORM == FORM_CAUSAL


@gluon.constexpr_function
def goes_to_several(settings):
    """Whether a tile's output may go to other tiles, too: the mean of rows that see no key (causal form)."""
    return knows_empty(settings)


@gluon.jit
def destination_of(slot, me):
    """Batch, head, tile, the key from which on rows see one, and COPIES: what a tile's end needs to know.

    It is read again, because it would take registers in the loop between.
    """
    seen_from = gl.to_tensor(0)
    copies = gl.to_tensor(1)
    if knows_empty(me.settings):
        seen_from = read_tile_info(me.shared, slot, SEEN_FROM)
    if goes_to_several(me.settings):
        copies = read_tile_info(me.shared, slot, COPIES)
    return (read_tile_info(me.shared, slot, BATCH), read_tile_info(me.shared, slot, HEAD),
            read_tile_info(me.shared, slot, TILE), seen_from, copies)  # fmt: skip


@gluon.jit
def _either(one, other):
    return one | other


@gluon.jit
def finish(out, sums, repeat_mask, destination, tiles_done, output_map, me):
    """Divides by the sums of the weights and stores; marks the tile's bit for rows that are not to be trusted.

    Rows that are not to be trusted are stored, too, and overwritten when their tile is done again.  So no warp has to
    know what the others found.

    Args:
        out: What the weights of all blocks have added to the output, [64, V].
        sums: The sums of the weights in every column, [64, COUNTS].
        repeat_mask: [64], a bit for each of the last 32 tiles whose row is not to be trusted (first pass).
        destination: Batch, head, tile, the key from which on rows see one, to how many tiles the output goes.
        tiles_done: How many tiles this consumer has done before.
        output_map: Where the output goes.  The shared memory on its way has to be free, and all warps have to know it.
        me: The consumer.

    Returns:
        ``repeat_mask`` with this tile's bit.
    """
    settings = me.settings
    batch, head, tile, seen_from, copies = destination
    first_row = tile * (ROWS_PER_CONSUMER * settings.CONSUMERS) + me.WHO * ROWS_PER_CONSUMER
    total = gl.max(sums, 1)
    if me.FIXED_MAX:
        row_as_key = first_row + me.row + me.sizes.s_kv - me.sizes.s_q
        # Comparisons with NaN are false.  Nothing is expected of rows beyond the last one, which are never stored, nor
        # of those that see no key.
        weight = gl.convert_layout(total, me.row.type.layout)
        sound = (weight < LARGEST_TOTAL) & (weight > settings.LEAST_TOTAL)
        if clears_hidden(settings):
            # Zero if all are finite, else NaN.  A value at a hidden key may be the reason (``hidden``).
            strange = gl.sum(out * 0.0, 1)
            sound = sound & (gl.convert_layout(strange, me.row.type.layout) == 0.0)
        sound = sound | (row_as_key >= me.sizes.s_kv)
        if knows_empty(settings):
            sound = sound | ((row_as_key < seen_from) & (weight == 0.0))
        repeat_mask = repeat_mask | gl.where(sound, 0, 1 << (tiles_done & 31))
    inverse = 1.0 / total
    if knows_empty(settings) or ((settings.MASK or settings.MASK_ROWS) and not me.FIXED_MAX):
        inverse = gl.where(total == 0.0, 0.0, inverse)
    out = out * gl.convert_layout(inverse, gl.SliceLayout(1, out.type.layout))[:, None]
    output = me.shared.output_tile.index(me.WHO)
    output.reshape([ROWS_PER_CONSUMER, settings.V]).store(out.to(output.dtype))
    fence_async_shared()
    if goes_to_several(settings):
        while copies > 0:
            tma.async_copy_shared_to_global(output_map, [batch, head, first_row, 0], output)
            first_row += ROWS_PER_CONSUMER * settings.CONSUMERS
            copies -= 1
    else:
        tma.async_copy_shared_to_global(output_map, [batch, head, first_row, 0], output)
    return repeat_mask


@gluon.jit
def wait_written():
    """Waits until this warpgroup's copies to the output are written, not only read: others will overwrite them."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    lanes = gl.full([128], 0, gl.int32, LAYOUT)
    gl.inline_asm_elementwise("cp.async.bulk.wait_group 0; mov.b32 $0, $1;", "=r,r", [lanes], gl.int32, False, 1)


@gluon.jit
def hand_over_repeat_mask(repeat_mask, tiles_done, shared, WHO: gl.constexpr):
    """Hands the marks of the last 32 tiles, one bit each, to the producer or the scout; 1 if there are any, else 0."""
    found = gl.reduce(repeat_mask, 0, _either)
    add_to_repeat_mask(shared, tiles_done, found, WHO)
    return gl.where(found != 0, 1, 0)
