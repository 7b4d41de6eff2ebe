"""The interpreters of a model: one per graph, with the extents and types of its values."""

from __future__ import annotations

from collections.abc import Iterator

from ...algebra import Size, of, poly
from ...graph.index import Scope, walk
from . import Interpreter
from .rules import element_rules
from .shapes import infer
from .sizes.facts import Facts

MOST_PINNED = 4
"""Sizes of one graph that are tried at 1.  An export that has folded its sizes has few names for them."""


def interpreted(
    root: Scope, binary_inputs: frozenset[str] = frozenset(), full_inputs: frozenset[str] = frozenset()
) -> Iterator[Interpreter]:
    """An interpreter per scope, outer ones first, with the extents and types of the scope's values.

    Args:
        root: The main graph.
        binary_inputs: Graph inputs that hold 0 and 1 only.
        full_inputs: Graph inputs that hold ones only.
    """
    declared = (binary_inputs, full_inputs)
    interpreters: dict[int, Interpreter] = {}
    for scope in walk(root):
        parent = interpreters.get(id(scope.parent)) if scope.parent is not None else None
        interpreter = _inferred(scope, parent, declared)
        if interpreter.facts.choice is not None:
            # [4, 1] spread by B is a batch of 4 or of 1.  Where it cannot be 4, it is 1 in every run.
            again = _inferred(scope, parent, declared, interpreter.facts.choice)
            interpreter = interpreter if again.facts.contradicted else again
        for size, node in interpreter.facts.pinned()[:MOST_PINNED]:
            # [S, S] and a table [6, 6]: S is 6, or 1 and spread.  If it is 1, 6 weights meet 1 value, which fails.
            if _inferred(scope, parent, declared, (size, node)).facts.impossible:
                interpreter.facts.not_one.add(size)
        interpreters[id(scope)] = interpreter
        yield interpreter


def _inferred(
    scope: Scope,
    parent: Interpreter | None,
    declared: tuple[frozenset[str], frozenset[str]],
    single: tuple[Size, str] | None = None,
) -> Interpreter:
    """The interpreter of a scope, with extents and types; ``single`` is a size that is 1, and the node that says so."""
    interpreter = Interpreter(scope, rules=element_rules(), binary=declared[0], full=declared[1])
    if parent is not None:
        interpreter.extents.update(parent.extents)
        interpreter.dtypes.update(parent.dtypes)
        interpreter.counted.update(parent.counted)
        interpreter.facts = Facts(parent=parent.facts)
    if single is not None:
        interpreter.facts.learn(of(single[0]), poly(1), single[1], by_broadcast=True)
    infer(interpreter, list(scope.graph.node))
    return interpreter
