"""Keys that a moderate number hides in place of their score.  The bias must leave the row's own key above it."""

from __future__ import annotations

from ...algebra import Atom, Cond, Ind, Index, Min0, Poly, Read, Size, Sum, at_most_zero, of, render, substitute
from ..interpret import Interpreter
from ..recognise.visibility import UNDERFLOW
from ..records.reading import Attention
from ..verdicts import Code, Refuser, Stage

_refuse = Refuser(Stage.MASK)


def check_replaced(interpreter: Interpreter, attention: Attention, terms: Poly) -> list[str]:
    """What is assumed of the scores of a row where they alone hide a key; empty elsewhere.

    Args:
        interpreter: For equalities between extents.
        attention: The site.
        terms: What is added to the scaled product where a key is visible.

    Raises:
        Refusal: The bias lowers the row's own key as well, so that hidden keys could outscore all that it sees.
    """
    if attention.replaced_at is None:
        return []
    frame = attention.frame
    # Row i's own key is i + S_kv - S_q; counted by the key, which is never negative.
    at_own = interpreter.facts.normal(substitute(terms, {frame.row: of(frame.key) - frame.offset}))
    bias = Poly({m: c for m, c in at_own.terms if not (m and all(isinstance(a, Read | Sum | Ind) for a, _ in m))})
    moving = Poly(
        {m: c for m, c in bias.terms if any(isinstance(x, Index | Min0) for a, _ in m for x in of(a).all_atoms())}
    )
    if not all(coefficient > 0 and all(map(_never_negative, monomial)) for monomial, coefficient in moving.terms):
        raise _refuse(
            Code.FINITE_MASK,
            attention,
            f"a hidden key scores {float(attention.replaced_at):g} in place of its score, and the row's own key gets "
            f"{render(moving)[:160]}, which may be as low",
        )
    hiding = next((c for c in attention.visible if not _shows_own(interpreter, attention, c)), None)
    if hiding is not None:
        raise _refuse(
            Code.FINITE_MASK,
            attention,
            f"a hidden key scores {float(attention.replaced_at):g} in place of its score, and the row's own key is "
            f"hidden as well: {hiding.text[:160]}",
        )
    least = attention.replaced_at + UNDERFLOW
    return [
        f"each row that sees a key sees one that scores more than {float(least):g}, as its own key does unless query "
        f"times key is lower: a hidden key scores {float(attention.replaced_at):g} in place of its score, which has no "
        "weight beside that"
    ]


def _shows_own(interpreter: Interpreter, attention: Attention, condition: Cond) -> bool:
    """Whether a condition leaves each row its own key.  A mask of run time does so for tokens that are there."""
    if any(isinstance(a, Read | Sum) for a in condition.all_atoms()):
        return True
    frame = attention.frame
    own = condition.substitute({frame.row: of(frame.key) - frame.offset})
    bound = at_most_zero(own)
    return own.kind == "true" or (bound is not None and interpreter.facts.is_nonpositive(bound))


def _never_negative(factor: tuple[Atom, int]) -> bool:
    atom, power = factor
    return isinstance(atom, Index | Size) or atom.sign == 1 or power % 2 == 0
