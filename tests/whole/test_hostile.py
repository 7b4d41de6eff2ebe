"""Hostile files: each gives one clear error or a right result, in bounded time and memory, and nothing is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode, ModelRejected
from alibi_rewriter.cli import main
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.prepare import normalise
from alibi_rewriter.rewriter.result import Options
from effort import growth
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from textgraphs import ACCEPTED, feeds_of, read, run

QUICK = Options(verify=False)


def saved(folder: Path, made: ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# --- data files ------------------------------------------------------------------------------------------


def with_data(folder: Path, places: dict[str, tuple[int, int]], size: int = 64) -> Path:
    """An attention whose output is added to weights [8] at (offset, length) of one data file."""
    made = read("forms/linear_causal")
    value = "y"
    for name, (offset, length) in places.items():
        tensor = TensorProto(name=name, data_type=1, dims=[8], data_location=TensorProto.EXTERNAL)
        for key, entry in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=entry))
        made.graph.initializer.append(tensor)
        made.graph.node.append(helper.make_node("Add", [value, name], [f"with_{name}"]))
        value = f"with_{name}"
    made.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, ["B", 4, "S", 8]))
    (folder / "weights.bin").write_bytes(np.arange(size // 4, dtype=np.float32).tobytes())
    return saved(folder, made)


def test_overlapping_data_are_read_as_they_overlap(tmp_path: Path) -> None:
    path = with_data(tmp_path, {"w_one": (0, 32), "w_two": (16, 32), "w_three": (0, 32)})
    result = rewrite(path)
    assert result.exit_code is ExitCode.DONE
    feeds = feeds_of(onnx.load(path), 0)
    for wanted, got in zip(run(onnx.load(path), feeds), run(onnx.load(result.output), feeds), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_hard_linked_data_are_not_touched(tmp_path: Path) -> None:
    """A data file may have a second name elsewhere; a copy of it has one name only."""
    path = with_data(tmp_path, {"w_one": (0, 32)})
    other = tmp_path / "elsewhere"
    other.mkdir()
    os.link(tmp_path / "weights.bin", other / "second-name.bin")
    before = (tmp_path / "weights.bin").stat()
    assert rewrite(path, options=QUICK).exit_code is ExitCode.DONE
    out = tmp_path / "out"
    out.mkdir()
    assert rewrite(path, out / "model.onnx", options=QUICK).exit_code is ExitCode.DONE
    assert (out / "weights.bin").stat().st_nlink == 1
    after = (tmp_path / "weights.bin").stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_nlink) == (after.st_ino, after.st_mtime_ns, after.st_nlink)
    onnx.load(out / "model.onnx")  # onnx refuses data with several names


def test_data_in_a_pipe_or_device(tmp_path: Path) -> None:
    path = with_data(tmp_path, {"w_one": (0, 32)})
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(ModelRejected, match="does not exist"):
        rewrite(path, options=QUICK)


def test_a_length_smaller_than_the_shape(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="its shape needs 32"):
        rewrite(with_data(tmp_path, {"w_one": (0, 4)}), options=QUICK)


# --- huge and deep ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_a_huge_tensor_in_the_bias_is_never_made(tmp_path: Path, kind: str) -> None:
    """2**50 elements added to the scores: a verdict for the work that 2**8 elements take."""
    small, huge = tmp_path / "small", tmp_path / "huge"
    assert growth(lambda: judge_added(small, kind, 4), lambda: judge_added(huge, kind, 25)) < 10


def judge_added(folder: Path, kind: str, bits: int) -> None:
    folder.mkdir()
    made = read("forms/linear")
    made.graph.initializer.append(numpy_helper.from_array(np.array([1 << bits, 1 << bits], np.int64), "sizes"))
    made.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), "nought"))
    for name, value in (("start", 0.0), ("end", 4.0**bits), ("step", 1.0)):
        made.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    inputs = {"ConstantOfShape": ["sizes"], "Range": ["start", "end", "step"]}.get(kind, ["nought", "sizes"])
    nodes = [helper.make_node(kind, inputs, ["huge"])]
    at = next(k for k, n in enumerate(made.graph.node) if n.op_type == "Softmax")
    nodes.append(helper.make_node("Add", [made.graph.node[at].input[0], "huge"], ["more"]))
    for offset, node in enumerate(nodes):
        made.graph.node.insert(at + offset, node)
    made.graph.node[at + 2].input[0] = "more"
    assert rewrite(saved(folder, made), options=QUICK).exit_code in (ExitCode.DONE, ExitCode.NOT_REWRITTEN)


def test_many_nodes(tmp_path: Path) -> None:
    """20 000 nodes beside the attention, wide instead of deep, take work in proportion."""
    assert growth(lambda: fuse_beside(tmp_path, 4_000), lambda: fuse_beside(tmp_path, 20_000)) < 15


def fuse_beside(folder: Path, count: int) -> None:
    made = read("forms/linear")
    nodes = [helper.make_node("Relu", ["q"], [f"r{k}"]) for k in range(count)]
    made.graph.node.extend(nodes)
    made.graph.output.append(helper.make_tensor_value_info(f"r{count - 1}", TensorProto.FLOAT, None))
    result = rewrite(saved(folder, made), options=QUICK)
    assert len(result.fused) == 1


def calling(made: ModelProto, depth: int, width: int) -> ModelProto:
    """Functions that call ``width`` times the next one, ``depth`` deep; the last is an attention."""
    first = made.functions[0]
    last = first.name
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(depth):
        body = [helper.make_node(last, ["q", "k", "v", "slopes"], [f"y{k}"], domain="local") for k in range(width)]
        body.append(helper.make_node("Sum", [f"y{k}" for k in range(width)], ["y"]))
        last = f"Level{level}"
        made.functions.append(helper.make_function("local", last, ["q", "k", "v", "slopes"], ["y"], body, opsets))
    for node in made.graph.node:
        if node.domain == "local":
            node.op_type = last
    return made


def test_functions_that_multiply(tmp_path: Path) -> None:
    """2**40 nodes once inlined: refused by counting."""
    with pytest.raises(ModelRejected, match="once its local functions are inlined"):
        rewrite(saved(tmp_path, calling(read("scopes/local_function"), 40, 2)), options=QUICK)


def test_functions_that_call_functions_deeply(tmp_path: Path) -> None:
    result = rewrite(saved(tmp_path, calling(read("scopes/local_function"), 60, 1)), options=QUICK)
    assert len(result.fused) == 2


def test_counting_agrees_with_inlining() -> None:
    made = calling(read("scopes/local_function"), 3, 2)
    inlined = len(normalise.normalise(made).graph.node)
    bodies = {(f.domain, f.name): f for f in made.functions}
    limit = normalise.MOST_NODES
    try:
        normalise.MOST_NODES = 1
        with pytest.raises(ModelRejected) as error:
            normalise.normalise(made)
    finally:
        normalise.MOST_NODES = limit
    counted = int(re.search(r"has (\d+) nodes", str(error.value)).group(1))  # type: ignore[union-attr]
    assert inlined <= counted <= inlined + 2 ** (len(bodies) + 2)


def test_protobuf_nested_too_deeply(tmp_path: Path) -> None:
    """Messages in messages, thousands deep, as bytes: protobuf itself stops."""
    data = b""
    for _ in range(5000):  # AttributeProto.g > GraphProto.node > NodeProto.attribute > ...
        for tag in (0x32, 0x2A, 0x0A):
            size, prefix = len(data), bytearray()
            while True:
                prefix.append((size & 0x7F) | (0x80 if size > 0x7F else 0))
                size >>= 7
                if not size:
                    break
            data = bytes([tag]) + bytes(prefix) + data
        if len(data) > 100_000:
            break
    path = tmp_path / "model.onnx"
    path.write_bytes(read("forms/linear").SerializeToString() + b"\x3a" + bytes([0x80 | len(data) & 0x7F,
                     0x80 | (len(data) >> 7) & 0x7F, len(data) >> 14]) + data)  # fmt: skip
    assert main([str(path), "--no-verify"]) == ExitCode.INPUT_REJECTED


# --- names, shapes, versions -----------------------------------------------------------------------------


def edit(how: Callable[[ModelProto], object]) -> ModelProto:
    made = read("forms/linear_causal")
    how(made)
    return made


def twice(made: ModelProto) -> None:
    made.graph.input.append(made.graph.input[0])


def input_and_node(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Relu", ["k"], ["q"]))


def no_inputs(made: ModelProto) -> None:
    next(n for n in made.graph.node if n.op_type == "MatMul").input[:] = ["q"]


def no_name(made: ModelProto) -> None:
    next(n for n in made.graph.node if n.op_type == "MatMul").input[1] = ""


def no_name_in_a_list(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Max", ["q", ""], ["m"]))


def an_output_of_nobody(made: ModelProto) -> None:
    made.graph.node[-1].output[0] = "other"


def a_node_of_ours(made: ModelProto) -> None:
    made.opset_import.append(helper.make_opsetid("alibi", 1))
    made.graph.node.append(helper.make_node("AlibiAttentionCausal", ["q", "k"], ["z"], domain="alibi"))


def unknown_domain(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Thing", ["q"], ["t"], domain="nowhere"))


def newer_format(made: ModelProto) -> None:
    made.ir_version = 9999


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (twice, "there twice"),
        (input_and_node, "is an input or initializer"),
        (no_inputs, "has 1 inputs; MatMul has 2"),
        (no_name, "lacks an input"),
        (no_name_in_a_list, "lacks an input"),
        (an_output_of_nobody, "no node makes the output 'y'"),
        (a_node_of_ours, "has 2 inputs; AlibiAttentionCausal has 4"),
        (unknown_domain, "does not import"),
        (newer_format, "IR version 9999.*pip install"),
    ],
)
def test_ill_formed(tmp_path: Path, how: Callable[[ModelProto], object], why: str) -> None:
    path = saved(tmp_path, edit(how))
    before = content(tmp_path)
    with pytest.raises(ModelRejected, match=why):
        rewrite(path, options=QUICK)
    assert content(tmp_path) == before


@pytest.mark.parametrize("extent", [-1, 0, 1 << 62])
def test_strange_extents(tmp_path: Path, extent: int) -> None:
    def strange(made: ModelProto) -> None:
        for value in made.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param == "S":
                    dim.dim_value = extent

    assert main([str(saved(tmp_path, edit(strange))), "--no-verify"]) in (0, 3, 7)


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_extent_that_no_int64_holds_once_it_is_multiplied(tmp_path: Path, name: str) -> None:
    for axis in sorted({d.dim_param for v in read(name).graph.input for d in v.type.tensor_type.shape.dim} - {""}):
        made = read(name)
        for value in made.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param == axis:
                    dim.dim_value = (1 << 63) - 1
        assert main([str(saved(tmp_path, made)), "--no-verify", "--report", str(tmp_path / "page.html")]) in (0, 3, 7)


@pytest.mark.parametrize(
    "value", [3, "text", [1.0], read("forms/linear").graph], ids=["int", "text", "floats", "graph"]
)
def test_a_value_that_is_no_tensor(tmp_path: Path, value: object) -> None:
    """ConstantOfShape in the bias: what it fills with is unknown then."""
    made = read("forms/linear")
    node = helper.make_node("ConstantOfShape", ["extent"], ["filled"], value=value)
    at = next(k for k, n in enumerate(made.graph.node) if n.output[0] == "bias")
    made.graph.node[at].input[1] = "moved"
    made.graph.node.insert(at, helper.make_node("Add", ["j", "filled"], ["moved"]))
    made.graph.node.insert(at, node)
    assert main([str(saved(tmp_path, made)), "--no-verify"]) in (0, 3, 7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_scale_that_is_no_number(tmp_path: Path, value: float) -> None:
    """A node with a factor that float32 does not hold computes nothing, and JSON cannot write the number either."""
    made = read("forms/linear_causal")
    tensor = next(t for t in made.graph.initializer if t.name == "scale")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(value), "scale"))
    at = next(k for k, n in enumerate(made.graph.node) if n.output[0] == "scaled")
    made.graph.node[at].input[0] = "larger"
    made.graph.node.insert(at, helper.make_node("Mul", ["qk", "scale"], ["larger"]))
    report = tmp_path / "report.json"
    assert main([str(saved(tmp_path, made)), "--no-verify", "--json", str(report)]) == 3
    assert "ALB110" in report.read_text()


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (TensorProto(data_type=1, dims=[7], raw_data=b"12345"), "holds 5 bytes, but its shape needs 28"),
        (TensorProto(data_type=1, dims=[2], float_data=[1.0]), "holds 1 entries, but its shape needs 2"),
        (TensorProto(data_type=10, dims=[2], int32_data=[1]), "holds 1 entries, but its shape needs 2"),
        (TensorProto(data_type=7, dims=[1]), "holds 0 entries, but its shape needs 1"),
        (TensorProto(data_type=1, dims=[-1], raw_data=b"1234"), "negative extent"),
    ],
)
def test_a_tensor_that_holds_something_else_than_it_declares(tmp_path: Path, tensor: TensorProto, why: str) -> None:
    """Whether anything reads it or not, and in a node as well as among the initializers."""
    for inside in (False, True):
        made = read("forms/linear")
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.name = "w"
        if inside:
            made.graph.node.append(helper.make_node("Constant", [], ["c"], value=copy))
        else:
            made.graph.initializer.append(copy)
        with pytest.raises(ModelRejected, match=why):
            rewrite(saved(tmp_path, made), options=QUICK)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_slopes_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    def spoiled(made: ModelProto) -> None:
        tensor = next(t for t in made.graph.initializer if t.name == "slopes")
        array = np.array(numpy_helper.to_array(tensor))
        array.reshape(-1)[0] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    result = rewrite(saved(tmp_path, edit(spoiled)), options=QUICK)
    assert result.exit_code is ExitCode.NOT_REWRITTEN


def test_an_attention_whose_result_is_left_out(tmp_path: Path) -> None:
    made = read("caches/onnx_attention")
    made.graph.node[-1].output[0] = ""
    del made.graph.output[0]
    result = rewrite(saved(tmp_path, made), options=QUICK)
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    assert [str(s.refusal.code.value[0]) for s in result.analysis.sites if s.refusal] == ["ALB402"]


@pytest.mark.parametrize("name", ["\x1b[2J\x1b]0;owned\x07", "a" * 100_000, "../../x", "%s%n{0}", "\u202egnp"])
def test_names_reach_the_terminal_escaped(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def renamed(made: ModelProto) -> None:
        for node in made.graph.node:
            node.name = f"{name}{node.op_type}"

    assert main([str(saved(tmp_path, edit(renamed))), "--explain", "--no-verify"]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out and "\u202e" not in said.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.alibi.onnx", "model.onnx"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, in a name that every step looks at."""
    path = tmp_path / "model.onnx"
    data = edit(lambda made: None).SerializeToString().replace(b"\x0a\x02kt", b"\x0a\x02k\xff").replace(
        b"\x12\x02kt", b"\x12\x02k\xff"
    )  # fmt: skip
    path.write_bytes(data)
    assert main([str(path), "--no-verify"]) in (0, 3, 7)


@pytest.mark.parametrize("form", ["text", "json"])
def test_models_in_text_form(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = read("forms/linear")
    text = (
        onnx.printer.to_text(made) if form == "text" else onnx.serialization.registry.get("json").serialize_proto(made)
    )
    path = tmp_path / f"model.{form}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main([str(path)]) == ExitCode.INPUT_REJECTED
    assert "is not an ONNX model" in capsys.readouterr().err


def test_an_attribute_of_another_type(tmp_path: Path) -> None:
    def swapped(made: ModelProto) -> None:
        node: NodeProto = next(n for n in made.graph.node if n.op_type == "Transpose")
        del node.attribute[:]
        node.attribute.append(AttributeProto(name="perm", type=AttributeProto.STRING, s=b"0132"))

    assert main([str(saved(tmp_path, edit(swapped))), "--no-verify"]) in (3, 7)


# --- SECURITY.md -----------------------------------------------------------------------------------------


def test_every_threat_names_a_test_that_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    rows = [line for line in (root / "SECURITY.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cells[3])
        assert named, f"no test named: {row}"
        for file, function in named:
            assert re.search(rf"^def {function}\(", (root / file).read_text(), re.MULTILINE), f"{file}::{function}"
        for entry in re.findall(r"`((?:rewriter|engine|plugin)/[\w/]+\.\w+|cli\.py)", cells[2]):
            assert (root / entry).is_file(), entry


def test_an_operator_of_another_domain_is_not_what_it_is_called(tmp_path: Path) -> None:
    """`custom::Where` behind an attention is not a guard for empty rows, and `custom::Transpose` is not a transpose."""
    from alibi_rewriter.graph.index import operator

    assert operator(helper.make_node("Where", ["a"], ["b"])) == "Where"
    assert operator(helper.make_node("Where", ["a"], ["b"], domain="custom")) == ""
    model = onnx.load(Path(__file__).parents[1] / "data" / "jina__v2_sdpa_dynamo18_dyn.onnx")
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    reader = next(n for n in model.graph.node if softmax.output[0] in n.input)
    moved = next(n for n in model.graph.node if reader.output[0] in n.input)
    assert moved.op_type == "Transpose"
    moved.domain = "custom"
    model.opset_import.append(helper.make_opsetid("custom", 1))
    target = tmp_path / "m.onnx"
    rewrite(model, target, options=Options(verify=False))
    kept = [n for n in onnx.load(target).graph.node if n.domain == "custom"]
    assert [n.SerializeToString() for n in kept] == [moved.SerializeToString()], "it is still there, as it was"
