"""The node that writes new keys and values into a cache of fixed capacity, specified once.

A cache in place is a pair of buffers [B, H_kv, C, D] and [B, H_kv, C, D_v].  Sequence ``b`` uses its first
``key_lengths[b]`` rows once the S new keys and values are the last of them::

    present_key[b, h, j]   = key[b, h, j - (key_lengths[b] - S)]   where that is one of the S new keys
                             past_key[b, h, j]                     elsewhere

and values likewise.  Where present and past are the same memory, only the new rows are written.  Key and value may lie
in a tensor of the graph as those of the fused node do (``layout.py``).  In the words of the standard this is
``TensorScatter`` along the sequence, and the function body says so from opset 24 on.

What would lie outside of the C rows is not written.  Where the lengths can be read, which is on the CPU, that is an
error and nothing at all is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx.parser

from .family import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION
from .layout import AS_IT_IS, BHSD, NO_MOVES, VIEWS, Moves, OperandView
from .operand import view_attributes, write_operand
from .text import Body

OP_TYPE = "AlibiCacheAppend"
"""The node's op_type in domain ``alibi``."""

INPUTS = ("past_key", "past_value", "key", "value", "key_lengths")
OUTPUTS = ("present_key", "present_value")

CACHED = ("key", "value")
"""What is appended, in the order of inputs and outputs."""

SCATTER_OPSET = 24
"""From here on the standard has ``TensorScatter``."""

_SEQUENCE_AXIS = 2


@dataclass(frozen=True)
class CacheAppend:
    """The attributes of one such node.

    Attributes:
        key: Of the new keys [B, H_kv, S, D].
        value: Of the new values [B, H_kv, S, D_v].
        views: The node says so by attributes even where both are [B, H, S, D], because another node uses the same body.
    """

    key: OperandView = AS_IT_IS
    value: OperandView = AS_IT_IS
    views: bool = False

    @property
    def plain(self) -> bool:
        """Both tensors are [B, H, S, D]."""
        return self.key.plain and self.value.plain

    def attributes(self) -> dict[str, str | list[int]]:
        """The node's ONNX attributes; every one is present on every node."""
        views = self.views or not self.plain
        return {
            "layout": VIEWS if views else BHSD,
            "plugin_namespace": PLUGIN_NAMESPACE,
            "plugin_version": PLUGIN_VERSION,
            **({**self.key.attributes("key"), **self.value.attributes("value")} if views else {}),
        }


def moves_of(nodes: Sequence[CacheAppend]) -> Moves:
    """What a body has to do about the layouts of all nodes that use it."""
    return Moves.of_views([(name, view) for node in nodes for name, view in (("key", node.key), ("value", node.value))])


def append_proto(opset: int, *, query_type: int, moves: Moves = NO_MOVES) -> onnx.FunctionProto:
    """Builds the function body.

    Args:
        opset: Version of the default domain the body is written for; the model's own.
        query_type: ``TensorProto`` type of keys and values.
        moves: What has to be done about the layouts of the nodes that use this body.

    Returns:
        A function in domain ``alibi`` named ``AlibiCacheAppend``.
    """
    return onnx.parser.parse_function(append_text(opset, query_type=query_type, moves=moves))


def append_text(opset: int, *, query_type: int, moves: Moves = NO_MOVES) -> str:
    """The text behind :func:`append_proto`, with the same arguments."""
    body = Body(opset, query_type)
    new = {name: write_operand(body, name, moves) for name in CACHED}
    _first_row(body, new["key"])
    if opset >= SCATTER_OPSET:
        for name in CACHED:
            scatter = f"TensorScatter <axis = {_SEQUENCE_AXIS}>"
            body.line(f"present_{name} = {scatter} (past_{name}, {new[name]}, first_row)")
    else:
        _rows(body)
        for name in CACHED:
            _scatter(body, name, new[name])
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    attributes = [a for name in CACHED for a in view_attributes(name, moves)]
    listed = f" <{', '.join(attributes)}>" if attributes else ""
    signature = f"{OP_TYPE}{listed} ({', '.join(INPUTS)}) => ({', '.join(OUTPUTS)})"
    return "\n".join([header, signature, "{", *body.lines, "}", ""])


def _first_row(body: Body, key: str) -> None:
    """``first_row`` [B]: where the new rows begin."""
    body.extent("S", key, _SEQUENCE_AXIS)
    body.line("first_row = Sub (key_lengths, S)")


def _rows(body: Body) -> None:
    """Which new row belongs to a row of the buffer: ``new_row`` and whether there is one, both [B, 1, C, 1]."""
    body.extent("C", "past_key", _SEQUENCE_AXIS)
    body.constant("zero", "int64", [0])
    body.constant("one", "int64", [1])
    body.line("rows = Range (zero, C, one)")
    body.unsqueeze("row", "rows", [0, 1, 3])
    body.unsqueeze("first", "first_row", [1, 2, 3])
    body.line("behind = Sub (row, first)")
    body.line("before = Less (behind, zero)")
    body.line("not_before = Not (before)")
    body.line("among = Less (behind, S)")
    body.line("is_new = And (not_before, among)")
    body.line("new_row = Where (is_new, behind, zero)")


def _scatter(body: Body, name: str, new: str) -> None:
    """The buffer with the new rows in place of its own."""
    body.line(f"{name}_shape_of_past = Shape (past_{name})")
    body.line(f"{name}_rows = Expand (new_row, {name}_shape_of_past)")
    body.line(f"{name}_moved = GatherElements <axis = {_SEQUENCE_AXIS}> ({new}, {name}_rows)")
    body.line(f"present_{name} = Where (is_new, {name}_moved, past_{name})")
