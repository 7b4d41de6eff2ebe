"""Weights that outgrow float16 in the first pass of the Hopper kernel: the fixed maximum of their rows is lifted.

The maximum of a row is looked for in its first blocks and then stays.  A later score may exceed it by more than float16
has room for.  Weights are float32 until they are multiplied with values, so nothing is lost if that is noticed before:
they and all that was added up are scaled down, and the maximum is lifted by as much.

The look at the weights comes while the next scores are on their way, for which the consumer waits anyway.  Every warp
decides for its own 16 rows.  Nothing in ``_lifted`` needs the other warps, and a vote of all four would cost a meeting
per block.  Triton knows no number that is one for each warp: its scalars are the same in all of them.  So the outcome
of a vote goes through a register of PTX that the consumer declares for itself, past the compiler.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .products import packed_weights, rescaled

ROOM = gl.constexpr(3.0)
"""The largest weight of a lifted row is 2^-ROOM.  It may grow by 2^18 before the row is lifted again, and the row's sum
is not below LEAST_TOTAL."""
UNSEEN = gl.constexpr(24.0)
"""By how many powers of two below a score of zero a row starts that sees no key of the first block.  Its maximum may be
lifted by MOST later, and it cannot be lowered."""
MOST = gl.constexpr(125.0)
"""A row that would have to be lifted by more powers of two is left to the second pass: the factor has no value."""


@gluon.constexpr_function
def lifts(me):
    """Whether maxima are lifted in this pass."""
    return me.FIXED_MAX and me.settings.LIFTS


@gluon.constexpr_function
def _declares(WHO):
    return f".reg .b32 alibi_outgrown_{WHO}; mov.b32 $0, $1;"


@gluon.constexpr_function
def _votes(WHO):
    """Whether one of two float16 is 2^15 or more: of positive numbers the order is that of integers."""
    return (
        "{ .reg .pred above; .reg .b32 low; shl.b32 low, $1, 16; max.u32 low, low, $1; "
        "setp.ge.u32 above, low, 0x78000000; vote.sync.any.pred above, above, 0xffffffff; "
        f"selp.b32 alibi_outgrown_{WHO}, 1, 0, above; mov.b32 $0, $1; }}"
    )


@gluon.constexpr_function
def _reads(WHO):
    return f"mov.b32 $0, alibi_outgrown_{WHO};"


@gluon.jit
def declare_outgrown(me):
    """Declares this consumer's register; once."""
    gl.inline_asm_elementwise(_declares(me.WHO), "=r,r", [gl.to_tensor(0)], gl.int32, False, 1)


@gluon.jit
def _larger_halves(one, other):
    return gl.inline_asm_elementwise("max.u16x2 $0, $1, $2;", "=r,r,r", [one, other], gl.int32, True, 1)


@gluon.jit
def _outgrown(packed, me):
    """Whether a weight of this warp is 2^15 or more (the largest float16 is just below 2^16)."""
    # Warps, twins, rows of a warp, eights of columns, lanes of a row.
    parts = packed.reshape([4, 2, 8, me.settings.BLOCK_N // 8, 4])
    largest = gl.reduce(gl.reduce(parts, 3, _larger_halves), 1, _larger_halves)
    gl.inline_asm_elementwise(_votes(me.WHO), "=r,r", [largest], gl.int32, False, 1)
    return gl.inline_asm_elementwise(_reads(me.WHO), "=r,r", [gl.to_tensor(0)], gl.int32, False, 1) != 0


@gluon.jit
def _lifted(weights, out, sums, peak):
    """Weights, output and sums scaled down by row so that the weights have room, and the maxima lifted by as much."""
    up = gl.maximum(gl.log2(gl.max(weights, 1)) + ROOM, 0.0)
    up = gl.where(up > MOST, float("inf"), up)
    found = gl.where(peak == float("-inf"), 0.0, peak)
    new_peak = found + up
    # What the maximum was lifted by, as rounded.
    keep = gl.exp2(found - new_peak)
    out, sums = rescaled(out, sums, keep)
    return weights * keep[:, None], out, sums, gl.where(up > 0.0, new_peak, peak)


@gluon.jit
def settled(packed, weights, out, sums, peak, me):
    """Rounds the weights of a block, which are not added yet, and lifts rows that they outgrow.

    Returns:
        The weights, two neighbours in 32 bits; output; sums; maxima.
    """
    if _outgrown(packed, me):
        weights, out, sums, peak = _lifted(weights, out, sums, peak)
        packed = packed_weights(weights)
    return packed, out, sums, peak
