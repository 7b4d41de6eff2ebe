"""Appending to a cache in place: the function body against numpy, for every opset and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from alibi_rewriter.fused.append import INPUTS, OP_TYPE, OUTPUTS, CacheAppend, append_proto, append_text, moves_of
from alibi_rewriter.fused.layout import in_order, packed
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]

B, H, C, D, D_V, S = 3, 2, 9, 4, 6, 2
LENGTHS = np.array([2, 5, 9], np.int64)

PACKED = CacheAppend(
    packed(H, D, head_width=D, first=H, of=3 * H * D), packed(H, D, head_width=D, first=2 * H, of=3 * H * D)
)
LAYOUTS = {
    "BHSD": CacheAppend(),
    "BHSD, said by attributes": CacheAppend(views=True),
    "BSHD": CacheAppend(in_order("BSHD"), in_order("BSHD")),
    "SBHD and BHSD": CacheAppend(key=in_order("SBHD")),
    "packed": PACKED,
}


def model(node: CacheAppend, *, opset: int = 17, dtype: int = TensorProto.FLOAT, body: bool = True) -> onnx.ModelProto:
    """A file whose graph is the node."""
    ranks = {"past_key": 4, "past_value": 4, "key": node.key.rank, "value": node.value.rank, "key_lengths": 1}
    kinds = {name: TensorProto.INT64 if name == "key_lengths" else dtype for name in INPUTS}
    graph = helper.make_graph(
        [helper.make_node(OP_TYPE, INPUTS, OUTPUTS, domain="alibi", **node.attributes())],
        "append",
        [helper.make_tensor_value_info(n, kinds[n], [f"{n}{i}" for i in range(ranks[n])]) for n in INPUTS],
        [helper.make_tensor_value_info(n, dtype, [f"{n}{i}" for i in range(4)]) for n in OUTPUTS],
    )
    functions = [append_proto(opset, query_type=dtype, moves=moves_of([node]))] if body else []
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("alibi", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8 if opset < 19 else 10)


def feeds(node: CacheAppend, dtype: Any = np.float32, lengths: Array = LENGTHS, rows: int = S) -> dict[str, Array]:
    """Random buffers and new rows."""
    rng = np.random.default_rng(5)
    same = node.key.reshapes

    def new(view: Any, width: int) -> Array:
        if view.reshapes:
            return rng.standard_normal((B, rows, 3 * H * D)).astype(dtype)
        canonical = rng.standard_normal((B, H, rows, width)).astype(dtype)
        return canonical.transpose(np.argsort(view.perm))

    width = D if same else D_V
    key = new(node.key, D)
    return {
        "past_key": rng.standard_normal((B, H, C, D)).astype(dtype),
        "past_value": rng.standard_normal((B, H, C, width)).astype(dtype),
        "key": key,
        "value": key if same else new(node.value, D_V),
        "key_lengths": lengths,
    }


def wanted(node: CacheAppend, given: dict[str, Array], rows: int = S) -> list[Array]:
    """The buffers with the new rows, row by row."""
    made = []
    for name, view in (("key", node.key), ("value", node.value)):
        buffer, fresh = given[f"past_{name}"].copy(), view.of(given[name])
        for b in range(B):
            first = int(np.broadcast_to(given["key_lengths"], (B,))[b]) - rows
            buffer[b, :, first : first + rows] = fresh[b]
        made.append(buffer)
    return made


@pytest.mark.parametrize("opset", [11, 12, 13, 15, 18, 21, 23])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_body_writes_the_new_rows_and_nothing_else(name: str, opset: int) -> None:
    node = LAYOUTS[name]
    if opset < 12 and not node.plain:
        pytest.skip("views that are cut need opset 12")
    made = model(node, opset=opset)
    onnx.checker.check_model(made)
    given = feeds(node)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for found, right in zip(session.run(None, given), wanted(node, given), strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_body_by_the_reference_evaluator(name: str) -> None:
    node = LAYOUTS[name]
    given = feeds(node)
    for found, right in zip(ReferenceEvaluator(model(node)).run(None, given), wanted(node, given), strict=True):
        np.testing.assert_array_equal(found, right)


def test_from_opset_24_on_it_is_the_operator_of_the_standard() -> None:
    text = append_text(24, query_type=TensorProto.FLOAT)
    assert text.count("TensorScatter") == 2
    assert "TensorScatter" not in append_text(23, query_type=TensorProto.FLOAT)
    node = LAYOUTS["packed"]
    given = feeds(node)
    session = onnxruntime.InferenceSession(
        model(node, opset=24).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for found, right in zip(session.run(None, given), wanted(node, given), strict=True):
        np.testing.assert_array_equal(found, right)


def test_rows_that_have_no_place_are_left_out() -> None:
    node = LAYOUTS["BHSD"]
    given = feeds(node, lengths=np.array([1, 5, 10], np.int64))
    session = onnxruntime.InferenceSession(model(node).SerializeToString(), providers=["CPUExecutionProvider"])
    key, _ = session.run(None, given)
    right = given["past_key"].copy()
    right[0, :, 0] = given["key"][0, :, 1]
    right[1, :, 3:5] = given["key"][1]
    right[2, :, 8] = given["key"][2, :, 0]
    np.testing.assert_array_equal(key, right)


def test_nodes_that_share_a_body_say_what_each_needs() -> None:
    moves = moves_of([LAYOUTS["BHSD"], LAYOUTS["packed"]])
    assert moves.reshaped == moves.sliced == moves.transposed == {"key", "value"}
