"""Attentions that could not be read.  Each is named, with the operator that stopped the reading.

A softmax between two products of computed tensors is an attention, whatever stands between them.  Where the reading
ends early, the refusal of the softmax says what is missing.  This module says where: at an operator, or in integers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto

from ...algebra import Read
from ...graph.index import Scope, label, operator
from ...patterns.layouts import STORED_FORMS
from ...patterns.surroundings import INTEGER_PRODUCTS
from ..interpret import Interpreter
from ..interpret.operators import MOVING
from ..records.site import Surroundings
from ..verdicts import Code, Refusal, Refuser, Stage
from .products import is_contraction
from .views import places_in

_refuse = Refuser(Stage.SCORES)

CARRIERS = STORED_FORMS | MOVING
"""Operators that make of a stored weight another form of it."""

MOST_NODES = 200
"""Nodes looked at on each side of a softmax."""


def surroundings(scope: Scope, scores: str, probabilities: str) -> Surroundings | None:
    """What stands around a softmax between two products of computed tensors; None for any other softmax."""
    above = tuple(_above(scope, scores))
    below = tuple(_below(scope, probabilities))
    if any(_multiplies(scope, n) for n in above) and any(_multiplies(scope, n) for n in below):
        return Surroundings(above, below)
    return None


def why_unread(interpreter: Interpreter, softmax: NodeProto, around: Surroundings, refusal: Refusal) -> Refusal:
    """The refusal of an attention, with the operator that stopped the reading.

    Args:
        interpreter: For elements.
        softmax: The anchor.
        around: What stands around it.
        refusal: What was missing.
    """
    integers = around.quantised
    if integers is not None:
        detail = f"{integers.op_type} '{label(integers)}' stands between the query and the output"
        return _refuse(Code.QUANTISED, integers, detail, tensor=_output(integers), stage=refusal.stage)
    if refusal.code is Code.NO_VALUE_PRODUCT:
        stopper = next((n for n in around.below if n.op_type not in MOVING and not _is_product(n)), None)
        what = "the probabilities go through"
    else:
        stopper, what = _stopper(interpreter, softmax), "the reading of the scores stopped at"
    if stopper is None:
        return refusal
    factor = _factor_without_number(interpreter, stopper)
    if factor is not None:
        detail = f"the factor '{factor}' is no number that float32 holds"
        return _refuse(Code.SCALE_UNKNOWN, stopper, detail, tensor=factor)
    detail = f"{what} {stopper.op_type} '{label(stopper)}'" + (f"; {refusal.detail}" if refusal.detail else "")
    return _refuse(refusal.code, stopper, detail, tensor=_output(stopper), stage=refusal.stage)


def written_out(interpreter: Interpreter, node: NodeProto) -> tuple[Refusal, Surroundings] | None:
    """The refusal of an attention whose softmax is written out and could not be read, and what stands around it."""
    if operator(node) != "Div" or len(node.input) != 2:
        return None
    scope = interpreter.scope
    exponential = _through(scope, node.input[0], frozenset({"Exp"}))
    if exponential is None:
        return None
    found: list[NodeProto] = []
    for other in _above(scope, node.input[1]):
        found.append(other)
        if operator(other) == "ReduceSum":
            break
    total = found[-1] if found else None
    if (
        total is None
        or operator(total) != "ReduceSum"
        or _through(scope, total.input[0], frozenset({"Exp"})) is not exponential
    ):
        return None
    around = surroundings(scope, exponential.input[0], node.output[0])
    if around is None:
        return None
    extra = next((n for n in found if operator(n) in ("Add", "Max", "Sum", "Clip")), None)
    if around.quantised is not None:
        return why_unread(interpreter, node, around, _refuse(Code.QUANTISED, "")), around
    if extra is not None:
        detail = f"{extra.op_type} '{label(extra)}' changes the sum that the exponentials are divided by"
        return _refuse(Code.EXTRA_COLUMNS, extra, detail, tensor=_output(extra)), around
    detail = f"its softmax, written out with {total.op_type} '{label(total)}', could not be read"
    return _refuse(Code.NO_PRODUCT, node, detail, tensor=node.output[0]), around


def _above(scope: Scope, tensor: str) -> Iterator[NodeProto]:
    pending, seen = [tensor], {tensor}
    count = 0
    while pending and count < MOST_NODES:
        node = scope.producer(pending.pop(0))
        if node is None:
            continue
        count += 1
        yield node
        if not _is_product(node):
            new = [i for i in node.input if i and i not in seen]
            seen.update(new)
            pending.extend(new)


def _below(scope: Scope, tensor: str) -> Iterator[NodeProto]:
    pending, seen = [tensor], {tensor}
    while pending and len(seen) < MOST_NODES:
        for use in scope.consumers.get(pending.pop(0), []):
            if use.node is None or use.scope is not scope:
                continue
            yield use.node
            if not _is_product(use.node):
                new = [o for o in use.node.output if o and o not in seen]
                seen.update(new)
                pending.extend(new)


def _is_product(node: NodeProto) -> bool:
    return is_contraction(node) or node.op_type in INTEGER_PRODUCTS


def _multiplies(scope: Scope, node: NodeProto) -> bool:
    """Whether a node is a product of two computed tensors.  A product with a weight makes a classifier."""
    if not _is_product(node):
        return False
    places = (0, 3) if node.op_type == "QLinearMatMul" else (0, 1)
    return all(p < len(node.input) and not _is_stored(scope, node.input[p]) for p in places)


def _is_stored(scope: Scope, name: str) -> bool:
    """Whether a tensor is a weight, perhaps in another form.  Its data are not read."""
    for _ in range(8):
        owner = scope.owner(name)
        if owner is None:
            return False
        node = owner.producers.get(name)
        if node is None:
            return name in owner.initializers
        if operator(node) == "Constant":
            return True
        if node.op_type not in CARRIERS:
            return False
        name = node.input[0]
    return False


def _through(scope: Scope, name: str, wanted: frozenset[str]) -> NodeProto | None:
    """The operator that makes a tensor, casts and moves on the way."""
    for _ in range(8):
        node = scope.producer(name)
        if node is None or operator(node) in wanted:
            return node
        if operator(node) not in CARRIERS:
            return None
        name = node.input[0]
    return None


def _stopper(interpreter: Interpreter, softmax: NodeProto) -> NodeProto | None:
    """The operator that makes what the scores were read down to, if that is not one of the products."""
    dims = interpreter.dims(softmax.input[0])
    if dims is None:
        return next((n for n in _above(interpreter.scope, softmax.input[0])), None)
    value = interpreter.element(softmax.input[0], places_in("s", dims))
    reads = sorted(a for a in value.all_atoms() if isinstance(a, Read))
    makers = [interpreter.scope.producer(read.tensor) for read in sorted(reads, key=lambda r: -len(r.indices))]
    return next((n for n in makers if n is not None and not _is_product(n) and operator(n) != "Constant"), None)


def _factor_without_number(interpreter: Interpreter, node: NodeProto) -> str | None:
    """The constant that a node multiplies by or divides by, or what was scaled by before, if it is NaN or infinite."""
    pending = [node]
    for _ in range(MOST_NODES):
        if not pending:
            return None
        current = pending.pop()
        if operator(current) not in ("Mul", "Div"):
            continue
        for name in current.input:
            array = interpreter.array(name)
            if array is not None and array.dtype.kind == "f" and array.size == 1 and not np.isfinite(array).all():
                return name
            producer = interpreter.scope.producer(name)
            if producer is not None:
                pending.append(producer)
    return None


def _output(node: NodeProto) -> str:
    return next((o for o in node.output if o), "")
