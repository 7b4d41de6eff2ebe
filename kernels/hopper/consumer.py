"""The consumers of the Hopper kernel: each owns 64 rows of every tile, from scores to output."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from .output import finish, mark_doubts, wait_written
from .rows import told_of
from .shared import (  # fmt: skip
    BATCH,
    BEGIN,
    COUNTS,
    CROSSINGS,
    END,
    EXTRA,
    FIRST,
    FORM_CAUSAL,
    FORM_SYMMETRIC,
    HEAD,
    LEFT,
    LOG2E,
    RIGHT,
    ROWS,
    SEEN_FROM,
    SLOPE,
    SURE,
    TAIL,
    TILE,
    clear_doubts,
    judge,
    phase_of,
    read,
    release,
    set_up_barriers,
    stage_of,
)
from .skipping import weigh_rows
from .weights import (
    edge_weights,
    far_start,
    far_weights,
    first_peaks,
    masked,
    mean_weights,
    natural,
    vector_of,
    with_terms,
)


@gluon.jit
def _query_of(shared, served, settings, WHO: gl.constexpr):
    """This warpgroup's rows of the ``served``-th tile."""
    query = shared.query_tile.index((served & (settings.QUERIES - 1)) * settings.CONSUMERS + WHO)
    return query.reshape([ROWS, settings.D])


@gluon.jit
def _ask(step, served, shared, settings, SCORES: gl.constexpr, STEADY: gl.constexpr, WHO: gl.constexpr):
    """Asks for the scores of block ``step``; with TERMS, for what differs by key only with them."""
    stage = stage_of(step, settings)
    mbarrier.wait(shared.key_full.index(stage), phase_of(step, settings))
    key = shared.key_tile.index(stage).reshape([settings.BLOCK_N, settings.D])
    zero = gl.zeros([ROWS, settings.BLOCK_N], dtype=gl.float32, layout=SCORES)
    query = _query_of(shared, served, settings, WHO)
    scores = warpgroup_mma(query, key.permute((1, 0)), zero, use_acc=False, is_async=True)
    if settings.TERMS and STEADY:
        terms = shared.term_tile.index(stage)
        scores = warpgroup_mma(shared.picks, terms.permute((1, 0)), scores, is_async=True)
    return scores


@gluon.jit
def _rounded(weights, shared, WEIGHTS: gl.constexpr):
    """The weights of a block as the product with its values takes them."""
    return gl.convert_layout(weights.to(shared.query_tile.dtype), WEIGHTS)


@gluon.jit
def _add(rounded, out, sums, more, step, shared, settings, COUNT: gl.constexpr):
    """Asks for what the weights of block ``step`` add to the output and to their sums.

    Without ``more`` they overwrite what is there, whatever it is.
    """
    stage = stage_of(step, settings)
    mbarrier.wait(shared.value_full.index(stage), phase_of(step, settings))
    value = shared.value_tile.index(stage).reshape([settings.BLOCK_N, settings.V])
    adding = warpgroup_mma(rounded, value, out, use_acc=more, is_async=True)
    counted = gl.convert_layout(rounded, gl.DotOperandLayout(operand_index=0, parent=COUNT, k_width=2))
    counting = warpgroup_mma(counted, shared.ones.permute((1, 0)), sums, use_acc=more, is_async=True)
    return adding, counting


@gluon.jit
def _multiply(
    weights, out, sums, more, step, served, shared, settings, SCORES: gl.constexpr, WEIGHTS: gl.constexpr,
    COUNT: gl.constexpr, STEADY: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """Asks for the scores of block ``step`` and for what the weights of the one before add."""
    # Converted here: values of 16 bits carried from step to step would be unpacked and packed again.
    rounded = _rounded(weights, shared, WEIGHTS)
    scoring = _ask(step, served, shared, settings, SCORES, STEADY, WHO)
    adding, counting = _add(rounded, out, sums, more, step - 1, shared, settings, COUNT)
    return scoring, adding, counting


@gluon.constexpr_function
def _averages(settings, STEADY):
    """Whether a tile may end with the mean of all values, for rows that see no key."""
    if settings.MASK_ROWS:
        return not STEADY
    return settings.MASK and (settings.FORM == FORM_CAUSAL or not STEADY)


@gluon.jit
def _start(
    products, step, served, shared, row, column, scale, s_kv, rows, sizes, settings, STEADY: gl.constexpr,
    WHO: gl.constexpr,
):  # fmt: skip
    """The notes on a tile, and the weights of its first block; nothing has to be rescaled there."""
    slot = served & (settings.QUERIES - 1)
    tile = read(shared, slot, TILE)
    first = read(shared, slot, FIRST)
    crossings = read(shared, slot, CROSSINGS)
    edges = crossings
    right = gl.to_tensor(0)
    if settings.FORM == FORM_SYMMETRIC:
        edges += read(shared, slot, TAIL)
        right = read(shared, slot, RIGHT)
    left = read(shared, slot, LEFT)
    slope = read(shared, slot, SLOPE).to(gl.float32, bitcast=True)
    reference = tile * (ROWS * settings.CONSUMERS) + s_kv - sizes.s_q
    row_as_key = reference + WHO * ROWS + row
    shift = slope * (WHO * ROWS + row).to(gl.float32)
    reach = gl.zeros_like(shift)
    if settings.MASK:
        beyond = gl.maximum(row_as_key - read(shared, slot, END) + 1, read(shared, slot, BEGIN) - row_as_key)
        reach = slope * gl.maximum(beyond, 0).to(gl.float32)
    products = with_terms(products, step, shared, settings, STEADY)
    start = first * settings.BLOCK_N
    told = told_of(shared, stage_of(step, settings), settings)[1], start, tile, slot, row, column
    if STEADY:
        products = masked(products, told, scale, rows, shared, sizes, settings, STEADY, WHO)
    peak, before, behind = first_peaks(products, scale, slope, shift, reach, settings, STEADY)
    vector = vector_of(shared, step, column, settings, STEADY)
    weights, _, peak = edge_weights(
        products, peak, vector, start, reference, slope, scale, row_as_key, column, s_kv, told, rows, shared, sizes,
        settings, STEADY, WHO)  # fmt: skip
    return (tile, first, crossings, edges, left, right, slope, reference, row_as_key, shift, peak, before, behind,
            weights)  # fmt: skip


@gluon.jit
def _place(shared, slot, settings):
    """The notes that a tile's end needs: read again, because they would take registers in the loop between."""
    seen_from = gl.to_tensor(0)
    if settings.MASK:
        seen_from = read(shared, slot, SEEN_FROM)
    return read(shared, slot, BATCH), read(shared, slot, HEAD), read(shared, slot, TILE), seen_from


@gluon.jit
def _consume_pass(
    step, served, shared, sizes, rows, output_map, scale_natural, settings, STEADY: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """All tiles of this program once; (the counters that it was given, 1 if a tile is not to be trusted, else 0)."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    QUERIES: gl.constexpr = settings.QUERIES
    V: gl.constexpr = settings.V
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, V, 16])
    COUNT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COUNTS, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    BY_ROW: gl.constexpr = gl.SliceLayout(1, SCORES)
    # Whether the maximum still moves in the blocks that the diagonal crosses.
    MOVES: gl.constexpr = not (STEADY and settings.RAW)
    row = gl.arange(0, ROWS, layout=BY_ROW)
    column = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, SCORES))
    scale = scale_natural
    if not natural(settings, STEADY):
        scale = scale * LOG2E
    s_kv = sizes.s_kv
    turn = gl.to_tensor(0)
    doubtful = gl.to_tensor(0)
    doubts = gl.zeros([ROWS], dtype=gl.int32, layout=BY_ROW)

    mbarrier.wait(shared.query_full.index(served & (QUERIES - 1)), (served // QUERIES) & 1)
    products = warpgroup_mma_wait(0, deps=(_ask(step, served, shared, settings, SCORES, STEADY, WHO),))
    (tile, first, crossings, edges, left, right, slope, reference, row_as_key, shift, peak, before, behind,
     weights) = _start(
        products, step, served, shared, row, column, scale, s_kv, rows, sizes, settings, STEADY,
                    WHO)  # fmt: skip
    # The keys of this block and the values of the one before are done with.
    release(shared.freed.index(stage_of(step, settings)))
    step += 1
    out = gl.zeros([ROWS, V], dtype=gl.float32, layout=OUT)
    sums = gl.zeros([ROWS, COUNTS], dtype=gl.float32, layout=COUNT)
    while tile >= 0:
        slot = served & (QUERIES - 1)
        j = gl.to_tensor(1)
        # With SKIP the loop is left twice: when the near blocks are in the sums, and when the far ones are known.
        stop = edges + left + right
        if settings.SKIP:
            stop = gl.where(read(shared, slot, SURE) > 1, edges + 1, stop)
        while j < stop:
            while j < stop:
                scoring, adding, counting = _multiply(
                    weights, out, sums, j > 1, step, served, shared, settings, SCORES, WEIGHTS, COUNT, STEADY, WHO
                )
                vector = vector_of(shared, step, column, settings, STEADY)
                number, tells = told_of(shared, stage_of(step, settings), settings)
                products, adding, counting = warpgroup_mma_wait(2, deps=(scoring, adding, counting))
                products = with_terms(products, step, shared, settings, STEADY)
                told = tells, number * BLOCK_N, tile, slot, row, column
                if STEADY:
                    products = masked(products, told, scale, rows, shared, sizes, settings, STEADY, WHO)
                # Weights of this block; the products of the one before with its values are still in flight.
                if j < edges:
                    start_e = gl.where(j >= crossings, s_kv // BLOCK_N, first + j) * BLOCK_N
                    weights, keep, peak = edge_weights(
                        products, peak, vector, start_e, reference, slope, scale, row_as_key, column, s_kv, told, rows,
                        shared, sizes, settings, STEADY, WHO)  # fmt: skip
                else:
                    start = number * BLOCK_N
                    if not settings.MASK_ROWS:
                        start = far_start(j - edges, left, first, first + crossings, settings)
                    weights, keep, peak = far_weights(
                        products, peak, before, behind, vector, start, j - edges, left, reference, slope, shift, scale,
                        told, rows, shared, sizes, settings, STEADY, WHO)  # fmt: skip
                out, sums = warpgroup_mma_wait(0, deps=(adding, counting))
                if not STEADY:
                    out = out * gl.convert_layout(keep, gl.SliceLayout(1, OUT))[:, None]
                    sums = sums * gl.convert_layout(keep, gl.SliceLayout(1, COUNT))[:, None]
                elif MOVES:
                    if j < edges:
                        out = out * gl.convert_layout(keep, gl.SliceLayout(1, OUT))[:, None]
                        sums = sums * gl.convert_layout(keep, gl.SliceLayout(1, COUNT))[:, None]
                if settings.FORM == FORM_SYMMETRIC and STEADY and settings.PAIRED:
                    if j == edges + left:
                        # From here on two rows of a thread share what they share right of the diagonal.
                        turned = gl.exp2((before - shift) - (behind + shift))
                        out = out * gl.convert_layout(turned, gl.SliceLayout(1, OUT))[:, None]
                        sums = sums * gl.convert_layout(turned, gl.SliceLayout(1, COUNT))[:, None]
                release(shared.freed.index(stage_of(step, settings)))
                step += 1
                j += 1
            if settings.SKIP:
                noted = read(shared, slot, SURE)
                sure = noted >> 1
                if j < sure:
                    scale_of_sums = peak
                    if settings.FORM == FORM_SYMMETRIC and STEADY and settings.PAIRED:
                        scale_of_sums = gl.where(left == 0, behind + shift, peak)
                    query = _query_of(shared, served, settings, WHO)
                    weigh_rows(sums, scale_of_sums, shift, row_as_key, query, shared, s_kv, settings, WHO)
                    stop = sure
                elif j == sure:
                    mbarrier.wait(shared.certain, noted & 1)
                    left = read(shared, slot, LEFT)
                    right = read(shared, slot, RIGHT)
                    stop = edges + left + right
        if _averages(settings, STEADY):
            # The mean of all values, for rows that see no key; a loop of its own keeps it out of the one above.
            seen_from = read(shared, slot, SEEN_FROM)
            keyed = stop
            stop += read(shared, slot, EXTRA)
            empty = gl.zeros([ROWS], dtype=gl.int32, layout=BY_ROW)
            while j < stop:
                ending = _add(_rounded(weights, shared, WEIGHTS), out, sums, j > 1, step - 1, shared, settings, COUNT)
                out, sums = warpgroup_mma_wait(0, deps=ending)
                if settings.MASK_ROWS:
                    # Which rows see no key shows in their sums, once the last block that has keys is in them.
                    total = gl.convert_layout(gl.max(sums, 1), BY_ROW)
                    empty = gl.where(j == keyed, (total == 0.0).to(gl.int32), empty)
                else:
                    empty = (row_as_key < seen_from).to(gl.int32)
                weights = mean_weights(weights, j - edges - left - right, empty, column, s_kv, settings)
                release(shared.freed.index(stage_of(step, settings)))
                step += 1
                j += 1
        served += 1
        if QUERIES > 1:
            mbarrier.wait(shared.query_full.index(served & (QUERIES - 1)), (served // QUERIES) & 1)
            coming = read(shared, served & (QUERIES - 1), TILE)
            if coming >= 0:
                # The next tile's first scores, and the last of this one's output while they become weights.
                scoring, adding, counting = _multiply(
                    weights, out, sums, j > 1, step, served, shared, settings, SCORES, WEIGHTS, COUNT, STEADY, WHO
                )
                products, adding, counting = warpgroup_mma_wait(2, deps=(scoring, adding, counting))
                (tile, first, crossings, edges, left, right, slope, reference, row_as_key, shift, peak, before, behind,
                 weights) = _start(
                    products, step, served, shared, row, column, scale, s_kv, rows, sizes, settings, STEADY,
                    WHO)  # fmt: skip
                out, sums = warpgroup_mma_wait(0, deps=(adding, counting))
            else:
                tile = coming
                ending = _add(_rounded(weights, shared, WEIGHTS), out, sums, j > 1, step - 1, shared, settings, COUNT)
                out, sums = warpgroup_mma_wait(0, deps=ending)
            place = _place(shared, slot, settings)
            # The previous tile's copy out of the staging buffer has to be over before it is overwritten.
            tma.store_wait(0)
            gl.thread_barrier()
            if coming >= 0:
                mbarrier.expect(shared.freed.index(stage_of(step, settings)), 0)
                step += 1
            mbarrier.expect(shared.query_empty.index(slot), 0)
            doubts = finish(out, sums, doubts, shared, output_map, place, turn, row, sizes, settings, STEADY, WHO)
        else:
            # This tile's output goes out by way of where its queries are, and the next ones come after it.
            ending = _add(_rounded(weights, shared, WEIGHTS), out, sums, j > 1, step - 1, shared, settings, COUNT)
            out, sums = warpgroup_mma_wait(0, deps=ending)
            # All warps are done with the queries.
            gl.thread_barrier()
            place = _place(shared, slot, settings)
            doubts = finish(out, sums, doubts, shared, output_map, place, turn, row, sizes, settings, STEADY, WHO)
            tma.store_wait(0)
            release(shared.query_empty.index(slot))
            mbarrier.wait(shared.query_full.index(0), served & 1)
            tile = read(shared, 0, TILE)
            if tile >= 0:
                products = warpgroup_mma_wait(0, deps=(_ask(step, served, shared, settings, SCORES, STEADY, WHO),))
                (tile, first, crossings, edges, left, right, slope, reference, row_as_key, shift, peak, before, behind,
                 weights) = _start(
                    products, step, served, shared, row, column, scale, s_kv, rows, sizes, settings, STEADY,
                    WHO)  # fmt: skip
                release(shared.freed.index(stage_of(step, settings)))
                step += 1
        if STEADY:
            if ((turn & 31) == 31) | (tile < 0):
                doubtful = gl.maximum(doubtful, mark_doubts(doubts, turn, shared, WHO))
                doubts = gl.zeros([ROWS], dtype=gl.int32, layout=BY_ROW)
        turn += 1
    # What closes the pass was looked at by nobody.
    release(shared.query_empty.index(served & (QUERIES - 1)))
    return step, served + 1, doubtful


@gluon.jit
def consume(shared, sizes, rows, output_map, scale_natural, settings, WHO: gl.constexpr):
    """One consumer warpgroup: rows ``WHO * 64 ..`` of every tile of this program."""
    set_up_barriers(shared, settings, WHO)
    if settings.STEADY:
        clear_doubts(shared, WHO)
    mbarrier.wait(shared.ready, 0)
    step = gl.to_tensor(0)
    served = gl.to_tensor(0)
    step, served, doubtful = _consume_pass(
        step, served, shared, sizes, rows, output_map, scale_natural, settings, settings.STEADY, WHO
    )
    if settings.STEADY:
        LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        shared.verdicts.index(WHO).store(gl.full([1], doubtful, gl.int32, LAYOUT))
        mbarrier.arrive(shared.verdict, count=1)
        if judge(shared, settings, 4) != 0:
            wait_written()
            _consume_pass(step, served, shared, sizes, rows, output_map, scale_natural, settings, False, WHO)
    tma.store_wait(0)
