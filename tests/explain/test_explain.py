"""``rewrite explain``: formulas, what proofs rest on, refusals with place and numbers, subgraphs, and the terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from alibi_rewriter.base.errors import UsageError
from alibi_rewriter.base.terminal import coloured, is_lively
from alibi_rewriter.base.writing import write_file
from alibi_rewriter.cli import main, parser
from alibi_rewriter.completion import SHELLS
from alibi_rewriter.explain import Look
from alibi_rewriter.explain.numbers import bias_values
from alibi_rewriter.explain.refused import STAGES
from alibi_rewriter.explain.slopes import compare, standard_slopes
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.rewriter.verdicts import Stage
from onnx import ModelProto, TensorProto, helper, numpy_helper
from textgraphs import ACCEPTED, GOLDEN, feeds_of, fused, read, run

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
BLOOM = ROOT / "examples" / "bloom-tiny.onnx"
EXPORTED = sorted((ROOT / "tests" / "data").glob("*.onnx"))

Printed = pytest.CaptureFixture[str]


def look(model: ModelProto | Path) -> Look:
    return Look(rewrite(model, options=Options(dry_run=True, verify=False)))


def explained(path: Path, *more: str) -> dict[str, Any]:
    report = path.parent / "report.json"
    main(["explain", str(path), "--json", str(report), *more])
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


@pytest.fixture
def bloom(tmp_path: Path) -> Path:
    path = tmp_path / "bloom.onnx"
    path.write_bytes(BLOOM.read_bytes())
    return path


# --- commands --------------------------------------------------------------------------------------------


def test_explain_is_explain_with_dry_run(bloom: Path, capsys: Printed) -> None:
    assert main(["explain", str(bloom)]) == 0
    one = capsys.readouterr().out
    assert main([str(bloom), "--explain", "--dry-run"]) == 0
    assert capsys.readouterr().out == one
    assert [p.name for p in bloom.parent.iterdir()] == ["bloom.onnx"]


def test_a_model_called_like_a_command(bloom: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    monkeypatch.chdir(bloom.parent)
    bloom.rename("explain")
    assert main(["./explain", "--dry-run"]) == 0
    assert "2 rewritten" not in capsys.readouterr().out
    assert main(["explain", "explain"]) == 0
    assert main(["explain"]) == 2


def test_sites_are_chosen_by_name(bloom: Path, capsys: Printed) -> None:
    assert main(["explain", str(bloom), "--site", "_155$"]) == 0
    out = capsys.readouterr().out
    assert "node_Softmax_155: causal" in out and "node_Softmax_213: causal" not in out
    assert main(["explain", str(bloom), "--site", "layer_9"]) == 2
    assert "There are: 'node_Softmax_155', 'node_Softmax_213'" in capsys.readouterr().err
    assert main(["explain", str(bloom), "--site", "("]) == 2
    assert "no regular expression" in capsys.readouterr().err


def test_site_alone_is_a_mistake(bloom: Path, capsys: Printed) -> None:
    assert main([str(bloom), "--site", "x"]) == 2
    assert "--explain, --report or --extract" in capsys.readouterr().err


def test_names_that_the_terminal_cannot_write(tmp_path: Path) -> None:
    model = read("forms/linear")
    next(n for n in model.graph.node if n.op_type == "Softmax").name = "größe/注意"
    onnx.save(model, tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "alibi_rewriter", "explain", "m.onnx"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"gr\\xf6\\xdfe/" in done.stdout


def test_extract_beside_a_rewrite(bloom: Path) -> None:
    folder = bloom.parent / "sites"
    assert main([str(bloom), "--no-verify", "--extract", str(folder), "--site", "213"]) == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "01-node_Softmax_213.after.onnx",
        "01-node_Softmax_213.before.onnx",
    ]
    assert bloom.with_name("bloom.alibi.onnx").is_file()


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    write_file(target, b"old", "--report")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UsageError, match=r"No space left on device.*Choose another --report"):
            write_file(target, b"new", "--report")
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    assert target.stat().st_mode & 0o777 == 0o644


def test_an_error_of_ours_keeps_the_verdict(bloom: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr("alibi_rewriter.explain.look.explain", broken)
    assert main([str(bloom), "--explain", "--no-verify"]) == 1
    printed = capsys.readouterr()
    assert "wrote " in printed.out and "The run itself is done" in printed.err
    assert bloom.with_name("bloom.alibi.onnx").is_file()


# --- proven sites ----------------------------------------------------------------------------------------


def test_the_formula_has_the_models_own_names(bloom: Path) -> None:
    site = explained(bloom)["sites"][0]
    formula = site["explanation"]["formula"]
    assert formula[0].startswith("view_7[b, h, i, e] = sum_j softmax_j(score[b, h, i, j]) * past_key_values.layers.0")
    assert "0.353553 * sum_d transpose[b, h, i, d] * past_key_values.layers.0.keys[b, h, j, d]" in formula[1]
    assert formula[2].strip() == "+ slope[h] * position[b, j]"
    assert "position[b, j] = -attention_mask[b, j] + attention_mask[b, j]*cumsum[b, j]" in formula
    assert formula[-1] == "where b < s43, h < 6, i < S_q = s53, j < S_kv = s53"


def test_every_step_rests_on_a_node_of_the_model(bloom: Path) -> None:
    model = onnx.load(bloom)
    nodes = {n.name: n for n in model.graph.node}
    constants = {t.name for t in model.graph.initializer}
    for site in explained(bloom)["sites"]:
        found = {s["about"]: s for s in site["explanation"]["steps"]}
        for step in found.values():
            for place in step["rests_on"]:
                if place["kind"] == "node":
                    assert nodes[place["node"]].op_type == place["op_type"]
                    assert place["tensor"] in nodes[place["node"]].output
                else:
                    assert place["tensor"] in constants
        kinds = {a: [p["op_type"] or p["kind"] for p in s["rests_on"]] for a, s in found.items()}
        assert kinds["product"] == ["MatMul"]
        assert kinds["scale"] == ["Mul"]
        assert kinds["bias"][0] == "Add"
        assert kinds["slopes"] == ["constant"]
        assert kinds["causality"] == ["LessOrEqual"]
        assert kinds["values"] == ["MatMul"]


@pytest.mark.parametrize(
    ("name", "about", "place"),
    [
        ("operators/onnx_attention_causal", "causality", "Attention"),
        ("forms/linear_causal", "causality", "Greater"),
        ("masks/boolean_padding", "padding", "input"),
        ("forms/run_time_slopes", "slopes", "input"),
    ],
)
def test_where_things_were_found(name: str, about: str, place: str) -> None:
    seen = look(read(name))
    report: dict[str, Any] = {"sites": [{"id": s.name} for s in seen.sites]}
    seen.explain(report)
    steps = [s for s in report["sites"][0]["explanation"]["steps"] if s["about"] == about]
    assert [p["op_type"] or p["kind"] for s in steps for p in s["rests_on"]] == [place]


def test_scale_before_and_behind_the_product() -> None:
    seen = look(ROOT / "tests" / "data" / "idiom__scale_both_ts17_dyn.onnx")
    report: dict[str, Any] = {"sites": [{"id": s.name} for s in seen.sites]}
    seen.explain(report)
    scale = next(s for s in report["sites"][0]["explanation"]["steps"] if s["about"] == "scale")
    assert "on the query" in scale["claim"] and "on the key" in scale["claim"]
    assert len(scale["rests_on"]) >= 2


@pytest.mark.parametrize("path", EXPORTED, ids=lambda p: p.stem)
def test_everything_that_is_exported_can_be_explained(path: Path) -> None:
    seen = look(path)
    report: dict[str, Any] = {"sites": [{"id": s.name} for s in seen.sites]}
    seen.explain(report)
    for site, record in zip(seen.sites, report["sites"], strict=True):
        explanation = record["explanation"]
        if site.binding is None:
            assert explanation["stop"]["place"]["tensor"]
            continue
        about = {s["about"]: s["rests_on"] for s in explanation["steps"]}
        for key in ("product", "bias", "slopes", "values"):
            assert about[key], key
        if site.binding.proof.causal:
            assert about["causality"]
        values = bias_values(seen.study, site)
        assert values is not None
        half = "fp16" in path.stem
        assert values.largest < (0.02 if half else 1e-5), "slope times distance is the bias"


def test_golden_graphs_can_be_explained_and_cut_out() -> None:
    for name in GOLDEN:
        for pair in look(read(name)).pairs():
            assert pair.before.graph.node, name
            assert (pair.after is not None) == (name in ACCEPTED), name


@pytest.mark.parametrize("path", EXPORTED, ids=lambda p: p.stem)
def test_what_is_cut_out_of_exported_models_is_valid(path: Path) -> None:
    checked(look(onnx.load(path)))


def test_what_is_cut_out_of_golden_graphs_is_valid() -> None:
    for name in GOLDEN:
        checked(look(read(name)))


def checked(seen: Look) -> None:
    """onnx accepts every part; where a rank at its border is unknown, it takes no model at all."""
    for pair in seen.pairs():
        for part in (pair.before, pair.after):
            if part is None:
                continue
            border = [*part.graph.input, *part.graph.output]
            if all(v.type.tensor_type.HasField("shape") for v in border):
                onnx.checker.check_model(part)


def test_a_site_of_a_model_that_onnx_refuses_is_shown_all_the_same(tmp_path: Path) -> None:
    """An attribute that an operator has not: it is the file that is wrong, and looking at it must not fail."""
    model = read("forms/linear")
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    softmax.attribute.append(helper.make_attribute("then_branch", 3))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert main([str(path), "--no-verify", "--report", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_slopes_of_the_paper() -> None:
    assert standard_slopes(8) == [2.0**-k for k in range(1, 9)]
    assert standard_slopes(6) == [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    assert len(standard_slopes(1)) == 1 and len(standard_slopes(112)) == 112
    assert compare(standard_slopes(12)) == "the standard geometric slopes"
    assert "another order" in compare(standard_slopes(12)[::-1])
    assert compare([0.3, *standard_slopes(6)[1:]]).startswith("1 of 6")


# --- refused sites ---------------------------------------------------------------------------------------


def test_every_stage_is_explained() -> None:
    assert set(STAGES) == set(Stage)


def test_a_refusal_names_the_node_that_brings_the_term(tmp_path: Path, capsys: Printed) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(read("refusals/quadratic"), path)
    stop = explained(path)["sites"][0]["explanation"]["stop"]
    capsys.readouterr()
    assert (stop["stage"], stop["number"], stop["stages"]) == ("bias", 3, 7)
    assert stop["place"]["op_type"] != "Softmax"
    assert main(["explain", str(path)]) == 3
    out = capsys.readouterr().out
    assert "furthest stage: 3 of 7, bias" in out
    assert "for instance at [b=0, h=" in out
    assert "what to do: " in out


def test_a_refusal_at_another_node_names_that_node() -> None:
    """An output that is also read elsewhere: the tensor is the one that escapes."""
    seen = look(read("refusals/scores_used"))
    report: dict[str, Any] = {"sites": [{"id": s.name} for s in seen.sites]}
    seen.explain(report)
    stop = report["sites"][0]["explanation"]["stop"]
    assert stop["stage"] == "liveness"
    assert stop["tensor"] in {v.name for v in seen.study.model.graph.output}
    assert stop["place"]["tensor"] == stop["tensor"]


def test_the_counterexample_finds_the_one_wrong_entry() -> None:
    """tests/golden/refusals/one_entry.txt is a table of two lines with one entry changed."""
    seen = look(read("refusals/one_entry"))
    report: dict[str, Any] = {"sites": [{"id": s.name} for s in seen.sites]}
    seen.explain(report)
    found = report["sites"][0]["explanation"]["stop"]["counterexample"]
    assert found["index"][1] == 1
    assert 5 in found["index"][2:], "head 1, key 5 holds -0.4921875 instead of -0.5"
    assert abs(found["value"] - found["expected"]) == pytest.approx(0.0078125)


def test_the_counterexample_is_really_in_the_model() -> None:
    path = ROOT / "tests" / "data" / "near__learned_abs_bias_dynamo18_dyn.onnx"
    seen = look(path)
    report: dict[str, Any] = {"sites": [{"id": s.name} for s in seen.sites]}
    seen.explain(report)
    found = report["sites"][0]["explanation"]["stop"]["counterexample"]
    table = numpy_helper.to_array(next(t for t in onnx.load(path).graph.initializer if t.name == "tb"))
    _, h, i, j = found["index"]
    table = table.reshape(table.shape[-3:])
    assert found["value"] == pytest.approx(table[h, i, j] - table[h, i, i], rel=1e-5)
    assert abs(found["expected"] - found["value"]) > 0.1
    assert found["expected"] == pytest.approx(found["slope"] * (-abs(i - j)), rel=1e-5) or found[
        "expected"
    ] == pytest.approx(found["slope"] * (j - i), rel=1e-5)


ROTARY = """
<ir_version: 8, opset_import: ["" : 17]>
layer (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v, float[S,8] cos, float[S,8] sin) => (float[B,4,S,8] y)
<int64[2] halves = {4, 4}>
{
   a, b = Split<axis=-1>(q, halves)
   nb = Neg(b)
   turned = Concat<axis=-1>(nb, a)
   qc = Mul(q, cos)
   qs = Mul(turned, sin)
   qr = Add(qc, qs)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   s = MatMul(qr, kt)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}
"""

T5 = """
<ir_version: 8, opset_import: ["" : 17]>
layer (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v, int64[S,S] far) => (float[B,4,S,8] y)
<float[32,4] table, int64 top = {31}>
{
   real = Cast<to=1>(far)
   logs = Log(real)
   bucket = Cast<to=7>(logs)
   kept = Min(bucket, top)
   picked = Gather<axis=0>(table, kept)
   bias = Transpose<perm=[2, 0, 1]>(picked)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   s = Add(qk, bias)
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}
"""

FUSED = """
<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
layer (float[B,S,32] q, float[B,S,32] k, float[B,S,32] v) => (float[B,S,32] y)
{
   y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v)
}
"""

CONVOLUTION = """
<ir_version: 8, opset_import: ["" : 17]>
layer (float[B,4,S] x) => (float[B,4,S] y)
{
   r = Relu(x)
   y = Softmax<axis=1>(r)
}
"""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (ROTARY, ["1 attention written out", "rotary embedding (1)"]),
        (T5, ["1 attention written out", "T5 relative position buckets (1)"]),
        (FUSED, ["1 MultiHeadAttention operator", "positions: none"]),
        (CONVOLUTION, ["no attention was found"]),
    ],
    ids=["rotary", "t5", "fused", "none"],
)
def test_what_was_found_instead(source: str, words: list[str], tmp_path: Path, capsys: Printed) -> None:
    model = onnx.parser.parse_model(source)
    values = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    if source is T5:
        model.graph.initializer.append(numpy_helper.from_array(values, "table"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert main(["explain", str(path)]) == 3
    out = capsys.readouterr().out
    for word in words:
        assert word in out
    report = explained(path)
    assert report["attention_found"] and report["attention_found"] in out


# --- subgraphs -------------------------------------------------------------------------------------------


def test_extract_writes_both_sides_of_every_site(bloom: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sites"
    assert main(["explain", str(bloom), "--extract", str(folder)]) == 0
    files = sorted(p.name for p in folder.iterdir())
    assert files == [
        "01-node_Softmax_155.after.onnx",
        "01-node_Softmax_155.before.onnx",
        "02-node_Softmax_213.after.onnx",
        "02-node_Softmax_213.before.onnx",
    ]
    for path in folder.iterdir():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert path.stat().st_size < 40_000
        assert len(fused(model)) == (1 if "after" in path.name else 0)


def test_both_sides_compute_the_same() -> None:
    for name in ("forms/linear_causal", "masks/boolean_padding", "forms/symmetric", "layouts/gqa"):
        for pair in look(read(name)).pairs():
            assert pair.after is not None
            feeds = feeds_of(pair.before, 3)
            wanted = run(pair.before, feeds)
            inputs = {v.name for v in pair.after.graph.input}
            found = run(pair.after, {k: v for k, v in feeds.items() if k in inputs})
            for one, other in zip(wanted, found, strict=True):
                np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5, err_msg=name)


def test_no_foreign_weight_is_copied(tmp_path: Path) -> None:
    """A projection before the site stays outside; a large table of the site itself becomes an input."""
    model = onnx.load(ROOT / "tests" / "data" / "mosaicbert__buffer_dynamo23_dyn.onnx")
    weights = {t.name for t in model.graph.initializer if len(t.dims) == 2}
    for pair in look(model).pairs():
        assert pair.after is not None
        for part in (pair.before, pair.after):
            assert not weights & {t.name for t in part.graph.initializer}
            assert not weights & {v.name for v in part.graph.input}
            assert len(part.SerializeToString()) < 30_000


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", "\x1b[2J", "x" * 4000, "con.before"])
def test_site_names_are_no_paths(name: str, tmp_path: Path) -> None:
    model = read("forms/linear")
    next(n for n in model.graph.node if n.op_type == "Softmax").name = name
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    folder = tmp_path / "out"
    assert main(["explain", str(path), "--extract", str(folder)]) == 0
    assert len(list(folder.iterdir())) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "out"]
    assert all(len(p.name) < 100 and p.name.isascii() and p.name.isprintable() for p in folder.iterdir())


def test_a_folder_that_cannot_be_made(bloom: Path, capsys: Printed) -> None:
    assert main(["explain", str(bloom), "--extract", str(bloom.parent / "no" / "where")]) == 2
    assert "Choose another --extract" in capsys.readouterr().err
    assert main(["explain", str(bloom), "--extract", str(bloom)]) == 2


def test_reports_do_not_overwrite_each_other(bloom: Path, capsys: Printed) -> None:
    before = bloom.read_bytes()
    same = str(bloom.parent / "r")
    assert main(["explain", str(bloom), "--json", same, "--report", same]) == 2
    assert main(["explain", str(bloom), "--report", str(bloom)]) == 2
    assert main([str(bloom), "--report", str(bloom.with_name("bloom.alibi.onnx"))]) == 2
    assert bloom.read_bytes() == before and len(list(bloom.parent.iterdir())) == 1
    assert capsys.readouterr().err.count("Choose another") == 3


# --- the terminal ----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal(bloom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    outputs = []
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stdout", stream)
        assert main(["explain", str(bloom)]) == 0
        outputs.append(stream.getvalue())
    assert "\x1b[" not in outputs[0] and "█" not in outputs[0]
    assert "\x1b[" in outputs[1] and "█" in outputs[1]
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            stream = Terminal()
            patch.setattr("sys.stdout", stream)
            assert main(["explain", str(bloom)]) == 0
            assert stream.getvalue() == outputs[0]


def test_an_empty_no_color_is_no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    assert is_lively(Terminal())


def test_colours_change_no_words() -> None:
    text = "wrote x\n  s: not rewritten [ALB200 x] y\nNOT written: z\n    formula\n  a: causal linear, 6 heads"
    import re

    assert re.sub(r"\x1b\[\d+m", "", coloured(text)) == text


def test_help_fits_two_screens(monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert any("rewrite model.onnx --report" in line for line in lines)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_option(shell: str, capsys: Printed, tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for action in parser()._actions:
        for option in action.option_strings:
            assert (f"-l {option[2:]}" if shell == "fish" and option.startswith("--") else option[1:]) in script
    assert "explain" in script
    import shutil

    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script, encoding="utf-8")
        subprocess.run([shell, "-n", str(path)], check=True, timeout=60)


def test_bash_completes(tmp_path: Path, capsys: Printed) -> None:
    import shutil

    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def complete(*words: str) -> list[str]:
        line = " ".join(f"'{w}'" for w in words)
        code = f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _rewrite; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.split()

    assert complete("rewrite", "--rep") == ["--report"]
    assert complete("rewrite", "exp") == ["explain"]
    assert complete("rewrite", "completion", "f") == ["fish"]
    assert complete("rewrite", "m.onnx", "--strategy", "") == ["plugin", "native", "auto"]
    assert complete("rewrite", "m.onnx", "--backend", "tensorrt-") == ["tensorrt-rtx"]
    assert complete("rewrite", "bench", "--provider", "cu") == ["cuda"]
    (tmp_path / "model.engine").touch()
    assert complete("rewrite", "m.onnx", "--engine", "mod") == ["model.engine"]
    assert "--extract" in complete("rewrite", "explain", "--") and "--seed" not in complete("rewrite", "explain", "--")
    assert complete("rewrite", "m.onnx", "--seed", "") == []


def test_an_unknown_shell(capsys: Printed) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice" in capsys.readouterr().err


def test_a_large_table_is_not_written_into_a_subgraph() -> None:
    model = read("forms/linear")
    names = {t.name for t in model.graph.initializer}
    assert names
    big = numpy_helper.from_array(np.arange(8192, dtype=np.float32), "big")
    model.graph.initializer.append(big)
    scores = next(n for n in model.graph.node if n.op_type == "Softmax").input[0]
    node = helper.make_node("Identity", ["big"], ["unused"])
    model.graph.node.insert(0, node)
    model.graph.output.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [8192]))
    pair = look(model).pairs()[0]
    assert scores in {o for n in pair.before.graph.node for o in n.output}
    assert "big" not in {t.name for t in pair.before.graph.initializer}
