"""Sums over the ranks that can be taken together."""

from __future__ import annotations

from ..graph.index import Scope, operator
from ..rewriter.interpret import Interpreter
from .follow import Cuts


def share_sums(scope: Scope, interpreter: Interpreter, cuts: Cuts) -> None:
    """Two sums over the ranks that are only added are one sum: attention and features side by side."""
    summed = cuts.summed
    for number, node in enumerate(scope.graph.node):
        alone = all(len(scope.consumers[name]) == 1 and name in summed for name in node.input if name)
        if operator(node) != "Add" or not alone or node.input[0] == node.input[1]:
            continue
        makers = [scope.graph.node[summed[name]] for name in node.input]
        dims = [interpreter.dims(name) for name in node.input]
        if dims[0] == dims[1] and not any(operator(made) == "Gemm" and len(made.input) > 2 for made in makers):
            for name in node.input:
                del summed[name]
            summed[node.output[0]] = number
