"""Caches in place: what becomes of models, and what is left as it is, with a reason."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from alibi_rewriter import Options, rewrite
from alibi_rewriter.base.errors import ExitCode, NotRewritten, UsageError
from alibi_rewriter.graph.note import read_cache
from alibi_rewriter.rewriter import pipeline
from alibi_rewriter.verify.verification import skipped
from cached_models import CACHES, D, F, H, decoder
from generator import build, repair, sample, told
from onnx import helper, numpy_helper

FAST = {"verify": False, "probe": False}


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == "alibi"]


def shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    entries = [*model.graph.input, *model.graph.output]
    return {e.name: [d.dim_value or d.dim_param for d in e.type.tensor_type.shape.dim] for e in entries}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", CACHES)
def test_a_cache_becomes_a_buffer_and_is_verified_step_by_step(layout: str, masked: bool) -> None:
    done = rewrite(decoder(layout, masked=masked), cache="in-place", verify_on="cpu")
    assert done.exit_code is ExitCode.DONE
    assert done.verification is not None
    assert done.verification.status == "passed"
    assert sum(one.name.startswith("in place: ") for one in done.verification.sets) >= 6
    assert done.verification.power is not None
    killed = {m.kind for m in done.verification.power.mutants if m.verdict == "killed"}
    assert {"key_lengths_one_less", "appended_one_row_early", "appended_rows_not_read", "one_length_for_all"} <= killed
    assert not done.verification.power.weak
    model = done.model
    assert kinds(model) == ["AlibiCacheAppend", "AlibiAttentionCausalLengths"]
    buffer = ["B" if layout != "merged" else "N", H, "capacity", D]
    found = shapes(model)
    names = ("past_k", "past_v", "present_k", "present_v")
    assert [found[name] for name in names] == [buffer] * 4
    assert found["key_lengths"] == [buffer[0]]
    assert ("attention_mask" in found) is False
    assert done.cache is not None
    assert done.cache.removed == (("attention_mask",) if masked else ())
    onnx.checker.check_model(model)


def test_a_cache_that_cannot_be_run_step_by_step_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the model which it is made of was compared says nothing of the cache."""
    monkeypatch.setattr(pipeline, "compare_steps", lambda *_: skipped("no memory"))
    done = rewrite(decoder(), cache="in-place")
    assert done.exit_code is ExitCode.NOT_VERIFIED
    assert done.verification is not None and done.verification.status == "skipped"
    assert done.verification.skipped_reason == "the cache in place could not be run step by step: no memory"


def test_new_keys_and_values_are_read_from_the_projection() -> None:
    model = rewrite(decoder(), cache="in-place", **FAST).model
    append = next(node for node in model.graph.node if node.op_type == "AlibiCacheAppend")
    attention = next(node for node in model.graph.node if node.op_type == "AlibiAttentionCausalLengths")
    assert [*append.input] == ["past_k", "past_v", "qkv", "qkv", "key_lengths"]
    assert attention.input[0] == "qkv"
    assert [node.op_type for node in model.graph.node] == [
        "MatMul", "AlibiCacheAppend", "AlibiAttentionCausalLengths", "MatMul",
    ]  # fmt: skip


def test_the_capacity_is_declared_if_it_is_given() -> None:
    done = rewrite(decoder(), cache="in-place=64", **FAST)
    assert shapes(done.model)["past_k"] == ["B", H, 64, D]
    assert done.cache is not None
    assert done.cache.capacity == 64
    held = read_cache({entry.key: entry.value for entry in done.model.metadata_props})
    assert held is not None
    assert held.lengths == "key_lengths"
    assert held.buffers == (("past_k", "present_k"), ("past_v", "present_v"))


def test_bodies_may_take_the_place_of_the_nodes() -> None:
    done = rewrite(decoder(masked=True), cache="in-place", inline=True)
    assert done.exit_code is ExitCode.DONE
    assert kinds(done.model) == []
    assert not done.model.functions


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    model = decoder(tail="\n   key_lengths = Identity(y)", more=", float[B,S,12] key_lengths")
    done = rewrite(model, cache="in-place")
    assert done.cache is not None
    assert done.cache.lengths == "key_lengths_2"


def test_extents_besides_the_length_may_be_asked_for() -> None:
    tail = "\n   batch = Shape<start=0, end=1>(past_k)\n   all = Shape(past_v)\n   h = Gather(all, one)"
    model = decoder(tail=tail, more=", int64[1] batch, int64 h")
    assert rewrite(model, cache="in-place").exit_code is ExitCode.DONE


@pytest.mark.parametrize(
    ("tail", "more", "said"),
    [
        ("\n   n = Shape<start=2, end=3>(past_k)", ", int64[1] n", "needs the length of a growing cache"),
        ("\n   n = Shape(present_v)", ", int64[4] n", "needs the length of a growing cache"),
        ("\n   n = ReduceSum(present_k)", ", float[1,1,1,1] n", "needs the length of a growing cache"),
        ("\n   n = Cast<to=1>(attention_mask)", ", float[B,T] n", "this still reads it"),
    ],
)
def test_what_needs_the_length_of_the_cache_is_named(tail: str, more: str, said: str) -> None:
    with pytest.raises(NotRewritten, match=said):
        rewrite(decoder(masked=True, tail=tail, more=more), cache="in-place", **FAST)


def test_a_mask_that_hides_for_another_reason_is_named() -> None:
    model = decoder()
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.input.append(helper.make_tensor_value_info("added", 1, ["B", 1, 1, "T"]))
    place = list(model.graph.node).index(softmax)
    model.graph.node.insert(place, helper.make_node("Add", [softmax.input[0], "added"], ["with_more"]))
    softmax.input[0] = "with_more"
    with pytest.raises(NotRewritten, match="needs a mask of zeros where nothing is padded"):
        rewrite(model, cache="in-place", **FAST)


@pytest.mark.parametrize("end", [-1, 5])
def test_an_attention_to_a_part_of_the_cache_is_told(end: int) -> None:
    """What is cut off at the end would be attended in the buffer."""
    model = decoder()
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([number]), name) for name, number in (("from", 0), ("to", end), ("along", 2))
    )
    for name in ("present_k", "present_v"):
        reader = next(node for node in model.graph.node if name in node.input)
        place = list(model.graph.node).index(reader)
        model.graph.node.insert(place, helper.make_node("Slice", [name, "from", "to", "along"], [f"{name}_part"]))
        reader.input[0] = f"{name}_part"
    assert "AlibiAttentionCausal" in kinds(rewrite(model, **FAST).model)
    with pytest.raises(NotRewritten, match="'present_k': it is not known that all keys in it are attended"):
        rewrite(model, cache="in-place", **FAST)


def test_a_padding_mask_that_is_an_output_is_told() -> None:
    model = decoder(masked=True, more=", int64[B,T] attention_mask")
    with pytest.raises(NotRewritten, match="output 'attention_mask'"):
        rewrite(model, cache="in-place", **FAST)


def test_a_past_that_is_computed_is_told() -> None:
    model = decoder()
    next(entry for entry in model.graph.input if entry.name == "past_k").name = "given_k"
    model.graph.node.insert(0, helper.make_node("Neg", ["given_k"], ["past_k"]))
    with pytest.raises(NotRewritten, match="no input of the model"):
        rewrite(model, cache="in-place", **FAST)


def test_a_present_that_is_not_handed_out_is_told() -> None:
    model = decoder()
    model.graph.output.remove(next(e for e in model.graph.output if e.name == "present_v"))
    with pytest.raises(NotRewritten, match="no output of the model"):
        rewrite(model, cache="in-place", **FAST)


def test_a_rewritten_file_is_not_taken_twice() -> None:
    once = rewrite(decoder(), **FAST).model
    with pytest.raises(UsageError, match=r"rewritten before\. Give --cache with the original model"):
        rewrite(once, cache="in-place", **FAST)


@pytest.mark.parametrize("word", ["in place", "in-place=", "in-place=0", "in-place=-1", "in-place=99999999", "static"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="neither grows nor in-place"):
        rewrite(decoder(), cache=word)


def test_nothing_changes_without_being_asked() -> None:
    plain, named = rewrite(decoder(), **FAST).model, rewrite(decoder(), cache="grows", **FAST).model
    assert plain.SerializeToString() == named.SerializeToString()
    assert kinds(plain) == ["AlibiAttentionCausal"]


def test_equal_input_gives_equal_bytes() -> None:
    first, second = (rewrite(decoder(masked=True), cache="in-place=32", **FAST).model for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_one_memory_for_past_and_present() -> None:
    model = rewrite(decoder(), cache="in-place", **FAST).model
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((2, 1, F)).astype(np.float32),
        "past_k": np.zeros((2, H, 8, D), np.float32), "past_v": np.zeros((2, H, 8, D), np.float32),
        "key_lengths": np.array([1, 3], np.int64),
    }  # fmt: skip
    apart = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("present_k", values["past_k"])
    binding.bind_ortvalue_output("present_v", values["past_v"])
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(binding.get_outputs()[2].numpy(), apart["y"], atol=1e-6)
    np.testing.assert_array_equal(values["past_k"].numpy(), apart["present_k"])


SEEDS = range(5)
"""Random decoders in many spellings; most can be held in place, the others say why not."""


def spelled(seed: int) -> tuple[str, onnx.ModelProto]:
    drawn = sample(random.Random(seed))
    spelling = repair(replace(drawn, cache=True, layers=1, output_bias=False, body=False, static=False))
    model = build(spelling)
    given = {output.name for output in model.graph.output}
    types = {entry.name: entry.type.tensor_type.elem_type for entry in model.graph.input}
    for node in model.graph.node:
        joins = node.op_type == "Concat" and len(node.input) == 2 and node.input[0] in ("past_key", "past_value")
        if joins and node.output[0] not in given:
            model.graph.output.append(helper.make_tensor_value_info(node.output[0], types[node.input[0]], None))
    return told(spelling), model


def test_random_decoders_are_held_in_place_or_say_why_not() -> None:
    held = 0
    for seed in SEEDS:
        spelling, model = spelled(seed)
        if "past_key" not in {entry.name for entry in model.graph.input}:
            continue
        try:
            done = rewrite(model, options=Options(in_place=True, probe=False))
        except NotRewritten as reason:
            assert "Leave out --cache" in str(reason), spelling
            continue
        assert done.exit_code is ExitCode.DONE, spelling
        held += 1
    assert held >= len(SEEDS) // 3
