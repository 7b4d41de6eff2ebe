"""All element rules in one table."""

from __future__ import annotations

from onnx import NodeProto

from ...algebra import Poly
from . import arithmetic, generators, inverses, movement
from .engine import ElementRule, Interpreter


def _moved(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Poly | None:
    found = movement.source(interpreter, node, output, indices)
    return None if found is None else interpreter.element(*found)


def element_rules() -> dict[tuple[str, str], ElementRule]:
    """Element rules per (domain, op_type)."""
    table: dict[tuple[str, str], ElementRule] = {("", name): _moved for name in movement.RULES}
    table.update({("", name): rule for name, rule in arithmetic.RULES.items()})
    table.update({("", name): rule for name, rule in generators.RULES.items()})
    table.update({("", name): rule for name, rule in inverses.RULES.items()})
    return table
