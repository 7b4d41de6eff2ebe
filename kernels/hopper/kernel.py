"""Prefill for Hopper: warp-specialised, persistent, in Gluon (Triton's layer for explicit layouts and warps).

One program stays on a multiprocessor and takes tiles of ``CONSUMERS * 64`` query rows.  A producer warp
(``producer``) decides which tile comes next and which blocks of keys it needs, writes that to shared
memory, and streams queries, keys and values with the bulk copy engine; each of CONSUMERS warpgroups
(``consumer``) owns 64 rows.  The warpgroups are partitions of their own, so nothing but the data keeps them in
step, and one computes exponentials while another multiplies.

The blocks of all tiles of a program are one stream.  Every step turns the scores of its block into weights.  Then it
asks for the scores of the *next* block, of this tile or the next one, and for its own share of the output, and waits
for the scores only.  So weights never outlive their step: as 16-bit values that a loop carries they would be packed and
unpacked in every step.  And the next tile's first scores are there when a tile ends.  (Heads beyond 128 leave room for
the queries of one tile only; there a tile starts after the one before has been stored.)  A product with a matrix of
ones adds up the weights of a row, which costs the tensor cores less than the additions would cost the threads.

Blocks come nearest first: those that the diagonal crosses or that reach past the last key (compared element
by element), then those left of it going away, then those right of it (symmetric form).  The bias is the one
of ``prefill``: an FMA along the columns and a scalar per block in the row maximum.

Masks (boolean or additive) that differ by key only, key biases and key positions are a vector. A warp of its own
(``scout``) computes it for every block and puts it next to the keys, and the consumers add it to the products.
Where there is such a vector, the scout decides about tiles and blocks, too, and the producer copies. With TERMS
it comes by a second, small product instead: ones times the vector, cut into three bfloat16. Then the loop is that
of the plain form. Without TERMS, blocks about which a mask says nothing are found once per batch entry and cost nothing
after that. Blocks before the first and after the last visible key are left out. Rows that see no key are known
beforehand from the first visible one; they get the mean of ``value`` from extra blocks with equal weights at the
end of their tile.

An additive mask is exact whatever it holds.  In the first pass what is at or below -1e38 has no weight.  A row all of
whose keys are like that shows that its maximum was not good enough (below).  The second pass keeps natural units, in
which -3.3e38 is a number like others.

With FIXED_MAX the row maximum is looked for in the first blocks only, those that are compared element by element.  With
MAX_FROM_RAW_SCORES (bfloat16, whose exponents allow it) scores without their bias stand for it, in half of the first
block alone, with room above (``peaks``).  Long causal tiles under a flat bias start with a block that all rows see
whole (``tiles``).  Weights then may exceed one.  A maximum and a subtraction per score are saved, and the rescaling of
the output.  With LIFTS (float16, whose exponents allow little) the first block alone is searched, and weights that
outgrow the type lift the maximum (``lifting``).  The sum of a row's weights shows whether this was good enough; if it
was not, the consumer marks the tile.  At the end the program does its marked tiles again, with the maximum kept block
by block.  So the result never depends on the shortcut, only the time does.

Where a boolean mask hides keys, a tile whose result is not finite is done again, too, and the second pass clears the
values of hidden keys: they must not matter, whatever they hold (``hidden``).

With ROW_TWINS rows r and r + 8, which one thread holds, share their maximum and thereby their bias.

With SKIP far blocks that provably do not matter are left out (``skipping``).  Where something differs by key, that is
so in the first pass only.

With MASK_ROWS there is a window, or a mask that differs by row, too.  ``blocks`` has looked at them before.  Programs
draw tiles as with SKIP, and blocks that no row of a tile needs are left out (``rows``).  With READS there is a mask to
read.

With LENGTHS a batch has keys of its own number, and what is said above of a boolean mask holds of what is not there.
Where the last row is the last key, keys are counted so that it is the last of all, as without lengths: the scout has
them copied from as much earlier in memory as the batch lacks (``tiles.keys_there``).  The consumers notice nothing of
that, but for the mean of all values, which begins with the first key that is there.

Needs ``s_q <= s_kv``, and ``s_q == s_kv`` if lengths come with rows that are aligned with the first keys.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from .consumer import consume
from .producer import produce, produce_as_told
from .rows import RowMask
from .scout import scout
from .shared import COUNTS, REPEAT_WORDS, ROWS_PER_CONSUMER, TERM_COLUMNS, TILE_INFO, Settings, Shared, Sizes


@gluon.jit
def alibi_prefill_hopper(
    query_map, key_map, value_map, output_map, slopes, key_norms, key_terms, ticket, previous, blocks, mask,
    key_positions, key_lengths, lengths_batch, rows_first, mask_batch, mask_head, mask_row, mask_column,
    positions_batch, batch_size, heads, group, s_q, s_kv, window_left, window_right, scale_natural,
    empty_mean,
    FORM: gl.constexpr, FIXED_MAX: gl.constexpr, MAX_FROM_RAW_SCORES: gl.constexpr, SKIP: gl.constexpr,
    MASK: gl.constexpr, ADDITIVE: gl.constexpr, POSITIONS: gl.constexpr, EVERY: gl.constexpr, TERMS: gl.constexpr,
    MASK_ROWS: gl.constexpr, READS: gl.constexpr, WINDOW: gl.constexpr, ROW_TWINS: gl.constexpr,
    LIFTS: gl.constexpr, BUNDLE_MIB: gl.constexpr,
    D: gl.constexpr, V: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, QUERIES: gl.constexpr,
    CONSUMERS: gl.constexpr, LEAST_TOTAL: gl.constexpr, LENGTHS: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
    PRODUCER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Any one-dimensional grid of at most as many programs as tiles; 4 warps and the workers that it starts itself.

    Args:
        query_map, key_map, value_map, output_map: Bulk-copy descriptors, rank 4, boxes of 64 rows or BLOCK_N keys.
        slopes: [H], float32.
        key_norms: [B, H_kv, ceil(S_kv / 64)], float32, from ``skipping.alibi_key_norms`` (SKIP).
        key_terms: [B, H, ceil(S_kv / 64)], float32, likewise (SKIP with MASK or POSITIONS).
        ticket: One int32, zero: how many tiles were taken (SKIP, MASK_ROWS).
        previous: As many int32 as tiles, of any contents: which tile its program took before (SKIP, MASK_ROWS).
        blocks: From ``blocks.alibi_blocks``: which blocks a tile needs (MASK_ROWS).
        mask: bytes, or floats (ADDITIVE); key j of batch b and head h at ``b * mask_batch + h * mask_head + j *
            mask_column`` (MASK); any strides by row, too (MASK_ROWS with READS).  A key bias is an additive mask.
        window_left, window_right: how many keys before and after its own a row sees; -1 for all (WINDOW).
        key_positions: [B or 1, S_kv], float32 (POSITIONS).
        key_lengths: how many keys a batch has, [B or 1], int64; ``lengths_batch`` is 0 for the latter (LENGTHS).
        rows_first: row(i) = i (1) or the last row is the last key (0) (LENGTHS).
        empty_mean: rows without a visible key yield the mean of ``value`` (1) or zeros (0) (MASK, MASK_ROWS).
    """
    VECTOR: gl.constexpr = MASK or EVERY
    dtype: gl.constexpr = query_map.dtype
    query_tile = gl.allocate_shared_memory(dtype, [QUERIES * CONSUMERS, 1, 1, ROWS_PER_CONSUMER, D], query_map.layout)
    key_tile = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, D], key_map.layout)
    value_tile = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, V], value_map.layout)
    output_tile = query_tile
    if QUERIES > 1:
        output_tile = gl.allocate_shared_memory(dtype, [CONSUMERS, 1, 1, ROWS_PER_CONSUMER, V], output_map.layout)
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    vector_tile = gl.allocate_shared_memory(gl.float32, [STAGES if VECTOR else 1, BLOCK_N if VECTOR else 1], PLAIN)
    block_info = gl.allocate_shared_memory(gl.int32, [STAGES, 1], PLAIN)
    if VECTOR:
        for i in gl.static_range(STAGES):
            block_info.index(i).store(gl.zeros([1], gl.int32, gl.BlockedLayout([1], [32], [4], [0])))
    BY_TERMS: gl.constexpr = VECTOR and TERMS
    # A product adds something to every block, if it adds something to one.
    EACH: gl.constexpr = EVERY or BY_TERMS
    TERM: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, TERM_COLUMNS], gl.bfloat16)
    term_tile = gl.allocate_shared_memory(
        gl.bfloat16, [STAGES if BY_TERMS else 1, BLOCK_N if BY_TERMS else 8, TERM_COLUMNS], TERM)  # fmt: skip
    PICK: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS_PER_CONSUMER, TERM_COLUMNS], gl.bfloat16)
    picks = gl.allocate_shared_memory(gl.bfloat16, [ROWS_PER_CONSUMER if BY_TERMS else 8, TERM_COLUMNS], PICK)
    if BY_TERMS:
        # The scout fills one half of a key's row, without asking which half the swizzle makes of it.
        WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [16, 2], [4, 1], [1, 0])
        part = gl.arange(0, TERM_COLUMNS, layout=gl.SliceLayout(0, WIDE)) % 8
        chosen = gl.where(part < 3, 1.0, 0.0).to(gl.bfloat16)
        picks.store(chosen[None, :] + gl.zeros([ROWS_PER_CONSUMER, 1], gl.bfloat16, WIDE))
        for i in gl.static_range(STAGES):
            term_tile.index(i).store(gl.zeros([BLOCK_N, TERM_COLUMNS], gl.bfloat16, WIDE))
    ONES: gl.constexpr = gl.NVMMASharedLayout.get_default_for([COUNTS, BLOCK_N], dtype)
    ones = gl.allocate_shared_memory(dtype, [COUNTS, BLOCK_N], ONES)
    ones.store(gl.full([COUNTS, BLOCK_N], 1.0, dtype, gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])))
    tile_info = gl.allocate_shared_memory(gl.int32, [QUERIES * TILE_INFO, 1], PLAIN)
    wants_repeat = gl.allocate_shared_memory(gl.int32, [CONSUMERS, 1], PLAIN)
    repeat_mask = gl.allocate_shared_memory(gl.int32, [CONSUMERS * REPEAT_WORDS, 1], PLAIN)
    bounds = gl.allocate_shared_memory(gl.float32, [2 * CONSUMERS, 1], PLAIN)
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    query_full = gl.allocate_shared_memory(gl.int64, [QUERIES, 1], BARRIER)
    query_empty = gl.allocate_shared_memory(gl.int64, [QUERIES, 1], BARRIER)
    key_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    value_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    freed = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    verdict_ready = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    weighed = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    certificate_ready = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    ready = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    told = query_full
    ahead = ready
    if VECTOR:
        ahead = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
        told = gl.allocate_shared_memory(gl.int64, [QUERIES, 1], BARRIER)
    # The other barriers are set up by the partitions, side by side (``set_up_barriers``).
    mbarrier.init(ready, count=CONSUMERS + 1)
    fence_async_shared()
    settings = Settings(FORM, FIXED_MAX, MAX_FROM_RAW_SCORES, SKIP, MASK, ADDITIVE, POSITIONS, EACH, BY_TERMS,
                        MASK_ROWS, READS, WINDOW, ROW_TWINS, LIFTS, BUNDLE_MIB, D, V, BLOCK_N, STAGES, QUERIES,
                        CONSUMERS, LEAST_TOTAL, LENGTHS)  # fmt: skip
    sizes = Sizes(gl.to_tensor(batch_size), gl.to_tensor(heads), gl.to_tensor(group), gl.to_tensor(s_q),
                  gl.to_tensor(s_kv))  # fmt: skip
    shared = Shared(query_tile, key_tile, value_tile, output_tile, vector_tile, block_info, term_tile, picks, ones,
                    tile_info, wants_repeat, repeat_mask, bounds, query_full, query_empty, key_full, value_full, freed,
                    verdict_ready, weighed, certificate_ready, ready, told, ahead)  # fmt: skip
    pointer = gl.to_tensor(0)
    if READS:
        pointer = mask
    row_mask = RowMask(pointer, gl.to_tensor(mask_batch), gl.to_tensor(mask_head), gl.to_tensor(mask_row),
                   gl.to_tensor(mask_column), gl.to_tensor(window_left), gl.to_tensor(window_right))  # fmt: skip
    # Spelled out: a tuple that is given a name turns its constants into tensors.
    if CONSUMERS == 3 and VECTOR:
        gl.warp_specialize([
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 0)),
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 1)),
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 2)),
            (produce_as_told, (shared, sizes, query_map, key_map, value_map, settings)),
            (scout, (shared, sizes, slopes, key_norms, key_terms, ticket, previous, mask, key_positions, mask_batch,
                     mask_head, mask_column, positions_batch, scale_natural, empty_mean, key_lengths, lengths_batch,
                     rows_first, settings)),
        ], [4, 4, 1, 1], [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    elif CONSUMERS == 3:
        gl.warp_specialize([
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 0)),
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 1)),
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 2)),
            (produce, (shared, sizes, query_map, key_map, value_map, slopes, key_norms, key_terms, ticket, previous,
                       blocks, mask_batch, mask_head, scale_natural, empty_mean, settings)),
        ], [4, 4, 1], [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    elif VECTOR:
        gl.warp_specialize([
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 0)),
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 1)),
            (produce_as_told, (shared, sizes, query_map, key_map, value_map, settings)),
            (scout, (shared, sizes, slopes, key_norms, key_terms, ticket, previous, mask, key_positions, mask_batch,
                     mask_head, mask_column, positions_batch, scale_natural, empty_mean, key_lengths, lengths_batch,
                     rows_first, settings)),
        ], [4, 1, 1], [CONSUMER_REGISTERS, PRODUCER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    else:
        gl.warp_specialize([
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 0)),
            (consume, (shared, sizes, row_mask, output_map, scale_natural, settings, 1)),
            (produce, (shared, sizes, query_map, key_map, value_map, slopes, key_norms, key_terms, ticket, previous,
                       blocks, mask_batch, mask_head, scale_natural, empty_mean, settings)),
        ], [4, 1], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
