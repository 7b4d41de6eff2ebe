"""Which existing tensors stand for the inputs of a fused node."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...algebra import Number
from ...patterns.masks import HIDDEN_BELOW
from .proof import Proof
from .reading import View
from .rows import NOWHERE, RowsWithoutKeys


@dataclass(frozen=True)
class Leaf:
    """An existing tensor used in a mask; ``test`` says how to make a condition of it.

    ``test``: ``""`` as it is (additive or boolean), ``nonzero``: cast to bool, ``visible``: greater than
    ``limit``, which lies between what hidden keys and what visible ones score.
    """

    view: View
    test: str = ""
    limit: float = HIDDEN_BELOW


@dataclass(frozen=True)
class Op:
    """An operation on masks in canonical [B, H, S_q, S_kv] layout: ``and or not add sub mul where``."""

    kind: str
    parts: tuple[Mask, ...]
    factor: Number = 1


Mask = Leaf | Op


Factors = npt.NDArray[np.float64]
"""A number per head."""


@dataclass
class Binding:
    """Everything that emission needs for one site, and what becomes of rows without a visible key."""

    proof: Proof
    output: View
    dtype: int
    boolean: Mask | None = None
    additive: Mask | None = None
    positions: View | None = None
    slopes: View | None = None
    slope_factor: float = 1.0
    slope_table: Factors | None = None
    rows: Mask | None = None
    key_bias: Mask | None = None
    scale: View | None = None
    divide: bool = False
    zero_rows: bool = False
    rows_without_keys: RowsWithoutKeys = NOWHERE
    notes: list[str] = field(default_factory=list)
