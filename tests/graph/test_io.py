"""Files in and out: broken and unsafe inputs are rejected, outputs appear whole or not at all, twice the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode, ModelRejected, UsageError
from alibi_rewriter.cli import main
from alibi_rewriter.graph import save as staging
from alibi_rewriter.graph.load import check_target, load
from alibi_rewriter.graph.save import save
from alibi_rewriter.rewriter import pipeline
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.report import to_text
from alibi_rewriter.rewriter.result import Options
from effort import growth
from onnx import ModelProto, TensorProto, helper, numpy_helper
from textgraphs import feeds_of, fused, read, run

pytest.importorskip("onnxruntime")

QUICK = Options(verify=False)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(read("forms/linear_causal"), path)
    return path


# --- what is no model ------------------------------------------------------------------------------------


def truncated() -> bytes:
    return read("forms/linear_causal").SerializeToString()[:-7]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(truncated(), id="truncated"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(64), id="picture"),
        pytest.param(b"<html>Not found</html>", id="web page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", id="pointer"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(TensorProto(name="t", data_type=1, dims=[1], raw_data=bytes(4)).SerializeToString(), id="tensor"),
    ],
)
def test_no_model(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert main([str(path)]) == ExitCode.INPUT_REJECTED
    assert str(path) in capsys.readouterr().err
    assert names(tmp_path) == ["model.onnx"]


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == ExitCode.INPUT_REJECTED


def change(path: Path, how: Callable[[ModelProto], None]) -> Path:
    made = onnx.load(path)
    how(made)
    path.write_bytes(made.SerializeToString())
    return path


def test_no_opset(model: Path) -> None:
    change(model, lambda m: m.ClearField("opset_import"))
    with pytest.raises(ModelRejected, match="operator set"):
        rewrite(model, options=QUICK)


def test_future_opset(model: Path) -> None:
    def later(made: ModelProto) -> None:
        made.opset_import[0].version = 9999

    with pytest.raises(ModelRejected, match=r"9999.*pip install"):
        rewrite(change(model, later), options=QUICK)


def test_cycle(model: Path) -> None:
    def cycle(made: ModelProto) -> None:
        next(n for n in made.graph.node if n.output[0] == "kt").input[0] = "y"

    with pytest.raises(ModelRejected, match="cycle"):
        rewrite(change(model, cycle), options=QUICK)


def test_self_loop(model: Path) -> None:
    def loop(made: ModelProto) -> None:
        next(n for n in made.graph.node if n.output[0] == "kt").input[0] = "kt"

    with pytest.raises(ModelRejected, match="cycle"):
        rewrite(change(model, loop), options=QUICK)


def test_value_made_twice(model: Path) -> None:
    def twice(made: ModelProto) -> None:
        made.graph.node.append(helper.make_node("Relu", ["q"], ["kt"]))

    with pytest.raises(ModelRejected, match="'kt' is made twice"):
        rewrite(change(model, twice), options=QUICK)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_functions_that_call_themselves(tmp_path: Path, length: int) -> None:
    made = read("scopes/local_function")
    first = made.functions[0]
    chain = [*(f"Other{k}" for k in range(1, length)), first.name]
    first.node.append(helper.make_node(chain[0], ["q", "k", "v", "slopes"], ["again"], domain="local"))
    for name, following in pairwise(chain):
        body = helper.make_node(following, ["q", "k", "v", "slopes"], ["y"], domain="local")
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        made.functions.append(helper.make_function("local", name, ["q", "k", "v", "slopes"], ["y"], [body], opsets))
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelRejected, match="calls itself"):
        rewrite(path, options=QUICK)


def nested(levels: int) -> ModelProto:
    made = read("forms/linear")
    value = helper.make_tensor_value_info("z0", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["q"], ["z0"])], "g0", [], [value])
    for level in range(1, levels):
        node = helper.make_node("If", ["flag"], [f"z{level}"], then_branch=graph, else_branch=graph)
        if level > 4:  # the other branch stays small, or the file would double at every level
            leaf = helper.make_graph([helper.make_node("Relu", ["q"], [f"e{level}"])], "e", [],
                                     [helper.make_tensor_value_info(f"e{level}", TensorProto.FLOAT, None)])  # fmt: skip
            node = helper.make_node("If", ["flag"], [f"z{level}"], then_branch=graph, else_branch=leaf)
        value = helper.make_tensor_value_info(f"z{level}", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], f"g{level}", [], [value])
    made.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    made.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=graph, else_branch=graph))
    return made


def test_bodies_nested_too_deeply() -> None:
    with pytest.raises(ModelRejected, match="nested"):
        rewrite(nested(27), options=QUICK)


def test_bodies_nested_moderately() -> None:
    assert rewrite(nested(8), options=QUICK).exit_code is ExitCode.DONE


# --- external data ---------------------------------------------------------------------------------------


def with_external(folder: Path, location: str = "weights.bin", *, bare: bool = False, **entries: str) -> Path:
    """A model whose weight ``offset`` [8] lies in another file."""
    made = read("forms/linear_causal")
    weight = np.linspace(-1, 1, 8, dtype=np.float32)
    tensor = numpy_helper.from_array(weight, "offset")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "32", **entries}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    made.graph.initializer.append(tensor)
    made.graph.node.append(helper.make_node("Add", ["y", "offset"], ["z"]))
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 4, "S", 8]))
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    if not bare:
        (folder / "weights.bin").write_bytes(weight.tobytes())
    return path


@pytest.mark.parametrize(
    ("location", "entries", "why"),
    [
        ("/etc/hostname", {}, "outside"),
        ("../weights.bin", {}, "outside"),
        ("data/../../weights.bin", {}, "outside"),
        ("absent.bin", {}, "does not exist"),
        ("", {}, "names no file"),
        ("weights.bin", {"offset": "16"}, "beyond the end"),
        ("weights.bin", {"length": "33"}, "beyond the end"),
        ("weights.bin", {"offset": "-8", "length": "8"}, "beyond the end"),
        ("weights.bin", {"offset": "many"}, "no number"),
    ],
)
def test_unsafe_external_data(tmp_path: Path, location: str, entries: dict[str, str], why: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(32))
    path = with_external(inner, location, **entries)
    with pytest.raises(ModelRejected, match=why):
        rewrite(path, options=QUICK)
    assert names(inner) == ["model.onnx", "weights.bin"]


def test_external_data_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.bin").write_bytes(bytes(32))
    inner = tmp_path / "inner"
    inner.mkdir()
    path = with_external(inner, bare=True)
    (inner / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ModelRejected, match="symbolic link"):
        rewrite(path, options=QUICK)


def test_external_data_in_a_linked_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "weights.bin").write_bytes(bytes(32))
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "data").symlink_to(outside)
    with pytest.raises(ModelRejected):
        rewrite(with_external(inner, "data/weights.bin", bare=True), options=QUICK)


def test_external_data_too_short_for_the_shape(tmp_path: Path) -> None:
    path = with_external(tmp_path, bare=True, length="0")
    (tmp_path / "weights.bin").write_bytes(bytes(20))
    made = onnx.load(path, load_external_data=False)
    tensor = next(t for t in made.graph.initializer if t.name == "offset")
    del tensor.external_data[1:]
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelRejected):
        rewrite(path, options=QUICK)


def test_external_data_go_along(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    path = with_external(first)
    result = rewrite(path, second / "out.onnx")
    assert result.exit_code is ExitCode.DONE
    assert names(second) == ["out.onnx", "weights.bin"]
    assert (second / "weights.bin").read_bytes() == (first / "weights.bin").read_bytes()
    original = onnx.load(path)
    for file in (first / "weights.bin", path):
        file.unlink()  # the new folder is enough
    written = onnx.load(second / "out.onnx")
    feeds = feeds_of(original, 0)
    for wanted, got in zip(run(original, feeds), run(written, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_external_data_are_shared_in_one_folder(tmp_path: Path) -> None:
    path = with_external(tmp_path)
    stamp = (tmp_path / "weights.bin").stat()
    assert rewrite(path, options=QUICK).exit_code is ExitCode.DONE
    assert names(tmp_path) == ["model.alibi.onnx", "model.onnx", "weights.bin"]
    after = (tmp_path / "weights.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)


def test_another_data_file_in_the_way(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    (second / "weights.bin").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="in the way"):
        rewrite(with_external(first), second / "out.onnx", options=QUICK)
    assert names(second) == ["weights.bin"]
    assert (second / "weights.bin").read_bytes() == b"somebody's"


@pytest.mark.parametrize("folder", ["", "other"])
def test_output_over_the_data_file(tmp_path: Path, folder: str) -> None:
    (tmp_path / "other").mkdir()
    path = with_external(tmp_path)
    before = (tmp_path / "weights.bin").read_bytes()
    target = tmp_path / folder / "weights.bin"
    with pytest.raises(UsageError):
        rewrite(path, target, options=QUICK)
    assert names(tmp_path / "other") == []
    assert (tmp_path / "weights.bin").read_bytes() == before


# --- outputs ---------------------------------------------------------------------------------------------


def test_input_is_never_the_output(model: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(UsageError, match="input itself"):
        rewrite(model, model, options=QUICK)
    assert model.read_bytes() == before


def test_target_checks(model: Path) -> None:
    source = load(model)
    with pytest.raises(UsageError, match="does not exist"):
        check_target(source, model.parent / "no" / "out.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        check_target(source, model.parent)
    check_target(source, model.parent / "out.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(model: Path) -> None:
    model.parent.chmod(0o555)
    try:
        with pytest.raises(UsageError, match="cannot be written"):
            rewrite(model, options=QUICK)
        assert names(model.parent) == ["model.onnx"]
    finally:
        model.parent.chmod(0o755)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_no_litter_after_a_failure(model: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.os, call, full)
    with pytest.raises(UsageError, match="No space left"):
        save(onnx.load(model), model.parent / "out.onnx", None)
    assert names(model.parent) == ["model.onnx"]


def test_no_litter_after_a_failed_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()

    def full(_: Path, target: Path, tell: object) -> None:
        Path(target).write_bytes(b"par")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "copy_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        rewrite(with_external(first), second / "out.onnx", options=QUICK)
    assert names(second) == []


def test_an_interrupt_leaves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(staging.os, "replace", interrupt)
    assert main([str(model), "--no-verify"]) == 130
    assert names(model.parent) == ["model.onnx"]


def test_original_is_untouched(model: Path) -> None:
    before, stamp = model.read_bytes(), model.stat().st_mtime_ns
    assert rewrite(model).exit_code is ExitCode.DONE
    assert model.read_bytes() == before
    assert model.stat().st_mtime_ns == stamp


def test_model_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = read("forms/linear_causal")
    before = made.SerializeToString(deterministic=True)
    result = rewrite(made)
    assert result.exit_code is ExitCode.DONE
    assert result.output is None
    assert result.model is not None and fused(result.model) == ["AlibiAttentionCausal"]
    assert made.SerializeToString(deterministic=True) == before
    assert names(tmp_path) == []
    written = rewrite(made, tmp_path / "out.onnx", options=QUICK)
    assert written.output == tmp_path / "out.onnx"
    assert names(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize("name", ["forms/linear_causal", "scopes/local_function", "positions/counted"])
def test_a_second_run_finds_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(read(name), path)
    assert rewrite(path, options=QUICK).exit_code is ExitCode.DONE
    second = rewrite(tmp_path / "model.alibi.onnx", options=QUICK)
    assert second.exit_code is ExitCode.DONE and second.output is None
    assert second.rewritten_before > 0 and "rewritten already" in to_text(second)
    assert second.analysis.sites == []
    assert names(tmp_path) == ["model.alibi.onnx", "model.onnx"]


def test_one_model_says_nothing_about_another() -> None:
    """Rewriting several models in one process is the same as rewriting each in its own."""

    def detail(row: int, column: int) -> str:
        made = read("refusals/one_entry")
        tensor = next(t for t in made.graph.initializer if t.name == "table")
        values = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)[:, None, None] * (np.arange(8, dtype=np.float32) - 7)
        values[row, 0, column] += 1
        tensor.CopyFrom(numpy_helper.from_array(values, "table"))
        (site,) = rewrite(made, options=QUICK).analysis.sites
        assert site.refusal is not None
        return site.refusal.detail

    assert "[0, 3]" in detail(0, 3)
    assert "[3, 5]" in detail(3, 5)


HASHES = """
import hashlib, sys
from pathlib import Path
from alibi_rewriter import Options, rewrite
for path in sys.argv[1:]:
    result = rewrite(path, Path(path).with_suffix(".out"), options=Options(verify=False))
    print(hashlib.sha256(Path(path).with_suffix(".out").read_bytes()).hexdigest(), len(result.fused))
"""


def test_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    paths = []
    for name in ("forms/linear_causal", "positions/counted", "masks/unattended_rows", "scopes/local_function"):
        path = tmp_path / f"{Path(name).name}.onnx"
        onnx.save(read(name), path)
        paths.append(str(path))
    said = []
    for seed in range(5):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", HASHES, *paths]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
        said.append(done.stdout)
    assert len(said[0].splitlines()) == len(paths)
    assert [line.split()[1] for line in said[0].splitlines()] == ["1", "1", "1", "2"]
    assert set(said) == {said[0]}


@pytest.mark.parametrize("name", ["positions/counted", "masks/unattended_rows", "refusals/offset"])
def test_node_order_does_not_matter(name: str) -> None:
    def verdicts(made: ModelProto) -> list[tuple[str, object, object]]:
        result = rewrite(made, options=QUICK)
        return [
            (
                s.name,
                s.refusal and (s.refusal.code, s.refusal.stage, s.refusal.detail),
                s.binding and (s.binding.proof.form, s.binding.proof.causal, s.binding.proof.slopes.tolist()),
            )
            for s in result.analysis.sites
        ]

    wanted = verdicts(read(name))
    assert len(wanted) == 1
    for seed in range(4):
        shuffled = read(name)
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in shuffled.graph.node]
        np.random.default_rng(seed).shuffle(nodes)  # type: ignore[arg-type]
        del shuffled.graph.node[:]
        shuffled.graph.node.extend(nodes)
        assert verdicts(shuffled) == wanted


def test_what_the_model_says_of_itself_is_kept() -> None:
    made = read("caches/concatenated")
    made.producer_name, made.producer_version, made.domain = "exporter", "1.2", "org.example"
    made.model_version, made.doc_string = 7, "about"
    made.graph.doc_string = "graph"
    made.metadata_props.add(key="license", value="free")
    result = rewrite(made, options=QUICK)
    assert result.model is not None
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(result.model, field) == getattr(made, field), field
    assert result.model.graph.name == made.graph.name
    assert result.model.graph.doc_string == "graph"
    assert {p.key: p.value for p in made.metadata_props}.items() <= {
        p.key: p.value for p in result.model.metadata_props
    }.items()
    assert list(result.model.graph.input) == list(made.graph.input)
    assert list(result.model.graph.output) == list(made.graph.output)
    opsets = {o.domain: o.version for o in result.model.opset_import}
    assert opsets == {"": 17, "alibi": 1}


def test_old_ir_version_is_raised_and_said() -> None:
    made = read("forms/linear")
    made.ir_version = 7
    result = rewrite(made, options=QUICK)
    assert result.model is not None
    assert result.model.ir_version >= 8
    assert any("IR version 7" in n for n in result.notes)
    assert made.ir_version == 7


def test_provenance_is_kept_with_the_fused_node() -> None:
    made = read("forms/linear")
    made.ir_version = 10
    result = rewrite(made, options=QUICK)
    assert result.model is not None
    node = next(n for n in result.model.graph.node if n.domain == "alibi")
    assert len(node.metadata_props) > 0
    assert "p" in {p.value for p in node.metadata_props}


def test_dead_nodes_do_not_break_the_result() -> None:
    made = read("forms/linear")
    made.graph.node.insert(4, helper.make_node("Neg", ["j"], ["unused"]))
    onnx.checker.check_model(made)
    result = rewrite(made, options=QUICK)
    assert result.model is not None
    onnx.checker.check_model(result.model)
    feeds = feeds_of(made, 0)
    np.testing.assert_allclose(run(result.model, feeds)[0], run(made, feeds)[0], atol=2e-5)


# --- size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["beside", "query"])
def test_a_deep_chain(where: str) -> None:
    """25 000 additions in a row: no recursion, and work in proportion."""
    assert growth(lambda: fuse_a_chain(where, 5_000), lambda: fuse_a_chain(where, 25_000)) < 15


def fuse_a_chain(where: str, count: int) -> None:
    made = read("forms/linear")
    one = numpy_helper.from_array(np.float32(1e-6), "tiny")
    made.graph.initializer.append(one)
    last = "q"
    nodes = [helper.make_node("Add", ["q" if k == 0 else f"c{k - 1}", "tiny"], [f"c{k}"]) for k in range(count)]
    last = f"c{count - 1}"
    if where == "beside":
        nodes = [*made.graph.node, *nodes]
        made.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, ["B", 4, "S", 8]))
    else:
        for node in made.graph.node:
            if node.output[0] == "qk":
                node.input[0] = last
        nodes = [*nodes, *made.graph.node]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    result = rewrite(made, options=QUICK)
    assert result.exit_code is ExitCode.DONE
    assert len(result.fused) == 1


def test_a_deep_bias() -> None:
    """A bias behind 3000 additions of zero is proven or refused, but never a crash."""
    made = read("forms/linear")
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nil"))
    count = 3000
    nodes = list(made.graph.node)
    at = next(k for k, n in enumerate(nodes) if n.output[0] == "bias")
    chain = [helper.make_node("Add", ["bias" if k == 0 else f"c{k - 1}", "nil"], [f"c{k}"]) for k in range(count)]
    for node in nodes[at + 1 :]:
        node.input[:] = [f"c{count - 1}" if i == "bias" else i for i in node.input]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (*nodes[: at + 1], *chain, *nodes[at + 1 :])]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    result = rewrite(made, options=QUICK)
    assert len(result.analysis.sites) == 1
    assert result.exit_code in (ExitCode.DONE, ExitCode.NOT_REWRITTEN)


def test_load_reads_no_weights(tmp_path: Path) -> None:
    source = load(with_external(tmp_path))
    tensor = next(t for t in source.model.graph.initializer if t.name == "offset")
    assert not tensor.raw_data and not tensor.float_data
    assert len(source.sha256) == 64
    assert pipeline.source_of(source.model).sha256 == ""
