"""Scores to weights in the Hopper kernel: bias, visibility, softmax, block by block."""

# Compile-time parameters are in capitals, as is the custom in Triton.  Kernels are compiled, never called as
# Python: Triton's language has no types to check them with.
# ruff: noqa: N803, N806
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .hopper_shared import FORM_CAUSAL, FORM_SYMMETRIC, ROWS


@gluon.constexpr_function
def scores_layout(settings):
    """How a warpgroup holds its 64 rows of scores."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, settings.BLOCK_N, 16])


@gluon.jit
def partial_sums(weights, BLOCK_N: gl.constexpr):
    """[64, 8]: sums of every eighth weight, which are in one thread: no exchange between threads."""
    return gl.sum(weights.reshape([ROWS, BLOCK_N // 8, 8]), 1)


@gluon.jit
def _paired(peak):
    """The larger of the peaks of rows r and r + 8, for both: they are in one thread, which then keeps one number."""
    both = gl.max(peak.reshape([4, 2, 8]), 1)
    spread = gl.expand_dims(both, 1) + gl.zeros_like(peak.reshape([4, 2, 8]))
    return gl.convert_layout(spread.reshape([ROWS]), peak.type.layout)


@gluon.jit
def _online(scores, base, peak, GUARDED: gl.constexpr):
    """One step of the online softmax; ``base`` is a scalar or one number per row."""
    new_peak = gl.maximum(peak, gl.max(scores, 1) + base)
    anchor = new_peak
    if GUARDED:
        anchor = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    weights = gl.exp2(scores - (anchor - base)[:, None])
    return weights, gl.exp2(peak - anchor), new_peak


@gluon.jit
def _scored(products, scale, vector, SIGN: gl.constexpr):
    """``products * scale +- vector`` as one FMA; written apart, the product would be hoisted out of branches.

    (So would be a vector with its sign changed; changing that of a score costs nothing.)
    """
    if SIGN < 0:
        scores = -gl.fma(products, -scale, vector[None, :])
    else:
        scores = gl.fma(products, scale, vector[None, :])
    return scores


@gluon.jit
def ramp_of(shared, step, slope, column, settings, WHO: gl.constexpr):
    """What the keys of a block add to their scores, but for the scalar."""
    LAYOUT: gl.constexpr = gl.SliceLayout(0, scores_layout(settings))
    if settings.MASK or settings.POSITIONS:
        vector = shared.vector_tile.index(step % (2 * settings.STAGES)).load(LAYOUT)
    elif settings.SHARED_RAMP:
        vector = shared.vector_tile.index(WHO).load(LAYOUT)
    else:
        vector = slope * column.to(gl.float32)
    return vector


@gluon.jit
def edge_weights(
    products, peak, ramp, start, reference, slope, scale, row_as_key, column, s_kv, settings,
    STEADY: gl.constexpr, FIRST: gl.constexpr,
):  # fmt: skip
    """Weights of a block in which every key is compared with its row; (weights, factor for the past, peak)."""
    if settings.FORM == FORM_SYMMETRIC:
        base = gl.to_tensor(0.0)
        # In float32 from the start: one conversion per row and column, not per score.
        ahead = (row_as_key - start).to(gl.float32)
        if settings.MASK:
            bias = ramp[None, :] - slope * gl.abs(ahead[:, None] - column.to(gl.float32)[None, :])
        else:
            # The ramp is there already; columns in float32 would take as many registers again.
            bias = gl.where(slope < 0.0, 1.0, -1.0) * gl.abs((slope * ahead)[:, None] - ramp[None, :])
        scores = gl.fma(products, scale, bias)
        if start + settings.BLOCK_N > s_kv:
            scores = gl.where((column < s_kv - start)[None, :], scores, float("-inf"))
    else:
        base = slope * (start - reference).to(gl.float32)
        if settings.POSITIONS:
            base = gl.to_tensor(0.0)
        scores = _scored(products, scale, ramp, 1)
        if settings.FORM == FORM_CAUSAL:
            last = gl.minimum(row_as_key, s_kv - 1) - start
            scores = gl.where(column[None, :] <= last[:, None], scores, float("-inf"))
        else:
            scores = gl.where((column < s_kv - start)[None, :], scores, float("-inf"))
    if STEADY and FIRST:
        new_peak = gl.max(scores, 1) + base
        if settings.PAIRED:
            new_peak = _paired(new_peak)
        keep = new_peak
        weights = gl.exp2(scores - (new_peak - base)[:, None])
    elif STEADY:
        new_peak = peak
        keep = peak
        weights = gl.exp2(scores - (peak - base)[:, None])
    else:
        weights, keep, new_peak = _online(scores, base, peak, True)
    return weights, keep, new_peak, partial_sums(weights, settings.BLOCK_N)


@gluon.jit
def _side_weights(
    products, peak, ramp, start, reference, slope, shift, scale, settings, STEADY: gl.constexpr,
    SIGN: gl.constexpr,
):  # fmt: skip
    """Weights of a block that all rows see whole, but for hidden keys; ``SIGN * slope`` is the bias's gradient."""
    base = SIGN * slope * (start - reference).to(gl.float32)
    if settings.POSITIONS:
        base = gl.to_tensor(0.0)
    scores = _scored(products, scale, ramp, 1 if settings.MASK or settings.POSITIONS else SIGN)
    if settings.FORM == FORM_SYMMETRIC:
        bases = base - SIGN * shift
    else:
        bases = base
    if STEADY:
        new_peak = peak
        keep = peak
        if settings.PAIRED:
            weights = gl.exp2(gl.fma(products, scale, ramp[None, :] + (bases - peak)[:, None]))
        else:
            weights = gl.exp2(scores - (peak - bases)[:, None])
    else:
        weights, keep, new_peak = _online(scores, bases, peak, settings.MASK)
    return weights, keep, new_peak, partial_sums(weights, settings.BLOCK_N)


@gluon.jit
def far_weights(
    products, peak, ramp, j, left, right, first, crossed, seen_from, row_as_key, column, s_kv, reference, slope,
    shift, scale, settings, STEADY: gl.constexpr,
):  # fmt: skip
    """Weights of the ``j``-th block after those that the diagonal crosses."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    if settings.FORM == FORM_SYMMETRIC:
        if j < left:
            start_l = (first - 1 - j) * BLOCK_N
            weights, keep, new_peak, added = _side_weights(
                products, peak, ramp, start_l, reference, slope, shift, scale, settings, STEADY, 1
            )
        else:
            start_r = (crossed + j - left) * BLOCK_N
            weights, keep, new_peak, added = _side_or_mean(
                products, peak, ramp, start_r, j - left - right, seen_from, row_as_key, column, s_kv, reference,
                slope, shift, scale, settings, STEADY, -1)  # fmt: skip
    else:
        start_s = (first - 1 - j) * BLOCK_N
        weights, keep, new_peak, added = _side_or_mean(
            products, peak, ramp, start_s, j - left, seen_from, row_as_key, column, s_kv, reference, slope, shift,
            scale, settings, STEADY, 1)  # fmt: skip
    return weights, keep, new_peak, added


@gluon.jit
def _side_or_mean(
    products, peak, ramp, start, extra, seen_from, row_as_key, column, s_kv, reference, slope, shift, scale,
    settings, STEADY: gl.constexpr, SIGN: gl.constexpr,
):  # fmt: skip
    """Weights of a block beside the diagonal or, from ``extra = 0`` on, of a block of the mean of all values."""
    if settings.MASK:
        if extra < 0:
            weights, keep, new_peak, added = _side_weights(
                products, peak, ramp, start, reference, slope, shift, scale, settings, STEADY, SIGN
            )
        else:
            at = extra * settings.BLOCK_N + column
            chosen = (row_as_key < seen_from)[:, None] & (at < s_kv)[None, :]
            weights = gl.where(chosen, gl.full_like(products, 1.0), gl.zeros_like(products))
            keep = gl.full_like(peak, 1.0)
            new_peak = peak
            added = partial_sums(weights, settings.BLOCK_N)
    else:
        weights, keep, new_peak, added = _side_weights(
            products, peak, ramp, start, reference, slope, shift, scale, settings, STEADY, SIGN
        )
    return weights, keep, new_peak, added
