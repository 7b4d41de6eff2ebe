"""Decoders of all kinds are cut, and the ranks together compute what the original computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import ExitCode, ModelRejected, NotRewritten
from alibi_rewriter.graph.load import load
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.shards.cut import Outcome, cut
from alibi_rewriter.shards.request import ONNXRUNTIME, TENSORRT, Request
from onnx import ModelProto
from sharded_models import Decoder, decoder
from slow import thinned

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


def cut_model(
    model: Path | ModelProto, ranks: int, folder: Path, *, runtime: str = ONNXRUNTIME, vocabulary: bool = False
) -> Outcome:
    """Rewrite without its own verification, then cut with that of the ranks together."""
    source = load(model) if isinstance(model, Path) else model
    result = rewrite(source, None, options=Options(verify=False, allow_partial=True))
    return cut(result, Request(ranks, folder / "ranks", runtime, vocabulary), Options())


def judged(outcome: Outcome, *, attentions: int, survivors: int = 0) -> None:
    """All attentions are cut, the ranks agree with the original, and every mutant is told apart."""
    found = outcome.verification
    assert found is not None
    assert found.status == "passed", [(s.name, s.error, s.outputs) for s in found.sets if not s.passed]
    assert outcome.code is ExitCode.DONE
    assert outcome.written
    assert [one.get("whole") for one in outcome.manifest["attentions"]] == [None] * attentions
    assert found.power is not None
    left = [m for m in found.power.mutants if m.verdict == "survived"]
    assert len(left) == survivors, left
    assert found.power.killed > 0


# --- exported models -----------------------------------------------------------------------------------------

EXPORTED = (
    ("baichuan13b__decode_dynamo18_dyn", (2, 3)),
    ("baichuan13b__sdpa_ts17_dyn", (3, 4)),
    ("bloom__optimum_textgen_past+onnxsim", (2, 4)),
    ("bloom__tf5_h4_dynamo18_dyn_mask_fp16", (2, 4)),
    ("bloom__tf5_h6_ts17_dyn_mask_nofold", (3,)),
    ("falcon__tf5_h4_gqa_new_eager_dynamo18_static_nomask", (2,)),
    ("falcon__tf5patched_h6_gqa_new_sdpa_ts17_dyn_mask", (2,)),
    ("falcon__tf5patched_h6_mha_eager_ts17_dyn_mask+onnxsim", (3,)),
    ("mpt__optimum_textgen_past+ortall", (2, 3)),
    ("mpt__tf5_h4clip_ts17_dyn_mask", (2, 4)),
    ("idiom__gqa_repeatkv_ts17_dyn", (2,)),
)


@pytest.mark.parametrize(("name", "ranks"), thinned([(name, n) for name, every in EXPORTED for n in every], 3))
def test_exported_models_are_cut(name: str, ranks: int, tmp_path: Path) -> None:
    outcome = cut_model(DATA / f"{name}.onnx", ranks, tmp_path)
    judged(outcome, attentions=len(outcome.manifest["attentions"]))


# --- decoders to order ---------------------------------------------------------------------------------------

KINDS = (
    (Decoder(), 2),
    (Decoder(features="gated", biases=False), 4),
    (Decoder(features="merged"), 2),
    (Decoder(features="merged", heads=6, key_heads=6), 3),
    (Decoder(packing="thirds"), 2),
    (Decoder(packing="thirds", heads=6, key_heads=6, cache=True), 3),
    (Decoder(packing="interleaved"), 4),
    (Decoder(packing="interleaved", cache=True, half=True), 2),
    (Decoder(key_heads=2), 2),
    (Decoder(key_heads=2, cache=True), 4),
    (Decoder(key_heads=1, packing="thirds"), 2),
    (Decoder(key_heads=1, cache=True), 3),
    (Decoder(heads=6, key_heads=2, layers=2), 4),
    (Decoder(heads=8, key_heads=4, half=True), 4),
    (Decoder(layers=5, features="gated"), 2),
)


@pytest.mark.parametrize(("what", "ranks"), thinned(KINDS, 2), ids=lambda v: str(v) if isinstance(v, int) else _id(v))
def test_decoders_are_cut(what: Decoder, ranks: int, tmp_path: Path) -> None:
    outcome = cut_model(decoder(what), ranks, tmp_path)
    judged(outcome, attentions=what.layers)
    assert len(outcome.manifest["features"]) == what.layers
    assert outcome.manifest["collectives_per_layer"] == {"all_reduce": 2}


def _id(what: Decoder) -> str:
    heads = f"{what.heads}on{what.key_heads}"
    flags = [name for name in ("biases", "cache", "half") if getattr(what, name)]
    return "-".join([heads, what.packing, what.features, f"{what.layers}x", *flags])


@pytest.mark.parametrize("runtime", [ONNXRUNTIME, TENSORRT])
def test_the_vocabulary_is_cut_on_request(runtime: str, tmp_path: Path) -> None:
    outcome = cut_model(decoder(Decoder()), 2, tmp_path, runtime=runtime, vocabulary=True)
    judged(outcome, attentions=1)
    assert outcome.manifest["collectives_per_layer"] == {"all_gather": 2, "all_reduce": 2}
    ranks = [onnx.load(tmp_path / "ranks" / f"rank{rank}.onnx") for rank in range(2)]
    for model in ranks:
        wanted = {"AlibiAllReduce": 2, "AlibiAllGather": 2} if runtime == ONNXRUNTIME else {"DistCollective": 4}
        kinds = [node.op_type for node in model.graph.node]
        assert {kind: kinds.count(kind) for kind in wanted} == wanted
    assert len(outcome.manifest["vocabulary"]) == 2


def test_a_vocabulary_that_cannot_be_cut_says_so(tmp_path: Path) -> None:
    """48 words do not divide among 5 ranks; nobody is told to ask for what was asked for."""
    outcome = cut_model(decoder(Decoder(heads=5, key_heads=5)), 5, tmp_path, vocabulary=True)
    judged(outcome, attentions=1)
    assert len(outcome.manifest["vocabulary"]) == 1, "the embedding's features divide"
    (why,) = outcome.manifest["whole"].values()
    assert "the ranks do not divide it" in why


def test_what_sums_over_features_stays_whole_and_says_why(tmp_path: Path) -> None:
    outcome = cut_model(decoder(Decoder(features="mixed")), 2, tmp_path)
    judged(outcome, attentions=1)
    assert outcome.manifest["features"] == []
    assert any("ReduceMean acts across the axis" in why for why in outcome.manifest["whole"].values())


def test_caches_stay_with_their_rank(tmp_path: Path) -> None:
    cut_model(decoder(Decoder(heads=6, key_heads=6, cache=True)), 3, tmp_path)
    model = onnx.load(tmp_path / "ranks" / "rank1.onnx")
    past = next(value for value in model.graph.input if value.name == "past_key_0")
    assert [d.dim_value or d.dim_param for d in past.type.tensor_type.shape.dim] == ["B", 2, "P", 8]


def test_weights_of_ranks_are_those_of_the_model(tmp_path: Path) -> None:
    """A plain look at the files, apart from what the verification sees."""
    original = decoder(Decoder(packing="interleaved", biases=False))
    packed = next(onnx.numpy_helper.to_array(t) for t in original.graph.initializer if list(t.dims) == [32, 96])
    cut_model(original, 2, tmp_path)
    for rank in range(2):
        model = onnx.load(tmp_path / "ranks" / f"rank{rank}.onnx")
        held = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if list(t.dims) == [32, 48]]
        assert any(np.array_equal(one, packed[:, 48 * rank : 48 * (rank + 1)]) for one in held)


def test_the_same_model_is_cut_into_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (cut_model(decoder(Decoder(key_heads=2)), 2, folder) for folder in folders)
    assert first.manifest == second.manifest
    for place in sorted((folders[0] / "ranks").iterdir()):
        assert place.read_bytes() == (folders[1] / "ranks" / place.name).read_bytes(), place.name


def test_attention_and_features_side_by_side_share_a_sum(tmp_path: Path) -> None:
    outcome = cut_model(DATA / "falcon__tf5_h4_gqa_new_eager_dynamo18_static_nomask.onnx", 2, tmp_path)
    judged(outcome, attentions=2)
    assert outcome.manifest["collectives_per_layer"] == {"all_reduce": 1}


def test_caches_in_place_are_cut_by_heads(tmp_path: Path) -> None:
    source = load(DATA / "mpt__optimum_textgen_past+ortall.onnx")
    result = rewrite(source, None, options=Options(verify=False, in_place=True))
    outcome = cut(result, Request(2, tmp_path / "ranks"), Options())
    judged(outcome, attentions=2)
    model = onnx.load(tmp_path / "ranks" / "rank0.onnx", load_external_data=False)
    assert sum(node.op_type == "AlibiCacheAppend" for node in model.graph.node) == 2
    past = next(value for value in model.graph.input if value.name == "past_key_values.0.key")
    assert past.type.tensor_type.shape.dim[1].dim_value == 3


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "ranks", "why"),
    [
        (Decoder(heads=2, key_heads=2), 3, "it has 2 heads, fewer than the 3 ranks"),
        (Decoder(heads=6, key_heads=3), 2, ""),
        (Decoder(heads=8, key_heads=2), 3, "do not divide among 3 ranks"),
    ],
)
def test_heads_that_do_not_divide_are_refused(what: Decoder, ranks: int, why: str, tmp_path: Path) -> None:
    if not why:  # uneven, and possible
        judged(cut_model(decoder(what), ranks, tmp_path), attentions=1)
        return
    with pytest.raises(NotRewritten, match=why):
        cut_model(decoder(what), ranks, tmp_path)
    assert not (tmp_path / "ranks").exists()


def test_a_model_without_fused_attentions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotRewritten, match="no attention was fused"):
        cut_model(DATA / "near__attention_sink_dynamo18_dyn.onnx", 2, tmp_path)


@pytest.mark.parametrize("change", ["inputs", "layout", "view", "mask of rank 1"])
def test_fused_nodes_that_say_anything_are_whole(change: str, tmp_path: Path) -> None:
    """A file that was rewritten before may have been changed since: no crash, and a reason."""
    made = rewrite(decoder(Decoder(packing="thirds")), None, options=Options(verify=False)).model
    assert made is not None
    fused = next(node for node in made.graph.node if node.op_type.startswith("AlibiAttention"))
    if change == "inputs":
        del fused.input[3:]
    elif change == "mask of rank 1":
        fused.op_type = "AlibiAttentionCausalAdditiveMask"
        fused.input.append(fused.input[3])
    else:
        for entry in fused.attribute:
            if entry.name == "layout" and change == "layout":
                entry.s = b"elsewhere"
            elif entry.name == "query_shape" and change == "view":
                entry.ints[:] = [0, 0, 7, 3]
    with pytest.raises((NotRewritten, ModelRejected)):
        cut_model(made, 2, tmp_path)


# --- the manifest --------------------------------------------------------------------------------------------


def test_the_manifest_says_what_is_cut(tmp_path: Path) -> None:
    cut_model(decoder(Decoder(key_heads=1, cache=True)), 2, tmp_path)
    found = json.loads((tmp_path / "ranks" / "manifest.json").read_text(encoding="utf-8"))
    (attention,) = found["attentions"]
    assert attention["heads"] == 4
    assert attention["key_heads"] == 1
    assert attention["key_heads_replicated"]
    assert attention["ranks"] == [{"heads": [0, 2], "key_heads": [0, 1]}, {"heads": [2, 4], "key_heads": [0, 1]}]
    assert [one["features"] for one in found["features"]] == [96]
    assert found["inputs"]["past_key_0"] == {"axis": 1, "period": 1, "ranks": [[[0, 1]], [[0, 1]]]}
    assert list(found["outputs"]) == ["present_key_0", "present_value_0"]
    assert [one["kind"] for one in found["collectives"]] == ["all_reduce", "all_reduce"]
    assert {(one["features"], one["type"]) for one in found["collectives"]} == {(32, "float")}
    for rank, one in enumerate(found["files"]):
        assert one["model"] == f"rank{rank}.onnx"
        assert 0 < one["cut_bytes"] < one["weight_bytes"]
