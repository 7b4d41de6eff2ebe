"""Values at hidden keys in the Hopper kernel: a weight of zero times NaN is NaN, so they are cleared.

The first pass does not look at values.  A tile whose result is not finite is done again, and in the second pass the
values of keys that a mask hides become zero in shared memory before they are multiplied.  All consumers clear the same
values, so it does not matter which of them comes first, nor that one multiplies what another is clearing again.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from .shared import phase_of, stage_of


@gluon.constexpr_function
def _piece(settings):
    """Keys whose values are looked at at once: few, because there are few registers left."""
    return 16


@gluon.constexpr_function
def _by_value(settings):
    """How a consumer holds the values of some keys."""
    lanes = min(32, settings.V // 8)
    return gl.BlockedLayout([1, 8], [32 // lanes, lanes], [4, 1], [1, 0])


@gluon.jit
def _values_of(step, me):
    """The values of block ``step``, once they are there."""
    settings = me.settings
    stage = stage_of(step, settings)
    mbarrier.wait(me.shared.value_full.index(stage), phase_of(step, settings))
    return me.shared.value_tile.index(stage).reshape([settings.BLOCK_N, settings.V])


@gluon.jit
def _finite(values):
    return gl.abs(values.to(gl.float32)) < float("inf")


@gluon.jit
def _clear(values, terms, settings):
    """Clears the values of keys whose term is -inf."""
    BY_VALUE: gl.constexpr = _by_value(settings)
    PIECE: gl.constexpr = _piece(settings)
    for i in gl.static_range(settings.BLOCK_N // PIECE):
        piece = values.slice(i * PIECE, PIECE, 0)
        hidden = terms.slice(i * PIECE, PIECE).load(gl.SliceLayout(1, BY_VALUE)) == float("-inf")
        found = piece.load(BY_VALUE)
        piece.store(gl.where(hidden[:, None], gl.zeros_like(found), found))
    # The tensor cores read what threads wrote; the warps meet before they ask them to.
    fence_async_shared()


@gluon.jit
def clear_hidden(step, vector, me):
    """Clears the values of those keys of block ``step`` that the mask hides (second pass).

    Args:
        step: Which block of the stream it is; its stage has not been given back yet.
        vector: What differs by key only.
        me: The consumer.
    """
    settings = me.settings
    if gl.max((vector == float("-inf")).to(gl.int32), 0) != 0:
        _clear(_values_of(step, me), me.shared.vector_tile.index(stage_of(step, settings)), settings)


@gluon.jit
def clear_strange(step, me):
    """Clears what is not finite in a block of the mean of all values (second pass).

    Rows that see keys have no weights there, and what the others yield then is the mean of the finite values.
    """
    settings = me.settings
    BY_VALUE: gl.constexpr = _by_value(settings)
    PIECE: gl.constexpr = _piece(settings)
    values = _values_of(step, me)
    for i in gl.static_range(settings.BLOCK_N // PIECE):
        piece = values.slice(i * PIECE, PIECE, 0)
        found = piece.load(BY_VALUE)
        piece.store(gl.where(_finite(found), found, gl.zeros_like(found)))
    fence_async_shared()
