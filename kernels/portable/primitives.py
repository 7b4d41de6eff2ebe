"""Triton building blocks that every ALiBi kernel shares: tile loads, visibility, bias and the softmax step.

Importing this module imports Triton; only the modules that define or compile kernels do that.

Units.  Scores are kept in log2 units (``LOG2E`` folded into ``scale`` and ``slope``) so that a weight is one
``exp2``.  Kernels with an additive mask keep natural units instead and multiply by ``LOG2E`` after the row
maximum has been subtracted: a mask of -3.3e38 is finite and has to stay so.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.4028234663852886e38)
LARGEST = tl.constexpr(3.4028234663852886e38)

MASK_NONE = tl.constexpr(0)
MASK_BOOLEAN = tl.constexpr(1)
MASK_ADDITIVE = tl.constexpr(2)


@triton.jit
def load_rows(base, rows, stride, columns, row_limit, GUARD: tl.constexpr, WIDTH: tl.constexpr, END: tl.constexpr):
    """Loads ``[rows, columns]``; zeros beyond ``row_limit`` (if GUARD) and beyond column END.

    ``columns`` spans WIDTH entries from its first one; END is the number of columns that exist, counted from
    column zero, and WIDTH the end of ``columns``: the comparison is compiled away where they agree.
    """
    pointers = base + rows[:, None] * stride + columns[None, :]
    if GUARD and WIDTH > END:
        tile = tl.load(pointers, mask=(rows[:, None] < row_limit) & (columns[None, :] < END), other=0.0)
    elif GUARD:
        tile = tl.load(pointers, mask=rows[:, None] < row_limit, other=0.0)
    elif WIDTH > END:
        tile = tl.load(pointers, mask=columns[None, :] < END, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def load_columns(base, rows, stride, columns, row_limit, GUARD: tl.constexpr, WIDTH: tl.constexpr, END: tl.constexpr):
    """As :func:`load_rows`, transposed: ``[columns, rows]``, the shape the key takes in the first product."""
    pointers = base + rows[None, :] * stride + columns[:, None]
    if GUARD and WIDTH > END:
        tile = tl.load(pointers, mask=(rows[None, :] < row_limit) & (columns[:, None] < END), other=0.0)
    elif GUARD:
        tile = tl.load(pointers, mask=rows[None, :] < row_limit, other=0.0)
    elif WIDTH > END:
        tile = tl.load(pointers, mask=columns[:, None] < END, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def hide(scores, loaded, MASK: tl.constexpr):
    """Applies a loaded mask: False, or a value at or below the lowest float32, hides; +inf counts as largest."""
    if MASK == MASK_BOOLEAN:
        return tl.where(loaded != 0, scores, float("-inf"))
    added = tl.minimum(loaded.to(tl.float32), LARGEST)
    return tl.where(added > LOWEST, scores + added, float("-inf"))


@triton.jit
def hide_with_bias(scores, loaded, bias, MASK: tl.constexpr):
    """As :func:`hide`, with numbers by key that are added, too, of the scores' rank: either hides, or their sum."""
    bias = tl.minimum(bias, LARGEST)
    if MASK == MASK_ADDITIVE:
        added = tl.minimum(loaded.to(tl.float32), LARGEST)
        both = tl.minimum(added + bias, LARGEST)
        seen = (added > LOWEST) & (bias > LOWEST) & (both > LOWEST)
    else:
        both = bias
        seen = bias > LOWEST
        if MASK == MASK_BOOLEAN:
            seen = seen & (loaded != 0)
    return tl.where(seen, scores + both, float("-inf"))


@triton.jit
def in_window(row, column, window_left, window_right):
    """Whether a window shows keys to rows: [rows, columns]; a side that is negative has no end."""
    before = row[:, None] - column[None, :]
    return ((window_left < 0) | (before <= window_left)) & ((window_right < 0) | (before >= -window_right))


@triton.jit
def window_of(first, last, s_kv, window_left, window_right, BLOCK_N: tl.constexpr):
    """The keys that the rows ``first .. last`` see, as far as the window says: a multiple of BLOCK_N, and their end."""
    begin = tl.where(window_left < 0, 0, tl.minimum(tl.maximum(first - window_left, 0), s_kv) // BLOCK_N * BLOCK_N)
    end = tl.where(window_right < 0, s_kv, tl.minimum(tl.maximum(last + window_right + 1, 0), s_kv))
    return begin, end


@triton.jit
def keys_of(key_lengths, batch, lengths_batch, s_kv, empty_mean):
    """How many keys a batch has, and whether rows without visible keys yield the mean of the values: not of none."""
    keys = tl.minimum(tl.maximum(tl.load(key_lengths + batch * lengths_batch), 0), s_kv).to(tl.int32)
    return keys, tl.where(keys > 0, empty_mean, 0)


@triton.jit
def first_row_of(s_kv, s_q, rows_first, LENGTHS: tl.constexpr):
    """The key index of query row 0, which may be before the first key."""
    if LENGTHS:
        return tl.where(rows_first != 0, 0, s_kv - s_q)
    return s_kv - s_q


@triton.jit
def exponential(difference, NATURAL: tl.constexpr):
    """Exp of a difference of scores, whichever units the scores are in."""
    if NATURAL:
        difference = difference * LOG2E
    return tl.exp2(difference)


@triton.jit
def soften(scores, peak, base, total, NATURAL: tl.constexpr, GUARDED: tl.constexpr):
    """One step of the online softmax for scores given relative to ``base``.

    ``peak`` is the running row maximum relative to the *tile*, not to the block: it is rounded once when it
    is found and never again, so nothing drifts over thousands of blocks.  The weights use the rounded value
    (``peak - base`` is exact), hence old and new weights share one reference.

    Returns:
        weights, the factor for what was accumulated before, the new peak and the new total.
    """
    new_peak = tl.maximum(peak, tl.max(scores, 1) + base)
    if GUARDED:
        # A row that has not met a visible key yet: its weights are exp2(-inf - 0) = 0, not NaN.
        anchor = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    else:
        anchor = new_peak
    weights = exponential(scores - (anchor - base)[:, None], NATURAL)
    keep = exponential(peak - anchor, NATURAL)
    return weights, keep, new_peak, total * keep + tl.sum(weights, 1)


@triton.jit
def mean_of_values(base, stride, columns, s_kv, WIDTH: tl.constexpr, END: tl.constexpr, BN: tl.constexpr):
    """The mean over all keys of ``value``, ``[columns]`` in float32: what a row without visible keys yields."""
    total = tl.zeros([BN, columns.shape[0]], dtype=tl.float32)
    for start in tl.range(0, s_kv, BN):
        rows = tl.arange(0, BN)
        tile = load_rows(
            base + tl.cast(start, tl.int64) * stride, rows, stride, columns, s_kv - start, True, WIDTH, END
        )
        total += tile.to(tl.float32)
    return tl.sum(total, 0) / s_kv
