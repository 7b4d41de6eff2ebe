"""BLOOM models of many layers, made of small ones that are in the repository; neither torch nor transformers is needed.

``python benchmarks/pass/models.py FOLDER [--layers 2 24 70 140]`` takes exports of two layers, one by each of PyTorch's
exporters, and repeats the second layer: all nodes that its input leads to and its output comes from, with names of
their own.  What layers share (masks, the bias) stays shared, and so do the weights.  What the pass costs depends on the
graph and not on the width of its matrices.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Export:
    """A model of two layers.

    Attributes:
        path: The file.
        norms: Of its layer normalisations, in order: the one that the second layer begins with, and the one behind it.
    """

    path: str
    norms: tuple[int, int]


EXPORTS = {
    "torchscript": Export("tests/data/bloom__tf5_h6_ts17_dyn_mask_nofold.onnx", (3, 5)),
    "dynamo": Export("examples/bloom-tiny.onnx", (3, 5)),
}
"""By exporter."""


def model_of(exporter: str, layers: int) -> ModelProto:
    """A model of that many layers.

    Raises:
        ValueError: There are fewer than two layers.
    """
    export = EXPORTS[exporter]
    model = onnx.load(REPOSITORY / export.path)
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    first, last = (norms[number].input[0] for number in export.norms)
    return repeated(model, first, last, layers - 1)


def repeated(model: ModelProto, first: str, last: str, times: int) -> ModelProto:
    """The model with a block repeated: what leads from one tensor to another, once after the other.

    Args:
        model: The model; its outputs are those of the last block, if they come from it at all.
        first: The tensor that the block reads.
        last: The tensor that it makes.
        times: How often it is there.

    Raises:
        ValueError: It is not there at all.
    """
    if times < 1:
        raise ValueError(f"a block that is there {times} times")
    block = block_of(model.graph, first, last)
    inner = {name for node in block for name in node.output}
    nodes = [node for node in model.graph.node if node.output[0] not in inner]
    for number in range(times - 1):
        nodes += copied(block, inner, first, last, number)
    # The last one keeps the names that the rest of the model reads.
    nodes += [renamed(node, {first: f"{last}.{times - 2}"} if times > 1 else {}) for node in block]
    made = ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(ordered(made.graph, nodes))
    return made


def block_of(graph: GraphProto, first: str, last: str) -> list[NodeProto]:
    """The nodes between two tensors, in graph order."""
    reached = {first}
    for node in graph.node:
        if reached & set(node.input):
            reached.update(node.output)
    needed = {last}
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
    inside = (reached - {first}) & needed
    return [node for node in graph.node if inside & set(node.output)]


def copied(block: Iterable[NodeProto], inner: set[str], first: str, last: str, number: int) -> list[NodeProto]:
    """One more copy of a block: it reads the copy before, or what the block itself reads."""
    names = {name: f"{name}.{number}" for name in inner}
    names[first] = f"{last}.{number - 1}" if number else first
    return [renamed(node, names, f".{number}") for node in block]


def renamed(node: NodeProto, names: dict[str, str], suffix: str = "") -> NodeProto:
    """A node with other tensors."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    if copy.name:
        copy.name += suffix
    return copy


def ordered(graph: GraphProto, nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes so that each stands behind what it reads; otherwise as they are."""
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    waiting, found = nodes, list[NodeProto]()
    while waiting:
        left = []
        for node in waiting:
            if known.issuperset(node.input):
                known.update(node.output)
                found.append(node)
            else:
                left.append(node)
        if len(left) == len(waiting):
            raise ValueError(f"node '{left[0].name}' reads what nothing makes")
        waiting = left
    return found


def main() -> None:
    """Write everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 24, 70, 140])
    parser.add_argument("--exporters", nargs="+", choices=EXPORTS, default=list(EXPORTS))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for layers in options.layers:
        for exporter in options.exporters:
            target = options.folder / f"bloom-{exporter}-{layers}.onnx"
            if not target.exists():
                onnx.save(model_of(exporter, layers), target)
                print(target)


if __name__ == "__main__":
    main()
