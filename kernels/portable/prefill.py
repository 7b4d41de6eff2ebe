"""Prefill: flash attention with an ALiBi bias, many query rows, in plain Triton for every architecture.

One program computes BLOCK_M query rows of one head and walks the keys in blocks of BLOCK_N.

The bias costs one fused multiply-add per score.  Softmax does not see a constant added to a row, so for the
linear form only ``slope * j`` matters; written relative to a reference column near the tile's own rows it is
``slope * (block_start - reference)``, one scalar per block, plus ``slope * (0 .. BLOCK_N-1)``, a vector that
never changes.  The scalar goes into the row maximum (``primitives.soften``), the vector into the FMA that
scales the scores anyway.  The symmetric form is the linear one left of the diagonal and its mirror image
right of it; only the few blocks that the diagonal crosses compute distances element by element.
"""

# No future import: annotations of an aggregate are evaluated.

import triton
import triton.language as tl
from triton.language.core import base_value

from ..aggregate import aggregate
from .hidden import attend_apart, not_finite
from .primitives import (
    LOG2E,
    MASK_ADDITIVE,
    MASK_NONE,
    first_row_of,
    hide,
    hide_with_bias,
    in_window,
    keys_of,
    load_columns,
    load_rows,
    mean_of_values,
    soften,
    window_of,
)

LEFT = tl.constexpr(0)
"""Keys left of the diagonal (in the form that knows none, all): every row of the tile sees every one of them."""
DIAGONAL = tl.constexpr(1)
"""Keys of the blocks that the diagonal crosses.  Causal: and of the ragged last block, if the diagonal ends there."""
RIGHT = tl.constexpr(2)
"""Keys right of the diagonal (symmetric form)."""
TAIL = tl.constexpr(3)
"""Keys of the ragged last block, not all of which exist."""

FEW_ROWS = tl.constexpr(16)
"""Query rows that are computed at once where a result is not finite: the fewest that a product takes."""


@aggregate
class PrefillTile:
    """A tile of query rows and all that it is computed from: the same in every phase."""

    query0: tl.tensor
    query1: tl.tensor
    key_base: tl.tensor
    value_base: tl.tensor
    mask_base: base_value
    positions_base: base_value
    bias_base: base_value
    key_row: base_value
    value_row: base_value
    mask_row: base_value
    mask_column: base_value
    s_q: tl.tensor
    s_kv: tl.tensor
    row_in_mask: tl.tensor
    row_as_key: tl.tensor
    reference: tl.tensor
    reference_position: base_value
    window_left: base_value
    window_right: base_value
    slope: tl.tensor
    scale: tl.tensor
    SYMMETRIC: tl.constexpr
    CAUSAL: tl.constexpr
    POSITIONS: tl.constexpr
    MASK: tl.constexpr
    MASK_ROWS: tl.constexpr
    KEY_BIAS: tl.constexpr
    WINDOW: tl.constexpr
    PRECISION: tl.constexpr
    D: tl.constexpr
    D0: tl.constexpr
    D1: tl.constexpr
    V: tl.constexpr
    V0: tl.constexpr
    V1: tl.constexpr
    BLOCK_N: tl.constexpr


@triton.jit
def _walk(out0, out1, total, peak, begin, end, tile, PHASE: tl.constexpr):
    """Accumulates the keys ``begin .. end`` (``begin`` a multiple of BLOCK_N) into (out, total, peak).

    Left and right of the diagonal the bias is a slope along the keys.  The symmetric form computes distances element by
    element where the diagonal crosses and in the tail; the causal form compares every key with its row there.
    """
    DISTANCE: tl.constexpr = tile.SYMMETRIC and (PHASE == DIAGONAL or PHASE == TAIL)
    CAUSAL_EDGE: tl.constexpr = tile.CAUSAL and PHASE == DIAGONAL
    RAGGED: tl.constexpr = CAUSAL_EDGE or PHASE == TAIL
    SIGN: tl.constexpr = -1 if PHASE == RIGHT else 1
    MASK: tl.constexpr = tile.MASK
    KEY_BIAS: tl.constexpr = tile.KEY_BIAS
    D0: tl.constexpr = tile.D0
    D1: tl.constexpr = tile.D1
    V0: tl.constexpr = tile.V0
    V1: tl.constexpr = tile.V1
    BLOCK_N: tl.constexpr = tile.BLOCK_N
    PRECISION: tl.constexpr = tile.PRECISION
    NATURAL: tl.constexpr = (MASK == MASK_ADDITIVE) or KEY_BIAS
    GUARDED: tl.constexpr = RAGGED or MASK != MASK_NONE or KEY_BIAS or tile.WINDOW
    lane = tl.arange(0, BLOCK_N)
    head0 = tl.arange(0, D0)
    head1 = D0 + tl.arange(0, D1 if D1 > 0 else 1)
    value0 = tl.arange(0, V0)
    value1 = V0 + tl.arange(0, V1 if V1 > 0 else 1)
    gradient = SIGN * tile.slope
    ramp = gradient * lane.to(tl.float32)
    for start in tl.range(begin, end, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)
        left = tile.s_kv - start
        key = tile.key_base + tl.cast(start, tl.int64) * tile.key_row
        value = tile.value_base + tl.cast(start, tl.int64) * tile.value_row
        column = start + lane
        loaded = column
        if KEY_BIAS:
            bias = tl.load(tile.bias_base + column, mask=lane < left, other=0.0)
        if MASK != MASK_NONE:
            # Loaded before the product, which hides the wait.
            at = tile.mask_base + column.to(tl.int64) * tile.mask_column
            if tile.MASK_ROWS:
                row = tile.row_in_mask
                inside = (row[:, None] < tile.s_q) & (lane[None, :] < left)
                loaded = tl.load(at[None, :] + row[:, None].to(tl.int64) * tile.mask_row, mask=inside, other=0)
            else:
                loaded = tl.load(at, mask=lane < left, other=0)[None, :]
        key0 = load_columns(key, lane, tile.key_row, head0, left, RAGGED, D0, tile.D)
        products = tl.dot(tile.query0, key0, input_precision=PRECISION)
        if D1 > 0:
            key1 = load_columns(key, lane, tile.key_row, head1, left, RAGGED, D0 + D1, tile.D)
            products = tl.dot(tile.query1, key1, products, input_precision=PRECISION)
        if DISTANCE:
            base = 0.0
            distance = tl.abs(tile.row_as_key[:, None] - column[None, :]).to(tl.float32)
            scores = products * tile.scale - tile.slope * distance
        elif tile.POSITIONS:
            base = 0.0
            position = tl.load(tile.positions_base + column, mask=lane < left, other=0.0)
            scores = products * tile.scale + (tile.slope * (position - tile.reference_position))[None, :]
        else:
            base = gradient * (start - tile.reference).to(tl.float32)
            scores = products * tile.scale + ramp[None, :]
        if KEY_BIAS:
            scores = hide_with_bias(scores, loaded, bias[None, :], MASK)
        elif MASK != MASK_NONE:
            scores = hide(scores, loaded, MASK)
        if tile.WINDOW:
            shown = in_window(tile.row_as_key, column, tile.window_left, tile.window_right)
            scores = tl.where(shown, scores, float("-inf"))
        if CAUSAL_EDGE:
            scores = tl.where(column[None, :] <= tile.row_as_key[:, None], scores, float("-inf"))
        if RAGGED:
            scores = tl.where((lane < left)[None, :], scores, float("-inf"))
        weights, keep, peak, total = soften(scores, peak, base, total, NATURAL, GUARDED)
        tile0 = load_rows(value, lane, tile.value_row, value0, left, RAGGED, V0, tile.V)
        rounded = weights.to(tile0.dtype)
        out0 = tl.dot(rounded, tile0, out0 * keep[:, None], input_precision=PRECISION)
        if V1 > 0:
            tile1 = load_rows(value, lane, tile.value_row, value1, left, RAGGED, V0 + V1, tile.V)
            out1 = tl.dot(rounded, tile1, out1 * keep[:, None], input_precision=PRECISION)
    return out0, out1, total, peak


@triton.jit
def _store(
    out0, out1, total, output, output_row, inside, value_base, value_row, s_kv, empty_mean,
    HIDES: tl.constexpr, V: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr,
):  # fmt: skip
    """Divides by the sums of weights and stores the rows that are ``inside``, from ``output`` on."""
    empty = total == 0.0
    inverse = tl.where(empty, 0.0, 1.0 / total)
    out0 = out0 * inverse[:, None]
    value0 = tl.arange(0, V0)
    value1 = V0 + tl.arange(0, V1 if V1 > 0 else 1)
    if V1 > 0:
        out1 = out1 * inverse[:, None]
    if HIDES:
        # Such rows are rare: they are those of padded queries, or before the first key.
        if (empty_mean != 0) & (tl.max((empty & inside).to(tl.int32), 0) != 0):
            mean0 = mean_of_values(value_base, value_row, value0, s_kv, V0, V, 16)
            out0 = tl.where(empty[:, None], mean0[None, :], out0)
            if V1 > 0:
                mean1 = mean_of_values(value_base, value_row, value1, s_kv, V0 + V1, V, 16)
                out1 = tl.where(empty[:, None], mean1[None, :], out1)
    at = output + tl.arange(0, total.shape[0])[:, None] * output_row
    stored = inside[:, None]
    tl.store(at + value0[None, :], out0.to(output.dtype.element_ty), mask=stored & (value0[None, :] < V))
    if V1 > 0:
        tl.store(at + value1[None, :], out1.to(output.dtype.element_ty), mask=stored & (value1[None, :] < V))


@triton.jit
def alibi_prefill(
    query, key, value, slopes, mask, key_positions, key_bias, key_lengths, reach, output,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    output_batch, output_head, output_row, mask_batch, mask_head, mask_row, mask_column, positions_batch,
    bias_batch, bias_head, lengths_batch, heads, group, s_q, s_kv, window_left, window_right, rows_first, scale_natural,
    empty_mean,
    SYMMETRIC: tl.constexpr, CAUSAL: tl.constexpr, POSITIONS: tl.constexpr, MASK: tl.constexpr,
    MASK_ROWS: tl.constexpr, KEY_BIAS: tl.constexpr, WINDOW: tl.constexpr, LENGTHS: tl.constexpr, SKIP: tl.constexpr,
    PRECISION: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, V: tl.constexpr, V0: tl.constexpr,
    V1: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(s_q / BLOCK_M) * heads * batch): only one axis of a grid may be longer than 65,535.

    Strides count elements; the last dimension is contiguous.

    Args:
        query, key, value, output: [B, H, S_q, D], [B, H_kv, S_kv, D], [B, H_kv, S_kv, D_v], [B, H, S_q, D_v].
        slopes: [H], float32.
        mask: element (b, h, i, j) at ``b * mask_batch + h * mask_head + i * mask_row + j * mask_column``.
        key_positions: [B or 1, S_kv], float32; ``positions_batch`` is 0 for the latter.
        key_bias: element (b, h, j) at ``b * bias_batch + h * bias_head + j``, float32 (KEY_BIAS).
        key_lengths: how many keys a batch has, [B or 1], int64; ``lengths_batch`` is 0 for the latter (LENGTHS).
        rows_first: row(i) = i (1) or the last row is the last key (0) (LENGTHS).
        window_left, window_right: how many keys before and after its own a row sees; -1 for all (WINDOW).
        reach: [B, H, ceil(S_q / 128), 2], int32: the first key needed and the end of those needed (SKIP).
        scale_natural: multiplies the dot products.
        empty_mean: rows without a visible key yield the mean of ``value`` (1) or zeros (0).
    """
    tiles = tl.cdiv(s_q, BLOCK_M)
    batch_head = tl.program_id(0) // tiles
    tile = tl.program_id(0) - batch_head * tiles
    # Late rows see the most keys: start them first so that the light ones fill the end.
    if CAUSAL:
        tile = tiles - 1 - tile
    head = batch_head % heads
    batch = (batch_head // heads).to(tl.int64)
    kv_head = (head // group).to(tl.int64)
    NATURAL: tl.constexpr = (MASK == MASK_ADDITIVE) or KEY_BIAS
    HIDES: tl.constexpr = MASK != MASK_NONE or CAUSAL or KEY_BIAS or WINDOW
    slope = tl.load(slopes + head)
    scale = scale_natural
    if not NATURAL:
        slope = slope * LOG2E
        scale = scale * LOG2E
    query_base = query + batch * query_batch + head.to(tl.int64) * query_head
    key_base = key + batch * key_batch + kv_head * key_head
    value_base = value + batch * value_batch + kv_head * value_head
    mask_base = mask
    positions_base = key_positions
    if MASK != MASK_NONE:
        mask_base = mask + batch * mask_batch + head.to(tl.int64) * mask_head

    bias_base = key_bias
    if KEY_BIAS:
        bias_base = key_bias + batch * bias_batch + head.to(tl.int64) * bias_head

    if LENGTHS:
        s_kv, empty_mean = keys_of(key_lengths, batch, lengths_batch, s_kv, empty_mean)
    offset = first_row_of(s_kv, s_q, rows_first, LENGTHS)
    first_row = tile * BLOCK_M
    local = tl.arange(0, BLOCK_M)
    row_in_mask = first_row + local
    row_as_key = row_in_mask + offset
    head0 = tl.arange(0, D0)
    query_tile = query_base + tl.cast(first_row, tl.int64) * query_row
    query0 = load_rows(query_tile, local, query_row, head0, s_q - first_row, True, D0, D)
    query1 = query0
    if D1 > 0:
        query1 = load_rows(query_tile, local, query_row, D0 + tl.arange(0, D1), s_q - first_row, True, D0 + D1, D)
    out0 = tl.zeros([BLOCK_M, V0], dtype=tl.float32)
    out1 = tl.zeros([BLOCK_M, V1 if V1 > 0 else 1], dtype=tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    reference = first_row + offset
    reference_position = 0.0
    if POSITIONS:
        positions_base = key_positions + batch * positions_batch
        last = tl.minimum(first_row + BLOCK_M, s_q) - 1 + offset
        reference_position = tl.load(positions_base + tl.minimum(tl.maximum(last, 0), s_kv - 1))

    whole_end = s_kv // BLOCK_N * BLOCK_N
    begin = 0
    stop = s_kv
    if WINDOW:
        last_row = tl.minimum(first_row + BLOCK_M, s_q) - 1
        begin, stop = window_of(first_row + offset, last_row + offset, s_kv, window_left, window_right, BLOCK_N)
    whole_stop = tl.minimum(whole_end, tl.cdiv(stop, BLOCK_N) * BLOCK_N)
    if SKIP:
        slot = reach + ((batch * heads + head) * tl.cdiv(s_q, 128) + first_row // 128) * 2
        begin = tl.load(slot) // BLOCK_N * BLOCK_N
        whole_stop = tl.minimum(tl.cdiv(tl.load(slot + 1), BLOCK_N) * BLOCK_N, whole_end)
    work = PrefillTile(
        query0, query1, key_base, value_base, mask_base, positions_base, bias_base, key_row, value_row, mask_row,
        mask_column, s_q, s_kv, row_in_mask, row_as_key, reference, reference_position, window_left, window_right,
        slope, scale, SYMMETRIC, CAUSAL, POSITIONS, MASK, MASK_ROWS, KEY_BIAS, WINDOW, PRECISION, D, D0, D1, V, V0, V1,
        BLOCK_N)  # fmt: skip
    if CAUSAL:
        # [begin, full_end): seen by every row of the tile; [full_end, end): the diagonal and the tail.
        full_end = tl.maximum(tl.minimum(first_row + offset + 1, s_kv), 0) // BLOCK_N * BLOCK_N
        end = tl.minimum(tl.minimum(first_row + BLOCK_M, s_q) + offset, stop)
        out0, out1, total, peak = _walk(out0, out1, total, peak, begin, tl.minimum(full_end, whole_stop), work, LEFT)
        out0, out1, total, peak = _walk(out0, out1, total, peak, tl.maximum(full_end, begin), end, work, DIAGONAL)
    elif SYMMETRIC:
        # Left of the diagonal | across it | right of it | the ragged tail.  ``peak`` changes its meaning by a
        # term that is constant within a row (and smaller than slope * BLOCK_M) between the phases.
        shift = slope * local.to(tl.float32)
        left_end = tl.minimum(tl.maximum(reference + 1, 0), s_kv) // BLOCK_N * BLOCK_N
        cross_end = tl.cdiv(tl.maximum(reference + BLOCK_M, 0), BLOCK_N) * BLOCK_N
        cross_end = tl.maximum(tl.minimum(cross_end, whole_end), left_end)
        out0, out1, total, peak = _walk(out0, out1, total, peak, begin, tl.minimum(left_end, whole_stop), work, LEFT)
        peak -= shift
        out0, out1, total, peak = _walk(
            out0, out1, total, peak, tl.maximum(left_end, begin), tl.minimum(cross_end, whole_stop), work, DIAGONAL
        )
        peak -= shift
        out0, out1, total, peak = _walk(out0, out1, total, peak, tl.maximum(cross_end, begin), whole_stop, work, RIGHT)
        peak += shift
        out0, out1, total, peak = _walk(out0, out1, total, peak, tl.maximum(whole_end, begin), stop, work, TAIL)
    else:
        out0, out1, total, peak = _walk(out0, out1, total, peak, begin, whole_stop, work, LEFT)
        out0, out1, total, peak = _walk(out0, out1, total, peak, tl.maximum(whole_end, begin), stop, work, TAIL)

    output_base = output + batch * output_batch + head.to(tl.int64) * output_head
    inside = row_in_mask < s_q
    if HIDES:
        strange = not_finite(out0)
        if V1 > 0:
            strange = strange | not_finite(out1)
        # The rows of such a tile are stored below.
        inside = inside & (strange == 0)
    _store(
        out0, out1, total, output_base + tl.cast(first_row, tl.int64) * output_row, output_row, inside, value_base,
        value_row, s_kv, empty_mean, HIDES, V, V0, V1)  # fmt: skip
    if HIDES:
        if strange:
            # A few rows at a time, because this is to take no more registers than the rest.
            for row in tl.range(first_row, tl.minimum(first_row + BLOCK_M, s_q), FEW_ROWS, num_stages=1):
                rows = row + tl.arange(0, FEW_ROWS)
                exists = rows < s_q
                mask_rows = mask_base
                if MASK_ROWS:
                    mask_rows = mask_base + rows.to(tl.int64) * mask_row
                bias_rows = bias_base
                if KEY_BIAS:
                    bias_rows = bias_base + tl.zeros([FEW_ROWS], dtype=tl.int64)
                last_end = stop
                if CAUSAL:
                    last_end = tl.minimum(tl.minimum(row + FEW_ROWS, s_q) + offset, stop)
                nothing = tl.zeros([FEW_ROWS], dtype=tl.float32)
                query_rows = query_base + rows.to(tl.int64) * query_row
                found0, found1, sums, _ = attend_apart(
                    query_rows, key_base, value_base, mask_rows, positions_base, bias_rows, begin, last_end, key_row,
                    value_row, mask_column, exists, slope + nothing, rows + offset, reference_position + nothing,
                    window_left, window_right, scale, SYMMETRIC, CAUSAL, POSITIONS, MASK, MASK_ROWS, KEY_BIAS, WINDOW,
                    NATURAL, PRECISION, D, D0, D1, V, V0, V1, FEW_ROWS)  # fmt: skip
                _store(
                    found0, found1, sums, output_base + tl.cast(row, tl.int64) * output_row, output_row, exists,
                    value_base, value_row, s_kv, empty_mean, HIDES, V, V0, V1)  # fmt: skip
