"""From a product to a score, key by key: what is asked about keys, their bias, which of them a row sees.

It serves wherever every key is compared with every row: in decode, and in the pass that values which are not finite ask
for (``hidden``).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import MASK_NONE, hide, hide_with_bias, in_window


@triton.jit
def ask(
    mask_base, positions_base, bias_base, start, end, exists, mask_column,
    MASK: tl.constexpr, MASK_ROWS: tl.constexpr, POSITIONS: tl.constexpr, KEY_BIAS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Loads what the mask, the positions and the key bias say of a block of keys, [1 or rows, BLOCK_N] or [BLOCK_N].

    Args:
        mask_base: Where a mask begins; of every row, if it has rows (MASK_ROWS).
        positions_base: Where the positions begin.
        bias_base: Where the key bias of every row begins.
        start, end: The first key of the block, and the end of all.
        exists: [rows], which of them there are.
        mask_column: From one key to the next in the mask.
    """
    column = start + tl.arange(0, BLOCK_N)
    inside = column < end
    loaded, position, bias = column, column, column
    if MASK != MASK_NONE:
        offset = column.to(tl.int64) * mask_column
        if MASK_ROWS:
            guard = exists[:, None] & inside[None, :]
            loaded = tl.load(mask_base[:, None] + offset[None, :], mask=guard, other=0)
        else:
            loaded = tl.load(mask_base + offset, mask=inside, other=0)[None, :]
    if POSITIONS:
        position = tl.load(positions_base + column, mask=inside, other=0.0)
    if KEY_BIAS:
        bias = tl.load(bias_base[:, None] + column[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
    return loaded, position, bias


@triton.jit
def seen_scores(
    scores, loaded, position, bias, start, left, slope, row_as_key, own_position, window_left, window_right,
    SYMMETRIC: tl.constexpr, CAUSAL: tl.constexpr, POSITIONS: tl.constexpr, MASK: tl.constexpr, KEY_BIAS: tl.constexpr,
    WINDOW: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Scaled products and their bias; -inf where a row does not see a key, whatever the product is.

    Args:
        scores: [rows, BLOCK_N].
        loaded, position, bias: What :func:`ask` found.
        start, left: The first key, and how many there are from it on.
        slope, row_as_key, own_position: [rows]; the last one is not used without POSITIONS.
        window_left, window_right: How many keys before and after its own a row sees (WINDOW).
    """
    lane = tl.arange(0, BLOCK_N)
    column = start + lane
    if POSITIONS:
        scores += slope[:, None] * (position[None, :] - own_position[:, None])
    elif SYMMETRIC:
        scores -= slope[:, None] * tl.abs(column[None, :] - row_as_key[:, None]).to(tl.float32)
    else:
        scores += slope[:, None] * (column[None, :] - row_as_key[:, None]).to(tl.float32)
    if KEY_BIAS:
        scores = hide_with_bias(scores, loaded, bias, MASK)
    elif MASK != MASK_NONE:
        scores = hide(scores, loaded, MASK)
    if WINDOW:
        scores = tl.where(in_window(row_as_key, column, window_left, window_right), scores, float("-inf"))
    visible = (lane < left)[None, :]
    if CAUSAL:
        visible = visible & (column[None, :] <= row_as_key[:, None])
    return tl.where(visible, scores, float("-inf"))
