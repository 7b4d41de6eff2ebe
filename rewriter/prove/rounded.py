"""A bias that the model rounds to a narrow type on its way to wide scores, as Hugging Face's Falcon does in float32.

A rounded bias is not slope times distance any more.  A kernel that computes the bias would give other numbers from 257
positions on.  Where the bias depends on the key alone, the tensor that holds it has one number per head and key.  That
tensor is passed on as key bias, exactly as it is.  The proof says that it *was* ALiBi before it was rounded.
"""

from __future__ import annotations

from ...algebra import Poly, substitute
from ..interpret.rounding import is_rounding, rounding_in
from ..records.reading import Frame


def take_rounded(frame: Frame, terms: Poly) -> tuple[Poly, Poly]:
    """(terms by key alone in which something that depends on the key is rounded, the same before it was rounded)."""
    kept = {}
    for monomial, coefficient in terms.terms:
        whole = Poly({monomial: 1})
        narrow = any(is_rounding(a) and any(x.depends_on(frame.key) for x in a.children) for a in whole.all_atoms())
        if narrow and not whole.depends_on(frame.row):
            kept[monomial] = coefficient
    rounded = Poly(kept)
    return rounded, unrounded(rounded)


def unrounded(value: Poly) -> Poly:
    """The value with nothing in it rounded."""
    for _ in range(64):
        rounding = rounding_in(value)
        if rounding is None:
            break
        value = substitute(value, {rounding: rounding.arguments[0]})
    return value
