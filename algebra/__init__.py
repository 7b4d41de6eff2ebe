"""Exact symbolic values: polynomials with rational coefficients over atoms, and conditions over them.

Every tensor element that the analysis meets is one ``Poly``: a size, an index computation, a bias, a score.  Two values
are proven equal when their normal forms are equal, so normal forms are the purpose of this package.  The atoms:

``Size``    an unknown tensor extent, an integer >= 0
``Index``   a named axis variable, an integer in [0, bound)
``Read``    one element of a tensor that is not known before run time (or of a constant without a formula)
``Min0``    min(0, p).  abs, min, max and clip are all written with it: |p| = p - 2 min(0, p)
``Ind``     1 where a condition holds, else 0
``Apply``   a function of polynomials that has no polynomial form (sqrt, floordiv, ...)
``Sum``     a sum over one index

Values are bounded.  An expression that outgrows what exported models need many times over raises ``TooComplex``, and
its caller takes it for unknown.  So no file can make the analysis run out of time or memory.

Arithmetic is that of real numbers.  Whether the type of a tensor holds the result is asked in one place
(``rewriter.interpret.types``), with the numeric bounds of ``interval``.  What float32 loses in the last bits is
reported by the verification, not proven; integers are exact in it up to 2^24.
"""

from __future__ import annotations

from .apply import Apply
from .atoms import Hashed, Index, Read, Size
from .bounds import Min0, absolute, is_nonnegative, is_nonpositive, lower_bound, maximum, min0, minimum, upper_bound
from .cases import branches, first_indicator, under
from .conditions import (
    FALSE,
    MODERATE,
    TRUE,
    Cond,
    Ind,
    Sum,
    at_most_zero,
    conjunction,
    conjuncts,
    disjunction,
    equal,
    exists,
    implies,
    ind,
    less,
    less_equal,
    negation,
    nonzero,
    split,
)
from .intervals import ELEMENTS, LIKELY, UNLIKELY, Interval, interval
from .polynomial import (
    INFINITY,
    LARGEST_FLOAT32,
    ONE,
    ZERO,
    Atom,
    Monomial,
    Number,
    Poly,
    Substitution,
    TooComplex,
    identify,
    magnitude,
    of,
    poly,
    render,
    substitute,
)

__all__ = [
    "ELEMENTS",
    "FALSE",
    "INFINITY",
    "LARGEST_FLOAT32",
    "LIKELY",
    "MODERATE",
    "ONE",
    "TRUE",
    "UNLIKELY",
    "ZERO",
    "Apply",
    "Atom",
    "Cond",
    "Hashed",
    "Ind",
    "Index",
    "Interval",
    "Min0",
    "Monomial",
    "Number",
    "Poly",
    "Read",
    "Size",
    "Substitution",
    "Sum",
    "TooComplex",
    "absolute",
    "at_most_zero",
    "branches",
    "conjunction",
    "conjuncts",
    "disjunction",
    "equal",
    "exists",
    "first_indicator",
    "identify",
    "implies",
    "ind",
    "interval",
    "is_nonnegative",
    "is_nonpositive",
    "less",
    "less_equal",
    "lower_bound",
    "magnitude",
    "maximum",
    "min0",
    "minimum",
    "negation",
    "nonzero",
    "of",
    "poly",
    "render",
    "split",
    "substitute",
    "under",
    "upper_bound",
]
