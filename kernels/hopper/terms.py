"""What differs by key only in the Hopper kernel: the scout makes terms of the scores of masks and positions."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

from .shared import FORM_SYMMETRIC, LARGEST, LOWEST, TERM_COLUMNS
from .vectors import by_vector


@gluon.constexpr_function
def _by_key():
    """How the scout's warp holds one number per key of a block; the other dimension is for what it writes."""
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
        if settings.TERMS:
            # What the lanes add stays the same.
            lane = gl.arange(0, settings.BLOCK_N, layout=_by_key())
            at = mask + start.to(gl.int64) * mask_column + lane.to(gl.int64) * mask_column
        else:
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
def _words_of(shared, stage, settings):
    """The terms of a stage, two bfloat16 at a time."""
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    return shared.term_tile._reinterpret(gl.int32, [settings.STAGES, settings.BLOCK_N, TERM_COLUMNS // 2], PLAIN).index(
        stage
    )


@gluon.jit
def _put_terms(shared, stage, terms, settings):
    """Writes a block's terms as the second product takes them: cut into three bfloat16.

    They are cut and not rounded, so that what is beyond float32 is infinite in all passes alike.
    """
    words = _words_of(shared, stage, settings)
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
def _put_hidden(shared, stage, terms, settings):
    """As :func:`_put_terms`, of terms that are infinite or zero: one bfloat16 says so, and the other two stay zero."""
    words = _words_of(shared, stage, settings)
    words.slice(0, 1, 1).store(((terms.to(gl.int32, bitcast=True) >> 16) & 65535)[:, None])


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
def write_terms(terms, per_scale, per_natural, slope, j, edges, left, stage, shared, settings, FIXED_MAX: gl.constexpr):
    """Writes what a block's keys add to their scores to its stage, as the consumers' current pass takes it.

    Args:
        terms: What its keys add, in natural units.
        per_scale: What makes products of scores (they are added to products, or are a product of their own).
        per_natural, slope: The unit of scores, and the slope in it (a vector brings the whole bias).
        j, edges, left: The block comes as the ``j``-th; so many are compared key by key; so many lie left of those.
        stage: Where the block goes.
        shared, settings: What all partitions share.
        FIXED_MAX: That of the pass.
    """
    if by_vector(settings, FIXED_MAX):
        kind = gl.where(j < edges + left, 1, -1)
        if settings.FORM == FORM_SYMMETRIC:
            kind = gl.where(j < edges, 0, kind)
        _put_vector(shared, stage, terms * per_natural, kind, slope, settings)
    elif settings.TERMS:
        if settings.ADDITIVE or settings.POSITIONS:
            _put_terms(shared, stage, terms * per_scale, settings)
        else:
            _put_hidden(shared, stage, terms * per_scale, settings)
        # The tensor cores read what threads wrote.
        fence_async_shared()
    else:
        shared.vector_tile.index(stage).store(terms * per_scale)
