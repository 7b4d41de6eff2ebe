"""An export that declares its lengths open and has folded them: a table of one length meets every length."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from onnx import ModelProto
from tiny import BARE, SLOPES, Graph, draw, fused, refusals, run

pytest.importorskip("onnxruntime")


def folded(table: str = "square", keys: str = "S", *, padding: bool = False) -> ModelProto:
    """Scores of open lengths beside a table for six keys."""
    graph = Graph()
    graph.operands("S", keys)
    distance = np.arange(6)[None, :]
    if table == "square":
        distance = distance - np.arange(6)[:, None]
    bias = graph.const((SLOPES * distance)[None])
    scores = graph.add("Add", graph.scores(), bias)
    if padding:
        graph.input("m", ("B", keys))
        scores = graph.add("Add", scores, graph.add("Unsqueeze", "m", graph.ints(1, 2)))
    return graph.model(graph.attend(scores))


def runs(model: ModelProto, sizes: dict[str, int]) -> bool:
    try:
        run(model, draw(model, sizes))
    except Exception:  # noqa: BLE001 - any backend error type
        return False
    return True


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("table", ["square", "row"])
def test_the_one_length_that_runs_is_told(table: str, padding: bool) -> None:
    model = folded(table, padding=padding)
    assert [n for n in range(1, 9) if runs(model, {"B": 2, "S": n})] == [6]
    result = rewrite(model, options=Options())
    assert result.exit_code is ExitCode.DONE, [str(s.refusal) for s in result.analysis.sites]
    (site,) = result.analysis.proven
    assert site.binding is not None
    assert any("S = 6" in text or "6 = S" in text for text in site.binding.proof.assumptions)
    assert result.verification is not None
    assert {one.shapes["q"][2] for one in result.verification.sets} == {6}
    feeds = draw(model, {"B": 2, "S": 6})
    assert np.abs(run(model, feeds)[0] - run(fused(model), feeds)[0]).max() < 2e-5


def test_a_length_of_one_that_runs_as_well_is_refused() -> None:
    """One query spread over the six rows of the table is another attention, and it runs without an error."""
    model = folded("square", "T")
    assert [n for n in range(1, 9) if runs(model, {"B": 2, "S": n, "T": 6})] == [1, 6]
    assert not runs(model, {"B": 2, "S": 6, "T": 1})
    (refusal,) = refusals(model)
    assert refusal.code.number == "ALB206"
    assert "S" in refusal.detail and "6" in refusal.detail


def test_keys_alone_may_be_folded() -> None:
    """The row's own position is the same for all keys, so a table [H, 1, 6] says nothing about rows."""
    model = folded("row", "T")
    (site,) = rewrite(model, options=BARE).analysis.proven
    assert site.binding is not None
    assert any("T = 6" in text or "6 = T" in text for text in site.binding.proof.assumptions)
    for rows in (1, 4):
        feeds = draw(model, {"B": 2, "S": rows, "T": 6})
        assert np.abs(run(model, feeds)[0] - run(fused(model), feeds)[0]).max() < 2e-5


def test_names_that_inputs_share_are_told() -> None:
    """Queries and keys that both declare S are taken to be as long; an own name for each makes a cache of it."""
    told = {}
    for keys in ("S", "T"):
        graph = Graph()
        graph.operands("S", keys)
        model = graph.model(graph.attend(graph.add("Add", graph.scores(), graph.bias(offset=False))))
        (site,) = rewrite(model, options=BARE).analysis.sites
        told[keys] = site.binding.proof.assumptions if site.binding is not None else []
    assert "S is the same number wherever inputs declare it: 'q' axis 2, 'k' axis 2, 'v' axis 2" in told["S"]
    assert not any(text.startswith("S is the same") for text in told["T"])
    assert "T is the same number wherever inputs declare it: 'k' axis 2, 'v' axis 2" in told["T"]


def test_a_name_that_hides_a_cache_is_wrong_elsewhere() -> None:
    """The assumption matters.  With keys that are longer than that, the function body does not fit the scores."""
    graph = Graph()
    graph.operands("S", "S")
    distance = graph.add("Neg", graph.add("Abs", graph.distance(offset=False)))
    bias = graph.add("Mul", graph.add("Cast", distance, to=1), graph.const(SLOPES))
    model = graph.model(graph.attend(graph.add("Add", graph.scores(), bias)))
    rewritten = fused(model)
    assert any(
        "S is the same number" in text
        for text in rewrite(model, options=BARE).analysis.proven[0].binding.proof.assumptions
    )  # type: ignore[union-attr]
    random = np.random.default_rng(0)
    longer = {n: random.standard_normal((1, 4, 5 if n == "q" else 9, 8)).astype(np.float32) for n in "qkv"}
    for one in (model, rewritten):
        for value in one.graph.input:
            value.type.tensor_type.shape.dim[2].dim_param = "" if value.name == "q" else "T"
    assert run(model, longer)[0].shape == (1, 4, 5, 8)
    with pytest.raises(Exception, match="Attempting to broadcast an axis by a dimension other than 1"):
        run(rewritten, longer)
