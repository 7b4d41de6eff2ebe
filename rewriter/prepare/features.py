"""What an attention operator is asked to do.  Only what ``patterns/operators.py`` names is understood."""

from __future__ import annotations

import onnx
from onnx import NodeProto

from ...graph.index import Scope, attribute
from ...patterns.operators import (
    ANY,
    OWN_TYPE,
    PACKED,
    PATTERNS,
    READ,
    READ_OPERATORS,
    UNREAD,
    Allowed,
    OperatorPattern,
)
from ..verdicts import Code, Refusal, Refuser, Stage

_refuse = Refuser(Stage.ANCHOR)

BY_OPERATOR = {(p.domain, p.op_type): p for p in reversed(PATTERNS)}
"""The first pattern of every attention operator."""


ANCHORS = READ_OPERATORS | {"Softmax", "Div", *(name for _, name in UNREAD)}
"""Operators, of whatever domain, that may be looked at as the anchor of an attention."""


def pattern_of(node: NodeProto) -> OperatorPattern | None:
    """The pattern of an attention operator, or None."""
    return BY_OPERATOR.get((_domain(node), node.op_type))


def unread(node: NodeProto) -> Refusal | None:
    """The refusal of an attention operator that is not read as it stands; None for any other node."""
    domain = _domain(node)
    if (domain, node.op_type) == (PACKED.domain, PACKED.op_type):
        place, why = PACKED.inputs["bias"], unsupported(node, PACKED, 1)
        detail = why or "its weights are no constant matrix that can be split into query, key and value"
    elif (domain, node.op_type) in UNREAD:
        place, detail = UNREAD[domain, node.op_type], f"{node.op_type} is not read"
    else:
        return None
    if len(node.input) <= place or not node.input[place]:
        return _refuse(Code.NO_BIAS, node, f"{node.op_type} has no bias input")
    return _refuse(Code.FEATURE, node, detail, tensor=node.input[place])


def unsupported(node: NodeProto, pattern: OperatorPattern, version: int, own_type: int = 0) -> str | None:
    """What of a node the table does not allow, in words; None if there is nothing.

    Args:
        node: An attention operator.
        pattern: Its description.
        version: The version of its schema.
        own_type: Element type of its query, 0 if unknown.
    """
    if version not in pattern.versions:
        known = ", ".join(map(str, pattern.versions))
        return f"version {version} of {node.op_type} is not known here (known: {known})"
    allowed = {*pattern.inputs.values(), *(pattern.lengths or ())}
    for position, name in enumerate(node.input):
        if name and position not in allowed:
            return f"input {position} ({_named(pattern.signature, position)}) is connected: '{name}'"
    for position, name in enumerate(node.output):
        if name and position >= len(pattern.results):
            return f"output {position} is not known here: '{name}'"
    for candidate in node.attribute:
        meaning = pattern.attributes.get(candidate.name)
        if meaning is None:
            return f"attribute {candidate.name} is not known here"
        if not _is_neutral(node, candidate.name, meaning, own_type):
            return f"{candidate.name} = {_shown(attribute(node, candidate.name))}"
    return None


def _is_neutral(node: NodeProto, name: str, meaning: Allowed, own_type: int) -> bool:
    if meaning in (READ, ANY):
        return True
    value = attribute(node, name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value in meaning or (OWN_TYPE in meaning and own_type != 0 and value == own_type)


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _named(names: tuple[str, ...], position: int) -> str:
    return names[position] if position < len(names) else "not known here"


def version_of(scope: Scope, pattern: OperatorPattern) -> int:
    """The version of an operator's schema that a model asks for."""
    imported = scope.opset.get(pattern.domain, 1)
    if pattern.domain:
        return imported
    try:
        return int(onnx.defs.get_schema(pattern.op_type, imported, pattern.domain).since_version)
    except onnx.defs.SchemaError:
        return 0


def _domain(node: NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain
