"""Which float tensors hold exactly what the algebra says.  A comparison near equality sees the last bit.

``0.1 * j * 10 == j`` is true in real numbers and false in float32 for some j.  Positions that were cast, added,
and multiplied by powers of two are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from .operators import OPERATORS, UNKNOWN
from .rounding import PRECISION

if TYPE_CHECKING:
    from ...graph.index import Array
    from .engine import Interpreter

STEPS = 1 << 10
"""Constants count as exact if they are whole multiples of one part in this many, and small: slopes such as 1/256."""

MOST_ELEMENTS = 1 << 16
"""Constants of more elements are not looked at, since slopes and positions are smaller."""

LARGEST_EXACT = 1 << 30
"""In steps, a million.  Sums are formed in float64 here, which has digits to spare beside that."""

HIDING = 2.0**100
"""In steps.  Larger numbers are not calculated with; they hide a key, as finfo.min and infinity do."""

MOST_TENSORS = 400
"""Tensors that are looked at; beyond it nothing is claimed."""


def is_exact(interpreter: Interpreter, name: str) -> bool:
    """Whether a tensor holds what its element is said to be, to the last bit."""
    seen = {name}
    pending = [name]
    while pending:
        current = pending.pop()
        dtype = interpreter.dtype(current)
        if dtype not in PRECISION:
            continue  # integers and booleans are, or they are reads
        array = interpreter.array(current)
        if array is not None:
            if not _is_dyadic(array):
                return False
            continue
        node = interpreter.scope.producer(current)
        if node is None:
            continue  # a run-time value is what it is
        if not OPERATORS.get(node.op_type, UNKNOWN).exact or not interpreter.understands(node):
            if _is_opaque(interpreter, node):
                continue
            return False
        new = [i for i in node.input if i and i not in seen]
        seen.update(new)
        pending.extend(new)
        if len(seen) > MOST_TENSORS:
            return False
    return True


def _is_opaque(interpreter: Interpreter, node: NodeProto) -> bool:
    """Whether no rule says anything about what a node makes.  A read of such a result is exact."""
    return ("", node.op_type) not in interpreter.rules or not interpreter.understands(node)


def _is_dyadic(array: Array) -> bool:
    if array.size > MOST_ELEMENTS:
        return False
    with np.errstate(all="ignore"):
        values = np.asarray(array, np.float64) * STEPS
    huge = np.abs(values) >= HIDING
    return bool((huge | ((values == np.floor(values)) & (np.abs(values) < LARGEST_EXACT))).all())
