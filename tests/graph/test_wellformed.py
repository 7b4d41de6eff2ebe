"""What a graph has to keep before anything reads it, rule by rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import pytest
from alibi_rewriter.base.errors import ModelRejected
from alibi_rewriter.graph.tensors import check_data, declared_bytes
from alibi_rewriter.graph.wellformed import check
from onnx import ModelProto, TensorProto, helper, numpy_helper

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }
"""


def model() -> ModelProto:
    return onnx.parser.parse_model(TEXT)


def _third_input(made: ModelProto) -> None:
    made.graph.node[0].input.append("x")


def _one_input(made: ModelProto) -> None:
    del made.graph.node[0].input[1:]


def _empty_input(made: ModelProto) -> None:
    made.graph.node[0].input[0] = ""


def _no_output(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Add", ["x", "w"], [""]))


def _unknown_domain(made: ModelProto) -> None:
    made.graph.node[0].domain = "somebody"


def _input_twice(made: ModelProto) -> None:
    made.graph.input.append(made.graph.input[0])


def _constant_twice(made: ModelProto) -> None:
    made.graph.initializer.append(made.graph.initializer[0])


def _makes_an_input(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Neg", ["y"], ["x"]))


def _makes_no_output(made: ModelProto) -> None:
    made.graph.output[0].name = "z"


def _short_data(made: ModelProto) -> None:
    made.graph.initializer[0].dims[0] = 4


def _wrong_attribute(made: ModelProto) -> None:
    tensor = TensorProto(dims=[2], data_type=TensorProto.FLOAT, float_data=[1.0])
    made.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _empty_in_a_list(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Concat", ["x", ""], ["c"], axis=0))


FAULTS: dict[str, Callable[[ModelProto], None]] = {
    "has 3 inputs; Add has 2": _third_input,
    "has 1 inputs; Add has 2": _one_input,
    "lacks an input that it needs": _empty_input,
    "(Add) has 1 outputs": _no_output,
    "of domain 'somebody', which the model does not import": _unknown_domain,
    "the input 'x' is there twice": _input_twice,
    "the initializer 'w' is there twice": _constant_twice,
    "makes 'x', which is an input or initializer": _makes_an_input,
    "no node makes the output 'z'": _makes_no_output,
    "holds 3 entries, but its shape needs 4": _short_data,
    "holds 1 entries, but its shape needs 2": _wrong_attribute,
    "(Concat) lacks an input": _empty_in_a_list,
}


def test_a_sound_model_passes() -> None:
    check(model())


@pytest.mark.parametrize("said", FAULTS)
def test_each_fault_is_named(said: str) -> None:
    made = model()
    FAULTS[said](made)
    with pytest.raises(ModelRejected) as caught:
        check(made)
    assert said in str(caught.value)


def test_an_operator_that_onnx_does_not_know_is_left_to_others() -> None:
    made = model()
    made.graph.node.append(helper.make_node("FromTheFuture", [], ["z"]))
    check(made)


@pytest.mark.parametrize(("kind", "size"), [(np.float32, 24), (np.float16, 12), (np.int64, 48), (np.bool_, 6)])
def test_bytes_that_a_tensor_declares(kind: type, size: int) -> None:
    tensor = numpy_helper.from_array(np.zeros((2, 3), kind), "t")
    assert declared_bytes(tensor) == size
    check_data(tensor)
    tensor.raw_data += b"\0"
    with pytest.raises(ModelRejected, match=f"holds {size + 1} bytes"):
        check_data(tensor)


def test_shapes_that_are_none() -> None:
    for dims, said in (([2, -1], "negative extent"), ([1] * 100, "100 axes")):
        with pytest.raises(ModelRejected, match=said):
            declared_bytes(TensorProto(name="t", dims=dims, data_type=TensorProto.FLOAT))
