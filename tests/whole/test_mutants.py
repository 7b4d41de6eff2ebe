"""Mistakes in exported models against the proof alone; ``benchmarks/attack/mutate.py`` is the long one.

The judge is tested first.  It has to see what begins at long lengths only.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from pathlib import Path

import mutant_judge
import numpy as np
import onnx
import onnx.helper
import pytest
from mutant_judge import Base, Verdict, judge
from mutations import mutate
from onnx import ModelProto, NodeProto, numpy_helper
from sampled import Sampled, Unsupported

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DATA = Path(__file__).parents[1] / "data"
DYNAMIC = "falcon__tf5patched_h6_mha_eager_ts17_dyn_mask+onnxsim"
CACHED = "mpt__optimum_textgen_past+ortall"
MUTANTS = 4
"""Of each model."""

SEED = 11


@cache
def base(name: str) -> Base:
    return Base(name, onnx.load(DATA / f"{name}.onnx"))


NAMES = sorted(p.stem for p in DATA.glob("*.onnx") if not p.name.startswith("near__"))


# --- the judge ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DYNAMIC, CACHED, "jina__v2_sdpa_dynamo18_dyn", "torchmha__sdpa_kpm_dynamo23_dyn"])
def test_elements_are_what_onnxruntime_computes(name: str) -> None:
    """At a length at which onnxruntime can do it as well, with all that is small taken for large."""
    one = base(name)
    model = mutant_judge._as_float32(one.model)
    session = mutant_judge._session(model)
    for feed in one.feeds[0]:
        wanted = session.run([model.graph.output[-1].name], feed.arrays)[0]
        found = mutant_judge._sampled(model, feed.arrays, {})
        name = model.graph.output[-1].name
        assert found.shape(name) == wanted.shape
        places = np.unique(np.random.default_rng(1).integers(0, wanted.size, 50))
        got, wanted = found.at(name, places), wanted.reshape(-1)[places]
        keep = np.isfinite(wanted)
        np.testing.assert_allclose(got[keep], wanted[keep], rtol=1e-4, atol=1e-4)


def test_elements_without_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same when nothing but the smallest values may be computed whole."""
    for limit in ("SMALL", "WIDE"):
        monkeypatch.setattr(f"sampled.{limit}", 64)
    one = base(DYNAMIC)
    feed = next(f for f in one.feeds[0] if f.length == 40)
    session = mutant_judge._session(one.model)
    name = one.model.graph.output[-1].name
    wanted = session.run([name], feed.arrays)[0].reshape(-1)
    places = np.arange(0, wanted.size, 7)
    valid = one.valid(session.run([name], feed.arrays)[0], feed).reshape(-1)[places]
    got = mutant_judge._sampled(one.model, feed.arrays, {}).at(name, places)
    np.testing.assert_allclose(got[valid], wanted[places][valid], rtol=1e-4, atol=1e-5)


def test_a_value_that_is_too_large_is_not_computed() -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NonZero", ["x"], ["y"])],
        "large",
        [onnx.helper.make_tensor_value_info("x", 1, [1 << 12, 1 << 13])],
        [],
    )
    wide = np.broadcast_to(np.float32(1), (1 << 12, 1 << 13))
    with pytest.raises(Unsupported):
        Sampled(graph, 17, {"x": wide}).at("z", np.zeros(1, np.int64))


def exchanged(one: Base, change: str, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    """The verdict on a model for which the pass writes what belongs to another one."""
    right = mutant_judge.rewrite(one.model, options=mutant_judge.PROOF_ALONE)
    assert right.model is not None
    node = next(n for n in right.model.graph.node if n.domain == "alibi")
    if change == "slope":
        slopes = next(t for t in right.model.graph.initializer if t.name == node.input[3])
        slopes.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(slopes) * np.float32(1.02), slopes.name))
    elif change == "scale":
        next(a for a in node.attribute if a.name == "scale").f *= 1.01
    else:
        node.input[1], node.input[2] = node.input[2], node.input[1]
        for attribute in node.attribute:  # where both lie in one tensor
            name, _, part = attribute.name.partition("_")
            if name in ("key", "value") and part in ("shape", "starts", "ends", "perm"):
                attribute.name = f"{'value' if name == 'key' else 'key'}_{part}"
    monkeypatch.setattr(mutant_judge, "rewrite", lambda *_, **__: right)
    return judge(one, one.model)


@pytest.mark.parametrize("change", ["slope", "scale", "operands"])
def test_a_wrong_output_is_seen(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = exchanged(base(DYNAMIC), change, monkeypatch)
    assert verdict.kind == "wrong"
    assert verdict.length == 2


def wrapped(model: ModelProto, factor: int) -> ModelProto:
    """Positions multiplied and divided by a factor, in int32: from 2^31 / factor on they wrap."""
    made = ModelProto()
    made.CopyFrom(model)
    place, node = next((n, x) for n, x in enumerate(made.graph.node) if x.op_type == "CumSum")
    own = node.output[0]
    node.output[0] = "counted"
    made.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.int32), "factor"))
    kind = next((a.i for n in made.graph.node if n.op_type == "Cast" and own in n.input for a in n.attribute), 1)
    assert kind
    inserted = [
        onnx.helper.make_node("Cast", ["counted"], ["narrow"], to=onnx.TensorProto.INT32),
        onnx.helper.make_node("Mul", ["narrow", "factor"], ["large"]),
        onnx.helper.make_node("Div", ["large", "factor"], ["small"]),
        onnx.helper.make_node("Cast", ["small"], [own], to=onnx.TensorProto.INT64),
    ]
    rest = [NodeProto.FromString(n.SerializeToString()) for n in made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend((*rest[: place + 1], *inserted, *rest[place + 1 :]))
    return made


def test_what_begins_at_two_thousand_tokens_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that takes positions which wrap for those that do not is told apart at 2,100 tokens, and not before."""
    one = base(DYNAMIC)
    right = mutant_judge.rewrite(one.model, options=mutant_judge.PROOF_ALONE)
    mutant = wrapped(one.model, 1 << 20)
    monkeypatch.setattr(mutant_judge, "rewrite", lambda *_, **__: right)
    verdict = judge(one, mutant)
    assert (verdict.kind, verdict.length) == ("wrong", 2100)
    assert judge(one, mutant, long=False).kind == "equal"


def test_positions_that_wrap_are_not_fused_as_if_they_did_not() -> None:
    one = base(DYNAMIC)
    assert judge(one, wrapped(one.model, 1 << 20)).kind in ("refused", "equal")


# --- the attack ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_are_not_fused(name: str) -> None:
    one = base(name)
    judged: Counter[str] = Counter()
    number = 0
    while sum(judged.values()) < MUTANTS:
        mutant, said = mutate(random.Random(f"{SEED}-{name}-{number}"), one.target)
        verdict = judge(one, mutant, long=number % 3 == 0 and "optimum" not in name)
        number += 1
        assert verdict.kind not in ("wrong", "traceback", "hang"), f"{said}: {verdict}"
        judged.update([verdict.kind] if verdict.kind != "skipped" else [])
