"""The kernels that a rewritten model needs: one request per fused node, from types and extents in the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from ..algebra import Poly
from ..base.errors import EngineFailed
from ..fused.family import BY_OP_TYPE, MaskKind
from ..graph.index import label
from ..kernels.requests import BufferLayout, KernelRequest
from ..rewriter.interpret import Interpreter
from .operands import fused_with_facts

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
MASK_DTYPES: dict[int, str] = {**DTYPES, TensorProto.BOOL: "bool"}
NATIVE_INSTEAD = "Build with --strategy native to let TensorRT compile the function body instead."


@dataclass(frozen=True)
class Need:
    """The kernels of one node.

    Attributes:
        node: Its name, for messages.
        request: The kind of kernels.
        mask_rows: Its mask may differ between heads or query rows.
    """

    node: str
    request: KernelRequest
    mask_rows: bool

    @property
    def layout(self) -> BufferLayout:
        """What is known about its buffers.  TensorRT hands over dense tensors."""
        return BufferLayout(contiguous=True, mask_rows=self.mask_rows)


class Unserved(Exception):
    """No kernel takes a node; the message names the node and says why."""


def needs(model: ModelProto, base_dir: Path) -> Iterator[tuple[NodeProto, Need]]:
    """Every fused node with what it needs.

    Args:
        model: A rewritten model.
        base_dir: Where its external data lie.

    Raises:
        EngineFailed: A type or head size is unknown, or no kernel takes it.
    """
    for node, found in each_need(model, base_dir):
        if isinstance(found, Unserved):
            raise EngineFailed(f"{found}. {NATIVE_INSTEAD}")
        yield node, found


def each_need(model: ModelProto, base_dir: Path) -> Iterator[tuple[NodeProto, Need | Unserved]]:
    """Every fused node with what it needs, or why no kernel serves it.

    Args:
        model: A rewritten model.
        base_dir: Where its external data lie.
    """
    for interpreter, node in fused_with_facts(model, base_dir):
        try:
            yield node, _need(interpreter, node)
        except Unserved as reason:
            yield node, reason


def _need(interpreter: Interpreter, node: NodeProto) -> Need:
    where = f"fused node '{label(node)}' ({node.op_type})"
    variant = BY_OP_TYPE[node.op_type]
    query, value = node.input[0], node.input[2]
    dtype = DTYPES.get(interpreter.dtype(query))
    if dtype is None:
        raise Unserved(f"{where}: the type of its query '{query}' is not known")
    mask_dtype, mask_rows = None, False
    if variant.mask != MaskKind.NONE.value:
        mask = node.input[variant.inputs.index("mask")]
        mask_dtype = MASK_DTYPES.get(interpreter.dtype(mask))
        extents = interpreter.dims(mask) or ()
        mask_rows = len(extents) != 4 or extents[1] != 1 or extents[2] != 1
        if mask_dtype is None:
            raise Unserved(f"{where}: the type of its mask '{mask}' is not known")
    head_dim = _width(interpreter, query, where)
    value_dim = _width(interpreter, value, where)
    try:
        request = KernelRequest(node.op_type, dtype, head_dim, value_dim, mask_dtype)
    except ValueError as error:
        raise Unserved(f"{where}: {error}") from error
    return Need(label(node), request, mask_rows)


def _width(interpreter: Interpreter, tensor: str, where: str) -> int:
    """The head size of an operand: its last extent, which has to be a number when kernels are compiled."""
    extents: tuple[Poly, ...] = interpreter.dims(tensor) or ()
    width = interpreter.facts.normal(extents[3]).constant if len(extents) == 4 else None
    if width is None:
        raise Unserved(
            f"{where}: the head size of '{tensor}' does not follow from the graph. "
            "Run onnx.shape_inference on the model, or export it with a fixed head size"
        )
    return int(width)
