"""Whether everything outside of the sites is, node by node, what it was.

Together with a verification of every site this says that whole models agree.  A value of the output is made by the same
node from the same values as in the original, or by a site that was compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from ...graph.index import label, subgraphs

Digests = Mapping[tuple[str, str], bytes]
"""What a node is, by the path of its graph and its first output."""


def digests(model: ModelProto) -> Digests:
    """Takes down all nodes of a model that is about to be edited."""
    return {(path, _first(node)): _digest(node) for path, graph in _graphs(model.graph) for node in graph.node}


def changes(before: Digests, original: ModelProto, rewritten: ModelProto, made: Collection[str]) -> list[str]:
    """What differs outside of the sites, in words; nothing if all is as it should be.

    Args:
        before: The nodes of the original as it was analysed.
        original: The original file, for inputs, outputs and weights.
        rewritten: What will be written.
        made: Values that the sites make, in the rewritten model.
    """
    found = []
    for what in ("input", "output"):
        names = [
            [v.SerializeToString(deterministic=True) for v in getattr(m.graph, what)] for m in (original, rewritten)
        ]
        if names[0] != names[1]:
            found.append(f"the {what}s of the graph are others")
    weights = dict(_tensors(original))
    for name, tensor in _tensors(rewritten):
        if name in weights and not _same_tensor(weights[name], tensor):
            found.append(f"the constant '{name}' is another")
    for path, graph in _graphs(rewritten.graph):
        for node in graph.node:
            if before.get((path, _first(node))) == _digest(node):
                continue
            if not all(o in made for o in node.output if o):
                found.append(f"node '{label(node)}' belongs to no site and is not the original's")
    return found


def _first(node: NodeProto) -> str:
    return next((o for o in node.output if o), f"/{label(node)}")


def _digest(node: NodeProto) -> bytes:
    """A node without what has no meaning, and without the bodies, whose nodes are looked at one by one."""
    bare = NodeProto(op_type=node.op_type, domain=node.domain, overload=node.overload)
    bare.input.extend(node.input)
    bare.output.extend(node.output)
    graphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    bare.attribute.extend(sorted((a for a in node.attribute if a.type not in graphs), key=lambda a: a.name))
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True))
    for name, body in subgraphs(node):
        ends = [name, *(v.name for v in body.input), "->", *(v.name for v in body.output)]
        digest.update("\n".join(ends).encode())
    return digest.digest()


def _graphs(graph: GraphProto) -> Iterator[tuple[str, GraphProto]]:
    """A graph and the bodies in it, each with its path."""
    pending = [("", graph)]
    while pending:
        path, current = pending.pop()
        yield path, current
        for node in current.node:
            pending.extend((f"{path}/{_first(node)}.{name}", body) for name, body in subgraphs(node))


def _tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    for path, graph in _graphs(model.graph):
        for tensor in graph.initializer:
            yield f"{path}/{tensor.name}" if path else tensor.name, tensor


def _same_tensor(one: TensorProto, other: TensorProto) -> bool:
    """Whether bytes are equal.  Data in files are, where offset and length are, since files are copied as they are."""
    if (one.data_type, list(one.dims), one.data_location) != (other.data_type, list(other.dims), other.data_location):
        return False
    if one.data_location == TensorProto.EXTERNAL:
        places = [{e.key: e.value for e in t.external_data if e.key in ("offset", "length")} for t in (one, other)]
        return places[0] == places[1]
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
