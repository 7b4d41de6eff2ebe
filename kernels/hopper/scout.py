"""The scout of the Hopper kernel, where something differs by key: a warp that looks at masks and positions.

It decides which tile comes next and which blocks of keys that needs, tells the producer and the consumers, and writes
next to the keys of every block what differs by key.  The producer does nothing but copies then.  One warp for both was
what the consumers waited for: it has some thousand instructions for a tile, one after the other.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .entries import find_plain, look_at_entry, no_entry
from .order import dealt_tile, drawn_tile, drawn_tiles, inverse_of, order_of, quotient
from .shared import FORM_CAUSAL, LOG2E, ROWS_PER_CONSUMER, needs_repeat, phase_of, release, stage_of, write_block_info
from .skipping import AHEAD, worth_a_try
from .telling import TileBlocks, TilePlace, certify, describe, end_pass
from .terms import ask_terms, terms_of_keys, write_terms
from .tiles import block_at, blocks_of, shared_mean
from .vectors import natural


@gluon.jit
def _cut(tile, entry, slope, empty_mean, sizes, settings, FIXED_MAX: gl.constexpr):
    """Cuts the keys of a tile into blocks as ``tiles.blocks_of`` does, for the consumers' current pass.

    A batch entry without visible keys is left to the second pass, like rows that are not to be trusted.  The code for
    it would take registers of the first pass.
    """
    first, diagonal_blocks, tail, left, right, extra, seen_from = blocks_of(
        tile, entry, slope, empty_mean, sizes, settings
    )
    if settings.MASK and FIXED_MAX and settings.FORM != FORM_CAUSAL:
        if empty_mean != 0:
            extra = gl.to_tensor(0)
            seen_from = gl.to_tensor(0)
    return first, diagonal_blocks, tail, left, right, extra, seen_from


@gluon.jit
def _key_head(head, group, settings):
    """Which keys a head has; with TERMS nothing is divided by one (see ``order.quotient``)."""
    kv_head = head
    if settings.TERMS:
        if group != 1:
            kv_head = head // group
    else:
        kv_head = head // group
    return kv_head


@gluon.jit
def _writes(said, stage, stages_with_terms):
    """Whether terms are to be written to a stage: some, or zeros over others; and which stages have some then."""
    bit = 1 << stage
    writes = said | ((stages_with_terms & bit) != 0)
    return writes, gl.where(said, stages_with_terms | bit, stages_with_terms & ~bit)


@gluon.jit
def _scout_pass(
    step, queries_sent, certified, tiles_done, drawn, shared, sizes, slopes, key_norms, key_terms, ticket, previous,
    mask, key_positions, mask_batch, mask_head, mask_column, positions_batch, scale_natural, empty_mean, key_lengths,
    lengths_batch, rows_first, settings, FIXED_MAX: gl.constexpr,
):  # fmt: skip
    """All tiles of this program once; the counters that it was given."""
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    QUERIES: gl.constexpr = settings.QUERIES
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    SECOND: gl.constexpr = settings.FIXED_MAX and not FIXED_MAX
    # Whether something is said of every block.
    ALL: gl.constexpr = settings.EVERY or not FIXED_MAX
    # Whether it is asked of every block whether something is said of it.
    ASKS: gl.constexpr = settings.TERMS and FIXED_MAX and not settings.POSITIONS
    order = order_of(gl.cdiv(sizes.s_q, rows_per_tile), sizes, settings)
    s_kv = sizes.s_kv
    # The unit of slopes in this pass.
    per_natural = gl.to_tensor(LOG2E)
    if natural(settings, FIXED_MAX):
        per_natural = gl.to_tensor(1.0)
    per_scale = 1.0 / scale_natural
    per_head = inverse_of(sizes.heads)
    # Every other round is dealt backwards, so tiles that follow each other come from two entries.  Those of short rows
    # do not, but for causal ones.
    entry = no_entry(s_kv)
    other = no_entry(s_kv)
    TWO: gl.constexpr = settings.FORM == FORM_CAUSAL or not settings.TERMS
    # A bit for every stage whose terms are not zero.
    stages_with_terms = gl.to_tensor(0)
    # With SKIP costs are not known beforehand.  There programs draw tickets for tiles, in the same order.
    coming = gl.to_tensor(0)
    if drawn_tiles(settings) and not SECOND:
        coming = gl.atomic_add(ticket, 1)
    deal = gl.to_tensor(0)
    more = gl.to_tensor(True)
    while more:
        if drawn_tiles(settings):
            tiles_done, drawn, more, batch_head, tile, wanted = drawn_tile(
                tiles_done, drawn, coming, more, 1 if SECOND else 0, order, previous, shared, sizes, settings
            )
        else:
            tiles_done, more, batch_head, tile, wanted = dealt_tile(
                tiles_done, deal, 1 if SECOND else 0, order, shared, sizes, settings
            )
            deal += 1
        if wanted:
            batch = quotient(batch_head, sizes.heads, per_head, settings)
            head = batch_head - batch * sizes.heads
            slope_natural = gl.load(slopes + head)
            slope = slope_natural * per_natural
            of_entry = mask
            own_mean = empty_mean
            if settings.MASK:
                # One mask of a batch entry for all heads, or one of each.
                if settings.LENGTHS:
                    number = batch
                else:
                    of_entry = mask + batch.to(gl.int64) * mask_batch + head.to(gl.int64) * mask_head
                    number = gl.where(mask_head != 0, batch_head, batch)
                if TWO:
                    if number != entry.number:
                        entry, other = other, entry
                if number != entry.number:
                    entry = look_at_entry(
                        number, of_entry, mask_column, key_lengths, batch, lengths_batch, rows_first, s_kv, settings,
                        FIXED_MAX)  # fmt: skip
                if settings.LENGTHS:
                    # There is no mean of nothing.
                    own_mean = gl.where(entry.end > 0, empty_mean, 0)
            first, diagonal_blocks, tail, left, right, extra, seen_from = _cut(
                tile, entry, slope, own_mean, sizes, settings, FIXED_MAX
            )
            copies = gl.to_tensor(1)
            if settings.MASK and settings.FORM == FORM_CAUSAL:
                extra, copies = shared_mean(tile, extra, seen_from, own_mean, sizes, settings)
            own = 0.0
            if settings.POSITIONS:
                last_row = gl.minimum(tile * rows_per_tile + rows_per_tile, sizes.s_q) - 1 + s_kv - sizes.s_q
                own = gl.load(key_positions + batch.to(gl.int64) * positions_batch + last_row)
            keyed = diagonal_blocks + tail + left + right
            blocks = keyed + extra
            certified_after = gl.to_tensor(0)
            if settings.SKIP and not SECOND:
                # The second pass may have another unit, and it has few tiles.
                if worth_a_try(slope, s_kv, settings) & (left + right > AHEAD):
                    certified_after = diagonal_blocks + tail + AHEAD
            at = TilePlace(tile, batch, head, _key_head(head, sizes.group, settings))
            cut = TileBlocks(first, diagonal_blocks, tail, extra, seen_from, copies)
            slot = queries_sent & (QUERIES - 1)
            mbarrier.wait(shared.ready, 0)
            mbarrier.wait(shared.query_empty.index(slot), ((queries_sent // QUERIES) & 1) ^ 1)
            describe(slot, at, cut, entry, left, right, slope, certified_after, certified, shared, settings)
            queries_sent += 1
            if drawn_tiles(settings) and not SECOND:
                coming = gl.atomic_add(ticket, 1)
            j = gl.to_tensor(0)
            while j < blocks:
                block = block_at(j, first, diagonal_blocks, tail, left, right, s_kv, BLOCK_N)
                stage = stage_of(step, settings)
                said = j < keyed
                if ALL:
                    # The answer takes its time, and so does the stage.
                    loaded, position = ask_terms(
                        of_entry, key_positions, batch, mask_column, positions_batch, block * BLOCK_N,
                        gl.where(said, s_kv, 0), entry.begin, entry.end, settings)  # fmt: skip
                else:
                    start = block * BLOCK_N
                    known = (entry.plain_from <= start) & (gl.minimum(start + BLOCK_N, s_kv) <= entry.plain_to)
                    said = said & (not known)
                    if said:
                        entry, said = find_plain(entry, start, of_entry, mask_column, s_kv, settings)
                # Once the weights of the block that was here are computed.
                mbarrier.wait(shared.freed.index(stage), phase_of(step, settings) ^ 1, pred=step >= settings.STAGES)
                writes = said
                if not ALL:
                    # Zeros where a block that is plain comes to a stage whose terms are not.
                    writes, stages_with_terms = _writes(said, stage, stages_with_terms)
                if writes:
                    if not ALL:
                        loaded, position = ask_terms(
                            of_entry, key_positions, batch, mask_column, positions_batch, block * BLOCK_N, s_kv,
                            entry.begin, entry.end, settings)  # fmt: skip
                    terms = terms_of_keys(loaded, position, slope_natural, own, settings)
                    if not ALL:
                        terms = gl.where(said, terms, 0.0)
                        write_block_info(shared, stage, said.to(gl.int32))
                    if ASKS:
                        said = gl.max((terms != 0.0).to(gl.int32), 0) != 0
                        writes, stages_with_terms = _writes(said, stage, stages_with_terms)
                    if writes:
                        write_terms(
                            terms, per_scale, per_natural, slope, j, diagonal_blocks + tail, left, stage, shared,
                            settings, FIXED_MAX)  # fmt: skip
                release(shared.key_full.index(stage))
                step += 1
                j += 1
                if settings.SKIP:
                    if j == certified_after:
                        certified, left, right = certify(
                            certified, left, right, at, cut, entry, slope, own, slot, key_norms, key_terms,
                            scale_natural, shared, sizes, settings)  # fmt: skip
                        keyed = diagonal_blocks + tail + left + right
                        blocks = keyed + extra
    if not SECOND:
        # For a program without a tile.
        mbarrier.wait(shared.ready, 0)
    queries_sent = end_pass(step, queries_sent, shared, settings)
    return step, queries_sent, certified, tiles_done, drawn


@gluon.jit
def scout(
    shared, sizes, slopes, key_norms, key_terms, ticket, previous, mask, key_positions, mask_batch, mask_head,
    mask_column, positions_batch, scale_natural, empty_mean, key_lengths, lengths_batch, rows_first, settings,
):  # fmt: skip
    """The scout warp."""
    zero = gl.to_tensor(0)
    step, queries_sent, certified, tiles_done, drawn = _scout_pass(
        zero, zero, zero, zero, gl.to_tensor(-1), shared, sizes, slopes, key_norms, key_terms, ticket, previous, mask,
        key_positions, mask_batch, mask_head, mask_column, positions_batch, scale_natural, empty_mean, key_lengths,
        lengths_batch, rows_first, settings, settings.FIXED_MAX)  # fmt: skip
    if settings.FIXED_MAX:
        if needs_repeat(shared, settings, 1) != 0:
            if not drawn_tiles(settings):
                tiles_done = gl.to_tensor(0)
            _scout_pass(
                step, queries_sent, certified, tiles_done, drawn, shared, sizes, slopes, key_norms, key_terms, ticket,
                previous, mask, key_positions, mask_batch, mask_head, mask_column, positions_batch, scale_natural,
                empty_mean, key_lengths, lengths_batch, rows_first, settings, False)  # fmt: skip
