"""Prefill for Hopper: warp-specialised, persistent, in Gluon (Triton's layer for explicit layouts and warps).

One program stays on a multiprocessor and takes tiles of ``CONSUMERS * 64`` query rows.  A producer warp
streams blocks of keys and values into shared memory with the bulk copy engine; each of CONSUMERS warpgroups
owns 64 rows and, while it turns the scores of one block into weights, has the products of the next scores
and of the previous weights in flight.  The warpgroups are separate partitions, so nothing but the data keeps
them in step, and one computes exponentials while another multiplies.

Blocks come nearest first: those that the diagonal crosses or that reach past the last key (compared element
by element), then those left of it going away, then those right of it (symmetric form).  The bias is the one
of ``prefill``: a vector that never changes in the FMA and a scalar per block in the row maximum.

With STEADY (bfloat16) the row maximum is looked for in the first block only.  Weights then may exceed one, which
loses nothing in a type with the exponents of float32, and two of six instructions per score and the rescaling of
the output go.  A row whose later scores exceed its first ones by 2^60 or whose output is not finite is noticed
before it is stored; the program then does all its tiles again with the maximum kept block by block.  So the
result never depends on the shortcut, only the time does.

Needs ``s_q <= s_kv`` and no mask, so that every row sees a key.
"""

# Compile-time parameters are in capitals, as is the custom in Triton.  Kernels are compiled, never called as
# Python: Triton's language has no types to check them with.
# ruff: noqa: N803, N806, D417, SIM102
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

LOG2E = gl.constexpr(1.4426950408889634)
ROWS = gl.constexpr(64)
TOTAL_LIMIT = gl.constexpr(1.152921504606847e18)
"""2^60: far from the largest float32, also after the product with a value of up to 2^67."""


@gluon.jit
def _tile_at(turn, tiles, pairs, s_kv, group, CAUSAL: gl.constexpr, WIDTH: gl.constexpr, BUNDLE_MIB: gl.constexpr):
    """The tile that this program takes at its ``turn``: (row tile, pair of batch and head, whether there is one).

    Pairs go in bundles of limited size, so that several programs read the same keys and values at about the same
    time; within a bundle the rows with the most keys come first, and every other turn goes backwards through the
    programs, which evens out their sums.
    """
    programs = gl.num_programs(0)
    place = gl.program_id(0)
    if CAUSAL:
        if turn % 2 == 1:
            place = programs - 1 - place
    index = turn * programs + place
    fitting = gl.maximum((BUNDLE_MIB * 1048576) // (s_kv * WIDTH * 2) * group, 1)
    bundle = gl.cdiv(pairs, gl.cdiv(pairs, fitting))
    number = index // (bundle * tiles)
    rest = index - number * bundle * tiles
    size = gl.maximum(gl.minimum(bundle, pairs - number * bundle), 1)
    row = rest // size
    pair = number * bundle + rest % size
    if CAUSAL:
        row = tiles - 1 - row
    return row, pair, index < tiles * pairs


@gluon.jit
def _blocks(
    reach, tile, pair, s_q, s_kv, SKIP: gl.constexpr, CAUSAL: gl.constexpr, BLOCK_N: gl.constexpr,
    CONSUMERS: gl.constexpr,
):  # fmt: skip
    """Cuts the keys of a tile into blocks.

    Returns:
        The key of the tile's first row; the first block that the diagonal crosses and how many it crosses; 1 if a
        ragged last block is right of those; how many blocks to take left of them; the first block right of them
        and how many to take from there.
    """
    rows = ROWS * CONSUMERS
    reference = tile * rows + s_kv - s_q
    last_row = gl.minimum(tile * rows + rows, s_q) + s_kv - s_q
    first = reference // BLOCK_N
    crossed = gl.cdiv(last_row, BLOCK_N)
    left = first
    whole = s_kv // BLOCK_N
    if SKIP:
        slot = reach + (pair * gl.cdiv(s_q, rows) + tile) * 2
        left = first - gl.minimum(gl.load(slot) // BLOCK_N, first)
        if not CAUSAL:
            whole = gl.minimum(whole, gl.cdiv(gl.load(slot + 1), BLOCK_N))
    if CAUSAL:
        tail = 0
        right = 0
    else:
        last = s_kv // BLOCK_N
        tail = gl.where((last * BLOCK_N < s_kv) & (last >= crossed), 1, 0)
        right = gl.maximum(whole - crossed, 0)
    return reference, first, crossed - first, tail, left, crossed, right


@gluon.jit
def _block_number(j, first, crossings, tail, left, first_right, s_kv, BLOCK_N: gl.constexpr):
    """The ``j``-th block in processing order."""
    edge = crossings + tail
    number = first + j
    number = gl.where(j >= crossings, s_kv // BLOCK_N, number)
    number = gl.where(j >= edge, first - 1 - (j - edge), number)
    return gl.where(j >= edge + left, first_right + (j - edge - left), number)


@gluon.jit
def _produce(
    query_map, key_map, value_map, query_tile, key_tile, value_tile, query_full, query_empty, key_full, key_empty,
    value_full, value_empty, verdict, verdicts, reach, batch_size, heads, group, s_q, s_kv,
    CAUSAL: gl.constexpr, STEADY: gl.constexpr, SKIP: gl.constexpr, BUNDLE_MIB: gl.constexpr,
    ALTERNATE: gl.constexpr, D: gl.constexpr, V: gl.constexpr,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, CONSUMERS: gl.constexpr,
):  # fmt: skip
    """The producer warp: all copies, in the order in which the consumers need them."""
    step = 0
    served = 0
    tiles = gl.cdiv(s_q, ROWS * CONSUMERS)
    pairs = batch_size * heads
    rounds = gl.cdiv(tiles * pairs, gl.num_programs(0))
    passes = 1
    turn = 0
    while turn < passes * rounds:
        row, pair, exists = _tile_at(turn % rounds, tiles, pairs, s_kv, group, CAUSAL, D + V, BUNDLE_MIB)
        if exists:
            batch = pair // heads
            head = pair % heads
            kv_head = head // group
            _, first, crossings, tail, left, first_right, right = _blocks(
                reach, row, pair, s_q, s_kv, SKIP, CAUSAL, BLOCK_N, CONSUMERS
            )
            for w in gl.static_range(CONSUMERS):
                mbarrier.wait(query_empty.index(w), (served & 1) ^ 1)
                mbarrier.expect(query_full.index(w), query_map.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    query_map,
                    [batch, head, row * (ROWS * CONSUMERS) + w * ROWS, 0],
                    query_full.index(w),
                    query_tile.index(w),
                )
            served += 1
            for j in range(crossings + tail + left + right):
                number = _block_number(j, first, crossings, tail, left, first_right, s_kv, BLOCK_N)
                stage = step % STAGES
                phase = ((step // STAGES) & 1) ^ 1
                mbarrier.wait(key_empty.index(stage), phase)
                mbarrier.expect(key_full.index(stage), key_map.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    key_map, [batch, kv_head, number * BLOCK_N, 0], key_full.index(stage), key_tile.index(stage)
                )
                mbarrier.wait(value_empty.index(stage), phase)
                mbarrier.expect(value_full.index(stage), value_map.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    value_map, [batch, kv_head, number * BLOCK_N, 0], value_full.index(stage), value_tile.index(stage)
                )
                step += 1
        turn += 1
        if STEADY:
            if turn == rounds:
                passes = 1 + _judge(verdict, verdicts, CONSUMERS, 1)


@gluon.jit
def _judge(verdict, verdicts, CONSUMERS: gl.constexpr, WARPS: gl.constexpr):
    """Waits until every consumer has judged its rows; 1 if one of them was not content, else 0."""
    mbarrier.wait(verdict, 0)
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    return gl.minimum(gl.max(verdicts.load(LAYOUT), 0), 1)


@gluon.jit
def _weights(
    products, peak, total, ramp, start, reference, gradient, slope, scale, row_as_key, column, s_kv,
    CAUSAL: gl.constexpr, EDGE: gl.constexpr, KNOWN: gl.constexpr,
):  # fmt: skip
    """Weights of one block; (weights, factor for the past, peak, total).  ``peak`` is relative to the tile.

    KNOWN: the peak is what it is, whatever the scores.
    """
    if EDGE:
        key = start + column
        if CAUSAL:
            base = slope * (start - reference).to(gl.float32)
            scores = products * scale + ramp[None, :]
            seen = (key[None, :] <= row_as_key[:, None]) & (key < s_kv)[None, :]
        else:
            base = 0.0
            # In float32 from the start: one conversion per row and column, not per score.
            ahead = (row_as_key - start).to(gl.float32)
            scores = products * scale - slope * gl.abs(ahead[:, None] - column.to(gl.float32)[None, :])
            seen = (key < s_kv)[None, :]
        scores = gl.where(seen, scores, float("-inf"))
    else:
        base = gradient * (start - reference).to(gl.float32)
        scores = products * scale + ramp[None, :]
    if KNOWN:
        new_peak = peak
        keep = peak
        weights = gl.exp2(scores - (peak - base)[:, None])
        total = total + gl.sum(weights, 1)
    else:
        new_peak = gl.maximum(peak, gl.max(scores, 1) + base)
        anchor = new_peak
        if EDGE:
            anchor = gl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = gl.exp2(scores - (anchor - base)[:, None])
        keep = gl.exp2(peak - anchor)
        total = total * keep + gl.sum(weights, 1)
    return weights, keep, new_peak, total


@gluon.jit
def _turn(
    out, rounded, peak, total, step, start, query, key_tile, value_tile, key_full, key_empty, value_full,
    value_empty, order,
    ramp, reference, gradient, slope, scale, row_as_key, column, s_kv,
    CAUSAL: gl.constexpr, EDGE: gl.constexpr, KNOWN: gl.constexpr, ALTERNATE: gl.constexpr, WHO: gl.constexpr,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    SCORES: gl.constexpr, OUT: gl.constexpr, WEIGHTS: gl.constexpr,
):  # fmt: skip
    """Scores of block ``step`` and the output of block ``step - 1`` in flight together."""
    stage = step % STAGES
    before = (step - 1) % STAGES
    if ALTERNATE:
        mbarrier.wait(order.index(WHO), step & 1)
    mbarrier.wait(key_full.index(stage), (step // STAGES) & 1)
    zero = gl.zeros([ROWS, BLOCK_N], dtype=gl.float32, layout=SCORES)
    key = key_tile.index(stage).reshape([BLOCK_N, query.shape[1]])
    scoring = warpgroup_mma(query, key.permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(value_full.index(before), ((step - 1) // STAGES) & 1)
    value = value_tile.index(before).reshape([BLOCK_N, out.shape[1]])
    adding = warpgroup_mma(rounded, value, out, is_async=True)
    if ALTERNATE:
        mbarrier.arrive(order.index(1 - WHO), count=1)
    products, adding = warpgroup_mma_wait(1, deps=(scoring, adding))
    mbarrier.arrive(key_empty.index(stage), count=1)
    weights, keep, peak, total = _weights(
        products, peak, total, ramp, start, reference, gradient, slope, scale, row_as_key, column, s_kv, CAUSAL, EDGE,
        KNOWN)  # fmt: skip
    out, rounded = warpgroup_mma_wait(0, deps=(adding, rounded))
    mbarrier.arrive(value_empty.index(before), count=1)
    if not KNOWN:
        out = out * gl.convert_layout(keep, gl.SliceLayout(1, OUT))[:, None]
    rounded = gl.convert_layout(weights.to(query.dtype), WEIGHTS)
    return out, rounded, peak, total


@gluon.jit
def _pass(
    step, served, query_tile, key_tile, value_tile, output_tile, query_full, query_empty, key_full, key_empty,
    value_full, value_empty, order, output_map, slopes, reach, batch_size, heads, group, s_q, s_kv, scale_natural,
    CAUSAL: gl.constexpr, STEADY: gl.constexpr, SKIP: gl.constexpr, BUNDLE_MIB: gl.constexpr,
    ALTERNATE: gl.constexpr, D: gl.constexpr, V: gl.constexpr,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, CONSUMERS: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """All tiles of this program once; (blocks and tiles so far, how many rows are not to be trusted)."""
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, V, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, SCORES))
    column = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, SCORES))
    query = query_tile.index(WHO).reshape([ROWS, D])
    output = output_tile.index(WHO)
    scale = scale_natural * LOG2E
    tiles = gl.cdiv(s_q, ROWS * CONSUMERS)
    pairs = batch_size * heads
    rounds = gl.cdiv(tiles * pairs, gl.num_programs(0))
    doubtful = 0
    for turn in range(rounds):
        tile, pair, exists = _tile_at(turn, tiles, pairs, s_kv, group, CAUSAL, D + V, BUNDLE_MIB)
        if exists:
            batch = pair // heads
            head = pair % heads
            slope = gl.load(slopes + head) * LOG2E
            reference, first, crossings, tail, left, first_right, right = _blocks(
                reach, tile, pair, s_q, s_kv, SKIP, CAUSAL, BLOCK_N, CONSUMERS
            )
            row_as_key = reference + WHO * ROWS + row
            ramp = slope * column.to(gl.float32)
            peak = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
            total = gl.full([ROWS], 0.0, gl.float32, gl.SliceLayout(1, SCORES))
            out = gl.zeros([ROWS, V], dtype=gl.float32, layout=OUT)
            # The first block has no output to add yet; every row sees at least one of its keys.
            stage = step % STAGES
            mbarrier.wait(query_full.index(WHO), served & 1)
            if ALTERNATE:
                mbarrier.wait(order.index(WHO), step & 1)
            mbarrier.wait(key_full.index(stage), (step // STAGES) & 1)
            zero = gl.zeros([ROWS, BLOCK_N], dtype=gl.float32, layout=SCORES)
            key = key_tile.index(stage).reshape([BLOCK_N, D])
            products = warpgroup_mma(query, key.permute((1, 0)), zero, use_acc=False)
            if ALTERNATE:
                mbarrier.arrive(order.index(1 - WHO), count=1)
            mbarrier.arrive(key_empty.index(stage), count=1)
            weights, _, peak, total = _weights(
                products, peak, total, ramp, first * BLOCK_N, reference, slope, slope, scale, row_as_key, column, s_kv,
                CAUSAL, True, False)  # fmt: skip
            rounded = gl.convert_layout(weights.to(query.dtype), WEIGHTS)
            step += 1
            for j in range(1, crossings + tail):
                start = gl.where(j >= crossings, s_kv // BLOCK_N, first + j) * BLOCK_N
                out, rounded, peak, total = _turn(
                    out, rounded, peak, total, step, start, query, key_tile, value_tile, key_full, key_empty,
                    value_full, value_empty, order, ramp, reference, slope, slope, scale, row_as_key, column, s_kv,
                    CAUSAL, True, STEADY, ALTERNATE, WHO, BLOCK_N, STAGES, SCORES, OUT, WEIGHTS)  # fmt: skip
                step += 1
            shift = slope * (WHO * ROWS + row).to(gl.float32)
            if not CAUSAL:
                peak += shift
            for j in range(left):
                out, rounded, peak, total = _turn(
                    out, rounded, peak, total, step, (first - 1 - j) * BLOCK_N, query, key_tile, value_tile, key_full,
                    key_empty, value_full, value_empty, order, ramp, reference, slope, slope, scale, row_as_key,
                    column, s_kv,
                    CAUSAL, False, STEADY, ALTERNATE, WHO, BLOCK_N, STAGES, SCORES, OUT, WEIGHTS)  # fmt: skip
                step += 1
            if not CAUSAL:
                peak -= 2 * shift
                mirrored = -slope * column.to(gl.float32)
                for j in range(right):
                    out, rounded, peak, total = _turn(
                        out, rounded, peak, total, step, (first_right + j) * BLOCK_N, query, key_tile, value_tile,
                        key_full, key_empty, value_full, value_empty, order, mirrored, reference, -slope, slope, scale,
                        row_as_key, column, s_kv,
                        CAUSAL, False, STEADY, ALTERNATE, WHO, BLOCK_N, STAGES, SCORES, OUT, WEIGHTS)  # fmt: skip
                    step += 1
            mbarrier.arrive(query_empty.index(WHO), count=1)
            served += 1
            stage = (step - 1) % STAGES
            mbarrier.wait(value_full.index(stage), ((step - 1) // STAGES) & 1)
            out = warpgroup_mma(rounded, value_tile.index(stage).reshape([BLOCK_N, V]), out)
            mbarrier.arrive(value_empty.index(stage), count=1)
            wrong = 0
            if STEADY:
                # Zero times anything finite is zero; comparisons with NaN are false.
                finite = gl.convert_layout(gl.sum(out * 0.0, 1), gl.SliceLayout(1, SCORES)) == 0.0
                wrong = gl.sum(gl.where(finite & (total < TOTAL_LIMIT), 0, 1), 0)
                doubtful += wrong
            out = out * gl.convert_layout(1.0 / total, gl.SliceLayout(1, OUT))[:, None]
            # The previous tile's copy out of the staging buffer has to be over before it is overwritten.
            tma.store_wait(0)
            gl.thread_barrier()
            if wrong == 0:
                output.reshape([ROWS, V]).store(out.to(query.dtype))
                fence_async_shared()
                tma.async_copy_shared_to_global(
                    output_map, [batch, head, tile * (ROWS * CONSUMERS) + WHO * ROWS, 0], output
                )
    return step, served, doubtful


@gluon.jit
def _consume(
    query_tile, key_tile, value_tile, output_tile, query_full, query_empty, key_full, key_empty, value_full,
    value_empty, order, verdict, verdicts, output_map, slopes, reach, batch_size, heads, group, s_q, s_kv,
    scale_natural,
    CAUSAL: gl.constexpr, STEADY: gl.constexpr, SKIP: gl.constexpr, BUNDLE_MIB: gl.constexpr,
    ALTERNATE: gl.constexpr, D: gl.constexpr, V: gl.constexpr,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, CONSUMERS: gl.constexpr, WHO: gl.constexpr,
):  # fmt: skip
    """One consumer warpgroup: rows ``WHO * 64 ..`` of every tile of this program."""
    step = gl.to_tensor(0)
    served = gl.to_tensor(0)
    step, served, doubtful = _pass(
        step, served, query_tile, key_tile, value_tile, output_tile, query_full, query_empty, key_full, key_empty,
        value_full,
        value_empty, order, output_map, slopes, reach, batch_size, heads, group, s_q, s_kv, scale_natural,
        CAUSAL, STEADY, SKIP, BUNDLE_MIB, ALTERNATE, D, V, BLOCK_N, STAGES, CONSUMERS, WHO)  # fmt: skip
    if STEADY:
        LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        verdicts.slice(WHO, 1).store(gl.full([1], doubtful, gl.int32, LAYOUT))
        mbarrier.arrive(verdict, count=1)
        if _judge(verdict, verdicts, CONSUMERS, 4) != 0:
            _pass(
                step, served, query_tile, key_tile, value_tile, output_tile, query_full, query_empty, key_full,
                key_empty, value_full, value_empty, order, output_map, slopes, reach, batch_size, heads, group, s_q,
                s_kv,
                scale_natural,
                CAUSAL, False, SKIP, BUNDLE_MIB, ALTERNATE, D, V, BLOCK_N, STAGES, CONSUMERS, WHO)  # fmt: skip
    tma.store_wait(0)


@gluon.jit
def alibi_prefill_hopper(
    query_map, key_map, value_map, output_map, slopes, reach, batch_size, heads, group, s_q, s_kv, scale_natural,
    CAUSAL: gl.constexpr, STEADY: gl.constexpr, SKIP: gl.constexpr, BUNDLE_MIB: gl.constexpr,
    ALTERNATE: gl.constexpr, D: gl.constexpr, V: gl.constexpr,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, CONSUMERS: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
    PRODUCER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Any one-dimensional grid; 4 warps and the workers that it starts itself.

    As many programs as multiprocessors where all tiles of a row cost the same (the order evens them out); one per
    tile with SKIP, whose costs only the device can balance.

    Args:
        query_map, key_map, value_map, output_map: Bulk-copy descriptors, rank 4, boxes of 64 rows or BLOCK_N keys.
        slopes: [H], float32.
        reach: [B, H, ceil(S_q / 128), 2], int32: the first key needed and the end of those needed (SKIP).
    """
    dtype: gl.constexpr = query_map.dtype
    query_tile = gl.allocate_shared_memory(dtype, [CONSUMERS, 1, 1, ROWS, D], query_map.layout)
    key_tile = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, D], key_map.layout)
    value_tile = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, V], value_map.layout)
    output_tile = gl.allocate_shared_memory(dtype, [CONSUMERS, 1, 1, ROWS, V], output_map.layout)
    verdicts = gl.allocate_shared_memory(gl.int32, [CONSUMERS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    query_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], BARRIER)
    query_empty = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], BARRIER)
    key_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    key_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    value_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    value_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    verdict = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    order = gl.allocate_shared_memory(gl.int64, [2, 1], BARRIER)
    mbarrier.init(order.index(0), count=1)
    mbarrier.init(order.index(1), count=1)
    mbarrier.init(verdict, count=CONSUMERS)
    for i in gl.static_range(CONSUMERS):
        mbarrier.init(query_full.index(i), count=1)
        mbarrier.init(query_empty.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(key_full.index(i), count=1)
        mbarrier.init(key_empty.index(i), count=CONSUMERS)
        mbarrier.init(value_full.index(i), count=1)
        mbarrier.init(value_empty.index(i), count=CONSUMERS)
    fence_async_shared()
    if ALTERNATE:
        mbarrier.arrive(order.index(0), count=1)
    # Spelled out: a tuple that is given a name turns its constants into tensors.
    gl.warp_specialize([
        (_consume, (
            query_tile, key_tile, value_tile, output_tile, query_full, query_empty, key_full, key_empty, value_full,
            value_empty, order, verdict, verdicts, output_map, slopes, reach, batch_size, heads, group, s_q, s_kv,
            scale_natural, CAUSAL, STEADY, SKIP, BUNDLE_MIB, ALTERNATE, D, V, BLOCK_N, STAGES, CONSUMERS, 0)),
        (_consume, (
            query_tile, key_tile, value_tile, output_tile, query_full, query_empty, key_full, key_empty, value_full,
            value_empty, order, verdict, verdicts, output_map, slopes, reach, batch_size, heads, group, s_q, s_kv,
            scale_natural, CAUSAL, STEADY, SKIP, BUNDLE_MIB, ALTERNATE, D, V, BLOCK_N, STAGES, CONSUMERS, 1)),
        (_produce, (
            query_map, key_map, value_map, query_tile, key_tile, value_tile, query_full, query_empty, key_full,
            key_empty, value_full, value_empty, verdict, verdicts, reach, batch_size, heads, group, s_q, s_kv,
            CAUSAL, STEADY, SKIP, BUNDLE_MIB, ALTERNATE, D, V, BLOCK_N, STAGES, CONSUMERS)),
    ], [4, 1], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
