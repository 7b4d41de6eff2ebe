"""Which fused nodes read a cache that the model takes in, appends to and hands out, and what is appended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

from ...algebra import ONE, Index, Poly, of
from ...base.errors import NotRewritten
from ...fused.append import CACHED
from ...fused.family import BY_OP_TYPE, is_fused
from ...fused.layout import OperandView, layout_of
from ...graph.index import int_attribute, label
from ...patterns.layouts import Axis, axis
from ..bind.layout import ways
from ..interpret import Interpreter
from ..interpret.origin import moved_from
from ..interpret.shapes import operand_extents
from ..recognise.views import radix

CURE = "Leave out --cache, and the cache stays a tensor that grows."
"""What helps where a cache cannot be held in place."""


CANONICAL = "BHSD"
"""The axes of a buffer."""


@dataclass(frozen=True)
class Cached:
    """The past of keys or values at one fused node.

    Attributes:
        past: The graph input that holds it.
        present: The graph output that holds past and new ones together.
        axes: What each axis of both holds, such as ``("B", "H", "S", "D")`` or ``("BH", "S", "D")``.
        new: The tensor that the new ones are a view of.
        view: Which view.
        extents: [B, H_kv, S, D] of the new ones.
    """

    past: str
    present: str
    axes: tuple[str, ...]
    new: str
    view: OperandView
    extents: tuple[Poly, ...]


@dataclass(frozen=True)
class Cache:
    """A fused node and the caches that it reads.

    Attributes:
        node: The fused node.
        key: The cache of its keys.
        value: That of its values.
    """

    node: NodeProto
    key: Cached
    value: Cached

    @property
    def both(self) -> tuple[Cached, Cached]:
        """Keys and values, in this order."""
        return self.key, self.value


def caches(interpreter: Interpreter, where: str) -> list[Cache]:
    """The caches of all fused nodes of the main graph, in the order of the nodes.

    Args:
        interpreter: Of the main graph of a rewritten model.
        where: The file, for errors.

    Raises:
        NotRewritten: There is no cache, or a fused node has none, or one that cannot be held in place.
    """
    scope = interpreter.scope
    found = [_cache(interpreter, node, where) for node in scope.graph.node if is_fused(node)]
    if not found:
        raise NotRewritten(f"'{where}' has no fused attention in its main graph, so no cache to hold in place. {CURE}")
    held = [one.past for cache in found for one in cache.both]
    twice = next((name for name in held if held.count(name) > 1), None)
    if twice is not None:
        raise NotRewritten(
            f"'{where}', input '{twice}': several attentions append to it, so it has no one length. {CURE}"
        )
    return found


def _cache(interpreter: Interpreter, node: NodeProto, where: str) -> Cache:
    """The caches of one fused node."""
    try:
        if BY_OP_TYPE[node.op_type].lengths:
            raise _NotInPlace(f"tensor '{node.input[1]}': it holds keys of several lengths already")
        key, value = (_cached(interpreter, node, name) for name in CACHED)
        if not interpreter.same(key.extents[2], value.extents[2]):
            raise _NotInPlace(f"tensor '{value.new}': it is not known that there are as many new values as keys")
    except _NotInPlace as reason:
        raise NotRewritten(f"'{where}', node '{label(node)}', {reason}. {CURE}") from None
    return Cache(node, key, value)


class _NotInPlace(Exception):
    """Why what a node reads cannot be held in place, with the tensor."""


def _cached(interpreter: Interpreter, node: NodeProto, name: str) -> Cached:
    """What a fused node reads as ``key`` or ``value``, taken apart into past and new.

    Raises:
        _NotInPlace: It is no past that new ones are appended to, or one that cannot be told apart.
    """
    scope = interpreter.scope
    tensor = node.input[CACHED.index(name) + 1]
    view = layout_of(node)[name]
    extents = operand_extents(interpreter, view, interpreter.dims(tensor))
    if extents is None:
        raise _NotInPlace(f"tensor '{tensor}': its extents are unknown")
    axes = tuple(map(axis, (Axis.BATCH, Axis.KEY_HEAD, Axis.KEY, Axis.FEATURE), extents))
    found_join = moved_from(interpreter, tensor, place(view, axes), "Concat")
    if found_join is None or len(found_join[0].input) != 2:
        raise _NotInPlace(f"tensor '{tensor}': the {name}s are not past and new ones joined")
    joined, indices = found_join
    past, new = joined.input
    sequence = int_attribute(joined, "axis", 0) % len(indices)
    others = [index for place, index in enumerate(indices) if place != sequence]
    if indices[sequence] != of(axes[2]) or any(index.depends_on(axes[2]) for index in others):
        raise _NotInPlace(f"tensor '{joined.output[0]}': past and new {name}s are not joined along the sequence")
    if past not in {entry.name for entry in scope.graph.input} or past in scope.initializers:
        raise _NotInPlace(f"tensor '{past}': the past {name}s are no input of the model")
    if joined.output[0] not in {entry.name for entry in scope.graph.output}:
        raise _NotInPlace(f"tensor '{joined.output[0]}': past and new {name}s are no output of the model")
    dims = interpreter.dims(new)
    if dims is None:
        raise _NotInPlace(f"tensor '{new}': its extents are unknown")
    row = axis(Axis.ROW, dims[sequence])
    moved = tuple(of(row) if place == sequence else index for place, index in enumerate(indices))
    found = ways(interpreter, new, moved, (axes[0], axes[1], row, axes[3]), interpreter.dtype(tensor))
    best = next((way for way in reversed(found) if way.group == 1), None)
    if best is None:
        raise _NotInPlace(f"tensor '{new}': the new {name}s are neither [B, H, S, D] nor a view that is")
    held = _letters(interpreter, indices, axes)
    if held is None:
        raise _NotInPlace(f"tensor '{past}': its axes are none of batch, heads, sequence and features")
    if not _reads_all(interpreter, joined.output[0], held, axes):
        raise _NotInPlace(f"tensor '{joined.output[0]}': it is not known that all {name}s in it are attended")
    return Cached(past, joined.output[0], held, best.tensor, best.view, (*extents[:2], row.bound, extents[3]))


def _letters(interpreter: Interpreter, indices: Sequence[Poly], axes: Sequence[Index]) -> tuple[str, ...] | None:
    """Which of B, H, S and D each axis of a tensor holds, major first; an axis of extent 1 is one that is left."""
    known = dict(zip(axes, CANONICAL, strict=True))
    merged = [radix(interpreter, index) for index in indices]
    held = ["".join(known.get(name, "?") for name in names) if names is not None else "?" for names in merged]
    left = [letter for letter in CANONICAL if letter not in "".join(held)]
    held = [one or (left.pop(0) if left else "?") for one in held]
    return tuple(held) if sorted("".join(held) + "".join(left)) == sorted(CANONICAL) and not left else None


def _reads_all(interpreter: Interpreter, tensor: str, held: Sequence[str], axes: Sequence[Index]) -> bool:
    """Whether the axes have the extents of past and new ones joined.  A Slice may have taken a part from the front."""
    dims = interpreter.dims(tensor)
    bounds = {letter: one.bound for letter, one in zip(CANONICAL, axes, strict=True)}
    return dims is not None and all(
        interpreter.same(extent, math.prod((bounds[letter] for letter in letters), start=ONE))
        for extent, letters in zip(dims, held, strict=True)
    )


def place(view: OperandView, axes: Sequence[Index]) -> tuple[Poly, ...]:
    """Where element (b, h, s, d) of a view lies in its tensor.

    Args:
        view: Of [B, H, S, D].
        axes: The four indices.
    """
    cut: list[Poly] = [of(axes[view.perm.index(place)]) for place in range(4)]
    heads, features = cut[2] + view.starts[0], cut[3] + view.starts[1]
    return (*cut[:2], heads * view.shape[3] + features) if view.reshapes else (*cut[:2], heads, features)
