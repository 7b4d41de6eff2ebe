"""What else would have to know how long the cache is.  In place it has as many lengths as there are sequences."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from ...base.errors import NotRewritten
from ...fused.append import OP_TYPE
from ...fused.family import DOMAIN, is_fused
from ...graph.edit import uses
from ...graph.index import Scope, int_attribute, label, operator
from ...patterns.caches import RANK, SEQUENCE_AXIS
from .found import CANONICAL, CURE, Cache


def check_leftovers(scope: Scope, found: Sequence[Cache], padded: Sequence[str], where: str) -> None:
    """Refuse what still reads the length of a cache, or an input that said what is padding.

    Args:
        scope: The main graph once it is edited.
        found: The caches.
        padded: Inputs that have to go.
        where: The file, for errors.

    Raises:
        NotRewritten: Something does.
    """
    canonical = {
        name: one.axes == tuple(CANONICAL) for cache in found for one in cache.both for name in (one.past, one.present)
    }
    gone = set(padded)
    for entry in scope.graph.output:
        if entry.name in gone:
            raise NotRewritten(f"'{where}', output '{entry.name}': it is the input that said what is padding. {CURE}")
    for node in scope.graph.node:
        if node.domain == DOMAIN and (node.op_type == OP_TYPE or is_fused(node)):
            continue
        for name in uses(node):
            if name in gone:
                raise _refused(where, node, name, "is padding no more, but this still reads it")
            if name in canonical and not (canonical[name] and _reads_no_length(scope, node)):
                raise _refused(where, node, name, "is a buffer in place, but this needs the length of a growing cache")


def _refused(where: str, node: NodeProto, name: str, why: str) -> NotRewritten:
    return NotRewritten(f"'{where}', node '{label(node)}', tensor '{name}': it {why}. {CURE}")


def _reads_no_length(scope: Scope, node: NodeProto) -> bool:
    """Whether a node asks a buffer [B, H, C, D] for other extents than C only."""
    if operator(node) != "Shape":
        return False
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", RANK)
    first, last = (max(0, min(RANK, place + RANK if place < 0 else place)) for place in (start, end))
    if not first <= SEQUENCE_AXIS < last:
        return True
    return all(
        use.node is not None and _picks_another(scope, use.node, SEQUENCE_AXIS - first, last - first)
        for use in scope.consumers.get(node.output[0], [])
    ) and node.output[0] not in {entry.name for entry in scope.graph.output}


def _picks_another(scope: Scope, node: NodeProto, length: int, count: int) -> bool:
    """Whether a node takes from a shape only what does not stand at ``length``."""
    if operator(node) == "Gather":
        places = scope.constant(node.input[1])
        return places is not None and all(int(place) % count != length for place in places.reshape(-1))
    if operator(node) == "Slice" and len(node.input) in (3, 4, 5):
        bounds = [scope.constant(name) for name in node.input[1:]]
        if any(one is None or one.size != 1 for one in bounds):
            return False
        start, end, *rest = (int(one.reshape(-1)[0]) for one in bounds if one is not None)
        step = rest[1] if len(rest) > 1 else 1
        return step > 0 and length not in range(count)[start:end:step]
    return False
