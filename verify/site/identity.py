"""Whether two sites are the same.  What was compared at one then holds for the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import TensorProto

from ..pairs import SitePair


def identity(pair: SitePair, roles: Mapping[str, str]) -> str:
    """A digest that two pairs share only if their graphs are the same but for names.

    Values and sizes are numbered in the order in which they are met; constants count with their content.

    Args:
        pair: The site before and after.
        roles: How the model's inputs are drawn, by name.
    """
    digest = hashlib.sha256()
    names: dict[str, str] = {}
    sizes: dict[str, str] = {}
    for proto in (pair.original, pair.rewritten):
        constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        for line in _lines(pair, proto, constants, roles, names, sizes):
            digest.update(line)
            digest.update(b"\n")
    return digest.hexdigest()


def _lines(
    pair: SitePair,
    proto: onnx.ModelProto,
    constants: Mapping[str, TensorProto],
    roles: Mapping[str, str],
    names: dict[str, str],
    sizes: dict[str, str],
) -> Iterator[bytes]:
    def named(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}") if name else ""

    def known(name: str) -> Iterator[bytes]:
        """What a value is, where it is met first."""
        if name in constants:
            nameless = TensorProto()
            nameless.CopyFrom(constants[name])
            nameless.name = nameless.doc_string = ""
            yield nameless.SerializeToString(deterministic=True)
        for held in (pair.tensors, pair.shapes):
            if name in held:
                yield _sizes_in(held[name], sizes).encode()

    inputs = {value.name: value for value in proto.graph.input}
    for node in _from_outputs(proto):
        for name in node.input:
            if name and name not in names:
                kind = inputs[name].type.tensor_type.elem_type if name in inputs else 0
                of_query = pair.query is not None and name == pair.query.tensor
                yield f"{named(name)} {kind} {roles.get(name)} {of_query}".encode()
                yield from known(name)
        yield f"{node.domain} {node.op_type} {[named(n) for n in node.input]}".encode()
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            yield attribute.SerializeToString(deterministic=True)
        yield str([named(n) for n in node.output]).encode()
    yield str([named(output.name) for output in proto.graph.output]).encode()
    yield str(sorted((o.domain, o.version) for o in proto.opset_import)).encode()


def _from_outputs(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes after what they need, in an order that the outputs alone decide, since files order layers in many ways."""
    makers = {name: node for node in proto.graph.node for name in node.output if name}
    done: set[int] = set()
    pending = [(output.name, False) for output in reversed(proto.graph.output)]
    while pending:
        name, ready = pending.pop()
        node = makers.get(name)
        if node is None or id(node) in done:
            continue
        if ready:
            done.add(id(node))
            yield node
        else:
            pending.append((name, True))
            pending.extend((i, False) for i in reversed(node.input) if i)


def _sizes_in(extents: Iterable[Any], sizes: dict[str, str]) -> str:
    """Extents as text, sizes numbered in the order in which they are met."""
    texts = []
    for extent in extents:
        terms = []
        for monomial, coefficient in extent.terms:
            factors = [f"{sizes.setdefault(atom.key, f's{len(sizes)}')}^{power}" for atom, power in monomial]
            terms.append(f"{coefficient}*{'*'.join(factors)}")
        texts.append("+".join(terms))
    return ",".join(texts)
