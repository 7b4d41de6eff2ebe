"""Polynomials with rational coefficients over atoms, in normal form."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm

Number = int | Fraction

NUMBERS = (int, Fraction)

SMALL_NUMBER = 1 << 62
"""Whole numbers up to here need no look at how long they are."""

MOST_TERMS = 160
"""Terms of a polynomial.  Exported models need some dozens."""

MOST_PRODUCTS = 1 << 11
"""Products of terms that one multiplication may make."""

MOST_BITS = 1 << 12
"""Bits of a numerator or a denominator; products of float64 numbers have some 2100."""

MOST_POWER = 32
"""The power of an atom in a monomial."""

MOST_FACTORS = 16
"""Different atoms in a monomial."""

MOST_WEIGHT = 1 << 13
"""Atoms in an atom, those inside atoms counted as often as they stand there: a bound on the length of its text."""

MOST_DEPTH = 32
"""Atoms inside atoms inside atoms."""

LONGEST_NAME = 200
"""Characters of a name in the text of an expression; of a longer one, what tells it from others."""

INFINITY = Fraction(10) ** 60
"""Stands for a floating-point infinity: larger than any finite float, and still a number to calculate with."""

LARGEST_FLOAT32 = Fraction(3.4028234663852886e38)
"""finfo(float32).max."""


class TooComplex(ArithmeticError):
    """A value outgrew what is worth calculating with.  Its caller takes it for unknown.

    A few operators that use their operand twice double an expression each: a file of some hundred bytes could
    ask for more than any memory holds.
    """


def magnitude(value: Number) -> Fraction:
    """The absolute value, as a fraction."""
    return abs(Fraction(value))


class Atom:
    """Base of all atoms.

    ``key`` identifies an atom and orders them, so that normal forms never depend on hash seeds;
    ``text`` is what people read.
    """

    key: str
    idempotent = False
    """Whether the square is the value itself, as for an indicator."""
    is_finite = True
    """Whether the value is never an infinity, or no number, that is known before run time."""

    @property
    def size(self) -> tuple[int, int]:
        """How large the atom is: (weight, depth), see ``MOST_WEIGHT`` and ``MOST_DEPTH``."""
        return 1, 1

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
    def denominator(self) -> int | None:
        """A number of which every multiple times the value is an integer, None if none is known: 2 of min(0, x/2)."""
        return None

    @property
    def is_integer(self) -> bool:
        """Whether the value is an integer."""
        return self.denominator == 1

    @property
    def sign(self) -> int | None:
        """+1 for a value that is never negative, -1 for one that is never positive, None if unknown."""
        return None

    def extreme(self, *, lowest: bool) -> Poly | None:
        """A bound of the value that is known whatever the model's inputs are, or None."""
        return None

    def __lt__(self, other: Atom) -> bool:
        return self.key < other.key


Monomial = tuple[tuple[Atom, int], ...]


class Poly:
    """A polynomial in normal form: monomials in order, no zero coefficients.  Immutable and hashable.

    Raises:
        TooComplex: It has more than ``MOST_TERMS`` terms.
    """

    __slots__ = ("_atoms", "_hash", "_inside", "_size", "terms")

    def __init__(self, terms: dict[Monomial, Number]) -> None:
        present = [(m, c) for m, c in terms.items() if c]
        if len(present) > 1:
            if len(present) > MOST_TERMS:
                raise TooComplex(f"a polynomial of {len(present)} terms")
            present.sort(key=_monomial_key)
        self.terms: tuple[tuple[Monomial, Number], ...] = tuple(present)
        self._hash: int | None = None
        self._atoms: frozenset[Atom] | None = None
        self._inside: frozenset[Atom] | None = None
        self._size: tuple[int, int] | None = None

    @classmethod
    def _ordered(cls, terms: tuple[tuple[Monomial, Number], ...]) -> Poly:
        """The polynomial of terms that are in normal form already."""
        made = cls.__new__(cls)
        made.terms = terms
        made._hash = made._atoms = made._inside = made._size = None
        return made

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.terms)
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Poly):
            same = len(self.terms) == len(other.terms) and hash(self) == hash(other)
            return same and self.terms == other.terms
        return isinstance(other, NUMBERS) and self.constant == other

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
        if self._inside is None:
            below = [child.all_atoms() for atom in self.atoms for child in atom.children]
            self._inside = self.atoms.union(*below) if below else self.atoms
        return self._inside

    @property
    def single_atom(self) -> Atom | None:
        """The atom, if this polynomial is exactly one atom."""
        if len(self.terms) == 1 and self.terms[0][1] == 1:
            monomial = self.terms[0][0]
            if len(monomial) == 1 and monomial[0][1] == 1:
                return monomial[0][0]
        return None

    @property
    def size(self) -> tuple[int, int]:
        """The largest (weight, depth) that its atoms have together."""
        if self._size is None:
            sizes = [a.size for m, _ in self.terms for a, _ in m]
            self._size = (len(self.terms) + sum(w for w, _ in sizes), max((d for _, d in sizes), default=0))
        return self._size

    @property
    def is_integer(self) -> bool:
        """Whether the value is provably an integer."""
        return all(_denominator(m, c) == 1 for m, c in self.terms)

    @property
    def denominator(self) -> int | None:
        """As that of an atom."""
        found = 1
        for monomial, coefficient in self.terms:
            own = _denominator(monomial, coefficient)
            if own is None:
                return None
            found = lcm(found, own)
        return found if found.bit_length() <= MOST_BITS else None

    def depends_on(self, *atoms: Atom) -> bool:
        """Whether any of the atoms occurs, at any depth."""
        return not self.all_atoms().isdisjoint(atoms)

    def __add__(self, other: Poly | Number) -> Poly:
        other = poly(other)
        if not other.terms:
            return self
        if not self.terms:
            return other
        terms = dict(self.terms)
        for monomial, coefficient in other.terms:
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Poly(terms)

    __radd__ = __add__

    def __neg__(self) -> Poly:
        return Poly._ordered(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: Poly | Number) -> Poly:
        other = poly(other)
        if not other.terms:
            return self
        terms = dict(self.terms)
        for monomial, coefficient in other.terms:
            terms[monomial] = terms.get(monomial, 0) - coefficient
        return Poly(terms)

    def __rsub__(self, other: Poly | Number) -> Poly:
        return poly(other) - self

    def __mul__(self, other: Poly | Number) -> Poly:
        if not isinstance(other, Poly):
            return self._times_number(other)
        # Most products are by a number, and leave the terms in order.
        if len(other.terms) == 1 and not other.terms[0][0]:
            return self._times_number(other.terms[0][1])
        if len(self.terms) == 1 and not self.terms[0][0]:
            return other._times_number(self.terms[0][1])
        if len(self.terms) * len(other.terms) > MOST_PRODUCTS:
            raise TooComplex(f"a product of {len(self.terms)} and {len(other.terms)} terms")
        terms: dict[Monomial, Number] = {}
        for m1, c1 in self.terms:
            for m2, c2 in other.terms:
                m = _times(m1, m2)
                terms[m] = terms.get(m, 0) + _bounded(c1 * c2)
        return Poly(terms)

    __rmul__ = __mul__

    def _times_number(self, number: Number) -> Poly:
        if number == 1:
            return self
        return Poly._ordered(tuple((m, _bounded(c * number)) for m, c in self.terms) if number else ())

    def __truediv__(self, other: Number) -> Poly:
        return self * (Fraction(1) / other)

    def coefficient_of(self, atom: Atom) -> Poly:
        """The polynomial that multiplies the first power of ``atom``."""
        return Poly({_without(m, atom): c for m, c in self.terms if (atom, 1) in m})

    def __repr__(self) -> str:
        return render(self)


def shown(name: str) -> str:
    """A name as it stands in expressions: files may have names of megabytes, and expressions mention them often."""
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=12).hexdigest()
    return f"{name[:LONGEST_NAME]}...{digest}"


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
    return " ".join(f"{c}" + "".join(f"*{a.key}^{p}" for a, p in m) for m, c in value.terms) or "0"


def _render_number(value: Number) -> str:
    if value >= INFINITY / 2:
        return "inf"
    if isinstance(value, int) or value.denominator == 1:
        return str(int(value)) if value < 10**12 else f"{float(value):.6g}"
    return f"{float(value):.6g}"


def _bounded(value: Number) -> Number:
    if type(value) is int and -SMALL_NUMBER < value < SMALL_NUMBER:
        return value
    if value.numerator.bit_length() > MOST_BITS or value.denominator.bit_length() > MOST_BITS:
        raise TooComplex("a number of too many digits")
    return value


def _denominator(monomial: Monomial, coefficient: Number) -> int | None:
    """The denominator of a term, in which the coefficient makes up for those of the atoms; None if it is unknown."""
    found = 1
    for atom, power in monomial:
        own = atom.denominator
        if own is None or power * own.bit_length() > MOST_BITS:
            return None
        found *= own**power
    return found // gcd(found, coefficient.numerator) * coefficient.denominator


def _monomial_key(term: tuple[Monomial, Number]) -> tuple[int, tuple[tuple[str, int], ...]]:
    return (len(term[0]), tuple((a.key, p) for a, p in term[0]))


def _times(left: Monomial, right: Monomial) -> Monomial:
    if not left:
        return right
    if not right:
        return left
    powers = dict(left)
    for atom, power in right:
        total = 1 if atom.idempotent else powers.get(atom, 0) + power
        if total > MOST_POWER:
            raise TooComplex(f"a power of {total}")
        powers[atom] = total
    if len(powers) > MOST_FACTORS:
        raise TooComplex(f"a product of {len(powers)} factors")
    return tuple(sorted(powers.items(), key=lambda item: item[0].key))


def _without(monomial: Monomial, atom: Atom) -> Monomial:
    return tuple((a, p) for a, p in monomial if a != atom)


def poly(value: Poly | Number) -> Poly:
    """A number as a polynomial; polynomials pass through."""
    if isinstance(value, Poly):
        return value
    return _number(value)


@lru_cache(maxsize=1 << 12, typed=True)
def _number(value: Number) -> Poly:
    return Poly({(): value})


def of(atom: Atom) -> Poly:
    """An atom as a polynomial."""
    return Poly._ordered(((((atom, 1),), 1),))


ZERO = poly(0)
ONE = poly(1)


Substitution = dict[Atom, Poly]


def substitute(value: Poly, mapping: Substitution) -> Poly:
    """``value`` with atoms replaced; nested atoms are rebuilt and simplify again."""
    if not mapping or value.all_atoms().isdisjoint(mapping):
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
