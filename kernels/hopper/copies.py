"""The bulk copies of the Hopper kernel's producer: queries, keys and values, each to its place in shared memory."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .shared import ROWS_PER_CONSUMER, phase_of, stage_of


@gluon.jit
def _place_of(block, shift, settings):
    """Where a block begins in memory: with LENGTHS ``shift`` keys before the one that it begins with."""
    place = block * settings.BLOCK_N
    if settings.LENGTHS:
        place -= shift
    return place


@gluon.jit
def copy_keys(key_map, batch, kv_head, block, shift, stage, shared, settings):
    """Has the keys of a block copied to a stage."""
    mbarrier.expect(shared.key_full.index(stage), key_map.block_type.nbytes)
    tma.async_copy_global_to_shared(
        key_map, [batch, kv_head, _place_of(block, shift, settings), 0], shared.key_full.index(stage),
        shared.key_tile.index(stage))  # fmt: skip


@gluon.jit
def copy_keys_ahead(key_map, batch, kv_head, block, shared, settings):
    """Has the keys that a program will probably need first copied to the first stage."""
    mbarrier.expect(shared.ahead, key_map.block_type.nbytes)
    tma.async_copy_global_to_shared(
        key_map, [batch, kv_head, block * settings.BLOCK_N, 0], shared.ahead, shared.key_tile.index(0))  # fmt: skip


@gluon.jit
def copy_keys_if(needed, key_map, batch, kv_head, block, shift, stage, shared, settings):
    """As :func:`copy_keys`, if they are ``needed``: a block of the mean of all values takes no keys."""
    if needed:
        copy_keys(key_map, batch, kv_head, block, shift, stage, shared, settings)
    else:
        mbarrier.arrive(shared.key_full.index(stage), count=1)


@gluon.jit
def copy_values(value_map, batch, kv_head, block, shift, step, stage, shared, settings):
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
def copy_queries(query_map, batch, head, tile, slot, shared, settings):
    """Has the queries of a tile copied to a slot, a part for each consumer."""
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    mbarrier.expect(shared.query_full.index(slot), query_map.block_type.nbytes * settings.CONSUMERS)
    for w in gl.static_range(settings.CONSUMERS):
        tma.async_copy_global_to_shared(
            query_map, [batch, head, tile * rows_per_tile + w * ROWS_PER_CONSUMER, 0], shared.query_full.index(slot),
            shared.query_tile.index(slot * settings.CONSUMERS + w))  # fmt: skip
