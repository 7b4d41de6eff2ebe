"""Masks with rows in the Hopper kernel: the producer walks the blocks that are needed, the consumers read the mask.

``blocks.alibi_blocks`` has written down, for every tile, which blocks of keys its rows need and in which of those the
mask says something.  The producer takes the needed ones only; a consumer reads the mask of a block, element by
element, only if it says something there.
"""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..aggregate import aggregate
from .shared import BATCH, FORM_CAUSAL, FORM_LINEAR, HEAD, LARGEST, LOWEST, ROWS_PER_CONSUMER, read_tile_info

GROUP = gl.constexpr(32)
"""Blocks whose bytes become two words, one bit for each."""
SCAN = gl.constexpr(128)
"""Blocks that are counted at once."""


@aggregate
class RowMask:
    """A mask with rows: where it is and its strides (READS); and a window (WINDOW)."""

    pointer: gl.tensor
    batch: gl.tensor
    head: gl.tensor
    row: gl.tensor
    column: gl.tensor
    window_left: gl.tensor
    window_right: gl.tensor


@gluon.jit
def _highest_bit(bits):
    """Which bit is the highest that is set."""
    return gl.inline_asm_elementwise("bfind.u32 $0, $1;", "=r,r", [bits], gl.int32, True, 1)


@gluon.jit
def codes_of(blocks, batch, head, tile, mask_batch, mask_head, sizes, settings):
    """Where the bytes of a tile's blocks are."""
    heads = gl.where(mask_head != 0, sizes.heads, 1)
    entry = gl.where(mask_batch != 0, batch, 0) * heads + gl.where(mask_head != 0, head, 0)
    tiles = gl.cdiv(sizes.s_q, ROWS_PER_CONSUMER * settings.CONSUMERS)
    return blocks + (entry.to(gl.int64) * tiles + tile) * (gl.cdiv(sizes.s_kv, 4 * settings.BLOCK_N) * 4)


@gluon.jit
def count_needed(codes, every, first, diagonal_blocks, left, right, sizes, settings):
    """Of the blocks left and right of the crossed ones, how many are needed: (first, left, right).

    In the form that knows no diagonal the first block is the last one that is needed.
    """
    blocks = gl.cdiv(sizes.s_kv, settings.BLOCK_N)
    lane = gl.arange(0, SCAN, layout=gl.BlockedLayout([1], [32], [1], [0]))
    if settings.FORM == FORM_LINEAR:
        last = gl.to_tensor(-1)
        start = gl.to_tensor(0)
        while start < blocks:
            code = gl.load(codes + start + lane, mask=start + lane < blocks, other=0)
            last = gl.maximum(last, gl.max(gl.where((code & 1) != 0, start + lane, -1), 0))
            start += SCAN
        first = gl.where((last < 0) | every, first, last)
        left = first
    counted = gl.to_tensor(0)
    crossed = first + diagonal_blocks
    start = gl.to_tensor(0)
    stop = left
    if settings.FORM != FORM_CAUSAL:
        stop = crossed + right
    while start < stop:
        block = start + lane
        code = gl.load(codes + block, mask=block < stop, other=0).to(gl.int32) & 1
        # Both counts in one number.
        counted += gl.sum(gl.where(block < left, code, gl.where(block >= crossed, code << 16, 0)), 0)
        start += SCAN
    return first, gl.where(every, left, counted & 65535), gl.where(every, right, counted >> 16)


@gluon.jit
def _group(codes, word, begin, end, every):
    """Of 32 blocks, those of ``begin .. end`` that are needed, and those in which the mask says something."""
    lane = gl.arange(0, GROUP, layout=gl.BlockedLayout([1], [32], [1], [0]))
    block = word * GROUP + lane
    inside = (block >= begin) & (block < end)
    code = gl.load(codes + block, mask=inside, other=0).to(gl.int32)
    needed = gl.where(every & inside, 1, code & 1)
    return gl.sum(needed << lane, 0), gl.sum((code >> 1) << lane, 0)


@gluon.jit
def next_block(j, first, diagonal_blocks, tail, left, right, codes, every, word, bits, masks, sizes,
               BLOCK_N: gl.constexpr):  # fmt: skip
    """The ``j``-th block in processing order: (its number, whether its mask has to be read, word, bits, masks).

    ``bits`` are the blocks of the ``word``-th group that have not been taken yet, ``masks`` those in which the mask
    says something.
    """
    edge = diagonal_blocks + tail
    far = edge + left
    end = far + right
    reads_mask = gl.to_tensor(0)
    if (j >= edge) & (j < end):
        down = j < far
        low = gl.where(down, 0, first + diagonal_blocks)
        high = gl.where(down, first, gl.cdiv(sizes.s_kv, BLOCK_N))
        if (j == edge) | (j == far):
            word = gl.where(down, first - 1, first + diagonal_blocks) // GROUP
            bits, masks = _group(codes, word, low, high, every)
        while bits == 0:
            word += gl.where(down, -1, 1)
            bits, masks = _group(codes, word, low, high, every)
        bit = _highest_bit(gl.where(down, bits, bits & -bits))
        bits = bits & ~(1 << bit)
        block = word * GROUP + bit
        reads_mask = (masks >> bit) & 1
    else:
        block = first + j
        block = gl.where(j >= diagonal_blocks, sizes.s_kv // BLOCK_N, block)
        # The mean of all values: every block, once more.
        block = gl.where(j >= end, j - end, block)
        reads_mask = gl.load(codes + block).to(gl.int32) >> 1
    return block, reads_mask, word, bits, masks


@gluon.jit
def block_info_of(shared, stage, settings):
    """What the producer wrote about the block in a stage (MASK_ROWS): its number, and whether to read its mask."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    info = gl.to_tensor(0)
    if settings.MASK_ROWS:
        info = gl.max(shared.block_info.index(stage).load(LAYOUT), 0)
    return info >> 1, (info & 1) != 0


@gluon.jit
def with_mask(scores, said, factor, hidden, me):
    """Adds the mask of a block, times ``factor``, to its scores; those of hidden keys become ``hidden``.

    ``said`` is as for ``weights.masked``.
    """
    settings = me.settings
    mask = me.row_mask
    sizes = me.sizes
    column = me.column
    reads_mask, start, tile, slot = said
    if reads_mask:
        row = tile * (ROWS_PER_CONSUMER * settings.CONSUMERS) + me.WHO * ROWS_PER_CONSUMER + me.row
        if settings.READS:
            batch = read_tile_info(me.shared, slot, BATCH).to(gl.int64)
            head = read_tile_info(me.shared, slot, HEAD).to(gl.int64)
            base = mask.pointer + batch * mask.batch + head * mask.head + start.to(gl.int64) * mask.column
            at = base + (row.to(gl.int64) * mask.row)[:, None] + (column.to(gl.int64) * mask.column)[None, :]
            inside = (row < sizes.s_q)[:, None] & (start + column < sizes.s_kv)[None, :]
            loaded = gl.load(at, mask=inside, other=0)
            if settings.ADDITIVE:
                added = gl.minimum(loaded.to(gl.float32), LARGEST)
                scores = gl.where(added > LOWEST, scores + added * factor, hidden)
            else:
                scores = gl.where(loaded != 0, scores, hidden)
        if settings.WINDOW:
            before = (row + (sizes.s_kv - sizes.s_q))[:, None] - (start + column)[None, :]
            shown = (mask.window_left < 0) | (before <= mask.window_left)
            shown = shown & ((mask.window_right < 0) | (before >= -mask.window_right))
            scores = gl.where(shown, scores, hidden)
    return scores
