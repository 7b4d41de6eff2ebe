"""What masks, positions and key biases add to the products of a consumer of the Hopper kernel."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .rows import with_mask
from .shared import LOG2E, stage_has_terms, stage_of
from .state import scores_layout


@gluon.constexpr_function
def by_vector(settings, FIXED_MAX):
    """Whether a vector brings what differs by key only, bias included; else the products have it already.

    Positions and a key bias say something about every key (EVERY), and so do masks with TERMS.  Where they do not come
    by a product of their own (TERMS), a vector in the FMA's addend costs an addition for two scores; a vector
    added to the products would cost one for each.
    """
    if settings.EVERY:
        return not (FIXED_MAX and settings.TERMS)
    return settings.MASK and not FIXED_MAX


@gluon.constexpr_function
def natural(settings, FIXED_MAX):
    """Whether scores are in natural units: where the maximum is kept block by block, with an additive mask."""
    return settings.ADDITIVE and not FIXED_MAX


@gluon.jit
def vector_of(step, me):
    """What the scout computed for the keys of a block: bias, or -inf where a key is hidden (``by_vector``)."""
    vector = me.column.to(gl.float32)
    if by_vector(me.settings, me.FIXED_MAX):
        LAYOUT: gl.constexpr = gl.SliceLayout(0, scores_layout(me.settings))
        vector = me.shared.vector_tile.index(stage_of(step, me.settings)).load(LAYOUT)
    return vector


@gluon.constexpr_function
def _adds_terms(settings, FIXED_MAX):
    """Whether terms are added to products: those of masks by key that do not come by a product of their own (TERMS)."""
    return FIXED_MAX and settings.MASK and not (settings.TERMS or settings.EVERY)


@gluon.jit
def told_of_terms(step, me):
    """Whether the keys of a block have terms to be added; asked before the products are waited for."""
    told = gl.to_tensor(False)
    if _adds_terms(me.settings, me.FIXED_MAX):
        told = stage_has_terms(me.shared, stage_of(step, me.settings))
    return told


@gluon.jit
def with_terms(products, has_terms, step, me):
    """The products and what differs by key only, where that has not come by a product of its own."""
    settings = me.settings
    if _adds_terms(settings, me.FIXED_MAX):
        LAYOUT: gl.constexpr = gl.SliceLayout(0, scores_layout(settings))
        if has_terms:
            products += me.shared.vector_tile.index(stage_of(step, settings)).load(LAYOUT)[None, :]
    return products


@gluon.jit
def masked(scores, said, me):
    """Scores and a mask with rows, if it says something of the block (MASK_ROWS).

    In the first pass the scores are products, which will be scaled; in the second they are scaled already.

    Args:
        scores: [64, BLOCK_N].
        said: Whether the mask says something of the block; the block's first key; its tile and the tile's slot.
        me: The consumer.
    """
    if me.settings.MASK_ROWS:
        factor = 1.0
        hidden = float("-inf")
        if me.FIXED_MAX:
            # The scale is in log2 units.
            factor = LOG2E / me.scale
            hidden = gl.where(me.scale < 0.0, float("inf"), float("-inf"))
        scores = with_mask(scores, said, factor, hidden, me)
    return scores
