"""Terms of a score that depend on the key and not on the row.  They become a ``key_bias``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...algebra import Poly, of, poly
from ...fused.family import PREFER_KEY_BIAS
from ..interpret import Interpreter
from ..interpret.movement import source
from ..recognise.views import as_view
from ..records.binding import Leaf, Mask, Op
from ..records.proof import Proof
from ..verdicts import Code, Refuser, Stage
from .masks import additive_mask

_refuse = Refuser(Stage.MASK)


def split_by_key(proof: Proof) -> tuple[Poly, Poly]:
    """(what depends on batch, head and key alone, what depends on the row as well) of the rest of a proof."""
    row = proof.attention.frame.row
    per_key = {m: c for m, c in proof.rest.terms if not Poly({m: 1}).depends_on(row)}
    return Poly(per_key), Poly({m: c for m, c in proof.rest.terms if m not in per_key})


def takes_key_bias(proof: Proof, per_key: Poly) -> bool:
    """Whether these terms become a key bias; otherwise they are an additive mask, which says the same.

    An additive mask [B, 1, 1, S_kv] stays one as long as masks are preferred, but not beside a window, where it would
    be the only mask that is left.
    """
    if not per_key.depends_on(proof.attention.frame.key):
        return False
    head = proof.attention.frame.head
    return PREFER_KEY_BIAS or proof.window.bounded or (head is not None and per_key.depends_on(head))


def key_bias(interpreter: Interpreter, proof: Proof, per_key: Poly) -> Mask:
    """The terms as existing tensors over (b, h, j), and sums and multiples of them.

    Raises:
        Refusal: They cannot be separated from other terms, or no tensor has an axis of keys.
    """
    found = _lower(interpreter, additive_mask(interpreter, replace(proof, rest=per_key)))
    frame = proof.attention.frame
    views = [leaf.view for leaf in _leaves(found)]
    if any(frame.row in view.indices for view in views) or not any(frame.key in view.indices for view in views):
        attention = proof.attention
        raise _refuse(Code.MASK_UNKNOWN, attention, f"{per_key!r}"[:200])
    return found


def _lower(interpreter: Interpreter, mask: Mask) -> Mask:
    """The same with leaves of fewer axes, where the model made them by adding some."""
    if isinstance(mask, Op):
        return replace(mask, parts=tuple(_lower(interpreter, part) for part in mask.parts))
    view = mask.view
    while not view.prefix:
        node = interpreter.scope.producer(view.tensor)
        place = tuple(of(names[0]) if names else poly(0) for names in view.axes)
        moved = source(interpreter, node, list(node.output).index(view.tensor), place) if node is not None else None
        below = as_view(interpreter, *moved) if moved is not None else None
        if below is None or not below.clean or len(below.axes) >= len(view.axes):
            break
        view = below
    return replace(mask, view=view)


def _leaves(mask: Mask) -> Iterator[Leaf]:
    pending = [mask]
    while pending:
        found = pending.pop()
        if isinstance(found, Leaf):
            yield found
        else:
            pending.extend(found.parts)
