"""A short attack on the pass with random models; ``benchmarks/attack/run.py`` is the long one.

onnxruntime alone judges: the pass's own verification is off.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable

import generator
import numpy as np
import onnx
import pytest
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from generator import MISSES, Spelling, attack, build, difference, sample, slopes_match, told, tolerance, truth
from generator.misses import distance, inputs, masks, positions, scores, slopes, tables

SEED = 20240
TRUE_MODELS = 60
NEAR_MISSES = 70
REFUSED_AT_MOST = 0.03
"""Share of true models that may be refused."""

EQUAL_IF_FUSED = frozenset(
    {
        "window",  # kept as a mask
        "chunked",
        "causal-offset",
        "key-term",  # kept as an additive mask
        "value-scaled",  # outside of the attention
        "finite-mask",
        "packed",
        "table-ulp",
        "offset-one",  # constant along a row where the causal mask hides the other side
        "offset",
        "clip",  # beyond the only length of a model with fixed sizes
        "mod",
        "negative-total",
        "table-tail",
        "table-entry",  # in the part that a causal mask hides
        "clip-far",  # of models with fixed sizes
        "mod-far",
        "drop-far",
        "half-step",  # linear where the causal mask hides the other side
        "length-slope",  # one slope per head at run time
        "query-key",
        "soft-window",  # an additive mask
        "window-far",  # kept as a mask
        "causal-strict",  # kept as a mask
        "slopes-on-batch",  # batch and heads change places
        "log-length",  # a factor of the product that is known at run time, or a constant
    }
)
"""Faults that need not refuse, because a fused model can still be equal; equality is checked for all."""


def case(index: int, miss: str) -> Spelling:
    return sample(random.Random(f"{SEED}-{index}-{miss}"), miss)


def test_true_models(record_property: Callable[[str, object], None]) -> None:
    """Fused models equal their originals and report the true slopes; few true ones are refused."""
    refused: Counter[str] = Counter()
    wrong = []
    for index in range(TRUE_MODELS):
        spelling = case(index, "")
        verdict = attack(spelling)
        if verdict.kind == "refused":
            refused[verdict.code] += 1
        elif verdict.kind != "fused":
            wrong.append(f"{told(spelling)}: {verdict.kind} {verdict.code} {verdict.detail}")
        elif not slopes_match(spelling, verdict.slopes):
            wrong.append(f"{told(spelling)}: slopes {verdict.slopes} instead of {truth(spelling)}")
    for code, number in refused.items():
        record_property(f"refused {code}", number)
    assert not wrong, "\n".join(wrong)
    share = sum(refused.values()) / TRUE_MODELS
    assert share <= REFUSED_AT_MOST, f"{share:.1%} of {TRUE_MODELS} true models refused: {dict(refused)}"


def test_near_misses(record_property: Callable[[str, object], None]) -> None:
    """No near miss is fused into something different.  Those that are not an attention of this form are refused."""
    outcome: Counter[str] = Counter()
    wrong = []
    for index in range(NEAR_MISSES):
        miss = MISSES[index % len(MISSES)]
        spelling = case(index, miss)
        verdict = attack(spelling)
        outcome[f"{verdict.kind} {verdict.code}".strip()] += 1
        allowed = miss in EQUAL_IF_FUSED and generator.right(spelling, verdict)
        if verdict.kind not in ("refused", "fused") or (verdict.kind == "fused" and not allowed):
            wrong.append(f"{told(spelling)}: {verdict.kind} {verdict.code} {verdict.detail}")
    for name, number in outcome.items():
        record_property(name, number)
    assert not wrong, "\n".join(wrong)


PLAIN_MISSES = {
    "clip": {"ALB200"},
    "mod": {"ALB200"},
    "quadratic": {"ALB200"},
    "log": {"ALB200"},
    "bucket": {"ALB100", "ALB200"},
    "grid": {"ALB200"},
    "one-side": {"ALB200"},
    "table-noise": {"ALB201"},
    "table-entry": {"ALB201"},
    "table-tail": {"ALB201"},
    "data-slope": {"ALB202"},
    "batch-slope": {"ALB202"},
    "slope-per-key": {"ALB200", "ALB202"},
    "slope-per-row": {"ALB200", "ALB202"},
    "forgetting": {"ALB204"},
    "probabilities": {"ALB120"},
    "scores": {"ALB120"},
    "softcap-after": {"ALB104"},
    "softcap-before": {"ALB102", "ALB104"},
    "multiplied": {"ALB104"},
    "sink": {"ALB104", "ALB105"},
    "axis": {"ALB101"},
    "dropout": {"ALB122"},
    "product": {"ALB120"},
    "sine": {"ALB200"},
    "square-root": {"ALB200"},
    "parity": {"ALB200"},
    "clip-far": {"ALB200", "ALB203"},
    "mod-far": {"ALB200"},
    "drop-far": {"ALB200"},
    "row-scale": {"ALB104"},
    "key-scale": {"ALB104"},
    "after-softmax": {"ALB103"},
    "masked-probabilities": {"ALB103"},
    "half-step": {"ALB200", "ALB203"},
    "flipped": {"ALB200"},
    "wrap": {"ALB206"},
    "three-ulp": {"ALB201"},
    "mask-multiplied": {"ALB104"},
    "sign-far": {"ALB200"},
    "linear-far": {"ALB200"},
    "row-far": {"ALB200"},
    "batch-one": {"ALB200"},
    "length-far": {"ALB205"},
    "narrow-cast": {"ALB207"},
}


@pytest.mark.parametrize("miss", PLAIN_MISSES)
def test_plain_near_miss_is_refused_for_its_reason(miss: str) -> None:
    """In its simplest spelling each fault is refused with the code that names it.  Without it the model is fused."""
    spelling = generator.repair(Spelling(miss=miss, causal="none"))
    verdict = attack(spelling)
    assert verdict.kind == "refused"
    assert verdict.code in PLAIN_MISSES[miss], verdict.detail
    sound = generator.repair(dataclasses.replace(spelling, miss=""))
    healthy = attack(sound)
    assert healthy.kind == "fused", f"{told(sound)}: {healthy.detail}"
    assert slopes_match(sound, healthy.slopes)


@pytest.mark.parametrize("bias", generator.CHOICES["bias"])
@pytest.mark.parametrize("cache", [False, True])
def test_plain_spelling_is_fused(bias: str, cache: bool) -> None:
    """Every way to compute the bias is recognised in an otherwise plain model, with the true slopes."""
    spelling = generator.repair(Spelling(bias=bias, cache=cache))
    verdict = attack(spelling)
    assert verdict.kind == "fused", f"{told(spelling)}: {verdict.detail}"
    assert slopes_match(spelling, verdict.slopes)


@pytest.mark.parametrize("name", [n for n in generator.CHOICES if n != "bias"])
def test_every_single_choice_is_fused(name: str) -> None:
    """Each value of each field of a spelling, alone, is recognised."""
    for value in generator.CHOICES[name]:
        spelling = generator.repair(dataclasses.replace(Spelling(), **{name: value}))
        verdict = attack(spelling)
        assert verdict.kind == "fused", f"{told(spelling)}: {verdict.detail}"
        assert slopes_match(spelling, verdict.slopes), told(spelling)


def test_the_judge_sees_a_wrong_slope() -> None:
    """The comparison has power: slopes off by 2 % are found."""
    spelling = Spelling(padding="where", seed=3)
    result = rewrite(build(spelling), options=Options(verify=False))
    assert result.model is not None
    assert difference(spelling, build(spelling), result.model).error <= tolerance(spelling)
    slopes = next(t for t in result.model.graph.initializer if t.name.endswith("slopes"))
    slopes.raw_data = (np.frombuffer(slopes.raw_data, np.float32) * np.float32(1.02)).tobytes()
    assert difference(spelling, build(spelling), result.model).error > tolerance(spelling)


def test_shrinking_keeps_the_failure() -> None:
    """Shrinking ends at the simplest spelling that still has the property."""
    start = sample(random.Random(5), "clip")
    small = generator.shrink(dataclasses.replace(start, heads=3), lambda s: s.heads == 3 and s.miss == "clip")
    assert small == generator.repair(dataclasses.replace(Spelling(), heads=3, miss="clip"))


def test_generation_is_reproducible() -> None:
    """The same seed writes the same bytes; repaired spellings stay as they are."""
    for index in range(40):
        spelling = case(index, MISSES[index % len(MISSES)] if index % 2 else "")
        assert generator.repair(spelling) == spelling
        assert build(spelling).SerializeToString() == build(case(index, spelling.miss)).SerializeToString()


def test_dead_node_beside_the_bias() -> None:
    verdict = attack(Spelling(dead=True))
    assert verdict.kind == "fused", verdict.detail


def test_run_time_slopes_of_a_distance() -> None:
    verdict = attack(Spelling(slopes="input"))
    assert verdict.kind == "fused", verdict.detail


@pytest.mark.parametrize("softmax32", [False, True])
def test_a_guard_against_nan(softmax32: bool) -> None:
    """Where(IsNaN(p), 0, p), also where p was cast after the softmax."""
    spelling = generator.repair(Spelling(guard="nan", half=True, softmax32=softmax32, padding="where", hide="inf"))
    verdict = attack(spelling)
    assert verdict.kind == "fused", verdict


def test_a_guard_that_looks_elsewhere() -> None:
    """Where(IsNaN(p^T), 0, p) is not a guard of p.  A row full of NaN would leave NaN in other rows."""
    model = build(generator.repair(Spelling(guard="nan", padding="where", hide="inf")))
    guard = next(n for n in model.graph.node if n.op_type == "IsNaN")
    turned = onnx.helper.make_node("Transpose", [guard.input[0]], ["turned"], perm=[0, 1, 3, 2])
    model.graph.node.insert(list(model.graph.node).index(guard), turned)
    guard.input[0] = "turned"
    assert rewrite(model, options=Options(verify=False)).model is None


def test_a_bias_and_a_padding_that_share_a_factor() -> None:
    """Two slopes make a line over the heads.  65504 * mask - 0.0625 * mask is one term, a little below 65504."""
    spelling = Spelling(bias="maskpos", causal="add", padding="additive", cache=True, heads=2, half=True)
    verdict = attack(spelling)
    assert verdict.kind == "fused", verdict
    assert slopes_match(spelling, verdict.slopes)


def test_a_bias_of_many_parts() -> None:
    """Lengths, masks and a distance that are each read through several operators: one expression of 2,600 parts."""
    spelling = Spelling(
        opset=21,
        layout="einsum",
        scale="input",
        bias="maxmin",
        negate="sub",
        slopes="pieces",
        slope_rank=4,
        causal="constant",
        padding="gather-flat",
        hide="1e9",
        order="one-tensor",
        cache=True,
        query_start="slice",
        swap=True,
        layers=2,
        share=False,
        present=True,
        dead=True,
        unpack="slice",
        where=0.11946338279151247,
        seed=933260662,
    )
    verdict = attack(spelling)
    assert verdict.kind == "fused", verdict
    assert slopes_match(spelling, verdict.slopes)


REFUSED_ONCE = {
    "a floor under the masks of six heads": Spelling(
        bias="per-head", slope_rank=1, causal="none", padding="gathernd", heads=6, scale="before-div", floor=True
    ),
    "a floor under two masks": Spelling(
        bias="per-head", slopes="equal", causal="float-bool", padding="expanded", order="mask-first", floor=True
    ),
    "slopes clipped at zero, in float16": Spelling(
        slopes="clipped", slope_rank=1, causal="not-greater", padding="where", order="mask-first", half=True
    ),
    "positions that share a factor with the mask, in float16": Spelling(
        bias="maskpos", slope_rank=4, causal="none", padding="additive", cache=True, heads=1, half=True, twice=True
    ),
    "two masks of infinities, one in place of the score": Spelling(
        bias="tril-sum", slopes="equal", padding="expanded", hide="inf", heads=1
    ),
}


@pytest.mark.parametrize("name", REFUSED_ONCE)
def test_true_models_that_were_refused(name: str) -> None:
    spelling = generator.repair(REFUSED_ONCE[name])
    verdict = attack(spelling)
    assert verdict.kind == "fused", verdict
    assert slopes_match(spelling, verdict.slopes)


def test_every_near_miss_is_written_by_something() -> None:
    modules = (distance, inputs, masks, positions, scores, slopes, tables)
    found = [t for m in modules for n, t in vars(m).items() if n.isupper() and isinstance(t, dict | frozenset)]
    chosen = {"finite-mask", "one-sided"}  # made of choices that no true model has together
    assert {name for table in found for name in table} | chosen == set(MISSES)
