"""What a fused node computes in a batch without padding: its mask hides no key, and its positions count keys.

Sequences of different lengths need padding only because a cache that grows is one tensor.  In place, each has a length
of its own.  So the padding mask is taken to hold ones only, and the interpreter says what is left of a mask then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from ...algebra import ONE, ZERO, Ind, Poly, interval, split
from ...base.errors import NotRewritten
from ...fused.family import BY_OP_TYPE, MaskKind
from ...graph.edit import uses
from ...graph.index import Scope, label
from ..interpret import Interpreter
from ..interpret.environment import INTEGER_TYPES
from ..interpret.scopes import interpreted
from ..recognise.views import places_in

_TYPES = frozenset({*INTEGER_TYPES, TensorProto.BOOL})


@dataclass(frozen=True)
class _Condition:
    """An input of a fused node that says nothing where nothing is padded.

    Attributes:
        tensor: What is read.
        kind: Which input it is.
        expected: What it has to hold.
    """

    tensor: str
    kind: str
    expected: str


def padding_inputs(root: Scope, nodes: Sequence[NodeProto], where: str) -> tuple[str, ...]:
    """The inputs that say what is padding, where nothing else hides a key.

    Args:
        root: The main graph.
        nodes: The fused nodes of it.
        where: The file, for errors.

    Returns:
        Inputs that the masks and positions are made of, in the order of the model's inputs.

    Raises:
        NotRewritten: A mask hides keys for another reason, or positions do not count keys.
    """
    conditions = [(node, found) for node in nodes if (found := _conditions(node))]
    if not conditions:
        return ()
    read = _inputs_behind(root, [one.tensor for _, found in conditions for one in found])
    plain = next(interpreted(root))
    padded = tuple(
        entry.name
        for entry in root.graph.input
        if entry.name in read and plain.rank(entry.name) == 2 and plain.dtype(entry.name) in _TYPES
    )
    full = next(interpreted(root, full_inputs=frozenset(padded)))
    for node, found in conditions:
        for one in found:
            value = _at_any_key(full, one)
            if value is None:
                raise NotRewritten(
                    f"'{where}', node '{label(node)}', tensor '{one.tensor}': a cache in place needs {one.expected} "
                    "where nothing is padded, and that is not known of it. Leave out --cache."
                )
    return padded


def _conditions(node: NodeProto) -> list[_Condition]:
    """What has to say nothing at one node."""
    variant = BY_OP_TYPE[node.op_type]
    held = dict(zip(variant.inputs, node.input, strict=False))
    mask = "a mask that hides no key" if variant.mask == MaskKind.BOOLEAN.value else "a mask of zeros"
    expected = {"mask": mask, "key_positions": "positions that count keys", "key_bias": "a key bias of zeros"}
    return [_Condition(held[kind], kind, what) for kind, what in expected.items() if kind in held]


def _at_any_key(full: Interpreter, one: _Condition) -> Poly | None:
    """What the tensor holds, if that is what it has to."""
    dims = full.dims(one.tensor)
    if dims is None:
        return None
    places = places_in("x", dims)
    value = _settled(full.element(one.tensor, places))
    if one.kind == "key_positions":
        counted = value - places[-1]
        return None if any(counted.depends_on(atom) for atom in places[-1].atoms) else value
    boolean = full.dtype(one.tensor) == TensorProto.BOOL
    return value if value == (ONE if boolean else ZERO) else None


def _settled(value: Poly) -> Poly:
    """The value with 1 for every comparison that holds in all runs of a realistic size."""
    for atom in value.sorted_atoms():
        if not isinstance(atom, Ind) or atom.condition.kind not in ("le", "lt") or atom.condition.value is None:
            continue
        span = interval(atom.condition.value)
        if span is not None and (span[1] < 0 or (atom.condition.kind == "le" and span[1] == 0)):
            value = split(value, atom)[1]
    return value


def _inputs_behind(root: Scope, tensors: Sequence[str]) -> set[str]:
    """The inputs of the graph that some tensors are computed from."""
    given = {entry.name for entry in root.graph.input}
    found: set[str] = set()
    seen: set[str] = set()
    pending = list(tensors)
    while pending:
        name = pending.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        if name in given:
            found.add(name)
        node = root.producer(name)
        pending.extend([] if node is None else uses(node))
    return found
