"""``Where(mask, score, -1e4)``: a finite number in place of the score, as GPT-2 and what was built on it have it."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from onnx import ModelProto, TensorProto
from tiny import BARE, Graph, codes, draw, fused, gaps, refusals, run

pytest.importorskip("onnxruntime")

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
SIZES = [{"B": 2, "S": 7, "T": 7}, {"B": 1, "S": 1, "T": 5}, {"B": 2, "S": 40, "T": 60}, {"B": 1, "S": 300, "T": 300}]


def gpt2(
    value: float = -1e4,
    *,
    bias: str = "before",
    padding: str = "",
    symmetric: bool = False,
    grows: float = 1.0,
    absolute: bool = False,
    factor: float = 1.0,
    latest: int = 0,
) -> ModelProto:
    """An attention whose later keys get a number in place of their score.

    Args:
        value: The number.
        bias: Added before or after that.
        padding: Padded keys are hidden by the same operator, or lowered by as much afterwards; empty for none.
        symmetric: Nothing but padding is hidden.
        grows: A factor on the slopes.
        absolute: The bias is slope * j, not slope * (j - row).
        factor: On the products.
        latest: The last key that a row sees, counted from its own.
    """
    graph = Graph()
    graph.operands("S", "T")
    distance = graph.distance()
    later = graph.add("Greater", distance, graph.number(latest))
    place = graph.range(graph.extent("k", 2)) if absolute else distance
    if symmetric:
        place = graph.add("Neg", graph.add("Abs", distance))
    slopes = graph.const(np.array([0.5, 0.25, 0.125, 0.0625], np.float32).reshape(4, 1, 1) * grows)
    added = graph.add("Mul", graph.add("Cast", place, to=FLOAT), slopes)
    scores = graph.add("Mul", graph.scores(), graph.const(factor))
    if bias == "before":
        scores = graph.add("Add", scores, added)
    seen = graph.add("Not", later)
    if padding:
        graph.input("m", ("B", "T"), BOOL)
        kept = graph.add("Unsqueeze", "m", graph.ints(1, 2))
        if padding == "same":
            seen = kept if symmetric else graph.add("And", kept, seen)
    scores = graph.add("Where", seen, scores, graph.const(value))
    if bias == "after":
        scores = graph.add("Add", scores, added)
    if padding == "added":
        lost = graph.add("Sub", graph.const(1.0), graph.add("Cast", kept, to=FLOAT))
        scores = graph.add("Add", scores, graph.add("Mul", lost, graph.const(value)))
    return graph.model(graph.attend(scores))


ACCEPTED = {
    "causal": lambda: gpt2(),
    "causal-absolute": lambda: gpt2(absolute=True),
    "causal-and-padding": lambda: gpt2(padding="same"),
    "causal-padding-added": lambda: gpt2(padding="added"),
    "padding": lambda: gpt2(padding="same", symmetric=True),
    "half-lowest": lambda: gpt2(-65504.0),
    "minus-1e6": lambda: gpt2(-1e6),
}

REFUSED = {
    "too-high": (lambda: gpt2(-5e3), "a hidden key scores -5000 in place of its score"),
    "bias-after": (lambda: gpt2(bias="after"), "A bias is added to that and may raise it"),
    "bias-after-padding": (lambda: gpt2(bias="after", padding="same"), "No mask can say so"),
    "own-key-hidden": (lambda: gpt2(latest=-3000), "the row's own key is hidden as well"),
    "own-key-falls": (lambda: gpt2(absolute=True, grows=-1.0), "the row's own key gets"),
}


@pytest.mark.parametrize("form", ACCEPTED)
def test_a_number_far_below_all_scores_hides(form: str) -> None:
    model = ACCEPTED[form]()
    result = rewrite(model, options=BARE)
    (site,) = result.analysis.proven
    assert site.binding is not None
    assert any("in place of its score" in text for text in site.binding.proof.assumptions)
    assert site.binding.proof.causal is (form != "padding")
    assert site.binding.additive is None or form == "causal-padding-added"
    feeds = {"m": np.ones((2, 7), bool)} if "padding" in form else {}
    found = list(gaps(model, fused(model), SIZES[: 1 if feeds else None], feeds))
    assert found
    assert max(found) < 2e-5


@pytest.mark.parametrize("form", REFUSED)
def test_what_hides_nothing_for_sure_is_refused_for_that(form: str) -> None:
    make, text = REFUSED[form]
    (refusal,) = refusals(make())
    assert refusal.code.number == "ALB301", str(refusal)
    assert text in refusal.detail


def test_the_refused_forms_would_be_wrong() -> None:
    """With products as low as is assumed not to be, or a bias that falls, a hidden key has weight."""
    model = gpt2(factor=1e4)
    feeds = draw(model, SIZES[0])
    feeds["q"] = np.abs(feeds["q"])
    feeds["k"] = -np.abs(feeds["k"])
    wanted, got = run(model, feeds)[0], run(fused(model), feeds)[0]
    assert np.abs(wanted - got).max() > 0.1
    assert codes(gpt2(absolute=True, grows=-1.0)) == ["ALB301"]


def test_an_added_number_is_added() -> None:
    """The same number as a term of its own is passed on, whatever the scores are."""
    graph = Graph()
    graph.operands()
    later = graph.add("Greater", graph.distance(), graph.number(0))
    mask = graph.add("Where", later, graph.const(-1e4), graph.const(0.0))
    model = graph.model(graph.attend(graph.add("Add", graph.add("Add", graph.scores(), graph.bias()), mask)))
    (site,) = rewrite(model, options=BARE).analysis.proven
    assert site.binding is not None
    assert not site.binding.proof.causal
    assert site.binding.additive is not None
    assert not any("in place of its score" in text for text in site.binding.proof.assumptions)


@pytest.mark.parametrize("form", ["causal", "causal-and-padding", "causal-padding-added"])
@pytest.mark.parametrize("by_sites", [False, True])
def test_it_is_verified(form: str, by_sites: bool) -> None:
    result = rewrite(ACCEPTED[form](), options=Options(verify_sites=by_sites))
    assert result.exit_code is ExitCode.DONE, result.verification and result.verification.summary()
    told = any("ALB600" in note for note in result.notes)
    assert told is (form == "causal-padding-added")
