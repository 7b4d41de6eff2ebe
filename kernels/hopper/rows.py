"""Masks with rows in the Hopper kernel: the producer walks the blocks that are needed, the consumers read the mask.

``blocks.alibi_blocks`` has written down, for every tile, which blocks of keys its rows need and in which of those the
mask says something.  The producer takes the needed ones only; a consumer reads the mask of a block, element by
element, only if it says something there.
"""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..aggregate import aggregate
from ..portable.blocks import FAINT, NEEDED, SAID, TOP
from .shared import BATCH, FORM_CAUSAL, FORM_LINEAR, HEAD, LARGEST, LOWEST, ROWS_PER_CONSUMER, read_tile_info

GROUP = gl.constexpr(32)
"""Blocks whose codes become two words, one bit for each."""
SCAN = gl.constexpr(64)
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
    """Where the codes of a tile's blocks are."""
    heads = gl.where(mask_head != 0, sizes.heads, 1)
    entry = gl.where(mask_batch != 0, batch, 0) * heads + gl.where(mask_head != 0, head, 0)
    tiles = gl.cdiv(sizes.s_q, ROWS_PER_CONSUMER * settings.CONSUMERS)
    return blocks + (entry.to(gl.int64) * tiles + tile) * (gl.cdiv(sizes.s_kv, 4 * settings.BLOCK_N) * 4)


@gluon.jit
def wanted_of(within, settings):
    """Which bits say that a pass needs a block.

    The first pass (``within``) leaves out those of an additive mask that are FAINT only.
    """
    wanted = gl.to_tensor(NEEDED)
    if settings.ADDITIVE:
        wanted = gl.where(within, NEEDED, NEEDED | FAINT)
    return wanted


@gluon.jit
def _find(codes, stop, PLAIN: gl.constexpr):
    """Whether one of a tile's blocks before ``stop`` is seen by a row, however faintly; or (PLAIN) hides nothing."""
    lane = gl.arange(0, SCAN, layout=gl.BlockedLayout([1], [32], [1], [0]))
    found = gl.to_tensor(0)
    start = gl.to_tensor(0)
    while (start < stop) & (found == 0):
        code = gl.load(codes + start + lane, mask=start + lane < stop, other=0).to(gl.int32)
        if PLAIN:
            found = gl.max(gl.where((code & (NEEDED | SAID)) == NEEDED, 1, 0), 0)
        else:
            found = gl.max(code & (NEEDED | FAINT), 0)
        start += SCAN
    return found != 0


@gluon.jit
def _sees(codes, sizes, settings):
    """Whether a row of a tile sees a key, however faint its mask."""
    return _find(codes, gl.cdiv(sizes.s_kv, settings.BLOCK_N), False)


@gluon.jit
def all_see(codes, first, sizes, settings):
    """Whether it is certain that every row of a tile sees a key: the mask says nothing about a block that all reach.

    Those of the causal form reach the ``first`` block that the diagonal crosses, and all before it.
    """
    stop = gl.cdiv(sizes.s_kv, settings.BLOCK_N)
    if settings.FORM == FORM_CAUSAL:
        stop = first + 1
    return _find(codes, stop, True)


@gluon.jit
def copies_of(codes, top, tile, sizes, settings):
    """To how many tiles, from this one on, the output of a tile goes: 0 if it comes from another one (causal form).

    Rows that see no key all yield the same mean, for which all values have to be read.  Of tiles that follow each other
    and have no other rows, the first one reads them, and its output goes to all.  ``top`` is that of ``count_needed``.
    """
    tiles = gl.cdiv(sizes.s_q, ROWS_PER_CONSUMER * settings.CONSUMERS)
    width = gl.cdiv(sizes.s_kv, 4 * settings.BLOCK_N) * 4
    copies = gl.to_tensor(1)
    if top == ROWS_PER_CONSUMER * settings.CONSUMERS:
        if tile > 0:
            copies = gl.where(_sees(codes - width, sizes, settings), 1, 0)
        if copies == 1:
            more = tile + 1 < tiles
            while more:
                codes += width
                more = not _sees(codes, sizes, settings)
                copies += gl.where(more, 1, 0)
                more = more & (tile + copies < tiles)
    return copies


@gluon.jit
def count_needed(codes, wanted, first, diagonal_blocks, tail, left, right, sizes, settings):
    """Of the blocks left and right of the crossed ones, how many are ``wanted``; and what the others say.

    In the form that knows no diagonal the first block is the last one that is needed.

    Returns:
        ``first``, ``left`` and ``right``; a bit for each block that is compared key by key, in their order, if its mask
        says something; and how many of the tile's first rows see no key at all (causal form).
    """
    blocks = gl.cdiv(sizes.s_kv, settings.BLOCK_N)
    lane = gl.arange(0, SCAN, layout=gl.BlockedLayout([1], [32], [1], [0]))
    if settings.FORM == FORM_LINEAR:
        last = gl.to_tensor(-1)
        start = gl.to_tensor(0)
        while start < blocks:
            code = gl.load(codes + start + lane, mask=start + lane < blocks, other=0).to(gl.int32)
            last = gl.maximum(last, gl.max(gl.where((code & wanted) != 0, start + lane, -1), 0))
            start += SCAN
        first = gl.where(last < 0, first, last)
        left = first
    counted = gl.to_tensor(0)
    edge_masks = gl.to_tensor(0)
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    top = gl.to_tensor(rows_per_tile)
    crossed = first + diagonal_blocks
    start = gl.to_tensor(0)
    stop = crossed + right + tail
    while start < stop:
        block = start + lane
        code = gl.load(codes + block, mask=block < stop, other=rows_per_tile * TOP).to(gl.int32)
        top = gl.minimum(top, gl.min(code // TOP, 0))
        at_edge = (block >= first) & (block < crossed) | (block == crossed + right)
        place = gl.where(block < crossed, (block - first) & 31, diagonal_blocks)
        edge_masks += gl.sum(gl.where(at_edge & ((code & SAID) != 0), 1 << place, 0), 0)
        code = gl.where((code & wanted) != 0, 1, 0)
        # Both counts in one number.
        counted += gl.sum(
            gl.where(block < left, code, gl.where((block >= crossed) & (block < crossed + right), code << 16, 0)), 0
        )
        start += SCAN
    return first, counted & 65535, counted >> 16, edge_masks, top


@gluon.jit
def cut_by_rows(codes, within, tile, first, diagonal_blocks, tail, left, right, empty_mean, sizes, settings):
    """Cuts the keys of a tile into blocks as the launch before found them; the others as ``tiles.blocks_of``.

    Returns:
        FIRST, LEFT and RIGHT; a bit for each block that is compared key by key if its mask has to be read; EXTRA,
        SEEN_FROM and COPIES.  COPIES is 0 where the tile's output comes from another one (causal form).
    """
    rows_per_tile: gl.constexpr = ROWS_PER_CONSUMER * settings.CONSUMERS
    first, left, right, edge_masks, top = count_needed(
        codes, wanted_of(within, settings), first, diagonal_blocks, tail, left, right, sizes, settings
    )
    copies = gl.to_tensor(1)
    seen_from = gl.to_tensor(0)
    # The first pass knows of the first rows only that they see no key.  If others do not, their tile is done again.
    averages = gl.to_tensor(False)
    if settings.FORM == FORM_CAUSAL:
        copies = copies_of(codes, top, tile, sizes, settings)
        averages = top > 0
        seen_from = gl.where(averages, tile * rows_per_tile + sizes.s_kv - sizes.s_q + top, 0)
    if not within:
        averages = not all_see(codes, first, sizes, settings)
    extra = gl.where(averages & (empty_mean != 0), gl.cdiv(sizes.s_kv, settings.BLOCK_N), 0)
    return first, left, right, edge_masks, extra, seen_from, copies


@gluon.jit
def _group(codes, word, begin, end, wanted):
    """Of 32 blocks, those of ``begin .. end`` that are ``wanted``, and those in which the mask says something."""
    lane = gl.arange(0, GROUP, layout=gl.BlockedLayout([1], [32], [1], [0]))
    block = word * GROUP + lane
    inside = (block >= begin) & (block < end)
    code = gl.load(codes + block, mask=inside, other=0).to(gl.int32)
    needed = gl.where((code & wanted) != 0, 1, 0)
    said = gl.where((code & SAID) != 0, 1, 0)
    return gl.sum(needed << lane, 0), gl.sum(said << lane, 0)


@gluon.jit
def next_block(j, first, diagonal_blocks, tail, left, right, codes, wanted, edge_masks, word, bits, masks, sizes,
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
            bits, masks = _group(codes, word, low, high, wanted)
        while bits == 0:
            word += gl.where(down, -1, 1)
            bits, masks = _group(codes, word, low, high, wanted)
        bit = _highest_bit(gl.where(down, bits, bits & -bits))
        bits = bits & ~(1 << bit)
        block = word * GROUP + bit
        reads_mask = (masks >> bit) & 1
    else:
        block = first + j
        block = gl.where(j >= diagonal_blocks, sizes.s_kv // BLOCK_N, block)
        reads_mask = (edge_masks >> gl.minimum(j, 31)) & 1
        # The mean of all values: every block, once more.
        block = gl.where(j >= end, j - end, block)
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
