"""What the partitions of the Hopper kernel share: choices, sizes, tiles and barriers, notes about the next tile."""

# Compile-time parameters are in capitals, as is the custom in Triton.  Kernels are compiled, never called as
# Python: Triton's language has no types to check them with.
# ruff: noqa: N803, N806
# mypy: ignore-errors
# (No future import: the annotations of the aggregates are evaluated.)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.core import _aggregate as aggregate

LOG2E = gl.constexpr(1.4426950408889634)
ROWS = gl.constexpr(64)

FORM_LINEAR = gl.constexpr(0)
FORM_CAUSAL = gl.constexpr(1)
FORM_SYMMETRIC = gl.constexpr(2)

TILE = gl.constexpr(0)
BATCH = gl.constexpr(1)
HEAD = gl.constexpr(2)
FIRST = gl.constexpr(3)
CROSSINGS = gl.constexpr(4)
TAIL = gl.constexpr(5)
LEFT = gl.constexpr(6)
RIGHT = gl.constexpr(7)
EXTRA = gl.constexpr(8)
SEEN_FROM = gl.constexpr(9)
SLOPE = gl.constexpr(10)
NOTES = gl.constexpr(11)
"""What the producer writes down for a tile: where it is; the first block that the diagonal crosses and how many it
crosses; 1 if a ragged last block is right of those; how many blocks to take left and right of them; how many to
average for rows without keys; the key from which on rows see one; the bits of the slope."""


@aggregate
class Settings:
    """Compile-time choices, the same in every partition."""

    FORM: gl.constexpr
    STEADY: gl.constexpr
    SKIP: gl.constexpr
    MASK: gl.constexpr
    POSITIONS: gl.constexpr
    ALTERNATE: gl.constexpr
    BUNDLE_MIB: gl.constexpr
    D: gl.constexpr
    V: gl.constexpr
    BLOCK_N: gl.constexpr
    STAGES: gl.constexpr
    QUERIES: gl.constexpr
    CONSUMERS: gl.constexpr
    SHARED_RAMP: gl.constexpr
    PAIRED: gl.constexpr

    @gluon.constexpr_function
    def __init__(self, FORM, STEADY, SKIP, MASK, POSITIONS, ALTERNATE, BUNDLE_MIB, D, V, BLOCK_N, STAGES,
                 QUERIES, CONSUMERS, SHARED_RAMP, PAIRED):  # fmt: skip
        self.FORM = gl.constexpr(FORM)
        self.STEADY = gl.constexpr(STEADY)
        self.SKIP = gl.constexpr(SKIP)
        self.MASK = gl.constexpr(MASK)
        self.POSITIONS = gl.constexpr(POSITIONS)
        self.ALTERNATE = gl.constexpr(ALTERNATE)
        self.BUNDLE_MIB = gl.constexpr(BUNDLE_MIB)
        self.D = gl.constexpr(D)
        self.V = gl.constexpr(V)
        self.BLOCK_N = gl.constexpr(BLOCK_N)
        self.STAGES = gl.constexpr(STAGES)
        self.QUERIES = gl.constexpr(QUERIES)
        self.CONSUMERS = gl.constexpr(CONSUMERS)
        self.SHARED_RAMP = gl.constexpr(SHARED_RAMP)
        self.PAIRED = gl.constexpr(PAIRED)


@aggregate
class Sizes:
    """The run-time sizes."""

    batch: gl.tensor
    heads: gl.tensor
    group: gl.tensor
    s_q: gl.tensor
    s_kv: gl.tensor

    @gluon.constexpr_function
    def __init__(self, batch, heads, group, s_q, s_kv):
        self.batch = batch
        self.heads = heads
        self.group = group
        self.s_q = s_q
        self.s_kv = s_kv


@aggregate
class Shared:
    """Tiles in shared memory and the barriers that tell when they are full or may be overwritten."""

    query_tile: gl.shared_memory_descriptor
    key_tile: gl.shared_memory_descriptor
    value_tile: gl.shared_memory_descriptor
    output_tile: gl.shared_memory_descriptor
    vector_tile: gl.shared_memory_descriptor
    notes: gl.shared_memory_descriptor
    query_full: gl.shared_memory_descriptor
    query_empty: gl.shared_memory_descriptor
    key_full: gl.shared_memory_descriptor
    value_full: gl.shared_memory_descriptor
    freed: gl.shared_memory_descriptor
    verdict: gl.shared_memory_descriptor
    verdicts: gl.shared_memory_descriptor
    turn0: gl.shared_memory_descriptor
    turn1: gl.shared_memory_descriptor
    turn2: gl.shared_memory_descriptor

    @gluon.constexpr_function
    def __init__(self, query_tile, key_tile, value_tile, output_tile, vector_tile, notes, query_full, query_empty,
                 key_full, value_full, freed, verdict, verdicts, turn0, turn1, turn2):  # fmt: skip
        self.query_tile = query_tile
        self.key_tile = key_tile
        self.value_tile = value_tile
        self.output_tile = output_tile
        self.vector_tile = vector_tile
        self.notes = notes
        self.query_full = query_full
        self.query_empty = query_empty
        self.key_full = key_full
        self.value_full = value_full
        self.freed = freed
        self.verdict = verdict
        self.verdicts = verdicts
        self.turn0 = turn0
        self.turn1 = turn1
        self.turn2 = turn2


@gluon.jit
def note(shared, slot, field, number):
    """Writes one field of the notes in ``slot`` (producer)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    shared.notes.index(slot * NOTES + field).store(gl.full([1], number, gl.int32, LAYOUT))


@gluon.jit
def read(shared, slot, field):
    """Reads one field of the notes in ``slot`` (a consumer)."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    return gl.max(shared.notes.index(slot * NOTES + field).load(LAYOUT), 0)
