"""Which tile a program of the Hopper kernel takes next."""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..aggregate import aggregate
from .shared import FORM_CAUSAL, in_repeat_mask

FEW_TILES = gl.constexpr(8)
"""Up to so many tiles of a batch entry and head, a program takes tiles that follow each other."""


@aggregate
class Order:
    """How tiles go round.

    A bundle is some batch entries with a head each: ``size`` of them, with ``tiles`` each.  Bundles are dealt to the
    programs one after the other, in ``rounds`` rounds each; a program is dealt ``deals`` times in all.  ``per_tile`` is
    the inverse of ``tiles`` (:func:`quotient`).
    """

    tiles: gl.tensor
    size: gl.tensor
    bundles: gl.tensor
    rounds: gl.tensor
    deals: gl.tensor
    per_tile: gl.tensor


@gluon.constexpr_function
def drawn_tiles(settings):
    """Whether programs draw tickets for tiles, because what a tile costs is not known beforehand."""
    return settings.SKIP or settings.MASK_ROWS


@gluon.constexpr_function
def _apart(settings):
    """Whether the first rows of all pairs are dealt apart from the others: see ``_tile_of``."""
    return settings.MASK and settings.FORM == FORM_CAUSAL and not drawn_tiles(settings)


@gluon.jit
def inverse_of(divisor):
    """What :func:`quotient` divides by, computed once: a division takes some thirty instructions."""
    return 2147483647 // divisor


@gluon.jit
def quotient(number, divisor, inverse, settings):
    """``number // divisor`` for 0 <= number < 2^31.

    With TERMS rows are short, and what the warps run through for a tile does not fit the instruction cache: there a
    product takes the place of the division.  It is the quotient or one less.
    """
    if settings.TERMS:
        found = gl.cast((gl.cast(number, gl.int64) * inverse) >> 31, gl.int32)
        found += gl.where(number - found * divisor >= divisor, 1, 0)
    else:
        found = number // divisor
    return found


@gluon.jit
def order_of(tiles, sizes, settings):
    """How tiles go round."""
    batch_heads = sizes.batch * sizes.heads
    size = batch_heads
    bundles = gl.to_tensor(1)
    if settings.FORM == FORM_CAUSAL:
        width: gl.constexpr = (settings.D + settings.V) * 2
        fitting = gl.maximum((settings.BUNDLE_MIB * 1048576) // (sizes.s_kv * width) * sizes.group, 1)
        # Bundles of fewer tiles than programs would leave some programs without work.
        most = gl.maximum(batch_heads * tiles // gl.num_programs(0), 1)
        size = gl.cdiv(batch_heads, gl.minimum(gl.cdiv(batch_heads, fitting), most))
        bundles = gl.cdiv(batch_heads, size)
    rounds = gl.cdiv(size * tiles, gl.num_programs(0))
    deals = bundles * rounds
    if _apart(settings):
        rounds = gl.maximum(gl.cdiv(size * (tiles - 1), gl.num_programs(0)), 1)
        deals = bundles * rounds + gl.cdiv(batch_heads, gl.num_programs(0))
    return Order(tiles, size, bundles, rounds, deals, inverse_of(tiles))


@gluon.jit
def _tile_of(bundle, index, order, sizes, settings):
    """The ``index``-th tile of a bundle: (tile, batch entry and head in one number); the tile is -1 if there is none.

    Keys and values are read from memory once if the programs that need them run at about the same time.  Where
    all tiles cost the same, those of a batch entry and head follow each other.  Causal tiles do not.  There the keys
    and values of a bundle fit the L2 cache, and the rows with the most keys come first in it.  With a mask the first
    rows may see no key and have to read all values: those of all heads are a bundle of their own, the last.
    """
    tiles = order.tiles
    if settings.FORM == FORM_CAUSAL:
        count = gl.minimum(order.size, sizes.batch * sizes.heads - bundle * order.size)
        end = count * tiles
        if _apart(settings):
            end = count * (tiles - 1)
            if bundle == order.bundles:
                count = sizes.batch * sizes.heads
                end = count
        tile = tiles - 1 - index // count
        batch_head = bundle * order.size + index % count
        if _apart(settings):
            if bundle == order.bundles:
                tile = gl.to_tensor(0)
                batch_head = index
    else:
        count = order.size
        end = count * tiles
        batch_head = quotient(index, tiles, order.per_tile, settings)
        tile = index - batch_head * tiles if settings.TERMS else index % tiles
    return gl.where(index < end, tile, -1), batch_head


@gluon.jit
def _index_of_deal(bundle, round_, order, settings):
    """Which tile of a bundle this program takes in a round, if costs are known beforehand.

    Every other round, and every other bundle, is dealt backwards, which evens out what a program gets; what an
    incomplete round leaves out wanders with the bundles.
    """
    programs = gl.num_programs(0)
    rank = gl.program_id(0)
    if settings.FORM == FORM_CAUSAL:
        rank = (rank + programs - (bundle // 2) * (order.size * order.tiles % programs) % programs) % programs
        if (bundle + round_) % 2 == 1:
            rank = programs - 1 - rank
    index = round_ * programs + rank
    if settings.MASK and settings.FORM != FORM_CAUSAL:
        # Short rows: one after the other from the same batch entry, because each entry's mask has to be looked at.
        if order.tiles <= FEW_TILES:
            index = rank * gl.cdiv(order.size * order.tiles, programs) + round_
    return index


@gluon.jit
def drawn_tile(tiles_done, drawn, coming, more, number_of_pass, order, previous, shared, sizes, settings):
    """The tile that this program takes next, if tiles are drawn.

    Args:
        tiles_done: How many tiles of this program come before, in the order of the first pass.
        drawn: The ticket of the tile before, or -1.
        coming: The ticket that was drawn last.
        more: Anything: what is returned in its place counts.
        number_of_pass: In pass 0 all tiles are taken, in pass 1 those that a consumer does not trust.
        order: How tiles go round.
        previous: The ticket that came before each ticket, in the program that had it.
        shared, sizes, settings: What all partitions share.

    Returns:
        ``tiles_done`` and ``drawn`` for the next call, whether there is a tile, its batch entry and head in one number,
        the tile itself, and whether to take it.
    """
    if number_of_pass == 0:
        bundle = coming // (order.size * order.tiles)
        tile, batch_head = _tile_of(bundle, coming - bundle * order.size * order.tiles, order, sizes, settings)
        exists = coming < order.tiles * sizes.batch * sizes.heads
        more = exists
        if exists:
            gl.store(previous + coming, drawn)
            drawn = coming
            tiles_done += 1
        wanted = exists
    else:
        # Back along the tickets that this program had.
        more = drawn >= 0
        bundle = drawn // (order.size * order.tiles)
        tile, batch_head = _tile_of(bundle, drawn - bundle * order.size * order.tiles, order, sizes, settings)
        wanted = more
        if more:
            tiles_done -= 1
            drawn = gl.load(previous + drawn)
            if settings.FIXED_MAX:
                wanted = in_repeat_mask(shared, tiles_done, settings)
    return tiles_done, drawn, more, batch_head, tile, wanted


@gluon.jit
def dealt_tile(tiles_done, deal, number_of_pass, order, shared, sizes, settings):
    """The tile that this program takes next, if tiles are dealt.

    ``deal`` counts what it was dealt before in this pass.  A deal may bring no tile, because an incomplete round leaves
    some programs out.  The other arguments are those of :func:`drawn_tile`.

    Returns:
        ``tiles_done`` for the next call, whether there is another deal, the tile's batch entry and head in one number,
        the tile itself, and whether to take it.
    """
    bundle = gl.minimum(deal // order.rounds, order.bundles)
    if settings.FORM != FORM_CAUSAL and settings.TERMS:
        # The only one.
        bundle = gl.to_tensor(0)
    index = _index_of_deal(bundle, deal - bundle * order.rounds, order, settings)
    tile, batch_head = _tile_of(bundle, index, order, sizes, settings)
    more = deal < order.deals
    exists = more & (tile >= 0)
    wanted = exists
    if settings.FIXED_MAX:
        if exists & (number_of_pass == 1):
            wanted = in_repeat_mask(shared, tiles_done, settings)
    tiles_done += gl.where(exists, 1, 0)
    return tiles_done, more, batch_head, tile, wanted
