"""Scores and probabilities must be private to the attention: otherwise they have to be computed anyway."""

from __future__ import annotations

from .errors import Code, Refusal, Stage
from .graph import label
from .interpret import Interpreter
from .plan import Plan


def check_private(interpreter: Interpreter, plan: Plan) -> None:
    """Follow everything made from the query-key product: all of it must end in the replaced output.

    Raises:
        Refusal: Something else uses it, or it lies in another graph.
    """
    attention = plan.proof.attention
    scope = interpreter.scope
    if not attention.product:
        return  # an operator computes scores inside
    if scope.owner(attention.product) is not scope:
        raise Refusal(
            Code.CROSSES_SCOPE,
            Stage.LIVENESS,
            label(attention.anchor),
            attention.product,
            "the product is in an outer graph",
        )
    target = plan.output.tensor
    pending = [attention.product]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name == target:
            continue
        seen.add(name)
        for use in scope.consumers.get(name, []):
            if use.node is None:
                raise Refusal(
                    Code.ESCAPES, Stage.LIVENESS, label(attention.anchor), name, f"'{name}' is a graph output"
                )
            if use.scope is not scope:
                raise Refusal(
                    Code.CROSSES_SCOPE, Stage.LIVENESS, label(use.node), name, f"'{name}' is used in {use.scope.path}"
                )
            pending.extend(o for o in use.node.output if o)
