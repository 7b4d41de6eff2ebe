"""Nodes that describe how their tensors lie in those of the graph: the library, the function body and the oracle."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, EmptyRows, FusedAttention
from alibi_rewriter.fused.layout import OPERANDS, PLAIN, Layout, Moves
from alibi_rewriter.runtime import NoLibrary, get_library_path
from alibi_rewriter.runtime.session import InferenceSession, claimed_nodes
from nodes import TYPES, Arrays, Sizes, answer, error, feeds, model, session
from onnx import helper
from onnx.reference import ReferenceEvaluator
from test_kernels import ROUNDING, run
from views import OUTPUTS, Packing, packings

try:
    get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)

PREFILL = Sizes(9, 9, 16, 16, 2, 4, 4, mask="bk")
GROUPED = Sizes(9, 9, 16, 16, 2, 4, 2, mask="bk")
DECODE = Sizes(1, 70, 16, 16, 2, 4, 2, mask="bk")
NARROW = Sizes(6, 13, 16, 8, 3, 2, 1, mask="bqk")
CASES = [
    pytest.param(sizes, packing, name, id=f"{kind} {name}")
    for kind, sizes in (("prefill", PREFILL), ("grouped", GROUPED), ("decode", DECODE), ("narrow value", NARROW))
    for name, packing in packings(sizes)
]
MASKED = BY_OP_TYPE["AlibiAttentionCausalBooleanMask"]


def node(layout: Layout, number: int = 0) -> FusedAttention:
    return FusedAttention(MASKED, 0.25, list(EmptyRows)[number % 2], layout=layout)


def given_for(packing: Packing, sizes: Sizes, dtype: str = "float32") -> Arrays:
    rng = np.random.default_rng(7)
    return {**feeds(MASKED, sizes, rng, dtype), **packing.tensors(sizes, rng, dtype)}


def with_body(item: FusedAttention, dtype: str = "float32", opset: int = 17) -> onnx.ModelProto:
    """The same file for a runtime without the library."""
    made = onnx.load_model_from_string(model(item, dtype))
    body = function_proto(
        item.variant, opset, grouped=True, zero_rows=item.empty_rows is EmptyRows.ZERO, query_type=TYPES[dtype],
        moves=Moves.of([item.layout]),
    )  # fmt: skip
    made.functions.append(body)
    del made.opset_import[:]
    made.opset_import.extend([helper.make_opsetid("", opset), helper.make_opsetid("alibi", 1)])
    return made


@pytest.mark.parametrize(("sizes", "packing", "name"), CASES)
def test_every_view_is_what_the_oracle_makes_of_its_attributes(sizes: Sizes, packing: Packing, name: str) -> None:
    for number, (output, view) in enumerate(OUTPUTS.items()):
        item = node(packing.layout(view(sizes)), number)
        for dtype in ROUNDING if output == "BS-HD" else ("float32",):
            given = given_for(packing, sizes, dtype)
            made = session(model(item, dtype), threads=1)  # how a view is read does not depend on how many read it
            assert claimed_nodes(made).claimed == 1
            wanted = answer(item, given)
            found = run(made, given, dtype)
            assert found.shape == wanted.shape, output
            assert error(found, wanted, given) < ROUNDING[dtype], (output, dtype)


@pytest.mark.parametrize(("sizes", "packing", "name"), CASES)
def test_the_function_body_does_the_same(sizes: Sizes, packing: Packing, name: str) -> None:
    for number, output in enumerate(("BHSD", "BSHD", "BS-HD")):
        item = node(packing.layout(OUTPUTS[output](sizes)), number)
        given = given_for(packing, sizes)
        wanted = answer(item, given)
        made = with_body(item)
        found = onnxruntime.InferenceSession(made.SerializeToString()).run(None, given)[0]
        assert found.shape == wanted.shape
        assert error(found, wanted, given) < ROUNDING["float32"], output
        if output == "BS-HD":
            assert error(ReferenceEvaluator(made).run(None, given)[0], wanted, given) < ROUNDING["float32"]


@pytest.mark.parametrize("name", ["thirds", "thirds of rank 4", "woven"])
@pytest.mark.parametrize("rows", [3, 70])
def test_one_tensor_may_be_all_three_inputs(name: str, rows: int) -> None:
    sizes = Sizes(rows, rows, 24, 24, 2, 3, 3, mask="k")
    packing = dict(packings(sizes))[name]
    item = node(packing.layout(OUTPUTS["BS-HD"](sizes)))
    given = given_for(packing, sizes)
    made = onnx.load_model_from_string(model(item))
    made.graph.node[0].input[:] = ["query", "query", "query", *made.graph.node[0].input[3:]]
    kept = [value for value in made.graph.input if value.name not in ("key", "value")]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    session = InferenceSession(made.SerializeToString())
    assert claimed_nodes(session).claimed == 1
    found = session.run(None, {n: a for n, a in given.items() if n not in ("key", "value")})[0]
    assert error(found, answer(item, given), given) < ROUNDING["float32"]


@pytest.mark.parametrize(
    ("name", "output", "wanted"),
    [
        ("BSHD", "BHSD", ["query0", "query2", "query1", "value3"]),
        ("BSHD", "BSHD", ["query0", "query1", "query2", "value3"]),
        ("SBHD", "BS-HD", ["query1", "query0", 64]),
        ("woven", "BHSD", ["query0", 4, "query1", 16]),
        ("thirds", "SB-HD", ["query1", "query0", 64]),
    ],
)
def test_the_outputs_shape_is_inferred(name: str, output: str, wanted: list[str | int]) -> None:
    packing = dict(packings(PREFILL))[name]
    session = InferenceSession(model(node(packing.layout(OUTPUTS[output](PREFILL)))))
    assert session.get_outputs()[0].shape == wanted


def test_a_layout_that_is_plain_may_be_said_by_attributes() -> None:
    item = FusedAttention(MASKED, 0.25, views=True)
    given = feeds(MASKED, PREFILL, np.random.default_rng(3))
    assert item.attributes()["layout"] == "views"
    found = InferenceSession(model(item)).run(None, given)[0]
    assert (found == InferenceSession(model(FusedAttention(MASKED, 0.25))).run(None, given)[0]).all()


WRONG: dict[str, tuple[str, list[int] | None]] = {
    "attribute 'key_perm' is missing": ("key_perm", None),
    "query_shape is [0, 0, 12], which is neither": ("query_shape", [0, 0, 12]),
    "query_shape is [0, 0, 12, 0], which is neither": ("query_shape", [0, 0, 12, 0]),
    "query_shape is [0, 1, 12, 16], which is neither": ("query_shape", [0, 1, 12, 16]),
    "key_shape is [0, 0, 4294967297, 16], which is neither": ("key_shape", [0, 0, (1 << 32) + 1, 16]),
    "value_starts is [0], but an operand is sliced along two axes": ("value_starts", [0]),
    "key_starts is [-1, 0], outside of its tensor": ("key_starts", [-1, 0]),
    "key_starts is [12, 0], outside of its tensor": ("key_starts", [12, 0]),
    "value_ends is [8, 16], which takes nothing": ("value_ends", [8, 16]),
    "query_ends is [4294967296, 16], which takes nothing": ("query_ends", [1 << 32, 16]),
    "query_perm is [0, 1, 3, 2], which is not an order": ("query_perm", [0, 1, 3, 2]),
    "query_perm is [0, 0, 1, 2, 3], which is not an order": ("query_perm", [0, 0, 1, 2, 3]),
    "output_perm is [0, 1, 2, 3], but heads are merged": ("output_perm", [0, 1, 2, 3]),
    "output_shape is [0, 0, -1], which is neither": ("output_shape", [0, 0, -1]),
    "output_shape is [0, 0, 1, 2, 3, 4, 5, 6, ...], which is neither": ("output_shape", [0, 0, *range(1, 100)]),
}


@pytest.mark.parametrize("said", WRONG)
def test_attributes_that_describe_no_view_are_refused(said: str) -> None:
    packing = dict(packings(PREFILL))["thirds"]
    made = onnx.load_model_from_string(model(node(packing.layout(OUTPUTS["BS-HD"](PREFILL)))))
    name, numbers = WRONG[said]
    attributes = [a for a in made.graph.node[0].attribute if a.name != name]
    del made.graph.node[0].attribute[:]
    made.graph.node[0].attribute.extend(attributes)
    if numbers is not None:
        made.graph.node[0].attribute.append(helper.make_attribute(name, numbers))
    with pytest.raises(Exception, match="AlibiAttentionCausalBooleanMask: ") as caught:
        InferenceSession(made.SerializeToString())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("query", (2, 9, 4, 48), "query has 4 dimensions instead of 3"),
        ("query", (2, 9, 191), "query: its last dimension is 191 instead of 12 * 16"),
        ("key", (2, 8, 192), "key is [2, 4, 8, 16] instead of [2, 4, 9, 16]"),
        ("value", (3, 9, 192), "value is [3, 4, 9, 16] instead of [2, 4, 9, 16]"),
    ],
)
def test_a_tensor_that_has_no_such_view_is_refused(name: str, shape: tuple[int, ...], said: str) -> None:
    packing = dict(packings(PREFILL))["thirds"]
    made = onnx.load_model_from_string(model(node(packing.layout(OUTPUTS["BS-HD"](PREFILL)))))
    for value in made.graph.input:
        value.type.tensor_type.ClearField("shape")
    given = {**given_for(packing, PREFILL), name: np.ones(shape, np.float32)}
    with pytest.raises(Exception, match="AlibiAttentionCausalBooleanMask: ") as caught:
        InferenceSession(made.SerializeToString()).run(None, given)
    assert said in str(caught.value)


def test_a_merged_output_has_as_many_heads_as_the_query() -> None:
    sizes = Sizes(9, 9, 16, 16, 2, 2, 2)
    packing = dict(packings(sizes))["BSHD"]
    item = node(packing.layout(OUTPUTS["BS-HD"](PREFILL)))
    with pytest.raises(Exception, match=r"output: its last dimension is 32 and was to be 64, for 2 \* 16"):
        InferenceSession(model(item)).run(None, given_for(packing, sizes))


def test_no_keys_and_no_rows_in_views() -> None:
    for sizes in (Sizes(0, 5, batch=2), Sizes(5, 0, batch=2), Sizes(3, 3, batch=0)):
        for name, packing in packings(sizes):
            item = node(packing.layout(OUTPUTS["BS-HD"](sizes)))
            given = given_for(packing, sizes)
            found = InferenceSession(model(item)).run(None, given)[0]
            assert found.shape == (sizes.batch, sizes.rows, 2 * 16), name
            assert not found.any()


def test_operands_are_in_the_order_that_the_library_reads_them() -> None:
    """The names of all attributes, which the library spells once more."""
    item = node(dict(packings(PREFILL))["woven"].layout(OUTPUTS["BHSD"](PREFILL)))
    names = [name for name in item.attributes() if name.startswith(tuple(f"{n}_" for n in (*OPERANDS, "output")))]
    for name in names:
        made = onnx.load_model_from_string(model(item))
        left = [a for a in made.graph.node[0].attribute if a.name != name]
        del made.graph.node[0].attribute[:]
        made.graph.node[0].attribute.extend(left)
        with pytest.raises(Exception, match=f"attribute '{name}' is missing"):
            InferenceSession(made.SerializeToString())
    assert len(names) == 14


@pytest.mark.parametrize("rows", [511, 513])
def test_many_rows_in_a_packed_projection_are_what_they_are_in_tensors_of_their_own(rows: int) -> None:
    """From 512 rows on keys and values that lie apart are copied first.  No bit of the result shows it."""
    sizes = Sizes(rows, rows, 24, 24, 2, 3, 3, mask="k")
    packing = dict(packings(sizes))["woven"]
    viewed = node(packing.layout(OUTPUTS["BHSD"](sizes)))
    given = given_for(packing, sizes)
    apart = {name: oracle.operand(given[name], *_said(viewed, name)) for name in ("query", "key", "value")}
    plain = node(PLAIN)
    found = [
        InferenceSession(model(item)).run(None, feed)[0]
        for item, feed in ((viewed, given), (plain, {**given, **apart}))
    ]
    np.testing.assert_array_equal(*found)


def _said(item: FusedAttention, name: str) -> list[list[int]]:
    said = item.attributes()
    return [said[f"{name}_{part}"] for part in ("shape", "starts", "ends", "perm")]  # type: ignore[misc]
