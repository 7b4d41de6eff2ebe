"""Scores to weights in the Hopper kernel: bias, visibility, softmax, block by block."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .rows import with_mask
from .shared import FORM_CAUSAL, FORM_SYMMETRIC, LOG2E, ROWS, is_told, stage_of


@gluon.constexpr_function
def scores_layout(settings):
    """How a warpgroup holds its 64 rows of scores."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, settings.BLOCK_N, 16])


@gluon.jit
def paired(numbers):
    """The larger of those of rows r and r + 8, for both: they are in one thread, which then keeps one number."""
    both = gl.max(numbers.reshape([ROWS // 16, 2, 8]), 1)
    spread = gl.expand_dims(both, 1) + gl.zeros_like(numbers.reshape([ROWS // 16, 2, 8]))
    return gl.convert_layout(spread.reshape([ROWS]), numbers.type.layout)


@gluon.jit
def _online(scores, base, peak, GUARDED: gl.constexpr, PAIR: gl.constexpr, NATURAL: gl.constexpr):
    """One step of the online softmax; ``base`` is a scalar or one number per row.

    NATURAL: scores are not in log2 units, where an additive mask of -3.3e38 would not be finite.
    """
    new_peak = gl.maximum(peak, gl.max(scores, 1) + base)
    if PAIR:
        new_peak = paired(new_peak)
    anchor = new_peak
    if GUARDED:
        anchor = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    relative = scores - (anchor - base)[:, None]
    past = peak - anchor
    if NATURAL:
        relative = relative * LOG2E
        past = past * LOG2E
    return gl.exp2(relative), gl.exp2(past), new_peak


@gluon.jit
def _lines(intercepts, gradient, settings):
    """[64, BLOCK_N]: ``intercepts[r] + gradient * c``.

    Written as an FMA of the eights in c, which are constants, on top of the rest, which is one number per thread and
    parity: a vector along the columns would take a register for every second score.
    """
    SCORES: gl.constexpr = scores_layout(settings)
    blank = gl.zeros([ROWS, settings.BLOCK_N], dtype=gl.float32, layout=SCORES)
    GRID: gl.constexpr = blank.reshape([ROWS, settings.BLOCK_N // 8, 8]).type.layout
    eights = gl.arange(0, settings.BLOCK_N // 8, layout=gl.SliceLayout(0, gl.SliceLayout(2, GRID))) * 8
    rest = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, GRID)))
    rows = gl.convert_layout(intercepts, gl.SliceLayout(1, gl.SliceLayout(2, GRID)))
    begin = rows[:, None, None] + (gradient * rest.to(gl.float32))[None, None, :]
    lines = gl.fma(eights.to(gl.float32)[None, :, None], gradient, begin)
    return gl.convert_layout(lines.reshape([ROWS, settings.BLOCK_N]), SCORES)


@gluon.constexpr_function
def by_vector(settings, STEADY):
    """Whether a vector brings what differs by key only, bias included; else the products have it already.

    Positions say something about every key; where they do not come by a product of their own (TERMS), a vector in the
    FMA's addend costs an addition for two scores, one on the products an addition for each.
    """
    if settings.POSITIONS:
        return not (STEADY and settings.TERMS)
    return settings.MASK and not STEADY


@gluon.constexpr_function
def natural(settings, STEADY):
    """Whether scores are in natural units: where the maximum is kept block by block, with an additive mask."""
    return settings.ADDITIVE and not STEADY


@gluon.jit
def vector_of(shared, step, column, settings, STEADY: gl.constexpr):
    """What the producer computed for the keys of a block: bias, or -inf where a key is hidden (``by_vector``)."""
    vector = column.to(gl.float32)
    if by_vector(settings, STEADY):
        LAYOUT: gl.constexpr = gl.SliceLayout(0, scores_layout(settings))
        vector = shared.vector_tile.index(stage_of(step, settings)).load(LAYOUT)
    return vector


@gluon.jit
def with_terms(products, step, shared, settings, STEADY: gl.constexpr):
    """The products and what differs by key only, where that has not come by a product of its own (TERMS)."""
    if STEADY and settings.MASK and not (settings.TERMS or settings.POSITIONS):
        LAYOUT: gl.constexpr = gl.SliceLayout(0, scores_layout(settings))
        stage = stage_of(step, settings)
        if is_told(shared, stage):
            products += shared.vector_tile.index(stage).load(LAYOUT)[None, :]
    return products


@gluon.jit
def masked(scores, told, scale, rows, shared, sizes, settings, STEADY: gl.constexpr, WHO: gl.constexpr):
    """Scores and a mask with rows, if it says something of the block (MASK_ROWS).

    In the first pass the scores are products, which will be scaled; in the second they are scaled already.
    """
    if settings.MASK_ROWS:
        factor = 1.0
        hidden = float("-inf")
        if STEADY:
            # The scale is in log2 units.
            factor = LOG2E / scale
            hidden = gl.where(scale < 0.0, float("inf"), float("-inf"))
        tells, start, tile, slot, row, column = told
        scores = with_mask(scores, tells, start, factor, hidden, tile, slot, rows, row, column, shared, sizes, settings,
                           WHO)  # fmt: skip
    return scores


@gluon.jit
def far_start(j, left, first, crossed, settings):
    """The first key of the ``j``-th block after those that the diagonal crosses."""
    number = first - 1 - j
    if settings.FORM == FORM_SYMMETRIC:
        number = gl.where(j < left, number, crossed + j - left)
    return number * settings.BLOCK_N


@gluon.jit
def first_peaks(products, scale, slope, shift, reach, settings, STEADY: gl.constexpr):
    """Where the row maxima start: (those of the crossed blocks, what is left of them, what is right of them).

    With RAW the largest score in half of the first block, without its bias, stands for the largest of all with it.
    PAIRED rows r and r + 8 have one number left of the diagonal and one right of it: their maxima differ by the bias
    between them, in opposite directions, so the output changes its scale between the sides (``turned`` in
    ``consumer``).
    """
    peak = gl.full_like(shift, float("-inf"))
    if STEADY and settings.RAW:
        if settings.MASK or settings.MASK_ROWS:
            # Hidden keys do not count; they may fill a half of the block, or, if all are hidden, the whole.
            peak = gl.max(products, 1) * scale
            peak = gl.where(peak == float("-inf"), 0.0, peak)
        else:
            nearer, _ = gl.split(products.reshape([ROWS, 2, settings.BLOCK_N // 2]).permute((0, 2, 1)))
            peak = gl.convert_layout(gl.max(nearer, 1), shift.type.layout) * scale
        if settings.FORM == FORM_SYMMETRIC:
            # Distances are subtracted: a tile whose slope is negative is left to the second pass.
            peak = gl.where(slope < 0.0, float("nan"), peak)
        else:
            peak += shift
        if settings.MASK:
            peak -= reach
        if settings.PAIRED:
            peak = paired(peak)
    before = peak
    behind = peak
    if STEADY and settings.RAW and settings.PAIRED and settings.FORM == FORM_SYMMETRIC:
        middle = paired(shift)
        before = peak + middle
        behind = peak - middle
        peak = before - shift
    return peak, before, behind


@gluon.jit
def edge_weights(
    products, peak, vector, start, reference, slope, scale, row_as_key, column, s_kv, told, rows, shared, sizes,
    settings, STEADY: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """Weights of a block in which every key is compared with its row; (weights, factor for the past, peak)."""
    VECTOR: gl.constexpr = by_vector(settings, STEADY)
    NATURAL: gl.constexpr = natural(settings, STEADY)
    zeros = gl.zeros_like(peak)
    if settings.FORM == FORM_SYMMETRIC:
        base = gl.to_tensor(0.0)
        ahead = slope * (row_as_key - start).to(gl.float32)
        bend = gl.abs(_lines(ahead, -slope, settings))
        if STEADY and settings.RAW:
            scores = gl.fma(products, scale, -peak[:, None]) - bend
            if VECTOR:
                scores += vector[None, :]
        else:
            # The sign of the slope, because its size is inside the absolute value.
            bias = gl.where(slope < 0.0, 1.0, -1.0) * bend
            if VECTOR:
                bias += vector[None, :]
            scores = gl.fma(products, scale, bias)
        if not STEADY:
            scores = masked(scores, told, scale, rows, shared, sizes, settings, STEADY, WHO)
        if start + settings.BLOCK_N > s_kv:
            scores = gl.where((column < s_kv - start)[None, :], scores, float("-inf"))
    else:
        base = slope * (start - reference).to(gl.float32)
        if settings.POSITIONS:
            base = gl.to_tensor(0.0)
        anchor = zeros
        if STEADY and settings.RAW:
            anchor = base - peak
        if VECTOR:
            scores = gl.fma(products, scale, anchor[:, None] + vector[None, :])
        elif settings.POSITIONS:
            scores = gl.fma(products, scale, anchor[:, None])
        else:
            scores = gl.fma(products, scale, _lines(anchor, slope, settings))
        if not STEADY:
            scores = masked(scores, told, scale, rows, shared, sizes, settings, STEADY, WHO)
        if settings.FORM == FORM_CAUSAL:
            last = gl.minimum(row_as_key, s_kv - 1) - start
            scores = gl.where(column[None, :] <= last[:, None], scores, float("-inf"))
        else:
            scores = gl.where((column < s_kv - start)[None, :], scores, float("-inf"))
    if STEADY and settings.RAW:
        new_peak = peak
        keep = peak
        weights = gl.exp2(scores)
    else:
        weights, keep, new_peak = _online(scores, base, peak, True, STEADY and settings.PAIRED, NATURAL)
    return weights, keep, new_peak


@gluon.jit
def _side_weights(
    products, peak, anchor, vector, start, reference, slope, shift, scale, told, rows, shared, sizes, settings,
    STEADY: gl.constexpr, SIGN: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """Weights of a block that all rows see whole, but for hidden keys; ``SIGN * slope`` is the bias's gradient."""
    VECTOR: gl.constexpr = by_vector(settings, STEADY)
    NATURAL: gl.constexpr = natural(settings, STEADY)
    base = SIGN * slope * (start - reference).to(gl.float32)
    if settings.POSITIONS:
        base = gl.to_tensor(0.0)
    bases = base + gl.zeros_like(peak)
    if settings.FORM == FORM_SYMMETRIC:
        if not (STEADY and settings.RAW and settings.PAIRED):
            bases = base - SIGN * shift
    new_peak = peak
    keep = peak
    if STEADY:
        found = anchor
        if not settings.RAW:
            # A row that has seen no key has no maximum to go by: should it see one here, the tile may be repeated.
            found = gl.where(peak == float("-inf"), 0.0, peak)
        if VECTOR:
            weights = gl.exp2(gl.fma(products, scale, (bases - found)[:, None] + vector[None, :]))
        elif settings.POSITIONS:
            weights = gl.exp2(gl.fma(products, scale, (bases - found)[:, None]))
        else:
            weights = gl.exp2(gl.fma(products, scale, _lines(bases - found, SIGN * slope, settings)))
    else:
        if VECTOR:
            scores = gl.fma(products, scale, vector[None, :])
        else:
            scores = gl.fma(products, scale, _lines(gl.zeros_like(peak), SIGN * slope, settings))
        scores = masked(scores, told, scale, rows, shared, sizes, settings, STEADY, WHO)
        GUARDED: gl.constexpr = settings.MASK or settings.MASK_ROWS
        weights, keep, new_peak = _online(scores, bases, peak, GUARDED, False, NATURAL)
    return weights, keep, new_peak


@gluon.jit
def _either_side(
    products, before, behind, vector, start, j, left, reference, slope, scale, settings,
):  # fmt: skip
    """Weights of a block left or right of the diagonal (symmetric form, PAIRED, with fixed maxima).

    One piece of code for both sides: what a tile of few blocks runs through has to fit the instruction cache.
    """
    is_left = j < left
    gradient = gl.where(is_left, slope, -slope)
    intercepts = gradient * (start - reference).to(gl.float32) - gl.where(is_left, before, behind)
    if by_vector(settings, True):
        weights = gl.exp2(gl.fma(products, scale, intercepts[:, None] + vector[None, :]))
    else:
        weights = gl.exp2(gl.fma(products, scale, _lines(intercepts, gradient, settings)))
    return weights


@gluon.jit
def mean_weights(weights, extra, empty, column, s_kv, settings):
    """Weights in the ``extra``-th block of the mean of all values: one for rows that see no key, else zero."""
    at = extra * settings.BLOCK_N + column
    chosen = (empty != 0)[:, None] & (at < s_kv)[None, :]
    return gl.where(chosen, gl.full_like(weights, 1.0), gl.zeros_like(weights))


@gluon.jit
def far_weights(
    products, peak, before, behind, vector, start, j, left, reference, slope, shift, scale, told, rows, shared, sizes,
    settings, STEADY: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """Weights of the ``j``-th block after those that the diagonal crosses; its first key is ``start``."""
    if settings.FORM == FORM_SYMMETRIC:
        if STEADY and settings.RAW and settings.PAIRED:
            keep = peak
            new_peak = peak
            weights = _either_side(products, before, behind, vector, start, j, left, reference, slope, scale, settings)
        elif j < left:
            weights, keep, new_peak = _side_weights(
                products, peak, before, vector, start, reference, slope, shift, scale, told, rows, shared, sizes,
                settings, STEADY, 1, WHO)  # fmt: skip
        else:
            weights, keep, new_peak = _side_weights(
                products, peak, behind, vector, start, reference, slope, shift, scale, told, rows, shared, sizes,
                settings, STEADY, -1, WHO)  # fmt: skip
    else:
        weights, keep, new_peak = _side_weights(
            products, peak, before, vector, start, reference, slope, shift, scale, told, rows, shared, sizes,
            settings, STEADY, 1, WHO)  # fmt: skip
    return weights, keep, new_peak
