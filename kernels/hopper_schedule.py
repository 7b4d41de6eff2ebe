"""The producer of the Hopper kernel: which tile comes next, which blocks of keys it needs, and all copies."""

# Compile-time parameters are in capitals, as is the custom in Triton.  Kernels are compiled, never called as
# Python: Triton's language has no types to check them with.
# ruff: noqa: N803, N806, SIM102
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .hopper_shared import (
    BATCH,
    CROSSINGS,
    EXTRA,
    FIRST,
    FORM_CAUSAL,
    FORM_LINEAR,
    FORM_SYMMETRIC,
    HEAD,
    LEFT,
    LOG2E,
    RIGHT,
    ROWS,
    SEEN_FROM,
    SLOPE,
    TAIL,
    TILE,
    note,
)  # fmt: skip


@gluon.jit
def _tile_at(turn, tiles, sizes, settings):
    """The tile that this program takes at its ``turn``: (row tile, pair of batch and head).

    Pairs go in bundles of limited size, so that several programs read the same keys and values at about the same
    time; within a bundle the rows with the most keys come first, and every other turn goes backwards through the
    programs, which evens out their sums.
    """
    pairs = sizes.batch * sizes.heads
    index = _index_at(turn, settings)
    width: gl.constexpr = (settings.D + settings.V) * 2
    fitting = gl.maximum((settings.BUNDLE_MIB * 1048576) // (sizes.s_kv * width) * sizes.group, 1)
    bundle = gl.cdiv(pairs, gl.cdiv(pairs, fitting))
    number = index // (bundle * tiles)
    rest = index - number * bundle * tiles
    size = gl.maximum(gl.minimum(bundle, pairs - number * bundle), 1)
    row = rest // size
    pair = number * bundle + rest % size
    if settings.FORM == FORM_CAUSAL:
        row = tiles - 1 - row
    return row, pair


@gluon.jit
def _index_at(turn, settings):
    programs = gl.num_programs(0)
    place = gl.program_id(0)
    if settings.FORM == FORM_CAUSAL:
        if turn % 2 == 1:
            place = programs - 1 - place
    return turn * programs + place


@gluon.jit
def turns_of(tiles, sizes, settings):
    """How many tiles this program takes; at least one."""
    whole = tiles * sizes.batch * sizes.heads
    rounds = gl.cdiv(whole, gl.num_programs(0))
    return rounds - gl.where(_index_at(rounds - 1, settings) < whole, 0, 1)


@gluon.jit
def _visible_keys(mask, batch, mask_batch, mask_column, s_kv):
    """The first visible key (s_kv if there is none) and the end of the visible ones (then 0)."""
    SPAN: gl.constexpr = 512
    LAYOUT: gl.constexpr = gl.BlockedLayout([16], [32], [1], [0])
    lane = gl.arange(0, SPAN, layout=LAYOUT)
    base = mask + batch.to(gl.int64) * mask_batch
    begin = s_kv
    start = gl.to_tensor(0)
    while (start < s_kv) & (begin == s_kv):
        key = start + lane
        keep = gl.load(base + key.to(gl.int64) * mask_column, mask=key < s_kv, other=0)
        begin = gl.min(gl.where(keep != 0, key, s_kv), 0)
        start += SPAN
    end = gl.to_tensor(0)
    start = (s_kv - 1) // SPAN * SPAN
    while (start >= 0) & (end == 0):
        key = start + lane
        keep = gl.load(base + key.to(gl.int64) * mask_column, mask=key < s_kv, other=0)
        end = gl.max(gl.where(keep != 0, key + 1, 0), 0)
        start -= SPAN
    return begin, end


@gluon.jit
def _blocks(reach, tile, pair, begin, end, empty_mean, sizes, settings):
    """Cuts the keys of a tile into blocks: first, crossings, tail, left, right, extra, seen_from (see NOTES)."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    rows: gl.constexpr = ROWS * settings.CONSUMERS
    s_q = sizes.s_q
    s_kv = sizes.s_kv
    reference = tile * rows + s_kv - s_q
    tail = gl.to_tensor(0)
    right = gl.to_tensor(0)
    extra = gl.to_tensor(0)
    seen_from = gl.to_tensor(0)
    if settings.FORM == FORM_LINEAR:
        first = gl.maximum(end - 1, 0) // BLOCK_N
        crossings = gl.to_tensor(1)
    else:
        last_row = gl.minimum(tile * rows + rows, s_q) + s_kv - s_q
        first = reference // BLOCK_N
        crossings = gl.cdiv(last_row, BLOCK_N) - first
    left = first
    whole = s_kv // BLOCK_N
    if settings.SKIP:
        slot = reach + (pair * gl.cdiv(s_q, rows) + tile) * 2
        left = first - gl.minimum(gl.load(slot) // BLOCK_N, first)
        if settings.FORM == FORM_SYMMETRIC:
            whole = gl.minimum(whole, gl.cdiv(gl.load(slot + 1), BLOCK_N))
    if settings.MASK:
        left = gl.maximum(first - begin // BLOCK_N, 0)
        whole = gl.minimum(whole, gl.cdiv(end, BLOCK_N))
        empty = begin == s_kv
        if settings.FORM == FORM_CAUSAL:
            empty = reference < begin
            seen_from = begin
        else:
            seen_from = gl.where(empty, s_kv, 0)
        extra = gl.where(empty & (empty_mean != 0), gl.cdiv(s_kv, BLOCK_N), 0)
    if settings.FORM == FORM_SYMMETRIC:
        last = s_kv // BLOCK_N
        crossed = first + crossings
        tail = gl.where((last * BLOCK_N < end) & (last >= crossed), 1, 0)
        right = gl.maximum(whole - crossed, 0)
    return first, crossings, tail, left, right, extra, seen_from


@gluon.jit
def _key_vector(
    mask, key_positions, batch, mask_batch, mask_column, positions_batch, start, kind, slope, own, s_kv, settings,
):  # fmt: skip
    """What a key adds to its scores, [BLOCK_N]: its bias relative to the block or the tile, -inf if it is hidden.

    ``kind``: 1 left of the diagonal, -1 right of it, 0 where the diagonal's block adds the bias itself.
    """
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    LAYOUT: gl.constexpr = gl.BlockedLayout([BLOCK_N // 32], [32], [1], [0])
    lane = gl.arange(0, BLOCK_N, layout=LAYOUT)
    key = start + lane
    inside = key < s_kv
    if settings.POSITIONS:
        at = key_positions + batch.to(gl.int64) * positions_batch + key
        vector = slope * (gl.load(at, mask=inside, other=0.0) - own)
    else:
        vector = (slope * kind.to(gl.float32)) * lane.to(gl.float32)
    if settings.MASK:
        at = mask + batch.to(gl.int64) * mask_batch + key.to(gl.int64) * mask_column
        keep = gl.load(at, mask=inside, other=0)
        vector = gl.where(keep != 0, vector, float("-inf"))
    return vector


@gluon.jit
def _block_at(j, first, crossings, tail, left, right, s_kv, BLOCK_N: gl.constexpr):
    """The ``j``-th block in processing order."""
    edge = crossings + tail
    number = first + j
    number = gl.where(j >= crossings, s_kv // BLOCK_N, number)
    number = gl.where(j >= edge, first - 1 - (j - edge), number)
    number = gl.where(j >= edge + left, first + crossings + (j - edge - left), number)
    return gl.where(j >= edge + left + right, j - edge - left - right, number)


@gluon.jit
def produce(
    shared, sizes, query_map, key_map, value_map, slopes, reach, mask, key_positions, mask_batch, mask_column,
    positions_batch, empty_mean, settings,
):  # fmt: skip
    """The producer warp: all copies, in the order in which the consumers need them."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    STAGES: gl.constexpr = settings.STAGES
    QUERIES: gl.constexpr = settings.QUERIES
    rows: gl.constexpr = ROWS * settings.CONSUMERS
    VECTOR: gl.constexpr = settings.MASK or settings.POSITIONS
    step = gl.to_tensor(0)
    served = gl.to_tensor(0)
    tiles = gl.cdiv(sizes.s_q, rows)
    turns = turns_of(tiles, sizes, settings)
    s_kv = sizes.s_kv
    passes = gl.to_tensor(1)
    number_of_pass = gl.to_tensor(0)
    begin = gl.to_tensor(0)
    end = s_kv
    scanned = gl.to_tensor(-1)
    while number_of_pass < passes:
        for turn in range(turns + 1):
            # The last turn is no tile: its queries and first keys only let the pass end like every tile.
            row, pair = _tile_at(gl.minimum(turn, turns - 1), tiles, sizes, settings)
            batch = pair // sizes.heads
            head = pair % sizes.heads
            kv_head = head // sizes.group
            slope = gl.load(slopes + head) * LOG2E
            if settings.MASK:
                if batch != scanned:
                    begin, end = _visible_keys(mask, batch, mask_batch, mask_column, s_kv)
                    scanned = batch
            first, crossings, tail, left, right, extra, seen_from = _blocks(
                reach, row, pair, begin, end, empty_mean, sizes, settings
            )
            own = 0.0
            if settings.POSITIONS:
                last_row = gl.minimum(row * rows + rows, sizes.s_q) - 1 + s_kv - sizes.s_q
                own = gl.load(key_positions + batch.to(gl.int64) * positions_batch + last_row)
            blocks = crossings + tail + left + right + extra
            if turn == turns:
                blocks = gl.to_tensor(1)
            slot = served % QUERIES
            mbarrier.wait(shared.query_empty.index(slot), ((served // QUERIES) & 1) ^ 1)
            note(shared, slot, TILE, row)
            note(shared, slot, BATCH, batch)
            note(shared, slot, HEAD, head)
            note(shared, slot, FIRST, first)
            note(shared, slot, CROSSINGS, crossings)
            note(shared, slot, TAIL, tail)
            note(shared, slot, LEFT, left)
            note(shared, slot, RIGHT, right)
            note(shared, slot, EXTRA, extra)
            note(shared, slot, SEEN_FROM, seen_from)
            note(shared, slot, SLOPE, slope.to(gl.int32, bitcast=True))
            mbarrier.expect(shared.query_full.index(slot), query_map.block_type.nbytes * settings.CONSUMERS)
            for w in gl.static_range(settings.CONSUMERS):
                tma.async_copy_global_to_shared(
                    query_map, [batch, head, row * rows + w * ROWS, 0], shared.query_full.index(slot),
                    shared.query_tile.index(slot * settings.CONSUMERS + w))  # fmt: skip
            # The barrier is full when both the copies and the notes are there.
            mbarrier.arrive(shared.query_full.index(slot), count=1)
            served += 1
            for j in range(blocks):
                number = _block_at(j, first, crossings, tail, left, right, s_kv, BLOCK_N)
                stage = step % STAGES
                # Once the scores of the block that was here are computed.
                mbarrier.wait(shared.freed.index(stage), ((step // STAGES) & 1) ^ 1, pred=step >= STAGES)
                mbarrier.expect(shared.key_full.index(stage), key_map.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    key_map, [batch, kv_head, number * BLOCK_N, 0], shared.key_full.index(stage),
                    shared.key_tile.index(stage))  # fmt: skip
                if VECTOR:
                    kind = gl.where(j < crossings + tail + left, 1, -1)
                    if settings.FORM == FORM_SYMMETRIC:
                        kind = gl.where(j < crossings + tail, 0, kind)
                    vector = _key_vector(
                        mask, key_positions, batch, mask_batch, mask_column, positions_batch, number * BLOCK_N, kind,
                        slope, own, s_kv, settings)  # fmt: skip
                    shared.vector_tile.index(step % (2 * STAGES)).store(vector)
                    mbarrier.arrive(shared.key_full.index(stage), count=1)
                # One step later the values of the block that was here are used too.
                later = step + 1
                mbarrier.wait(shared.freed.index(later % STAGES), ((later // STAGES) & 1) ^ 1, pred=step >= STAGES)
                if turn < turns:
                    mbarrier.expect(shared.value_full.index(stage), value_map.block_type.nbytes)
                    tma.async_copy_global_to_shared(
                        value_map, [batch, kv_head, number * BLOCK_N, 0], shared.value_full.index(stage),
                        shared.value_tile.index(stage))  # fmt: skip
                else:
                    # Nobody asks for the values of the block that closes the stream.
                    mbarrier.arrive(shared.value_full.index(stage), count=1)
                step += 1
        number_of_pass += 1
        if settings.STEADY:
            if number_of_pass == 1:
                passes = 1 + judge(shared, settings, 1)


@gluon.jit
def judge(shared, settings, WARPS: gl.constexpr):
    """Waits until every consumer has judged its rows; 1 if one of them was not content, else 0."""
    mbarrier.wait(shared.verdict, 0)
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    worst = gl.to_tensor(0)
    for i in gl.static_range(settings.CONSUMERS):
        worst = gl.maximum(worst, gl.max(shared.verdicts.index(i).load(LAYOUT), 0))
    return gl.minimum(worst, 1)
