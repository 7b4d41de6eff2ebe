"""From a proof back to the model.  Every claim gets the element that says it.

A proof reads one polynomial, the element of the scores.  This module looks through all elements that it was computed
from, and shows where in the model a claim rests.  Explanations need that; the proof itself does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import NodeProto

from ...algebra import Cond, Ind, Index, Monomial, Poly, Read, at_most_zero, of
from ..interpret import Interpreter
from ..interpret.engine import Key
from ..records.evidence import Evidence
from ..records.proof import Proof
from ..records.reading import Attention, View
from .forms import vector

SCALING = frozenset({"Mul", "Div"})
"""Operators by which a model scales scores."""

MAX_HOPS = 64
"""How far apart two tensors of one operand may lie."""

SAME_SLOPES = 1e-6
"""Slopes come from constants of 32 bits and products of these.  Relative to each other they agree to some units."""

Visited = Sequence[tuple[Key, Poly]]
Fits = Callable[[str, Poly], bool]


def evidence_of(interpreter: Interpreter, proof: Proof) -> Evidence:
    """Where the claims of a proof rest.

    Args:
        interpreter: The one that has just answered what the proof is about.
        proof: A proof.
    """
    attention = proof.attention
    found = list(interpreter.visited(attention.scores, attention.scores_index))
    passed_on = {m for m, _ in proof.rest.terms}
    own = [e for e in found if not {m for m, _ in e[1].terms if m} <= passed_on]
    conditions = {}
    for condition in (*proof.window.conditions, *proof.hidden):
        place = _deepest(found, _mentions(interpreter, condition))
        if place is not None:
            conditions[condition] = place
    return Evidence(
        scaled_query=_scaled_operand(interpreter, attention, attention.query),
        scaled_key=_scaled_operand(interpreter, attention, attention.key),
        scaled=tuple(_scaled_behind(interpreter, attention, found)),
        added=_bias_adder(attention, found),
        bias=_bias_alone(attention, own),
        materialised=_bias_alone(attention, found),
        slopes=_slopes(interpreter, proof, found),
        causality=_causality(interpreter, proof, found),
        conditions=conditions,
    )


def element_with(interpreter: Interpreter, attention: Attention, term: Poly) -> Key | None:
    """Where a term comes into the scores: the element that already has the same product of atoms, times any number."""
    wanted = {m for m, _ in term.terms}

    def holds(_: str, value: Poly) -> bool:
        return wanted <= {m for m, _ in interpreter.facts.normal(value).terms}

    return _deepest(list(interpreter.visited(attention.scores, attention.scores_index)), holds)


def _deepest(found: Visited, fits: Fits) -> Key | None:
    """The element farthest from the scores for which ``fits(tensor, value)`` holds."""
    return next((key for key, value in reversed(found) if fits(key[0], value)), None)


# --- scale -----------------------------------------------------------------------------------------------


def _scaled_operand(interpreter: Interpreter, attention: Attention, view: View) -> tuple[str, ...]:
    node = interpreter.scope.producer(attention.product) if attention.product else None
    if node is None or view.factor == 1:
        return ()
    scaling = [n for o in node.input[:2] for n in _between(interpreter, o, view.tensor, SCALING)]
    return tuple(next(o for o in n.output if o) for n in scaling)


def _between(interpreter: Interpreter, operand: str, origin: str, kinds: frozenset[str]) -> Iterator[NodeProto]:
    """Nodes of some kinds on the way up from an operand to the tensor it is taken from."""
    pending: list[tuple[str, tuple[NodeProto, ...]]] = [(operand, ())]
    seen: set[str] = set()
    for _ in range(MAX_HOPS):
        if not pending:
            return
        tensor, path = pending.pop(0)
        if tensor == origin:
            yield from (n for n in path if n.op_type in kinds)
            return
        node = interpreter.scope.producer(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        pending.extend((i, (*path, node)) for i in node.input if i)


def _scaled_behind(interpreter: Interpreter, attention: Attention, found: Visited) -> Iterator[str]:
    before: object = None
    for (tensor, _), value in reversed(found):
        read = _product_in(attention, value)
        if read is None:
            continue
        factor = value.coefficient_of(read).constant
        if before is not None and factor is not None and factor != before:
            node = interpreter.scope.producer(tensor)
            if node is not None and node.op_type in SCALING:
                yield tensor
        before = factor if factor is not None else before


def _product_in(attention: Attention, value: Poly) -> Read | None:
    """The read of the query-key product among the atoms of an element."""
    return next((a for a in value.sorted_atoms() if isinstance(a, Read) and a.tensor == attention.product), None)


# --- bias ------------------------------------------------------------------------------------------------


def _bias_adder(attention: Attention, found: Visited) -> Key | None:
    """The deepest element that holds both the product and the bias."""
    key = attention.frame.key

    def joins(_: str, value: Poly) -> bool:
        read = _product_in(attention, value)
        return read is not None and any(_outside(m, read) and _grows(m, key) for m, _ in value.terms)

    return _deepest(found, joins) if attention.product else None


def _bias_alone(attention: Attention, found: Visited) -> Key | None:
    """The nearest element that depends on key (and head) and not on the product."""
    head, key = attention.frame.head, attention.frame.key
    for place, value in found:
        if _product_in(attention, value) is not None:
            continue
        if any(_grows(m, key) and (head is None or _has(m, head)) for m, _ in value.terms):
            return place
    return None


def _outside(monomial: Monomial, read: Read) -> bool:
    return all(a != read for a, _ in monomial)


def _grows(monomial: Monomial, key: Index) -> bool:
    """Whether a term changes with the key other than by a condition."""
    return any(not isinstance(a, Ind) and of(a).depends_on(key) for a, _ in monomial)


def _has(monomial: Monomial, index: Index) -> bool:
    return any(of(a).depends_on(index) for a, _ in monomial)


def _slopes(interpreter: Interpreter, proof: Proof, found: Visited) -> Key | None:
    head = proof.attention.frame.head
    if proof.slopes is None or head is None:
        return None
    wanted = proof.slopes.astype(np.float64)
    biggest = int(np.argmax(np.abs(wanted)))

    def holds(_: str, value: Poly) -> bool:
        if not value.depends_on(head):
            return False
        others = {a for a in value.all_atoms() if isinstance(a, Index) and a != head}
        own = None if others else vector(proof.attention, value)
        if own is None or own.shape != wanted.shape:
            return False
        ratio = own[biggest] / wanted[biggest] if wanted[biggest] else 0.0
        return bool(ratio) and bool(np.allclose(own, wanted * ratio, rtol=SAME_SLOPES, atol=0.0))

    def constant(tensor: str, value: Poly) -> bool:
        return value.depends_on(head) and interpreter.scope.constant(tensor) is not None

    return _deepest(found, holds) or _deepest(found, constant)


# --- conditions ------------------------------------------------------------------------------------------


def _causality(interpreter: Interpreter, proof: Proof, found: Visited) -> Key | None:
    attention = proof.attention
    frame = attention.frame
    if not proof.causal:
        return None
    distance = interpreter.facts.normal(of(frame.key) - of(frame.row) - frame.offset)
    for condition in attention.visible:
        bound = at_most_zero(condition)
        if bound is not None and interpreter.facts.normal(bound) == distance:
            return _deepest(found, _mentions(interpreter, condition))
    return None


def _mentions(interpreter: Interpreter, condition: Cond) -> Fits:
    """Whether an element was computed with this condition, or with its opposite."""
    wanted = at_most_zero(condition)
    wanted = None if wanted is None else interpreter.facts.normal(wanted)

    def says(other: Cond) -> bool:
        if other == condition:
            return True
        bound = at_most_zero(other)
        if bound is not None and wanted is not None:
            bound = interpreter.facts.normal(bound)
            return bound in (wanted, 1 - wanted)
        return any(says(p) for p in other.parts)

    return lambda _, value: any(isinstance(a, Ind) and says(a.condition) for a in value.all_atoms())
