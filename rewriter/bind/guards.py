"""What stands right behind an attention: moves of its output, and guards for rows without keys."""

from __future__ import annotations

from onnx import NodeProto

from ...algebra import ZERO, Index, conjunction, exists, negation, nonzero, of
from ...graph.index import operator
from ...patterns.layouts import BEHIND
from ..interpret import Interpreter
from ..interpret.movement import source
from ..recognise.views import places_in, reshaped, unify
from ..records.proof import Proof
from ..records.reading import View


def row_guard(interpreter: Interpreter, proof: Proof, output: View) -> View | None:
    """``Where(no key is visible, 0, output)`` right behind the attention, which the fused node does itself."""
    attention = proof.attention
    frame = attention.frame
    uses = interpreter.scope.consumers.get(output.tensor, [])
    if len(uses) != 1 or uses[0].node is None or uses[0].scope is not interpreter.scope:
        return None
    view, node = output, uses[0].node
    for _ in range(3):
        if operator(node) == "Where":
            break
        followed = follow(interpreter, view, node)
        uses = interpreter.scope.consumers.get(followed.tensor, []) if followed is not None else []
        if followed is None or len(uses) != 1 or uses[0].node is None:
            return None
        view, node = followed, uses[0].node
    if operator(node) != "Where" or not view.clean:
        return None
    dims = interpreter.dims(node.output[0])
    if dims is None or len(dims) != len(view.axes):
        return None
    place = tuple(of(a[0]) if a else ZERO for a in view.axes)
    condition = nonzero(interpreter.element(node.input[0], interpreter.aligned(node.input[0], place, dims, node)))
    zero, kept = (node.input[1], node.input[2])
    if kept != view.tensor:
        condition, zero, kept = negation(condition), node.input[2], node.input[1]
    value = interpreter.scalar(zero)
    if kept != view.tensor or value is None or value != 0:
        return None
    if condition.kind != "not" or condition.parts[0].kind != "any":
        return None
    existing = condition.parts[0]
    assert existing.index is not None
    visible = conjunction(attention.visible)
    renamed = visible.substitute({frame.key: of(existing.index)})
    if existing != exists(existing.index, renamed):
        return None
    return View(node.output[0], view.axes)


def follow(interpreter: Interpreter, output: View, node: NodeProto | None) -> View | None:
    """The view of what a single moving consumer makes of the output."""
    if node is None or operator(node) not in BEHIND:
        return None
    dims = interpreter.dims(node.output[0])
    if dims is None:
        return None
    if operator(node) == "Reshape":
        return reshaped(interpreter, output, node.output[0], dims)
    unknown = places_in("o", dims)
    moved = source(interpreter, node, 0, unknown)
    if moved is None or moved[0] != output.tensor:
        return None
    bound: dict[Index, Index] = {}
    if not all(unify(interpreter, p, a, bound) for p, a in zip(moved[1], output.axes, strict=True)):
        return None
    axes = []
    for place in unknown:
        atom = place.single_atom
        if isinstance(atom, Index) and atom not in bound:
            return None
        axes.append((bound[atom],) if isinstance(atom, Index) else ())
    return View(node.output[0], tuple(axes), digits=output.digits)
