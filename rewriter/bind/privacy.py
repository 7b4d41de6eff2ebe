"""Scores and probabilities must be private to the attention.  Otherwise they would have to be computed anyway."""

from __future__ import annotations

from dataclasses import fields

from ...graph.index import label
from ..interpret import Interpreter
from ..records.binding import Binding, Leaf, Op
from ..records.reading import View
from ..verdicts import Code, Refuser, Stage

_refuse = Refuser(Stage.LIVENESS)


def check_private(interpreter: Interpreter, binding: Binding) -> None:
    """Follow everything made from the query-key product.  All of it must end in the replaced output.

    Raises:
        Refusal: Something else uses it, or it lies in another graph.
    """
    attention = binding.proof.attention
    scope = interpreter.scope
    if not attention.product:
        return  # an operator computes scores inside
    if scope.owner(attention.product) is not scope:
        raise _refuse(Code.CROSSES_SCOPE, attention, "the product is in an outer graph", tensor=attention.product)
    target = binding.output.tensor
    pending = [attention.product]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name == target:
            continue
        seen.add(name)
        for use in scope.consumers.get(name, []):
            if use.node is None:
                raise _refuse(Code.ESCAPES, attention, f"'{name}' is a graph output", tensor=name)
            if use.scope is not scope:
                raise _refuse(Code.CROSSES_SCOPE, use.node, f"'{name}' is used in {use.scope.path}", tensor=name)
            pending.extend(o for o in use.node.output if o)
    _check_inputs(binding, seen)


def _check_inputs(binding: Binding, from_scores: set[str]) -> None:
    """Nothing that the fused node will read may be made from scores, since they would have to be computed for it."""
    pending = [getattr(binding, f.name) for f in fields(binding) if f.name != "output"]  # whatever a member may take
    read: list[str] = []
    while pending:
        found = pending.pop()
        if isinstance(found, Op):
            pending.extend(found.parts)
        elif isinstance(found, Leaf):
            read.append(found.view.tensor)
        elif isinstance(found, View):
            read.append(found.tensor)
    made = sorted(set(read) & from_scores)
    if made:
        anchor = label(binding.proof.attention.anchor)
        raise _refuse(Code.ESCAPES, anchor, f"'{made[0]}' is made from the scores", tensor=made[0])
