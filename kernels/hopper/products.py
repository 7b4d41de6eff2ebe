"""The matrix products of a consumer of the Hopper kernel: scores, and what weights add to the output and their sums."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma

from .shared import COUNTS, ROWS_PER_CONSUMER, phase_of, stage_of
from .state import scores_layout


@gluon.constexpr_function
def sums_layout(columns):
    """How a warpgroup holds what it adds up by products: 64 rows of ``columns``."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16])


@gluon.jit
def query_of(queries_seen, me):
    """This warpgroup's rows of the tile whose queries come after ``queries_seen`` others."""
    settings = me.settings
    slot = (queries_seen & (settings.QUERIES - 1)) * settings.CONSUMERS + me.WHO
    return me.shared.query_tile.index(slot).reshape([ROWS_PER_CONSUMER, settings.D])


@gluon.jit
def ask_scores(step, queries_seen, me):
    """Asks for the scores of block ``step``; with TERMS, for what differs by key only with them."""
    settings = me.settings
    shared = me.shared
    SCORES: gl.constexpr = scores_layout(settings)
    stage = stage_of(step, settings)
    mbarrier.wait(shared.key_full.index(stage), phase_of(step, settings))
    key = shared.key_tile.index(stage).reshape([settings.BLOCK_N, settings.D])
    zero = gl.zeros([ROWS_PER_CONSUMER, settings.BLOCK_N], dtype=gl.float32, layout=SCORES)
    query = query_of(queries_seen, me)
    scores = warpgroup_mma(query, key.permute((1, 0)), zero, use_acc=False, is_async=True)
    if settings.TERMS and me.FIXED_MAX:
        terms = shared.term_tile.index(stage)
        scores = warpgroup_mma(shared.picks, terms.permute((1, 0)), scores, is_async=True)
    return scores


@gluon.jit
def rounded_weights(weights, me):
    """The weights of a block as the product with its values takes them."""
    OUT: gl.constexpr = sums_layout(me.settings.V)
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    return gl.convert_layout(weights.to(me.shared.query_tile.dtype), WEIGHTS)


@gluon.jit
def packed_weights(weights):
    """The weights of a block as float16, two neighbours in 32 bits.

    A branch may change them, and 16-bit values that come out of a branch are taken apart and put together again.
    """
    low, high = gl.split(weights.reshape([ROWS_PER_CONSUMER, weights.shape[1] // 2, 2]))
    return gl.inline_asm_elementwise("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [low, high], gl.int32, True, 1)


@gluon.jit
def unpacked_weights(packed, me):
    """The same as the product with values takes them."""
    OUT: gl.constexpr = sums_layout(me.settings.V)
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    low, high = gl.inline_asm_elementwise(
        "mov.b32 {$0, $1}, $2;", "=h,=h,r", [packed], (gl.float16, gl.float16), True, 1
    )
    return gl.convert_layout(gl.join(low, high).reshape([ROWS_PER_CONSUMER, me.settings.BLOCK_N]), WEIGHTS)


@gluon.jit
def await_values(step, me):
    """Waits for the values of block ``step``."""
    stage = stage_of(step, me.settings)
    mbarrier.wait(me.shared.value_full.index(stage), phase_of(step, me.settings))


@gluon.jit
def add_awaited_values(rounded, out, sums, more, step, me):
    """As :func:`add_values`, once the values are there."""
    settings = me.settings
    shared = me.shared
    COUNT: gl.constexpr = sums_layout(COUNTS)
    value = shared.value_tile.index(stage_of(step, settings)).reshape([settings.BLOCK_N, settings.V])
    adding = warpgroup_mma(rounded, value, out, use_acc=more, is_async=True)
    counted = gl.convert_layout(rounded, gl.DotOperandLayout(operand_index=0, parent=COUNT, k_width=2))
    counting = warpgroup_mma(counted, shared.ones.permute((1, 0)), sums, use_acc=more, is_async=True)
    return adding, counting


@gluon.jit
def add_values(rounded, out, sums, more, step, me):
    """Asks for what the weights of block ``step`` add to the output and to their sums.

    Without ``more`` they overwrite what is there, whatever it is.
    """
    await_values(step, me)
    return add_awaited_values(rounded, out, sums, more, step, me)


@gluon.jit
def multiply(weights, out, sums, more, step, queries_seen, me):
    """Asks for the scores of block ``step`` and for what the weights of the one before add."""
    # Converted here: values of 16 bits carried from step to step would be unpacked and packed again.
    rounded = rounded_weights(weights, me)
    scoring = ask_scores(step, queries_seen, me)
    adding, counting = add_values(rounded, out, sums, more, step - 1, me)
    return scoring, adding, counting


@gluon.jit
def rescaled(out, sums, factor):
    """Output and sums of weights, times one number per row."""
    out = out * gl.convert_layout(factor, gl.SliceLayout(1, out.type.layout))[:, None]
    sums = sums * gl.convert_layout(factor, gl.SliceLayout(1, sums.type.layout))[:, None]
    return out, sums
