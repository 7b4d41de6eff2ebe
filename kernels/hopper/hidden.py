"""Keys and values at hidden keys in the Hopper kernel: a weight of zero times NaN is NaN, so they are cleared.

Nobody looks at them in the first pass.  A tile whose result is not finite is done again, and then the producer waits
for the copies of a block that has hidden keys, clears those in shared memory, and only then tells the consumers that
the block is there.  These do not notice: their loops stay as they are.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

from .rows import columns_seen
from .shared import LOWEST

LINES = gl.constexpr(8)
"""Lines that are cleared at once; more would take more registers."""
LINE_COLUMNS = gl.constexpr(64)
"""Columns of a line at most: 128 bytes, within which the swizzle stays."""


@gluon.constexpr_function
def _lines(settings, columns):
    """Lines of a block of keys or values: those of the first columns come first."""
    return settings.BLOCK_N * max(1, columns // LINE_COLUMNS.value)


@gluon.constexpr_function
def _words(columns):
    """Words of a line."""
    return min(columns, LINE_COLUMNS.value) // 2


@gluon.constexpr_function
def _vectors(settings):
    """Vectors of terms in shared memory."""
    return settings.STAGES if settings.MASK or settings.POSITIONS else 1


@gluon.constexpr_function
def _by_line(columns):
    """How the producer warp holds some lines, as words of two numbers."""
    lanes = min(columns, LINE_COLUMNS.value) // 8
    return gl.BlockedLayout([1, 4], [32 // lanes, lanes], [1, 1], [1, 0])


@gluon.jit
def _pieces(tile, settings, COLUMNS: gl.constexpr):
    """Keys or values of all stages as words, LINES lines at a time."""
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    COUNT: gl.constexpr = settings.STAGES * _lines(settings, COLUMNS) // LINES
    return tile._reinterpret(gl.int32, [COUNT, LINES, _words(COLUMNS)], PLAIN)


@gluon.jit
def _clear_hidden(tile, stage, terms, slot, settings, COLUMNS: gl.constexpr):
    """Clears the lines of those keys whose term, in the ``slot``-th vector of ``terms``, is -inf."""
    BY_LINE: gl.constexpr = _by_line(COLUMNS)
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    COUNT: gl.constexpr = _lines(settings, COLUMNS) // LINES
    OF_KEYS: gl.constexpr = settings.BLOCK_N // LINES
    pieces = _pieces(tile, settings, COLUMNS)
    flags = terms._reinterpret(gl.float32, [_vectors(settings) * OF_KEYS, LINES], PLAIN)
    i = gl.to_tensor(0)
    while i < COUNT:
        hidden = flags.index(slot * OF_KEYS + i % OF_KEYS).load(gl.SliceLayout(1, BY_LINE)) == float("-inf")
        if gl.max(hidden.to(gl.int32), 0) != 0:
            piece = pieces.index(stage * COUNT + i)
            words = piece.load(BY_LINE)
            piece.store(gl.where(hidden[:, None], 0, words))
        i += 1


@gluon.jit
def _strange_bits(words, dtype: gl.constexpr):
    """The bits of those numbers in words of two that are not finite."""
    exponent: gl.constexpr = 0x7C00 if dtype == gl.float16 else 0x7F80
    low = gl.where((words & exponent) == exponent, 0xFFFF, 0)
    return low | gl.where(((words >> 16) & exponent) == exponent, -65536, 0)


@gluon.jit
def _any_strange(tile, stage, settings, COLUMNS: gl.constexpr):
    """Whether a number of a block is not finite."""
    BY_LINE: gl.constexpr = _by_line(COLUMNS)
    COUNT: gl.constexpr = _lines(settings, COLUMNS) // LINES
    pieces = _pieces(tile, settings, COLUMNS)
    found = gl.zeros([LINES, _words(COLUMNS)], gl.int32, BY_LINE)
    i = gl.to_tensor(0)
    while i < COUNT:
        found |= _strange_bits(pieces.index(stage * COUNT + i).load(BY_LINE), tile.dtype)
        i += 1
    return gl.max(gl.max((found != 0).to(gl.int32), 1), 0) != 0


@gluon.jit
def _clear_strange(tile, stage, settings, COLUMNS: gl.constexpr):
    """Clears the numbers of a block that are not finite."""
    BY_LINE: gl.constexpr = _by_line(COLUMNS)
    COUNT: gl.constexpr = _lines(settings, COLUMNS) // LINES
    pieces = _pieces(tile, settings, COLUMNS)
    i = gl.to_tensor(0)
    while i < COUNT:
        piece = pieces.index(stage * COUNT + i)
        words = piece.load(BY_LINE)
        piece.store(words & ~_strange_bits(words, tile.dtype))
        i += 1


@gluon.jit
def hides_some(loaded, settings):
    """Whether a mask, of which ``loaded`` is what it says of a block, hides a key (MASK)."""
    if settings.ADDITIVE:
        hidden = loaded.to(gl.float32) <= LOWEST
    else:
        hidden = loaded == 0
    return gl.max(hidden.to(gl.int32), 0) != 0


@gluon.jit
def clear_block(keyed, stage, block, at, row_mask, shared, sizes, settings):
    """Clears what no consumer may see of a block whose copies are there (second pass).

    With a mask that differs by key, or a key bias, these are all hidden keys.  With a mask that has rows, or a window,
    these are values of keys that no row of the tile sees; scores are replaced there anyway.  A block of the mean of all
    values keeps those that are finite: rows that see keys weigh it with zero, and that must remain zero.
    """
    if not keyed:
        _clear_strange(shared.value_tile, stage, settings, settings.V)
    else:
        if settings.MASK:
            _clear_hidden(shared.key_tile, stage, shared.vector_tile, stage, settings, settings.D)
            _clear_hidden(shared.value_tile, stage, shared.vector_tile, stage, settings, settings.V)
        if settings.MASK_ROWS:
            if _any_strange(shared.value_tile, stage, settings, settings.V):
                seen = columns_seen(row_mask, at, block, sizes, settings)
                shared.vector_tile.index(0).store(gl.where(seen != 0, 0.0, float("-inf")))
                _clear_hidden(shared.value_tile, stage, shared.vector_tile, 0, settings, settings.V)
    # The tensor cores read what threads wrote.
    fence_async_shared()
    gl.thread_barrier()
