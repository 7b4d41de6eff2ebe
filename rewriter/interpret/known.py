"""Whether a node is as its rule expects it: the allow-list of ``operators``, asked about one node."""

from __future__ import annotations

from functools import lru_cache

import onnx.defs
from onnx import NodeProto

from .operators import KNOWN

__all__ = ["KNOWN", "is_known"]


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
