"""The types in which scores are computed, and reductions that stay reads."""

from __future__ import annotations

import pytest
from alibi_rewriter.algebra import Index, Read, of, poly
from alibi_rewriter.rewriter.recognise.precision import score_types
from alibi_rewriter.rewriter.recognise.reductions import reduction
from interpreted import interpreter_of, read_text
from onnx import TensorProto
from tiny import HEADS, WIDTH, Graph

HALF, BFLOAT, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


def types(dtype: int, *, wide_scores: bool = False, wide_product: bool = False, narrow_bias: bool = False) -> set[int]:
    """The narrow types of an attention of operands of a type."""
    graph = Graph()
    for name in "qkv":
        graph.input(name, ("B", HEADS, "S", WIDTH), dtype)
    query, key = "q", graph.add("Transpose", "k", perm=[0, 1, 3, 2])
    if wide_product:
        query, key = (graph.add("Cast", n, to=FLOAT) for n in (query, key))
    scores = graph.add("MatMul", query, key)
    bias = graph.input("z", ("B", HEADS, "S", "S"), FLOAT if wide_scores or wide_product else dtype)
    if wide_scores:
        scores = graph.add("Cast", scores, to=FLOAT)
    if narrow_bias:
        bias = graph.add("Cast", graph.add("Cast", bias, to=BFLOAT), to=FLOAT)
    weights = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
    model = graph.model(graph.add("MatMul", graph.add("Cast", weights, to=dtype), "v"))
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    return set(score_types(interpreter_of(model), softmax))


def test_types_of_query_key_and_their_product() -> None:
    assert types(FLOAT) == set()
    assert types(HALF) == {HALF}
    assert types(BFLOAT) == {BFLOAT, HALF}, "what bfloat16 rounds, float16 may round as well"
    assert types(HALF, wide_scores=True) == {HALF}, "the product is narrow"
    assert types(HALF, wide_product=True) == {HALF}, "its operands were narrow"


def test_a_detour_of_the_bias_is_not_the_type_of_the_scores() -> None:
    assert types(FLOAT, wide_scores=True, narrow_bias=True) == set()


@pytest.mark.parametrize(
    ("line", "axis", "indices"),
    [
        ("y = ReduceMax<keepdims=1>(x, last)", 2, 3),
        ("y = ReduceMax<keepdims=0>(x, last)", 2, 2),
        ("y = ReduceMax<keepdims=0>(x, first)", 0, 2),
    ],
)
def test_what_a_reduction_is_taken_of(line: str, axis: int, indices: int) -> None:
    asked = read_text("float[B,4,S] x", line, "int64[1] last = {-1}, int64[1] first = {0}")
    names = [Index(f"a{k}", poly(4)) for k in range(indices)]
    found = reduction(asked, Read("y", tuple(of(n) for n in names)), "ReduceMax")
    assert found is not None and (found.tensor, found.axis) == ("x", axis)
    place = found.at(poly(7))
    assert len(place) == 3 and place[axis] == poly(7)
    assert reduction(asked, Read("y", tuple(of(n) for n in names)), "ReduceSum") is None


def test_what_is_no_reduction_over_one_axis() -> None:
    for line, read in (("y = ReduceMax<keepdims=1>(x, both)", "y"), ("y = Neg(x)", "y"), ("y = Neg(x)", "x")):
        asked = read_text("float[B,4,S] x", line, "int64[2] both = {1, 2}")
        assert reduction(asked, Read(read, tuple(of(Index(f"a{k}", poly(4))) for k in range(3))), "ReduceMax") is None
