"""Small files that ask for more than any machine has: expressions that double, sizes of 2**40, loops without an end.

Run as a program it rewrites every one of them under a limit on its address space, and prints a JSON line for each:
``python tests/bombs.py``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from textgraphs import read

ADDRESS_SPACE = 3 << 30
"""Bytes; onnxruntime and its libraries take half a gigabyte of it without a model."""

SECONDS = 60

Bomb = Callable[[], ModelProto]
BOMBS: dict[str, Bomb] = {}
VERIFIED: set[str] = set()
"""Those that are run in onnxruntime as well."""


def bomb(make: Bomb) -> Bomb:
    BOMBS[make.__name__] = make
    return make


def verified(make: Bomb) -> Bomb:
    VERIFIED.add(make.__name__)
    return bomb(make)


# --- making them -----------------------------------------------------------------------------------------


def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def constant(made: ModelProto, name: str, value: object) -> str:
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def argument(made: ModelProto, name: str, kind: int, shape: Sequence[int | str]) -> str:
    made.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return name


def with_bias(made: ModelProto, nodes: Sequence[NodeProto], value: str) -> ModelProto:
    """The value, made by the nodes, is added to the scores."""
    at = next(k for k, n in enumerate(made.graph.node) if n.op_type == "Softmax")
    softmax = made.graph.node[at]
    scores, softmax.input[0] = softmax.input[0], "scores_with_more"
    for offset, new in enumerate((*nodes, node("Add", [scores, value], "scores_with_more"))):
        made.graph.node.insert(at + offset, new)
    return made


def twice(kind: str, start: str, length: int) -> tuple[list[NodeProto], str]:
    """A chain of operators that use what the one before made for both their operands."""
    names = [start, *(f"twice{k}" for k in range(length))]
    return [node(kind, [a, a], b) for a, b in pairwise(names)], names[-1]


def sum_of(made: ModelProto, parts: Sequence[str]) -> tuple[list[NodeProto], str]:
    return [node("Sum", parts, "sum_of_parts")], "sum_of_parts"


# --- expressions -----------------------------------------------------------------------------------------


@bomb
def a_number_squared_a_hundred_times() -> ModelProto:
    made = read("forms/linear")
    return with_bias(made, *twice("Mul", constant(made, "three", np.float32(3)), 100))


@bomb
def a_position_squared_a_hundred_times() -> ModelProto:
    return with_bias(read("forms/linear"), *twice("Mul", "j", 100))


@bomb
def powers_of_themselves() -> ModelProto:
    """A text that doubles sixty times."""
    return with_bias(read("forms/linear"), *twice("Pow", "j", 60))


@bomb
def a_condition_that_doubles() -> ModelProto:
    made = read("forms/linear")
    nodes, last = [], ""
    for k in range(30):
        nodes.append(node("Greater", ["ji", constant(made, f"t{k}", np.int64(k))], f"g{k}"))
        if last:
            nodes.append(node("Xor", [last, f"g{k}"], f"x{k}"))
        last = nodes[-1].output[0]
    return with_bias(made, [*nodes, node("Cast", [last], "value", to=TensorProto.FLOAT)], "value")


@bomb
def a_comparison_of_forty_conditions() -> ModelProto:
    """Resolved case by case it has 2**40 cases."""
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, ["Z"])
    nodes = []
    for k in range(40):
        nodes += [
            node("Gather", ["z", constant(made, f"p{k}", np.int64(k))], f"v{k}"),
            node("Greater", [f"v{k}", constant(made, f"t{k}", np.float32(k))], f"g{k}"),
            node("Cast", [f"g{k}"], f"i{k}", to=TensorProto.INT64),
        ]
    nodes += [
        *sum_of(made, [f"i{k}" for k in range(40)])[0],
        node("Add", ["sum_of_parts", "ji"], "counted"),
        node("Less", ["counted", constant(made, "many", np.int64(15))], "few"),
        node("Cast", ["few"], "value", to=TensorProto.FLOAT),
    ]
    return with_bias(made, nodes, "value")


@bomb
def a_maximum_of_sixty_values() -> ModelProto:
    """Sixty piecewise terms inside each other: 2**60 cases."""
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, ["Z"])
    nodes, last = [], "j"
    for k in range(60):
        nodes.append(node("Gather", ["z", constant(made, f"p{k}", np.int64(k))], f"v{k}"))
        nodes.append(node("Max", [last, f"v{k}"], f"w{k}"))
        last = f"w{k}"
    return with_bias(made, nodes, last)


@bomb
def folded_sixty_times() -> ModelProto:
    """||..|j - 1| - 2| - 4..|"""
    made = read("forms/linear")
    nodes, last = [], "ji"
    for k in range(60):
        nodes.append(node("Sub", [last, constant(made, f"t{k}", np.int64(1 << k))], f"a{k}"))
        nodes.append(node("Abs", [f"a{k}"], f"w{k}"))
        last = f"w{k}"
    return with_bias(made, [*nodes, node("Cast", [last], "value", to=TensorProto.FLOAT)], "value")


@bomb
def digits_of_digits() -> ModelProto:
    made = read("forms/linear")
    nodes, last = [], "ji"
    for k in range(60):
        nodes.append(node("Mod", [last, constant(made, f"t{k}", np.int64(k + 2))], f"a{k}"))
        nodes.append(node("Div", [last, f"t{k}"], f"b{k}"))
        nodes.append(node("Mul", [f"a{k}", f"b{k}"], f"w{k}"))
        last = f"w{k}"
    return with_bias(made, [*nodes, node("Cast", [last], "value", to=TensorProto.FLOAT)], "value")


@bomb
def bounds_of_bounds() -> ModelProto:
    made = read("forms/linear")
    nodes, last = [], "ji"
    for k in range(60):
        nodes.append(node("Mod", [last, constant(made, f"t{k}", np.int64(3 * k + 1))], f"a{k}"))
        nodes.append(node("Add", ["ji", f"a{k}"], f"b{k}"))
        nodes.append(node("Max" if k % 2 else "Min", [f"b{k}", f"a{k}"], f"w{k}"))
        last = f"w{k}"
    return with_bias(made, [*nodes, node("Cast", [last], "value", to=TensorProto.FLOAT)], "value")


@bomb
def every_element_read_at_two_places() -> ModelProto:
    """x[k + 1][j] = x[k][j] + x[k][j + 3**k]: 2**40 elements behind one."""
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, ["Z"])
    constant(made, "first", np.array([0]))
    constant(made, "end", np.array([1 << 62]))
    nodes, last = [], "z"
    for k in range(40):
        step = 3**k % (1 << 40)
        nodes.append(node("Slice", [last, constant(made, f"f{k}", np.array([step])), "end", "first"], f"l{k}"))
        nodes.append(node("Slice", [last, "first", constant(made, f"b{k}", np.array([-step])), "first"], f"r{k}"))
        nodes.append(node("Add", [f"l{k}", f"r{k}"], f"x{k}"))
        last = f"x{k}"
    nodes.append(node("Unsqueeze", ["keys", "first"], "count"))
    nodes.append(node("Slice", [last, "first", "count", "first"], "value"))
    return with_bias(made, nodes, "value")


@bomb
def a_table_read_at_two_places() -> ModelProto:
    """The same over a constant: its data must not be copied for every element."""
    made = read("forms/linear")
    constant(made, "table", np.arange(1 << 16, dtype=np.float32) ** 2)
    constant(made, "first", np.array([0]))
    constant(made, "end", np.array([1 << 62]))
    nodes, last = [], "table"
    for k in range(14):
        nodes.append(node("Slice", [last, constant(made, f"f{k}", np.array([1 << k])), "end", "first"], f"l{k}"))
        nodes.append(node("Slice", [last, "first", constant(made, f"b{k}", np.array([-1 << k])), "first"], f"r{k}"))
        nodes.append(node("Add", [f"l{k}", f"r{k}"], f"x{k}"))
        last = f"x{k}"
    nodes.append(node("Unsqueeze", ["keys", "first"], "count"))
    nodes.append(node("Slice", [last, "first", "count", "first"], "value"))
    return with_bias(made, nodes, "value")


@bomb
def a_product_of_long_sums() -> ModelProto:
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, ["Z"])
    places = [constant(made, f"p{k}", np.int64(k)) for k in range(300)]
    nodes = [node("Gather", ["z", place], f"v{k}") for k, place in enumerate(places)]
    added, total = sum_of(made, [f"v{k}" for k in range(300)])
    powers, value = twice("Mul", total, 5)
    return with_bias(made, [*nodes, *added, *powers], value)


@bomb
def a_mask_added_to_itself() -> ModelProto:
    """bias + mask, doubled forty times: to take the mask apart, every sum is followed on both sides."""
    made = read("forms/linear")
    argument(made, "mask", TensorProto.FLOAT, ["B", 1, 1, "S"])
    chain, last = twice("Add", "masked", 40)
    at = next(k for k, n in enumerate(made.graph.node) if n.output[0] == "s")
    made.graph.node[at].input[1] = last
    for offset, new in enumerate((node("Add", ["bias", "mask"], "masked"), *chain)):
        made.graph.node.insert(at + offset, new)
    return made


# --- extents and ranks -----------------------------------------------------------------------------------


@bomb
def extents_that_multiply() -> ModelProto:
    """The square of a sum of forty extents, squared again and again."""
    made = read("forms/linear")
    parts = [argument(made, f"z{k}", TensorProto.FLOAT, [f"A{k}"]) for k in range(40)]
    constant(made, "last", np.array([1]))
    constant(made, "first", np.array([0]))
    nodes, value = [node("Concat", parts, "vector", axis=0)], "vector"
    for k in range(6):
        nodes += [
            node("Unsqueeze", [value, "last"], f"column{k}"),
            node("Unsqueeze", [value, "first"], f"row{k}"),
            node("MatMul", [f"column{k}", f"row{k}"], f"square{k}"),
            node("Flatten", [f"square{k}"], f"flat{k}", axis=0),
            node("Squeeze", [f"flat{k}", "first"], f"vector{k}"),
        ]
        value = f"vector{k}"
    nodes.append(node("ReduceMax", [value], "value", keepdims=0))
    return with_bias(made, nodes, "value")


@bomb
def positions_put_together_sixty_times() -> ModelProto:
    """Concat of itself with itself, or with one more: at every one of them keys without scores are looked for."""
    made = read("forms/linear")
    names = ["j", *(f"longer{k}" for k in range(60))]
    nodes = [node("Concat", [a, a if k % 3 else "one_more"], b, axis=0) for k, (a, b) in enumerate(pairwise(names))]
    constant(made, "one_more", np.array([0.0], np.float32))
    return with_bias(made, nodes, names[-1])


@bomb
def tiled_a_thousand_times() -> ModelProto:
    """An extent of 62 000 bits."""
    made = read("forms/linear")
    constant(made, "often", np.array([1 << 62]))
    names = ["j", *(f"t{k}" for k in range(1000))]
    nodes = [node("Tile", [a, "often"], b) for a, b in pairwise(names)]
    return with_bias(made, [*nodes, node("ReduceMax", [names[-1]], "value", keepdims=0)], "value")


@verified
def a_rank_that_doubles() -> ModelProto:
    """Gather adds the axes of the index to those of the data: a rank of 2**40."""
    made = read("forms/linear")
    argument(made, "z", TensorProto.INT64, [2, 2])
    nodes, value = twice("Gather", "z", 40)
    return with_bias(made, [*nodes, node("ReduceMax", [value], "value", keepdims=0)], "value")


@verified
def a_vector_that_doubles() -> ModelProto:
    """Concat of itself with itself, forty times, as a shape: onnxruntime computes it to load the model."""
    made = read("forms/linear")
    constant(made, "one_one", np.array([1]))
    names = ["one_one", *(f"vector{k}" for k in range(40))]
    nodes = [node("Concat", [a, a], b, axis=0) for a, b in pairwise(names)]
    return beside(made, [*nodes, node("Reshape", ["y", names[-1]], "r")], "r")


@bomb
def an_initializer_of_many_axes() -> ModelProto:
    made = read("forms/linear")
    made.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 62] * 100_000))
    made.graph.node.append(node("Size", ["w"], "size"))
    return made


@bomb
def an_input_of_many_axes() -> ModelProto:
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, [f"A{k}" for k in range(20_000)])
    return with_bias(
        made, [node("Size", ["z"], "size"), node("Cast", ["size"], "value", to=TensorProto.FLOAT)], "value"
    )


@bomb
def as_many_equal_extents_as_nodes() -> ModelProto:
    """Every Add says that two extents agree, each with the one before."""
    made = read("forms/linear")
    for k in range(1500):
        argument(made, f"a{k}", TensorProto.FLOAT, [f"A{k}"])
    for k in range(1499):
        made.graph.node.append(node("Add", [f"a{k}", f"a{k + 1}"], f"s{k}"))
    return made


@bomb
def nothing_but_contradictions() -> ModelProto:
    made = read("forms/linear")
    constant(made, "fifth", np.array([5]))
    made.graph.node.extend(node("Squeeze", ["keys", "fifth"], f"bad{k}") for k in range(10_000))
    made.graph.output.append(helper.make_tensor_value_info("bad9999", TensorProto.INT64, None))
    return made


# --- tables ----------------------------------------------------------------------------------------------


@bomb
def a_table_of_many_axes() -> ModelProto:
    """Any two axes might be the positions, and any other one choose a slope."""
    made = read("forms/linear")
    axes = 13
    table = sum(
        np.arange(2).reshape([2 if b == a else 1 for b in range(axes)]).astype(np.float32) * 3**a for a in range(axes)
    )
    constant(made, "table", np.asarray(table, np.float32))
    nodes = []
    for a in range(axes):
        nodes += [
            node("Mod", ["ji", constant(made, f"m{a}", np.int64(2 + a))], f"digit{a}"),
            node("Min", [f"digit{a}", "one"], f"bit{a}"),
            node("Unsqueeze", [f"bit{a}", "axis1"], f"column{a}"),
        ]
    nodes.append(node("Concat", [f"column{a}" for a in range(axes)], "index", axis=1))
    return with_bias(made, [*nodes, node("GatherND", ["table", "index"], "value")], "value")


@bomb
def a_table_of_a_quarter_million_rows() -> ModelProto:
    """Without a formula: the message says where the best line is worst, but not after fitting every row."""
    made = read("forms/linear")
    constant(made, "table", np.random.default_rng(0).random((1 << 18, 4)).astype(np.float32))
    nodes = [
        node("Mod", ["ji", constant(made, "four", np.int64(4))], "digit"),
        node("Unsqueeze", ["digit", "axis1"], "column"),
        node("Unsqueeze", ["ji", "axis1"], "row"),
        node("Concat", ["row", "column"], "index", axis=1),
        node("GatherND", ["table", "index"], "value"),
    ]
    return with_bias(made, nodes, "value")


# --- the self-check --------------------------------------------------------------------------------------


@bomb
def a_range_from_minus_two_billion() -> ModelProto:
    """Input 19368 of seed 92: a Range that starts at -2**31 instead of 0, 17 GB of it in the self-check."""
    made = read("forms/linear")
    tensor = next(t for t in made.graph.initializer if t.name == "zero")
    tensor.CopyFrom(numpy_helper.from_array(np.int64(-(1 << 31)), "zero"))
    return made


@bomb
def a_range_of_unknown_length() -> ModelProto:
    """Its end is computed by an operator that the analysis does not know: 2**33."""
    made = read("forms/linear")
    constant(made, "bit", np.uint64(1))
    constant(made, "places", np.uint64(33))
    nodes = [
        node("BitShift", ["bit", "places"], "shifted", direction="LEFT"),
        node("Cast", ["shifted"], "end", to=TensorProto.INT64),
        node("Range", ["zero", "end", "one"], "counted"),
        node("Cast", ["counted"], "numbers", to=TensorProto.FLOAT),
        node("ReduceMin", ["numbers"], "value", keepdims=0),
    ]
    return with_bias(made, nodes, "value")


@bomb
def a_range_whose_length_is_a_rounding_error() -> ModelProto:
    """Exactly 16 entries, but 160 million when computed in float32: the proof's arithmetic is not the file's."""
    made = read("forms/linear")
    for name, value in (("large", 2.0**30), ("tiny", 0.75), ("factor", 2.15e8), ("sixteen", 16.0)):
        constant(made, name, np.float32(value))
    nodes = [
        node("Mul", ["tiny", constant(made, "unit", np.float32(1))], "x"),
        node("Add", ["x", "large"], "raised"),
        node("Sub", ["raised", "large"], "lowered"),  # 0 instead of 0.75
        node("Sub", ["x", "lowered"], "error"),
        node("Mul", ["error", "factor"], "length"),
        node("Add", ["length", "sixteen"], "more"),
        node("Cast", ["more"], "end", to=TensorProto.INT64),
        node("Range", ["zero", "end", "one"], "counted"),
        node("Cast", ["counted"], "numbers", to=TensorProto.FLOAT),
        node("ReduceMin", ["numbers"], "value", keepdims=0),
        node("Add", ["value", "j"], "rising"),
    ]
    return with_bias(made, nodes, "rising")


@bomb
def a_product_without_an_end() -> ModelProto:
    """Few elements in, one out, 2**48 multiplications."""
    made = read("forms/linear")
    nodes = [
        node("Expand", ["scale", constant(made, "square", np.array([1 << 12, 1 << 12]))], "matrix"),
        node("MatMul", ["matrix", "matrix"], "product"),
        node("MatMul", ["product", "matrix"], "again"),
        node("ReduceMax", ["again"], "value", keepdims=0),
    ]
    return with_bias(made, nodes, "value")


@bomb
def two_to_the_forty_heads() -> ModelProto:
    made = read("operators/onnx_attention")
    for value in made.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == 4:
                dim.dim_value = 1 << 40
    return made


# --- functions -------------------------------------------------------------------------------------------


def called(made: ModelProto, name: str, body: Sequence[NodeProto]) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    made.functions.append(helper.make_function("local", name, ["x"], ["y"], body, opsets))


@verified
def functions_without_attention_that_multiply() -> ModelProto:
    """2**40 nodes for a runtime.  onnxruntime inlines them, and so does the verification."""
    made = read("forms/linear")
    made.opset_import.append(helper.make_opsetid("local", 1))
    called(made, "Level0", [node("Relu", ["x"], "y")])
    for k in range(1, 40):
        below = f"Level{k - 1}"
        called(made, f"Level{k}", [node(below, ["x"], "t", domain="local"), node(below, ["t"], "y", domain="local")])
    made.graph.node.append(node("Level39", ["y"], "z", domain="local"))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return made


@bomb
def functions_that_are_deep() -> ModelProto:
    made = read("scopes/local_function")
    called(made, "Level0", [node("Relu", ["x"], "y")])
    for k in range(1, 5000):
        called(made, f"Level{k}", [node(f"Level{k - 1}", ["x"], "y", domain="local")])
    made.graph.node.append(node("Level4999", ["q"], "z", domain="local"))
    return made


@bomb
def a_function_of_megabytes_called_often() -> ModelProto:
    made = read("scopes/local_function")
    weight = numpy_helper.from_array(np.zeros(1 << 18, np.float32))
    body = [node("Constant", [], "c", value=weight), node("ReduceMax", ["c"], "d", keepdims=0)]
    called(made, "Heavy", [*body, node("Add", ["x", "d"], "y")])
    made.graph.node.extend(node("Heavy", ["q"], f"h{k}", domain="local") for k in range(3000))
    return made


# --- the verification ------------------------------------------------------------------------------------


def beside(made: ModelProto, nodes: Sequence[NodeProto], output: str) -> ModelProto:
    """An attention that is rewritten, and something else beside it that is run with it."""
    made.graph.node.extend(nodes)
    made.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return made


@verified
def an_input_of_gigabytes() -> ModelProto:
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, [1 << 20, 1 << 13])
    return beside(made, [node("Relu", ["z"], "r")], "r")


@verified
def an_extent_of_ten_billion_times_another() -> ModelProto:
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, ["10000000000*S"])
    return beside(made, [node("Relu", ["z"], "r")], "r")


@verified
def an_extent_of_five_thousand_digits() -> ModelProto:
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, ["9" * 5000])
    return beside(made, [node("Relu", ["z"], "r")], "r")


@verified
def an_extent_that_is_a_digit_and_no_number() -> ModelProto:
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, ["S+²"])
    return beside(made, [node("Relu", ["z"], "r")], "r")


@verified
def a_negative_extent() -> ModelProto:
    made = read("forms/linear")
    argument(made, "z", TensorProto.FLOAT, [-3])
    return beside(made, [node("Relu", ["z"], "r")], "r")


@verified
def an_output_of_terabytes() -> ModelProto:
    made = read("forms/linear")
    return beside(made, [node("Expand", ["y", constant(made, "sizes", np.array([1 << 33, 1, 1, 1, 1]))], "r")], "r")


@verified
def a_loop_without_an_end() -> ModelProto:
    made = read("forms/linear")
    scalar = {name: helper.make_tensor_value_info(name, kind, []) for name, kind in
              (("n", 7), ("c", 9), ("x", 1), ("c_out", 9), ("x_out", 1))}  # fmt: skip
    body = helper.make_graph(
        [node("Identity", ["c"], "c_out"), node("Identity", ["x"], "x_out")],
        "body",
        [scalar["n"], scalar["c"], scalar["x"]],
        [scalar["c_out"], scalar["x_out"]],
    )
    constant(made, "often", np.int64(1 << 62))
    constant(made, "go", np.array(True))
    constant(made, "start", np.float32(1))
    return beside(made, [node("Loop", ["often", "go", "start"], "r", body=body)], "r")


@verified
def a_chain_of_concat() -> ModelProto:
    """Four kilobytes, 2**34 numbers: each node doubles what the one before made, and few are left in the end."""
    made = read("forms/linear")
    nodes = [node("Concat", [f"c{k - 1}" if k else "y"] * 2, f"c{k}", axis=0) for k in range(24)]
    return beside(made, [*nodes, node("ReduceMax", ["c23"], "r", keepdims=0)], "r")


# --- running them ----------------------------------------------------------------------------------------


def peak() -> int:
    """MiB that this process has had at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) // 1024


def outcome(made: ModelProto, folder: Path, *, verify: bool, sites: bool = False) -> str:
    """What the pass says about a model, in a word or two."""
    from alibi_rewriter import Options, rewrite
    from alibi_rewriter.base.errors import AlibiError

    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    try:
        result = rewrite(path, folder / "out.onnx", options=Options(verify=verify, verify_sites=sites))
    except AlibiError as error:
        return f"{type(error).__name__}: {error}"
    said = [str(s.refusal) for s in result.analysis.sites if s.refusal is not None]
    checked = "" if result.verification is None else f" {result.verification.status}"
    return f"{result.exit_code.name}{checked} {'; '.join(said)}"


def worked() -> float:
    """CPU time of this process and of the children that it waited for: a busy machine does not change it."""
    return sum(os.times()[:4])


def main() -> None:
    import resource

    from alibi_rewriter.verify.run import runtime

    runtime.MOST_SECONDS = 2.0
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for name, make in BOMBS.items():
        made = make()
        start = worked()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            said = outcome(made, Path(folder), verify=name in VERIFIED)
            alone = outcome(made, Path(folder), verify=True, sites=True) if name in VERIFIED else said
        signal.setitimer(signal.ITIMER_PROF, 0)
        found = {"name": name, "said": said[:300], "seconds": worked() - start, "peak": peak()}
        found["said_site_by_site"] = alone[:300]
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
