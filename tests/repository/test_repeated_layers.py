"""The models that the pass is timed on: small exports with one layer repeated."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "pass"))

from models import EXPORTS, block_of, model_of, repeated

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
layers (float[S] x) => (float[S] y, float[S] side)
{
   mask = Abs(x)
   a = Neg(x)
   b = Add(a, mask)
   c = Relu(b)
   side = Exp(b)
   y = Tanh(c)
}
"""


def test_a_block_is_what_lies_between_two_tensors() -> None:
    model = onnx.parser.parse_model(TEXT)
    assert [node.output[0] for node in block_of(model.graph, "a", "c")] == ["b", "c"]


def test_copies_stand_one_behind_the_other_and_share_what_they_read() -> None:
    made = repeated(onnx.parser.parse_model(TEXT), "a", "c", 3)
    onnx.checker.check_model(made)
    nodes = {node.output[0]: list(node.input) for node in made.graph.node}
    assert nodes["b.0"] == ["a", "mask"]
    assert nodes["b.1"] == ["c.0", "mask"]
    assert nodes["b"] == ["c.1", "mask"]
    # What the rest of the model reads keeps its name.
    assert (nodes["y"], nodes["side"]) == (["c"], ["b"])
    with pytest.raises(ValueError, match="0 times"):
        repeated(made, "a", "c", 0)


@pytest.mark.parametrize("exporter", EXPORTS)
def test_exports_have_as_many_softmaxes_as_layers(exporter: str) -> None:
    model = model_of(exporter, 4)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node].count("Softmax") == 4
