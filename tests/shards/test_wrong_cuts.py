"""What is wrong is noticed: in the ranks' files, and in inputs that could not tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode, ModelRejected
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.shards import cut as cutting
from alibi_rewriter.shards.cut import Outcome
from alibi_rewriter.shards.join import join
from alibi_rewriter.shards.plan import CutPlan
from alibi_rewriter.shards.rank import RankModel, build
from alibi_rewriter.shards.request import Request
from onnx import ModelProto, numpy_helper
from sharded_models import Decoder, decoder

pytest.importorskip("onnxruntime")


def outcome_of(model: ModelProto, folder: Path, ranks: int = 2) -> Outcome:
    result = rewrite(model, None, options=Options(verify=False))
    return cutting.cut(result, Request(ranks, folder / "ranks"), Options())


def wrong_build(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Ranks are built with one mistake."""

    def made(plan: CutPlan, rank: int, runtime: str) -> RankModel:
        right = build(plan, rank, runtime)
        other = build(plan, 1 - rank, runtime)
        if change == "slopes":
            fused = [
                next(n for n in one.model.graph.node if n.domain == "alibi" and len(n.input) > 3)
                for one in (right, other)
            ]
            name = fused[0].input[3]
            theirs = next(w for w in other.weights if w.tensor.name == fused[1].input[3])
            right.weights = [theirs if w.tensor.name == name else w for w in right.weights]
        elif change == "weights":
            right.weights = other.weights
        elif change == "one rank's output":
            norm = [node for node in right.model.graph.node if node.op_type == "LayerNormalization"][-1]
            if rank == 1:
                norm.input[1] = norm.input[2]
        return right

    monkeypatch.setattr(cutting, "build", made)


@pytest.mark.parametrize("change", ["slopes", "weights", "one rank's output"])
def test_a_wrong_rank_is_noticed_and_not_written(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_build(monkeypatch, change)
    model = decoder(Decoder(packing="interleaved"))
    if change == "weights":  # all of them together are a permutation of the ranks, which is right
        assert outcome_of(model, tmp_path).code is ExitCode.DONE
        return
    outcome = outcome_of(model, tmp_path)
    assert outcome.verification is not None
    assert outcome.verification.status == "failed"
    assert outcome.code is ExitCode.VERIFICATION_FAILED
    assert not outcome.written
    assert not (tmp_path / "ranks").exists()


def test_inputs_that_cannot_tell_are_said_to_have_no_power(tmp_path: Path) -> None:
    """Products behind the attention and the features are zero, so nothing of a wrong cut reaches an output."""
    model = decoder(Decoder(biases=False))
    rows = {n.input[1] for n in model.graph.node if n.op_type == "MatMul"}
    for tensor in model.graph.initializer:
        if tensor.name in rows and tensor.dims[:] in ([32, 32], [96, 32]):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    outcome = outcome_of(model, tmp_path)
    assert outcome.verification is not None
    power = outcome.verification.power
    assert power is not None
    assert power.weak
    assert power.killed == 0


def test_a_mutant_of_each_kind_is_told_apart(tmp_path: Path) -> None:
    outcome = outcome_of(decoder(Decoder(heads=8, key_heads=2)), tmp_path, 4)
    assert outcome.verification is not None
    power = outcome.verification.power
    assert power is not None
    killed = {mutant.kind for mutant in power.mutants if mutant.verdict == "killed"}
    assert killed == {
        "slopes_of_the_next_rank",
        "key_heads_of_the_next_rank",
        "replicated_key_head_taken_for_its_value",
        "parts_shifted_by_one_rank",
        "bias_added_by_every_rank",
        "sum_left_out",
    }


def test_ranks_that_do_not_fit_together_are_not_joined(tmp_path: Path) -> None:
    outcome = outcome_of(decoder(Decoder(layers=2)), tmp_path)
    folder = tmp_path / "ranks"
    ranks = [onnx.load(folder / f"rank{k}.onnx", load_external_data=False) for k in range(2)]
    whole = decoder(Decoder(layers=2))
    join(ranks, folder, outcome.manifest, whole)
    sums = [node for node in ranks[1].graph.node if node.op_type == "AlibiAllReduce"]
    sums[0].attribute[0].i = 3
    sums[1].name = "another"
    with pytest.raises(ModelRejected):
        join(ranks, folder, outcome.manifest, whole)
