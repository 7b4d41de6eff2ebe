"""Conditions over values, their indicators, and the simplification of and, or, not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from .atoms import Hashed, Index, Read
from .bounds import MOST_PIECES, Min0, is_nonnegative, is_nonpositive
from .polynomial import (
    LARGEST_FLOAT32,
    MOST_DEPTH,
    MOST_WEIGHT,
    ONE,
    ZERO,
    Atom,
    Poly,
    Substitution,
    TooComplex,
    identify,
    magnitude,
    of,
    render,
    substitute,
)

BEYOND_INTEGERS = 1 << 64
"""No integer type holds a larger number: an integer plus a hiding value is not zero."""

MODERATE = 1 << 32
"""A factor below this leaves what it multiplies below finfo.max, in any run that does not overflow."""

MOST_CASES = 8
"""Indicators in a comparison that are resolved case by case; each doubles the cases."""

MOST_PARTS = 32
"""Parts of a conjunction or disjunction; each is compared with each."""


@dataclass(frozen=True, eq=False)
class Ind(Hashed):
    """1 where the condition holds, 0 elsewhere."""

    condition: Cond
    idempotent = True

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"[{self.condition.render(show)}]"

    @cached_property
    def size(self) -> tuple[int, int]:
        return self.condition.size

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.condition.children

    @property
    def denominator(self) -> int | None:
        return 1

    def substitute(self, mapping: Substitution) -> Poly:
        return ind(self.condition.substitute(mapping))

    def extreme(self, *, lowest: bool) -> Poly | None:
        return ZERO if lowest else ONE


@dataclass(frozen=True, eq=False)
class Sum(Hashed):
    """The sum of ``term`` over ``index`` in [0, index.bound)."""

    index: Index
    term: Poly

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"sum({self.index.name} < {show(self.index.bound)}: {show(self.term)})"

    @property
    def children(self) -> tuple[Poly, ...]:
        return (self.term, self.index.bound)

    @property
    def denominator(self) -> int | None:
        return self.term.denominator

    def substitute(self, mapping: Substitution) -> Poly:
        return of(Sum(self.index, substitute(self.term, mapping)))


@dataclass(frozen=True, eq=False)
class Cond:
    """A condition in negation normal form: ``true false le eq read any and or not``.

    ``le``: value <= 0.  ``lt``: value < 0 (only where the value need not be an integer).  ``eq``: value == 0.
    ``read``: a boolean tensor element.  ``any``: holds for some value of an index.
    """

    kind: str
    value: Poly | None = None
    parts: tuple[Cond, ...] = ()
    index: Index | None = None

    @cached_property
    def size(self) -> tuple[int, int]:
        """Weight and depth, as those of atoms."""
        sizes = [p.size for p in self.parts] + ([] if self.value is None else [self.value.size])
        return 1 + sum(w for w, _ in sizes), 1 + max((d for _, d in sizes), default=0)

    @cached_property
    def key(self) -> str:
        weight, depth = self.size
        if weight > MOST_WEIGHT or depth > MOST_DEPTH:
            raise TooComplex(f"a condition of {weight} parts, {depth} deep")
        return self.render(identify)

    @property
    def text(self) -> str:
        """The condition as people write it."""
        return self.render(render)

    def render(self, show: Callable[[Poly], str]) -> str:
        """The condition as text, with polynomials shown by ``show``."""
        if self.kind in ("true", "false"):
            return self.kind
        if self.kind in ("and", "or"):
            return "(" + f" {self.kind} ".join(p.render(show) for p in self.parts) + ")"
        if self.kind == "not":
            return f"not {self.parts[0].render(show)}"
        if self.kind == "any":
            assert self.index is not None
            return f"any({self.index.name}: {self.parts[0].render(show)})"
        assert self.value is not None
        symbol = {"le": " <= 0", "lt": " < 0", "eq": " == 0", "read": ""}[self.kind]
        return f"{show(self.value)}{symbol}"

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Cond) and self.key == other.key)

    @property
    def children(self) -> tuple[Poly, ...]:
        """Polynomials inside."""
        own = () if self.value is None else (self.value,)
        return own + tuple(c for p in self.parts for c in p.children)

    def all_atoms(self) -> frozenset[Atom]:
        """Atoms at any depth."""
        return frozenset().union(*(c.all_atoms() for c in self.children)) if self.children else frozenset()

    def substitute(self, mapping: Substitution) -> Cond:
        """This condition with atoms replaced, simplified again."""
        if not any(a in mapping for a in self.all_atoms()):
            return self
        if self.kind == "and":
            return conjunction(p.substitute(mapping) for p in self.parts)
        if self.kind == "or":
            return disjunction(p.substitute(mapping) for p in self.parts)
        if self.kind == "not":
            return negation(self.parts[0].substitute(mapping))
        if self.kind == "any":
            assert self.index is not None
            return exists(self.index, self.parts[0].substitute(mapping))
        assert self.value is not None
        value = substitute(self.value, mapping)
        if self.kind == "read":
            return nonzero(value)
        return {"le": less_equal, "lt": less, "eq": equal}[self.kind](value, ZERO)


TRUE = Cond("true")
FALSE = Cond("false")


def ind(condition: Cond) -> Poly:
    """The indicator of a condition; a negated one is written 1 - ind."""
    if condition.kind == "true":
        return ONE
    if condition.kind == "false":
        return ZERO
    if condition.kind == "not":
        return ONE - ind(condition.parts[0])
    return of(Ind(condition))


def split(value: Poly, atom: Ind) -> tuple[Poly, Poly]:
    """The value where the indicator is 0, and where it is 1."""
    absent = Poly({m: c for m, c in value.terms if (atom, 1) not in m})
    return absent, absent + value.coefficient_of(atom)


def _compare(kind: str, value: Poly) -> Cond:
    """Value <=, < or == 0, with indicators inside resolved case by case."""
    constant = value.constant
    if constant is not None:
        return TRUE if {"le": constant <= 0, "lt": constant < 0, "eq": constant == 0}[kind] else FALSE
    indicators = [a for a in value.sorted_atoms() if isinstance(a, Ind)]
    if 0 < len(indicators) <= MOST_CASES:
        indicator = indicators[0]
        absent, present = split(value, indicator)
        return disjunction(
            (
                conjunction((indicator.condition, _compare(kind, present))),
                conjunction((negation(indicator.condition), _compare(kind, absent))),
            )
        )
    pieces = None if kind == "eq" else _pieces(kind, value)
    if pieces is not None:
        return pieces
    if value.constant_term <= -LARGEST_FLOAT32 and kind != "eq" and _moderate(value - value.constant_term):
        return TRUE  # finfo.min < x holds for every finite x
    if value.constant_term >= LARGEST_FLOAT32 and _moderate(value - value.constant_term):
        return FALSE
    if kind == "lt" and value.is_integer:
        return _compare("le", value + 1)
    if kind == "le":
        total = value.single_atom
        if isinstance(total, Sum):
            # A sum of indicators is at most zero if none of them holds.
            return negation(exists(total.index, nonzero(total.term)))
        if is_nonpositive(value):
            return TRUE
        if is_nonnegative(value - 1):
            return FALSE
    if kind == "lt" and is_nonnegative(value):
        return FALSE
    if kind == "eq" and (is_nonnegative(value - 1) or is_nonpositive(value + 1)):
        return FALSE
    if kind == "eq" and magnitude(value.constant_term) > BEYOND_INTEGERS and (value - value.constant_term).is_integer:
        return FALSE  # an integer type does not hold finfo.max
    leading = value.terms[-1][1]
    value = value / (leading if kind == "eq" else magnitude(leading))
    if kind == "le" and leading < 0 and value.is_integer:
        # Of x <= 0 and its negation 1 - x <= 0 only one is written, the other as its negation, so that
        # indicators of opposite conditions add up to one.
        return negation(_compare("le", 1 - value))
    if kind == "eq" and isinstance(value.single_atom, Read):
        return negation(Cond("read", value))  # x != 0 is what a cast of x to bool says
    return Cond(kind, value)


def _pieces(kind: str, value: Poly) -> Cond | None:
    """min(a, b) <= 0 is a <= 0 or b <= 0, and max(a, b) <= 0 is both.  The smaller of two masks shows what both show.

    A minimum of sizes alone is not taken apart, since the smaller of two extents may be known later.
    """
    if sum(isinstance(a, Min0) for a in value.all_atoms()) > MOST_PIECES:
        return None
    for atom in value.sorted_atoms():
        factor = value.coefficient_of(atom).constant if isinstance(atom, Min0) else None
        if factor and isinstance(atom, Min0) and any(isinstance(a, Read | Ind) for a in atom.value.atoms):
            rest = value - factor * of(atom)
            ends = (_compare(kind, rest), _compare(kind, rest + factor * atom.value))
            return disjunction(ends) if factor > 0 else conjunction(ends)
    return None


def _moderate(value: Poly) -> bool:
    """No huge factor."""
    return all(magnitude(c) < MODERATE for _, c in value.terms)


def less_equal(left: Poly, right: Poly) -> Cond:
    """Left <= right."""
    return _compare("le", left - right)


def less(left: Poly, right: Poly) -> Cond:
    """Left < right."""
    return _compare("lt", left - right)


def equal(left: Poly, right: Poly) -> Cond:
    """Left == right."""
    return _compare("eq", left - right)


def nonzero(value: Poly) -> Cond:
    """Value != 0: what a cast to bool means."""
    atom = value.single_atom
    if isinstance(atom, Ind):
        return atom.condition
    if isinstance(atom, Read):
        return Cond("read", value)
    return negation(_compare("eq", value))


def negation(condition: Cond) -> Cond:
    """Not condition, pushed down to comparisons (De Morgan)."""
    if condition.kind == "true":
        return FALSE
    if condition.kind == "false":
        return TRUE
    if condition.kind == "not":
        return condition.parts[0]
    if condition.kind == "and":
        return disjunction(negation(p) for p in condition.parts)
    if condition.kind == "or":
        return conjunction(negation(p) for p in condition.parts)
    if condition.kind == "le" and condition.value is not None and not condition.value.is_integer:
        return less(ZERO, condition.value)
    if condition.kind == "lt":
        assert condition.value is not None
        return less_equal(ZERO, condition.value)
    return Cond("not", parts=(condition,))


def conjunction(conditions: Iterable[Cond]) -> Cond:
    """and, flattened, without duplicates, in a fixed order."""
    return _junction(conditions, "and", TRUE, FALSE)


def disjunction(conditions: Iterable[Cond]) -> Cond:
    """or, flattened, without duplicates, in a fixed order."""
    return _junction(conditions, "or", FALSE, TRUE)


def _junction(conditions: Iterable[Cond], kind: str, neutral: Cond, absorbing: Cond) -> Cond:
    parts: dict[str, Cond] = {}
    for condition in conditions:
        for part in condition.parts if condition.kind == kind else (condition,):
            if part.kind == absorbing.kind:
                return absorbing
            if part.kind != neutral.kind:
                parts[part.key] = part
    if len(parts) > MOST_PARTS:
        raise TooComplex(f"a condition of {len(parts)} parts")
    simple = _without_implied([p for p in parts.values() if p.kind not in ("and", "or")], kind == "and")
    if simple is None:
        return absorbing
    nested = []
    for part in (p for p in parts.values() if p.kind in ("and", "or")):
        reduced = _in_context(part, simple, kind)
        if reduced.kind == absorbing.kind:
            return absorbing
        if reduced.kind != neutral.kind:
            nested.append(reduced)
    resolved = _resolve(nested)
    if resolved is not None or any(reduced.kind == kind or reduced.key not in parts for reduced in nested):
        return _junction((*simple, *(resolved or nested)), kind, neutral, absorbing)
    whole = {p.key: p for p in (*simple, *nested)}
    if kind == "or" and len(whole) > 1:
        alternatives = [{c.key: c for c in conjuncts(p)} for p in whole.values()]
        common = [c for k, c in alternatives[0].items() if all(k in a for a in alternatives[1:])]
        if common:
            # (a and b) or (a and c) is a and (b or c): what holds in any case stands alone.
            shared = {c.key for c in common}
            rest = (conjunction(c for k, c in a.items() if k not in shared) for a in alternatives)
            return conjunction((*common, disjunction(rest)))
    if not whole:
        return neutral
    if len(whole) == 1:
        return next(iter(whole.values()))
    return Cond(kind, parts=tuple(whole[k] for k in sorted(whole)))


def _resolve(nested: list[Cond]) -> list[Cond] | None:
    """(a or x) and (a or not x) is a, and the dual; None if no two parts are such a pair."""
    for position, left in enumerate(nested):
        for other in nested[:position]:
            if left.kind != other.kind:
                continue
            mine = {p.key: p for p in left.parts}
            theirs = {p.key: p for p in other.parts}
            own = [k for k in mine if k not in theirs]
            foreign = [k for k in theirs if k not in mine]
            if len(own) == len(foreign) == 1 and negation(mine[own[0]]).key == foreign[0]:
                shared = (p for k, p in mine.items() if k in theirs)
                joined = disjunction(shared) if left.kind == "or" else conjunction(shared)
                return [joined, *(n for n in nested if n is not left and n is not other)]
    return None


def implies(premise: Cond, conclusion: Cond) -> bool:
    """Whether one simple condition implies another: equal ones, and x <= 0 implies y <= 0 if y <= x."""
    if premise == conclusion:
        return True
    if conclusion.kind == "or":
        return any(implies(premise, part) for part in conclusion.parts)
    if conclusion.kind == "and":
        return all(implies(premise, part) for part in conclusion.parts)
    x, y = at_most_zero(premise), at_most_zero(conclusion)
    return x is not None and y is not None and is_nonpositive(y - x)


def _without_implied(parts: list[Cond], conjoined: bool) -> list[Cond] | None:
    """Simple conditions without those that the others make superfluous; None if they exclude each other."""
    for position, part in enumerate(parts):
        opposite = negation(part)
        for other in parts[:position]:
            if implies(other, opposite) if conjoined else implies(opposite, other):
                return None
    kept: list[Cond] = []
    for position, part in enumerate(parts):
        others = [*kept, *parts[position + 1 :]]
        if not any(implies(o, part) if conjoined else implies(part, o) for o in others):
            kept.append(part)
    return kept


def _in_context(part: Cond, known: list[Cond], kind: str) -> Cond:
    """A nested junction, with what the simple conditions around it decide put in.

    Inside a conjunction its parts are known to hold; inside a disjunction they are known not to.
    """
    facts = known if kind == "and" else [negation(k) for k in known]
    decided: list[Cond] = []
    for inner in part.parts:
        if inner.kind in ("and", "or"):
            decided.append(_in_context(inner, known, kind))
        elif any(implies(f, inner) for f in facts):
            decided.append(TRUE)
        elif any(implies(f, negation(inner)) for f in facts):
            decided.append(FALSE)
        else:
            decided.append(inner)
    if tuple(decided) == part.parts:
        return part
    return conjunction(decided) if part.kind == "and" else disjunction(decided)


def exists(index: Index, condition: Cond) -> Cond:
    """Condition holds for some value of the index (its bound is at least 1)."""
    if condition.kind in ("true", "false"):
        return condition
    return Cond("any", parts=(condition,), index=index)


def at_most_zero(condition: Cond) -> Poly | None:
    """A value p such that the condition says p <= 0, or None if it is not a comparison of integers."""
    if condition.kind == "le":
        return condition.value
    if condition.kind == "not" and condition.parts[0].kind == "le":
        value = condition.parts[0].value
        return None if value is None else 1 - value
    return None


def conjuncts(condition: Cond) -> tuple[Cond, ...]:
    """The parts of a conjunction."""
    if condition.kind == "true":
        return ()
    return condition.parts if condition.kind == "and" else (condition,)
