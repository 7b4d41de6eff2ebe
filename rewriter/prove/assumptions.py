"""What a proof takes as given about sizes.  It is listed, and it never excludes all real runs."""

from __future__ import annotations

from ...algebra import Poly, Read, Size, magnitude, of, poly, render
from ...graph.index import label
from ...patterns.masks import HIDING_VALUE
from ..interpret import Interpreter
from ..interpret.sizes.fact import Fact
from ..interpret.sizes.facts import Facts
from ..interpret.sizes.room import excluded, tied
from ..records.reading import Attention
from ..verdicts import Code, Refusal, Refuser, Stage
from .narrow import limits

_refuse = Refuser(Stage.BIAS)


def check_room(interpreter: Interpreter, attention: Attention) -> list[str]:
    """The assumptions that a site rests on.

    Raises:
        Refusal: Taken together they exclude one token, or several, or such a batch.
    """
    facts = interpreter.facts
    made = _made(interpreter, attention)
    found = [_text(fact) + _only(interpreter, fact) for fact in made]
    unknown = next((fact for fact in made if _known_at_run_time(interpreter, fact)), None)
    if unknown is not None:
        raise _refuse(
            Code.SIZES,
            unknown.node,
            f"that {render(unknown.left)} is {render(unknown.right)} is only known at run time; it could be 1 as well",
            tensor=attention.scores,
        )
    counts = _counts(interpreter, made)
    for index in attention.frame.order:
        small = _excluded(facts, index.bound, counts)
        if small is not None:
            raise _refuse(Code.SIZES, attention, f"{render(small[0])} cannot be {small[1]} where {'; '.join(found)}")
    pinned = next((fact for fact in made if _pins(interpreter, fact)), None)
    if pinned is not None:
        raise _refuse(
            Code.SIZES,
            pinned.node,
            f"{_text(pinned)} leaves one length; the original runs with 1 as well, and computes something else",
            tensor=attention.scores,
        )
    for first, second, words in _independent(interpreter, attention):
        if _tied(facts, first, second):
            raise _refuse(Code.SIZES, attention, f"there would have to be as many {words} where {'; '.join(found)}")
    return found + limits(interpreter, attention)


def _excluded(facts: Facts, extent: Poly, counts: tuple[Fact, ...]) -> tuple[Poly, int] | None:
    """Like ``room.excluded``, searched once for all sites of a graph that have the same extent."""
    known = [*facts.learned, *counts]
    return facts.once(("excluded", extent, counts), lambda: excluded(extent, known, facts.normal))


def _counts(interpreter: Interpreter, made: list[Fact]) -> tuple[Fact, ...]:
    """What numbers of elements say about sizes that assumptions are about: a Reshape of 2 S elements into 4 and X.

    If a broadcast takes X to be S, no value of S is left, although X is 1 and spread where S is 2.
    """
    sizes = dict.fromkeys(a for f in made for side in (f.left, f.right) for a in side.sorted_atoms())
    known = [interpreter.counted[a] for a in sizes if isinstance(a, Size) and a in interpreter.counted]
    return tuple(Fact(value, poly(0), "", False) for value in known)


def _tied(facts: Facts, first: Poly, second: Poly) -> bool:
    """Like ``room.tied``, searched once."""
    return facts.once(("tied", first, second), lambda: tied(first, second, facts.learned, facts.normal))


def _independent(interpreter: Interpreter, attention: Attention) -> list[tuple[Poly, Poly, str]]:
    """Extents that have nothing to do with each other in any real run, and what they count."""
    frame = attention.frame
    batch, rows, keys = frame.batch, frame.row.bound, frame.key.bound
    pairs = [] if batch is None else [(batch.bound, each, "sequences as tokens") for each in (rows, keys)]
    past = interpreter.facts.normal(keys - rows)
    if past.terms:
        pairs.append((past, rows, "past tokens as new ones"))
    return pairs


def _text(fact: Fact) -> str:
    return f"{render(fact.left)} {fact.relation} {render(fact.right)} (node '{fact.node}')"


def _only(interpreter: Interpreter, fact: Fact) -> str:
    """What is known of an extent that has one number only."""
    sizes = {a for a in fact.left.all_atoms() | fact.right.all_atoms() if isinstance(a, Size)}
    certain = fact.relation == "=" and any(map(interpreter.facts.cannot_be_one, sizes))
    return ", the only one with which the graph runs" if certain else ""


def _known_at_run_time(interpreter: Interpreter, fact: Fact) -> bool:
    """Whether two extents are taken to agree of which data decide one.  That one is as likely to be 1 and spread."""
    atoms = fact.left.all_atoms() | fact.right.all_atoms()
    unnamed = {a for a in atoms if isinstance(a, Size) and not a.declared} - interpreter.counted.keys()
    return fact.relation == "=" and (bool(unnamed) or any(isinstance(a, Read) for a in atoms))


def _pins(interpreter: Interpreter, fact: Fact) -> bool:
    """Whether a broadcast leaves an open extent only one number.  If 6 keys meet Q keys, Q is 6, or 1 and spread.

    Where 1 makes the graph fail further on, the graph runs at that one length only, and the fused one may as well.
    """
    named = {a for a in fact.left.all_atoms() | fact.right.all_atoms() if isinstance(a, Size)}
    open_ones = {a for a in named if a.declared and not interpreter.facts.cannot_be_one(a)}
    numbers = {interpreter.facts.normal(of(a)).constant for a in open_ones}
    return fact.relation == "=" and bool(numbers - {None, 0, 1})


def _made(interpreter: Interpreter, attention: Attention) -> list[Fact]:
    """Equalities by broadcast, and signs of indices, that extents of this site rest on."""
    bounds = [interpreter.facts.normal(i.bound) for i in attention.frame.order]
    sizes = {a for i in attention.frame.order for a in i.bound.all_atoms()}
    fixed = {b.constant for b in bounds} - {None}
    result: dict[str, Fact] = {}
    for fact in interpreter.facts.learned:
        own = fact.left.all_atoms() | fact.right.all_atoms()
        normal = interpreter.facts.normal(fact.left).all_atoms() | interpreter.facts.normal(fact.right).all_atoms()
        # An extent that was found to be a number leaves no trace in the site but that number.
        numbers = {interpreter.facts.normal(of(a)).constant for a in own if isinstance(a, Size)} if fixed else set()
        related = sizes & (own | normal) or fixed & numbers
        if fact.by_broadcast and related:
            result.setdefault(_text(fact), fact)
    return list(result.values())


def mask_values(interpreter: Interpreter, attention: Attention, rest: Poly, hides: bool) -> list[str]:
    """What is taken for granted of masks.  (1 - m) * finfo.min brings a hidden key back where m is 2.

    Args:
        interpreter: Knows which inputs are declared to hold 0 and 1.
        attention: The site.
        rest: What is added to visible scores.
        hides: Whether something else hides keys.
    """
    heavy = [m for m, c in rest.terms if magnitude(c) >= -HIDING_VALUE] if hides else []
    reads = {a.tensor for monomial in heavy for a, _ in monomial if isinstance(a, Read)}
    found = [f"'{name}' holds 0 and 1 only: another value could bring hidden keys back" for name in sorted(reads)]
    if interpreter.binary:
        seen = {tensor for (tensor, _), _ in interpreter.visited(attention.scores, attention.scores_index)}
        declared = sorted(interpreter.binary & seen)
        found += [f"'{name}' holds 0 and 1 only, as its declared range says" for name in declared]
    return found


def not_counted_from_front(interpreter: Interpreter, value: Poly) -> Refusal | None:
    """The refusal of a value whose index may count from the end of a tensor; None for any other value."""
    reads = sorted({atom.tensor for atom in value.all_atoms() if isinstance(atom, Read)})
    for fact in interpreter.facts.rejected:
        for tensor in reads:
            producer = interpreter.scope.producer(tensor)
            if producer is not None and label(producer) == fact.node:
                detail = f"its index counts from the front only where {render(fact.left)} >= 0"
                return _refuse(Code.SIZES, fact.node, detail, tensor=tensor)
    return None
