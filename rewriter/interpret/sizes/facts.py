"""Equalities between sizes that hold because the original model runs.

``Add`` of [B, S] and [B2, S2] only runs if the extents agree (or are 1).  Exporters name the same extent
differently in different places, so such equalities are learned from the operators, never from names.

A fact holds where its node surely runs.  A branch of an If or the body of a Loop may never run, so what they imply
holds inside of them only.  Every graph has facts of its own, which see those of the graphs around it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from ....algebra import (
    Atom,
    Min0,
    Number,
    Poly,
    Read,
    Size,
    Substitution,
    TooComplex,
    is_nonpositive,
    min0,
    of,
    poly,
    substitute,
    upper_bound,
)
from .fact import Fact
from .room import leaves_room, without_common_factor

Answered = TypeVar("Answered")


@dataclass
class Facts:
    """Learned equalities of one scope, kept as a substitution that normalises polynomials.

    What is asked is answered by what this scope and the scopes around it know; what is learned stays inside.

    Attributes:
        parent: The facts of the scope around this one.
        contradicted: Two numbers would have to agree that do not.
        choice: The size, and the node, of the one choice that led there, if it was one.
        impossible: The two came from a node that takes nothing else, and nothing was chosen on the way but one size.
        not_one: Sizes of which a broadcast leaves one number or 1, and that cannot be 1: the graph would not run.
    """

    parent: Facts | None = None
    contradicted: bool = False
    choice: tuple[Size, str] | None = None
    impossible: bool = False
    not_one: set[Size] = field(default_factory=set)
    _learned: list[Fact] = field(default_factory=list)
    _rejected: list[Fact] = field(default_factory=list)
    _mapping: Substitution = field(default_factory=dict)
    _unsettled: set[Poly] = field(default_factory=set)
    _normal: dict[Poly, Poly] = field(default_factory=dict, repr=False)
    _answers: dict[object, object] = field(default_factory=dict, repr=False)
    _asked: int = 0

    @property
    def learned(self) -> list[Fact]:
        """What is taken as given here, outer scopes first, in the order in which it was learned."""
        return [*(self.parent.learned if self.parent is not None else ()), *self._learned]

    @property
    def rejected(self) -> list[Fact]:
        """Assumptions that were not made, since they would exclude short sequences."""
        return [*(self.parent.rejected if self.parent is not None else ()), *self._rejected]

    def pinned(self) -> list[tuple[Size, str]]:
        """Sizes of which a broadcast leaves one number above 1, or 1, each with its node."""
        found: dict[Size, str] = {}
        for fact in self._learned:
            if not fact.by_broadcast or fact.relation != "=":
                continue
            for atom in sorted(a for a in fact.left.all_atoms() | fact.right.all_atoms() if isinstance(a, Size)):
                number = self.normal(of(atom)).constant
                if atom.declared and number is not None and number > 1:
                    found.setdefault(atom, fact.node)
        return list(found.items())

    def cannot_be_one(self, size: Size) -> bool:
        """Whether a graph that runs has more than one entry there, by what was found out here or around."""
        return size in self.not_one or (self.parent is not None and self.parent.cannot_be_one(size))

    @property
    def version(self) -> int:
        """Grows with everything that is learned here or around."""
        return len(self._learned) + (self.parent.version if self.parent is not None else 0)

    def normal(self, value: Poly) -> Poly:
        """The value with everything that is known put in."""
        if not value.terms or not self._knows_any():
            return value
        self._up_to_date()
        found = self._normal.get(value)
        if found is None:
            found = self._normal[value] = self._put_in(value)
        return found

    def once(self, question: Hashable, answer: Callable[[], Answered]) -> Answered:
        """The answer to a question about what is known.  It is worked out again only if more is known by then.

        Args:
            question: What tells the question from all others.
            answer: Works it out, by these facts and what stands in the question alone.
        """
        self._up_to_date()
        if question not in self._answers:
            version = self.version
            found = answer()
            if version != self.version:
                return found
            self._answers[question] = found
        return cast("Answered", self._answers[question])

    def _up_to_date(self) -> None:
        """Forget what was worked out before the last thing was learned."""
        if self._asked != self.version:
            self._asked = self.version
            self._normal.clear()
            self._answers.clear()

    def _put_in(self, value: Poly) -> Poly:
        try:
            for _ in range(8):
                known = {a: self._settled(a) for a in value.all_atoms() if self._known(a) is not None}
                if not known:
                    break
                value = substitute(value, known)
        except TooComplex:
            pass  # as it is, it is right as well
        return value

    def _knows_any(self) -> bool:
        return bool(self._mapping) or (self.parent is not None and self.parent._knows_any())

    def _known(self, atom: Atom) -> Poly | None:
        """What an atom is replaced by here, or in the nearest scope around that replaces it."""
        facts: Facts | None = self
        while facts is not None:
            value = facts._mapping.get(atom)
            if value is not None:
                return value
            facts = facts.parent
        return None

    def equal(self, left: Poly, right: Poly) -> bool:
        """Whether both are the same by what is known so far."""
        return left == right or self.normal(left - right) == 0

    def is_nonpositive(self, value: Poly) -> bool:
        """Whether ``value <= 0`` holds wherever what is known does: by itself, or by a minimum that was settled."""
        value = self.normal(value)
        if is_nonpositive(value):
            return True
        bound = upper_bound(value)
        if bound is None:
            return False
        # A buffer of 64 entries that the model reads to its end says min(0, S - 64) == S - 64.
        return any(self.normal(min0(bound + slack)) == self.normal(bound + slack) for slack in (0, 1))

    def learn(self, left: Poly, right: Poly, node: str, *, by_broadcast: bool) -> bool:
        """Take ``left == right`` as given; False if that is impossible or cannot be put into polynomials.

        What cannot be put in is noted all the same, since a proof that goes on as if it held rests on it.

        Args:
            left: One extent.
            right: The other.
            node: The node that only runs if they agree.
            by_broadcast: The node would also accept an extent of 1; reported as an assumption.
        """
        difference = without_common_factor(self.normal(left - right))
        if difference.constant is not None:
            if difference != 0 and not self.contradicted:
                self.contradicted, self.choice = True, self._only_choice(left, right)
                chosen = [fact for fact in self.learned if fact.by_broadcast and fact.relation == "="]
                self.impossible = not by_broadcast and len(chosen) == 1
            return difference == 0
        pivot = _pivot(difference)
        if pivot is None:
            if difference not in self._unsettled:
                self._unsettled.add(difference)
                self._learned.append(Fact(left, right, node, by_broadcast))
            return False
        coefficient = difference.coefficient_of(pivot).constant
        assert coefficient is not None
        value = (-difference + pivot_times(pivot, coefficient)) / coefficient
        if isinstance(pivot, Size) and is_nonpositive(value):
            return False  # an empty axis does not make two extents equal
        self._mapping[pivot] = value
        self._learned.append(Fact(left, right, node, by_broadcast))
        return True

    def _only_choice(self, left: Poly, right: Poly) -> tuple[Size, str] | None:
        """The size that was taken for a number although a broadcast leaves it to be 1, if nothing else was chosen.

        Two numbers above 1 have to agree and do not.  A run of the model has made the other choice.
        """
        numbers = [self.normal(side).constant for side in (left, right)]
        chosen = [fact for fact in self.learned if fact.by_broadcast]
        if len(chosen) != 1 or chosen[0].relation != "=" or any(n is None or n <= 1 for n in numbers):
            return None
        fact = chosen[0]
        for size, number in ((fact.left, fact.right), (fact.right, fact.left)):
            atom, extent = size.single_atom, number.constant
            if isinstance(atom, Size) and extent is not None and extent > 1 and atom in self._mapping:
                return atom, fact.node
        return None

    def _settled(self, atom: Atom) -> Poly:
        """What an atom is replaced by, without atoms that were replaced later.

        A model may name one extent anew in every layer.  A look-up shortens the chain, so that the work stays in
        proportion to the number of names.
        """
        seen = {atom}
        pending = [atom]
        while pending:
            value = self._replacement(pending[-1])
            inside = [a for a in value.all_atoms() if self._known(a) is not None]
            later = [a for a in inside if a not in seen and self._is_replaced(self._replacement(a))]
            seen.update(later)
            pending.extend(later)
            if not later:
                current = pending.pop()
                if inside:
                    self._mapping[current] = substitute(value, {a: self._replacement(a) for a in inside})
        return self._replacement(atom)

    def _replacement(self, atom: Atom) -> Poly:
        value = self._known(atom)
        assert value is not None
        return value

    def _is_replaced(self, value: Poly) -> bool:
        return any(self._known(a) is not None for a in value.all_atoms())

    def assume_nonnegative(self, value: Poly, node: str) -> bool:
        """Take ``value >= 0`` as given: a Slice that starts at ``value`` counts from the front.

        False, and nothing taken as given, where that would leave no room for short sequences or cannot be said.
        """
        if not leaves_room(self.normal(value)):
            fact = Fact(value, poly(0), node, True, ">=")
            if fact not in self.rejected:
                self._rejected.append(fact)
            return False
        piece = self.normal(min0(self.normal(value)))
        atoms = [a for a in piece.sorted_atoms() if isinstance(a, Min0)]
        if len(atoms) != 1:
            return piece == 0
        coefficient = piece.coefficient_of(atoms[0]).constant
        if not coefficient:
            return False
        replacement = (pivot_times(atoms[0], coefficient) - piece) / coefficient
        self._mapping[atoms[0]] = replacement
        self._learned.append(Fact(value, poly(0), node, True, ">="))
        return True


def pivot_times(atom: Atom, coefficient: Number) -> Poly:
    """Coefficient * atom."""
    return Poly({((atom, 1),): coefficient})


def _pivot(difference: Poly) -> Atom | None:
    """The atom to eliminate: one that stands alone, anonymous sizes first, then by name."""
    candidates: list[tuple[int, str, Atom]] = []
    for monomial, coefficient in difference.terms:
        if len(monomial) != 1 or monomial[0][1] != 1:
            continue
        atom = monomial[0][0]
        shape_entry = isinstance(atom, Read) and all(i.constant is not None for i in atom.indices)
        if not isinstance(atom, Size | Min0) and not shape_entry:
            continue
        rest = difference - pivot_times(atom, coefficient)
        if atom in rest.all_atoms():
            continue
        if not isinstance(atom, Min0) and abs(coefficient) != 1:
            continue
        if isinstance(atom, Size):
            # total = past + new keeps "past >= 0"; past = total - new would lose it.
            falls = any(c * coefficient > 0 for _, c in rest.terms)
            rank = 2 + falls if atom.declared else 0
        else:
            rank = 1 if isinstance(atom, Min0) else 0
        candidates.append((rank, atom.key, atom))
    return min(candidates, key=lambda c: (c[0], c[1]))[2] if candidates else None
