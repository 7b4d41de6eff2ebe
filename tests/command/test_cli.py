"""The command line: exit codes, files written and not written, the report, and what options mean."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from alibi_rewriter import __version__
from alibi_rewriter.base.errors import ExitCode, UsageError
from alibi_rewriter.cli import main, parse_range
from alibi_rewriter.rewriter import pipeline
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from onnx import ModelProto, helper
from textgraphs import ACCEPTED, feeds_of, fused, read, run

pytest.importorskip("onnxruntime")

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(read("forms/linear_causal"), path)
    return path


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    path = tmp_path / "refused.onnx"
    onnx.save(read("refusals/quadratic"), path)
    return path


@pytest.fixture
def partly(tmp_path: Path) -> Path:
    """Two layers: one is ALiBi, the other has a quadratic bias."""
    path = tmp_path / "partly.onnx"
    onnx.save(two_layers(), path)
    return path


def two_layers() -> ModelProto:
    made = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        layers (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v) => (float[B,4,S,8] y)
        <float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1},
         float scale = {0.35355338}, int64[1] axis0 = {0}>
        {
           extent = Shape<start=2, end=3>(k)
           keys = Squeeze(extent, axis0)
           ji = Range(zero, keys, one)
           j = Cast<to=1>(ji)
           bias = Mul(slopes, j)
           square = Mul(bias, j)
           kt = Transpose<perm=[0, 1, 3, 2]>(k)
           qk1 = MatMul(q, kt)
           scaled1 = Mul(qk1, scale)
           s1 = Add(scaled1, bias)
           p1 = Softmax<axis=-1>(s1)
           y1 = MatMul(p1, v)
           qk2 = MatMul(y1, kt)
           scaled2 = Mul(qk2, scale)
           s2 = Add(scaled2, square)
           p2 = Softmax<axis=-1>(s2)
           y = MatMul(p2, v)
        }
        """
    )
    onnx.checker.check_model(made)
    return made


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- exit codes ------------------------------------------------------------------------------------------


def test_done_writes_beside_the_input(model: Path, capsys: Printed) -> None:
    before = model.read_bytes()
    assert main([str(model)]) == 0
    assert names(model.parent) == ["model.alibi.onnx", "model.onnx"]
    assert model.read_bytes() == before
    written = onnx.load(model.with_name("model.alibi.onnx"))
    onnx.checker.check_model(written)
    assert fused(written) == ["AlibiAttentionCausal"]
    out = capsys.readouterr().out
    assert "1 attention site, 1 with a position bias, 1 proven ALiBi, 1 rewritten" in out
    assert "mutants killed" in out
    assert "wrote " in out


def test_internal_error(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("made\x1bup")

    monkeypatch.setattr(pipeline, "apply", broken)
    assert main([str(model)]) == ExitCode.INTERNAL == 1
    assert names(model.parent) == ["model.onnx"]
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and "made\\x1bup" in err
    assert "Traceback" not in err
    assert main([str(model), "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra",
    [
        ["--no-such-option"],
        ["--seed", "many"],
        ["--val-range", "q"],
        ["--val-range", "q:[2,1]"],
        ["--inputs", "absent.npz"],
        ["-o", "no/such/folder/out.onnx"],
        ["--json", "no/such/folder/report.json"],
    ],
)
def test_usage(model: Path, extra: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    monkeypatch.chdir(model.parent)
    assert main([str(model), *extra]) == ExitCode.USAGE == 2
    assert capsys.readouterr().err != ""
    assert [n for n in names(model.parent) if n.startswith(".") or n.endswith((".json", ".npz"))] == []


def test_nothing_to_rewrite(refused: Path, capsys: Printed) -> None:
    assert main([str(refused)]) == ExitCode.NOT_REWRITTEN == 3
    assert names(refused.parent) == ["refused.onnx"]
    out = capsys.readouterr().out
    assert "ALB200" in out and "NOT written" in out


def wrong_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewritten model gets other slopes than the proof says."""
    honest = pipeline.apply

    def emit(made: ModelProto, *rest: Any) -> None:
        honest(made, *rest)
        slopes = next(t for t in made.graph.initializer if t.name.endswith("/slopes"))
        changed = onnx.numpy_helper.to_array(slopes) * np.float32(1.05)
        slopes.CopyFrom(onnx.numpy_helper.from_array(changed, slopes.name))

    monkeypatch.setattr(pipeline, "apply", emit)


def test_failed_verification_writes_nothing(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    wrong_slopes(monkeypatch)
    report = model.parent / "report.json"
    assert main([str(model), "--json", str(report)]) == ExitCode.VERIFICATION_FAILED == 4
    assert names(model.parent) == ["model.onnx", "report.json"]
    assert "NOT written" in capsys.readouterr().out
    content = json.loads(report.read_text())
    assert content["exit_code"] == 4
    assert content["output"] == {"path": None, "sha256": None}
    assert content["verification"]["status"] == "failed"


def test_no_verify_skips_the_verification(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    wrong_slopes(monkeypatch)  # nobody looks
    assert main([str(model), "--no-verify"]) == 0
    assert "verification: not run" in capsys.readouterr().out
    assert model.with_name("model.alibi.onnx").exists()


def test_rejected_input(tmp_path: Path, capsys: Printed) -> None:
    assert main([str(tmp_path / "absent.onnx")]) == ExitCode.INPUT_REJECTED == 7
    assert "absent.onnx" in capsys.readouterr().err
    assert names(tmp_path) == []


def test_version_and_help(capsys: Printed) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["--help"]) == 0
    helped = capsys.readouterr().out
    for code in range(9):
        assert f"{code} " in helped
    assert main([]) == 2


def test_as_module(model: Path) -> None:
    """``python -m alibi_rewriter`` is the command, and its exit code the process's."""
    command = [sys.executable, "-m", "alibi_rewriter", str(model), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=model.parent)
    assert done.returncode == 0, done.stderr
    assert "1 proven ALiBi" in done.stdout
    assert done.stderr == ""
    missing = subprocess.run([*command[:3], "absent.onnx"], capture_output=True, text=True, check=False)
    assert missing.returncode == 7
    assert missing.stdout == ""


# --- what is written where -------------------------------------------------------------------------------


def test_dry_run_writes_nothing(model: Path, capsys: Printed) -> None:
    assert main([str(model), "--dry-run"]) == 0
    assert names(model.parent) == ["model.onnx"]
    assert "nothing was written" in capsys.readouterr().out


def test_dry_run_of_a_refused_model(refused: Path) -> None:
    assert main([str(refused), "--dry-run"]) == 3
    assert names(refused.parent) == ["refused.onnx"]


def test_output_option(model: Path) -> None:
    folder = model.parent / "elsewhere"
    folder.mkdir()
    assert main([str(model), "-o", str(folder / "x.onnx"), "--no-verify"]) == 0
    assert names(folder) == ["x.onnx"]
    assert names(model.parent) == ["elsewhere", "model.onnx"]


def test_an_older_output_is_replaced(model: Path) -> None:
    target = model.with_name("model.alibi.onnx")
    target.write_bytes(b"old")
    assert main([str(model), "--no-verify"]) == 0
    assert fused(onnx.load(target)) == ["AlibiAttentionCausal"]


@pytest.mark.parametrize("spelling", ["model.onnx", "./model.onnx", "link.onnx", "hard.onnx"])
def test_output_over_the_input_is_refused(
    model: Path, spelling: str, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.chdir(model.parent)
    (model.parent / "link.onnx").symlink_to(model)
    os.link(model, model.parent / "hard.onnx")
    before = model.read_bytes()
    assert main([str(model), "-o", spelling, "--no-verify"]) == 2
    assert "input itself" in capsys.readouterr().err
    assert model.read_bytes() == before


def test_report_over_the_input_is_refused(model: Path) -> None:
    before = model.read_bytes()
    code = main([str(model), "--json", str(model), "--no-verify"])
    assert model.read_bytes() == before
    assert code == 2


def test_report_over_the_output_is_refused(model: Path) -> None:
    target = model.with_name("out.onnx")
    code = main([str(model), "-o", str(target), "--json", str(target), "--no-verify"])
    assert code == 2
    assert not target.exists()


def test_a_report_that_cannot_be_written_leaves_no_output(model: Path) -> None:
    """Exit code 2 says that the request made no sense, so nothing may have happened."""
    assert main([str(model), "--json", str(model.parent / "no" / "report.json"), "--no-verify"]) == 2
    assert names(model.parent) == ["model.onnx"]


def test_allow_partial(partly: Path, capsys: Printed) -> None:
    assert main([str(partly)]) == 3
    assert names(partly.parent) == ["partly.onnx"]
    assert "--allow-partial" in capsys.readouterr().out
    assert main([str(partly), "--allow-partial"]) == 0, "what was asked for was done"
    target = partly.with_name("partly.alibi.onnx")
    written = onnx.load(target)
    assert fused(written) == ["AlibiAttentionLinear"]
    assert sum(n.op_type == "Softmax" for n in written.graph.node) == 1
    original = two_layers()
    feeds = feeds_of(original, 0)
    np.testing.assert_allclose(run(written, feeds)[0], run(original, feeds)[0], atol=2e-5)
    assert "1 biased site(s) are unchanged, as allowed" in capsys.readouterr().out


def test_unbiased_attention_is_no_partial_rewrite(tmp_path: Path) -> None:
    made = two_layers()
    for node in made.graph.node:
        if node.output[0] == "s2":
            node.op_type = "Identity"
            del node.input[1:]
    made.graph.node.remove(next(n for n in made.graph.node if n.output[0] == "square"))
    path = tmp_path / "plain.onnx"
    onnx.save(made, path)
    assert main([str(path)]) == 0
    assert fused(onnx.load(tmp_path / "plain.alibi.onnx")) == ["AlibiAttentionLinear"]


def test_a_classifier_over_concatenated_logits_does_not_block() -> None:
    made = read("forms/linear")
    made.graph.node.extend(
        [
            helper.make_node("Sigmoid", ["y"], ["left"]),
            helper.make_node("Tanh", ["y"], ["right"]),
            helper.make_node("Concat", ["left", "right"], ["logits"], axis=-1),
            helper.make_node("Softmax", ["logits"], ["classes"], axis=-1),
        ]
    )
    made.graph.output.append(helper.make_tensor_value_info("classes", onnx.TensorProto.FLOAT, ["B", 4, "S", 16]))
    onnx.checker.check_model(made)
    result = rewrite(made, options=Options(verify=False))
    assert result.exit_code is ExitCode.DONE
    assert len(result.fused) == 1


# --- the report ------------------------------------------------------------------------------------------

TOP = {
    "schema_version": int,
    "tool": dict,
    "versions": dict,
    "input": dict,
    "output": dict,
    "exit_code": int,
    "census": dict,
    "attention_found": (str, NoneType),
    "sites": list,
    "cache": type(None),
    "edits": dict,
    "verification": dict,
    "notes": list,
    "timings": dict,
}
PROOF = {
    "form", "causal", "scale", "slopes", "slopes_at_run_time", "key_positions", "mask", "bindings", "extents",
    "assumptions", "steps", "self_check", "bias_bytes",
}  # fmt: skip


def report_of(path: Path, *options: str) -> dict[str, Any]:
    target = path.parent / "report.json"
    main([str(path), "--json", str(target), *options])
    content: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return content


def test_report_of_a_rewrite(model: Path) -> None:
    report = report_of(model)
    assert list(report) == list(TOP)
    for key, kind in TOP.items():
        assert isinstance(report[key], kind), key
    assert report["schema_version"] == 1
    assert report["tool"] == {"name": "alibi-rewriter", "version": __version__}
    assert report["input"]["path"] == str(model)
    assert report["input"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert report["input"]["opset"] == {"ai.onnx": 17}
    output = Path(report["output"]["path"])
    assert output == model.with_name("model.alibi.onnx")
    assert report["output"]["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert report["census"] == {"sites": 1, "biased": 1, "proven": 1, "rewritten": 1, "refused": 0}
    (site,) = report["sites"]
    assert set(site) == {"id", "scope", "anchor", "verdict", "proof", "node", "still_materialised", "absorbed"}
    assert site["still_materialised"] is None
    assert site["verdict"] == "rewritten"
    assert set(site["proof"]) >= PROOF
    assert site["proof"]["slopes"] == [0.5, 0.25, 0.125, 0.0625]
    assert site["proof"]["causal"] is True
    assert site["node"]["op_type"] == "AlibiAttentionCausal"
    assert site["node"]["attributes"]["bias"] == "linear"
    assert report["verification"]["status"] == "passed"
    assert all(isinstance(v, float | int) and v >= 0 for v in report["timings"].values())


def test_report_of_a_refusal(refused: Path) -> None:
    report = report_of(refused)
    assert report["output"] == {"path": None, "sha256": None}
    assert report["verification"] is None
    assert report["exit_code"] == 3
    (site,) = report["sites"]
    assert site["verdict"] == "refused"
    keys = {"code", "title", "stage", "node", "tensor", "detail", "meaning", "remedy"}
    assert set(site["refusal"]) >= keys
    assert all(isinstance(site["refusal"][k], str) for k in keys)


def test_report_is_reproducible(model: Path) -> None:
    first, second = report_of(model), report_of(model)
    for report in (first, second):
        assert report.pop("timings")
    assert first == second


def test_report_on_standard_output(model: Path, capsys: Printed) -> None:
    assert main([str(model), "--json", "-", "--no-verify"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["census"]["rewritten"] == 1
    assert "1 rewritten" in printed.err
    assert names(model.parent) == ["model.alibi.onnx", "model.onnx"]


def test_explain_shows_the_steps(model: Path, capsys: Printed) -> None:
    assert main([str(model), "--dry-run"]) == 0
    short = capsys.readouterr().out
    assert main([str(model), "--dry-run", "--explain"]) == 0
    long = capsys.readouterr().out
    assert "bias = slope[h] * j" in long and "bias = slope[h] * j" not in short
    assert "causal: a key is visible only if" in long


@pytest.mark.parametrize("evil", ["\x1b[2Jgone", "bell\x07", "line\rback", "c1\x9b31m"])
@pytest.mark.parametrize("source", ["forms/linear", "refusals/quadratic"])
def test_control_characters_are_escaped(tmp_path: Path, evil: str, source: str, capsys: Printed) -> None:
    made = read(source)
    for node in made.graph.node:
        node.name = node.output[0] + evil
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    assert main([str(path), "--explain", "--verbose"]) == (0 if source in ACCEPTED else 3)
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert f"\\x{next(ord(c) for c in evil if not c.isprintable()):02x}" in printed.out


def test_nothing_else_is_printed(tmp_path: Path, capsys: Printed) -> None:
    made = read("forms/linear")
    for node in made.graph.node:
        node.name = "\x1b[2J" + node.op_type  # two nodes Mul, so their names are equal: onnxruntime takes no such model
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    assert main([str(path), "--json", "-"]) == ExitCode.NOT_VERIFIED == 8
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert json.loads(out)["exit_code"] == 8
    assert names(tmp_path) == ["model.onnx"]


def test_line_feeds_in_names_are_escaped(tmp_path: Path, capsys: Printed) -> None:
    made = read("refusals/quadratic")
    next(n for n in made.graph.node if n.op_type == "Softmax").name = "x\nwrote /etc/model.onnx"
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    assert main([str(path)]) == 3
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote ")]


# --- inputs and ranges -----------------------------------------------------------------------------------


def npz(path: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    feeds: dict[str, Any] = feeds_of(read("forms/linear_causal"), 3)
    change(feeds)
    np.savez(path, **feeds)
    return path


def test_given_inputs(model: Path) -> None:
    given = npz(model.parent / "given.npz")
    assert main([str(model), "--inputs", str(given)]) == 0
    report = report_of(model, "--inputs", str(given))
    shapes = [s["shapes"] for s in report["verification"]["sets"]]
    assert {"q": [2, 4, 5, 8], "k": [2, 4, 5, 8], "v": [2, 4, 5, 8]} in shapes


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: f.pop("v"), id="missing"),
        pytest.param(lambda f: f.update(q=f["q"][:, :3]), id="shape"),
        pytest.param(lambda f: f.update(q=f["q"].astype(np.int64)), id="type"),
        pytest.param(lambda f: f.update(q=np.array([{"a": 1}], dtype=object)), id="pickle"),
    ],
)
def test_bad_inputs(model: Path, change: Callable[[dict[str, Any]], None], capsys: Printed) -> None:
    given = npz(model.parent / "given.npz", change)
    assert main([str(model), "--inputs", str(given)]) == 2
    assert "error: " in capsys.readouterr().err
    assert names(model.parent) == ["given.npz", "model.onnx"]


def test_inputs_that_are_no_archive(model: Path) -> None:
    given = model.parent / "given.npz"
    given.write_bytes(b"not an archive")
    assert main([str(model), "--inputs", str(given)]) == 2
    assert names(model.parent) == ["given.npz", "model.onnx"]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("input_ids:[0,1000]", ("input_ids", (0.0, 1000.0))),
        (" a:[-1.5,2e3] ", ("a", (-1.5, 2000.0))),
        ("scope:0:[0,0]", ("scope:0", (0.0, 0.0))),
    ],
)
def test_ranges(text: str, want: tuple[str, tuple[float, float]]) -> None:
    assert parse_range(text) == want


@pytest.mark.parametrize(
    "text", ["", "a", "a:", "a:[1]", "a:[1,2", "a:[2,1]", "a:[x,1]", ":[0,1]", "a:[0,1,2]", "a:[nan,1]"]
)
def test_bad_ranges(text: str) -> None:
    with pytest.raises(UsageError, match="LO,HI"):
        parse_range(text)


PAIRWISE = """
<ir_version: 8, opset_import: ["" : 17]>
pairwise (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v, int64[B,S] attention_mask) => (float[B,4,S,8] y)
<float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, float scale = {0.35355338},
 int64[1] axis0 = {0}, int64[1] axis1 = {1}, int64[1] axis2 = {2}, float low = {-3.4028235e38}>
{
   extent = Shape<start=2, end=3>(k)
   keys = Squeeze(extent, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   icol = Unsqueeze(ji, axis1)
   after = Greater(ji, icol)
   mj = Unsqueeze(attention_mask, axis1)
   mi = Unsqueeze(attention_mask, axis2)
   same = Equal(mi, mj)
   product = Mul(mi, mj)
   positive = Greater(product, zero)
   both = And(same, positive)
   before = Not(after)
   visible3 = And(both, before)
   visible = Unsqueeze(visible3, axis1)
   bias = Mul(slopes, j)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   added = Add(scaled, bias)
   s = Where(visible, added, low)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}
"""
"""A mask as Baichuan makes it: row and key must hold the same positive number."""


def queries_by_keys(made: ModelProto) -> list[str]:
    """Values with S_q * S_kv elements or a multiple, at S = 13."""
    import onnxruntime as ort

    exposed = ModelProto()
    exposed.CopyFrom(made)
    present = {o.name for o in exposed.graph.output}
    outputs = [o for n in exposed.graph.node for o in n.output if o and o not in present]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=o) for o in outputs)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    session = ort.InferenceSession(exposed.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds: dict[str, Any] = {n: random.standard_normal((2, 4, 13, 8)).astype(np.float32) for n in "qkv"}
    feeds["attention_mask"] = np.ones((2, 13), np.int64)
    values = session.run(None, feeds)
    return [o.name for o, v in zip(session.get_outputs(), values, strict=True) if v.size and v.size % (13 * 13) == 0]


def test_a_range_is_a_premise_of_the_proof(tmp_path: Path) -> None:
    path = tmp_path / "pairwise.onnx"
    made = onnx.parser.parse_model(PAIRWISE)
    onnx.save(made, path)
    assert queries_by_keys(made) != []
    assert main([str(path), "-o", str(tmp_path / "any.onnx")]) == 0
    assert queries_by_keys(onnx.load(tmp_path / "any.onnx")) != []
    assert main([str(path), "-o", str(tmp_path / "binary.onnx"), "--val-range", "attention_mask:[0,1]"]) == 0
    assert queries_by_keys(onnx.load(tmp_path / "binary.onnx")) == []
    # Where the premise does not hold, the pairwise mask must stay.
    assert main([str(path), "-o", str(tmp_path / "packed.onnx"), "--val-range", "attention_mask:[0,2]"]) == 0
    packed = onnx.load(tmp_path / "packed.onnx")
    feeds = feeds_of(made, 0)
    feeds["attention_mask"] = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 2, 0]], np.int64)
    np.testing.assert_allclose(run(packed, feeds)[0][1, :, :4], run(made, feeds)[0][1, :, :4], atol=2e-5)
    np.testing.assert_allclose(run(packed, feeds)[0][0], run(made, feeds)[0][0], atol=2e-5)


def test_a_range_for_an_unknown_input_is_a_mistake(model: Path) -> None:
    code = main([str(model), "--val-range", "no_such_input:[0,1]"])
    assert code == 2


def test_seed_changes_the_drawn_inputs_only(model: Path) -> None:
    first, second = report_of(model, "--seed", "1"), report_of(model, "--seed", "2")
    assert first["output"]["sha256"] == second["output"]["sha256"]
    assert first["verification"]["sets"] != second["verification"]["sets"]
