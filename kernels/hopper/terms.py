"""What differs by key only in the Hopper kernel: the producer makes terms of the scores of masks and positions."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

from .shared import FORM_SYMMETRIC, LARGEST, LOWEST, TERM_COLUMNS, write_block_info
from .weights import by_vector


@gluon.constexpr_function
def _by_key():
    """How the producer warp holds one number per key of a block; the other dimension is for what it writes."""
    return gl.SliceLayout(1, gl.BlockedLayout([1, 1], [32, 1], [1, 1], [0, 1]))


@gluon.jit
def ask_terms(mask, key_positions, batch, mask_column, positions_batch, start, s_kv, begin, end, settings):
    """Loads what mask and positions say of a block of keys; called a block ahead, because the answer takes its time.

    Lengths say that the keys ``begin .. end`` are there, and need no answer.
    """
    key = start + gl.arange(0, settings.BLOCK_N, layout=_by_key())
    inside = key < s_kv
    loaded = key
    position = key
    if settings.LENGTHS:
        loaded = ((key >= begin) & (key < end)).to(gl.int32)
    elif settings.MASK:
        at = mask + key.to(gl.int64) * mask_column
        loaded = gl.load(at, mask=inside, other=0)
    if settings.POSITIONS:
        at = key_positions + batch.to(gl.int64) * positions_batch + key
        position = gl.load(at, mask=inside, other=0.0)
    return loaded, position


@gluon.jit
def terms_of_keys(loaded, position, slope, own, settings):
    """What the keys of a block add to their scores, in natural units: bias by positions and mask; -inf if hidden."""
    terms = gl.zeros([settings.BLOCK_N], gl.float32, _by_key())
    if settings.POSITIONS:
        terms = slope * (position - own)
    if settings.ADDITIVE:
        added = gl.minimum(loaded.to(gl.float32), LARGEST)
        terms = gl.where(added > LOWEST, terms + added, float("-inf"))
    elif settings.MASK:
        terms = gl.where(loaded != 0, terms, float("-inf"))
    return terms


@gluon.jit
def _all_plain(loaded, start, s_kv, settings):
    """Whether a mask says nothing about the keys of a block."""
    if settings.ADDITIVE:
        says = loaded.to(gl.float32) != 0.0
    else:
        says = loaded == 0
    key = start + gl.arange(0, settings.BLOCK_N, layout=_by_key())
    if not settings.LENGTHS:
        # Behind the tensor there are zeros; behind the keys of a batch there may be anything.
        says = says & (key < s_kv)
    return gl.max(says.to(gl.int32), 0) == 0


@gluon.jit
def _put_terms(shared, stage, terms, settings):
    """Writes a block's terms as the second product takes them: cut into three bfloat16.

    They are cut and not rounded, so that what is beyond float32 is infinite in all passes alike.
    """
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    words = shared.term_tile._reinterpret(
        gl.int32, [settings.STAGES, settings.BLOCK_N, TERM_COLUMNS // 2], PLAIN
    ).index(stage)
    rest = terms
    bounded = gl.abs(rest) < float("inf")
    high = rest.to(gl.int32, bitcast=True) & -65536
    rest = gl.where(bounded, rest - high.to(gl.float32, bitcast=True), 0.0)
    middle = rest.to(gl.int32, bitcast=True) & -65536
    rest -= middle.to(gl.float32, bitcast=True)
    low = rest.to(gl.int32, bitcast=True)
    words.slice(0, 1, 1).store((((high >> 16) & 65535) | middle)[:, None])
    words.slice(1, 1, 1).store(((low >> 16) & 65535)[:, None])


@gluon.jit
def _put_vector(shared, stage, terms, kind, slope, settings):
    """Writes a block's terms and its bias relative to the block as the pass that keeps a maximum by block takes them.

    ``kind``: 1 left of the diagonal, -1 right of it, 0 where the diagonal's block adds the bias itself.
    """
    vector = terms
    if not settings.POSITIONS:
        lane = gl.arange(0, settings.BLOCK_N, layout=_by_key())
        vector += (slope * kind.to(gl.float32)) * lane.to(gl.float32)
    shared.vector_tile.index(stage).store(vector)


@gluon.jit
def find_plain(plain_from, plain_to, loaded, block, asked, within, s_kv, settings):
    """Looks whether a block is plain (nothing is said of its keys), if it was ``asked`` about in the first pass.

    Returns:
        From which block to which it is known now that nothing is said, and whether something is said of this one.
    """
    has_terms = asked
    if asked & within:
        has_terms = not _all_plain(loaded, block * settings.BLOCK_N, s_kv, settings)
        if not has_terms:
            # The blocks of a tile come in order: what is plain becomes one range.
            none = plain_from == plain_to
            plain_from = gl.where(none | (block == plain_from - 1), block, plain_from)
            plain_to = gl.where(none | (block == plain_to), block + 1, plain_to)
    return plain_from, plain_to, has_terms


@gluon.jit
def write_terms(
    stages_with_terms, has_terms, terms, within, per_scale, per_natural, slope, j, edges, left, stage, shared, settings,
):  # fmt: skip
    """Writes what a block's keys add to their scores to its stage, as the consumers' current pass takes it.

    Args:
        stages_with_terms: A bit for every stage whose terms are not zero.
        has_terms: Whether those of the block may be other than zero.
        terms: What its keys add, in natural units.
        within: Whether the consumers are in the first pass.
        per_scale: What makes products of scores (first pass).
        per_natural, slope: The unit of scores, and the slope in it (second pass, or by vector).
        j, edges, left: The block comes as the ``j``-th; so many are compared key by key; so many lie left of those.
        stage: Where the block goes.
        shared, settings: What all partitions share.

    Returns:
        ``stages_with_terms`` from now on.
    """
    if within & (not by_vector(settings, settings.FIXED_MAX)):
        # Zeros where a block that is plain comes to a stage whose terms are not.
        terms = gl.where(has_terms, terms * per_scale, 0.0)
        bit = 1 << stage
        stages_with_terms = gl.where(has_terms, stages_with_terms | bit, stages_with_terms & ~bit)
        if settings.TERMS:
            _put_terms(shared, stage, terms, settings)
            # The tensor cores read what threads wrote.
            fence_async_shared()
        else:
            shared.vector_tile.index(stage).store(terms)
            write_block_info(shared, stage, has_terms.to(gl.int32))
    else:
        kind = gl.where(j < edges + left, 1, -1)
        if settings.FORM == FORM_SYMMETRIC:
            kind = gl.where(j < edges, 0, kind)
        _put_vector(shared, stage, terms * per_natural, kind, slope, settings)
    gl.thread_barrier()
    return stages_with_terms
