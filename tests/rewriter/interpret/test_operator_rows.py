"""One row per operator: the rows agree with the rules, and each says where its extents come from."""

from __future__ import annotations

import onnx.parser
import pytest
from alibi_rewriter.rewriter.interpret import contrib
from alibi_rewriter.rewriter.interpret.extents import RULES as EXTENTS
from alibi_rewriter.rewriter.interpret.movement import RULES as MOVEMENTS
from alibi_rewriter.rewriter.interpret.operators import KNOWN, MOVING, OPERATORS, OTHERS, Extents, Makes
from alibi_rewriter.rewriter.interpret.rules import element_rules
from alibi_rewriter.rewriter.interpret.shapes import TYPE_RULES
from interpreted import interpreter_of
from onnx import TensorProto


def test_an_operator_has_one_row() -> None:
    assert not KNOWN.keys() & OTHERS.keys()
    assert all(row.versions for row in KNOWN.values())
    assert not any(row.versions or row.attributes or row.inputs for row in OTHERS.values())


def test_what_is_known_has_a_rule_for_its_elements() -> None:
    assert {name for _, name in element_rules()} == set(KNOWN)
    assert set(MOVEMENTS) == MOVING
    assert all(row.exact for row in KNOWN.values() if row.makes is Makes.MOVED)


def test_extents_are_said_once() -> None:
    said = {name for name, row in OPERATORS.items() if row.extents is not Extents.BY_RULE}
    assert not said & EXTENTS.keys()
    assert KNOWN.keys() <= said | EXTENTS.keys()
    assert not (said | EXTENTS.keys()) & contrib.RULES.keys()


def test_types_are_said_once() -> None:
    said = {name for name, row in OPERATORS.items() if row.dtype or row.typed_by}
    assert not said & TYPE_RULES.keys()
    assert all(min(row.typed_by, default=0) >= 0 for row in OPERATORS.values())


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ("MatMulIntegerToFloat (a, b, c, c)", TensorProto.FLOAT),
        ("MatMulIntegerToFloat (a, b)", 0),  # the operand that says it is not given
        ("QGemm (a, c, a, b, c, a)", 0),
    ],
)
def test_the_type_of_what_a_quantized_product_makes(node: str, kind: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>
        g (uint8[4,4] a, int8[4,4] b, float[1] c) => (float[4,4] y) {{ t = com.microsoft.{node}  y = Identity (t) }}"""
    assert interpreter_of(onnx.parser.parse_model(text)).dtype("t") == kind
