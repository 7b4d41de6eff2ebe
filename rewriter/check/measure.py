"""Sizes as numbers: the extents of a site at a given batch and length, and elements at numeric indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from ...algebra import Index, Poly, Size, Substitution, TooComplex, of, substitute
from ...algebra import poly as as_poly
from ...graph.index import Array, int_attribute
from ..interpret import Interpreter
from ..records.reading import Frame
from .evaluation import number

Floats = npt.NDArray[np.float64]

MOST_GUESSED = 4
"""Sizes of a site that neither batch nor rows nor keys decide; with more of them a site is not measured."""


def allowed(interpreter: Interpreter, sizes: dict[Size, int]) -> bool:
    """Whether the sizes are such as the proofs assume (extents that agree, buffers that are long enough)."""
    for fact in interpreter.facts.learned:
        atoms = [a for a in fact.left.all_atoms() | fact.right.all_atoms() if isinstance(a, Size)]
        numbers = {a: sizes.get(a, number(interpreter, of(a), sizes)) for a in atoms}
        if any(n is None for n in numbers.values()):
            continue
        values: Substitution = {a: as_poly(n) for a, n in numbers.items() if n is not None}
        try:
            gap = substitute(fact.left - fact.right, values).constant
        except TooComplex:
            continue
        if gap is not None and (gap < 0 or (gap > 0 and fact.relation == "=")):
            return False
    return True


def shape_extents(interpreter: Interpreter, node: NodeProto | None) -> tuple[Poly, ...] | None:
    """What a Shape node yields, in extents."""
    dims = interpreter.dims(node.input[0]) if node is not None and node.op_type == "Shape" else None
    if node is None or dims is None:
        return None
    return dims[int_attribute(node, "start", 0) : int_attribute(node, "end", len(dims))]


def gather(
    index: tuple[Poly, ...],
    value: Array,
    order: tuple[Index | None, ...],
    shape: list[int],
    interpreter: Interpreter,
    sizes: dict[Size, int],
) -> Floats | None:
    """Elements (b, h, i, j) of the scores, by their index expressions."""
    grids = dict(zip(order, np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True), strict=True))
    places = []
    for expression in index:
        total: npt.NDArray[np.int64] = np.zeros((1, 1, 1, 1), np.int64)
        for monomial, coefficient in interpreter.facts.normal(expression).terms:
            term: npt.NDArray[np.int64] = np.full((1, 1, 1, 1), int(coefficient), np.int64)
            for atom, power in monomial:
                if isinstance(atom, Index) and atom in grids:
                    term = term * grids[atom] ** power
                elif isinstance(atom, Size) and atom in sizes:
                    term = term * sizes[atom] ** power
                else:
                    return None
            total = total + term
        places.append(total)
    found = np.asarray(value, np.float64)
    if places:
        try:
            found = found[tuple(places)]
        except IndexError:
            return None  # another shape than the proof has: a node on the way contradicts its inputs
    return np.broadcast_to(found, shape)


class SiteSizes:
    """The sizes that a site's tensors hang on, and how to choose them for a batch and a length.

    Args:
        interpreter: Of the site's scope, with what is known about extents.
        frame: The site's indices.
        shapes: Extents of the tensors that have to be made.
    """

    def __init__(self, interpreter: Interpreter, frame: Frame, shapes: Iterable[Sequence[Poly]]) -> None:
        normal = interpreter.facts.normal
        self.interpreter = interpreter
        self.batch = None if frame.batch is None else normal(frame.batch.bound)
        self.rows = normal(frame.row.bound)
        self.keys = normal(frame.key.bound)
        self.past = normal(self.keys - self.rows)
        bounds = [b for b in (self.batch, self.rows, self.keys) if b is not None]
        extents = [*bounds, *(normal(e) for shape in shapes for e in shape)]
        self._free = sorted({a for e in extents for a in e.all_atoms() if isinstance(a, Size)})
        self._solved: dict[tuple[int, int, int], dict[Size, int] | None] = {}

    def settle(self, batch: int, new: int, past: int) -> tuple[int, int, int]:
        """The sizes nearest to (batch, new tokens, past tokens) that the model leaves open."""
        new = _fixed(self.rows, new)
        if self.keys.constant is not None:
            past = int(self.keys.constant) - new
        return (1 if self.batch is None else _fixed(self.batch, batch)), new, _fixed(self.past, past)

    def solve(self, batch: int, new: int, past: int) -> dict[Size, int] | None:
        """A number for every size, or None where no choice is within what the proofs assume."""
        wanted = self.settle(batch, new, past)
        if wanted not in self._solved:
            self._solved[wanted] = self._search(*wanted)
        return self._solved[wanted]

    def _search(self, batch: int, new: int, past: int) -> dict[Size, int] | None:
        targets = [(self.rows, new), (self.past, past), (self.keys, new + past)]
        if self.batch is not None:
            targets.append((self.batch, batch))
        sizes: dict[Size, int] = {}
        for value, wanted in targets:
            atom = value.single_atom
            if isinstance(atom, Size):
                sizes.setdefault(atom, wanted)
        rest = [size for size in self._free if size not in sizes]
        if len(rest) > MOST_GUESSED:
            return None
        for guess in product(dict.fromkeys((new, new + past, batch, past, 1)), repeat=len(rest)):
            numbers = {**sizes, **dict(zip(rest, guess, strict=True))}
            fits = all(number(self.interpreter, value, numbers) == wanted for value, wanted in targets)
            if fits and allowed(self.interpreter, numbers):
                return numbers
        return None


def _fixed(value: Poly, wanted: int) -> int:
    return wanted if value.constant is None else int(value.constant)
