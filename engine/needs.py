"""The kernels that a rewritten model needs: one request per fused node, from types and extents in the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from ..base.errors import EngineFailed
from ..fused.family import BY_OP_TYPE, MaskKind
from ..fused.layout import OPERANDS, OperandView
from ..graph.index import label
from ..kernels.requests import ELEMENT_BYTES, BufferLayout, KernelRequest
from ..rewriter.interpret import Interpreter
from ..rewriter.interpret.shapes import operand_extents
from .operands import fused_with_facts, node_layout

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
MASK_DTYPES: dict[int, str] = {**DTYPES, TensorProto.BOOL: "bool"}
COPY_BYTES = 16
"""Strides and offsets are multiples of this: what the kernels read at once."""

NATIVE_INSTEAD = "Build with --strategy native to let TensorRT compile the function body instead."


@dataclass(frozen=True)
class Need:
    """The kernels of one node.

    Attributes:
        node: Its name, for messages.
        request: The kind of kernels.
        mask_rows: Its mask may differ between heads or query rows.
        contiguous: The rows of every operand and of the output lie one behind the other.
    """

    node: str
    request: KernelRequest
    mask_rows: bool
    contiguous: bool = True

    @property
    def layout(self) -> BufferLayout:
        """What is known about its buffers.  Runtimes hand over dense tensors, and operands may be views of them."""
        return BufferLayout(contiguous=self.contiguous, mask_rows=self.mask_rows)


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
    try:
        layout = node_layout(node)
    except EngineFailed as error:
        raise Unserved(str(error).rstrip(".")) from error
    head_dim = _width(interpreter, query, layout.query, where)
    value_dim = _width(interpreter, value, layout.value, where)
    try:
        request = KernelRequest(node.op_type, dtype, head_dim, value_dim, mask_dtype)
    except ValueError as error:
        raise Unserved(f"{where}: {error}") from error
    contiguous = layout.output.perm[2] == 2
    widths = (head_dim, head_dim, value_dim)
    for name, tensor, width in zip(OPERANDS, node.input, widths, strict=False):
        step = _step(interpreter, tensor, layout[name])
        multiple = COPY_BYTES // ELEMENT_BYTES[dtype]
        _expect_aligned((step, layout[name].starts[1]), multiple, f"{where}: its {name} '{tensor}'")
        # Row follows on row where the sequence stands right before the features, of which nothing is left out.
        whole = step == width or (step is None and not layout[name].slices)
        contiguous = contiguous and layout[name].perm[2] == 2 and whole
    return Need(label(node), request, mask_rows, contiguous)


def _width(interpreter: Interpreter, tensor: str, view: OperandView, where: str) -> int:
    """The head size of an operand: its last extent, which has to be a number when kernels are compiled."""
    extents = operand_extents(interpreter, view, interpreter.dims(tensor))
    width = None if extents is None else interpreter.facts.normal(extents[3]).constant
    if width is None:
        raise Unserved(
            f"{where}: the head size of '{tensor}' does not follow from the graph. "
            "Run onnx.shape_inference on the model, or export it with a fixed head size"
        )
    return int(width)


def _step(interpreter: Interpreter, tensor: str, view: OperandView) -> int | None:
    """How many numbers there are from a row or head of features to the next one; None where it is not known.

    What is not known is the width of a tensor of rank 4; where the view takes all of it, that is the head size.
    """
    if view.reshapes:
        return view.shape[3]
    dims = interpreter.dims(tensor) or ()
    last = interpreter.facts.normal(dims[3]).constant if len(dims) == 4 else None
    return None if last is None else int(last)


def _expect_aligned(numbers: tuple[int | None, ...], multiple: int, what: str) -> None:
    """Kernels read several numbers at once.

    Raises:
        Unserved: A step or an offset is known and is not a multiple of so many.
    """
    for number in numbers:
        if number is not None and number % multiple:
            raise Unserved(f"{what} is cut at {number} numbers of a head; the kernels take multiples of {multiple}")
