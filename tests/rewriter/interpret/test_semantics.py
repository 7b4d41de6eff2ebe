"""Every element rule against what runtimes compute: a part of ``tests/semantics``, and what holds it together.

The whole takes half an hour: ``python benchmarks/attack/semantics.py``.
"""

from __future__ import annotations

import warnings

import onnx
import onnx.defs
import pytest
from alibi_rewriter.algebra import Index, of
from alibi_rewriter.rewriter.interpret.engine import MOVING
from alibi_rewriter.rewriter.interpret.known import KNOWN, is_known
from alibi_rewriter.rewriter.interpret.movement import RULES as MOVEMENTS
from alibi_rewriter.rewriter.interpret.rules import element_rules
from onnx import helper
from semantics.cells import CASES, Plan, plans, schema_of, versions
from semantics.judge import interpret, judge, one_by_one, reads_itself

pytest.importorskip("onnxruntime")

CELLS_PER_OPERATOR = 16
OPERATORS = sorted(KNOWN)


def test_rules_table_and_cases_name_the_same_operators() -> None:
    assert {name for _, name in element_rules()} == set(KNOWN) == set(CASES)
    assert set(MOVING) == set(MOVEMENTS)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_the_table_covers_every_version_attribute_and_input(op_type: str) -> None:
    """A new opset of onnx fails here.  Look at what it changed, then add it to the table."""
    row = KNOWN[op_type]
    for version in versions(op_type):
        schema = schema_of(op_type, version)
        assert version in row.versions, f"{op_type} changed in opset {version}"
        assert set(schema.attributes) <= row.attributes, f"{op_type}-{version} has new attributes"
        assert not row.inputs or len(schema.inputs) <= row.inputs, f"{op_type}-{version} has new inputs"


def some_plans(op_type: str, count: int) -> list[Plan]:
    """A fixed choice from all of an operator's cells, spread over versions, types and cases."""
    whole = list(plans([op_type]))
    stride = max(1, len(whole) // count)
    while stride > 1 and any(stride % p == 0 for p in (2, 3, 5, 7)):
        stride -= 1  # of no common period with the loops that made them
    return whole[:: max(1, stride)][: count + 4]


@pytest.mark.parametrize("op_type", OPERATORS)
def test_the_cases_use_every_attribute_and_input(op_type: str) -> None:
    for version in versions(op_type):
        schema = schema_of(op_type, version)
        own = [p for p in plans([op_type]) if p.version == version]
        kinds = list(dict.fromkeys(p.dtype for p in own))
        nodes = [p.cell().node for p in own if p.dtype in kinds[:1] or (p.dtype == onnx.TensorProto.FLOAT)]
        used = {a.name for n in nodes for a in n.attribute}
        assert set(schema.attributes) <= used, f"{op_type}-{version}: {set(schema.attributes) - used} is never given"
        assert max(sum(1 for i in n.input if i) for n in nodes) >= len(schema.inputs)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_elements_are_what_runtimes_compute(op_type: str) -> None:
    wrong = []
    counts: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for plan in some_plans(op_type, CELLS_PER_OPERATOR):
            cell = plan.cell()
            verdict = judge(cell.model, cell.target, cell.shapes)
            counts[verdict.kind] = counts.get(verdict.kind, 0) + 1
            if verdict.kind == "wrong":
                wrong.append(f"{cell.name}: {verdict.detail}")
    assert wrong == []
    assert counts.get("exact", 0) + counts.get("bounded", 0) > 0, "no cell shows anything about this rule"


ONCE_WRONG = (
    ("Clip", "Clip-13 bfloat16 hidden in None, 65504.0"),  # no bound below, and minus infinity
    ("Min", "Min-8 float16 steep long, 65504.0"),  # what overflows is infinite, and has a bound
)


@pytest.mark.parametrize(("op_type", "name"), ONCE_WRONG, ids=[n for _, n in ONCE_WRONG])
def test_cells_that_were_wrong(op_type: str, name: str) -> None:
    """Found by runs of all cells; the choice above does not have them."""
    (cell,) = (c for p in plans([op_type]) if p.case in name and (c := p.cell()).name == name)
    verdict = judge(cell.model, cell.target, cell.shapes)
    assert verdict.kind != "wrong", verdict.detail


def known_cell(op_type: str) -> tuple[onnx.ModelProto, str]:
    """A cell of which the interpreter knows the elements."""
    for plan in plans([op_type]):
        cell = plan.cell()
        if says_something(cell.model, cell.target):
            return cell.model, cell.target
    raise AssertionError(f"no cell of {op_type} is known")


def says_something(model: onnx.ModelProto, target: str) -> bool:
    interpreter = interpret(model)
    dims = interpreter.dims(target)
    if dims is None:
        return False
    value = interpreter.element(target, tuple(of(Index(f"x{k}", d)) for k, d in enumerate(dims)))
    return not reads_itself(value, target) or bool(one_by_one(interpreter, target, dims))


@pytest.mark.parametrize("op_type", OPERATORS)
def test_what_the_table_does_not_have_is_unknown(op_type: str) -> None:
    model, target = known_cell(op_type)
    node = next(n for n in model.graph.node if target in n.output)
    given = list(node.input)
    node.attribute.append(helper.make_attribute("introduced_later", 1))
    assert not says_something(model, target)
    del node.attribute[-1]
    assert says_something(model, target)
    if KNOWN[op_type].inputs:
        node.input.extend([given[0]] * (KNOWN[op_type].inputs + 1 - len(given)))
        assert not says_something(model, target)
        del node.input[len(given) :]
    node.domain = "somebody.else"
    assert not says_something(model, target)


def test_an_opset_that_onnx_does_not_know_is_unknown() -> None:
    node = helper.make_node("Add", ["a", "b"], ["c"])
    last = onnx.defs.onnx_opset_version()
    assert is_known(node, last)
    assert not is_known(node, last + 1)
    assert not is_known(node, 6)  # Add-6 broadcasts by an attribute


def test_a_version_that_the_table_does_not_have_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    node = helper.make_node("Cast", ["a"], ["c"], to=1)
    row = KNOWN["Cast"]
    monkeypatch.setitem(KNOWN, "Cast", type(row)(row.versions - {28}, row.attributes, row.inputs))
    assert is_known(node, 27)
    assert not is_known(node, 28)
