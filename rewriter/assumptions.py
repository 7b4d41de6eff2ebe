"""What a proof takes as given about sizes: listed, and never so much that no real run is left."""

from __future__ import annotations

from .algebra import Poly, Read, Size, of, render
from .errors import Code, Refusal, Stage
from .graph import label
from .interpret import Interpreter
from .interpret.room import excluded
from .narrow import limits
from .site import Attention


def check_room(interpreter: Interpreter, attention: Attention) -> list[str]:
    """The assumptions that a site rests on.

    Raises:
        Refusal: Taken together they exclude one token, or several, or such a batch.
    """
    found = assumptions(interpreter, attention)
    facts = interpreter.facts
    for index in attention.frame.order:
        small = excluded(index.bound, facts.learned, facts.normal)
        if small is not None:
            raise Refusal(
                Code.SIZES,
                Stage.BIAS,
                label(attention.anchor),
                attention.scores,
                f"{render(index.bound)} cannot be {small} where {'; '.join(found)}",
            )
    return found + limits(interpreter, attention)


def assumptions(interpreter: Interpreter, attention: Attention) -> list[str]:
    """Equalities by broadcast, and signs of indices, that extents of this site rest on."""
    bounds = [interpreter.facts.normal(i.bound) for i in attention.frame.order]
    sizes = {a for i in attention.frame.order for a in i.bound.all_atoms()}
    fixed = {b.constant for b in bounds} - {None}
    result = []
    for fact in interpreter.facts.learned:
        own = fact.left.all_atoms() | fact.right.all_atoms()
        normal = interpreter.facts.normal(fact.left).all_atoms() | interpreter.facts.normal(fact.right).all_atoms()
        # An extent that was found to be a number leaves no trace in the site but that number.
        numbers = {interpreter.facts.normal(of(a)).constant for a in own if isinstance(a, Size)} if fixed else set()
        related = sizes & (own | normal) or fixed & numbers
        if fact.by_broadcast and related and not any(a.key.startswith("?") for a in own):
            text = f"{render(fact.left)} {fact.relation} {render(fact.right)} (node '{fact.node}')"
            if text not in result:
                result.append(text)
    return result


def not_counted_from_front(interpreter: Interpreter, value: Poly) -> Refusal | None:
    """The refusal that is due if a value reads what an index may count from the end, or None."""
    reads = sorted({atom.tensor for atom in value.all_atoms() if isinstance(atom, Read)})
    for fact in interpreter.facts.rejected:
        for tensor in reads:
            producer = interpreter.scope.producer(tensor)
            if producer is not None and label(producer) == fact.node:
                detail = f"its index counts from the front only where {render(fact.left)} >= 0"
                return Refusal(Code.SIZES, Stage.BIAS, fact.node, tensor, detail)
    return None
