"""The proof of a site step by step, each step with the nodes that it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from ..algebra import ZERO, Index, of, render
from ..fused.family import EmptyRows
from ..patterns.layouts import Axis
from ..rewriter.bind.key_terms import split_by_key
from ..rewriter.interpret import Interpreter
from ..rewriter.interpret.engine import Key
from ..rewriter.records.binding import Binding, Mask, leaves
from ..rewriter.records.evidence import Evidence
from ..rewriter.records.reading import Attention
from ..rewriter.verdicts import Notice
from .formula import bias_text, number, short, view_text
from .places import Place, place_of, place_of_node

ASSUMPTION = "assumption"
"""What a step is about that holds of the model's sizes and not of one site."""


@dataclass(frozen=True)
class Step:
    """One claim of a proof.

    Attributes:
        about: ``product``, ``scale``, ``bias``, ``slopes``, ``positions``, ``causality``, ``window``, ``padding``,
            ``mask``, ``key bias``, ``values``, ``rows``, ``readers`` or ``assumption``.
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
    rests = proof.evidence or Evidence()
    made = [
        _product(interpreter, attention),
        _scale(interpreter, attention, rests),
        _bias(interpreter, binding, rests),
        _slopes(interpreter, binding, rests),
    ]
    if binding.positions is not None and proof.positions is not None:
        claim = f"positions are integers counted at run time, held by {view_text(binding.positions)}"
        made.append(Step("positions", claim, (place_of(interpreter, binding.positions.tensor),)))
    made.append(_causality(interpreter, binding, rests))
    made.extend(_window(interpreter, binding, rests))
    made.extend(_padding(interpreter, binding, rests))
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
        made.append(Step("readers", claim, (place_of(interpreter, attention.product),)))
    made.extend(Step(ASSUMPTION, a) for a in proof.assumptions)
    return tuple(made)


def _product(interpreter: Interpreter, attention: Attention) -> Step:
    if not attention.product:
        return Step(
            "product", f"{attention.anchor.op_type} multiplies query and key", (place_of_node(attention.anchor),)
        )
    claim = f"scores come from query {attention.query.tensor} times key {attention.key.tensor}"
    return Step("product", claim, (place_of(interpreter, attention.product),))


def _scale(interpreter: Interpreter, attention: Attention, rests: Evidence) -> Step:
    """Where the factors of the product sit: before it, in it, or behind it."""
    where: list[tuple[str, str]] = []
    places: list[Place] = []
    node = interpreter.scope.producer(attention.product) if attention.product else None
    if node is None:
        claim = f"scale {number(float(attention.scale))}, inside the operator"
        return Step("scale", claim, (place_of_node(attention.anchor),))
    for side, view, scaled in (
        ("query", attention.query, rests.scaled_query),
        ("key", attention.key, rests.scaled_key),
    ):
        if view.factor != 1:
            where.append((number(float(view.factor)), f"on the {side}"))
            places.extend(place_of(interpreter, tensor) for tensor in scaled)
    own = attention.scale / (attention.query.factor * attention.key.factor)
    if own != 1:
        where.append((number(float(own)), "on the product"))
        places.extend(place_of(interpreter, tensor) for tensor in rests.scaled or (attention.product,))
    if attention.factor is not None:
        where.append((short(repr(attention.factor), 80), "at run time"))
    if len(where) == 1:
        claim = f"scale {where[0][0]} {where[0][1]}"
    else:
        parts = ", ".join(" ".join(part) for part in where)
        claim = f"scale {number(float(attention.scale))}: {parts or 'nothing multiplies the product'}"
    return Step("scale", claim, tuple(dict.fromkeys(places)))


def _bias(interpreter: Interpreter, binding: Binding, rests: Evidence) -> Step:
    attention = binding.proof.attention
    before = "before it was rounded, " if binding.proof.rounded.terms else ""
    claim = f"{before}bias = {bias_text(binding.proof)}, up to a constant per row, for every head and at every index"
    places = [place_of(interpreter, element[0]) for element in (rests.added, rests.bias) if element is not None]
    if not attention.product:
        places.insert(0, place_of_node(attention.anchor))
    return Step("bias", claim, tuple(dict.fromkeys(places)))


def _slopes(interpreter: Interpreter, binding: Binding, rests: Evidence) -> Step:
    proof = binding.proof
    if binding.slopes is not None:
        claim = f"slopes are read at run time from {view_text(binding.slopes)}"
        claim += ", times a constant per head" if binding.slope_table is not None else ""
        return Step("slopes", claim, (place_of(interpreter, binding.slopes.tensor),))
    assert proof.slopes is not None
    count = len(proof.slopes)
    claim = f"{count} slope{'s' if count > 1 else ''}, one per head, the same at every query and key"
    return Step("slopes", claim, () if rests.slopes is None else (place_of(interpreter, rests.slopes[0]),))


def _causality(interpreter: Interpreter, binding: Binding, rests: Evidence) -> Step:
    proof = binding.proof
    if not proof.causal:
        return Step("causality", "not causal: no condition hides the keys after a query")
    frame = proof.attention.frame
    distance = interpreter.facts.normal(of(frame.key) - of(frame.row) - frame.offset)
    claim = f"causal: a key is visible only if {short(render(distance), 120)} <= 0"
    return Step("causality", claim, (_place(interpreter, binding, rests.causality),))


def _place(interpreter: Interpreter, binding: Binding, element: Key | None) -> Place:
    """Where an element comes from.  An operator says by itself what no element says."""
    anchor = binding.proof.attention.anchor
    return place_of_node(anchor) if element is None else place_of(interpreter, element[0])


def _window(interpreter: Interpreter, binding: Binding, rests: Evidence) -> list[Step]:
    window = binding.proof.window
    return [
        Step(
            "window",
            f"{window.text}: {short(condition.text, 200)}",
            (_place(interpreter, binding, rests.conditions.get(condition)),),
        )
        for condition in window.conditions
    ]


def _padding(interpreter: Interpreter, binding: Binding, rests: Evidence) -> list[Step]:
    proof = binding.proof
    frame = proof.attention.frame
    made = []
    for condition in proof.hidden:
        inside = {a for a in condition.all_atoms() if isinstance(a, Index) and a.role is not Axis.SUMMED}
        about = "padding" if inside <= {frame.batch, frame.key} else "mask"
        element = rests.conditions.get(condition)
        places = () if element is None else (place_of(interpreter, element[0]),)
        made.append(Step(about, f"a key is visible only if {short(condition.text, 200)}", places))
    if not made and not proof.rest.terms and not proof.causal and not proof.window.bounded:
        made.append(Step("padding", "no mask: every key is visible"))
    return made


def _mask_places(interpreter: Interpreter, mask: Mask | None) -> tuple[Place, ...]:
    return tuple(dict.fromkeys(place_of(interpreter, leaf.view.tensor) for leaf in leaves(mask)))


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
