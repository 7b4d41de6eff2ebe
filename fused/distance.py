"""The distance of a form as ONNX text: its polynomial, spelled with as few passes over S_q x S_kv as there are pieces.

A distance costs its passes over S_q x S_kv numbers, so ``d`` is one subtraction, and ``x - 2 min(0, x)`` is the
absolute value that it came from.
"""

from __future__ import annotations

from fractions import Fraction

from ..algebra import Atom, Min0, Number, Poly, absolute, of, substitute
from ..patterns.forms import Form
from ..patterns.forms.base import DISTANCE
from .text import Body


def write_distance(body: Body, form: Form, output: str) -> None:
    """Write the lines that compute a form's distance of ``j`` and ``row``, both float32.

    Args:
        body: Where to.
        form: The form.
        output: What to call it.
    """
    if form.symbolic == of(DISTANCE):
        body.line(f"{output} = Sub (j, row)")
        return
    body.line("signed_distance = Sub (row, j)")
    for name in form.attributes:
        body.attribute(name, name)
    known: dict[Atom, str] = {DISTANCE: "signed_distance"}
    known.update(zip(form.placeholders, form.attributes, strict=True))
    # Of row - j, so that an absolute value is that of a name.
    _Lines(body, known).write(substitute(form.symbolic, {DISTANCE: -of(DISTANCE)}), output)


class _Lines:
    """Writes sums; every value has a name of its own."""

    def __init__(self, body: Body, known: dict[Atom, str]) -> None:
        self.body = body
        self.known = known
        self.absolutes: dict[Poly, str] = {}
        self.count = 0

    def write(self, value: Poly, output: str) -> None:
        """The lines of a value, the last one of which makes the output."""
        terms = self._terms(value)
        if len(terms) == 1 and terms[0][1] == -1:
            self.body.line(f"{output} = Neg ({terms[0][0]})")
            return
        names = [self._times(name, factor) for name, factor in terms]
        if len(names) == 1:
            self.body.line(f"{output} = Identity ({names[0]})")
            return
        total = names[0]
        for number, name in enumerate(names[1:], 2):
            made = output if number == len(names) else self._next()
            self.body.line(f"{made} = Add ({total}, {name})")
            total = made

    def _terms(self, value: Poly) -> list[tuple[str, Number]]:
        """Names and their factors, whose sum is the value; absolute values first."""
        terms: list[tuple[str, Number]] = []
        for atom in value.sorted_atoms():
            if not isinstance(atom, Min0):
                continue
            factor = value.coefficient_of(atom).constant
            assert factor is not None, "forms multiply no distances"
            # k min(0, x) is k/2 x - k/2 |x|.
            rest = value + absolute(atom.value) * Fraction(factor, 2)
            if len(rest.terms) < len(value.terms):
                terms.append((self._absolute(atom.value), -Fraction(factor, 2)))
                value = rest
        for atom in value.sorted_atoms():
            factor = value.coefficient_of(atom).constant
            assert factor is not None, "forms multiply no distances"
            terms.append((self._atom(atom), factor))
        if value.constant_term or not terms:
            terms.append((self._number(value.constant_term), 1))
        return terms

    def _atom(self, atom: Atom) -> str:
        if atom not in self.known:
            assert isinstance(atom, Min0)
            inner, zero, made = self._value(atom.value), self._number(0), self._next()
            self.body.line(f"{made} = Min ({inner}, {zero})")
            self.known[atom] = made
        return self.known[atom]

    def _absolute(self, value: Poly) -> str:
        if value not in self.absolutes:
            inner = self._value(value)
            made = "absolute_distance" if inner == "signed_distance" else self._next()
            self.body.line(f"{made} = Abs ({inner})")
            self.absolutes[value] = made
        return self.absolutes[value]

    def _value(self, value: Poly) -> str:
        """A name for a value: that of an atom, if it is one."""
        atom = value.single_atom
        if atom is not None:
            return self._atom(atom)
        made = self._next()
        self.write(value, made)
        return made

    def _times(self, name: str, factor: Number) -> str:
        if factor == 1:
            return name
        made = self._next()
        if factor == -1:
            self.body.line(f"{made} = Neg ({name})")
        else:
            number = self._number(factor)
            self.body.line(f"{made} = Mul ({name}, {number})")
        return made

    def _number(self, value: Number) -> str:
        made = self._next()
        self.body.constant(made, "float", [float(value)])
        return made

    def _next(self) -> str:
        self.count += 1
        return f"distance_{self.count}"
