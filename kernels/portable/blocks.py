"""Masks with rows and windows: which blocks of keys a tile of query rows needs, and where it has to look closely.

It is one small launch before the prefill kernel.  Most masks with rows (causal ones written out, packed documents,
prefixes, windows) hide or show whole blocks.  Those are left out, or computed as if there were no mask.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import LOWEST, MASK_ADDITIVE, MASK_BOOLEAN, MASK_NONE, in_window

FAR = tl.constexpr(-1e38)
"""An additive mask at or below this makes a weight of zero, unless all keys of a row are like that."""
NEEDED = tl.constexpr(1)
"""In the code of a block: a row sees one of its keys."""
SAID = tl.constexpr(2)
"""Mask or window say something about one of them."""
FAINT = tl.constexpr(4)
"""A row sees one of them, or would if it saw no other: its additive mask is above the lowest float32."""
TOP = tl.constexpr(256)
"""Times this: how many of the tile's first rows see none of them, however faint (all rows, if none does)."""
BLOCK_ROWS = 128
"""Query rows of a tile."""
PART = tl.constexpr(32)
"""Rows whose numbers are looked at at once."""


@triton.jit
def _any(conditions):
    """1 if one of the conditions in a block holds, else 0."""
    return tl.max(tl.max((conditions != 0).to(tl.int32), 1), 0)


@triton.jit
def _places(flags, place, ROWS: tl.constexpr):
    """Of each row that has a flag its place among the tile's rows, else ROWS; the least is TOP."""
    return tl.where(tl.max(flags, 1) != 0, place, ROWS)


@triton.jit
def _with_top(code, top, ROWS: tl.constexpr):
    """The code and the first rows that see nothing; whether the block is needed follows from them."""
    return code + tl.where(top < ROWS, NEEDED, 0) + top * TOP


@triton.jit
def _of_words(base, block, first_row, mask_row, MASK: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr):
    """The code of a whole block whose mask is dense, which is read four bytes at a time.

    An additive mask that says something of the block has to be read again, number by number: SAID alone.
    """
    BYTES: tl.constexpr = base.dtype.element_ty.primitive_bitwidth // 8
    row = first_row + tl.arange(0, ROWS)
    first = (base + block * BLOCK_N).to(tl.pointer_type(tl.int32), bitcast=True)
    at = row.to(tl.int64)[:, None] * mask_row * BYTES // 4 + tl.arange(0, BLOCK_N * BYTES // 4)[None, :]
    word = tl.load(first + at)
    if MASK == MASK_BOOLEAN:
        # The subtraction borrows where a byte is zero, which sets the byte's highest bit.
        hides = (word - 0x01010101) & ~word & -0x7F7F7F80
        seen = (word != 0).to(tl.int32)
        code = _with_top(SAID * _any(hides), tl.min(_places(seen, tl.arange(0, ROWS), ROWS), 0), ROWS)
    else:
        size = 0x7FFF7FFF if BYTES == 2 else 0x7FFFFFFF
        code = tl.where(_any(word & size) == 1, SAID, NEEDED)
    return code


@triton.jit
def _of_numbers(
    base, first_row, first_key, end, s_q, offset, mask_row, mask_column, window_left, window_right, MASK: tl.constexpr,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The code of any block, read number by number, a few rows at a time: more would take registers of all programs."""
    column = first_key + tl.arange(0, BLOCK_N)
    flags = tl.zeros([PART, BLOCK_N], tl.int32)
    tops = tl.full([PART], ROWS, tl.int32)
    for start in tl.range(0, ROWS, PART):
        place = start + tl.arange(0, PART)
        row = first_row + place
        inside = (row < s_q)[:, None] & (column < end)[None, :]
        counts = inside
        if CAUSAL:
            counts = inside & (column[None, :] <= (row + offset)[:, None])
        seen = counts
        faint = counts
        said = counts & (row < 0)[:, None]
        if MASK != MASK_NONE:
            at = base + row.to(tl.int64)[:, None] * mask_row + column.to(tl.int64)[None, :] * mask_column
            loaded = tl.load(at, mask=inside, other=0)
            if MASK == MASK_BOOLEAN:
                seen = loaded != 0
                said = loaded == 0
            else:
                added = loaded.to(tl.float32)
                seen = added > FAR
                faint = added > LOWEST
                said = added != 0.0
        if WINDOW:
            shown = in_window(row + offset, column, window_left, window_right)
            seen = seen & shown
            faint = faint & shown
            said = said | (shown == 0)
        found = tl.where(seen, NEEDED, 0) | tl.where(said, SAID, 0)
        if MASK == MASK_ADDITIVE:
            found = found | tl.where(faint, FAINT, 0)
        found = tl.where(counts, found, 0)
        flags = flags | found
        tops = tl.minimum(tops, _places(found & (NEEDED | FAINT), place, ROWS))
    code = SAID * _any(flags & SAID)
    top = tl.min(tops, 0)
    if MASK == MASK_ADDITIVE:
        code += FAINT * _any(flags & FAINT) + NEEDED * _any(flags & NEEDED) + top * TOP
    else:
        code = _with_top(code, top, ROWS)
    return code


@triton.jit
def alibi_blocks(
    mask, blocks, ticket, mask_batch, mask_head, mask_row, mask_column, s_q, s_kv, window_left, window_right,
    MASK: tl.constexpr, WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DENSE: tl.constexpr, BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(s_q / 128) * ceil(s_kv / BLOCK_N) * batch entries of the mask, heads of the mask).

    A program looks at a block of BLOCK_N keys of a tile of ROWS rows and writes its code: NEEDED if a row sees one of
    the keys, SAID if mask or window say something about one, FAINT where an additive mask shows one however faintly,
    and how many of the first rows see none.  Keys that causality hides do not count.

    Args:
        mask: element (b, h, i, j) at ``b * mask_batch + h * mask_head + i * mask_row + j * mask_column``.
        mask_row, mask_column: with DENSE a multiple of 16, and 1; then the address is one of 16 elements, too.
        blocks: [batch entries, heads, tiles, 4 * ceil(s_kv / (4 * BLOCK_N))], uint16; what is beyond the last block is
            left as it was.
        ticket: one int32, set to zero for the kernel whose programs draw their tiles.
        window_left, window_right: how many keys before and after its own a row sees; -1 for all (WINDOW).
    """
    blocks_of_tile = tl.cdiv(s_kv, BLOCK_N)
    tiles = tl.cdiv(s_q, ROWS)
    tile = tl.program_id(0) // blocks_of_tile
    block = tl.program_id(0) % blocks_of_tile
    batch = tile // tiles
    tile = tile - batch * tiles
    head = tl.program_id(1)
    tl.store(ticket, 0, mask=(tl.program_id(0) == 0) & (head == 0))
    first_row = tile * ROWS
    offset = s_kv - s_q
    first_key = block * BLOCK_N
    # The end of the keys that may be seen, and of those that all rows see as far as causality says.
    end = s_kv
    whole = s_kv
    if CAUSAL:
        end = tl.minimum(tl.minimum(first_row + ROWS, s_q) + offset, s_kv)
        whole = tl.minimum(first_row + offset + 1, s_kv)
    exists = first_key < end
    reached = exists
    plain = (first_key + BLOCK_N <= whole) & (first_row + ROWS <= s_q)
    if WINDOW:
        least = first_row + offset - (first_key + BLOCK_N - 1)
        most = tl.minimum(first_row + ROWS, s_q) - 1 + offset - first_key
        reached = reached & ((window_left < 0) | (least <= window_left))
        reached = reached & ((window_right < 0) | (most >= -window_right))
        plain = plain & ((window_left < 0) | (most <= window_left)) & ((window_right < 0) | (least >= -window_right))
    # A block outside the window gets SAID, too: those of the diagonal are taken whatever they hold, and then the kernel
    # has to look at the window.
    none: tl.constexpr = ROWS * TOP
    code = tl.where(reached, tl.where(plain, NEEDED, 0), tl.where(exists, SAID + none, none))
    base = mask
    known = plain
    if MASK != MASK_NONE:
        base = mask + batch.to(tl.int64) * mask_batch + head.to(tl.int64) * mask_head
        known = plain & (s_q < 0)
        if DENSE:
            if plain & reached:
                code = _of_words(base, block, first_row, mask_row, MASK, BLOCK_N, ROWS)
                known = reached
                if MASK == MASK_ADDITIVE:
                    known = code == NEEDED
    if reached & (known == 0):
        code = _of_numbers(
            base, first_row, first_key, end, s_q, offset, mask_row, mask_column, window_left, window_right, MASK,
            WINDOW, CAUSAL, BLOCK_N, ROWS)  # fmt: skip
    width = tl.cdiv(s_kv, 4 * BLOCK_N) * 4
    slot = ((batch * tl.num_programs(1) + head).to(tl.int64) * tiles + tile) * width + block
    tl.store(blocks + slot, code.to(tl.uint16))
