"""Prefill for Hopper: warp-specialised, persistent, in Gluon (Triton's layer for explicit layouts and warps).

One program stays on a multiprocessor and takes tiles of ``CONSUMERS * 64`` query rows.  A producer warp decides
which tile comes next and which blocks of keys it needs, writes that down in shared memory, and streams queries,
keys and values with the bulk copy engine; each of CONSUMERS warpgroups owns 64 rows.  The warpgroups are
separate partitions, so nothing but the data keeps them in step, and one computes exponentials while another
multiplies.

The blocks of all tiles of a program are one stream.  Every step turns the scores of its block into weights, then
asks for the scores of the *next* block, of this tile or the next one, and for its own share of the output, and
waits for the scores only.  So weights never outlive their step (as loop-carried 16-bit values they would be
packed and unpacked in every step), and the next tile's first scores are there when a tile ends.  A block of
keys that nobody looks at closes the stream.

Blocks come nearest first: those that the diagonal crosses or that reach past the last key (compared element
by element), then those left of it going away, then those right of it (symmetric form).  The bias is the one
of ``prefill``: a vector that never changes in the FMA and a scalar per block in the row maximum.

Key padding and key positions differ by key only, so they are part of that vector: with VECTOR the producer
computes it for every block and puts it next to the keys.  Blocks before the first and after the last visible key
are left out.  Rows that see no key (known beforehand from the first visible one) get the mean of ``value`` from
extra blocks with equal weights at the end of their tile.

With STEADY (bfloat16) the row maximum is looked for in the first block only.  Weights then may exceed one, which
loses nothing in a type with the exponents of float32, and two of six instructions per score and the rescaling of
the output go.  A row whose later scores exceed its first ones by 2^60 or whose output is not finite is noticed
before it is stored; the program then does all its tiles again with the maximum kept block by block.  So the
result never depends on the shortcut, only the time does.

Needs ``s_q <= s_kv``, and no mask but a boolean one that differs by key only.
"""

# Compile-time parameters are in capitals, as is the custom in Triton.  Kernels are compiled, never called as
# Python: Triton's language has no types to check them with.
# ruff: noqa: N803, N806, D417
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

from .hopper_schedule import judge, produce, turns_of
from .hopper_shared import (
    BATCH,
    CROSSINGS,
    EXTRA,
    FIRST,
    HEAD,
    LEFT,
    LOG2E,
    NOTES,
    RIGHT,
    ROWS,
    SEEN_FROM,
    SLOPE,
    TAIL,
    TILE,
    Settings,
    Shared,
    Sizes,
    read,
)  # fmt: skip
from .hopper_weights import edge_weights, far_weights, ramp_of

TOTAL_LIMIT = gl.constexpr(1.152921504606847e18)
"""2^60: far from the largest float32, also after the product with a value of up to 2^67."""


@gluon.jit
def _multiply(
    rounded, out, step, slot, shared, mine, others, settings, PASS: gl.constexpr, WHO: gl.constexpr,
    SCORES: gl.constexpr,
):  # fmt: skip
    """Asks for the scores of block ``step`` and for the share of block ``step - 1`` in the output."""
    STAGES: gl.constexpr = settings.STAGES
    stage = step % STAGES
    before = (step - 1) % STAGES
    if settings.ALTERNATE:
        # (The block that closes the first pass and the first of the second were computed without a turn.)
        mbarrier.wait(mine, (step - 1 + PASS) & 1)
    mbarrier.wait(shared.key_full.index(stage), (step // STAGES) & 1)
    query = shared.query_tile.index(slot * settings.CONSUMERS + WHO).reshape([ROWS, settings.D])
    key = shared.key_tile.index(stage).reshape([settings.BLOCK_N, settings.D])
    zero = gl.zeros([ROWS, settings.BLOCK_N], dtype=gl.float32, layout=SCORES)
    scoring = warpgroup_mma(query, key.permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(shared.value_full.index(before), ((step - 1) // STAGES) & 1)
    value = shared.value_tile.index(before).reshape([settings.BLOCK_N, settings.V])
    adding = warpgroup_mma(rounded, value, out, is_async=True)
    if settings.ALTERNATE:
        mbarrier.arrive(others, count=1)
    return scoring, adding


@gluon.jit
def _consume_pass(
    step, served, shared, sizes, output_map, scale_natural, settings, STEADY: gl.constexpr, PASS: gl.constexpr,
    WHO: gl.constexpr,
):  # fmt: skip
    """All tiles of this program once; (blocks and tiles so far, how many rows are not to be trusted)."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    STAGES: gl.constexpr = settings.STAGES
    QUERIES: gl.constexpr = settings.QUERIES
    CONSUMERS: gl.constexpr = settings.CONSUMERS
    D: gl.constexpr = settings.D
    V: gl.constexpr = settings.V
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, V, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    BY_ROW: gl.constexpr = gl.SliceLayout(1, SCORES)
    dtype: gl.constexpr = shared.query_tile.dtype
    row = gl.arange(0, ROWS, layout=BY_ROW)
    column = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, SCORES))
    mine = shared.turn0
    others = shared.turn1
    if WHO == 1:
        mine = shared.turn1
        others = shared.turn0
        if CONSUMERS == 3:
            others = shared.turn2
    if WHO == 2:
        mine = shared.turn2
        others = shared.turn0
    output = shared.output_tile.index(WHO)
    scale = scale_natural * LOG2E
    s_kv = sizes.s_kv
    turns = turns_of(gl.cdiv(sizes.s_q, ROWS * CONSUMERS), sizes, settings)
    doubtful = gl.to_tensor(0)

    mbarrier.wait(shared.query_full.index(served % QUERIES), (served // QUERIES) & 1)
    mbarrier.wait(shared.key_full.index(step % STAGES), (step // STAGES) & 1)
    query = shared.query_tile.index(served % QUERIES * CONSUMERS + WHO).reshape([ROWS, D])
    key = shared.key_tile.index(step % STAGES).reshape([BLOCK_N, D])
    zero = gl.zeros([ROWS, BLOCK_N], dtype=gl.float32, layout=SCORES)
    products = warpgroup_mma(query, key.permute((1, 0)), zero, use_acc=False)
    mbarrier.arrive(shared.freed.index(step % STAGES), count=1)
    for _ in range(turns):
        slot = served % QUERIES
        tile = read(shared, slot, TILE)
        batch = read(shared, slot, BATCH)
        head = read(shared, slot, HEAD)
        first = read(shared, slot, FIRST)
        crossings = read(shared, slot, CROSSINGS)
        edges = crossings + read(shared, slot, TAIL)
        left = read(shared, slot, LEFT)
        right = read(shared, slot, RIGHT)
        extra = read(shared, slot, EXTRA)
        seen_from = read(shared, slot, SEEN_FROM)
        slope = read(shared, slot, SLOPE).to(gl.float32, bitcast=True)
        blocks = edges + left + right + extra
        reference = tile * (ROWS * CONSUMERS) + s_kv - sizes.s_q
        row_as_key = reference + WHO * ROWS + row
        shift = slope * (WHO * ROWS + row).to(gl.float32)
        peak = gl.full([ROWS], float("-inf"), gl.float32, BY_ROW)
        out = gl.zeros([ROWS, V], dtype=gl.float32, layout=OUT)
        if settings.SHARED_RAMP:
            shared.vector_tile.index(WHO).store(slope * column.to(gl.float32))
        # The first block, whose scores are there already; nothing has to be rescaled.
        ramp = ramp_of(shared, step, slope, column, settings, WHO)
        weights, _, peak, total = edge_weights(
            products, peak, ramp, first * BLOCK_N, reference, slope, scale, row_as_key, column, s_kv, settings, STEADY,
            True)  # fmt: skip
        step += 1
        for j in range(1, blocks):
            # Converted here: values of 16 bits carried from step to step would be unpacked and packed again.
            rounded = gl.convert_layout(weights.to(dtype), WEIGHTS)
            scoring, adding = _multiply(
                rounded, out, step, served % QUERIES, shared, mine, others, settings, PASS, WHO, SCORES
            )
            ramp = ramp_of(shared, step, slope, column, settings, WHO)
            products, adding = warpgroup_mma_wait(1, deps=(scoring, adding))
            # Weights of this block; the products of the one before with its values are still in flight.
            if j < edges:
                start_e = gl.where(j >= crossings, s_kv // BLOCK_N, first + j) * BLOCK_N
                weights, keep, peak, added = edge_weights(
                    products, peak, ramp, start_e, reference, slope, scale, row_as_key, column, s_kv, settings, STEADY,
                    False)  # fmt: skip
            else:
                weights, keep, peak, added = far_weights(
                    products, peak, ramp, j - edges, left, right, first, first + crossings, seen_from, row_as_key,
                    column, s_kv, reference, slope, shift, scale, settings, STEADY)  # fmt: skip
            if STEADY:
                total += added
            else:
                total = total * gl.convert_layout(keep, gl.SliceLayout(1, total.type.layout))[:, None] + added
            out = warpgroup_mma_wait(0, deps=(adding,))
            if not STEADY:
                out = out * gl.convert_layout(keep, gl.SliceLayout(1, OUT))[:, None]
            # The keys of this block and the values of the one before are done with.
            mbarrier.arrive(shared.freed.index(step % STAGES), count=1)
            step += 1
        # The next tile's first scores and the last of this one's output.
        rounded = gl.convert_layout(weights.to(dtype), WEIGHTS)
        served += 1
        mbarrier.wait(shared.query_full.index(served % QUERIES), (served // QUERIES) & 1)
        scoring, adding = _multiply(
            rounded, out, step, served % QUERIES, shared, mine, others, settings, PASS, WHO, SCORES
        )
        products, out = warpgroup_mma_wait(0, deps=(scoring, adding))
        mbarrier.arrive(shared.freed.index(step % STAGES), count=1)
        mbarrier.arrive(shared.query_empty.index(slot), count=1)
        sums = gl.convert_layout(gl.sum(total, 1), BY_ROW)
        wrong = gl.to_tensor(0)
        if STEADY:
            # Zero times anything finite is zero; comparisons with NaN are false.
            finite = gl.convert_layout(gl.sum(out * 0.0, 1), BY_ROW) == 0.0
            wrong = gl.sum(gl.where(finite & (sums < TOTAL_LIMIT) & (sums > 1.0 / TOTAL_LIMIT), 0, 1), 0)
            doubtful += wrong
        inverse = 1.0 / sums
        if settings.MASK:
            inverse = gl.where(sums == 0.0, 0.0, inverse)
        out = out * gl.convert_layout(inverse, gl.SliceLayout(1, OUT))[:, None]
        # The previous tile's copy out of the staging buffer has to be over before it is overwritten.
        tma.store_wait(0)
        gl.thread_barrier()
        if wrong == 0:
            output.reshape([ROWS, V]).store(out.to(dtype))
            fence_async_shared()
            tma.async_copy_shared_to_global(
                output_map, [batch, head, tile * (ROWS * CONSUMERS) + WHO * ROWS, 0], output
            )
    # The tile that closes the stream was looked at by nobody.
    mbarrier.arrive(shared.query_empty.index(served % QUERIES), count=1)
    return step + 1, served + 1, doubtful


@gluon.jit
def _consume(shared, sizes, output_map, scale_natural, settings, WHO: gl.constexpr):
    """One consumer warpgroup: rows ``WHO * 64 ..`` of every tile of this program."""
    step = gl.to_tensor(0)
    served = gl.to_tensor(0)
    step, served, doubtful = _consume_pass(
        step, served, shared, sizes, output_map, scale_natural, settings, settings.STEADY, 0, WHO
    )
    if settings.STEADY:
        LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        shared.verdicts.index(WHO).store(gl.full([1], doubtful, gl.int32, LAYOUT))
        mbarrier.arrive(shared.verdict, count=1)
        if judge(shared, settings, 4) != 0:
            _consume_pass(step, served, shared, sizes, output_map, scale_natural, settings, False, 1, WHO)
    tma.store_wait(0)


@gluon.jit
def alibi_prefill_hopper(
    query_map, key_map, value_map, output_map, slopes, reach, mask, key_positions, mask_batch, mask_column,
    positions_batch, batch_size, heads, group, s_q, s_kv, scale_natural, empty_mean,
    FORM: gl.constexpr, STEADY: gl.constexpr, SKIP: gl.constexpr, MASK: gl.constexpr, POSITIONS: gl.constexpr,
    BUNDLE_MIB: gl.constexpr, ALTERNATE: gl.constexpr, SHARED_RAMP: gl.constexpr,
    PAIRED: gl.constexpr, D: gl.constexpr, V: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    QUERIES: gl.constexpr, CONSUMERS: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr, PRODUCER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Any one-dimensional grid of at most as many programs as tiles; 4 warps and the workers that it starts itself.

    As many programs as multiprocessors where all tiles of a row cost the same (the order evens them out); one per
    tile with SKIP, whose costs only the device can balance.

    Args:
        query_map, key_map, value_map, output_map: Bulk-copy descriptors, rank 4, boxes of 64 rows or BLOCK_N keys.
        slopes: [H], float32.
        reach: [B, H, ceil(S_q / 128), 2], int32: the first key needed and the end of those needed (SKIP).
        mask: bytes; key j of batch b at ``b * mask_batch + j * mask_column`` (MASK).
        key_positions: [B or 1, S_kv], float32 (POSITIONS).
        empty_mean: rows without a visible key yield the mean of ``value`` (1) or zeros (0) (MASK).
    """
    VECTOR: gl.constexpr = MASK or POSITIONS
    dtype: gl.constexpr = query_map.dtype
    query_tile = gl.allocate_shared_memory(dtype, [QUERIES * CONSUMERS, 1, 1, ROWS, D], query_map.layout)
    key_tile = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, D], key_map.layout)
    value_tile = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, V], value_map.layout)
    output_tile = gl.allocate_shared_memory(dtype, [CONSUMERS, 1, 1, ROWS, V], output_map.layout)
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    vector_tile = gl.allocate_shared_memory(gl.float32, [2 * STAGES if VECTOR else CONSUMERS, BLOCK_N], PLAIN)
    notes = gl.allocate_shared_memory(gl.int32, [QUERIES * NOTES, 1], PLAIN)
    verdicts = gl.allocate_shared_memory(gl.int32, [CONSUMERS, 1], PLAIN)
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    query_full = gl.allocate_shared_memory(gl.int64, [QUERIES, 1], BARRIER)
    query_empty = gl.allocate_shared_memory(gl.int64, [QUERIES, 1], BARRIER)
    key_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    value_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    freed = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    verdict = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    turn0 = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    turn1 = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    turn2 = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    mbarrier.init(turn0, count=1)
    mbarrier.init(turn1, count=1)
    mbarrier.init(turn2, count=1)
    mbarrier.init(verdict, count=CONSUMERS)
    for i in gl.static_range(QUERIES):
        mbarrier.init(query_full.index(i), count=2)
        mbarrier.init(query_empty.index(i), count=CONSUMERS)
    for i in gl.static_range(STAGES):
        mbarrier.init(key_full.index(i), count=2 if VECTOR else 1)
        mbarrier.init(value_full.index(i), count=1)
        mbarrier.init(freed.index(i), count=CONSUMERS)
    fence_async_shared()
    if ALTERNATE:
        mbarrier.arrive(turn0, count=1)
    settings = Settings(FORM, STEADY, SKIP, MASK, POSITIONS, ALTERNATE, BUNDLE_MIB, D, V, BLOCK_N, STAGES,
                        QUERIES, CONSUMERS, SHARED_RAMP, PAIRED)  # fmt: skip
    sizes = Sizes(gl.to_tensor(batch_size), gl.to_tensor(heads), gl.to_tensor(group), gl.to_tensor(s_q),
                  gl.to_tensor(s_kv))  # fmt: skip
    shared = Shared(query_tile, key_tile, value_tile, output_tile, vector_tile, notes, query_full, query_empty,
                    key_full, value_full, freed, verdict, verdicts, turn0, turn1, turn2)  # fmt: skip
    # Spelled out: a tuple that is given a name turns its constants into tensors.
    if CONSUMERS == 3:
        gl.warp_specialize([
            (_consume, (shared, sizes, output_map, scale_natural, settings, 0)),
            (_consume, (shared, sizes, output_map, scale_natural, settings, 1)),
            (_consume, (shared, sizes, output_map, scale_natural, settings, 2)),
            (produce, (shared, sizes, query_map, key_map, value_map, slopes, reach, mask, key_positions, mask_batch,
                        mask_column, positions_batch, empty_mean, settings)),
        ], [4, 4, 1], [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    else:
        gl.warp_specialize([
            (_consume, (shared, sizes, output_map, scale_natural, settings, 0)),
            (_consume, (shared, sizes, output_map, scale_natural, settings, 1)),
            (produce, (shared, sizes, query_map, key_map, value_map, slopes, reach, mask, key_positions, mask_batch,
                        mask_column, positions_batch, empty_mean, settings)),
        ], [4, 1], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
