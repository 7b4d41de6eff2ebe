"""The types in which the scores themselves are computed.  The rounding of such a type is not part of a bias."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from ...graph.index import operator
from ...patterns.surroundings import SUMS
from ..interpret import Interpreter
from ..interpret.rounding import NARROW
from .products import is_contraction

LONGEST_PATH = 64
"""Operators between a product of query and key and its softmax at most."""


def score_types(interpreter: Interpreter, anchor: NodeProto) -> frozenset[int]:
    """Narrow float types of the scores of an attention: of query, key, their product, or a sum with the bias.

    There the bias is rounded as the scores are, and so it is after the rewrite.

    Args:
        interpreter: Knows the types.
        anchor: A softmax, or an attention operator.
    """
    path: list[tuple[NodeProto, str]] = []
    product = anchor
    if operator(anchor) == "Softmax":
        path = _path(interpreter, anchor.input[0])
        if not path:
            return frozenset()
        product = path[-1][0]
    last = max((k for k, (node, _) in enumerate(path) if operator(node) in SUMS), default=-1)
    found = {interpreter.dtype(name) for _, name in (*path[: last + 1], *path[-1:])}
    for name in product.input[:2]:
        maker = interpreter.scope.producer(name)
        found |= {interpreter.dtype(name)}
        if maker is not None and operator(maker) == "Cast":
            found |= {interpreter.dtype(maker.input[0])}
    narrow = found & set(NARROW)
    if TensorProto.BFLOAT16 in narrow:
        narrow.add(TensorProto.FLOAT16)  # rounds less
    return frozenset(narrow)


def _path(interpreter: Interpreter, name: str) -> list[tuple[NodeProto, str]]:
    """The nodes from a softmax input up to the nearest product of two run-time matrices, with their outputs.

    The product comes last.  The list is empty where no product is found.
    """
    before: dict[str, str] = {}
    seen = {name}
    pending = [name]
    for _ in range(LONGEST_PATH):
        if not pending:
            break
        following: list[str] = []
        for current in pending:
            node = interpreter.scope.producer(current)
            if node is None:
                continue
            if _is_product(interpreter, node):
                return [*_back(interpreter, before, current), (node, current)]
            for other in node.input:
                if other and other not in seen and interpreter.rank(other) != 0:
                    seen.add(other)
                    before[other] = current
                    following.append(other)
        pending = following
    return []


def _back(interpreter: Interpreter, before: dict[str, str], name: str) -> list[tuple[NodeProto, str]]:
    names = []
    while name in before:
        name = before[name]
        names.append(name)
    nodes = [(interpreter.scope.producer(n), n) for n in reversed(names)]
    return [(node, n) for node, n in nodes if node is not None]


def _is_product(interpreter: Interpreter, node: NodeProto) -> bool:
    """Whether a node multiplies two matrices of run time.  Over an inner extent of 1 it is not a product."""
    if not is_contraction(node) or any(interpreter.array(n) is not None for n in node.input[:2]):
        return False
    dims = interpreter.dims(node.input[0])
    return not dims or len(node.input) < 2 or dims[-1] != 1 or operator(node) == "Einsum"
