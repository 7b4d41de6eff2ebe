"""What the partitions of the Hopper kernel share: choices, sizes, tiles and barriers, info on tiles and blocks."""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from ..aggregate import aggregate

LOG2E = gl.constexpr(1.4426950408889634)
LOWEST = gl.constexpr(-3.4028234663852886e38)
LARGEST = gl.constexpr(3.4028234663852886e38)
ROWS_PER_CONSUMER = gl.constexpr(64)

FORM_LINEAR = gl.constexpr(0)
FORM_CAUSAL = gl.constexpr(1)
FORM_SYMMETRIC = gl.constexpr(2)

TILE = gl.constexpr(0)
"""The number of the tile among those of its batch entry and head, or -1: the pass is over."""
BATCH = gl.constexpr(1)
"""Its batch entry."""
HEAD = gl.constexpr(2)
"""Its head."""
FIRST = gl.constexpr(3)
"""The first of the blocks that the diagonal crosses; these are compared key by key."""
DIAGONAL_BLOCKS = gl.constexpr(4)
"""How many they are."""
TAIL = gl.constexpr(5)
"""1 if a ragged last block lies right of them, else 0; it is compared key by key, too."""
COPIES = gl.constexpr(5)
"""In its place in the causal form, which has no tail, with a mask: to how many tiles, from this one on, the output
goes (``tiles.shared_mean``, ``rows.copies_of``)."""
LEFT = gl.constexpr(6)
"""How many blocks to take left of them."""
RIGHT = gl.constexpr(7)
"""How many blocks to take right of them."""
EXTRA = gl.constexpr(8)
"""How many blocks to average for rows that see no key."""
SEEN_FROM = gl.constexpr(9)
"""The key from which on rows see one."""
SLOPE = gl.constexpr(10)
"""The bits of the slope, a float32."""
CERTIFIED_AFTER = gl.constexpr(11)
"""Twice the number of blocks after which LEFT and RIGHT are certified (0 if they are final already), plus the parity
that the barrier ``certificate_ready`` then completes with (SKIP)."""
BEGIN = gl.constexpr(12)
"""The first visible key (MASK)."""
END = gl.constexpr(13)
"""The end of the visible keys (MASK)."""
KV_HEAD = gl.constexpr(14)
"""Its head of keys and values (for the producer, from a scout)."""
SHIFT = gl.constexpr(15)
"""How many keys before the first one in memory key 0 is (the same; LENGTHS)."""
TILE_INFO = gl.constexpr(16)
"""How many fields the info on a tile has.  The producer or the scout writes it, the consumers read it."""

REPEAT_WORDS = gl.constexpr(8)
"""Words of 32 tiles each in which a consumer marks those that it does not trust.  A program may take more tiles than
that.  Later ones share the bits of earlier ones: more tiles are repeated than need be, never fewer."""

TERM_COLUMNS = gl.constexpr(16)
"""Depth of the product that adds to the scores what differs by key only: the least that a product of 16 bits has."""

COUNTS = gl.constexpr(8)
"""Columns of the product that adds up weights, all of them equal: the fewest that a product has."""


@aggregate
class Settings:
    """Compile-time choices, the same in every partition; ``kernel`` says what they mean."""

    FORM: gl.constexpr
    FIXED_MAX: gl.constexpr
    MAX_FROM_RAW_SCORES: gl.constexpr
    SKIP: gl.constexpr
    MASK: gl.constexpr
    ADDITIVE: gl.constexpr
    POSITIONS: gl.constexpr
    EVERY: gl.constexpr
    TERMS: gl.constexpr
    MASK_ROWS: gl.constexpr
    READS: gl.constexpr
    WINDOW: gl.constexpr
    ROW_TWINS: gl.constexpr
    LIFTS: gl.constexpr
    BUNDLE_MIB: gl.constexpr
    D: gl.constexpr
    V: gl.constexpr
    BLOCK_N: gl.constexpr
    STAGES: gl.constexpr
    QUERIES: gl.constexpr
    CONSUMERS: gl.constexpr
    LEAST_TOTAL: gl.constexpr
    LENGTHS: gl.constexpr


@aggregate
class Sizes:
    """The run-time sizes."""

    batch: gl.tensor
    heads: gl.tensor
    group: gl.tensor
    s_q: gl.tensor
    s_kv: gl.tensor


@aggregate
class Shared:
    """Tiles in shared memory and the barriers that tell when they are full or may be overwritten."""

    query_tile: gl.shared_memory_descriptor
    key_tile: gl.shared_memory_descriptor
    value_tile: gl.shared_memory_descriptor
    output_tile: gl.shared_memory_descriptor
    vector_tile: gl.shared_memory_descriptor
    block_info: gl.shared_memory_descriptor
    term_tile: gl.shared_memory_descriptor
    picks: gl.shared_memory_descriptor
    ones: gl.shared_memory_descriptor
    tile_info: gl.shared_memory_descriptor
    wants_repeat: gl.shared_memory_descriptor
    repeat_mask: gl.shared_memory_descriptor
    bounds: gl.shared_memory_descriptor
    query_full: gl.shared_memory_descriptor
    query_empty: gl.shared_memory_descriptor
    key_full: gl.shared_memory_descriptor
    value_full: gl.shared_memory_descriptor
    freed: gl.shared_memory_descriptor
    verdict_ready: gl.shared_memory_descriptor
    weighed: gl.shared_memory_descriptor
    certificate_ready: gl.shared_memory_descriptor
    ready: gl.shared_memory_descriptor
    told: gl.shared_memory_descriptor
    ahead: gl.shared_memory_descriptor


@gluon.constexpr_function
def scouts(settings):
    """Whether something differs by key, which a scout looks at."""
    return settings.MASK or settings.EVERY


@gluon.constexpr_function
def tells_shift(settings):
    """Whether it is told how keys are shifted: with LENGTHS.  Short rows (TERMS) are told nothing that nobody needs."""
    return settings.LENGTHS or not settings.TERMS


@gluon.constexpr_function
def clears_hidden(settings):
    """Whether the second pass clears values of hidden keys.

    It does for boolean masks.  With the others the same code made the first pass slower by up to a quarter.
    """
    return settings.MASK and not settings.ADDITIVE


@gluon.jit
def set_up_barriers(shared, settings, PART: gl.constexpr):
    """Sets up a share of the barriers: PART is a consumer, or CONSUMERS for the producer.

    All partitions do so at once, because a launch of a few tiles notices how long it takes.  No partition may touch a
    barrier before all have arrived at ``ready``.
    """
    if PART == 0:
        for i in gl.static_range(settings.STAGES):
            mbarrier.init(shared.freed.index(i), count=settings.CONSUMERS)
        for i in gl.static_range(settings.QUERIES):
            mbarrier.init(shared.query_empty.index(i), count=settings.CONSUMERS)
    if PART == 1:
        for i in gl.static_range(settings.STAGES):
            mbarrier.init(shared.value_full.index(i), count=1)
        mbarrier.init(shared.verdict_ready, count=settings.CONSUMERS)
        if settings.SKIP:
            mbarrier.init(shared.weighed, count=settings.CONSUMERS)
            mbarrier.init(shared.certificate_ready, count=1)
    if PART == settings.CONSUMERS:
        for i in gl.static_range(settings.STAGES):
            mbarrier.init(shared.key_full.index(i), count=2 if scouts(settings) else 1)
        for i in gl.static_range(settings.QUERIES):
            mbarrier.init(shared.query_full.index(i), count=2)
            if scouts(settings):
                mbarrier.init(shared.told.index(i), count=1)
        if scouts(settings):
            mbarrier.init(shared.ahead, count=1)
    fence_async_shared()
    release(shared.ready)


@gluon.jit
def stage_of(step, settings):
    """Where block ``step`` of the stream is (STAGES is a power of two)."""
    return step & (settings.STAGES - 1)


@gluon.constexpr_function
def _log2(power):
    """The exponent of a power of two."""
    return power.bit_length() - 1


@gluon.jit
def phase_of(step, settings):
    """The parity that its barriers complete with."""
    return (step >> _log2(settings.STAGES)) & 1


@gluon.jit
def release(barrier):
    """Arrives at a barrier once all warps of this partition are here.

    Triton takes an ``arrive`` for an access to all of shared memory and lets the warps meet a second time behind it.
    Expecting no bytes is an arrival, too, and Triton does not take it for that.
    """
    gl.thread_barrier()
    mbarrier.expect(barrier, 0)


@gluon.jit
def write_tile_info(shared, slot, field, number):
    """Writes one field of the info on the tile in ``slot`` (the producer, or the scout)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    shared.tile_info.index(slot * TILE_INFO + field).store(gl.full([1], number, gl.int32, LAYOUT))


@gluon.jit
def write_block_info(shared, stage, info):
    """Writes what the consumers have to know of the block in ``stage`` (the producer, or the scout).

    MASK: whether its terms are other than zero.  MASK_ROWS: twice its number, plus 1 if its mask has to be read.
    """
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    shared.block_info.index(stage).store(gl.full([1], info, gl.int32, LAYOUT))


@gluon.jit
def stage_has_terms(shared, stage):
    """Whether the terms of the block in ``stage`` are other than zero (a consumer asks; MASK)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    return gl.max(shared.block_info.index(stage).load(LAYOUT), 0) != 0


@gluon.jit
def read_tile_info(shared, slot, field, WARPS: gl.constexpr = 4):
    """Reads one field of the info on the tile in ``slot`` (a consumer; with a scout the producer, too)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    return gl.max(shared.tile_info.index(slot * TILE_INFO + field).load(LAYOUT), 0)


@gluon.jit
def clear_repeat_mask(shared, WHO: gl.constexpr):
    """Clears a consumer's own words before its first tile, while the first copies are on their way."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    for i in gl.static_range(REPEAT_WORDS):
        shared.repeat_mask.index(WHO * REPEAT_WORDS + i).store(gl.zeros([1], gl.int32, LAYOUT))


@gluon.jit
def add_to_repeat_mask(shared, tiles_done, bits, WHO: gl.constexpr):
    """Marks which of the 32 tiles up to this one a consumer does not trust (see REPEAT_WORDS)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    word = shared.repeat_mask.index(WHO * REPEAT_WORDS + ((tiles_done >> 5) & (REPEAT_WORDS - 1)))
    word.store(word.load(LAYOUT) | bits)


@gluon.jit
def in_repeat_mask(shared, tiles_done, settings):
    """Whether a consumer did not trust the tile after ``tiles_done`` others (the producer asks, or the scout)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    found = gl.to_tensor(0)
    for i in gl.static_range(settings.CONSUMERS):
        word = shared.repeat_mask.index(i * REPEAT_WORDS + ((tiles_done >> 5) & (REPEAT_WORDS - 1)))
        found |= gl.max(word.load(LAYOUT), 0)
    return ((found >> (tiles_done & 31)) & 1) == 1


@gluon.jit
def needs_repeat(shared, settings, WARPS: gl.constexpr):
    """Waits until every consumer has judged its rows; 1 if one of them wants tiles to be done again, else 0."""
    mbarrier.wait(shared.verdict_ready, 0)
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    worst = gl.to_tensor(0)
    for i in gl.static_range(settings.CONSUMERS):
        worst = gl.maximum(worst, gl.max(shared.wants_repeat.index(i).load(LAYOUT), 0))
    return gl.minimum(worst, 1)
