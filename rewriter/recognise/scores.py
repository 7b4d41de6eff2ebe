"""The softmax input taken apart: a scaled product of query and key, terms, and who is hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from ...algebra import (
    Apply,
    Cond,
    Ind,
    Index,
    Monomial,
    Number,
    Poly,
    Read,
    conjunction,
    conjuncts,
    implies,
    magnitude,
    of,
    split,
)
from ...graph.index import int_attribute
from ...patterns.layouts import Axis
from ...patterns.layouts import axis as axis_of
from ...patterns.masks import FINITE_MASK, HIDING_VALUE
from ..interpret import Interpreter
from ..verdicts import Code, Refuser, Stage
from .products import Contraction, contract, is_contraction
from .reductions import reduction
from .replaced import ADDED, HIGHEST, WHY_NOT, take_replaced
from .views import indices_of
from .visibility import is_half, unmask

_refuse = Refuser(Stage.SCORES)

Indices = tuple[Poly, ...]


@dataclass(frozen=True)
class Scores:
    """The softmax input taken apart: ``scale * product + terms`` where all of ``visible`` hold, else ``hidden``."""

    product: Contraction
    read: Read
    scale: Number
    terms: Poly
    visible: tuple[Cond, ...]
    factor: Poly | None = None
    half: bool = False
    hidden: tuple[Poly, ...] = ()
    replaced_at: Number | None = None


def take_scores(interpreter: Interpreter, softmax: NodeProto, indices: Indices) -> Scores:
    """Take the softmax input apart at the given index.

    Raises:
        Refusal: It is not linear in one product of query and key.
    """
    question = ("scores", softmax.output[0], indices, interpreter.inexact)
    return interpreter.facts.once(question, lambda: _take_scores(interpreter, softmax, indices))


def _take_scores(interpreter: Interpreter, softmax: NodeProto, indices: Indices) -> Scores:
    whole = interpreter.element(softmax.input[0], indices)
    half = is_half(interpreter, softmax.input[0])
    masked = unmask(whole, half=half)
    key = next((a for a in sorted(indices_of(indices)) if a.role is Axis.KEY), None)
    if key is None:
        raise _refuse(Code.NO_BIAS, softmax, "there is only one key", tensor=softmax.input[0], stage=Stage.ANCHOR)
    sink = _sink(interpreter, softmax.input[0], indices, key)
    if sink is not None:
        raise _refuse(Code.EXTRA_COLUMNS, softmax, tensor=sink)
    masked = take_replaced(masked, lambda score: bool(_products(interpreter, score, key)))
    visible, value = masked.visible, masked.value
    read, product = _only_product(interpreter, softmax, value, key, whole)
    value = _without_maximum(interpreter, value, visible, key, half)
    scaling, terms = _scaling(interpreter, softmax, value, read, key)
    scaled = Poly(scaling)
    number: Number = 1
    if len(scaled.terms) <= 1:  # the number in front needs no tensor that holds it
        number = scaled.terms[0][1] if scaled.terms else 0
        scaled = Poly({scaled.terms[0][0]: 1}) if scaled.terms else Poly({(): 1})
    return Scores(
        product,
        read,
        scale=number * product.alpha,
        terms=terms,
        visible=visible,
        factor=None if scaled == 1 else scaled,
        half=half,
        hidden=masked.hidden,
        replaced_at=masked.replaced_at,
    )


def _only_product(
    interpreter: Interpreter, softmax: NodeProto, value: Poly, key: Index, whole: Poly
) -> tuple[Read, Contraction]:
    """The product of query and key in a score.

    Raises:
        Refusal: The score has no product, or more than one.
    """
    scores = softmax.input[0]
    products = _products(interpreter, value, key)
    if len(products) == 1:
        return products[0]
    if products:
        found = "several matrix products are added: " + ", ".join(r.tensor for r, _ in products)
        raise _refuse(Code.NONLINEAR_SCORE, softmax, found, tensor=scores)
    grown = interpreter.too_complex.get(scores)
    if grown is not None:
        raise _refuse(Code.TOO_COMPLEX, softmax, grown, tensor=scores)
    hidden = _hidden_product(interpreter, whole)
    if hidden is not None:
        raise _refuse(Code.NONLINEAR_SCORE, softmax, hidden, tensor=scores)
    raise _refuse(Code.NO_PRODUCT, softmax, tensor=scores, stage=Stage.ANCHOR)


def _scaling(
    interpreter: Interpreter, softmax: NodeProto, value: Poly, read: Read, key: Index
) -> tuple[dict[Monomial, Number], Poly]:
    """(what multiplies the product, what is added to it).

    Raises:
        Refusal: The product is multiplied by something that moves with the key or the row.
    """
    scaling: dict[Monomial, Number] = {}
    terms: dict[Monomial, Number] = {}
    for monomial, coefficient in value.terms:
        if not any(a == read for a, _ in monomial):
            terms[monomial] = coefficient
            continue
        others = tuple((a, p) for a, p in monomial if a != read)
        if monomial != ((read, 1),) and any(_moves(a) for a, _ in others) and not _per_head(monomial, read):
            indicators = [a for a, _ in monomial if isinstance(a, Ind)]
            finite = _finite_mask(value, indicators, lambda score: bool(_products(interpreter, score, key)))
            if finite is not None:
                why = ADDED if finite <= HIGHEST else WHY_NOT
                found = f"a hidden key scores {float(finite):g} in place of its score. {why}"
                raise _refuse(Code.FINITE_MASK, softmax, found, tensor=softmax.input[0])
            found = f"the product is multiplied by {' * '.join(a.text for a, _ in others)[:200]}"
            raise _refuse(Code.NONLINEAR_SCORE, softmax, found, tensor=read.tensor)
        scaling[others] = coefficient
    return scaling, Poly(terms)


def _without_maximum(interpreter: Interpreter, value: Poly, visible: tuple[Cond, ...], key: Index, half: bool) -> Poly:
    """The score without the largest score of its row, which softmax does not see.

    A number that is the same for a whole row cancels, as long as a score can have it.  The largest score of a row that
    sees some key is such a number.  So the scores under the maximum may hide no more keys than the scores themselves.
    """
    for atom in value.sorted_atoms():
        found = reduction(interpreter, atom, "ReduceMax") if isinstance(atom, Read) else None
        if found is None or not value.coefficient_of(atom).constant:
            continue
        dims = interpreter.dims(found.tensor)
        if dims is None or not interpreter.same(dims[found.axis], key.bound):
            continue
        whole = interpreter.element(found.tensor, found.at(of(key)))
        masked = unmask(whole, half=half)
        conditions, largest = masked.visible, masked.value
        if not _products(interpreter, largest, key) or atom in value.coefficient_of(atom).atoms:
            continue
        rest = value - value.coefficient_of(atom) * of(atom)
        seen = conjunction(visible)
        hides_less = all(any(implies(v, c) for v in conjuncts(seen)) for c in conditions)
        moderate = all(magnitude(c) < -HIDING_VALUE for m, c in largest.terms if m)
        if hides_less and (moderate or largest == rest):
            value = rest
    return value


def _finite_mask(score: Poly, indicators: list[Ind], is_score: Callable[[Poly], bool]) -> Number | None:
    """The number that replaces the score of a hidden key, if it is a low one; a bias may be added to it."""
    for atom in indicators:
        for branch in split(score, atom):
            if branch.constant_term <= FINITE_MASK and not is_score(branch):
                return branch.constant_term
    return None


def _per_head(monomial: Monomial, read: Read) -> bool:
    """Whether the other factors depend on one index only, which does not move along rows or keys."""
    inside = {x for a, _ in monomial if a != read for x in of(a).all_atoms() if isinstance(x, Index)}
    return all(not isinstance(a, Ind) for a, _ in monomial) and all(i.role is Axis.HEAD for i in inside)


def _moves(atom: object) -> bool:
    return any(isinstance(a, Index) for a in of(atom).all_atoms())  # type: ignore[arg-type]


def _products(interpreter: Interpreter, value: Poly, key: Index) -> list[tuple[Read, Contraction]]:
    found = []
    for atom in value.sorted_atoms():
        if not isinstance(atom, Read):
            continue
        node = interpreter.scope.producer(atom.tensor)
        if node is None or not is_contraction(node):
            continue
        contraction = contract(interpreter, node, atom.indices)
        if contraction is None:
            continue
        sides = [any(x.depends_on(key) for x in s) for s in (contraction.left_index, contraction.right_index)]
        others = [
            any(x.depends_on(*(i for i in indices_of(atom.indices) if i != key)) for x in s)
            for s in (contraction.left_index, contraction.right_index)
        ]
        if sides[0] != sides[1] and any(others):
            found.append((atom, contraction))
    return found


def _hidden_product(interpreter: Interpreter, value: Poly) -> str | None:
    """A product of query and key inside a function: soft-capping, for instance."""
    for atom in sorted(value.all_atoms()):
        if isinstance(atom, Apply):
            for inner in sorted(frozenset().union(*(a.all_atoms() for a in atom.arguments))):
                if isinstance(inner, Read) and is_contraction(interpreter.scope.producer(inner.tensor)):
                    return f"{inner.tensor} goes through {atom.function}"
    for atom in sorted(value.atoms):
        if isinstance(atom, Read):
            node = interpreter.scope.producer(atom.tensor)
            if node is not None and not is_contraction(node) and node.op_type in ("Tanh", "Sigmoid", "Relu", "Exp"):
                return f"the scores go through {node.op_type}"
    return None


def _sink(interpreter: Interpreter, tensor: str, indices: Indices, key: Index) -> str | None:
    """A Concat along the key axis of which a part holds products.  Its other parts are columns without keys."""
    seen = [element for element, _ in interpreter.visited(tensor, indices)]
    with interpreter.one_question():
        for name, part, inside, column in _parts_along(interpreter, seen, key):
            if _products(interpreter, interpreter.element(part, inside), column):
                return name
    return None


def _parts_along(
    interpreter: Interpreter, seen: Sequence[tuple[str, Indices]], key: Index
) -> Iterator[tuple[str, str, Indices, Index]]:
    """Parts of the Concats along the key axis: (Concat's output, part, an index into it, its place on that axis)."""
    for name, place in seen:
        node = interpreter.scope.producer(name)
        if node is None or node.op_type != "Concat":
            continue
        axis = int_attribute(node, "axis", 0) % len(place)
        if not place[axis].depends_on(key):
            continue
        for part in node.input:
            dims = interpreter.dims(part)
            if dims is not None and len(dims) == len(place) and dims[axis] != 1:
                column = axis_of(Axis.KEY, dims[axis])
                yield name, part, (*place[:axis], of(column), *place[axis + 1 :]), column
