"""The editor: new names, one node for equal ones, and nothing left that no output needs."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from alibi_rewriter.graph.edit import Counts, Editor, all_names, arrange, call_as, set_attribute, set_metadata
from onnx import ModelProto, helper

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[2,3] x) => (float[2,3] y)
<float[3] w = {1, 2, 3}, float[3] other = {4, 5, 6}>
{
   a = Mul(x, w)
   b = Add(a, other)
   y = Neg(b)
}
"""


def model() -> ModelProto:
    return onnx.parser.parse_model(TEXT)


def editor_of(made: ModelProto, opset: int = 18) -> Editor:
    return Editor(made.graph, opset, all_names(made))


def test_new_names_are_nobodys() -> None:
    made = model()
    names = all_names(made)
    assert {"x", "y", "a", "b", "w", "other"} <= names
    editor = editor_of(made)
    assert [editor.fresh("a"), editor.fresh("a"), editor.fresh("new")] == ["a_2", "a_3", "new"]


def test_equal_constants_and_equal_nodes_are_made_once() -> None:
    made = model()
    editor = editor_of(made)
    one = editor.integers([1, 2], "shape")
    assert editor.constant(np.array([1, 2], np.int64), "other hint") == one
    assert editor.constant(np.array([1, 2], np.int32), "narrow") != one
    assert editor.constant(np.array([[1, 2]], np.int64), "wide") != one
    first = editor.node("Neg", ["a"], "n")
    assert editor.node("Neg", ["a"], "n") == first
    assert editor.node("Neg", ["a"], "n", domain="alibi") != first
    assert editor.node("Neg", ["a"], "n", output="wanted") == "wanted"
    assert editor.counts == Counts(nodes_added=3, initializers_added=3)


def test_nothing_is_written_before_the_end() -> None:
    made = model()
    editor = editor_of(made)
    before = made.graph.SerializeToString()
    editor.node("Neg", ["a"], "n")
    editor.place(before=editor.producer("b"))
    assert made.graph.SerializeToString() == before
    editor.finish()
    assert made.graph.SerializeToString() == before, "the new node is dead, and goes again"
    assert editor.counts.nodes_added == editor.counts.nodes_removed == 1


def test_a_replaced_node_goes_with_all_that_only_it_needed() -> None:
    made = model()
    last = made.graph.node[2]
    editor = editor_of(made)
    editor.take_over("b")
    editor.node("Mul", ["a", "w"], "n", output="b")
    editor.place(before=last)
    editor.finish()
    assert [(n.op_type, list(n.output)) for n in made.graph.node] == [("Mul", ["a"]), ("Mul", ["b"]), ("Neg", ["y"])]
    assert [t.name for t in made.graph.initializer] == ["w"]
    assert editor.counts == Counts(nodes_added=1, nodes_removed=1, initializers_removed=1)
    assert made.graph.node[2] is not None and list(made.graph.node[2].input) == ["b"]


def test_axes_are_an_attribute_before_opset_13() -> None:
    for opset, inputs in ((12, 1), (13, 2)):
        editor = editor_of(model(), opset)
        assert editor.unsqueeze("x", [], "u") == "x"
        editor.unsqueeze("x", [0], "u")
        assert len(editor.last().input) == inputs
        assert bool(editor.last().attribute) == (opset == 12)


def test_what_changes_nothing_makes_no_node() -> None:
    editor = editor_of(model())
    assert editor.transpose("x", [0, 1], "t") == "x"
    assert editor.cast("x", 1, 1, "c") == "x"
    assert editor.counts == Counts()
    assert editor.transpose("x", [1, 0], "t") != "x"
    assert editor.cast("x", 1, 10, "c") != "x"


def test_extents_of_a_reshape_are_read_at_run_time() -> None:
    editor = editor_of(model())
    editor.reshape("x", [-1, 3], "r")
    assert editor.counts.nodes_added == 1
    editor.reshape("x", [("a", 1), -1], "r")
    assert editor.counts.nodes_added == 5, "Shape, Gather and Concat as well"


def test_nodes_are_arranged_in_place() -> None:
    made = model()
    nodes = list(made.graph.node)
    arrange(made.graph, [helper.make_node("Abs", ["x"], ["z"]), nodes[2], nodes[0]])
    assert [n.op_type for n in made.graph.node] == ["Abs", "Neg", "Mul"]
    assert made.graph.node[1] is nodes[2] or made.graph.node[1].output == nodes[2].output


def test_a_function_is_called_under_another_domain() -> None:
    made = model()
    made.functions.append(
        helper.make_function("one", "F", ["u"], ["v"], [helper.make_node("Neg", ["u"], ["v"])], made.opset_import)
    )
    nodes = [helper.make_node("F", ["x"], [f"f{k}"], domain="one") for k in range(2)]
    for node in nodes:
        call_as(made, node, "two")
    assert [(f.domain, f.name) for f in made.functions] == [("one", "F"), ("two", "F")]
    assert [o.domain for o in made.opset_import].count("two") == 1
    assert {n.domain for n in nodes} == {"two"}
    with pytest.raises(ValueError, match="no function three::G"):
        call_as(made, helper.make_node("G", ["x"], ["g"], domain="three"), "two")


def test_attributes_and_metadata() -> None:
    node = helper.make_node("Neg", ["x"], ["y"], axis=1, keep=2)
    set_attribute(node, "axis", 3)
    assert {a.name: a.i for a in node.attribute} == {"keep": 2, "axis": 3}
    set_metadata(node, {"from": "here"})
    assert [(p.key, p.value) for p in node.metadata_props] == [("from", "here")]
