"""Caches of fixed capacity: how many keys each sequence has, where the model says it as a condition on every score.

A model that writes new keys into a buffer at ``used[b]`` shows row i the keys up to ``used[b] + i``.  That is causality
among the first ``used[b] + S_q`` keys of a buffer, so the fused node gets this number in place of a mask with rows, and
never reads the others.  The standard's ``TensorScatter`` fails where the new keys do not fit.  So its own index holds
what the fused node needs: 0 <= used[b] <= S_kv - S_q.
"""

from __future__ import annotations

from onnx import NodeProto

from ...algebra import Cond, Poly, at_most_zero, of
from ...graph.index import attribute, int_attribute
from ...patterns.caches import SCATTER, SCATTER_AXIS
from ...patterns.forms import LINEAR
from ..interpret import Interpreter
from ..interpret.origin import moved_from
from ..records.proof import Proof
from ..records.reading import View


def used_keys(interpreter: Interpreter, proof: Proof, conditions: tuple[Cond, ...]) -> View | None:
    """The tensor [B] of keys that each sequence has before the new ones, if that is all that hides keys.

    Args:
        interpreter: For what tensors are made of.
        proof: The site.
        conditions: Under which keys are visible, besides causality and window.
    """
    frame = proof.attention.frame
    plain = proof.form is LINEAR and not proof.causal and not proof.window.bounded and proof.positions is None
    value = at_most_zero(conditions[0]) if len(conditions) == 1 else None
    if not plain or value is None or frame.batch is None or proof.rest.terms:
        return None
    used = of(frame.key) - value - (of(frame.row) if frame.row.bound != 1 else 0)
    if any(used.depends_on(index) for index in frame.order if index != frame.batch):
        return None
    written = _written(interpreter, proof)
    if written is None or not _writes_behind(interpreter, written, used, proof):
        return None
    return View(written.input[2], ((frame.batch,),))


def _written(interpreter: Interpreter, proof: Proof) -> NodeProto | None:
    """The node that writes new keys into the buffer, if what is attended is all of the buffer in its own order.

    A slice of the buffer has fewer keys than the node has room for, and its index would not bound their number.
    """
    key, frame = proof.attention.key, proof.attention.frame
    dims = interpreter.dims(key.tensor)
    if dims is None or len(key.axes) != len(dims) or key.merged:
        return None
    indices = tuple(of(names[0]) if names else Poly({}) for names in key.axes)
    found = moved_from(interpreter, key.tensor, indices, SCATTER)
    if found is None:
        return None
    node, places = found
    axis = int_attribute(node, "axis", SCATTER_AXIS) % len(places)
    buffer = interpreter.dims(node.output[0])
    whole = buffer is not None and interpreter.same(buffer[axis], frame.key.bound)
    own = frame.batch is not None and places[0] == of(frame.batch)
    return node if whole and own and places[axis] == of(frame.key) else None


def _writes_behind(interpreter: Interpreter, node: NodeProto, used: Poly, proof: Proof) -> bool:
    """Whether the new keys, as many as there are rows, are written from ``used`` on."""
    frame = proof.attention.frame
    update = interpreter.dims(node.input[1])
    linear = attribute(node, "mode", b"linear") in (b"linear", "linear")
    if len(node.input) < 3 or not node.input[2] or update is None or not linear or frame.batch is None:
        return False
    axis = int_attribute(node, "axis", SCATTER_AXIS) % len(update)
    index = interpreter.element(node.input[2], (of(frame.batch),))
    return index == used and interpreter.same(update[axis], frame.row.bound)
