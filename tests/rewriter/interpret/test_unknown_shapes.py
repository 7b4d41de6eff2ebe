"""Tensors of which the file does not tell the shape: a rule says that it does not know, and stumbles over nothing.

What a rule raises counts as a node that contradicts itself, and the report says so.  These nodes are in order.
"""

from __future__ import annotations

import pytest
from alibi_rewriter.algebra import Index, of
from alibi_rewriter.rewriter.interpret.known import KNOWN
from onnx import ModelProto
from semantics.cells import Plan, plans
from semantics.judge import interpret

pytest.importorskip("onnxruntime")

MOST_CASES = 8
"""Of each operator."""


def cases(op_type: str) -> list[Plan]:
    """A cell for some choices of attributes and operands, of the latest version that has them."""
    found = list({plan.case: plan for plan in sorted(plans([op_type]), key=lambda plan: plan.version)}.values())
    return found[:: 1 + len(found) // MOST_CASES]


def without_shape(model: ModelProto, names: set[str]) -> ModelProto:
    """The model without the shapes of some inputs, and of everything behind the inputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        if value.name in names:
            value.type.tensor_type.ClearField("shape")
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy


@pytest.mark.parametrize("op_type", sorted(KNOWN))
def test_a_tensor_of_unknown_rank(op_type: str) -> None:
    for plan in cases(op_type):
        cell = plan.cell()
        whole = interpret(cell.model).dims(cell.target)
        rank = 2 if whole is None else len(whole)
        inputs = [value.name for value in cell.model.graph.input]
        for names in ({name} for name in inputs), [set(inputs)]:
            for chosen in names:
                interpreter = interpret(without_shape(cell.model, chosen))
                dims = interpreter.dims(cell.target)
                bounds = dims if dims is not None else (interpreter.fresh_size() for _ in range(rank))
                interpreter.element(cell.target, tuple(of(Index(f"x{k}", bound)) for k, bound in enumerate(bounds)))
                assert not interpreter.malformed, f"{cell.name}, no shape of {sorted(chosen)}"
