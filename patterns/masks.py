"""By which numbers a score hides its key.

A condition on keys needs no tensor of S_q x S_kv elements where it is causality (j - row(i) <= 0) or a window: these
are attributes of the fused node.  Any other one is passed on as a mask of the shape that it has.  What a *number*
hides depends on the type of the scores, and on what else is in the row: ``recognise/visibility.py`` decides by these.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

HIDING_VALUE: Final = Fraction(-65504)
"""A score at or below this hides its key: the most negative finite float16, as -inf and finfo.min of wider types."""

HIDDEN_BELOW: Final = -60000.0
"""What a number at run time is compared with instead: a hiding value to which a small bias has been added."""

HIDING_WIDE: Final = float(-(1 << 25))
"""In float32, bfloat16 and float64 a score at or below this may hide its key; -65504 is a number like any other."""

FINITE_MASK: Final = -100
"""A number that replaces scores and is at or below this is meant for a mask, whether it hides a key or not."""
