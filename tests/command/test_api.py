"""The Python side: models of every kind in and out, what can be asked of a result, what the package exports."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import alibi_rewriter
import numpy as np
import onnx
import pytest
from alibi_rewriter import AlibiError, ExitCode, ModelRejected, Options, RewriteResult, UsageError, rewrite
from onnx import ModelProto, TensorProto
from textgraphs import feeds_of, fused, read, run


def save(model: ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


def to_ir(model: ModelProto) -> Any:
    return pytest.importorskip("onnx_ir").from_proto(model)


def from_ir(model: Any) -> ModelProto:
    assert type(model).__module__.startswith("onnx_ir")
    made: ModelProto = pytest.importorskip("onnx_ir").to_proto(model)
    return made


def to_graph(model: ModelProto) -> Any:
    return pytest.importorskip("onnx_graphsurgeon").import_onnx(model)


def from_graph(graph: Any) -> ModelProto:
    assert type(graph).__name__ == "Graph"
    made: ModelProto = pytest.importorskip("onnx_graphsurgeon").export_onnx(graph, do_type_check=False)
    return made


def same(model: ModelProto) -> ModelProto:
    assert isinstance(model, ModelProto)
    return model


KINDS: dict[str, tuple[Callable[[ModelProto], Any], Callable[[Any], ModelProto]]] = {
    "ModelProto": (same, same),
    "bytes": (ModelProto.SerializeToString, onnx.load_model_from_string),
    "onnx_ir.Model": (to_ir, from_ir),
    "gs.Graph": (to_graph, from_graph),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_that_was_given_comes_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there, back = KINDS[kind]
    original = read("forms/linear_causal")
    model = there(original)
    before = back(model).SerializeToString(deterministic=True)
    result = rewrite(model)
    assert result.exit_code is ExitCode.DONE and result.verification is not None and result.verification.passed
    assert back(model).SerializeToString(deterministic=True) == before, "what was given has changed"
    made = back(result.model)
    assert fused(made) == ["AlibiAttentionCausal"]
    feeds = feeds_of(original, 0)
    np.testing.assert_allclose(run(made, feeds)[0], run(original, feeds)[0], atol=2e-5)
    assert list(tmp_path.iterdir()) == []
    refused = rewrite(there(read("refusals/quadratic")), verify=False)
    assert (refused.exit_code, refused.model) == (ExitCode.NOT_REWRITTEN, None)


def test_a_path_writes_only_where_it_is_told(tmp_path: Path) -> None:
    path = save(read("forms/linear_causal"), tmp_path)
    for given in (path, str(path)):
        result = rewrite(given, verify=False)
        assert result.output is None and isinstance(result.model, ModelProto)
        assert fused(result.model) == ["AlibiAttentionCausal"]
    assert list(tmp_path.iterdir()) == [path]
    result = rewrite(path, tmp_path / "out.onnx", verify=False)
    assert result.output == tmp_path / "out.onnx" and result.output.is_file()


def with_data(folder: Path) -> Path:
    """A model with its slopes in a data file."""
    model = read("forms/linear_causal")
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_external_data_of_an_ir_model_are_found_and_stay_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ir = pytest.importorskip("onnx_ir")
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    path = with_data(home)
    monkeypatch.chdir(away)
    result = rewrite(ir.load(str(path)))
    assert result.exit_code is ExitCode.DONE and len(result.fused) == 1
    ir.save(result.model, str(away / "out.onnx"))
    feeds = feeds_of(read("forms/linear_causal"), 0)
    wanted = run(read("forms/linear_causal"), feeds)[0]
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(away / "out.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, feeds)[0], wanted, atol=2e-5)
    (home / "m.data").unlink()
    with pytest.raises(ModelRejected, match=r"m\.data"):
        rewrite(ir.load(str(path)))


def test_bytes_that_are_no_model_and_other_things() -> None:
    with pytest.raises(ModelRejected, match="the model is not an ONNX model"):
        rewrite(b"\xff" * 40)
    with pytest.raises(UsageError, match=r"not a builtins\.int"):
        rewrite(3)


def test_keywords_are_those_of_the_options() -> None:
    taken = inspect.signature(rewrite).parameters
    options = {field.name: field for field in dataclasses.fields(Options)}
    of_the_cache = {"in_place", "capacity"}  # one keyword, as on the command line
    assert set(taken) - {"model", "output", "options", "cache"} == set(options) - {"check", "kernels", *of_the_cache}
    for name in set(options) - {"check", "kernels", "val_ranges", *of_the_cache}:
        assert taken[name].default == options[name].default, name
    assert rewrite(read("forms/linear_causal"), dry_run=True).fused == []
    with pytest.raises(UsageError, match="not both"):
        rewrite(read("forms/linear_causal"), options=Options(), seed=2)


def test_a_model_that_failed_its_verification_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from alibi_rewriter.rewriter import pipeline

    failed = SimpleNamespace(status="failed", passed=False, summary=lambda: "it differs")
    monkeypatch.setattr(pipeline, "compare", lambda *_, **__: failed)
    result = rewrite(read("forms/linear_causal"))
    assert (result.exit_code, result.model) == (ExitCode.VERIFICATION_FAILED, None)


def test_the_repr_is_a_line(tmp_path: Path) -> None:
    result = rewrite(save(read("forms/linear_causal"), tmp_path), tmp_path / "out.onnx", verify=False)
    where = tmp_path / "out.onnx"
    assert repr(result) == (
        f"<RewriteResult DONE: 1 of 1 attention sites fused, verification not run, written to '{where}'>"
    )
    assert len(repr(result.source)) < 500


def test_what_can_be_asked_of_a_result(tmp_path: Path) -> None:
    result = rewrite(read("forms/linear_causal"), verify=False)
    plain, full = result.to_json(), result.to_json(explain=True)
    assert plain["exit_code"] == 0 and json.dumps(full)
    assert isinstance(plain["sites"], list) and isinstance(full["sites"], list)
    assert "explanation" not in plain["sites"][0] and "explanation" in full["sites"][0]
    (site,) = result.analysis.proven
    assert "proof" in result.explain() and site.name in result.explain(site.name)
    assert "proof" not in result.explain("no such site")
    with pytest.raises(UsageError, match="regular expression"):
        result.explain("(")
    assert result.save_report(tmp_path / "r.json") == tmp_path / "r.json"
    assert json.loads((tmp_path / "r.json").read_text())["sites"][0]["explanation"]
    result.save_report(tmp_path / "r.html")
    assert "<html" in (tmp_path / "r.html").read_text() and site.name in (tmp_path / "r.html").read_text()
    with pytest.raises(UsageError, match=r"neither \.html nor \.json"):
        result.save_report(tmp_path / "r.txt")


def test_an_engine_needs_a_file_and_targets_are_read() -> None:
    result = rewrite(read("forms/linear_causal"), verify=False)
    with pytest.raises(UsageError, match="give rewrite\\(\\) an output"):
        result.build_engine()
    with pytest.raises(UsageError, match="not a GPU architecture"):
        alibi_rewriter.build_engine("m.onnx", targets=["gpu"])


def test_an_engine_is_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("triton")
    if not (Path(alibi_rewriter.__file__).parent / "plugin" / "libalibi_plugin.so").is_file():
        pytest.skip("the plugin library was not built")
    result = rewrite(read("forms/linear_causal"), tmp_path / "m.onnx", verify=False)
    facts = result.build_engine(targets=["sm_89"], backend="tensorrt-rtx")
    assert facts.plan == tmp_path / "m.engine" and facts.plan.is_file()
    assert (facts.expected, facts.found) == (1, 1)


def test_the_package_shows_its_names() -> None:
    assert set(alibi_rewriter.__all__) <= set(dir(alibi_rewriter))
    for name in alibi_rewriter.__all__:
        assert getattr(alibi_rewriter, name) is not None
    errors = [getattr(alibi_rewriter, n) for n in alibi_rewriter.__all__ if n[0].isupper()]
    ends = [e for e in errors if isinstance(e, type) and issubclass(e, AlibiError)]
    assert len(ends) == 7 and all(isinstance(e.exit_code, ExitCode) for e in ends)
    code = "import sys, alibi_rewriter; dir(alibi_rewriter); sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        _ = alibi_rewriter.rewrites


def test_a_pass_in_a_row_with_others() -> None:
    ir = pytest.importorskip("onnx_ir")
    common = pytest.importorskip("onnx_ir.passes.common")
    from alibi_rewriter import RewritePass

    ours = RewritePass(verify=False)
    row = ir.passes.Sequential(common.RemoveUnusedNodesPass(), ours, common.RemoveUnusedFunctionsPass())
    done = row(ir.from_proto(read("forms/linear_causal")))
    assert done.modified and fused(ir.to_proto(done.model)) == ["AlibiAttentionCausal"]
    assert isinstance(ours.result, RewriteResult) and len(ours.result.fused) == 1
    model = ir.from_proto(read("refusals/quadratic"))
    untouched = ours(model)
    assert not untouched.modified and ir.to_proto(untouched.model) == ir.to_proto(model)


def test_a_pass_ends_where_the_verification_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ir = pytest.importorskip("onnx_ir")
    from alibi_rewriter import RewritePass
    from alibi_rewriter.rewriter import pipeline

    failed = SimpleNamespace(status="failed", passed=False, summary=lambda: "it differs")
    monkeypatch.setattr(pipeline, "compare", lambda *_, **__: failed)
    with pytest.raises(ir.passes.PassError, match="it differs"):
        RewritePass()(ir.from_proto(read("forms/linear_causal")))
