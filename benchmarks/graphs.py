"""A graph that benchmarks write operator by operator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class Graph:
    """Nodes and constants of one model.

    Args:
        numbers: The type of constants for which none is said.
    """

    def __init__(self, numbers: type[np.generic] = np.float32) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers = numbers

    def __call__(self, op_type: str, *inputs: str, **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: npt.ArrayLike, dtype: type[np.generic] | None = None) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype or self._numbers), name))
        return name
