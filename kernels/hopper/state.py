"""What a consumer of the Hopper kernel keeps: all the time, and while the blocks of a tile pass.

The state of a tile is three small aggregates and some numbers between them, not one aggregate.  Loops carry numbers in
the order in which a kernel names them, and another order (it was tried) gives another PTX.
"""

# No future import: annotations of an aggregate are evaluated.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..aggregate import aggregate
from .rows import RowMask
from .shared import Settings, Shared, Sizes


@gluon.constexpr_function
def scores_layout(settings):
    """How a warpgroup holds its 64 rows of scores."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, settings.BLOCK_N, 16])


@aggregate
class ConsumerPass:
    """A consumer in a pass over its tiles; nothing of it changes.

    ``row`` and ``column`` count the rows of a consumer and the keys of a block.  ``scale`` makes scores of products, in
    the units of the pass.  FIXED_MAX is that of the pass: the second one never has it.  WHO is the consumer's number.
    """

    shared: Shared
    sizes: Sizes
    row_mask: RowMask
    row: gl.tensor
    column: gl.tensor
    scale: gl.tensor
    settings: Settings
    FIXED_MAX: gl.constexpr
    WHO: gl.constexpr


@aggregate
class NearBlocks:
    """Which tile it is, and its blocks that are compared key by key.

    They are the ``edges`` first ones that come: ``diagonal_blocks`` from ``first`` on, then, if there is one more, the
    ragged last block.  A ``tile`` of -1 is none: the pass is over.
    """

    tile: gl.tensor
    first: gl.tensor
    diagonal_blocks: gl.tensor
    edges: gl.tensor


@aggregate
class BiasLine:
    """The bias of a tile.

    ``reference`` is the key of the tile's first row, ``row_as_key`` those of the consumer's rows, and ``shift`` is
    ``slope`` times the distance between the two.
    """

    slope: gl.tensor
    reference: gl.tensor
    row_as_key: gl.tensor
    shift: gl.tensor


@aggregate
class Anchors:
    """Where the row maxima started, for the blocks left and right of the diagonal (``peaks.first_peaks``)."""

    before: gl.tensor
    behind: gl.tensor
