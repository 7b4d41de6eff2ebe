"""The end of a tile in the Hopper kernel: division, the verdict on its rows, the way to memory."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from .shared import ROWS, doubt

LARGEST_TOTAL = gl.constexpr(1.152921504606847e18)
"""2^60: far from the largest float32, also after the product with a value of up to 2^67."""


@gluon.jit
def _either(one, other):
    return one | other


@gluon.jit
def finish(
    out, sums, doubts, shared, output_map, place, turn, row, sizes, settings, STEADY: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """Divides by the sums of the weights and stores; marks the bit of the turn for rows that are not to be trusted.

    ``place`` is batch, head, tile and the key from which on rows see one.  The shared memory that the output goes by
    way of has to be free, and all warps have to know it.

    What is not to be trusted is stored too, and overwritten when its tile is done again: so no warp has to know what
    the others found.
    """
    batch, head, tile, seen_from = place
    first_row = tile * (ROWS * settings.CONSUMERS) + WHO * ROWS
    total = gl.max(sums, 1)
    if STEADY:
        row_as_key = first_row + row + sizes.s_kv - sizes.s_q
        # (Comparisons with NaN are false.)  Of rows beyond the last one, which are never stored, and of those that see
        # no key nothing is to be expected.
        weight = gl.convert_layout(total, row.type.layout)
        sound = (weight < LARGEST_TOTAL) & (weight > settings.LEAST_TOTAL)
        sound = sound | (row_as_key >= sizes.s_kv)
        if settings.MASK:
            sound = sound | ((row_as_key < seen_from) & (weight == 0.0))
        doubts = doubts | gl.where(sound, 0, 1 << (turn & 31))
    inverse = 1.0 / total
    if settings.MASK or settings.MASK_ROWS:
        inverse = gl.where(total == 0.0, 0.0, inverse)
    out = out * gl.convert_layout(inverse, gl.SliceLayout(1, out.type.layout))[:, None]
    output = shared.output_tile.index(WHO)
    output.reshape([ROWS, settings.V]).store(out.to(output.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(output_map, [batch, head, first_row, 0], output)
    return doubts


@gluon.jit
def wait_written():
    """Waits until this warpgroup's copies to the output are written, not only read: others will overwrite them."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    lanes = gl.full([128], 0, gl.int32, LAYOUT)
    gl.inline_asm_elementwise("cp.async.bulk.wait_group 0; mov.b32 $0, $1;", "=r,r", [lanes], gl.int32, False, 1)


@gluon.jit
def mark_doubts(doubts, turn, shared, WHO: gl.constexpr):
    """Hands the marks of the last 32 turns, one bit each, to the producer; 1 if there are any, else 0."""
    found = gl.reduce(doubts, 0, _either)
    doubt(shared, turn, found, WHO)
    return gl.where(found != 0, 1, 0)
