"""Values that are not finite at keys that a row does not see: a weight of zero times NaN is NaN.

The kernels do not look at what they add up.  A tile whose result is not finite is computed once more: here, key by key,
with values that are not finite apart from the others.  So a hidden key never matters, and nothing else pays for that.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import load_columns, load_rows, soften
from .scores import ask, seen_scores

KEYS = tl.constexpr(16)
"""Keys of a block: the fewest that a product takes, because this is not to take more registers than the rest."""
MOST_COLUMNS = tl.constexpr(64)
"""Columns of queries and keys that are multiplied at once, for the same reason."""


@triton.jit
def not_finite(out):
    """Whether there is a NaN or an infinity."""
    return tl.max(tl.max(tl.where(tl.abs(out) < float("inf"), 0, 1), 1), 0) != 0


@triton.jit
def _finite(values):
    """The values; zero in place of those that are not finite."""
    return tl.where(tl.abs(values.to(tl.float32)) < float("inf"), values, 0.0)


@triton.jit
def _multiply(
    products, query, exists, key, key_row, left,
    PRECISION: tl.constexpr, D: tl.constexpr, BEGIN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Adds the products of the columns from BEGIN on, some at a time, so that operands take few registers."""
    STEP: tl.constexpr = WIDTH if WIDTH < MOST_COLUMNS else MOST_COLUMNS
    lane = tl.arange(0, KEYS)
    for i in tl.static_range(0, WIDTH, STEP):
        columns = BEGIN + i + tl.arange(0, STEP)
        rows = tl.load(query[:, None] + columns[None, :], mask=exists[:, None] & (columns < D)[None, :], other=0.0)
        keys = load_columns(key, lane, key_row, columns, left, True, BEGIN + i + STEP, D)
        products = tl.dot(rows, keys, products, input_precision=PRECISION)
    return products


@triton.jit
def _add_strange(out, seen, value, stride, columns, left, END: tl.constexpr):
    """Adds the values of a block that are not finite to the rows that see their keys, one key after the other."""
    lane = tl.arange(0, KEYS)
    for j in tl.range(0, KEYS, num_stages=1):
        of_key = tl.max(tl.where((lane == j)[None, :], seen, 0), 1)
        row = tl.load(value + j * stride + columns, mask=(columns < END) & (j < left), other=0.0).to(tl.float32)
        strange = tl.where(tl.abs(row) < float("inf"), 0.0, row)
        out += tl.where((of_key != 0)[:, None], strange[None, :], 0.0)
    return out


@triton.jit
def attend_apart(
    query, key_base, value_base, mask_base, positions_base, bias_base, begin, end, key_row, value_row,
    mask_column, exists, slope, row_as_key, own_position, window_left, window_right, scale,
    SYMMETRIC: tl.constexpr, CAUSAL: tl.constexpr, POSITIONS: tl.constexpr, MASK: tl.constexpr,
    MASK_ROWS: tl.constexpr, KEY_BIAS: tl.constexpr, WINDOW: tl.constexpr, NATURAL: tl.constexpr,
    PRECISION: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, V: tl.constexpr, V0: tl.constexpr,
    V1: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """The keys ``begin .. end`` of a tile: (out0, out1, total, peak), as the kernels have them before they divide.

    ``query`` is where each row's query begins;
    ``mask_base``, ``bias_base``, ``exists``, ``slope``, ``row_as_key`` and ``own_position`` are as in ``scores``.
    A value that is not finite reaches a row if and only if the row sees its key, however small its weight.

    There are two loops, one for the finite values and one for the others, because together they would need more
    registers.
    """
    lane = tl.arange(0, KEYS)
    value0 = tl.arange(0, V0)
    value1 = V0 + tl.arange(0, V1 if V1 > 0 else 1)
    out0 = tl.zeros([BLOCK_M, V0], dtype=tl.float32)
    out1 = tl.zeros([BLOCK_M, V1 if V1 > 0 else 1], dtype=tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for start in tl.range(begin, end, KEYS, num_stages=1):
        left = end - start
        key = key_base + tl.cast(start, tl.int64) * key_row
        value = value_base + tl.cast(start, tl.int64) * value_row
        loaded, position, bias = ask(
            mask_base, positions_base, bias_base, start, end, exists, mask_column, MASK, MASK_ROWS, POSITIONS, KEY_BIAS,
            KEYS)  # fmt: skip
        products = tl.zeros([BLOCK_M, KEYS], dtype=tl.float32)
        products = _multiply(products, query, exists, key, key_row, left, PRECISION, D, 0, D0)
        if D1 > 0:
            products = _multiply(products, query, exists, key, key_row, left, PRECISION, D, D0, D1)
        scores = seen_scores(
            products * scale, loaded, position, bias, start, left, slope, row_as_key, own_position, window_left,
            window_right, SYMMETRIC, CAUSAL, POSITIONS, MASK, KEY_BIAS, WINDOW, KEYS)  # fmt: skip
        weights, keep, peak, total = soften(scores, peak, 0.0, total, NATURAL, True)
        tile0 = load_rows(value, lane, value_row, value0, left, True, V0, V)
        rounded = weights.to(tile0.dtype)
        out0 = tl.dot(rounded, _finite(tile0), out0 * keep[:, None], input_precision=PRECISION)
        if V1 > 0:
            tile1 = load_rows(value, lane, value_row, value1, left, True, V0 + V1, V)
            out1 = tl.dot(rounded, _finite(tile1), out1 * keep[:, None], input_precision=PRECISION)
    for start in tl.range(begin, end, KEYS, num_stages=1):
        left = end - start
        value = value_base + tl.cast(start, tl.int64) * value_row
        strange = not_finite(load_rows(value, lane, value_row, value0, left, True, V0, V).to(tl.float32))
        if V1 > 0:
            tile1 = load_rows(value, lane, value_row, value1, left, True, V0 + V1, V)
            strange = strange | not_finite(tile1.to(tl.float32))
        if strange:
            loaded, position, bias = ask(
                mask_base, positions_base, bias_base, start, end, exists, mask_column, MASK, MASK_ROWS, POSITIONS,
                KEY_BIAS, KEYS)  # fmt: skip
            scores = seen_scores(
                tl.zeros([BLOCK_M, KEYS], dtype=tl.float32), loaded, position, bias, start, left, slope, row_as_key,
                own_position, window_left, window_right, SYMMETRIC, CAUSAL, POSITIONS, MASK, KEY_BIAS, WINDOW, KEYS,
            )  # fmt: skip
            seen = tl.where(scores == float("-inf"), 0, 1)
            out0 = _add_strange(out0, seen, value, value_row, value0, left, V)
            if V1 > 0:
                out1 = _add_strange(out1, seen, value, value_row, value1, left, V)
    return out0, out1, total, peak
