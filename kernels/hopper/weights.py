"""Scores to weights in the Hopper kernel: bias, visibility, softmax, block by block."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .peaks import larger_of_twins
from .shared import FORM_CAUSAL, FORM_SYMMETRIC, LOG2E, ROWS_PER_CONSUMER, clears_hidden
from .state import scores_layout
from .tiles import may_start_left
from .vectors import by_vector, masked, natural


@gluon.jit
def _online(scores, base, peak, GUARDED: gl.constexpr, TWINS: gl.constexpr, NATURAL: gl.constexpr):
    """One step of the online softmax; ``base`` is a scalar or one number per row.

    NATURAL: scores are not in log2 units, where an additive mask of -3.3e38 would not be finite.
    """
    new_peak = gl.maximum(peak, gl.max(scores, 1) + base)
    if TWINS:
        new_peak = larger_of_twins(new_peak)
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

    It is an FMA of the eights in c, which are constants, on top of the rest, which is one number per thread and parity.
    A vector along the columns would take a register for every second score.
    """
    SCORES: gl.constexpr = scores_layout(settings)
    blank = gl.zeros([ROWS_PER_CONSUMER, settings.BLOCK_N], dtype=gl.float32, layout=SCORES)
    GRID: gl.constexpr = blank.reshape([ROWS_PER_CONSUMER, settings.BLOCK_N // 8, 8]).type.layout
    eights = gl.arange(0, settings.BLOCK_N // 8, layout=gl.SliceLayout(0, gl.SliceLayout(2, GRID))) * 8
    rest = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, GRID)))
    row_mask = gl.convert_layout(intercepts, gl.SliceLayout(1, gl.SliceLayout(2, GRID)))
    begin = row_mask[:, None, None] + (gradient * rest.to(gl.float32))[None, None, :]
    lines = gl.fma(eights.to(gl.float32)[None, :, None], gradient, begin)
    return gl.convert_layout(lines.reshape([ROWS_PER_CONSUMER, settings.BLOCK_N]), SCORES)


@gluon.jit
def _selected(scores, vector, me):
    """The scores, with those of hidden keys replaced: a product that is NaN stays NaN in a sum (second pass)."""
    if clears_hidden(me.settings) and not me.FIXED_MAX:
        scores = gl.where((vector == float("-inf"))[None, :], float("-inf"), scores)
    return scores


@gluon.jit
def far_start(j, left, first, crossed, settings):
    """The first key of the ``j``-th block after those that the diagonal crosses."""
    number = first - 1 - j
    if settings.FORM == FORM_SYMMETRIC:
        number = gl.where(j < left, number, crossed + j - left)
    return number * settings.BLOCK_N


@gluon.constexpr_function
def moves_at_edges(settings, FIXED_MAX):
    """Whether row maxima still move in the blocks that are compared key by key, behind the first one.

    Those that can be lifted need not.
    """
    return not (FIXED_MAX and (settings.MAX_FROM_RAW_SCORES or settings.LIFTS))


@gluon.jit
def edge_weights(products, peak, vector, start, said, line, me, MOVES: gl.constexpr, FIRST: gl.constexpr):
    """Weights of a block in which every key is compared with its row; (weights, factor for the past, peak).

    With MOVES the peaks may be below its scores, and move.  The FIRST block of a causal tile may be one that all rows
    see whole (``tiles.may_start_left``); nothing is compared then.
    """
    settings = me.settings
    FIXED_MAX: gl.constexpr = me.FIXED_MAX
    VECTOR: gl.constexpr = by_vector(settings, FIXED_MAX)
    NATURAL: gl.constexpr = natural(settings, FIXED_MAX)
    zeros = gl.zeros_like(peak)
    if settings.FORM == FORM_SYMMETRIC:
        base = gl.to_tensor(0.0)
        ahead = line.slope * (line.row_as_key - start).to(gl.float32)
        bend = gl.abs(_lines(ahead, -line.slope, settings))
        if settings.MAX_FROM_RAW_SCORES and not MOVES:
            scores = gl.fma(products, me.scale, -peak[:, None]) - bend
            if VECTOR:
                scores += vector[None, :]
        else:
            # The sign of the slope, because its size is inside the absolute value.
            sign = gl.where(line.slope < 0.0, 1.0, -1.0)
            if MOVES:
                bias = sign * bend
            else:
                bias = gl.fma(bend, sign, -peak[:, None])
            if VECTOR:
                bias += vector[None, :]
            scores = _selected(gl.fma(products, me.scale, bias), vector, me)
        if not FIXED_MAX:
            scores = masked(scores, said, me)
        if start + settings.BLOCK_N > me.sizes.s_kv:
            scores = gl.where((me.column < me.sizes.s_kv - start)[None, :], scores, float("-inf"))
    else:
        base = line.slope * (start - line.reference).to(gl.float32)
        if settings.POSITIONS:
            base = gl.to_tensor(0.0)
        anchor = zeros
        if not MOVES:
            anchor = base - peak
        if VECTOR:
            scores = _selected(gl.fma(products, me.scale, anchor[:, None] + vector[None, :]), vector, me)
        elif settings.POSITIONS:
            scores = gl.fma(products, me.scale, anchor[:, None])
        else:
            scores = gl.fma(products, me.scale, _lines(anchor, line.slope, settings))
        if not FIXED_MAX:
            scores = masked(scores, said, me)
        if settings.FORM == FORM_CAUSAL:
            crosses = gl.to_tensor(True)
            if FIRST and may_start_left(settings):
                crosses = start + settings.BLOCK_N - 1 > line.reference + me.WHO * ROWS_PER_CONSUMER
            if crosses:
                last = gl.minimum(line.row_as_key, me.sizes.s_kv - 1) - start
                scores = gl.where(me.column[None, :] <= last[:, None], scores, float("-inf"))
        else:
            scores = gl.where((me.column < me.sizes.s_kv - start)[None, :], scores, float("-inf"))
    if MOVES:
        weights, keep, new_peak = _online(scores, base, peak, True, FIXED_MAX and settings.ROW_TWINS, NATURAL)
    else:
        new_peak = peak
        keep = peak
        weights = gl.exp2(scores)
    return weights, keep, new_peak


@gluon.jit
def _side_weights(products, peak, anchor, vector, start, said, line, me, SIGN: gl.constexpr):
    """Weights of a block that all rows see whole, but for hidden keys; ``SIGN * slope`` is the bias's gradient."""
    settings = me.settings
    FIXED_MAX: gl.constexpr = me.FIXED_MAX
    VECTOR: gl.constexpr = by_vector(settings, FIXED_MAX)
    NATURAL: gl.constexpr = natural(settings, FIXED_MAX)
    base = SIGN * line.slope * (start - line.reference).to(gl.float32)
    if settings.POSITIONS:
        base = gl.to_tensor(0.0)
    bases = base + gl.zeros_like(peak)
    if settings.FORM == FORM_SYMMETRIC:
        if not (FIXED_MAX and settings.MAX_FROM_RAW_SCORES and settings.ROW_TWINS):
            bases = base - SIGN * line.shift
    new_peak = peak
    keep = peak
    if FIXED_MAX:
        found = anchor
        if not settings.MAX_FROM_RAW_SCORES:
            found = peak
        if moves_at_edges(settings, FIXED_MAX):
            # A row that has seen no key has no maximum to go by.  Should it see one here, the tile may be repeated.
            found = gl.where(peak == float("-inf"), 0.0, peak)
        if VECTOR:
            weights = gl.exp2(gl.fma(products, me.scale, (bases - found)[:, None] + vector[None, :]))
        elif settings.POSITIONS:
            weights = gl.exp2(gl.fma(products, me.scale, (bases - found)[:, None]))
        else:
            weights = gl.exp2(gl.fma(products, me.scale, _lines(bases - found, SIGN * line.slope, settings)))
    else:
        if VECTOR:
            scores = _selected(gl.fma(products, me.scale, vector[None, :]), vector, me)
        else:
            scores = gl.fma(products, me.scale, _lines(gl.zeros_like(peak), SIGN * line.slope, settings))
        scores = masked(scores, said, me)
        GUARDED: gl.constexpr = settings.MASK or settings.MASK_ROWS
        weights, keep, new_peak = _online(scores, bases, peak, GUARDED, False, NATURAL)
    return weights, keep, new_peak


@gluon.jit
def _either_side(products, anchors, vector, start, j, left, line, me):
    """Weights of a block left or right of the diagonal (symmetric form, ROW_TWINS, MAX_FROM_RAW_SCORES).

    There is one piece of code for both sides, because what a tile of few blocks runs through has to fit the instruction
    cache.
    """
    settings = me.settings
    is_left = j < left
    gradient = gl.where(is_left, line.slope, -line.slope)
    intercepts = gradient * (start - line.reference).to(gl.float32) - gl.where(is_left, anchors.before, anchors.behind)
    if by_vector(settings, True):
        weights = gl.exp2(gl.fma(products, me.scale, intercepts[:, None] + vector[None, :]))
    else:
        weights = gl.exp2(gl.fma(products, me.scale, _lines(intercepts, gradient, settings)))
    return weights


@gluon.jit
def mean_weights(weights, extra, empty, column, s_kv, settings):
    """Weights in the ``extra``-th block of the mean of all values: one for rows that see no key, else zero."""
    at = extra * settings.BLOCK_N + column
    chosen = (empty != 0)[:, None] & (at < s_kv)[None, :]
    return gl.where(chosen, gl.full_like(weights, 1.0), gl.zeros_like(weights))


@gluon.jit
def counted_from(weights, extra, seen_from, column, settings):
    """Weights of the mean as above, of the keys from ``seen_from`` on: those before are not there (LENGTHS)."""
    at = extra * settings.BLOCK_N + column
    return gl.where((at >= seen_from)[None, :], weights, gl.zeros_like(weights))


@gluon.jit
def far_weights(products, peak, anchors, vector, start, j, left, said, line, me):
    """Weights of the ``j``-th block after those that the diagonal crosses; its first key is ``start``."""
    settings = me.settings
    FIXED_MAX: gl.constexpr = me.FIXED_MAX
    if settings.FORM == FORM_SYMMETRIC:
        if FIXED_MAX and settings.MAX_FROM_RAW_SCORES and settings.ROW_TWINS:
            keep = peak
            new_peak = peak
            weights = _either_side(products, anchors, vector, start, j, left, line, me)
        elif j < left:
            weights, keep, new_peak = _side_weights(products, peak, anchors.before, vector, start, said, line, me, 1)
        else:
            weights, keep, new_peak = _side_weights(products, peak, anchors.behind, vector, start, said, line, me, -1)
    else:
        weights, keep, new_peak = _side_weights(products, peak, anchors.before, vector, start, said, line, me, 1)
    return weights, keep, new_peak
