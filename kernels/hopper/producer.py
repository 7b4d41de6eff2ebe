"""The producer of the Hopper kernel: notes about the tiles to come, and all copies."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from .rows import codes_of, count_needed, next_block
from .shared import (  # fmt: skip
    BATCH,
    BEGIN,
    CROSSINGS,
    END,
    EXTRA,
    FIRST,
    FORM_CAUSAL,
    FORM_SYMMETRIC,
    HEAD,
    LARGEST,
    LEFT,
    LOG2E,
    LOWEST,
    RIGHT,
    ROWS,
    SEEN_FROM,
    SLOPE,
    SURE,
    TAIL,
    TERM_COLUMNS,
    TILE,
    in_doubt,
    judge,
    note,
    phase_of,
    release,
    set_up_barriers,
    stage_of,
    tell,
)
from .skipping import AHEAD, needed_blocks, worth_a_try
from .tiles import block_at, blocks_of, drawn_tiles, order, place_of, tile_of, visible_keys
from .weights import by_vector, natural


@gluon.constexpr_function
def _by_key():
    """How the producer warp holds one number per key of a block; the other dimension is for what it writes."""
    return gl.SliceLayout(1, gl.BlockedLayout([1, 1], [32, 1], [1, 1], [0, 1]))


@gluon.jit
def _ask(mask, key_positions, batch, mask_column, positions_batch, start, s_kv, settings):
    """Loads what mask and positions say of a block of keys.  A block ahead, because the answer takes its time."""
    key = start + gl.arange(0, settings.BLOCK_N, layout=_by_key())
    inside = key < s_kv
    loaded = key
    position = key
    if settings.MASK:
        at = mask + key.to(gl.int64) * mask_column
        loaded = gl.load(at, mask=inside, other=0)
    if settings.POSITIONS:
        at = key_positions + batch.to(gl.int64) * positions_batch + key
        position = gl.load(at, mask=inside, other=0.0)
    return loaded, position


@gluon.jit
def _key_terms(loaded, position, slope, own, settings):
    """What the keys of a block add to their scores, in natural units: bias by positions and mask; -inf if hidden."""
    terms = gl.zeros([settings.BLOCK_N], gl.float32, _by_key())
    if settings.POSITIONS:
        terms = slope * (position - own)
    if settings.ADDITIVE:
        added = gl.minimum(loaded.to(gl.float32), LARGEST)
        terms = gl.where(added > LOWEST, terms + added, float("-inf"))
    elif settings.MASK:
        terms = gl.where(loaded != 0, terms, float("-inf"))
    return terms


@gluon.jit
def _all_plain(loaded, start, s_kv, settings):
    """Whether a mask says nothing about the keys of a block."""
    if settings.ADDITIVE:
        told = loaded.to(gl.float32) != 0.0
    else:
        told = loaded == 0
    key = start + gl.arange(0, settings.BLOCK_N, layout=_by_key())
    return gl.max((told & (key < s_kv)).to(gl.int32), 0) == 0


@gluon.jit
def _put_terms(shared, stage, terms, settings):
    """Writes a block's terms as the second product takes them: cut into three bfloat16.

    Cut, not rounded: what is beyond float32 is infinite in all passes alike.
    """
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    words = shared.term_tile._reinterpret(
        gl.int32, [settings.STAGES, settings.BLOCK_N, TERM_COLUMNS // 2], PLAIN
    ).index(stage)
    rest = terms
    bounded = gl.abs(rest) < float("inf")
    high = rest.to(gl.int32, bitcast=True) & -65536
    rest = gl.where(bounded, rest - high.to(gl.float32, bitcast=True), 0.0)
    middle = rest.to(gl.int32, bitcast=True) & -65536
    rest -= middle.to(gl.float32, bitcast=True)
    low = rest.to(gl.int32, bitcast=True)
    words.slice(0, 1, 1).store((((high >> 16) & 65535) | middle)[:, None])
    words.slice(1, 1, 1).store(((low >> 16) & 65535)[:, None])


@gluon.jit
def _put_vector(shared, stage, terms, kind, slope, settings):
    """Writes a block's terms and its bias relative to the block as the pass that keeps a maximum by block takes them.

    ``kind``: 1 left of the diagonal, -1 right of it, 0 where the diagonal's block adds the bias itself.
    """
    vector = terms
    if not settings.POSITIONS:
        lane = gl.arange(0, settings.BLOCK_N, layout=_by_key())
        vector += (slope * kind.to(gl.float32)) * lane.to(gl.float32)
    shared.vector_tile.index(stage).store(vector)


@gluon.jit
def produce(
    shared, sizes, query_map, key_map, value_map, slopes, key_norms, ticket, previous, blocks_needed, mask,
    key_positions, mask_batch, mask_head, mask_column, positions_batch, scale_natural, empty_mean, settings,
):  # fmt: skip
    """The producer warp: all copies, in the order in which the consumers need them."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    QUERIES: gl.constexpr = settings.QUERIES
    rows: gl.constexpr = ROWS * settings.CONSUMERS
    VECTOR: gl.constexpr = settings.MASK or settings.POSITIONS
    # Where every block has terms, its keys do not wait for them.
    LATE: gl.constexpr = settings.POSITIONS
    set_up_barriers(shared, settings, settings.CONSUMERS)
    step = gl.to_tensor(0)
    served = gl.to_tensor(0)
    certified = gl.to_tensor(0)
    tiles = gl.cdiv(sizes.s_q, rows)
    size, bundles, rounds, places = order(tiles, sizes, settings)
    s_kv = sizes.s_kv
    passes = gl.to_tensor(1)
    number_of_pass = gl.to_tensor(0)
    begin = gl.to_tensor(0)
    end = s_kv
    begin_near = gl.to_tensor(0)
    end_near = s_kv
    begin_seen = gl.to_tensor(0)
    scanned = gl.to_tensor(-1)
    # The unit of slopes in the consumers' current pass, and whether what differs by key only is in the products there.
    per_natural = gl.to_tensor(LOG2E)
    if natural(settings, settings.STEADY):
        per_natural = gl.to_tensor(1.0)
    within = gl.to_tensor(settings.STEADY)
    per_scale = 1.0 / scale_natural
    # From which block to which the mask of this batch entry is known to say nothing.
    plain_from = gl.to_tensor(0)
    plain_to = gl.to_tensor(0)
    # The same of another entry: tiles that follow each other come from two; every other round is dealt backwards.
    scanned_b = gl.to_tensor(-1)
    begin_seen_b, begin_b, end_b, begin_near_b, end_near_b = begin_seen, begin, end, begin_near, end_near
    plain_from_b, plain_to_b = plain_from, plain_to
    # Of a mask with rows, the group of blocks that is being walked.
    word, bits, masks = gl.to_tensor(0), gl.to_tensor(0), gl.to_tensor(0)
    # Places whose terms are not zero.
    told = gl.to_tensor(0)
    turn = gl.to_tensor(0)
    # With SKIP and MASK_ROWS costs are not known beforehand: programs draw tickets for tiles, in the same order.
    drawn = gl.to_tensor(-1)
    coming = gl.to_tensor(0)
    if drawn_tiles(settings):
        coming = gl.atomic_add(ticket, 1)
    mbarrier.wait(shared.ready, 0)
    while number_of_pass < passes:
        if not drawn_tiles(settings):
            turn = gl.to_tensor(0)
        place = gl.to_tensor(0)
        more = gl.to_tensor(True)
        while more:
            if drawn_tiles(settings):
                if number_of_pass == 0:
                    number = coming // (size * tiles)
                    row, pair = tile_of(number, coming - number * size * tiles, size, tiles, bundles, sizes, settings)
                    exists = coming < tiles * sizes.batch * sizes.heads
                    more = exists
                    if exists:
                        gl.store(previous + coming, drawn)
                        drawn = coming
                        turn += 1
                    taken = exists
                else:
                    # Back along the tickets that this program had.
                    more = drawn >= 0
                    number = drawn // (size * tiles)
                    row, pair = tile_of(number, drawn - number * size * tiles, size, tiles, bundles, sizes, settings)
                    taken = more
                    if more:
                        turn -= 1
                        drawn = gl.load(previous + drawn)
                        if settings.STEADY:
                            taken = in_doubt(shared, turn, settings)
            else:
                number = gl.minimum(place // rounds, bundles)
                index = place_of(number, place - number * rounds, size, tiles, settings)
                row, pair = tile_of(number, index, size, tiles, bundles, sizes, settings)
                more = place < places
                exists = more & (row >= 0)
                taken = exists
                if settings.STEADY:
                    if exists & (number_of_pass == 1):
                        taken = in_doubt(shared, turn, settings)
                turn += gl.where(exists, 1, 0)
                place += 1
            if taken:
                batch = pair // sizes.heads
                head = pair - batch * sizes.heads
                kv_head = head // sizes.group
                slope_natural = gl.load(slopes + head)
                slope = slope_natural * per_natural
                of_entry = mask
                if settings.MASK:
                    # One mask of a batch entry for all heads, or one of each.
                    of_entry = mask + batch.to(gl.int64) * mask_batch + head.to(gl.int64) * mask_head
                    entry = gl.where(mask_head != 0, pair, batch)
                    if entry != scanned:
                        scanned, scanned_b = scanned_b, scanned
                        begin, begin_b = begin_b, begin
                        end, end_b = end_b, end
                        plain_from, plain_from_b = plain_from_b, plain_from
                        plain_to, plain_to_b = plain_to_b, plain_to
                        if settings.ADDITIVE:
                            begin_seen, begin_seen_b = begin_seen_b, begin_seen
                            begin_near, begin_near_b = begin_near_b, begin_near
                            end_near, end_near_b = end_near_b, end_near
                    if entry != scanned:
                        begin_seen, begin, end, begin_near, end_near = visible_keys(
                            of_entry, mask_column, s_kv, within, settings
                        )
                        scanned = entry
                        plain_from = gl.to_tensor(0)
                        plain_to = gl.to_tensor(0)
                    if not settings.ADDITIVE:
                        begin_seen, begin_near, end_near = begin, begin, end
                first, crossings, tail, left, right, extra, seen_from = blocks_of(
                    row, begin, end, begin_near, end_near, begin_seen, empty_mean, sizes, settings
                )
                if settings.MASK and settings.STEADY and settings.FORM != FORM_CAUSAL:
                    if (empty_mean != 0) & within:
                        # A batch entry without visible keys is left to the second pass, like rows that are not to be
                        # trusted: what the first one does not do does not take its registers.
                        extra = gl.to_tensor(0)
                        seen_from = gl.to_tensor(0)
                if settings.MASK_ROWS:
                    # Of an additive mask the words leave out what only the second pass can weigh.
                    every = gl.to_tensor(False)
                    if settings.ADDITIVE:
                        every = not within
                    codes = codes_of(blocks_needed, batch, head, row, mask_batch, mask_head, sizes, settings)
                    first, left, right = count_needed(codes, every, first, crossings, left, right, sizes, settings)
                    if (empty_mean != 0) & (not within):
                        extra = gl.cdiv(s_kv, BLOCK_N)
                own = 0.0
                if settings.POSITIONS:
                    last_row = gl.minimum(row * rows + rows, sizes.s_q) - 1 + s_kv - sizes.s_q
                    own = gl.load(key_positions + batch.to(gl.int64) * positions_batch + last_row)
                keyed = crossings + tail + left + right
                blocks = keyed + extra
                sure = gl.to_tensor(0)
                if settings.SKIP:
                    if worth_a_try(slope, s_kv) & (left + right > AHEAD):
                        sure = crossings + tail + AHEAD
                asked = not (within & (plain_from <= first) & (first < plain_to))
                if VECTOR:
                    loaded, position = _ask(
                        of_entry, key_positions, batch, mask_column, positions_batch, first * BLOCK_N,
                        gl.where(asked, s_kv, 0), settings)  # fmt: skip
                slot = served & (QUERIES - 1)
                mbarrier.wait(shared.query_empty.index(slot), ((served // QUERIES) & 1) ^ 1)
                mbarrier.expect(shared.query_full.index(slot), query_map.block_type.nbytes * settings.CONSUMERS)
                for w in gl.static_range(settings.CONSUMERS):
                    tma.async_copy_global_to_shared(
                        query_map, [batch, head, row * rows + w * ROWS, 0], shared.query_full.index(slot),
                        shared.query_tile.index(slot * settings.CONSUMERS + w))  # fmt: skip
                served += 1
                j = gl.to_tensor(0)
                while j < blocks:
                    if settings.MASK_ROWS:
                        number, row_told, word, bits, masks = next_block(
                            j, first, crossings, tail, left, right, codes, every, word, bits, masks, sizes, BLOCK_N
                        )
                    else:
                        number = block_at(j, first, crossings, tail, left, right, s_kv, BLOCK_N)
                    stage = stage_of(step, settings)
                    if VECTOR:
                        here, here_position, tells = loaded, position, asked
                        if not settings.POSITIONS:
                            if asked & within:
                                tells = not _all_plain(loaded, number * BLOCK_N, s_kv, settings)
                                if not tells:
                                    # The blocks of a tile come in order: what is plain becomes one range.
                                    none = plain_from == plain_to
                                    plain_from = gl.where(none | (number == plain_from - 1), number, plain_from)
                                    plain_to = gl.where(none | (number == plain_to), number + 1, plain_to)
                        next_number = block_at(j + 1, first, crossings, tail, left, right, s_kv, BLOCK_N)
                        # Nothing is asked of blocks that are known to be plain, nor of those of the mean.
                        known = within & (plain_from <= next_number) & (next_number < plain_to)
                        asked = (j + 1 < keyed) & (not known)
                        if asked:
                            loaded, position = _ask(
                                of_entry, key_positions, batch, mask_column, positions_batch,
                                next_number * BLOCK_N, s_kv, settings)  # fmt: skip
                    # Once the weights of the block that was here are computed.
                    mbarrier.wait(shared.freed.index(stage), phase_of(step, settings) ^ 1, pred=step >= settings.STAGES)
                    if LATE:
                        if j < keyed:
                            mbarrier.expect(shared.key_full.index(stage), key_map.block_type.nbytes)
                            tma.async_copy_global_to_shared(
                                key_map, [batch, kv_head, number * BLOCK_N, 0], shared.key_full.index(stage),
                                shared.key_tile.index(stage))  # fmt: skip
                        else:
                            mbarrier.arrive(shared.key_full.index(stage), count=1)
                    if VECTOR:
                        place_bit = 1 << stage
                        if tells | ((told & place_bit) != 0):
                            terms = _key_terms(here, here_position, slope_natural, own, settings)
                            if within & (not by_vector(settings, settings.STEADY)):
                                # Zeros where a block that is plain comes to a place whose terms are not.
                                terms = gl.where(tells, terms * per_scale, 0.0)
                                told = gl.where(tells, told | place_bit, told & ~place_bit)
                                if settings.TERMS:
                                    _put_terms(shared, stage, terms, settings)
                                    # The tensor cores read what threads wrote.
                                    fence_async_shared()
                                else:
                                    shared.vector_tile.index(stage).store(terms)
                                    tell(shared, stage, tells.to(gl.int32))
                            else:
                                kind = gl.where(j < crossings + tail + left, 1, -1)
                                if settings.FORM == FORM_SYMMETRIC:
                                    kind = gl.where(j < crossings + tail, 0, kind)
                                _put_vector(shared, stage, terms * per_natural, kind, slope, settings)
                            gl.thread_barrier()
                    if settings.MASK_ROWS:
                        tell(shared, stage, 2 * number + row_told)
                        gl.thread_barrier()
                    if LATE:
                        release(shared.key_full.index(stage))
                    elif settings.MASK or settings.MASK_ROWS:
                        if j < keyed:
                            mbarrier.expect(shared.key_full.index(stage), key_map.block_type.nbytes)
                            tma.async_copy_global_to_shared(
                                key_map, [batch, kv_head, number * BLOCK_N, 0], shared.key_full.index(stage),
                                shared.key_tile.index(stage))  # fmt: skip
                        else:
                            # The mean of all values takes no keys.
                            mbarrier.arrive(shared.key_full.index(stage), count=1)
                    else:
                        mbarrier.expect(shared.key_full.index(stage), key_map.block_type.nbytes)
                        tma.async_copy_global_to_shared(
                            key_map, [batch, kv_head, number * BLOCK_N, 0], shared.key_full.index(stage),
                            shared.key_tile.index(stage))  # fmt: skip
                    # One step later the values of the block that was here are used too.
                    mbarrier.wait(
                        shared.freed.index(stage_of(step + 1, settings)), phase_of(step + 1, settings) ^ 1,
                        pred=step >= settings.STAGES)  # fmt: skip
                    mbarrier.expect(shared.value_full.index(stage), value_map.block_type.nbytes)
                    tma.async_copy_global_to_shared(
                        value_map, [batch, kv_head, number * BLOCK_N, 0], shared.value_full.index(stage),
                        shared.value_tile.index(stage))  # fmt: skip
                    if j == 0:
                        # After the copies, which take longer, and the slope last, because it has to be loaded.  The
                        # barrier is full when both the queries and the notes are there.
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
                        if settings.MASK:
                            note(shared, slot, BEGIN, begin_near)
                            note(shared, slot, END, end_near)
                        if settings.SKIP:
                            note(shared, slot, SURE, 2 * sure + (certified & 1))
                        note(shared, slot, SLOPE, slope.to(gl.int32, bitcast=True))
                        mbarrier.arrive(shared.query_full.index(slot), count=1)
                        if drawn_tiles(settings):
                            if number_of_pass == 0:
                                coming = gl.atomic_add(ticket, 1)
                    step += 1
                    j += 1
                    if settings.SKIP:
                        if j == sure:
                            mbarrier.wait(shared.weighed, certified & 1)
                            certified += 1
                            left, right = needed_blocks(
                                shared, key_norms, batch, kv_head, row, first, crossings, left, right, slope,
                                scale_natural, sizes, settings)  # fmt: skip
                            note(shared, slot, LEFT, left)
                            note(shared, slot, RIGHT, right)
                            mbarrier.arrive(shared.certain, count=1)
                            blocks = crossings + tail + left + right
        # What closes the pass is no tile: there are notes only.
        slot = served & (QUERIES - 1)
        mbarrier.wait(shared.query_empty.index(slot), ((served // QUERIES) & 1) ^ 1)
        note(shared, slot, TILE, -1)
        mbarrier.arrive(shared.query_full.index(slot), count=2)
        served += 1
        if step == 0:
            # A program without a tile: its consumers ask for the first scores before they know.
            mbarrier.arrive(shared.key_full.index(0), count=2 if LATE else 1)
        number_of_pass += 1
        if settings.STEADY:
            if number_of_pass == 1:
                passes = 1 + judge(shared, settings, 1)
                if VECTOR:
                    within = gl.to_tensor(False)
                    told = gl.to_tensor(0)
                    scanned = gl.to_tensor(-1)
                    scanned_b = gl.to_tensor(-1)
                if settings.MASK_ROWS:
                    within = gl.to_tensor(False)
                if settings.ADDITIVE:
                    per_natural = gl.to_tensor(1.0)
