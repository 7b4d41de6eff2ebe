"""What attention a model has, in one sentence.  It is said of models in which nothing can be rewritten."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from onnx import NodeProto, TensorProto

from ..algebra import Ind, of
from ..graph.index import Scope, walk
from ..patterns.operators import ATTENTION_OPERATORS
from ..patterns.positions import ADDED, BUCKETING, SIGNS, UNKNOWN, Lookup, Searched, Sign
from .recognise.products import is_contraction
from .recognise.values import value_product
from .records.site import Analysis, Site
from .verdicts import Code, Refusal

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})

MAX_NODES = 400
"""Nodes looked at upstream of one site."""


def sentence(analysis: Analysis) -> str:
    """One sentence on the attention that was found, for a model without a proven site."""
    operators: Counter[str] = Counter()
    for scope in walk(analysis.root):
        operators.update(n.op_type for n in scope.graph.node if n.op_type in ATTENTION_OPERATORS)
    sites = [s for s in analysis.sites if _is_attention(s)]
    written = [s for s in sites if s.anchor.op_type not in ATTENTION_OPERATORS]
    positions = Counter(p for s in sites for p in sorted(_positions(s)))
    found = [f"{n} {name} operator{_s(n)}" for name, n in sorted(operators.items())]
    if written:
        found.append(f"{len(written)} attention{_s(len(written))} written out with Softmax")
    if not found:
        return "no attention was found: no softmax over query-key products, no attention operator"
    how = ", ".join(f"{name} ({n})" for name, n in sorted(positions.items()))
    return f"found instead of ALiBi: {' and '.join(found)}; positions: {how or 'none in the attention itself'}"


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _is_attention(site: Site) -> bool:
    """Whether a site is an attention by its shape alone, even where the analysis cannot tell its axes apart."""
    if site.is_attention or site.anchor.op_type != "Softmax":
        return site.is_attention
    try:
        value_product(site.interpreter, site.anchor)
    except Refusal as refusal:
        return refusal.code is not Code.NO_VALUE_PRODUCT
    above = [n for n in _upstream(site.scope, [site.anchor.input[0]]) if is_contraction(n)]
    # A product of two computed tensors.  A product with a weight makes a classifier.
    return any(_stored(site.scope, i) is None for n in above for i in n.input[1:2])


def _stored(scope: Scope, name: str) -> TensorProto | None:
    """The constant of that name.  It is not read, since it may be a weight of any size."""
    owner = scope.owner(name)
    if owner is None:
        return None
    node = owner.producers.get(name)
    if node is not None and node.op_type == "Constant":
        return next((a.t for a in node.attribute if a.name == "value"), None)
    return owner.initializers.get(name)


def _positions(site: Site) -> set[str]:
    """Ways in which a site knows positions, by the signs of ``patterns.positions``."""
    scope = site.scope
    operands = [i for i in site.anchor.input if i]
    scores = list(_upstream(scope, operands[:1] if site.anchor.op_type == "Softmax" else operands[3:]))
    products = [n for n in scores if is_contraction(n)]
    operands = [i for n in products for i in n.input[:2]] if products else operands[:2]
    searched = {
        Searched.SCORES: scores,
        Searched.OPERANDS: list(_upstream(scope, operands)),
        Searched.ANCHOR: [site.anchor],
    }
    found: set[str] = set()
    for where, nodes in searched.items():
        signs = [sign for sign in SIGNS if sign.searched is where]
        for node in nodes:
            found.update(sign.scheme for sign in signs if _shows(scope, node, sign))
    if site.is_biased and not found:
        found.add(UNKNOWN)
    elif not found and _adds_by_both(site):
        found.add(ADDED)
    return found


def _adds_by_both(site: Site) -> bool:
    """Whether a value that depends on query and key is added, be it a mask that the model is given."""
    if site.reading is None:
        return False
    row, key = site.reading.frame.row, site.reading.frame.key
    values = (of(a) for m, _ in site.reading.terms.terms for a, _ in m if not isinstance(a, Ind))
    return any(value.depends_on(row) and value.depends_on(key) for value in values)


def _upstream(scope: Scope, tensors: list[str]) -> Iterator[NodeProto]:
    """Nodes above some tensors, not beyond products."""
    pending = list(tensors)
    seen: set[str] = set()
    while pending and len(seen) < MAX_NODES:
        name = pending.pop(0)
        node = scope.producer(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        yield node
        if not is_contraction(node):
            pending.extend(i for i in node.input if i)


def _shows(scope: Scope, node: NodeProto, sign: Sign) -> bool:
    if sign.operator and node.op_type != sign.operator:
        return False
    if sign.attribute and not any(a.name == sign.attribute and a.i for a in node.attribute):
        return False
    if sign.halves and not _joins(scope, node, sign.halves):
        return False
    return sign.lookup is None or _looks_up(scope, node, sign.lookup)


def _looks_up(scope: Scope, node: NodeProto, lookup: Lookup) -> bool:
    """Whether a Gather takes that from a learned table."""
    table = _stored(scope, node.input[0])
    if table is None or len(table.dims) != 2 or table.data_type not in FLOATS:
        return False
    if lookup is Lookup.BUCKETS:
        return any(n.op_type == BUCKETING for n in _upstream(scope, [node.input[1]]))
    places = _stored(scope, node.input[1])
    return places is not None and math.prod(places.dims) > table.dims[0]


def _joins(scope: Scope, node: NodeProto, halves: tuple[str, ...]) -> bool:
    """Whether these operators make the operands of a node, in this order; "" is any that is not among them."""
    made = [m.op_type if (m := scope.producer(i)) is not None else "" for i in node.input]
    return halves == tuple(kind if kind in halves else "" for kind in made)
