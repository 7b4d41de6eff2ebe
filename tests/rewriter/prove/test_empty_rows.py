"""Rows that see no key: what each form and operator computes there, what the fused node does, and who is told."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, EmptyRows
from alibi_rewriter.fused.layout import Moves, layout_of
from alibi_rewriter.patterns.operators import PATTERNS
from alibi_rewriter.rewriter import report
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.records.rows import ADDED
from alibi_rewriter.rewriter.result import Options, PassResult
from alibi_rewriter.rewriter.verdicts import Notice
from alibi_rewriter.verify import VerifyOptions, verify
from generator import build, sample
from onnx import ModelProto, TensorProto, helper, numpy_helper
from operator_graphs import attention, grouped, multi_head
from slow import SLOW
from textgraphs import read
from tiny import BARE, LOWEST, Graph, draw, run

pytest.importorskip("onnxruntime")

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
INF = float("inf")
SIZES = {"B": 3, "S": 6}


def written_out(padding: float, causal: float | None = None, how: str = "where", guard: str = "") -> ModelProto:
    """Softmax with a padding mask, and perhaps a causal one.

    Args:
        padding: What padded keys score, or what is added to it.
        causal: The same of later keys; None for an attention without causality.
        how: The masks replace scores one after the other, are added, are added and clipped, or are one mask.
        guard: What is done about rows without keys behind the softmax.
    """
    graph = Graph()
    graph.operands()
    graph.input("m", ("B", "S"), BOOL)
    seen = graph.add("Unsqueeze", "m", graph.ints(1, 2))
    scores = graph.add("Add", graph.scores(), graph.bias())
    later = graph.add("Greater", graph.distance(), graph.number(0))
    zero, low = graph.const(0.0), graph.const(padding)
    if how == "one":
        seen = graph.add("And", seen, graph.add("Not", later))
        scores = graph.add("Where", seen, scores, low)
    elif how == "where":
        if causal is not None:
            scores = graph.add("Where", later, graph.const(causal), scores)
        scores = graph.add("Where", seen, scores, low)
    elif how == "run time":
        given = graph.add("Sub", graph.const(1.0), graph.add("Cast", seen, to=FLOAT))
        scores = graph.add("Add", scores, graph.add("Mul", given, low))
        if causal is not None:
            scores = graph.add("Add", scores, graph.add("Where", later, graph.const(causal), zero))
    else:
        mask = graph.add("Where", seen, zero, low)
        if causal is not None:
            mask = graph.add("Add", mask, graph.add("Where", later, graph.const(causal), zero))
        if how == "clipped":
            mask = graph.add("Max", mask, graph.const(LOWEST))
        scores = graph.add("Add", scores, mask)
    weights = graph.add("Softmax", scores, axis=-1)
    if guard == "nan":
        weights = graph.add("Where", graph.add("IsNaN", weights), zero, weights)
    elif guard == "mask":
        weights = graph.add("Mul", weights, graph.add("Cast", seen, to=FLOAT))
    return graph.model(graph.add("MatMul", weights, "v"))


def operator(model: ModelProto, value: float) -> ModelProto:
    """An attention operator whose bias hides padded keys by that value."""
    (node,) = (n for n in model.graph.node if n.op_type.endswith("Attention"))
    place = next(p.inputs["bias"] for p in PATTERNS if p.op_type == node.op_type)
    model.graph.input.append(helper.make_tensor_value_info("m", BOOL, ["B", "S"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), "hidden"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.int64), "axes_of_m"))
    made = [
        helper.make_node("Unsqueeze", ["m", "axes_of_m"], ["seen"]),
        helper.make_node("Where", ["seen", node.input[place], "hidden"], ["masked"]),
    ]
    where = list(model.graph.node).index(node)
    for number, one in enumerate(made):
        model.graph.node.insert(where + number, one)
    node.input[place] = "masked"
    return model


def run_time_mask(opset: int) -> ModelProto:
    """ONNX Attention to whose bias (1 - m) * finfo.min is added."""
    graph = Graph(opset)
    graph.operands()
    graph.input("m", ("B", "S"), BOOL)
    seen = graph.add("Cast", graph.add("Unsqueeze", "m", graph.ints(1, 2)), to=FLOAT)
    mask = graph.add("Mul", graph.add("Sub", graph.const(1.0), seen), graph.const(LOWEST))
    return graph.model(graph.add("Attention", "q", "k", "v", graph.add("Add", graph.bias(), mask)))


AGREE = {
    "softmax-lowest": lambda: written_out(LOWEST),
    "softmax-inf": lambda: written_out(-INF),
    "multi-head-inf": lambda: operator(multi_head(), -INF),
    "grouped-both-sides-inf": lambda: operator(grouped(causal=0), -INF),
    "softmax-lowest-added": lambda: written_out(LOWEST, how="added"),
    "softmax-lowest-at-run-time": lambda: written_out(LOWEST, how="run time"),
    "softmax-soft-at-run-time": lambda: written_out(-1e4, how="run time"),
    "softmax-causal-one-mask": lambda: written_out(LOWEST, how="one"),
    "softmax-causal-both-lowest": lambda: written_out(LOWEST, LOWEST),
    "softmax-causal-clipped": lambda: written_out(LOWEST, LOWEST, how="clipped"),
    "softmax-causal-inf": lambda: written_out(-INF, -INF),
    "softmax-guard-of-nan": lambda: written_out(-INF, -INF, guard="nan"),
    "softmax-guard-of-nan-that-never-is": lambda: written_out(LOWEST, guard="nan"),
    "softmax-weights-masked": lambda: written_out(LOWEST, guard="mask"),
    "attention-lowest": lambda: operator(attention(), LOWEST),
    "attention-lowest-at-run-time": lambda: run_time_mask(25),
    "attention-inf": lambda: operator(attention(), -INF),
    "attention-causal-inf": lambda: operator(attention(is_causal=1), -INF),
    "attention-23-inf": lambda: operator(attention(opset=23), -INF),
    "attention-24-high": lambda: operator(attention(opset=24), -1e38),
    "multi-head-lowest": lambda: operator(multi_head(), LOWEST),
    "grouped-lowest": lambda: operator(grouped(), LOWEST),
    "grouped-inf": lambda: operator(grouped(), -INF),
    "grouped-both-sides-lowest": lambda: operator(grouped(causal=0), LOWEST),
}
"""Forms in which such rows are what they were."""

DIFFER = {
    "softmax-causal-lower": (lambda: written_out(LOWEST, -INF), "hidden keys score -3.40282e+38"),
    "softmax-causal-added": (lambda: written_out(LOWEST, LOWEST, how="added"), "hidden least"),
    "softmax-causal-at-run-time": (lambda: written_out(LOWEST, LOWEST, how="run time"), "hidden least"),
    "softmax-wide": (lambda: written_out(-1e9, how="added"), "nearly the mean of all values (hidden keys score -1e+09"),
    "softmax-causal-guard-of-nan": (lambda: written_out(LOWEST, -INF, how="added", guard="nan"), "hidden least"),
    "softmax-causal-part-masked": (lambda: written_out(LOWEST, -INF, guard="mask"), "a part of a mean"),
    "attention-causal-lowest": (lambda: operator(attention(is_causal=1), LOWEST), "up to the row"),
    "attention-23-lowest": (lambda: operator(attention(opset=23), LOWEST), "by the standard, zeros in onnxruntime"),
    "attention-24-at-run-time": (lambda: run_time_mask(24), "by the standard, zeros in onnxruntime"),
    "multi-head-causal-lowest": (lambda: operator(multi_head(unidirectional=1), LOWEST), "up to the row"),
    "grouped-wide": (lambda: operator(grouped(), -1e9), "up to the row, where their keys are hidden least (at -1e+09)"),
}
"""Forms in which they may be something else, and how that is told."""


def proven(model: ModelProto) -> PassResult:
    result = rewrite(model, options=BARE)
    assert result.model is not None, [str(s.refusal) for s in result.analysis.sites]
    return result


def on_empty_rows(model: ModelProto, rewritten: ModelProto) -> float:
    """How far outputs are apart where an entry has no key, and one none up to a row, if the original defines them."""
    feeds = draw(model, SIZES)
    feeds["m"] = np.ones((SIZES["B"], SIZES["S"]), bool)
    feeds["m"][1] = False
    feeds["m"][2, :4] = False
    for name in "qkv":
        feeds[name] = feeds[name] * 3
    wanted, got = run(model, feeds)[0], run(rewritten, feeds)[0]
    keep = np.isfinite(wanted)
    seen = np.s_[0], np.s_[2, ..., 4:, :] if wanted.ndim == 4 else np.s_[2, 4:]
    for place in seen:  # rows that see a key
        assert keep[place].all()
        assert np.abs(wanted[place] - got[place]).max() < 2e-5
    return float(np.abs(wanted - got)[keep].max())


def told(result: PassResult) -> dict[str, object]:
    (site,) = report.to_json(result)["sites"]  # type: ignore[misc]
    return dict(site["proof"]["rows_without_keys"])  # type: ignore[index]


@pytest.mark.parametrize("form", AGREE)
def test_rows_that_are_said_to_be_equal_are(form: str) -> None:
    model = AGREE[form]()
    result = proven(model)
    found = told(result)
    assert found["agree"] is True
    assert found["code"] is None
    assert not any(Notice.EMPTY_ROWS.number in note for note in result.notes)
    assert result.model is not None
    assert on_empty_rows(model, result.model) < 2e-5


@pytest.mark.parametrize("form", DIFFER)
def test_rows_that_differ_are_told_with_a_code(form: str) -> None:
    """The rows do differ, as the notice says."""
    make, text = DIFFER[form]
    model = make()
    result = proven(model)
    found = told(result)
    assert (found["agree"], found["code"]) == (False, "ALB600")
    assert text in str(found["original"])
    (note,) = (n for n in result.notes if Notice.EMPTY_ROWS.number in n)
    assert text in note
    assert note in report.to_text(result)
    assert result.model is not None
    assert on_empty_rows(model, result.model) > 1e-3


def test_a_site_whose_rows_cannot_be_empty_is_not_told_of() -> None:
    graph = Graph()
    graph.operands()
    result = proven(graph.model(graph.attend(graph.add("Add", graph.scores(), graph.bias()))))
    assert told(result)["original"] == "there is no such row"


@pytest.mark.parametrize(
    ("form", "by_sites"),
    [
        ("softmax-lowest", False),
        ("grouped-lowest", False),
        ("attention-lowest", True),
        ("softmax-causal-one-mask", True),
        pytest.param("softmax-lowest", True, marks=SLOW),
        pytest.param("grouped-lowest", True, marks=SLOW),
        pytest.param("attention-lowest", False, marks=SLOW),
        pytest.param("softmax-causal-one-mask", False, marks=SLOW),
    ],
)
def test_the_verification_sees_rows_without_keys(form: str, by_sites: bool, tmp_path: Path) -> None:
    """A rewrite whose only fault is what it yields there has to fail, whole and site by site."""
    model = AGREE[form]()
    assert rewrite(model, options=Options(verify_sites=by_sites)).exit_code is ExitCode.DONE
    rewritten = proven(model).model
    assert rewritten is not None
    (node,) = (n for n in rewritten.graph.node if n.domain == "alibi")
    (policy,) = (a for a in node.attribute if a.name == "empty_rows")
    policy.s = b"mean" if policy.s == b"zero" else b"zero"
    opset = next(o.version for o in rewritten.opset_import if not o.domain)
    del rewritten.functions[:]
    grouped_heads = form == "grouped-lowest" or form == "attention-lowest"
    rewritten.functions.append(
        function_proto(
            BY_OP_TYPE[node.op_type],
            opset,
            grouped=grouped_heads,
            zero_rows=policy.s == b"zero",
            query_type=FLOAT,
            moves=Moves.of([layout_of(node)]),
        )
    )
    paths = tmp_path / "original.onnx", tmp_path / "rewritten.onnx"
    for one, path in zip((model, rewritten), paths, strict=True):
        onnx.save(one, path)
    if not by_sites:
        assert verify(*paths, options=VerifyOptions(power=False)).passed, "what the proofs do not know is not compared"
        assert not verify(*paths, options=VerifyOptions(power=False, rows_agree=True)).passed


@pytest.mark.parametrize("form", ["softmax-causal-lower", "attention-causal-lowest", "softmax-causal-at-run-time"])
@pytest.mark.parametrize("by_sites", [False, True])
def test_what_is_told_does_not_fail_the_verification(form: str, by_sites: bool) -> None:
    result = rewrite(DIFFER[form][0](), options=Options(verify_sites=by_sites))
    assert result.exit_code is ExitCode.DONE
    assert result.verification is not None and result.verification.passed
    assert any(Notice.EMPTY_ROWS.number in note for note in result.notes)


@pytest.mark.parametrize("number", [51, 129])
def test_masks_that_tell_of_no_padded_token(number: int) -> None:
    """A mask of queries and keys in 16 bits, and one that lowers whole rows.  Such rows need not be equal."""
    found = rewrite(build(sample(random.Random(f"rows-{number}")))).verification
    assert found is not None
    assert found.status == "passed", found.summary()


def test_a_number_under_a_condition_is_added_as_a_mask_is() -> None:
    """-1e4 hides no key here.  Rows in which all keys score it keep some digits, and are not equal number by number."""
    (site,) = rewrite(read("masks/finite_causal_mask"), options=Options(verify=False)).analysis.sites
    assert site.binding is not None
    assert site.binding.rows_without_keys is ADDED
    assert site.binding.rows_without_keys.agrees(EmptyRows.MEAN)
    assert not site.binding.rows_without_keys.comparable(EmptyRows.MEAN)
