"""A working copy that is easier to read: attention inside local functions is inlined, nodes are in order."""

from __future__ import annotations

from collections import deque

import onnx
import onnx.inliner
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from ...base.errors import ModelRejected
from ...fused.family import DOMAIN
from ...graph.edit import arrange
from ...graph.index import label, subgraphs
from ...graph.load import graphs
from ...patterns.operators import READ_OPERATORS


def normalise(model: ModelProto) -> ModelProto:
    """A copy of the model with attention-bearing functions inlined and every graph sorted.

    Raises:
        ModelRejected: Functions call themselves, a value is made twice, never made, or needs itself.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    wanted = _functions_with_attention(copy)
    if wanted:
        try:
            copy = onnx.inliner.inline_selected_functions(copy, wanted)
        except Exception as error:
            raise ModelRejected(
                f"the model's local functions cannot be inlined: {error}. Export without them."
            ) from error
    for graph in graphs(copy):
        _sort(graph)
    return copy


def _functions_with_attention(model: ModelProto) -> list[tuple[str, str]]:
    """All functions, if the body of one holds an attention; otherwise an empty list."""
    bodies = {(f.domain, f.name): f for f in model.functions if f.domain != DOMAIN}
    calls: dict[tuple[str, str], list[tuple[str, str]]] = {}
    holding: set[tuple[str, str]] = set()
    for key, function in bodies.items():
        inner: list[tuple[str, str]] = []
        pending: list[NodeProto] = list(function.node)
        while pending:
            node = pending.pop()
            if (node.domain, node.op_type) in bodies:
                inner.append((node.domain, node.op_type))
            if node.op_type in _PARTS:
                holding.add(key)
            for _, body in subgraphs(node):
                pending.extend(body.node)
        calls[key] = inner
    _refuse_recursion(calls)
    if bodies:  # a runtime inlines all of them
        _refuse_explosion(model, bodies, calls)
    # A function that passes shapes or a bias along matters as much as one with a softmax, so all of them are inlined.
    return list(bodies) if holding else []


MOST_NODES = 4_000_000
"""Nodes that a model may have once its functions are inlined; functions that call functions multiply."""

MOST_BYTES = 1 << 31
"""Size that it may have then: constants in functions multiply as well, and protobuf holds no more."""

_PARTS = READ_OPERATORS | {"Softmax"}
"""What makes a function hold an attention."""


def _refuse_recursion(calls: dict[tuple[str, str], list[tuple[str, str]]]) -> None:
    state: dict[tuple[str, str], int] = {}
    for start in calls:
        stack = [(start, iter(calls[start]))]
        if state.get(start):
            continue
        state[start] = 1
        while stack:
            key, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[key] = 2
                stack.pop()
            elif state.get(following) == 1:
                raise ModelRejected(f"the function '{following[1]}' calls itself. Export the model again.")
            elif following in calls and not state.get(following):
                state[following] = 1
                stack.append((following, iter(calls[following])))


def _refuse_explosion(
    model: ModelProto,
    bodies: dict[tuple[str, str], FunctionProto],
    calls: dict[tuple[str, str], list[tuple[str, str]]],
) -> None:
    """Count nodes and bytes as they would be after inlining, without doing it."""
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    for start in calls:
        pending = [start]
        while pending:
            key = pending[-1]
            missing = [c for c in calls[key] if c not in sizes]
            if key in sizes or not missing:
                inner = [(len(bodies[key].node), bodies[key].ByteSize()), *(sizes[c] for c in calls[key])]
                sizes.setdefault(key, (sum(n for n, _ in inner), sum(b for _, b in inner)))
                pending.pop()
            else:
                pending.extend(missing)
    called = [sizes.get((n.domain, n.op_type), (1, 0)) for graph in graphs(model) for n in graph.node]
    nodes, more = sum(n for n, _ in called), sum(b for _, b in called)
    if nodes > MOST_NODES:
        raise ModelRejected(f"the model has {nodes} nodes once its local functions are inlined. Export without them.")
    if more and model.ByteSize() + more > MOST_BYTES:
        raise ModelRejected(
            f"the model grows by {more >> 20} MiB once its local functions are inlined. Export without them."
        )


def _sort(graph: GraphProto) -> None:
    """Put nodes after what they need, keeping the given order where it is right already."""
    made: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        for name in node.output:
            if name and name in made:
                raise ModelRejected(f"the value '{name}' is made twice, the second time by node '{label(node)}'.")
            if name:
                made[name] = position
    seen: set[str] = set()
    ordered = True
    for node in graph.node:
        if any(i in made and i not in seen for i in node.input):
            ordered = False
            break
        seen.update(node.output)
    if ordered:
        return
    waiting = [0] * len(graph.node)
    users: dict[int, list[int]] = {}
    for position, node in enumerate(graph.node):
        for maker in {made[i] for i in node.input if i in made}:
            waiting[position] += 1
            users.setdefault(maker, []).append(position)
    ready = deque(p for p, w in enumerate(waiting) if not w)
    order: list[int] = []
    while ready:
        position = ready.popleft()
        order.append(position)
        for user in users.get(position, ()):
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(order) != len(graph.node):
        stuck = next(p for p, w in enumerate(waiting) if w)
        raise ModelRejected(f"node '{label(graph.node[stuck])}' needs its own output: the graph has a cycle.")
    nodes = list(graph.node)
    arrange(graph, [nodes[p] for p in order])
