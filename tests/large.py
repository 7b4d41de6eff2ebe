"""Models that are large: in the number of layers, or in weights of which a test writes none."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from textgraphs import read


def external(tensor_name: str, dims: list[int], data_type: int, location: str, offset: int = 0) -> TensorProto:
    """A tensor whose bytes lie in another file."""
    tensor = TensorProto(name=tensor_name, data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset))):
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    return tensor


def sparse_file(path: Path, size: int) -> None:
    """A file of that many bytes that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


def deep(layers: int) -> onnx.ModelProto:
    """The golden attention, stacked."""
    made = read("forms/linear_causal")
    block = list(made.graph.node)
    nodes = []
    for layer in range(layers):
        outputs = {o for n in block for o in n.output}

        def renamed(name: str, layer: int = layer, outputs: set[str] = outputs) -> str:
            if name == "q" and layer:
                return f"y_{layer - 1}"
            return f"{name}_{layer}" if name in outputs else name

        for node in block:
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            copy.input[:] = [renamed(i) for i in node.input]
            copy.output[:] = [f"{o}_{layer}" for o in node.output]
            nodes.append(copy)
    nodes.append(helper.make_node("Identity", [f"y_{layers - 1}"], ["y"]))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made
