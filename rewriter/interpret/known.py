"""The operators as the element rules know them: which versions, which attributes, how many inputs.

A node outside of this table has an element of which nothing is known, whatever its rule would say: a new opset, a
new attribute or a further input may change what an operator means.  ``tests/semantics`` compares the table with
the schemas, and every row with what runtimes compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import onnx.defs
from onnx import NodeProto


@dataclass(frozen=True)
class Known:
    """What is known of one operator.

    Attributes:
        versions: Opsets in which it was given or changed.
        attributes: Names that its rule takes into account (or that mean nothing for the types it covers).
        inputs: How many inputs it reads; 0 for any number.
    """

    versions: frozenset[int]
    attributes: frozenset[str] = frozenset()
    inputs: int = 0


def _row(versions: str, inputs: int, attributes: str = "") -> Known:
    return Known(frozenset(map(int, versions.split())), frozenset(attributes.split()), inputs)


MOVED = "1 13 14 16 19 21 23 24 25"
KNOWN: dict[str, Known] = {
    "Abs": _row("6 13", 1),
    "Add": _row("7 13 14", 2),
    "And": _row("7", 2),
    "Cast": _row("6 9 13 19 21 23 24 25 28", 1, "to saturate round_mode"),
    "CastLike": _row("15 19 21 23 24 25", 2, "saturate round_mode"),
    "Ceil": _row("6 13", 1),
    "Clip": _row("6 11 12 13", 3, "min max"),
    "Concat": _row("4 11 13", 0, "axis"),
    "ConstantOfShape": _row("9 20 21 23 24 25", 1, "value"),
    "Cos": _row("7 22", 1),
    "CumSum": _row("11 14", 2, "exclusive reverse"),
    "Div": _row("7 13 14", 2),
    "Dropout": _row("7 10 12 13 22", 3, "ratio seed"),
    "Einsum": _row("12 28", 0, "equation"),
    "Equal": _row("7 11 13 19", 2),
    "Erf": _row("9 13", 1),
    "Exp": _row("6 13", 1),
    "Expand": _row("8 13", 2),
    "EyeLike": _row("9 22", 1, "dtype k"),
    "Flatten": _row("1 9 11 13 21 23 24 25", 1, "axis"),
    "Floor": _row("6 13", 1),
    "Gather": _row("1 11 13", 2, "axis"),
    "GatherElements": _row("11 13", 2, "axis"),
    "GatherND": _row("11 12 13", 2, "batch_dims"),
    "Greater": _row("7 9 13", 2),
    "GreaterOrEqual": _row("12 16", 2),
    "Identity": _row(MOVED, 1),
    "IsNaN": _row("9 13 20", 1),
    "Less": _row("7 9 13", 2),
    "LessOrEqual": _row("12 16", 2),
    "Log": _row("6 13", 1),
    "MatMul": _row("1 9 13", 2),
    "Max": _row("6 8 12 13", 0),
    "Min": _row("6 8 12 13", 0),
    "Mod": _row("10 13 28", 2, "fmod"),
    "Mul": _row("7 13 14", 2),
    "Neg": _row("6 13", 1),
    "Not": _row("1", 1),
    "Or": _row("7", 2),
    "Pad": _row("2 11 13 18 19 21 23 24 25", 4, "mode pads value"),
    "Pow": _row("7 12 13 15", 2),
    "Range": _row("11 27", 3, "stash_type"),
    "Reciprocal": _row("6 13", 1),
    "ReduceMax": _row("1 11 12 13 18 20", 2, "axes keepdims noop_with_empty_axes"),
    "ReduceMean": _row("1 11 13 18", 2, "axes keepdims noop_with_empty_axes"),
    "ReduceMin": _row("1 11 12 13 18 20", 2, "axes keepdims noop_with_empty_axes"),
    "ReduceProd": _row("1 11 13 18", 2, "axes keepdims noop_with_empty_axes"),
    "ReduceSum": _row("1 11 13", 2, "axes keepdims noop_with_empty_axes"),
    "Relu": _row("6 13 14", 1),
    "Reshape": _row("5 13 14 19 21 23 24 25", 2, "allowzero"),
    "Round": _row("11 22", 1),
    "ScatterElements": _row("11 13 16 18", 3, "axis reduction"),
    "ScatterND": _row("11 13 16 18", 3, "reduction"),
    "Shape": _row("1 13 15 19 21 23 24 25", 1, "start end"),
    "Sigmoid": _row("6 13", 1),
    "Sign": _row("9 13", 1),
    "Sin": _row("7 22", 1),
    "Size": _row("1 13 19 21 23 24 25", 1),
    "Slice": _row("1 10 11 13", 5, "starts ends axes"),
    "Softplus": _row("1 22", 1),
    "Split": _row("2 11 13 18", 2, "axis split num_outputs"),
    "Sqrt": _row("6 13", 1),
    "Squeeze": _row("1 11 13 21 23 24 25", 2, "axes"),
    "Sub": _row("7 13 14", 2),
    "Sum": _row("6 8 13", 0),
    "Tanh": _row("6 13", 1),
    "Tile": _row("6 13", 2),
    "Transpose": _row("1 13 21 23 24 25", 1, "perm"),
    "Trilu": _row("14", 2, "upper"),
    "Unsqueeze": _row("1 11 13 21 23 24 25", 2, "axes"),
    "Where": _row("9 16", 3),
    "Xor": _row("7", 2),
}


def is_known(node: NodeProto, opset: int) -> bool:
    """Whether a node of the standard domain is as its rule expects it.

    Args:
        node: The node.
        opset: The version of the standard operators that the model imports.
    """
    row = KNOWN.get(node.op_type)
    if row is None or _version(node.op_type, opset) not in row.versions:
        return False
    if row.inputs and len(node.input) > row.inputs:
        return False
    return not node.attribute or all(a.name in row.attributes for a in node.attribute)


@lru_cache(maxsize=1 << 12)
def _version(op_type: str, opset: int) -> int:
    """The opset in which the operator got the meaning that it has in this one; 0 if that is unknown."""
    if opset > onnx.defs.onnx_opset_version():
        return 0
    try:
        return int(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0
