"""Exact symbolic values: polynomials with rational coefficients over atoms, and conditions over them.

Every tensor element that the analysis meets is one ``Poly``: a size, an index computation, a bias, a
score.  Two values are proven equal when their normal forms are equal, so normal forms are the whole
point of this module.  The atoms:

``Size``    an unknown tensor extent, an integer >= 0
``Index``   a named axis variable, an integer in [0, bound)
``Read``    one element of a tensor that is not known before run time (or of a constant without a formula)
``Min0``    min(0, p).  abs, min, max and clip are all written with it: |p| = p - 2 min(0, p)
``Ind``     1 where a condition holds, else 0
``Apply``   a function of polynomials that has no polynomial form (sqrt, floordiv, ...)
``Sum``     a sum over one index

Arithmetic is that of real numbers: the analysis proves what the model *means*; how a 16-bit type rounds
it is reported by the verification, not proven here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

Number = int | Fraction

INFINITY = Fraction(10) ** 60
"""Stands for a floating-point infinity: larger than any finite float, and still a number to calculate with."""

LARGEST_FLOAT32 = Fraction(3.4028234663852886e38)
"""finfo(float32).max."""

HIDING_VALUE = Fraction(-65504)
"""A score at or below this hides its key: the most negative finite float16, as -inf and finfo.min of wider types."""


def magnitude(value: Number) -> Fraction:
    """The absolute value, as a fraction."""
    return abs(Fraction(value))


class Atom:
    """Base of all atoms.

    ``key`` identifies an atom and orders them, so that normal forms never depend on hash seeds;
    ``text`` is what people read.
    """

    key: str

    @property
    def text(self) -> str:
        """The atom as people write it."""
        return self.key

    def substitute(self, mapping: Substitution) -> Poly:
        """This atom's value after replacing atoms by polynomials."""
        raise NotImplementedError

    @property
    def children(self) -> tuple[Poly, ...]:
        """Polynomials inside this atom."""
        return ()

    @property
    def is_integer(self) -> bool:
        """Whether the value is an integer."""
        return False

    def __lt__(self, other: Atom) -> bool:
        return self.key < other.key


Monomial = tuple[tuple[Atom, int], ...]


class Poly:
    """A polynomial in normal form: monomials in order, no zero coefficients.  Immutable and hashable."""

    __slots__ = ("_atoms", "_hash", "terms")

    def __init__(self, terms: dict[Monomial, Number]) -> None:
        self.terms: tuple[tuple[Monomial, Number], ...] = tuple(
            sorted(((m, c) for m, c in terms.items() if c), key=_monomial_key)
        )
        self._hash: int | None = None
        self._atoms: frozenset[Atom] | None = None

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.terms)
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, int | Fraction):
            return self.constant == other
        return isinstance(other, Poly) and hash(self) == hash(other) and self.terms == other.terms

    @property
    def constant(self) -> Number | None:
        """The value if it is a number, else None."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    @property
    def constant_term(self) -> Number:
        """The coefficient of the empty monomial."""
        return next((c for m, c in self.terms if not m), 0)

    @property
    def atoms(self) -> frozenset[Atom]:
        """Atoms of the monomials themselves (not those nested inside atoms)."""
        if self._atoms is None:
            self._atoms = frozenset(a for m, _ in self.terms for a, _ in m)
        return self._atoms

    def sorted_atoms(self) -> list[Atom]:
        """``atoms`` in their fixed order."""
        return sorted(self.atoms)

    def all_atoms(self) -> frozenset[Atom]:
        """Atoms at any depth."""
        return _all_atoms(self)

    @property
    def single_atom(self) -> Atom | None:
        """The atom, if this polynomial is exactly one atom."""
        if len(self.terms) == 1 and self.terms[0][1] == 1:
            monomial = self.terms[0][0]
            if len(monomial) == 1 and monomial[0][1] == 1:
                return monomial[0][0]
        return None

    @property
    def is_integer(self) -> bool:
        """Whether the value is provably an integer."""
        return all(
            (isinstance(c, int) or c.denominator == 1) and all(a.is_integer for a, _ in m) for m, c in self.terms
        )

    def depends_on(self, *atoms: Atom) -> bool:
        """Whether any of the atoms occurs, at any depth."""
        inside = self.all_atoms()
        return any(a in inside for a in atoms)

    def __add__(self, other: Poly | Number) -> Poly:
        terms = dict(self.terms)
        for monomial, coefficient in poly(other).terms:
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Poly(terms)

    __radd__ = __add__

    def __neg__(self) -> Poly:
        return Poly({m: -c for m, c in self.terms})

    def __sub__(self, other: Poly | Number) -> Poly:
        return self + -poly(other)

    def __rsub__(self, other: Poly | Number) -> Poly:
        return poly(other) - self

    def __mul__(self, other: Poly | Number) -> Poly:
        if isinstance(other, int | Fraction):
            return Poly({m: c * other for m, c in self.terms})
        terms: dict[Monomial, Number] = {}
        for m1, c1 in self.terms:
            for m2, c2 in other.terms:
                m = _times(m1, m2)
                terms[m] = terms.get(m, 0) + c1 * c2
        return Poly(terms)

    __rmul__ = __mul__

    def __truediv__(self, other: Number) -> Poly:
        return self * (Fraction(1) / other)

    def coefficient_of(self, atom: Atom) -> Poly:
        """The polynomial that multiplies the first power of ``atom``."""
        return Poly({_without(m, atom): c for m, c in self.terms if (atom, 1) in m})

    def __repr__(self) -> str:
        return render(self)


def render(value: Poly) -> str:
    """The value as people write it, e.g. ``-1/4*(j - i)``-style sums of products."""
    if not value.terms:
        return "0"
    parts: list[str] = []
    for monomial, coefficient in value.terms:
        factors = [a.text if p == 1 else f"{a.text}^{p}" for a, p in monomial]
        number = _render_number(magnitude(coefficient))
        text = "*".join(factors if number == "1" and factors else [number, *factors])
        sign = "-" if coefficient < 0 else "+"
        parts.append(f" {sign} {text}" if parts else (f"-{text}" if sign == "-" else text))
    return "".join(parts)


def identify(value: Poly) -> str:
    """Like ``render``, but different values always have different texts (indices carry their bounds)."""
    return " ".join(f"{c}" + "".join(f"*{a.key}^{p}" for a, p in m) for m, c in value.terms)


def _render_number(value: Number) -> str:
    if value >= INFINITY / 2:
        return "inf"
    if isinstance(value, int) or value.denominator == 1:
        return str(int(value)) if value < 10**12 else f"{float(value):.6g}"
    return f"{float(value):.6g}"


def _monomial_key(term: tuple[Monomial, Number]) -> tuple[int, tuple[tuple[str, int], ...]]:
    return (len(term[0]), tuple((a.key, p) for a, p in term[0]))


def _times(left: Monomial, right: Monomial) -> Monomial:
    if not left:
        return right
    if not right:
        return left
    powers = dict(left)
    for atom, power in right:
        # An indicator is 0 or 1, so its square is itself.
        powers[atom] = 1 if isinstance(atom, Ind) else powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: item[0].key))


def _without(monomial: Monomial, atom: Atom) -> Monomial:
    return tuple((a, p) for a, p in monomial if a != atom)


def poly(value: Poly | Number) -> Poly:
    """A number as a polynomial; polynomials pass through."""
    if isinstance(value, Poly):
        return value
    return Poly({(): value})


def of(atom: Atom) -> Poly:
    """An atom as a polynomial."""
    return Poly({((atom, 1),): 1})


ZERO = poly(0)
ONE = poly(1)


@lru_cache(maxsize=1 << 16)
def _all_atoms(value: Poly) -> frozenset[Atom]:
    found: set[Atom] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        for atom in current.atoms:
            if atom not in found:
                found.add(atom)
                pending.extend(atom.children)
    return frozenset(found)


# --- atoms -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=True)
class Size(Atom):
    """An unknown extent of a tensor axis: an integer >= 0."""

    name: str

    @property
    def key(self) -> str:  # type: ignore[override]
        return self.name

    @property
    def is_integer(self) -> bool:
        return True

    def substitute(self, mapping: Substitution) -> Poly:
        return mapping.get(self, of(self))


@dataclass(frozen=True, eq=True)
class Index(Atom):
    """A named axis variable in [0, bound)."""

    name: str
    bound: Poly

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        return f"{self.name}<{identify(self.bound)}>"

    @property
    def text(self) -> str:
        return self.name

    @property
    def is_integer(self) -> bool:
        return True

    def substitute(self, mapping: Substitution) -> Poly:
        return mapping.get(self, of(self))


class _Hashed(Atom):
    """An atom with children: the key is rendered once, and hashing goes by the key."""

    def _render(self, show: Callable[[Poly], str]) -> str:
        raise NotImplementedError

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        return self._render(identify)

    @property
    def text(self) -> str:
        return self._render(render)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self.key == other.key)


@dataclass(frozen=True, eq=False)
class Read(_Hashed):
    """``tensor[indices]``, known only at run time."""

    tensor: str
    indices: tuple[Poly, ...]
    integer: bool = False

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"{self.tensor}[{', '.join(map(show, self.indices))}]"

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.indices

    @property
    def is_integer(self) -> bool:
        return self.integer

    def substitute(self, mapping: Substitution) -> Poly:
        return of(Read(self.tensor, tuple(substitute(i, mapping) for i in self.indices), self.integer))


@dataclass(frozen=True, eq=False)
class Min0(_Hashed):
    """min(0, value)."""

    value: Poly

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"min(0, {show(self.value)})"

    @property
    def children(self) -> tuple[Poly, ...]:
        return (self.value,)

    @property
    def is_integer(self) -> bool:
        return self.value.is_integer

    def substitute(self, mapping: Substitution) -> Poly:
        return min0(substitute(self.value, mapping))


@dataclass(frozen=True, eq=False)
class Ind(_Hashed):
    """1 where the condition holds, 0 elsewhere."""

    condition: Cond

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"[{self.condition.render(show)}]"

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.condition.children

    @property
    def is_integer(self) -> bool:
        return True

    def substitute(self, mapping: Substitution) -> Poly:
        return ind(self.condition.substitute(mapping))


@dataclass(frozen=True, eq=False)
class Apply(_Hashed):
    """``function(arguments)`` without a polynomial form; ``rebuild`` re-evaluates it after a substitution."""

    function: str
    arguments: tuple[Poly, ...]
    rebuild: Callable[..., Poly]
    integer: bool = False

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"{self.function}({', '.join(map(show, self.arguments))})"

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.arguments

    @property
    def is_integer(self) -> bool:
        return self.integer

    def substitute(self, mapping: Substitution) -> Poly:
        return self.rebuild(*(substitute(a, mapping) for a in self.arguments))


@dataclass(frozen=True, eq=False)
class Sum(_Hashed):
    """The sum of ``term`` over ``index`` in [0, index.bound)."""

    index: Index
    term: Poly

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"sum({self.index.name} < {show(self.index.bound)}: {show(self.term)})"

    @property
    def children(self) -> tuple[Poly, ...]:
        return (self.term, self.index.bound)

    @property
    def is_integer(self) -> bool:
        return self.term.is_integer

    def substitute(self, mapping: Substitution) -> Poly:
        return of(Sum(self.index, substitute(self.term, mapping)))


Substitution = dict[Atom, Poly]


def substitute(value: Poly, mapping: Substitution) -> Poly:
    """``value`` with atoms replaced; nested atoms are rebuilt and simplify again."""
    if not mapping or not any(a in mapping for a in value.all_atoms()):
        return value
    result = ZERO
    for monomial, coefficient in value.terms:
        product = poly(coefficient)
        for atom, power in monomial:
            factor = mapping[atom] if atom in mapping else atom.substitute(mapping)
            for _ in range(power):
                product = product * factor
        result = result + product
    return result


# --- bounds and piecewise functions ----------------------------------------------------------------------


def lower_bound(value: Poly) -> Poly | None:
    """A polynomial in sizes alone that ``value`` never falls below, or None."""
    return _bound(value, lower=True)


def upper_bound(value: Poly) -> Poly | None:
    """A polynomial in sizes alone that ``value`` never exceeds, or None."""
    return _bound(value, lower=False)


def _bound(value: Poly, *, lower: bool) -> Poly | None:
    result = value
    for _ in range(8):  # a bound may mention other indices; their nesting is shallow
        moving = [a for a in result.sorted_atoms() if not isinstance(a, Size)]
        if not moving:
            return result
        atom = moving[0]
        coefficient = result.coefficient_of(atom)
        if any(power > 1 for m, _ in result.terms for a, power in m if a == atom):
            return None
        rises = _sign(coefficient)
        if rises is None:
            return None
        extreme = _extreme(atom, lowest=(rises > 0) == lower)
        if extreme is None:
            return None
        result = result - coefficient * of(atom) + coefficient * extreme
    return None


def _extreme(atom: Atom, *, lowest: bool) -> Poly | None:
    if isinstance(atom, Index):
        return ZERO if lowest else atom.bound - 1
    if isinstance(atom, Ind):
        return ZERO if lowest else ONE
    if isinstance(atom, Min0):
        if not lowest:
            return ZERO
        inner = _bound(atom.value, lower=True)
        # min(0, v) >= bound(v) only where that bound is not positive itself.
        return inner if inner is not None and _sign(inner) in (-1, 0) else None
    return None


def _sign(value: Poly) -> int | None:
    """+1 or -1 if all coefficients over sizes have that sign (sizes are >= 0), 0 for zero, else None."""
    if not value.terms:
        return 0
    if all(isinstance(a, Size) for a in value.atoms):
        if all(c > 0 for _, c in value.terms):
            return 1
        if all(c < 0 for _, c in value.terms):
            return -1
    return None


def is_nonnegative(value: Poly) -> bool:
    """Whether value >= 0 holds for all sizes >= 0 and all indices in range."""
    constant = value.constant
    if constant is not None:
        return constant >= 0
    piecewise = next((a for a in value.sorted_atoms() if isinstance(a, Min0)), None)
    if piecewise is not None:
        factor = value.coefficient_of(piecewise).constant
        if factor is not None:
            # rest + k min(0, v) is min(rest, rest + k v) for k > 0, and the maximum of both for k < 0.
            rest = value - of(piecewise) * factor
            both = (rest, rest + piecewise.value * factor)
            return (all if factor > 0 else any)(is_nonnegative(part) for part in both)
    bound = lower_bound(value)
    return bound is not None and _sign(bound) in (0, 1)


def is_nonpositive(value: Poly) -> bool:
    """Whether value <= 0 always holds."""
    return is_nonnegative(-value)


@lru_cache(maxsize=1 << 15)
def min0(value: Poly) -> Poly:
    """min(0, value), simplified where the sign is known.

    ``min(0, -p) = min(0, p) - p``, so of p and -p only one gets an atom: the one whose leading
    coefficient is positive.  That makes |i - j| and |j - i| the same normal form.
    """
    if is_nonnegative(value):
        return ZERO
    if is_nonpositive(value):
        return value
    leading = value.terms[-1][1]
    if leading < 0:
        return min0(-value) + value
    scale = magnitude(leading)
    if scale != 1:
        return min0(value / scale) * scale
    return of(Min0(value))


def minimum(left: Poly, right: Poly) -> Poly:
    """min(left, right) = left + min(0, right - left)."""
    return left + min0(right - left)


def maximum(left: Poly, right: Poly) -> Poly:
    """max(left, right) = left - min(0, left - right)."""
    return left - min0(left - right)


def absolute(value: Poly) -> Poly:
    """|value| = value - 2 min(0, value)."""
    return value - 2 * min0(value)


# --- conditions ------------------------------------------------------------------------------------------


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
    def key(self) -> str:
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
    indicator = next((a for a in value.sorted_atoms() if isinstance(a, Ind)), None)
    if indicator is not None:
        absent, present = split(value, indicator)
        return disjunction(
            (
                conjunction((indicator.condition, _compare(kind, present))),
                conjunction((negation(indicator.condition), _compare(kind, absent))),
            )
        )
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
    if kind == "eq" and magnitude(value.constant_term) > 1 << 64 and (value - value.constant_term).is_integer:
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


def _moderate(value: Poly) -> bool:
    """No huge factor: what stays below finfo.max in any run that does not overflow."""
    return all(magnitude(c) < 1 << 32 for _, c in value.terms)


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
    """A value p such that the condition says p <= 0, or None if it is no comparison of integers."""
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
