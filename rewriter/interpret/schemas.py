"""Extents by the standard's own shape inference, for operators that have no rule here.

An operator far from any attention (a pooling that an exporter makes a layer norm of, a convolution, a top-k) must
not leave the attention behind it without shapes.  The standard's inference knows all operators.  It gets one node
at a time, with a name for every extent that is not a number.  What it calls by one name is one extent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx.defs
import onnx.shape_inference
from onnx import NodeProto, TypeProto, helper, numpy_helper

from ...algebra import Poly, poly
from ...graph.index import subgraphs

if TYPE_CHECKING:
    from .engine import Interpreter

Dims = tuple[Poly, ...] | None
Found = tuple[int, Dims]
"""Element type (0 where unknown) and extents of one output."""

MOST_ELEMENTS = 64
"""Constants that are handed on by value.  They are shapes, axes and repeats, not weights."""


def inferred(interpreter: Interpreter, node: NodeProto) -> list[Found]:
    """Types and extents of what a node makes, as far as the standard's inference tells.

    Args:
        interpreter: For the extents and types of the operands.
        node: A node of the standard domain.
    """
    unknown: list[Found] = [(0, None)] * len(node.output)
    version = interpreter.scope.opset.get("", 1)
    if node.domain not in ("", "ai.onnx") or any(True for _ in subgraphs(node)):
        return unknown
    if not onnx.defs.has(node.op_type, version):
        return unknown
    names: dict[str, Poly] = {}
    types = {name: _type(interpreter, name, names) for name in node.input if name}
    if any(interpreter.dtype(name) == 0 for name in types):
        return unknown
    try:
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, version),
            node,
            types,
            _constants(interpreter, node),
            opset_imports=[helper.make_opsetid("", version)],
        )
    except Exception:  # noqa: BLE001 - the inference has no exception type of its own; what it does not take is not known
        return unknown
    return [_read(interpreter, found.get(name), names) for name in node.output]


def _type(interpreter: Interpreter, name: str, names: dict[str, Poly]) -> TypeProto:
    dims = interpreter.dims(name)
    if dims is None:
        return helper.make_tensor_type_proto(interpreter.dtype(name), None)
    shape: list[int | str] = []
    for extent in (interpreter.facts.normal(d) for d in dims):
        constant = extent.constant
        if constant is not None:
            shape.append(int(constant))
            continue
        known = next((n for n, e in names.items() if e == extent), f"extent{len(names)}")
        names[known] = extent
        shape.append(known)
    return helper.make_tensor_type_proto(interpreter.dtype(name), shape)


def _constants(interpreter: Interpreter, node: NodeProto) -> dict[str, onnx.TensorProto]:
    found = {}
    for name in node.input:
        dims = interpreter.dims(name) if name else None
        extents = [d.constant for d in dims or ()]
        known = [int(e) for e in extents if e is not None]
        if dims is None or len(known) != len(extents) or math.prod(known) > MOST_ELEMENTS:
            continue
        array = interpreter.array(name)
        if array is not None:
            found[name] = numpy_helper.from_array(array, name)
    return found


def _read(interpreter: Interpreter, found: TypeProto | None, names: dict[str, Poly]) -> Found:
    if found is None:
        return 0, None
    tensor = found.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    result = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            result.append(poly(dim.dim_value))
        else:
            named = names.get(dim.dim_param) if dim.HasField("dim_param") else None
            result.append(interpreter.fresh_size() if named is None else named)
    return tensor.elem_type, tuple(result)
