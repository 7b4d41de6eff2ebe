"""Mutations of true models are refused, or reported as what they have become, and not fused into something else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from generator import BUFFER, SYMMETRIC, Spelling, attack, build, difference, repair, reported_slopes, told, tolerance
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

QUICK = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
TABLES = ("table1", "table1-end", "table2", "table2-linear", "gather", "gather-linear")


def table_of(model: ModelProto) -> int:
    """Index of the largest float initializer: the bias table."""
    sizes = [int(np.prod(t.dims)) if t.data_type == 1 else 0 for t in model.graph.initializer]
    return int(np.argmax(sizes))


@given(bias=st.sampled_from(TABLES), entry=st.integers(0, 10**9), by=st.sampled_from([1e-3, -0.5, 4.0]))
@QUICK
def test_one_wrong_entry(bias: str, entry: int, by: float) -> None:
    """A single wrong entry anywhere in a table refuses the site, used or not."""
    model = build(Spelling(bias=bias, causal="none"))
    place = table_of(model)
    data = numpy_helper.to_array(model.graph.initializer[place]).copy()
    assert data.size >= BUFFER
    data.reshape(-1)[entry % data.size] += by
    model.graph.initializer[place].CopyFrom(numpy_helper.from_array(data, model.graph.initializer[place].name))
    assert rewrite(model, options=Options(verify=False)).model is None


@given(bias=st.sampled_from(TABLES), seed=st.integers(0, 10**6), size=st.sampled_from([1e-4, 1e-3, 1e-1]))
@QUICK
def test_noise(bias: str, seed: int, size: float) -> None:
    """A table with noise is a learned bias, not ALiBi."""
    model = build(Spelling(bias=bias, causal="none"))
    place = table_of(model)
    data = numpy_helper.to_array(model.graph.initializer[place])
    noisy = (data + np.random.default_rng(seed).normal(0, size, data.shape)).astype(np.float32)
    model.graph.initializer[place].CopyFrom(numpy_helper.from_array(noisy, model.graph.initializer[place].name))
    assert rewrite(model, options=Options(verify=False)).model is None


@given(
    bias=st.sampled_from(SYMMETRIC),
    miss=st.sampled_from(["clip", "mod", "quadratic", "bucket", "grid"]),
    where=st.floats(0, 0.95),
    causal=st.sampled_from(["none", "where"]),
)
@QUICK
def test_bent_distance(bias: str, miss: str, where: float, causal: str) -> None:
    """Any other function of the distance is refused, also one that differs only far away."""
    spelling = repair(Spelling(bias=bias, miss=miss, where=where, causal=causal))
    assert attack(spelling).kind == "refused", told(spelling)


@given(
    factor=st.sampled_from([-1.0, 0.0, 0.5, 2.0, 1.01]), cache=st.booleans(), negate=st.sampled_from(["slope", "bias"])
)
@QUICK
def test_one_side_of_the_distance(factor: float, cache: bool, negate: str) -> None:
    """Another factor on later keys is refused unless that makes it j - i, which is linear."""
    model = build(Spelling(bias="where", causal="none", cache=cache, negate=negate))
    where = next(n for n in model.graph.node if n.op_type == "Where")
    after = where.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "mutant"))
    place = list(model.graph.node).index(where)
    chain = [
        helper.make_node("Cast", [after], ["after.float"], to=1),
        helper.make_node("Mul", ["after.float", "mutant"], ["after.mutant"]),
        helper.make_node("Cast", [where.input[2]], ["before.float"], to=1),
    ]
    where.input[1], where.input[2] = "after.mutant", "before.float"
    for step, node in enumerate(chain):
        model.graph.node.insert(place + step, node)
    result = rewrite(model, options=Options(verify=False))
    if factor != -1.0:
        assert result.model is None
    elif result.model is not None:
        spelling = Spelling(bias="where", causal="none", cache=cache)
        assert difference(spelling, model, result.model).error <= tolerance(spelling)
        assert "symmetric" not in {f.variant.form for _, f in result.fused}


PERMUTATIONS = (
    *((0, 1, 2), (2, 1, 0), (3, 2, 1, 0), (1, 0), (5, 4, 3, 2, 1, 0)),
    *((1, 0, 2), (1, 2, 0), (2, 0, 3, 1)),  # in no even steps
)


@pytest.mark.parametrize("causal", ["none", "where"])
@pytest.mark.parametrize("permutation", PERMUTATIONS)
def test_permuted_heads(permutation: tuple[int, ...], causal: str) -> None:
    """Heads of the bias in another order: the reported slopes follow."""
    spelling = Spelling(heads=len(permutation), causal=causal)
    model = build(spelling)
    (before,) = reported_slopes(rewrite(model, options=Options(verify=False)))
    changed = copy.deepcopy(model)
    place, bias = next((i, n) for i, n in enumerate(changed.graph.node) if n.op_type == "Mul")
    changed.graph.initializer.append(numpy_helper.from_array(np.array(permutation), "permutation"))
    name = bias.output[0]
    bias.output[0] = "ordered"
    changed.graph.node.insert(place + 1, helper.make_node("Gather", ["ordered", "permutation"], [name], axis=0))
    result = rewrite(changed, options=Options(verify=False))
    assert result.model is not None
    (after,) = reported_slopes(result)
    assert before is not None and after is not None
    np.testing.assert_allclose(after, before[list(permutation)], rtol=1e-6)
    assert difference(spelling, changed, result.model).error <= tolerance(spelling)


@pytest.mark.parametrize("bias", SYMMETRIC)
@pytest.mark.parametrize("causal", ["none", "where"])
def test_offset_without_the_cache(bias: str, causal: str) -> None:
    """Query positions that forget the cache are refused, since the distance has its kink at another key."""
    assert attack(Spelling(bias=bias, causal=causal, cache=True, miss="offset")).kind == "refused"


@pytest.mark.parametrize("bias", SYMMETRIC)
def test_offset_with_the_cache(bias: str) -> None:
    """Query positions that count the cache are recognised without a causal mask as well."""
    verdict = attack(Spelling(bias=bias, causal="none", cache=True))
    assert verdict.kind == "fused", verdict.detail


def test_swapped_subtraction_in_the_offset() -> None:
    """S_q - S_kv instead of S_kv - S_q as the first query's position is refused."""
    model = build(Spelling(causal="none", cache=True, query_start="total-minus-new"))
    offset = next(n for n in model.graph.node if n.op_type == "Sub")
    assert rewrite(model, options=Options(verify=False)).model is not None
    offset.input[0], offset.input[1] = offset.input[1], offset.input[0]
    assert rewrite(model, options=Options(verify=False)).model is None


@given(
    causal=st.sampled_from(["where", "trilu", "lessequal", "constant", "add"]),
    bias=st.sampled_from(["j", "j-i", "table1"]),
)
@QUICK
def test_causal_offset(causal: str, bias: str) -> None:
    """A causal mask that forgets the cache is another mask.  It is kept or refused, and never taken for causality."""
    spelling = repair(Spelling(causal=causal, bias=bias, cache=True, miss="causal-offset"))
    result = rewrite(build(spelling), options=Options(verify=False))
    assume(result.model is not None)
    assert not any(f.variant.causal for _, f in result.fused)
    assert difference(spelling, build(spelling), result.model).error <= tolerance(spelling)


@pytest.mark.parametrize("bias", ["abs", "j", "table2"])
def test_extra_consumers(bias: str) -> None:
    """The bias may be an output as well; scores and probabilities may not."""
    assert attack(Spelling(bias=bias, output_bias=True)).kind == "fused"
    for miss in ("scores", "probabilities"):
        verdict = attack(Spelling(bias=bias, miss=miss))
        assert (verdict.kind, verdict.code) == ("refused", "ALB120")
