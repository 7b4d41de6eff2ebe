"""What the partitions of the Hopper kernel share: choices, sizes, tiles and barriers, notes about the next tile."""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from ..aggregate import aggregate

LOG2E = gl.constexpr(1.4426950408889634)
LOWEST = gl.constexpr(-3.4028234663852886e38)
LARGEST = gl.constexpr(3.4028234663852886e38)
ROWS = gl.constexpr(64)

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
"""The first block that is compared key by key."""
CROSSINGS = gl.constexpr(4)
"""How many blocks follow each other from there that are compared key by key."""
TAIL = gl.constexpr(5)
"""1 if a ragged last block lies right of those, else 0."""
LEFT = gl.constexpr(6)
"""How many blocks to take left of the crossed ones."""
RIGHT = gl.constexpr(7)
"""How many blocks to take right of the crossed ones."""
EXTRA = gl.constexpr(8)
"""How many blocks to average for rows that see no key."""
SEEN_FROM = gl.constexpr(9)
"""The key from which on rows see one."""
SLOPE = gl.constexpr(10)
"""The bits of the slope, a float32."""
SURE = gl.constexpr(11)
"""Twice the number of blocks after which LEFT and RIGHT are certain (0 if they are already), plus the parity that the
barrier ``certain`` then completes with (SKIP)."""
BEGIN = gl.constexpr(12)
"""The first visible key (MASK)."""
END = gl.constexpr(13)
"""The end of the visible keys (MASK)."""
NOTES = gl.constexpr(14)
"""How many fields the notes on a tile have.  The producer writes them, the consumers read them."""

DOUBTS = gl.constexpr(8)
"""Words of 32 turns in which a consumer marks the tiles that it does not trust.  Later turns share the bits of
earlier ones: more tiles are repeated than need be, never fewer."""

TERM_COLUMNS = gl.constexpr(16)
"""Depth of the product that adds to the scores what differs by key only: the least that a product of 16 bits has."""

COUNTS = gl.constexpr(8)
"""Columns of the product that adds up weights, all of them equal: the fewest that a product has."""


@aggregate
class Settings:
    """Compile-time choices, the same in every partition; ``kernel`` says what they mean."""

    FORM: gl.constexpr
    STEADY: gl.constexpr
    RAW: gl.constexpr
    SKIP: gl.constexpr
    MASK: gl.constexpr
    ADDITIVE: gl.constexpr
    POSITIONS: gl.constexpr
    TERMS: gl.constexpr
    MASK_ROWS: gl.constexpr
    READS: gl.constexpr
    WINDOW: gl.constexpr
    PAIRED: gl.constexpr
    BUNDLE_MIB: gl.constexpr
    D: gl.constexpr
    V: gl.constexpr
    BLOCK_N: gl.constexpr
    STAGES: gl.constexpr
    QUERIES: gl.constexpr
    CONSUMERS: gl.constexpr
    LEAST_TOTAL: gl.constexpr


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
    told: gl.shared_memory_descriptor
    term_tile: gl.shared_memory_descriptor
    picks: gl.shared_memory_descriptor
    ones: gl.shared_memory_descriptor
    notes: gl.shared_memory_descriptor
    verdicts: gl.shared_memory_descriptor
    doubts: gl.shared_memory_descriptor
    bounds: gl.shared_memory_descriptor
    query_full: gl.shared_memory_descriptor
    query_empty: gl.shared_memory_descriptor
    key_full: gl.shared_memory_descriptor
    value_full: gl.shared_memory_descriptor
    freed: gl.shared_memory_descriptor
    verdict: gl.shared_memory_descriptor
    weighed: gl.shared_memory_descriptor
    certain: gl.shared_memory_descriptor
    ready: gl.shared_memory_descriptor


@gluon.jit
def set_up_barriers(shared, settings, PART: gl.constexpr):
    """Sets up a share of the barriers: PART is a consumer, or CONSUMERS for the producer.

    All partitions at once, because a launch of a few tiles notices how long it takes.  Nobody may touch a barrier
    before all have arrived at ``ready``.
    """
    if PART == 0:
        for i in gl.static_range(settings.STAGES):
            mbarrier.init(shared.freed.index(i), count=settings.CONSUMERS)
        for i in gl.static_range(settings.QUERIES):
            mbarrier.init(shared.query_empty.index(i), count=settings.CONSUMERS)
    if PART == 1:
        for i in gl.static_range(settings.STAGES):
            mbarrier.init(shared.value_full.index(i), count=1)
        mbarrier.init(shared.verdict, count=settings.CONSUMERS)
        if settings.SKIP:
            mbarrier.init(shared.weighed, count=settings.CONSUMERS)
            mbarrier.init(shared.certain, count=1)
    if PART == settings.CONSUMERS:
        for i in gl.static_range(settings.STAGES):
            mbarrier.init(shared.key_full.index(i), count=2 if settings.POSITIONS else 1)
        for i in gl.static_range(settings.QUERIES):
            mbarrier.init(shared.query_full.index(i), count=2)
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

    To Triton an ``arrive`` touches all of shared memory, so it lets the warps meet a second time behind it.  Expecting
    no bytes is an arrival, too, and is not taken for that.
    """
    gl.thread_barrier()
    mbarrier.expect(barrier, 0)


@gluon.jit
def note(shared, slot, field, number):
    """Writes one field of the notes in ``slot`` (producer)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    shared.notes.index(slot * NOTES + field).store(gl.full([1], number, gl.int32, LAYOUT))


@gluon.jit
def tell(shared, stage, flag):
    """Writes whether the vector of the block at a place says anything (producer)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    shared.told.index(stage).store(gl.full([1], flag, gl.int32, LAYOUT))


@gluon.jit
def is_told(shared, stage):
    """Reads that (a consumer)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    return gl.max(shared.told.index(stage).load(LAYOUT), 0) != 0


@gluon.jit
def read(shared, slot, field):
    """Reads one field of the notes in ``slot`` (a consumer)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    return gl.max(shared.notes.index(slot * NOTES + field).load(LAYOUT), 0)


@gluon.jit
def clear_doubts(shared, WHO: gl.constexpr):
    """Before the first turn; a consumer's own words, while the first copies are on their way."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    for i in gl.static_range(DOUBTS):
        shared.doubts.index(WHO * DOUBTS + i).store(gl.zeros([1], gl.int32, LAYOUT))


@gluon.jit
def doubt(shared, turn, bits, WHO: gl.constexpr):
    """Notes which of the 32 turns up to this one a consumer does not trust (see DOUBTS)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    word = shared.doubts.index(WHO * DOUBTS + ((turn >> 5) & (DOUBTS - 1)))
    word.store(word.load(LAYOUT) | bits)


@gluon.jit
def in_doubt(shared, turn, settings):
    """Whether a consumer did not trust the tile of a turn (the producer asks)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    found = gl.to_tensor(0)
    for i in gl.static_range(settings.CONSUMERS):
        found |= gl.max(shared.doubts.index(i * DOUBTS + ((turn >> 5) & (DOUBTS - 1))).load(LAYOUT), 0)
    return ((found >> (turn & 31)) & 1) == 1


@gluon.jit
def judge(shared, settings, WARPS: gl.constexpr):
    """Waits until every consumer has judged its rows; 1 if one of them was not content, else 0."""
    mbarrier.wait(shared.verdict, 0)
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    worst = gl.to_tensor(0)
    for i in gl.static_range(settings.CONSUMERS):
        worst = gl.maximum(worst, gl.max(shared.verdicts.index(i).load(LAYOUT), 0))
    return gl.minimum(worst, 1)
