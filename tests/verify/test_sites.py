"""Verification site by site: what agrees, what is told apart, what is not looked at, and what it costs."""

from __future__ import annotations

import dataclasses
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode, UsageError
from alibi_rewriter.cli import main
from alibi_rewriter.rewriter import pipeline
from alibi_rewriter.rewriter.check.pairs import CutPairs
from alibi_rewriter.rewriter.check.site_pair import CutPair
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options, PassResult
from alibi_rewriter.verify import verification
from alibi_rewriter.verify.errors import LimitError
from alibi_rewriter.verify.site import bias as bias_module
from alibi_rewriter.verify.site import check as sites
from alibi_rewriter.verify.site.bias import BIAS, Bias
from alibi_rewriter.verify.site.identity import identity
from generator import Spelling, build, repair, sample, told
from large import deep, external, sparse_file
from onnx import TensorProto, helper, numpy_helper
from slow import SLOW, thinned
from textgraphs import read

pytest.importorskip("onnxruntime")

DATA = Path(__file__).parents[1] / "data"
BY_SITES = Options(verify_sites=True)
FUSED = sorted(p for p in DATA.glob("*.onnx") if not p.name.startswith("near__"))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def pairs_of(model: onnx.ModelProto) -> list[CutPair]:
    """The sites of a model before and after, as the verification gets them."""
    source = pipeline.source_of(model)
    copy, analysis = pipeline.analyse_copy(model, source, frozenset())
    again = pipeline.working_copy(model, Path(), analysis.kept)[0]
    sites = CutPairs.of(copy, analysis, source.base_dir, lambda: again)
    pipeline.apply(copy, analysis, PassResult(source, analysis))
    found = list(sites.pairs(copy, source.base_dir))
    assert not sites.missing
    assert sites.changes(model, copy) == []
    return found


# --- what is right passes, and its mutants do not ----------------------------------------------------------


@pytest.mark.parametrize("path", thinned(FUSED[::2], 3), ids=lambda p: p.stem)
def test_exported_models(path: Path, tmp_path: Path) -> None:
    result = rewrite(path, tmp_path / "out.onnx", options=BY_SITES)
    found = result.verification
    assert found is not None
    assert found.status == "passed", found.summary()
    assert found.by_sites == "as asked for"
    assert {site.site for site in found.sites} == {site.name for site in result.analysis.proven}
    assert all(site.skipped is None for site in found.sites)
    assert found.power is not None and not found.power.weak, found.power.to_json()
    assert found.worst is not None and found.worst.factor < 0.5
    assert result.exit_code is ExitCode.DONE


@pytest.mark.parametrize("number", thinned(range(15), 3))
def test_generated_models(number: int) -> None:
    spelling = sample(random.Random(f"sites-{number}"))
    found = rewrite(build(spelling), options=BY_SITES).verification
    assert found is not None
    assert found.status == "passed", f"{found.summary()} {told(spelling)}"
    assert found.power is not None and not found.power.weak, f"{found.power.to_json()} {told(spelling)}"


@pytest.mark.parametrize(
    "name", ["scopes/if_body", "scopes/local_function", "masks/unattended_rows", "masks/nan_guard"]
)
def test_golden_models(name: str) -> None:
    """Sites in a body of If, in inlined functions, behind a guard."""
    found = rewrite(read(name), options=BY_SITES).verification
    assert found is not None
    assert found.status == "passed", found.summary()
    assert found.power is not None and not found.power.weak


def test_operators_without_float64_kernels_are_computed_in_float32() -> None:
    found = rewrite(read("operators/multi_head_attention"), options=BY_SITES).verification
    assert found is not None and found.passed
    assert [site.to_json()["computed_in"] for site in found.sites] == ["float32"]
    assert found.power is not None and not found.power.weak
    other = rewrite(read("forms/linear"), options=BY_SITES).verification
    assert other is not None
    assert [site.to_json()["computed_in"] for site in other.sites] == ["float64"]


# --- what is wrong fails -----------------------------------------------------------------------------------


def tampered(monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.ModelProto], None]) -> None:
    """Let every rewrite end with a mistake."""
    honest = pipeline.apply

    def wrong(model: onnx.ModelProto, *others: object) -> None:
        honest(model, *others)  # type: ignore[arg-type]
        change(model)

    monkeypatch.setattr(pipeline, "apply", wrong)


def slopes_of(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if "slopes" in t.name and len(t.dims) == 1)


def steeper(model: onnx.ModelProto) -> None:
    """The smallest slope is 0.1 % too large."""
    tensor = slopes_of(model)
    values = numpy_helper.to_array(tensor).copy()
    values[int(np.argmin(np.abs(values)))] *= 1.001
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swapped(model: onnx.ModelProto) -> None:
    """Key and value change places."""
    node = next(n for n in model.graph.node if n.domain == "alibi")
    node.input[1], node.input[2] = node.input[2], node.input[1]


def scaled(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.domain == "alibi")
    for attribute in node.attribute:
        if attribute.name == "scale":
            attribute.f *= 1.00001


@pytest.mark.parametrize("change", [steeper, swapped, scaled])
@pytest.mark.parametrize("name", ["forms/linear_causal", "forms/symmetric", "masks/additive_padding"])
def test_a_wrong_site_is_noticed(
    change: Callable[[onnx.ModelProto], None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered(monkeypatch, change)
    result = rewrite(saved(read(name), tmp_path), options=BY_SITES)
    assert result.exit_code is ExitCode.VERIFICATION_FAILED
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_site_that_the_whole_model_hides_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slope 0.1 % off in a model of six tokens: no output shows it, so its sites are looked at alone."""
    spelling = repair(Spelling(bias="table2", static=True, scale="after-mul", factor=0.5, slopes="press", heads=4))
    model = build(spelling)
    sound = rewrite(model).verification
    assert sound is not None and sound.passed and sound.power is not None and not sound.power.weak
    by = {mutant.kind: mutant.by or "" for mutant in sound.power.mutants}
    assert by["slope_smallest_1_percent"].endswith("its site alone")
    tampered(monkeypatch, steeper)
    result = rewrite(saved(model, tmp_path))
    assert result.exit_code is ExitCode.VERIFICATION_FAILED
    assert result.verification is not None
    broken = [one for one in result.verification.sets if not one.passed]
    assert broken and all(" alone: " in one.name for one in broken)


def rounded_far_from_the_row() -> onnx.ModelProto:
    """A bias read from the far end of a float16 table: the rounding of its entries is as large as 1 % of the slope."""
    spelling = Spelling(
        layout="packed",
        scale="root",
        bias="table1-cut",
        slopes="any",
        slope_rank=4,
        factor=3.0,
        causal="lessequal",
        padding="additive",
        heads=1,
        half=True,
        swap=True,
        layers=2,
        share=False,
        dead=True,
        unpack="slice",
        wrapped=True,
        where=0.7893480413941042,
        seed=1017924774,
    )
    return build(repair(spelling))


def test_entries_tell_what_rounding_hides_in_the_output() -> None:
    found = rewrite(rounded_far_from_the_row(), options=Options(verify_sites=True, seed=40)).verification
    assert found is not None and found.passed and found.power is not None
    assert not found.power.weak, found.power.to_json()
    for one in found.sets:
        assert (BIAS in {entry.output for entry in one.outputs}) == one.name.endswith("queries of zero")
    whole = rewrite(rounded_far_from_the_row(), options=Options(seed=40)).verification
    assert whole is not None and whole.passed and whole.power is not None and not whole.power.weak


def test_rounding_of_an_entry_is_that_of_its_own_size() -> None:
    scores = np.array([[[[0.0, -8.0, 40.0, -3e38]]]])
    visible = scores > -65504
    bias = Bias.of(scores, visible, ("float16",))
    assert bias.reference.tolist() == [[[[0]]]]
    assert bias.values.tolist() == [[[[0.0, -8.0, 40.0, 0.0]]]]
    assert bias.allowance[0, 0, 0, :3] == pytest.approx([0, 8 / 1024, 40 / 1024], rel=1e-3)
    # What is constant along a row is not seen, and neither are keys without weight.
    assert bias.seen_in(scores + np.array([7.0])).tolist() == bias.values.tolist()
    assert Bias.of(np.array([[[[0.0, -2000.0]]]]), np.ones((1, 1, 1, 2), bool), ("float32",)).visible.tolist() == [
        [[[True, False]]]
    ]
    with pytest.raises(ValueError):
        bias.seen_in(np.zeros((2, 1, 1, 4)))


def test_of_large_scores_some_rows_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = -np.abs(np.arange(6)[:, None] - np.arange(6.0))[None, None]
    monkeypatch.setattr(bias_module, "_MOST_ENTRIES", 3 * 6)
    bias = Bias.of(scores, np.ones(scores.shape, bool), ("float32",))
    assert bias.rows.tolist() == [0, 2, 5]
    assert bias.seen_in(scores).tolist() == bias.values.tolist() == scores[:, :, [0, 2, 5]].tolist()


def with_weights(folder: Path) -> Path:
    """An attention with something behind it."""
    model = read("forms/linear_causal")
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"], name="behind"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return saved(model, folder)


def other_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1), "w"))


def other_node(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.name == "behind").input[0] = "v"


def other_output(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [(other_weight, "constant 'w'"), (other_node, "node 'behind'"), (other_output, "outputs of the graph")],
)
def test_a_change_elsewhere_is_noticed(
    change: Callable[[onnx.ModelProto], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_weights(tmp_path)
    assert rewrite(path, options=BY_SITES).exit_code is ExitCode.DONE
    (tmp_path / "model.alibi.onnx").unlink()
    tampered(monkeypatch, change)
    result = rewrite(path, options=BY_SITES)
    assert result.exit_code is ExitCode.VERIFICATION_FAILED
    assert result.verification is not None
    assert said in result.verification.summary()


# --- tiny models -------------------------------------------------------------------------------------------


def fixed(length: int, name: str = "forms/linear_causal") -> onnx.ModelProto:
    """A golden attention of one fixed length."""
    model = read(name)
    for value in (*model.graph.input, *model.graph.output):
        for dim, extent in zip(value.type.tensor_type.shape.dim, (1, None, length, None), strict=True):
            if extent is not None:
                dim.dim_value = extent
    return model


@pytest.mark.parametrize("name", ["forms/linear_causal", "forms/symmetric", "forms/linear"])
@pytest.mark.parametrize("length", [2, 3])
def test_every_mutant_of_a_tiny_model_is_told_apart_or_is_the_same_function(name: str, length: int) -> None:
    found = rewrite(fixed(length, name)).verification
    assert found is not None and found.passed
    assert found.power is not None and not found.power.weak, found.power.to_json()
    same = [mutant for mutant in found.power.mutants if mutant.verdict == "equivalent"]
    assert all("no output bit differs" in mutant.reason for mutant in same)
    counted = [mutant for mutant in found.power.mutants if mutant.verdict != "not_applicable"]
    assert len(counted) > len(same)
    if length == 2:  # of one token there is no bias
        assert rewrite(fixed(1, name)).exit_code is ExitCode.NOT_REWRITTEN


# --- sharing -----------------------------------------------------------------------------------------------


def test_layers_that_are_the_same_share_their_work() -> None:
    found = rewrite(deep(4), options=BY_SITES).verification
    assert found is not None and found.passed
    first, *others = found.sites
    assert first.same_as is None
    assert {site.same_as for site in others} == {first.site}
    assert {one.name.split(":")[0] for one in found.sets} == {first.site}
    assert "4 of 4 attention sites (1 different)" in found.summary()


def test_layers_that_differ_do_not_share() -> None:
    model = deep(3)
    other = next(t for t in model.graph.initializer if t.name == "slopes")
    changed = onnx.TensorProto.FromString(other.SerializeToString())
    changed.name = "slopes_of_layer_1"
    values = numpy_helper.to_array(other).copy()
    values.reshape(-1)[2] *= 1.0001
    changed.CopyFrom(numpy_helper.from_array(values, changed.name))
    model.graph.initializer.append(changed)
    for node in model.graph.node:
        if "slopes" in node.input and any(o.endswith("_1") for o in node.output):
            node.input[list(node.input).index("slopes")] = changed.name
    one, two, three = pairs_of(model)
    roles: dict[str, str] = {}
    assert identity(one, roles) == identity(three, roles)
    assert identity(one, roles) != identity(two, roles)


def test_identity_sees_wiring_and_roles() -> None:
    """Two queries from one input are not two inputs; a mask is not any integer."""
    (pair,) = pairs_of(read("masks/boolean_padding"))
    masks = [n for n in pair.tensors if n not in ("q", "k", "v")]
    assert identity(pair, {masks[0]: "padding"}) != identity(pair, {masks[0]: "integers"})
    (plain,) = pairs_of(read("forms/linear"))
    model = read("forms/linear")
    for node in model.graph.node:
        node.input[:] = ["k" if i == "v" else i for i in node.input]
    (shared,) = pairs_of(model)
    assert identity(plain, {}) != identity(shared, {})


# --- choice, report, cost ----------------------------------------------------------------------------------


def test_chosen_where_the_model_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_weights(tmp_path)
    whole = rewrite(path)
    assert whole.verification is not None and whole.verification.by_sites is None
    assert whole.verification.to_json()["method"] == "whole"
    monkeypatch.setattr(verification, "available_memory", lambda: 16)
    result = rewrite(path)
    found = result.verification
    assert found is not None and found.passed
    assert result.exit_code is ExitCode.DONE
    record = found.to_json()
    assert record["method"] == "sites"
    assert re.search(r"needs about \d+ MiB of memory, and \d+ MiB are available", record["by_sites"])
    assert "site by site and not as a whole" in record["summary"]
    assert any("the model as a whole was not run" in text for text in record["out_of_scope"])
    assert [set(site) for site in record["sites"]] == [
        {"site", "status", "same_as", "computed_in", "skipped_reason", "notes"}
    ]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_weights(tmp_path)
    assert main([str(path), "--verify-sites"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "verification passed: original against rewritten, site by site and not as a whole (as asked for)" in printed
    assert "the model as a whole was not run" in printed
    np.savez(tmp_path / "inputs.npz", q=np.zeros((1, 4, 5, 8), np.float32))
    assert main([str(path), "--verify-sites", "--inputs", str(tmp_path / "inputs.npz")]) == ExitCode.USAGE
    assert "without --verify-sites" in capsys.readouterr().err
    with pytest.raises(UsageError):
        rewrite(path, options=Options(verify_sites=True, inputs={}))


def test_the_same_numbers_every_time(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    records = []
    for seed in (3, 3, 4):
        found = rewrite(path, options=Options(verify_sites=True, seed=seed)).verification
        assert found is not None
        records.append(found.to_json())
    assert records[0] == records[1]
    assert records[0] != records[2]


def test_a_site_that_cannot_be_taken_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = CutPairs.pair
    monkeypatch.setattr(
        CutPairs,
        "pair",
        lambda self, part, *rest: "no reason" if part.site.name == "p_1" else honest(self, part, *rest),
    )
    found = rewrite(deep(3), options=BY_SITES).verification
    assert found is not None and found.passed
    assert "2 of 3 attention sites" in found.summary()
    (missing,) = [site for site in found.sites if site.skipped is not None]
    assert any(missing.site in text and "no reason" in text for text in found.out_of_scope)
    monkeypatch.setattr(CutPairs, "pair", lambda self, *rest: "no reason")
    nothing = rewrite(deep(2), options=BY_SITES).verification
    assert nothing is not None and nothing.status == "skipped"


def test_a_site_that_cannot_be_run_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise LimitError("a model was stopped")

    monkeypatch.setattr(sites, "run_rewritten", stopped)
    found = rewrite(deep(2), options=BY_SITES).verification
    assert found is not None and found.status == "skipped"
    assert all(site.skipped == "a model was stopped" for site in found.sites)


MEASURE = r"""
import re, sys, time
from pathlib import Path
from alibi_rewriter import Options, rewrite
start = time.process_time()
result = rewrite(sys.argv[1], options=Options(verify_sites=True))
found = result.verification
assert found is not None and found.passed, found and found.summary()
assert found.power is not None and not found.power.weak
own = sum(site.same_as is None for site in found.sites)
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024
print(len(found.sites), own, peak, time.process_time() - start)
"""


def stacked(folder: Path, layers: int, width: int) -> Path:
    """Causal attentions with padding and projections of width x 128 weights in a file that takes no room."""
    heads, depth = 8, 16
    features = heads * depth
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[B,S,{features}] x, int64[B,S] attention_mask) => (float[B,S,{features}] y)
    <int64[4] heads = {{0, 0, {heads}, {depth}}}, int64[3] flat = {{0, 0, {features}}}, float low = {{-3.4e38}},
     int64 zero = {{0}}, int64 one = {{1}}, int64[1] rows = {{1}}, int64[1] keys = {{0}}, int64[2] inner = {{1, 2}},
     float scale = {{0.25}}>
    {{
        shape = Shape (x)
        length = Gather <axis = 0> (shape, one)
        range = Range (zero, length, one)
        j = Unsqueeze (range, keys)
        i = Unsqueeze (range, rows)
        causal = LessOrEqual (j, i)
        kept = Cast <to = 9> (attention_mask)
        kept4 = Unsqueeze (kept, inner)
        visible = And (causal, kept4)
        place = Cast <to = 1> (j)
        bias = Mul (slopes, place)
        y = Identity (x)
    }}
    """
    model = onnx.parser.parse_model(text)
    graph = model.graph
    slopes = 2.0 ** -np.arange(1, heads + 1, dtype=np.float32).reshape(heads, 1, 1)
    graph.initializer.append(numpy_helper.from_array(slopes, "slopes"))
    last = onnx.NodeProto.FromString(graph.node.pop().SerializeToString())

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    hidden, offset = "x", 0
    for layer in range(layers):
        parts = {}
        for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            made = hidden
            for step, dims in (("in", [features, width]), ("out", [width, features])):
                weight = f"{name}_{step}_{layer}"
                graph.initializer.append(external(weight, dims, TensorProto.FLOAT, "weights.bin", offset))
                offset += 4 * features * width
                made = node("MatMul", [made, weight], f"{weight}_product")
            split = node("Reshape", [made, "heads"], f"{name}_split_{layer}")
            parts[name] = node("Transpose", [split], f"{name}_{layer}", perm=perm)
        scores = node("MatMul", [parts["q"], parts["k"]], f"qk_{layer}")
        scores = node("Mul", [scores, "scale"], f"scaled_{layer}")
        scores = node("Add", [scores, "bias"], f"biased_{layer}")
        scores = node("Where", ["visible", scores, "low"], f"masked_{layer}")
        weights = node("Softmax", [scores], f"probabilities_{layer}", axis=-1)
        context = node("MatMul", [weights, parts["v"]], f"context_{layer}")
        context = node("Transpose", [context], f"turned_{layer}", perm=[0, 2, 1, 3])
        context = node("Reshape", [context, "flat"], f"merged_{layer}")
        hidden = node("Add", [hidden, context], f"hidden_{layer}")
    last.input[0] = hidden
    graph.node.append(last)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    sparse_file(folder / "weights.bin", offset)
    return path


def measured(path: Path) -> tuple[int, int, int, float]:
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    sites, own, peak, seconds = done.stdout.split()
    return int(sites), int(own), int(peak), float(seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and sparse files")
def test_memory_and_time_do_not_grow_with_the_weights(tmp_path: Path) -> None:
    """144 MB and 18 GB of weights: the same work, and not a byte of them is read."""
    found = []
    for width in (1 << 11, 1 << 18):
        folder = tmp_path / str(width)
        folder.mkdir()
        path = stacked(folder, 24, width)
        before = (folder / "weights.bin").stat()
        sites, own, peak, seconds = measured(path)
        assert (sites, own) == (24, 1)
        after = (folder / "weights.bin").stat()
        assert (after.st_size, after.st_blocks, after.st_atime_ns) == (
            before.st_size,
            before.st_blocks,
            before.st_atime_ns,
        )
        found.append((peak, seconds))
    (small, brief), (large, long) = found
    assert large < 500, f"{large} MiB"
    assert large < small + 64, f"{small} and {large} MiB"
    assert long < 3 * brief + 5, f"{brief} and {long} s"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@SLOW
def test_memory_does_not_grow_with_the_heads(tmp_path: Path) -> None:
    """The 112 heads of the largest BLOOM once took 2.3 GB and a minute; scores are shorter where there are many."""
    *_, peak, _ = measured(saved(build(repair(Spelling(heads=112, padding="where", causal="where"))), tmp_path))
    assert peak < 700, f"{peak} MiB"


# --- what the whole model's verification draws ---------------------------------------------------------------


def in_a_branch() -> onnx.ModelProto:
    return build(repair(Spelling(body=True, causal="where", padding="where", slopes="any")))


def test_branches_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention in a branch of If was once compared while the other branch ran, and called equivalent."""
    found = rewrite(in_a_branch()).verification
    assert found is not None and found.passed and found.power is not None
    assert {mutant.verdict for mutant in found.power.mutants} <= {"killed", "not_applicable"}
    assert any((mutant.by or "").endswith("flags turned") for mutant in found.power.mutants)

    def wrong(model: onnx.ModelProto) -> None:
        branch = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
        node = next(n for n in branch.node if n.domain == "alibi")
        node.input[1], node.input[2] = node.input[2], node.input[1]

    tampered(monkeypatch, wrong)
    assert rewrite(saved(in_a_branch(), tmp_path)).exit_code is ExitCode.VERIFICATION_FAILED


def test_a_branch_that_is_never_taken_proves_nothing() -> None:
    """That no bit of an output differs proves nothing.  The site alone shows what it computes."""
    model = in_a_branch()
    choice = model.graph.node[0]
    choice.input[0] = "never"
    for node in (
        helper.make_node("Not", ["taken"], ["not_taken"]),
        helper.make_node("And", ["taken", "not_taken"], ["never"]),
    ):
        model.graph.node.insert(len(model.graph.node) - 1, node)
    found = rewrite(model).verification
    assert found is not None and found.passed and found.power is not None
    verdicts = {mutant.kind: mutant for mutant in found.power.mutants}
    for kind in ("heads_rolled", "causality_changed", "bias_dropped"):
        assert verdicts[kind].verdict == "killed"
        assert (verdicts[kind].by or "").endswith("its site alone")


@pytest.mark.parametrize(
    ("static", "padding"),
    [
        (False, "none"),
        (True, "where"),
        *(
            pytest.param(*case, marks=SLOW)
            for case in ((False, "where"), (False, "bool"), (True, "none"), (True, "bool"))
        ),
    ],
)
def test_sequences_first(static: bool, padding: str) -> None:
    """Inputs [S, B, D]: padded tokens were once taken for batch entries, and long sequences for large batches."""
    spelling = repair(Spelling(layout="seq-first", padding=padding, static=static, causal="none", half=True))
    found = rewrite(build(spelling)).verification
    assert found is not None and found.passed, found and found.summary()
    assert any("[S, B, ...]" in note for note in found.notes)
    lengths = {one.shapes["query"][0] for one in found.sets}
    assert lengths == {6} if static else max(lengths) >= 64
    other = rewrite(build(repair(dataclasses.replace(spelling, layout="bhsd")))).verification
    assert other is not None and other.passed
    assert not any("[S, B, ...]" in note for note in other.notes)
