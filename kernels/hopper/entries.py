"""What the scout of the Hopper kernel knows of a batch entry: its visible keys, and those its mask says nothing about.

It looks at few keys at a time.  That one warp runs through some hundred instructions takes longer than a few waits for
the memory, and its registers are few.
"""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..aggregate import aggregate
from .shared import LOWEST

FAR = gl.constexpr(-1e38)
"""An additive mask at or below this makes a weight of zero in the first pass: it has no value in log2 units."""
NEAR = gl.constexpr(-64.0)
"""A key whose additive mask is not above this is no place to look for the maximum of a row."""

LONGEST_BLOCK = gl.constexpr(256)
"""Keys; no block has more."""

SPAN = gl.constexpr(64)
"""Keys that are looked at at once, at either end."""
CHUNK = gl.constexpr(128)
"""Keys about which is asked at once whether a mask says something about them."""


@gluon.jit
def _keys_from(start, COUNT: gl.constexpr = SPAN):
    return start + gl.arange(0, COUNT, layout=gl.BlockedLayout([1], [32], [1], [0]))


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
    """The first of the keys from ``start`` on whose mask is above ``floor``, or s_kv."""
    return gl.min(gl.where(added > floor, _keys_from(start), s_kv), 0)


@gluon.jit
def _end(added, start, floor):
    """The end of the keys from ``start`` on whose mask is above ``floor``, or 0."""
    return gl.max(gl.where(added > floor, _keys_from(start) + 1, 0), 0)


@gluon.jit
def _visible_keys(base, mask_column, s_kv, settings, FIXED_MAX: gl.constexpr):
    """Looks at both ends of a mask of one batch entry (or head).

    A boolean mask has one kind of visible key.  Of an additive one the first pass (FIXED_MAX) leaves out what is
    at or below FAR at both ends; tiles whose rows have no other keys are done again, with all visible ones.

    Returns:
        The first visible key; the first and the end of those that this pass reads; the first and the end of those whose
        mask is near zero (``NEAR``).  If there are none, the first is s_kv and the end 0.
    """
    last = (s_kv - 1) // SPAN * SPAN
    floor_near = float("-inf")
    floor_read = float("-inf")
    floor_seen = float("-inf")
    if settings.ADDITIVE:
        floor_near = NEAR
        floor_seen = LOWEST
        floor_read = FAR if FIXED_MAX else LOWEST
    # Both ends asked for at once.
    head = _look(base, gl.to_tensor(0), mask_column, s_kv, settings)
    tail = _look(base, last, mask_column, s_kv, settings)
    begin_near, begin, begin_seen = s_kv, s_kv, s_kv
    start = gl.to_tensor(0)
    while (start < s_kv) & (begin_near == s_kv):
        begin_near = _first(head, start, floor_near, s_kv)
        begin = gl.minimum(begin, _first(head, start, floor_read, s_kv))
        begin_seen = gl.minimum(begin_seen, _first(head, start, floor_seen, s_kv))
        start += SPAN
        if begin_near == s_kv:
            head = _look(base, start, mask_column, s_kv, settings)
    end_near, end = gl.to_tensor(0), gl.to_tensor(0)
    start = last
    while (start >= 0) & (end_near == 0):
        end_near = _end(tail, start, floor_near)
        end = gl.maximum(end, _end(tail, start, floor_read))
        start -= SPAN
        if (end_near == 0) & (start >= 0):
            tail = _look(base, start, mask_column, s_kv, settings)
    if settings.ADDITIVE:
        none = begin_near == s_kv
        begin_near = gl.where(none, begin, begin_near)
        end_near = gl.where(none, end, end_near)
    return begin_seen, begin, end, begin_near, end_near


@gluon.jit
def keys_there(key_lengths, batch, lengths_batch, rows_first, s_kv):
    """Which keys a batch entry has (LENGTHS).

    Keys are counted so that row i is key ``i + s_kv - s_q``, as everywhere here.  If the last row is the last key, the
    keys of a batch are the last ones then, and the copies begin before them: where that is before the tensor, there
    are zeros.

    Returns:
        The first key and the end of the keys (if there are none, the first is s_kv and the end 0); and how many keys
        before the first one in memory key 0 is.
    """
    length = gl.load(key_lengths + batch.to(gl.int64) * lengths_batch)
    length = gl.minimum(gl.maximum(length, 0), s_kv).to(gl.int32)
    shift = gl.where(rows_first != 0, 0, s_kv - length)
    none = length == 0
    # Without keys the one block that comes is one of zeros: what lies in memory may be NaN.
    return gl.where(none, s_kv, shift), gl.where(none, 0, shift + length), gl.where(none, s_kv + LONGEST_BLOCK, shift)


@aggregate
class Entry:
    """What is known of a batch entry, or of a head of it where each has a mask of its own.

    Attributes:
        number: Which one it is; -1: none.
        begin_seen, begin, end, begin_near, end_near: The first and the end of its keys (:func:`_visible_keys`).
        plain_from, plain_to: The keys of which it is known that its mask says nothing about them.
        shift: How many keys before the first one in memory key 0 is (LENGTHS).
    """

    number: gl.tensor
    begin_seen: gl.tensor
    begin: gl.tensor
    end: gl.tensor
    begin_near: gl.tensor
    end_near: gl.tensor
    plain_from: gl.tensor
    plain_to: gl.tensor
    shift: gl.tensor


@gluon.jit
def no_entry(s_kv):
    """Nothing is known; without masks it stays so."""
    zero = gl.to_tensor(0)
    return Entry(gl.to_tensor(-1), zero, zero, s_kv, zero, s_kv, zero, zero, zero)


@gluon.jit
def look_at_entry(number, mask, mask_column, key_lengths, batch, lengths_batch, rows_first, s_kv, settings,
                  FIXED_MAX: gl.constexpr):  # fmt: skip
    """Finds the visible keys of a batch entry; ``mask`` is where its mask begins."""
    if settings.LENGTHS:
        begin, end, shift = keys_there(key_lengths, batch, lengths_batch, rows_first, s_kv)
        entry = Entry(number, begin, begin, end, begin, end, begin, end, shift)
    else:
        begin_seen, begin, end, begin_near, end_near = _visible_keys(mask, mask_column, s_kv, settings, FIXED_MAX)
        if not settings.ADDITIVE:
            begin_seen, begin_near, end_near = begin, begin, end
        zero = gl.to_tensor(0)
        entry = Entry(number, begin_seen, begin, end, begin_near, end_near, zero, zero, zero)
    return entry


@gluon.jit
def find_plain(entry, start, mask, mask_column, s_kv, settings):
    """Looks whether the mask says something about the block of keys from ``start`` on, of which that is not known.

    It looks at more keys than those: the answer takes long, however short the question.

    Returns:
        The entry, which may know more keys now, and whether something may be said of the block.
    """
    gl.static_assert(CHUNK % settings.BLOCK_N == 0)
    end = gl.minimum(start + settings.BLOCK_N, s_kv)
    said = gl.to_tensor(True)
    if not settings.LENGTHS:
        chunk = start // CHUNK * CHUNK
        chunk_end = gl.minimum(chunk + CHUNK, s_kv)
        key = _keys_from(chunk, CHUNK)
        loaded = gl.load(mask + key.to(gl.int64) * mask_column, mask=key < s_kv, other=0)
        if settings.ADDITIVE:
            says = (loaded.to(gl.float32) != 0.0) & (key < s_kv)
        else:
            says = (loaded == 0) & (key < s_kv)
        # Plain is what lies before the first key of which something is said, and what lies behind the last one.
        first = gl.min(gl.where(says, key, chunk_end), 0)
        last = gl.max(gl.where(says, key + 1, chunk), 0)
        before = end <= first
        plain_from = gl.where(before, chunk, last)
        plain_to = gl.where(before, first, chunk_end)
        said = (start < plain_from) | (end > plain_to)
        # The blocks of a tile come in order: what is plain becomes one range.
        joins = (plain_from <= entry.plain_to) & (entry.plain_from <= plain_to)
        known_from = gl.where(joins, gl.minimum(plain_from, entry.plain_from), plain_from)
        known_to = gl.where(joins, gl.maximum(plain_to, entry.plain_to), plain_to)
        entry = Entry(
            entry.number, entry.begin_seen, entry.begin, entry.end, entry.begin_near, entry.end_near,
            gl.where(said, entry.plain_from, known_from), gl.where(said, entry.plain_to, known_to), entry.shift,
        )  # fmt: skip
    return entry, said
