"""Tiles and blocks of the Hopper kernel: which tile a program takes, and which blocks of keys that tile needs."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .shared import FORM_CAUSAL, FORM_LINEAR, FORM_SYMMETRIC, LOWEST, ROWS

FAR = gl.constexpr(-1e38)
"""An additive mask at or below this makes a weight of zero in the first pass: it has no value in log2 units."""
NEAR = gl.constexpr(-64.0)
"""A key whose additive mask is not above this is no place to look for the maximum of a row."""


FEW_TILES = gl.constexpr(8)


@gluon.constexpr_function
def _apart(settings):
    """Whether the first rows of all pairs are dealt apart from the others: see ``tile_of``."""
    return settings.MASK and settings.FORM == FORM_CAUSAL


@gluon.constexpr_function
def drawn_tiles(settings):
    """Whether programs draw tickets for tiles, because what a tile costs is not known beforehand."""
    return settings.SKIP or settings.MASK_ROWS


@gluon.jit
def order(tiles, sizes, settings):
    """How tiles go round: (pairs of batch and head in a bundle, bundles, rounds of a bundle, rounds of all)."""
    pairs = sizes.batch * sizes.heads
    size = pairs
    bundles = gl.to_tensor(1)
    if settings.FORM == FORM_CAUSAL:
        width: gl.constexpr = (settings.D + settings.V) * 2
        fitting = gl.maximum((settings.BUNDLE_MIB * 1048576) // (sizes.s_kv * width) * sizes.group, 1)
        # Bundles of fewer tiles than programs would leave some programs without work.
        most = gl.maximum(pairs * tiles // gl.num_programs(0), 1)
        size = gl.cdiv(pairs, gl.minimum(gl.cdiv(pairs, fitting), most))
        bundles = gl.cdiv(pairs, size)
    rounds = gl.cdiv(size * tiles, gl.num_programs(0))
    places = bundles * rounds
    if _apart(settings):
        rounds = gl.maximum(gl.cdiv(size * (tiles - 1), gl.num_programs(0)), 1)
        places = bundles * rounds + gl.cdiv(pairs, gl.num_programs(0))
    return size, bundles, rounds, places


@gluon.jit
def tile_of(number, index, size, tiles, bundles, sizes, settings):
    """The ``index``-th tile of a bundle: (row tile, pair); the row is -1 if there is none.

    Keys and values are read from memory once if the programs that need them run at about the same time.  Where
    all tiles cost the same, those of a pair follow each other.  Causal tiles do not: there the pairs go in bundles
    whose keys and values fit the L2 cache, and within a bundle the rows with the most keys come first.  With a mask the
    first rows may see no key and have to read all values: those of all pairs are a bundle of their own, the last.
    """
    if settings.FORM == FORM_CAUSAL:
        count = gl.minimum(size, sizes.batch * sizes.heads - number * size)
        end = count * tiles
        if _apart(settings):
            end = count * (tiles - 1)
            if number == bundles:
                count = sizes.batch * sizes.heads
                end = count
        row = tiles - 1 - index // count
        pair = number * size + index % count
        if _apart(settings):
            if number == bundles:
                row = gl.to_tensor(0)
                pair = index
    else:
        count = size
        end = count * tiles
        row = index % tiles
        pair = index // tiles
    return gl.where(index < end, row, -1), pair


@gluon.jit
def place_of(number, round_, size, tiles, settings):
    """Which tile of a bundle this program takes in a round, if costs are known beforehand.

    Every other round, and every other bundle, is dealt backwards, which evens out what a program gets; what an
    incomplete round leaves out wanders with the bundles.
    """
    programs = gl.num_programs(0)
    place = gl.program_id(0)
    if settings.FORM == FORM_CAUSAL:
        place = (place + programs - (number // 2) * (size * tiles % programs) % programs) % programs
        if (number + round_) % 2 == 1:
            place = programs - 1 - place
    index = round_ * programs + place
    if settings.MASK and settings.FORM != FORM_CAUSAL:
        # Short rows: one after the other from the same batch entry, because each entry's mask has to be looked at.
        if tiles <= FEW_TILES:
            index = place * gl.cdiv(size * tiles, programs) + round_
    return index


SPAN = gl.constexpr(256)
"""Keys that are looked at at once."""


@gluon.jit
def _keys_from(start):
    return start + gl.arange(0, SPAN, layout=gl.BlockedLayout([1], [32], [1], [0]))


@gluon.jit
def _look(base, start, mask_column, s_kv, settings):
    """What the mask adds to SPAN keys: -inf where it hides and where there are none."""
    key = _keys_from(start)
    loaded = gl.load(base + key.to(gl.int64) * mask_column, mask=key < s_kv, other=0)
    if settings.ADDITIVE:
        added = gl.where(key < s_kv, loaded.to(gl.float32), float("-inf"))
    else:
        added = gl.where(loaded != 0, 0.0, float("-inf"))
    return added


@gluon.jit
def _first(added, start, floor, s_kv):
    return gl.min(gl.where(added > floor, _keys_from(start), s_kv), 0)


@gluon.jit
def _end(added, start, floor):
    return gl.max(gl.where(added > floor, _keys_from(start) + 1, 0), 0)


@gluon.jit
def visible_keys(base, mask_column, s_kv, within, settings):
    """Of one mask: the first visible key; the first and the end of what this pass reads, and of keys near zero.

    Of no keys the first is s_kv and the end 0.

    A boolean mask has one kind of visible key.  Of an additive one the first pass (``within``) leaves out what is
    at or below FAR at both ends; tiles whose rows have no other keys are done again, with all visible ones.
    """
    last = (s_kv - 1) // SPAN * SPAN
    # Both ends asked for at once.
    head = _look(base, gl.to_tensor(0), mask_column, s_kv, settings)
    tail = _look(base, last, mask_column, s_kv, settings)
    floor_near = float("-inf")
    floor_read = float("-inf")
    floor_seen = float("-inf")
    if settings.ADDITIVE:
        floor_near = NEAR
        floor_seen = LOWEST
        floor_read = gl.where(within, FAR, LOWEST)
    begin_near = _first(head, 0, floor_near, s_kv)
    begin = _first(head, 0, floor_read, s_kv)
    begin_seen = _first(head, 0, floor_seen, s_kv)
    start = gl.to_tensor(SPAN)
    while (start < s_kv) & (begin_near == s_kv):
        head = _look(base, start, mask_column, s_kv, settings)
        begin_near = _first(head, start, floor_near, s_kv)
        begin = gl.minimum(begin, _first(head, start, floor_read, s_kv))
        begin_seen = gl.minimum(begin_seen, _first(head, start, floor_seen, s_kv))
        start += SPAN
    end_near = _end(tail, last, floor_near)
    end = _end(tail, last, floor_read)
    start = last - SPAN
    while (start >= 0) & (end_near == 0):
        tail = _look(base, start, mask_column, s_kv, settings)
        end_near = _end(tail, start, floor_near)
        end = gl.maximum(end, _end(tail, start, floor_read))
        start -= SPAN
    if settings.ADDITIVE:
        none = begin_near == s_kv
        begin_near = gl.where(none, begin, begin_near)
        end_near = gl.where(none, end, end_near)
    return begin_seen, begin, end, begin_near, end_near


@gluon.jit
def blocks_of(tile, begin, end, begin_near, end_near, begin_seen, empty_mean, sizes, settings):
    """Cuts the keys of a tile into blocks: first, crossings, tail, left, right, extra, seen_from (see NOTES).

    The blocks that are compared key by key are those of the diagonal; if all keys there are hidden, the
    nearest block with a visible key is, so that rows find their maximum early.  With an additive mask that is one
    whose mask is near zero, and all between it and the diagonal are compared, too.
    """
    BLOCK_N: gl.constexpr = settings.BLOCK_N
    rows: gl.constexpr = ROWS * settings.CONSUMERS
    s_q = sizes.s_q
    s_kv = sizes.s_kv
    reference = tile * rows + s_kv - s_q
    tail = gl.to_tensor(0)
    right = gl.to_tensor(0)
    extra = gl.to_tensor(0)
    seen_from = gl.to_tensor(0)
    last_row = gl.minimum(tile * rows + rows, s_q) + s_kv - s_q
    near = reference
    beyond = last_row
    if settings.FORM == FORM_LINEAR:
        near = gl.maximum(end - 1, 0)
        beyond = near + 1
    if settings.MASK:
        near = gl.maximum(gl.minimum(near, end_near - 1), 0)
        if settings.FORM == FORM_SYMMETRIC:
            near = gl.maximum(near, gl.minimum(begin_near, s_kv - 1))
        beyond = gl.maximum(gl.minimum(beyond, end), near + 1)
    first = near // BLOCK_N
    crossings = gl.cdiv(beyond, BLOCK_N) - first
    left = first
    whole = s_kv // BLOCK_N
    if settings.MASK:
        left = gl.maximum(first - begin // BLOCK_N, 0)
        whole = gl.minimum(whole, gl.cdiv(end, BLOCK_N))
        empty = begin_seen == s_kv
        if settings.FORM == FORM_CAUSAL:
            empty = reference < begin_seen
            seen_from = begin_seen
        else:
            seen_from = gl.where(empty, s_kv, 0)
        extra = gl.where(empty & (empty_mean != 0), gl.cdiv(s_kv, BLOCK_N), 0)
    if settings.FORM == FORM_SYMMETRIC:
        last = s_kv // BLOCK_N
        crossed = first + crossings
        tail = gl.where((last * BLOCK_N < end) & (last >= crossed), 1, 0)
        right = gl.maximum(whole - crossed, 0)
    return first, crossings, tail, left, right, extra, seen_from


@gluon.jit
def block_at(j, first, crossings, tail, left, right, s_kv, BLOCK_N: gl.constexpr):
    """The ``j``-th block in processing order."""
    edge = crossings + tail
    number = first + j
    number = gl.where(j >= crossings, s_kv // BLOCK_N, number)
    number = gl.where(j >= edge, first - 1 - (j - edge), number)
    number = gl.where(j >= edge + left, first + crossings + (j - edge - left), number)
    return gl.where(j >= edge + left + right, j - edge - left - right, number)
