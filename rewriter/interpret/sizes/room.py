"""What an assumption about sizes may cut off: the far end of a buffer, and nothing else.

A proof may rest on ``64 - S >= 0``.  Beyond it the original reads its buffer from the wrong end, or not at all.
It may not rest on ``1 - S >= 0``.  An index that wraps around on purpose looks like that, and a proof for
sequences of one token says nothing about a model.  Nor may it rest on ``T == 2 S - 1``, which leaves odd lengths
only.  So assumptions have to leave every size all small values, without a gap, up to where a buffer ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

from ....algebra import Atom, Min0, Number, Poly, Size, Substitution, of, poly, substitute

if TYPE_CHECKING:
    from .fact import Fact

Claim = tuple[Poly, str]

SMALL = tuple(range(1, 9))
"""Values that every size must be able to have; where a buffer ends earlier, those before its end, two at least."""

FEWEST = 2
"""A buffer has at least so many entries, since a proof for one token says nothing about a model."""

DOMAIN = (*range(1, 18), 0)
"""Values tried for the other sizes, likely ones first; a cache may be empty, and T is S plus a cache."""

MOST_TRIALS = 1 << 13
"""Sizes set in the search for one assignment.  If the search finds no assignment, it is taken that none exists."""


def leaves_room(value: Poly) -> bool:
    """Whether ``value >= 0`` can hold with nothing empty, and with each of its sizes small.

    A cache may be empty.  A size that multiplies another one may not: S - B*S >= 0 holds for every batch where S is 0.
    """
    value = without_common_factor(value)
    sizes = free([value])
    claims = [(value, ">=")]
    filled = _solvable(sizes, claims, dict.fromkeys(sizes, SMALL))
    domains = dict.fromkeys(_factors(value), tuple(number for number in DOMAIN if number))
    return filled and all(
        gap(SMALL, [_solvable(sizes, claims, {**domains, size: (small,)}) for small in SMALL]) is None for size in sizes
    )


def without_common_factor(value: Poly) -> Poly:
    """B*H*S - B*H*T == 0 says S == T.  Extents that multiply every term are not zero in a run that matters."""
    if len(value.terms) < 2:
        return value
    content = math.gcd(*(int(c) for _, c in value.terms if c == int(c)))
    if content > 1 and all(c % content == 0 for _, c in value.terms):
        value = value / content
    common = set(value.terms[0][0])
    for monomial, _ in value.terms[1:]:
        common &= set(monomial)
    common = {(a, p) for a, p in common if isinstance(a, Size)}
    if not common:
        return value
    return Poly({tuple(f for f in m if f not in common): c for m, c in value.terms})


def _factors(value: Poly) -> set[Size]:
    """Sizes that multiply something, at any depth."""
    own = {a for m, _ in value.terms if len(m) > 1 or any(p > 1 for _, p in m) for a, _ in m if isinstance(a, Size)}
    return own.union(*(_factors(child) for atom in value.atoms for child in atom.children))


def gap(numbers: Sequence[int], possible: Sequence[bool]) -> int | None:
    """The first of the numbers that is missing before a possible one, or among the fewest; None if all are there."""
    last = max((n for n, each in zip(numbers, possible, strict=True) if each), default=0)
    wanted = max(last, *numbers[:FEWEST])
    return next((n for n, each in zip(numbers, possible, strict=True) if n <= wanted and not each), None)


def excluded(extent: Poly, facts: Sequence[Fact], normal: Callable[[Poly], Poly]) -> tuple[Poly, int] | None:
    """An extent with a small number that it cannot have under the assumptions, or None if all are possible.

    Args:
        extent: An extent of a site.  What it hangs on is looked at as well.
        facts: What is assumed.
        normal: Puts into a polynomial what the facts say.
    """
    extent = normal(extent)
    if extent.constant is not None:
        return None
    sizes, related = _related(extent, facts, normal)
    held = [(_in_sizes(fact.left - fact.right, normal), fact.relation) for fact in related]
    raw = free([side for fact in related for side in (fact.left, fact.right)])
    always = [(normal(of(size)), ">=") for size in raw]  # what was eliminated is an extent as well
    always.append((extent - 1, ">="))  # a cache may be empty, and a site may not
    spread = _spread(related, held, normal)
    assumed = free([side for fact in related if fact.by_broadcast for side in (fact.left, fact.right)])
    targets = [(extent, _smallest(extent))]
    # An assumption may exclude no value of any size that it mentions: T = 2 S - 1 leaves T the odd numbers.
    targets += [(normal(of(size)), SMALL) for size in assumed if size.declared]
    for target, numbers in targets:
        if target.constant is not None:
            continue
        possible = [_solvable(sizes, [(target - small, "="), *always, *held], {}) for small in numbers]
        missing = gap(numbers, possible)
        if missing is None:
            # Beyond the end of a buffer no run is left out: S = min(S, 6) fails there.  S = S - P + min(P, 2) does not.
            beyond = [n for n, each in zip(numbers, possible, strict=True) if not each]
            runs = (n for n in beyond for one in spread if _solvable(sizes, [(target - n, "="), *always, *one], {}))
            missing = next(runs, None)
        if missing is not None:
            return target, missing
    return None


def _spread(facts: Sequence[Fact], held: Sequence[Claim], normal: Callable[[Poly], Poly]) -> list[list[Claim]]:
    """What holds where a broadcast spreads one entry, though it was taken to meet as many: a run that is left out."""
    found = []
    for fact in facts:
        if fact.by_broadcast and fact.relation == "=":
            others = [claim for other, claim in zip(facts, held, strict=True) if other is not fact and claim[1] == "="]
            found += [[(_in_sizes(side, normal) - 1, "="), *others] for side in (fact.left, fact.right)]
    return found


def tied(first: Poly, second: Poly, facts: Sequence[Fact], normal: Callable[[Poly], Poly]) -> bool:
    """Whether assumptions leave two extents nothing but to be the same number, though neither is one.

    An Add of [B, 1] and [S] runs for B = S and for B = 1.  No model is meant for as many sequences as tokens.
    """
    first, second = normal(first), normal(second)
    if first.constant is not None or second.constant is not None:
        return False
    sizes, related = _related(first + second, facts, normal)
    if not any(fact.by_broadcast and fact.relation == "=" for fact in related):
        return False
    claims = [(_in_sizes(fact.left - fact.right, normal), fact.relation) for fact in related]
    claims += [(normal(of(size)), ">=") for size in free([side for f in related for side in (f.left, f.right)])]
    pairs = ((one, other) for one in SMALL[:2] for other in SMALL if one != other)
    return not any(_solvable(sizes, [(first - a, "="), (second - b, "="), *claims], {}) for a, b in pairs)


def _smallest(extent: Poly) -> tuple[int, ...]:
    """The smallest numbers that an extent can be, whatever is assumed.

    Three patches for each image make 3 * B of them.  That no run has one patch, or two, follows and is not assumed.
    """
    sizes = free([extent])
    if len(sizes) > 3:
        return SMALL
    choices = product((0, *SMALL), repeat=len(sizes))
    values = {evaluate(extent, dict(zip(sizes, choice, strict=True))) for choice in choices}
    found = sorted(int(v) for v in values if v is not None and v > 0 and v == int(v))
    return tuple(found[: len(SMALL)]) or SMALL


def _related(extent: Poly, facts: Sequence[Fact], normal: Callable[[Poly], Poly]) -> tuple[list[Size], list[Fact]]:
    """Free sizes that the extent hangs on, directly or by facts, and these facts."""
    sizes = free([extent])
    related: list[Fact] = []
    waiting = [(fact, free([_in_sizes(side, normal) for side in (fact.left, fact.right)])) for fact in facts]
    growing = True
    while growing:
        growing = False
        for fact, own in list(waiting):
            if set(own) & set(sizes):
                growing, sizes = True, [*sizes, *(a for a in own if a not in sizes)]
                related.append(fact)
                waiting.remove((fact, own))
    return sizes, related


def _in_sizes(value: Poly, normal: Callable[[Poly], Poly]) -> Poly:
    """The value in free sizes.  Only sizes are put in: a min(0, p) that was solved for keeps its own meaning."""
    mapping: Substitution = {size: normal(of(size)) for size in free([value])}
    return substitute(value, mapping)


def free(values: Sequence[Poly]) -> list[Size]:
    """The sizes that values are computed from, in a fixed order."""
    return sorted({a for value in values for a in value.all_atoms() if isinstance(a, Size)})


def evaluate(value: Poly, numbers: dict[Size, int]) -> Number | None:
    """The value for given sizes, or None if they do not decide it."""
    total: Number = 0
    for monomial, coefficient in value.terms:
        for atom, power in monomial:
            number = _number_of(atom, numbers)
            if number is None:  # what is not a number may still cancel
                return substitute(value, {a: poly(n) for a, n in numbers.items()}).constant
            coefficient = coefficient * (number if power == 1 else number**power)
        total = total + coefficient
    return total


def _number_of(atom: Atom, numbers: dict[Size, int]) -> Number | None:
    if isinstance(atom, Size):
        return numbers.get(atom)
    found = evaluate(atom.value, numbers) if isinstance(atom, Min0) else None
    return None if found is None else min(0, found)


def _solvable(sizes: Sequence[Size], claims: Sequence[Claim], domains: dict[Size, tuple[int, ...]]) -> bool:
    """Whether some numbers for all sizes make all claims true; a claim that they do not decide is no obstacle."""
    due = _due(sizes, claims)
    numbers: dict[Size, int] = {}
    trials = 0
    pending: list[Iterator[int]] = [iter(domains.get(sizes[0], DOMAIN))] if sizes else []
    if not sizes:
        return all(_holds(value, {}, relation) for value, relation in claims)
    while pending:
        number = next(pending[-1], None)
        place = len(pending) - 1
        if number is None:
            pending.pop()
            numbers.pop(sizes[place], None)
            continue
        trials += 1
        if trials > MOST_TRIALS:
            return False
        numbers[sizes[place]] = number
        if not all(_holds(value, numbers, relation) for value, relation in due[place]):
            continue
        if len(pending) == len(sizes):
            return True
        pending.append(iter(domains.get(sizes[len(pending)], DOMAIN)))
    return False


def _due(sizes: Sequence[Size], claims: Sequence[Claim]) -> list[list[Claim]]:
    """Per size the claims that it decides, when those before it have their numbers."""
    place = {size: position for position, size in enumerate(sizes)}
    due: list[list[Claim]] = [[] for _ in sizes]
    for value, relation in claims:
        own = [place[size] for size in free([value]) if size in place]
        if due:
            due[max(own, default=0)].append((value, relation))
    return due


def _holds(value: Poly, numbers: dict[Size, int], relation: str) -> bool:
    found = evaluate(value, numbers)
    return found is None or (found >= 0 if relation == ">=" else found == 0)
