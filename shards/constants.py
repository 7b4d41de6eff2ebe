"""Tensors that are in the file: which they are, what they hold, and whether a rank can be given a part of one."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from ..graph.index import SUB_BYTE_TYPES, Scope, attribute, numpy_type, operator
from .cuts import AxisCut, NotSeparable

BETWEEN = ("Transpose", "Cast", "Identity", "DequantizeLinear")
"""What may stand between a weight and its product."""


def is_constant(scope: Scope, name: str) -> bool:
    """Whether a tensor is in the file: an initializer that is no input, or what a Constant node holds."""
    if name in scope.initializers:
        return name not in scope.inputs
    made = scope.producers.get(name)
    return made is not None and operator(made) == "Constant"


def is_weight(scope: Scope, name: str) -> bool:
    """Whether a tensor is a constant, moved or converted at most."""
    for _ in range(len(BETWEEN)):
        if is_constant(scope, name):
            return True
        made = scope.producers.get(name)
        if made is None or operator(made) not in BETWEEN:
            return False
        name = made.input[0]
    return is_constant(scope, name)


def constant_tensor(scope: Scope, name: str) -> TensorProto:
    """A constant.

    Raises:
        NotSeparable: It holds no numbers.
    """
    if name in scope.initializers:
        return scope.initializers[name]
    value = attribute(scope.producers[name], "value")
    if isinstance(value, TensorProto):
        return value
    array = scope.constant(name)
    if array is None:
        raise NotSeparable(f"'{name}' holds no numbers")
    return numpy_helper.from_array(np.asarray(array), name)


def check_constant(scope: Scope, name: str, cut: AxisCut) -> None:
    """Look whether parts of a constant can be written.

    Raises:
        NotSeparable: They cannot.
    """
    if cut.trivial:  # every rank has all of it, whatever it is
        return
    tensor = constant_tensor(scope, name)
    if numpy_type(tensor.data_type) is None or tensor.data_type in (*SUB_BYTE_TYPES, TensorProto.STRING):
        raise NotSeparable(f"the weight '{name}' is of a type whose elements share bytes")
    if tensor.dims[cut.axis] % cut.period:
        raise NotSeparable(f"the weight '{name}' is not a multiple of what is cut")
