"""``rewrite check``: what is left of a rewritten file, told from the file alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode, ModelRejected
from alibi_rewriter.cli import main
from alibi_rewriter.graph import note
from alibi_rewriter.intact import check
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from onnx import ModelProto, TensorProto
from textgraphs import ACCEPTED, read

CAUSAL = "AlibiAttentionCausal"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "m.alibi.onnx"
    result = rewrite(read("forms/linear_causal"), path, options=Options(verify=False))
    assert result.output == path
    return path


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_was_just_written_is_intact(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.alibi.onnx"
    result = rewrite(read(name), path, options=Options(verify=False))
    assert result.output == path
    found = check(path)
    assert found.problems == []
    assert found.exit_code is ExitCode.DONE
    assert found.noted == found.found
    assert found.found.total() == len(result.fused)
    assert all(found.bodies.values()) and set(found.bodies) == set(found.found)


def without_a_node(model: ModelProto) -> None:
    (number,) = [i for i, node in enumerate(model.graph.node) if node.domain == "alibi"]
    node = model.graph.node[number]
    node.domain, node.op_type = "", "Identity"
    del node.input[1:]
    del node.attribute[:]


def without_the_body(model: ModelProto) -> None:
    del model.functions[:]


def with_another_scale(model: ModelProto) -> None:
    body = model.functions[0]
    body.node.add(op_type="Identity", input=[body.node[0].input[0]], output=["unused"])
    product = next(node for node in body.node if node.op_type == "Mul")
    product.input[1] = product.input[0]


def with_another_constant(model: ModelProto) -> None:
    lowest = next(node for node in model.functions[0].node if node.output[0] == "lowest")
    lowest.attribute[0].t.float_data[0] = -1e4


def without_the_import(model: ModelProto) -> None:
    kept = [entry for entry in model.opset_import if entry.domain != "alibi"]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def with_narrow_slopes(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.domain == "alibi")
    slopes = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[3])
    values = onnx.numpy_helper.to_array(slopes).astype("float16")
    slopes.CopyFrom(onnx.numpy_helper.from_array(values, slopes.name))


def with_an_unknown_member(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.domain == "alibi").op_type = "AlibiAttentionRound"


DAMAGES: dict[Callable[[ModelProto], None], str] = {
    without_a_node: "1 of 1 nodes AlibiAttentionCausal are gone",
    without_the_body: "function body of AlibiAttentionCausal is gone: 1 nodes call it",
    with_another_scale: "is not as it was written",
    with_another_constant: "is not as it was written",
    without_the_import: "no longer imported",
    with_narrow_slopes: "is float16 instead of float32",
    with_an_unknown_member: "AlibiAttentionRound are in the domain of the fused nodes and none of them",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damages_are_told(damage: Callable[[ModelProto], None], written: Path) -> None:
    model = onnx.load(written)
    damage(model)
    onnx.save(model, written)
    found = check(written)
    assert found.exit_code is ExitCode.NOT_INTACT
    assert DAMAGES[damage] in "\n".join(found.problems)
    assert "what to do" in found.to_text()


def test_names_and_order_of_a_body_do_not_matter(written: Path) -> None:
    model = onnx.load(written)
    body = model.functions[0]
    constants = [node for node in body.node if node.op_type == "Constant"]
    others = [node for node in body.node if node.op_type != "Constant"]
    assert list(body.node) != constants + others
    ordered = [node.SerializeToString() for node in constants + others]
    del body.node[:]
    for content in ordered:
        body.node.add().ParseFromString(content)
    for node in body.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name if name in (*body.input, *body.output) else f"renamed_{name}"
    onnx.save(model, written)
    assert check(written).problems == []


def test_the_command(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(written)]) == 0
    assert capsys.readouterr().out == f"{written}: 1 of 1 fused nodes, 1 of 1 function bodies intact\n"
    model = onnx.load(written)
    del model.functions[:]
    onnx.save(model, written)
    assert main(["check", str(written), "--json", str(tmp_path / "found.json")]) == ExitCode.NOT_INTACT
    assert "0 of 1 function bodies" in capsys.readouterr().out
    facts = json.loads((tmp_path / "found.json").read_text())
    assert (facts["exit_code"], facts["found"], facts["bodies"]) == (9, {CAUSAL: 1}, {CAUSAL: False})
    assert main(["check", str(written), "--json", "-"]) == ExitCode.NOT_INTACT
    assert json.loads(capsys.readouterr().out) == facts


def test_a_model_that_was_never_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(read("forms/linear_causal"), path)
    assert main(["check", str(path)]) == ExitCode.NOT_REWRITTEN
    assert "holds no fused node" in capsys.readouterr().out
    with pytest.raises(ModelRejected):
        check(tmp_path / "missing.onnx")


def test_inlined_on_purpose_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.alibi.onnx"
    rewrite(read("forms/linear_causal"), path, options=Options(verify=False, inline=True))
    found = check(path)
    assert (found.exit_code, found.inlined.total()) == (ExitCode.DONE, 1)
    assert "as `--inline` writes them" in found.to_text()


def test_the_note_replaces_an_older_one_and_keeps_what_is_not_ours() -> None:
    model = read("forms/linear_causal")
    model.metadata_props.add(key="author", value="somebody")
    for _ in range(2):
        note.write(model)
    assert sorted(entry.key for entry in model.metadata_props) == ["alibi_rewriter.version", "author"]
    result = rewrite(model, options=Options(verify=False))
    assert result.model is not None
    assert note.read(result.model, note.FUSED) == {CAUSAL: 1}
    assert note.read(model, note.FUSED) is None


@pytest.mark.parametrize("name", ["forms/linear_causal", "positions/counted", "masks/key_bias_per_head"])
def test_bodies_take_what_a_converter_has_narrowed(name: str) -> None:
    """A converter to float16 knows nothing of inputs that are float32; what it makes loads and runs."""
    ort = pytest.importorskip("onnxruntime")
    model = rewrite(read(name), options=Options(verify=False)).model
    assert model is not None
    convert = pytest.importorskip("onnxruntime.transformers.float16").convert_float_to_float16
    options = ort.SessionOptions()
    options.log_severity_level = 4
    half = convert(model, keep_io_types=True)
    ort.InferenceSession(half.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer)
