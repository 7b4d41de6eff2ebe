"""The certificate for leaving out far blocks of keys: two small launches before the prefill kernel.

With a positive slope a far key is penalised by ``slope * distance``, and no score exceeds ``|q| |k| scale`` by
Cauchy and Schwarz.  Where even that bound leaves a block so far below what a row scores on its own key that
all such blocks together weigh less than 2^-BITS of the row, the block need not be read.  docs/kernels.md
derives the bound; nothing is skipped on the mere ground that a bias "underflows".
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import LOG2E, MASK_ADDITIVE, MASK_NONE, first_row_of, keys_of

NORM_KEYS = 64
"""Keys per norm."""
REACH_ROWS = 128
"""Query rows per certificate; a tile of a prefill kernel lies within one."""


@triton.jit
def _margin(slope, blocks, BITS: tl.constexpr, POSITIONS: tl.constexpr):
    """By how many powers of two a block has to be lighter than the row; ``slope`` in powers of two per key.

    Indices fall by one from key to key, so the weights of a block are bounded by a geometric series.  Nothing is known
    of how positions follow each other: its 64 keys may all weigh as much as the heaviest.
    """
    share = -tl.log2(1.0 - tl.exp2(-slope))
    if POSITIONS:
        share = 6.0
    return (BITS + 1) + tl.log2(blocks.to(tl.float32)) + share


@triton.jit
def _terms(
    mask, key_positions, key_bias, batch, head, keys, inside, slope, mask_batch, mask_column, positions_batch,
    bias_batch, bias_head, MASK: tl.constexpr, POSITIONS: tl.constexpr, KEY_BIAS: tl.constexpr,
):  # fmt: skip
    """What differs by key only adds to the scores of a head on ``keys``, in log2 units; -inf where a key is hidden.

    A number that is not finite in an additive mask or a bias stays what it is: a NaN keeps its block.
    """
    terms = tl.where(inside, 0.0, float("-inf"))
    if POSITIONS:
        terms += slope * tl.load(key_positions + batch * positions_batch + keys, mask=inside, other=0.0)
    if KEY_BIAS:
        at = key_bias + batch * bias_batch + head.to(tl.int64) * bias_head + keys
        terms += tl.load(at, mask=inside, other=0.0) * LOG2E
    if MASK != MASK_NONE:
        loaded = tl.load(mask + batch * mask_batch + keys.to(tl.int64) * mask_column, mask=inside, other=0)
        if MASK == MASK_ADDITIVE:
            terms += loaded.to(tl.float32) * LOG2E
        else:
            terms = tl.where(loaded != 0, terms, float("-inf"))
    return terms


@triton.jit
def alibi_key_norms(
    key, slopes, mask, key_positions, key_bias, key_lengths, key_norms, key_terms, ticket, key_batch, key_head, key_row,
    mask_batch, mask_column, positions_batch, bias_batch, bias_head, lengths_batch, kv_heads, group, s_kv,
    MASK: tl.constexpr, POSITIONS: tl.constexpr, KEY_BIAS: tl.constexpr, LENGTHS: tl.constexpr, BITS: tl.constexpr,
    D: tl.constexpr, D_PADDED: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(s_kv / 64) * kv_heads * batch): key_norms[b, h, n] = max over 64 keys of |key|, float32.

    A NaN in a key makes its norm +inf, which keeps the block: skipping must not hide a NaN that the kernel
    without skipping would show.  Keys that are hidden from all heads of the group do not count, nor those behind the
    length of a batch.  Heads whose bias does
    not reach the margin even for the farthest key get +inf too, and their keys are not read.  Also sets ``ticket`` to
    zero, for kernels whose programs draw their tiles.

    Where something differs by key only, key_terms[b, h, n] is the most that it adds to a score there, in log2 units,
    for each query head: [B, H, ceil(S_kv / 64)], float32; -inf if all keys are hidden.
    """
    VECTOR: tl.constexpr = MASK != MASK_NONE or POSITIONS or KEY_BIAS
    blocks = tl.cdiv(s_kv, KEYS)
    batch_head = tl.program_id(0) // blocks
    block = tl.program_id(0) - batch_head * blocks
    head = batch_head % kv_heads
    batch = (batch_head // kv_heads).to(tl.int64)
    tl.store(ticket, 0, mask=tl.program_id(0) == 0)
    farthest = s_kv.to(tl.float32)
    if LENGTHS:
        s_kv, _ = keys_of(key_lengths, batch, lengths_batch, s_kv, 0)
    worth = 0
    for member in tl.range(0, group):
        slope = tl.load(slopes + head * group + member) * LOG2E
        reaches = (slope > 0.0) & (slope * farthest > _margin(slope, blocks, BITS, POSITIONS))
        worth |= tl.where(reaches, 1, 0)
    norm = float("inf")
    if worth != 0:
        rows = tl.arange(0, KEYS)
        keys = block * KEYS + rows
        counts = keys < s_kv
        if VECTOR:
            counts = keys < 0
            for member in tl.range(0, group):
                asked = head * group + member
                slope = tl.load(slopes + asked) * LOG2E
                terms = _terms(
                    mask, key_positions, key_bias, batch, asked, keys, keys < s_kv, slope, mask_batch, mask_column,
                    positions_batch, bias_batch, bias_head, MASK, POSITIONS, KEY_BIAS)  # fmt: skip
                counts = counts | (terms != float("-inf"))
                terms = tl.where(terms == terms, terms, float("inf"))
                slot = (batch * kv_heads * group + asked) * blocks + block
                tl.store(key_terms + slot, tl.max(terms, 0))
        columns = tl.arange(0, D_PADDED)
        base = key + batch * key_batch + head.to(tl.int64) * key_head + (block * KEYS).to(tl.int64) * key_row
        inside = counts[:, None] & (columns < D)[None, :]
        tile = tl.load(base + rows[:, None] * key_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        squares = tl.sum(tile * tile, 1)
        squares = tl.where(squares == squares, squares, float("inf"))
        norm = tl.sqrt(tl.max(squares, 0))
    slot = (batch * kv_heads + head) * blocks + block
    tl.store(key_norms + slot, norm)


@triton.jit
def alibi_reach(
    query, key, slopes, mask, key_positions, key_bias, key_lengths, key_norms, key_terms, reach, query_batch,
    query_head, query_row, key_batch, key_head, key_row, mask_batch, mask_column, positions_batch, bias_batch,
    bias_head, lengths_batch, heads, group, s_q, s_kv, rows_first, scale_natural,
    MASK: tl.constexpr, POSITIONS: tl.constexpr, KEY_BIAS: tl.constexpr, LENGTHS: tl.constexpr, CAUSAL: tl.constexpr,
    BITS: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr, ROWS: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(s_q / 128) * heads * batch): the first key that is needed and the end of those that are.

    Both are multiples of 64 (the end may exceed s_kv); reach is [B, H, ceil(S_q / 128), 2], int32.  Needs
    ``s_q <= s_kv``.  A tile with a row from which its own key is hidden, or has none, keeps all keys.
    """
    VECTOR: tl.constexpr = MASK != MASK_NONE or POSITIONS or KEY_BIAS
    tiles = tl.cdiv(s_q, ROWS)
    batch_head = tl.program_id(0) // tiles
    tile = tl.program_id(0) - batch_head * tiles
    head = batch_head % heads
    batch = (batch_head // heads).to(tl.int64)
    kv_head = head // group
    slope = tl.load(slopes + head) * LOG2E
    scale = scale_natural * LOG2E
    row = tile * ROWS + tl.arange(0, ROWS)
    exists = row < s_q
    blocks = tl.cdiv(s_kv, 64)
    there = blocks
    if LENGTHS:
        s_kv, _ = keys_of(key_lengths, batch, lengths_batch, s_kv, 0)
        there = tl.cdiv(s_kv, 64)
    offset = first_row_of(s_kv, s_q, rows_first, LENGTHS)
    own_key = row + offset
    columns = tl.arange(0, D_PADDED)
    inside = exists[:, None] & (columns < D)[None, :]
    at = query + batch * query_batch + head.to(tl.int64) * query_head + row.to(tl.int64)[:, None] * query_row
    rows = tl.load(at + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    at = key + batch * key_batch + kv_head.to(tl.int64) * key_head + own_key.to(tl.int64)[:, None] * key_row
    has_key = exists
    if LENGTHS:
        has_key = exists & (own_key >= 0) & (own_key < s_kv)
        inside = has_key[:, None] & (columns < D)[None, :]
    keys = tl.load(at + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    own_score = tl.sum(rows * keys, 1) * scale
    if LENGTHS:
        own_score = tl.where(has_key, own_score, float("-inf"))
    if VECTOR:
        own_score += _terms(
            mask, key_positions, key_bias, batch, head, own_key, has_key, slope, mask_batch, mask_column,
            positions_batch, bias_batch, bias_head, MASK, POSITIONS, KEY_BIAS)  # fmt: skip
    own_score = tl.where(exists, own_score, float("inf"))
    # The factor and the term below cover the rounding of the norms, of the products (at most 256 terms in
    # float32) and of the bias.
    longest = tl.sqrt(tl.max(tl.sum(rows * rows, 1), 0)) * tl.abs(scale) * 1.001
    threshold = tl.min(own_score, 0) - _margin(slope, blocks, BITS, POSITIONS)
    threshold = threshold - 0.01 - 1e-6 * tl.abs(threshold)
    threshold = tl.where(slope > 0.0, threshold, float("-inf"))
    first_row = tile * ROWS + offset
    last_row = tl.minimum(tile * ROWS + ROWS, s_q) - 1 + offset
    first = blocks
    end = 0
    norms = key_norms + (batch * (heads // group) + kv_head) * blocks
    if VECTOR:
        terms = key_terms + (batch * heads + head) * blocks
    for chunk in tl.range(0, there, SCAN):
        block = chunk + tl.arange(0, SCAN)
        norm = tl.load(norms + block, mask=block < blocks, other=0.0)
        nearest = tl.maximum(tl.maximum(first_row - (block * 64 + 63), block * 64 - last_row), 0).to(tl.float32)
        most = longest * norm
        if not POSITIONS:
            most -= slope * nearest * 0.99999
        if VECTOR:
            term = tl.load(terms + block, mask=block < blocks, other=0.0)
            # Its rounding.
            most += tl.maximum(term * 0.999999, term * 1.000001)
        # Written so that a NaN anywhere keeps the block.
        bound = tl.where(nearest > 0.0, most, float("inf"))
        needed = tl.where(bound < threshold, 0, 1) * tl.where(block < there, 1, 0)
        first = tl.minimum(first, tl.min(tl.where(needed != 0, block, blocks), 0))
        end = tl.maximum(end, tl.max(needed * (block + 1), 0))
    slot = reach + ((batch * heads + head) * tiles + tile) * 2
    tl.store(slot, first * 64)
    tl.store(slot + 1, end * 64)
