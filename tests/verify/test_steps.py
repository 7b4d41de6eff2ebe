"""Step by step: what cannot be run, and limits that are wider because the bias was rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter import rewrite
from alibi_rewriter.verify import Verification, VerifyOptions, judged, steps
from alibi_rewriter.verify.errors import LimitError
from alibi_rewriter.verify.inputs.draw import InputSet
from alibi_rewriter.verify.judge.compare import OutputAxes
from alibi_rewriter.verify.run.runtime import Model
from cached_models import decoder
from onnx import ModelProto
from tiny import Graph


def stepped(folder: Path, change: str = "") -> Verification:
    """The comparison of a small decoder with the same in place, which was changed since."""
    original = decoder()
    done = rewrite(original, cache="in-place", verify=False, probe=False)
    assert done.cache is not None
    held = done.model
    if change:
        held.graph.node[-1].op_type = change
    files = [folder / name for name in ("original.onnx", "held.onnx")]
    for file, model in zip(files, (original, held), strict=True):
        onnx.save(model, file)
    cache = done.cache
    options = VerifyOptions(power=False, max_length=16)
    return steps.verify_steps(*files, cache.buffers, cache.lengths, cache.removed, options=options)


def test_a_model_in_place_that_does_not_load_is_a_failure(tmp_path: Path) -> None:
    """It is our output that is wrong, and not the user's file."""
    found = stepped(tmp_path, "NoSuchOperator")
    assert found.status == "failed"
    assert all("NoSuchOperator" in (one.error or "") for one in found.sets)


def test_a_model_that_cannot_be_run_here_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_out(*given: object, **named: object) -> judged.Judgement:
        raise LimitError("the rewritten model cannot be run here on 'long': no memory")

    monkeypatch.setattr(steps, "judge", runs_out)
    found = stepped(tmp_path)
    assert found.status == "skipped"
    assert found.skipped_reason == "the rewritten model cannot be run here on 'long': no memory"


# --- judged --------------------------------------------------------------------------------------------------


def identity() -> ModelProto:
    graph = Graph()
    model = graph.model(graph.add("Identity", graph.input("x", (2, 3))))
    model.graph.output[0].name = model.graph.node[0].output[0] = "y"
    return model


def judge(off: float, stored: Sequence[str] = (), *, power: bool = False) -> judged.Judgement:
    given = np.ones((2, 3), np.float32)
    one = InputSet("a set", {"x": given}, 2, None, ())
    model = Model(identity(), None, room=None)
    wanted = {"y": given + np.float32(off)}
    return judged.judge(model, [one], [wanted], {"y": OutputAxes(0, None)}, stored, power=power, threads=1)


@pytest.mark.parametrize(("stored", "said"), [((), "a bias rounded to float32"), (("float16",), "rounded to float16")])
def test_what_a_rounded_bias_explains_is_allowed_and_said(
    stored: Sequence[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no table is stored in 16 bits, the original computes its bias in float32."""
    measured: list[Sequence[str]] = []

    def allowances(model: Model, narrow: Sequence[str], *given: object, threads: int) -> list[Mapping[str, float]]:
        measured.append(narrow)
        return [{"y": 0.1}]

    monkeypatch.setattr(judged, "rounding_allowances", allowances)
    found = judge(0.05, stored)
    assert found.passed
    assert [said in note for note in found.notes] == [True]
    assert found.used == found.allowances == [{"y": 0.1}]
    assert measured == [tuple(stored) or ("float32",)]
    assert not judge(0.5, stored).passed
    # A right model needs no allowance; a mutant has to exceed it all the same.
    right = judge(0.0, stored, power=True)
    assert right.passed and not right.notes
    assert (right.used, right.allowances) == ([{}], [{"y": 0.1}])
    assert judge(0.0, stored).allowances == [{}]
