"""The forms of an ALiBi bias, as the algebra that a proven bias has to equal.

After everything constant along a row has been dropped (softmax does not see it), a bias is

    T(h, i, j) = F(h) * j  +  K(h) * min(0, d)  +  rest,        d = j - row(i),  row(i) = i + (S_kv - S_q)

in the normal form of ``algebra``, in which |d| = d - 2 min(0, d).  A form below says which
multiples of the slope the two coefficients are:

    linear      T = slope * j                                           (F, K) = ( 1,  0)
    symmetric   T = -slope * |d| = -slope * j + 2 slope * min(0, d)     (F, K) = (-1, +2)

A bias is ALiBi if one form fits *exactly for every head* and the rest is empty.  Adding a form means adding
a row here, a member to the fused family in ``fused/family.py``, and a golden pair of graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class BiasForm(Enum):
    """The function of distance that the slope of a head multiplies."""

    LINEAR = "linear"
    SYMMETRIC = "symmetric"


@dataclass(frozen=True)
class BiasPattern:
    """One form: what multiplies ``j`` and ``min(0, d)``, per unit of slope."""

    form: BiasForm
    linear: int
    kink: int
    formula: str


PATTERNS: tuple[BiasPattern, ...] = (
    BiasPattern(BiasForm.LINEAR, linear=1, kink=0, formula="slope[h] * j"),
    BiasPattern(BiasForm.SYMMETRIC, linear=-1, kink=2, formula="-slope[h] * |i + (S_kv - S_q) - j|"),
)
