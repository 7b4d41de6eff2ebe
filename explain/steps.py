"""The proof of a site step by step, each step with the nodes that it rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ..algebra import ZERO, Cond, Ind, Index, Monomial, Poly, Read, at_most_zero, of, render
from ..fused.family import EmptyRows
from ..patterns.layouts import Axis
from ..rewriter.bind.key_terms import split_by_key
from ..rewriter.interpret import Interpreter
from ..rewriter.interpret.engine import Key
from ..rewriter.prove.forms import vector
from ..rewriter.records.binding import Binding, Leaf, Mask
from ..rewriter.records.reading import Attention
from ..rewriter.verdicts import Notice
from .formula import bias_text, number, short, view_text
from .places import Place, between, deepest, elements, mentions, place_of, place_of_node, product_read

SCALING = frozenset({"Mul", "Div"})


@dataclass(frozen=True)
class Step:
    """One claim of a proof.

    Attributes:
        about: ``product``, ``scale``, ``bias``, ``slopes``, ``positions``, ``causality``, ``window``, ``padding``,
            ``mask``, ``key bias``, ``values``, ``rows``, ``privacy`` or ``premise``.
        claim: What is true.
        rests_on: Where in the model it was read.
    """

    about: str
    claim: str
    rests_on: tuple[Place, ...] = ()


def steps(interpreter: Interpreter, binding: Binding) -> tuple[Step, ...]:
    """Every step of the proof of a site, in the order in which it is made."""
    proof = binding.proof
    attention = proof.attention
    found = elements(interpreter, attention)
    made = [
        _product(interpreter, attention),
        _scale(interpreter, attention, found),
        _bias(interpreter, binding, found),
        _slopes(interpreter, binding, found),
    ]
    if binding.positions is not None and proof.positions is not None:
        claim = f"positions are integers counted at run time, held by {view_text(binding.positions)}"
        made.append(Step("positions", claim, (place_of(interpreter, binding.positions.tensor),)))
    made.append(_causality(interpreter, binding, found))
    made.extend(_window(interpreter, binding, found))
    made.extend(_padding(interpreter, binding, found))
    per_key, other = split_by_key(proof) if binding.key_bias is not None else (ZERO, proof.rest)
    for about, terms, mask in (("key bias", per_key, binding.key_bias), ("mask", other, binding.additive)):
        if terms.terms:
            claim = f"added to visible scores and passed on unchanged: {short(render(terms), 200)}"
            made.append(Step(about, claim, _mask_places(interpreter, mask)))
    made.append(_values(interpreter, binding))
    policy = EmptyRows.ZERO if binding.zero_rows else EmptyRows.MEAN
    rows = "zeros" if binding.zero_rows else "the mean of the values"
    if not binding.rows_without_keys.agrees(policy):
        rows += f"; in the original {binding.rows_without_keys.text} [{Notice.EMPTY_ROWS.number}]"
    made.append(Step("rows", f"a row without any visible key yields {rows}", tuple(_guard(interpreter, binding))))
    if attention.product:
        claim = f"nothing but {binding.output.tensor} reads the scores or the probabilities"
        made.append(Step("privacy", claim, (place_of(interpreter, attention.product),)))
    made.extend(Step("premise", f"it is assumed that {a}") for a in proof.assumptions)
    return tuple(made)


def _product(interpreter: Interpreter, attention: Attention) -> Step:
    if not attention.product:
        return Step(
            "product", f"{attention.anchor.op_type} multiplies query and key", (place_of_node(attention.anchor),)
        )
    claim = f"scores come from query {attention.query.tensor} times key {attention.key.tensor}"
    return Step("product", claim, (place_of(interpreter, attention.product),))


def _scale(interpreter: Interpreter, attention: Attention, found: list[tuple[Key, Poly]]) -> Step:
    """Where the factors of the product sit: before it, in it, or behind it."""
    where: list[tuple[str, str]] = []
    places: list[Place] = []
    node = interpreter.scope.producer(attention.product) if attention.product else None
    if node is None:
        claim = f"scale {number(float(attention.scale))}, inside the operator"
        return Step("scale", claim, (place_of_node(attention.anchor),))
    for side, view in (("query", attention.query), ("key", attention.key)):
        if view.factor == 1:
            continue
        scaling = [n for o in node.input[:2] for n in between(interpreter, o, view.tensor, SCALING)]
        where.append((number(float(view.factor)), f"on the {side}"))
        places.extend(place_of_node(n) for n in scaling)
    behind = _scaled_behind(interpreter, attention, found)
    own = attention.scale / (attention.query.factor * attention.key.factor)
    if own != 1:
        where.append((number(float(own)), "on the product"))
        places.extend(behind or [place_of_node(node)])
    if attention.factor is not None:
        where.append((short(repr(attention.factor), 80), "at run time"))
    if len(where) == 1:
        claim = f"scale {where[0][0]} {where[0][1]}"
    else:
        parts = ", ".join(" ".join(part) for part in where)
        claim = f"scale {number(float(attention.scale))}: {parts or 'nothing multiplies the product'}"
    return Step("scale", claim, tuple(dict.fromkeys(places)))


def _scaled_behind(interpreter: Interpreter, attention: Attention, found: list[tuple[Key, Poly]]) -> list[Place]:
    places: list[Place] = []
    before: object = None
    for (tensor, _), value in reversed(found):
        read = product_read(attention, value)
        if read is None:
            continue
        factor = value.coefficient_of(read).constant
        if before is not None and factor is not None and factor != before:
            node = interpreter.scope.producer(tensor)
            if node is not None and node.op_type in SCALING:
                places.append(place_of_node(node))
        before = factor if factor is not None else before
    return places


def _bias(interpreter: Interpreter, binding: Binding, found: list[tuple[Key, Poly]]) -> Step:
    attention = binding.proof.attention
    before = "before it was rounded, " if binding.proof.rounded.terms else ""
    claim = f"{before}bias = {bias_text(binding.proof)}, up to a constant per row, for every head and at every index"
    passed_on = {m for m, _ in binding.proof.rest.terms}
    added = bias_adder(attention, found)
    tensor = bias_tensor(attention, [e for e in found if not {m for m, _ in e[1].terms if m} <= passed_on])
    places = []
    if added is not None:
        places.append(place_of(interpreter, added))
    elif not attention.product:
        places.append(place_of_node(attention.anchor))
    if tensor is not None:
        places.append(place_of(interpreter, tensor))
    return Step("bias", claim, tuple(dict.fromkeys(places)))


def bias_adder(attention: Attention, found: list[tuple[Key, Poly]]) -> str | None:
    """Where the bias meets the product: the deepest element that holds both."""
    key = attention.frame.key

    def joins(_: str, value: Poly) -> bool:
        read = product_read(attention, value)
        return read is not None and any(_outside(m, read) and _grows(m, key) for m, _ in value.terms)

    return deepest(found, joins) if attention.product else None


def bias_tensor(attention: Attention, found: list[tuple[Key, Poly]]) -> str | None:
    """The tensor that holds the bias alone: the nearest that depends on key (and head) and not on the product."""
    head, key = attention.frame.head, attention.frame.key
    for (tensor, _), value in found:
        if product_read(attention, value) is not None:
            continue
        if any(_grows(m, key) and (head is None or _has(m, head)) for m, _ in value.terms):
            return tensor
    return None


def _outside(monomial: Monomial, read: Read) -> bool:
    return all(a != read for a, _ in monomial)


def _grows(monomial: Monomial, key: Index) -> bool:
    """Whether a term changes with the key other than by a condition."""
    return any(not isinstance(a, Ind) and of(a).depends_on(key) for a, _ in monomial)


def _has(monomial: Monomial, index: Index) -> bool:
    return any(of(a).depends_on(index) for a, _ in monomial)


def _slopes(interpreter: Interpreter, binding: Binding, found: list[tuple[Key, Poly]]) -> Step:
    proof = binding.proof
    if binding.slopes is not None:
        claim = f"slopes are read at run time from {view_text(binding.slopes)}"
        claim += ", times a constant per head" if binding.slope_table is not None else ""
        return Step("slopes", claim, (place_of(interpreter, binding.slopes.tensor),))
    assert proof.slopes is not None
    wanted = proof.slopes.astype(np.float64)
    head = proof.attention.frame.head

    def holds(_: str, value: Poly) -> bool:
        if head is None or not value.depends_on(head):
            return False
        others = {a for a in value.all_atoms() if isinstance(a, Index) and a != head}
        own = None if others else vector(proof.attention, value)
        if own is None or own.shape != wanted.shape:
            return False
        biggest = int(np.argmax(np.abs(wanted)))
        ratio = own[biggest] / wanted[biggest] if wanted[biggest] else 0.0
        return bool(ratio) and bool(np.allclose(own, wanted * ratio, rtol=1e-6, atol=0.0))

    tensor = deepest(found, holds)
    if tensor is None and head is not None:
        tensor = deepest(
            found, lambda name, value: value.depends_on(head) and interpreter.scope.constant(name) is not None
        )
    claim = f"{len(wanted)} slope{'s' if len(wanted) > 1 else ''}, one per head, the same at every query and key"
    return Step("slopes", claim, () if tensor is None else (place_of(interpreter, tensor),))


def _causality(interpreter: Interpreter, binding: Binding, found: list[tuple[Key, Poly]]) -> Step:
    proof = binding.proof
    attention = proof.attention
    if not proof.causal:
        return Step("causality", "not causal: no condition hides the keys after a query")
    frame = attention.frame
    distance = interpreter.facts.normal(of(frame.key) - of(frame.row) - frame.offset)
    own = next((c for c in attention.visible if _bound_is(interpreter, c, distance)), None)
    tensor = None if own is None else deepest(found, lambda _, value: mentions(interpreter, value, own))
    place = place_of_node(attention.anchor) if tensor is None else place_of(interpreter, tensor)
    return Step("causality", f"causal: a key is visible only if {short(render(distance), 120)} <= 0", (place,))


def _bound_is(interpreter: Interpreter, condition: Cond, distance: Poly) -> bool:
    bound = at_most_zero(condition)
    return bound is not None and interpreter.facts.normal(bound) == distance


def _window(interpreter: Interpreter, binding: Binding, found: list[tuple[Key, Poly]]) -> list[Step]:
    window = binding.proof.window
    made = []
    for condition in window.conditions:
        tensor = deepest(found, lambda _, value, c=condition: mentions(interpreter, value, c))  # type: ignore[misc]
        place = place_of_node(binding.proof.attention.anchor) if tensor is None else place_of(interpreter, tensor)
        made.append(Step("window", f"{window.text}: {short(condition.text, 200)}", (place,)))
    return made


def _padding(interpreter: Interpreter, binding: Binding, found: list[tuple[Key, Poly]]) -> list[Step]:
    proof = binding.proof
    frame = proof.attention.frame
    made = []
    for condition in proof.hidden:
        inside = {a for a in condition.all_atoms() if isinstance(a, Index) and a.role is not Axis.SUMMED}
        per_key = inside <= {frame.batch, frame.key}
        about = "padding" if per_key else "mask"
        tensor = deepest(found, lambda _, value, c=condition: mentions(interpreter, value, c))  # type: ignore[misc]
        places = () if tensor is None else (place_of(interpreter, tensor),)
        made.append(Step(about, f"a key is visible only if {short(condition.text, 200)}", places))
    if not made and not proof.rest.terms and not proof.causal and not proof.window.bounded:
        made.append(Step("padding", "no mask: every key is visible"))
    return made


def _mask_places(interpreter: Interpreter, mask: Mask | None) -> tuple[Place, ...]:
    if mask is None:
        return ()
    if isinstance(mask, Leaf):
        return (place_of(interpreter, mask.view.tensor),)
    return tuple(dict.fromkeys(p for part in mask.parts for p in _mask_places(interpreter, part)))


def _values(interpreter: Interpreter, binding: Binding) -> Step:
    attention = binding.proof.attention
    claim = f"the probabilities of all keys weigh {attention.value.tensor}"
    if not attention.product:
        return Step("values", claim, (place_of_node(attention.anchor),))
    return Step("values", claim, (place_of(interpreter, attention.weighing),))


def _guard(interpreter: Interpreter, binding: Binding) -> list[Place]:
    node: NodeProto | None = None
    if binding.output.tensor != binding.proof.attention.output.tensor and binding.zero_rows:
        node = interpreter.scope.producer(binding.output.tensor)
    return [] if node is None else [place_of_node(node)]
