"""Sums over the ranks and gathering from them, in the words of the runtime that is to carry them out.

onnxruntime gets two operators of our library, domain ``alibi``.  TensorRT from 10.16 on has ``DistCollective``: the
attributes are those of its documentation, spelled as NVIDIA's Polygraphy writes them.  It gathers along the first axis
only, so the axis is brought there and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import NodeProto, helper

from ..fused.family import DOMAIN
from ..graph.index import attribute, int_attribute
from .request import ONNXRUNTIME

ALL_REDUCE = "AlibiAllReduce"
ALL_GATHER = "AlibiAllGather"
DIST_COLLECTIVE = "DistCollective"

Namer = Callable[[str], str]
"""Makes a name that nothing else has."""


@dataclass(frozen=True)
class Collective:
    """What a node does.

    Attributes:
        axis: The axis along which it puts the ranks' parts one behind the other; None if it sums them.
        ranks: How many ranks take part.
    """

    axis: int | None
    ranks: int


def summed(value: str, output: str, ranks: int, runtime: str, name: Namer) -> list[NodeProto]:
    """Nodes that make the sum over the ranks of a tensor."""
    label = name(f"{output}/all_reduce")
    if runtime == ONNXRUNTIME:
        return [helper.make_node(ALL_REDUCE, [value], [output], name=label, domain=DOMAIN, group_size=ranks)]
    return [_distributed(value, output, label, "all_reduce", "sum", ranks)]


def gathered(value: str, output: str, axis: int, rank: int, ranks: int, runtime: str, name: Namer) -> list[NodeProto]:
    """Nodes that put the ranks' parts of a tensor one behind the other.

    Args:
        value: A rank's part.
        output: The whole tensor.
        axis: Along which.
        rank: Axes of the tensor.
        ranks: How many ranks there are.
        runtime: Whose words: one of ``request.RUNTIMES``.
        name: For what stands between.
    """
    label = name(f"{output}/all_gather")
    if runtime == ONNXRUNTIME:
        made = helper.make_node(ALL_GATHER, [value], [output], name=label, domain=DOMAIN, axis=axis, group_size=ranks)
        return [made]
    if axis == 0:
        return [_distributed(value, output, label, "all_gather", "none", ranks)]
    there = [axis, *(a for a in range(rank) if a != axis)]
    back = [there.index(a) for a in range(rank)]
    first, whole = name(f"{output}/first"), name(f"{output}/whole")
    return [
        helper.make_node("Transpose", [value], [first], name=name(f"{output}/there"), perm=there),
        _distributed(first, whole, label, "all_gather", "none", ranks),
        helper.make_node("Transpose", [whole], [output], name=name(f"{output}/back"), perm=back),
    ]


def _distributed(value: str, output: str, label: str, operation: str, reduce: str, ranks: int) -> NodeProto:
    return helper.make_node(
        DIST_COLLECTIVE,
        [value],
        [output],
        name=label,
        collective_operation=operation,
        reduce_op=reduce,
        root=-1,
        nb_rank=ranks,
        group_size=ranks,
    )


def collective_of(node: NodeProto) -> Collective | None:
    """What a node does over the ranks; None if it is no collective."""
    if node.domain == DOMAIN and node.op_type == ALL_REDUCE:
        return Collective(None, int_attribute(node, "group_size", 0))
    if node.domain == DOMAIN and node.op_type == ALL_GATHER:
        return Collective(int_attribute(node, "axis", 0), int_attribute(node, "group_size", 0))
    if node.domain == "" and node.op_type == DIST_COLLECTIVE:
        gathers = attribute(node, "collective_operation") == b"all_gather"
        return Collective(0 if gathers else None, int_attribute(node, "nb_rank", 0))
    return None
