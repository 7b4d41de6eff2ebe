"""Decode: few query rows against a long cache, bounded by how fast the cache can be read.

The query rows of all heads that share a key head form one tile (row ``r`` is query row ``r // group`` of head
``r % group``), so the cache is read once per group.  The keys are cut into ``splits`` chunks, one program
each; with several chunks every program leaves its result, its row maximum and its sum of weights in the
workspace, and ``alibi_combine`` joins them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .hidden import attend_apart, not_finite
from .primitives import (
    LOG2E,
    MASK_ADDITIVE,
    MASK_NONE,
    exponential,
    first_row_of,
    keys_of,
    load_columns,
    load_rows,
    mean_of_values,
    soften,
    window_of,
)
from .scores import ask, seen_scores


@triton.jit
def alibi_decode(
    query, key, value, slopes, mask, key_positions, key_bias, key_lengths, output, partial, partial_sums,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    output_batch, output_head, output_row, mask_batch, mask_head, mask_row, mask_column, positions_batch,
    bias_batch, bias_head, lengths_batch, heads, group, s_q, s_kv, window_left, window_right, rows_first, scale_natural,
    empty_mean,
    SYMMETRIC: tl.constexpr, CAUSAL: tl.constexpr, POSITIONS: tl.constexpr, MASK: tl.constexpr,
    MASK_ROWS: tl.constexpr, KEY_BIAS: tl.constexpr, WINDOW: tl.constexpr, LENGTHS: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    D: tl.constexpr, D_PADDED: tl.constexpr, V: tl.constexpr, V_PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (batch * kv_heads, ceil(group * s_q / BLOCK_M), splits); arguments as for ``alibi_prefill``.

    Args:
        output: written when not SPLIT (then splits has to be 1).
        partial: [B, H, S_q, splits, D_v] float32, normalised over the chunk, and
        partial_sums: [B, H, S_q, splits, 2] float32: the chunk's row maximum (-inf if it has no visible key) and its
            sum of weights, apart from each other because a maximum of 3.4e38 (a mask of +inf) would swallow the
            logarithm of the sum; both written when SPLIT.
    """
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    kv_heads = heads // group
    batch = (tl.program_id(0) // kv_heads).to(tl.int64)
    kv_head = tl.program_id(0) % kv_heads
    NATURAL: tl.constexpr = (MASK == MASK_ADDITIVE) or KEY_BIAS
    packed = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = packed < group * s_q
    row = packed // group
    head = kv_head * group + packed % group
    if LENGTHS:
        # The chunks below are of the keys that there are, so that all programs have their share of them.
        s_kv, empty_mean = keys_of(key_lengths, batch, lengths_batch, s_kv, empty_mean)
    row_as_key = row + first_row_of(s_kv, s_q, rows_first, LENGTHS)
    slope = tl.load(slopes + head, mask=exists, other=0.0)
    scale = scale_natural
    if not NATURAL:
        slope = slope * LOG2E
        scale = scale * LOG2E
    columns = tl.arange(0, D_PADDED)
    value_columns = tl.arange(0, V_PADDED)
    head64 = head.to(tl.int64)
    at = query + batch * query_batch + head64 * query_head + row.to(tl.int64) * query_row
    tile = tl.load(at[:, None] + columns[None, :], mask=exists[:, None] & (columns[None, :] < D), other=0.0)
    key_base = key + batch * key_batch + kv_head.to(tl.int64) * key_head
    value_base = value + batch * value_batch + kv_head.to(tl.int64) * value_head
    positions_base = key_positions
    own_position = slope
    if POSITIONS:
        positions_base = key_positions + batch * positions_batch
        clamped = tl.minimum(tl.maximum(row_as_key, 0), s_kv - 1)
        own_position = tl.load(positions_base + clamped, mask=exists, other=0.0)
    mask_base = mask
    if MASK != MASK_NONE:
        mask_base = mask + batch * mask_batch
        if MASK_ROWS:
            mask_base = mask_base + head64 * mask_head + row.to(tl.int64) * mask_row
        else:
            # A mask that differs by head comes here, too, if this is the only row.
            mask_base = mask_base + (kv_head * group).to(tl.int64) * mask_head

    bias_base = key_bias
    if KEY_BIAS:
        bias_base = key_bias + batch * bias_batch + head64 * bias_head

    last = tl.minimum((tl.program_id(1) * BLOCK_M + BLOCK_M - 1) // group, s_q - 1)
    first_key = 0
    stop = s_kv
    if WINDOW:
        first_row = tl.program_id(1) * BLOCK_M // group + first_row_of(s_kv, s_q, rows_first, LENGTHS)
        last_row = last + first_row_of(s_kv, s_q, rows_first, LENGTHS)
        first_key, stop = window_of(first_row, last_row, s_kv, window_left, window_right, BLOCK_N)
    # Chunks are of all keys, whatever causality says; with a window, of those that it shows to this tile of rows.
    chunk = tl.cdiv(tl.cdiv(tl.maximum(stop - first_key, 1), BLOCK_N), splits) * BLOCK_N
    begin = first_key + split * chunk
    end = tl.minimum(begin + chunk, stop)
    if CAUSAL:
        end = tl.minimum(end, last + first_row_of(s_kv, s_q, rows_first, LENGTHS) + 1)
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    out = tl.zeros([BLOCK_M, V_PADDED], dtype=tl.float32)
    lane = tl.arange(0, BLOCK_N)
    # Asked for a block ahead: Triton's pipeline does not carry these loads, and a wait for them in every block would
    # leave the memory idle meanwhile.
    loaded, position, bias = ask(
        mask_base, positions_base, bias_base, begin, end, exists, mask_column, MASK, MASK_ROWS, POSITIONS, KEY_BIAS,
        BLOCK_N)  # fmt: skip
    for start in tl.range(begin, end, BLOCK_N):
        coming, coming_position, coming_bias = ask(
            mask_base, positions_base, bias_base, start + BLOCK_N, end, exists, mask_column, MASK, MASK_ROWS, POSITIONS,
            KEY_BIAS, BLOCK_N)  # fmt: skip
        left = end - start
        key_tile = key_base + tl.cast(start, tl.int64) * key_row
        value_tile = value_base + tl.cast(start, tl.int64) * value_row
        columns_of_key = load_columns(key_tile, lane, key_row, columns, left, True, D_PADDED, D)
        scores = tl.dot(tile, columns_of_key, input_precision=PRECISION) * scale
        scores = seen_scores(
            scores, loaded, position, bias, start, left, slope, row_as_key, own_position, window_left, window_right,
            SYMMETRIC, CAUSAL, POSITIONS, MASK, KEY_BIAS, WINDOW, BLOCK_N)  # fmt: skip
        weights, keep, peak, total = soften(scores, peak, 0.0, total, NATURAL, True)
        values = load_rows(value_tile, lane, value_row, value_columns, left, True, V_PADDED, V)
        out = tl.dot(weights.to(values.dtype), values, out * keep[:, None], input_precision=PRECISION)
        loaded, position, bias = coming, coming_position, coming_bias

    if MASK != MASK_NONE or CAUSAL or KEY_BIAS or WINDOW:
        if not_finite(out):
            out, _, total, peak = attend_apart(
                at, key_base, value_base, mask_base, positions_base, bias_base, begin, end, key_row, value_row,
                mask_column, exists, slope, row_as_key, own_position, window_left, window_right, scale, SYMMETRIC,
                CAUSAL, POSITIONS, MASK, MASK_ROWS, KEY_BIAS, WINDOW, NATURAL, PRECISION, D, D_PADDED, 0, V, V_PADDED,
                0, BLOCK_M)  # fmt: skip
    empty = total == 0.0
    out = out * tl.where(empty, 0.0, 1.0 / total)[:, None]
    stored = exists[:, None] & (value_columns[None, :] < V)
    if SPLIT:
        slot = ((batch * heads + head64) * s_q + row) * splits + split
        tl.store(partial_sums + slot * 2, peak, mask=exists)
        tl.store(partial_sums + slot * 2 + 1, total, mask=exists)
        if LENGTHS:
            # Nobody reads the values of a chunk without keys, and a short batch has many of those.
            stored = stored & (begin < end)
        tl.store(partial + slot[:, None] * V + value_columns[None, :], out, mask=stored)
    else:
        if MASK != MASK_NONE or CAUSAL or KEY_BIAS or WINDOW:
            if (empty_mean != 0) & (tl.max((empty & exists).to(tl.int32), 0) != 0):
                mean = mean_of_values(value_base, value_row, value_columns, s_kv, V_PADDED, V, 16)
                out = tl.where(empty[:, None], mean[None, :], out)
        to = output + batch * output_batch + head64 * output_head + row.to(tl.int64) * output_row
        tl.store(to[:, None] + value_columns[None, :], out.to(output.dtype.element_ty), mask=stored)


@triton.jit
def alibi_combine(
    partial, partial_sums, value, key_lengths, output, value_batch, value_head, value_row, output_batch, output_head,
    output_row, lengths_batch, heads, group, s_q, s_kv, splits, empty_mean,
    NATURAL: tl.constexpr, LENGTHS: tl.constexpr, V: tl.constexpr, V_PADDED: tl.constexpr, MAX_SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (batch * heads, s_q): joins the chunks of one query row; ``value`` only serves rows without keys."""
    row = tl.program_id(1).to(tl.int64)
    head = tl.program_id(0) % heads
    batch = (tl.program_id(0) // heads).to(tl.int64)
    if LENGTHS:
        s_kv, empty_mean = keys_of(key_lengths, batch, lengths_batch, s_kv, empty_mean)
    first = ((batch * heads + head) * s_q + row) * splits
    lane = tl.arange(0, MAX_SPLITS)
    peaks = tl.load(partial_sums + (first + lane) * 2, mask=lane < splits, other=float("-inf"))
    sums = tl.load(partial_sums + (first + lane) * 2 + 1, mask=lane < splits, other=0.0)
    peak = tl.max(peaks, 0)
    empty = peak == float("-inf")
    anchor = tl.where(empty, 0.0, peak)
    total = tl.sum(exponential(peaks - anchor, NATURAL) * sums, 0)
    columns = tl.arange(0, V_PADDED)
    out = tl.zeros([V_PADDED], dtype=tl.float32)
    for start in tl.range(0, splits, BLOCK):
        part = start + tl.arange(0, BLOCK)
        inside = part < splits
        of_part = tl.load(partial_sums + (first + part) * 2, mask=inside, other=float("-inf"))
        weight = exponential(of_part - anchor, NATURAL) * tl.load(
            partial_sums + (first + part) * 2 + 1, mask=inside, other=0.0
        )
        at = partial + (first + part)[:, None] * V + columns[None, :]
        if LENGTHS:
            inside = inside & (of_part > float("-inf"))
            tile = tl.load(at, mask=inside[:, None] & (columns[None, :] < V), other=0.0)
        else:
            tile = tl.load(at, mask=(part[:, None] < splits) & (columns[None, :] < V), other=0.0)
        out += tl.sum(tile * weight[:, None], 0)
    out = out / tl.where(empty, 1.0, total)
    if empty & (empty_mean != 0):
        value_base = value + batch * value_batch + (head // group).to(tl.int64) * value_head
        out = mean_of_values(value_base, value_row, columns, s_kv, V_PADDED, V, 16)
    to = output + batch * output_batch + head.to(tl.int64) * output_head + row * output_row
    tl.store(to + columns, out.to(output.dtype.element_ty), mask=columns < V)
