"""The rewriter as a pass of Olive; run where Olive is installed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from alibi_rewriter.graph.note import fused_nodes

olive = pytest.importorskip("olive.passes.olive_pass", reason="olive-ai is not installed")
EXAMPLE = Path(__file__).parents[2] / "examples" / "bloom-tiny.onnx"


def ran(source: Path, target: Path, **config: bool) -> Path:
    """The file that the pass hands on."""
    from alibi_rewriter.olive_pass import AlibiRewrite
    from olive.model import ONNXModelHandler

    step = olive.create_pass_from_dict(AlibiRewrite, config, disable_search=True)
    return Path(step.run(ONNXModelHandler(model_path=str(source)), str(target)).model_path)


def test_a_model_is_rewritten(tmp_path: Path) -> None:
    before = EXAMPLE.read_bytes()
    made = ran(EXAMPLE, tmp_path / "out")
    assert made.parent == tmp_path / "out" and len(fused_nodes(onnx.load(made))) == 2
    assert EXAMPLE.read_bytes() == before


def test_an_option(tmp_path: Path) -> None:
    made = onnx.load(ran(EXAMPLE, tmp_path / "out", inline=True))
    assert not fused_nodes(made) and not made.functions


def test_a_model_without_alibi_goes_on_as_it_is(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, ["N"])], [value("y", 1, ["N"])]
    )
    source = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), source)
    assert ran(source, tmp_path / "out") == source


def test_the_workflow_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from olive.workflows import run

    page = (EXAMPLE.parents[1] / "docs" / "tool-order.md").read_text(encoding="utf-8")
    found = re.search(r"```json\n(.+?)```", page.split("## Olive")[1], re.DOTALL)
    assert found is not None
    (tmp_path / "package.json").write_text(json.dumps(json.loads(found.group(1))), encoding="utf-8")
    workflow = {
        "input_model": {"type": "OnnxModel", "model_path": str(EXAMPLE)},
        "passes": {"alibi": {"type": "AlibiRewrite"}},
        "output_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
    }
    monkeypatch.chdir(tmp_path)
    run(workflow, package_config=str(tmp_path / "package.json"))
    assert len(fused_nodes(onnx.load(tmp_path / "out" / "model.onnx"))) == 2
