"""A polynomial as numbers: for all elements (b, h, i, j) of a site at once, at given sizes.

Where the algebra has been wrong, numbers contradict it.  So nothing here asks the algebra to simplify anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ...algebra import Apply, Atom, Cond, Ind, Index, Min0, Poly, Read, Size
from ...graph.index import Array
from ..interpret import Interpreter
from ..interpret.tables.element import Table
from .measure import Floats

ROUNDINGS: Mapping[str, type[np.generic]] = {
    "round_float16": np.float16,
    "round_bfloat16": ml_dtypes.bfloat16,
    "round_float32": np.float32,
}
"""Functions that round a value to a type, by name."""


@dataclass(frozen=True)
class Grid:
    """What a site's polynomials are evaluated on.

    Attributes:
        interpreter: For equalities between extents.
        order: The indices of the axes; None for an axis that the site does not have.
        shape: Their extents.
        sizes: Numbers for the unknown sizes.
        values: Tensors by name.
    """

    interpreter: Interpreter
    order: tuple[Index | None, ...]
    shape: Sequence[int]
    sizes: Mapping[Size, int]
    values: Mapping[str, Array]

    def evaluate(self, value: Poly) -> Floats | None:
        """All elements, in an array that broadcasts to the shape; None if more is needed than is at hand."""
        total = np.zeros((1,) * len(self.order))
        for monomial, coefficient in value.terms:
            term = np.full((1,) * len(self.order), float(coefficient))
            for atom, power in monomial:
                found = self._atom(atom)
                if found is None:
                    return None
                term = term * found**power
            total = total + term
        return total

    def _atom(self, atom: Atom) -> Floats | None:
        if isinstance(atom, Index):
            return self._index(atom)
        if isinstance(atom, Size):
            return np.array(float(self.sizes[atom])) if atom in self.sizes else None
        if isinstance(atom, Table):
            return self._element(atom.data, atom.indices)
        if isinstance(atom, Read):
            return self._element(self.values[atom.tensor], atom.indices) if atom.tensor in self.values else None
        if isinstance(atom, Min0):
            inner = self.evaluate(atom.value)
            return None if inner is None else np.minimum(inner, 0.0)
        if isinstance(atom, Ind):
            held = self._condition(atom.condition)
            return None if held is None else held.astype(np.float64)
        if isinstance(atom, Apply) and atom.function in ROUNDINGS:
            inner = self.evaluate(atom.arguments[0])
            return None if inner is None else inner.astype(ROUNDINGS[atom.function]).astype(np.float64)
        return None

    def _index(self, index: Index) -> Floats | None:
        if index not in self.order:
            return None
        axis = self.order.index(index)
        shape = [1] * len(self.order)
        shape[axis] = self.shape[axis]
        return np.arange(self.shape[axis], dtype=np.float64).reshape(shape)

    def _element(self, data: Array, indices: tuple[Poly, ...]) -> Floats | None:
        places = [self.evaluate(self.interpreter.facts.normal(index)) for index in indices]
        whole = [p.astype(np.int64) for p in places if p is not None]
        if len(whole) < len(places):
            return None
        try:
            return np.asarray(data, np.float64)[tuple(whole)] if whole else np.asarray(data, np.float64)
        except IndexError:
            return None  # another shape than the proof has: a node on the way contradicts its inputs

    def _condition(self, condition: Cond) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None:
        if condition.kind in ("true", "false"):
            return np.full((1,) * len(self.order), condition.kind == "true")
        if condition.kind in ("and", "or", "not"):
            parts = [self._condition(part) for part in condition.parts]
            found = [part for part in parts if part is not None]
            if len(found) < len(parts):
                return None
            total = found[0]
            for part in found[1:]:
                total = total & part if condition.kind == "and" else total | part
            return ~total if condition.kind == "not" else total
        value = None if condition.value is None else self.evaluate(condition.value)
        if value is None:
            return None
        tests = {"le": value <= 0, "lt": value < 0, "eq": value == 0, "read": value != 0}
        return tests.get(condition.kind)
