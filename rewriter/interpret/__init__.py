"""Index abstract interpretation: what is the element of this tensor at this symbolic index?

``engine`` asks the question and remembers answers, ``movement``, ``arithmetic`` and ``generators`` know the
answer per operator, ``shapes`` knows extents, ``tables`` turns constant tables into formulas, ``facts``
collects equalities between sizes.
"""

from .engine import Interpreter, UnknownRank

__all__ = ["Interpreter", "UnknownRank"]
