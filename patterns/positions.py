"""What counts as a position, and by what signs other schemes of positions are recognised.

The ALiBi bias is a slope times the distance between *positions*.  Most models count keys by their index.  Some count
the tokens of an attention mask instead, so that padding takes no position: a running sum of integers.  What is no such
count is data.

A model without ALiBi is told which scheme it has instead (``rewriter/census.py``).  That is not a proof.  A row of
``SIGNS`` names an operator and what has to be true of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ..algebra import Sum

COUNT_ATOMS: Final = (Sum,)
"""Values that are counts: a sum over the entries of a mask."""

COUNT_OPERATORS: Final = frozenset({"CumSum"})
"""Operators whose results are counts, where the sum itself has no closed form."""


class Searched(Enum):
    """Where a sign is looked for."""

    SCORES = "above the softmax, or above the bias of an operator"
    OPERANDS = "above query and key"
    ANCHOR = "at the attention operator"


class Lookup(Enum):
    """What a ``Gather`` from a stored float table [entries, width] takes from it."""

    BUCKETS = "entries at a distance that went through a logarithm"
    REPEATED = "more entries than the table has, at stored places"


@dataclass(frozen=True)
class Sign:
    """What shows a scheme of positions.

    Attributes:
        scheme: What it is called.
        searched: Where to look.
        operator: The op_type of a node; empty for the anchor.
        lookup: What it takes from a table, if it is a ``Gather``.
        halves: op_types that make its operands, in order, if it joins two halves; "" for any other operator.
        attribute: An attribute of the anchor that is not zero.
    """

    scheme: str
    searched: Searched
    operator: str = ""
    lookup: Lookup | None = None
    halves: tuple[str, ...] = ()
    attribute: str = ""


BUCKETED: Final = "T5 relative position buckets"
LEARNED: Final = "a learned table of relative positions"
ROTARY: Final = "rotary embedding"

SIGNS: Final = (
    Sign(BUCKETED, Searched.SCORES, "Gather", lookup=Lookup.BUCKETS),
    Sign(LEARNED, Searched.SCORES, "Gather", lookup=Lookup.REPEATED),
    Sign(BUCKETED, Searched.SCORES, "RelativePositionBias"),
    Sign(ROTARY, Searched.OPERANDS, "RotaryEmbedding"),
    Sign(ROTARY, Searched.OPERANDS, "Concat", halves=("Neg", "")),
    Sign(ROTARY, Searched.ANCHOR, attribute="do_rotary"),
)
"""Any number of them may be true of one site."""

BUCKETING: Final = "Log"
"""The operator by which distances are put into buckets of growing width."""

UNKNOWN: Final = "something added or done to the scores that is not proven to be ALiBi"
"""What is said of a biased site that shows no sign."""

ADDED: Final = "something added to the scores that depends on query and key"
"""What is said where nothing grows with the distance, no sign is shown, and yet more than a mask of keys is added."""
