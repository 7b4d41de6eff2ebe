"""The CPU kernels with key lengths against the oracle, and what lies behind the keys: it is neither used nor read."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.fused.family import BY_OP_TYPE, KERNEL_MEMBERS, Alignment, EmptyRows, FusedAttention, Variant
from alibi_rewriter.runtime.session import InferenceSession, claimed_nodes
from nodes import Arrays, Sizes, answer, error, feeds, model, session
from slow import SLOW, THOROUGH
from test_kernels import FLOAT32, ROUNDING, SETS, run, sets

__all__ = ["sets"]

WITH_LENGTHS = [member for member in KERNEL_MEMBERS if member.lengths]
LENGTHS = {
    "ragged": [0, 1, 33, 150],
    "one long": [3, 2, 150, 1],
    "none": [0, -5, 0, 0],
    "beyond": [151, 1 << 40, 64, -(1 << 40)],
}


def node(variant: Variant, number: int, rows: Alignment) -> FusedAttention:
    window = ((7, -1), (20, 5), (0, 0), (-1, 3))[number % 4] if variant.window else (-1, -1)
    return FusedAttention(variant, 0.25, list(EmptyRows)[number % 2], *window, rows=rows)


def given_for(variant: Variant, rows: int, lengths: list[int], dtype: str = "float32", keys: int = 150) -> Arrays:
    mask = ("bk", "bhqk", "q", "k")[rows % 4]
    sizes = Sizes(rows, keys, 20, 24, batch=len(lengths), heads=4, kv_heads=2, mask=mask)
    return {**feeds(variant, sizes, np.random.default_rng(rows), dtype), "key_lengths": np.array(lengths)}


@pytest.mark.parametrize("variant", WITH_LENGTHS, ids=lambda variant: variant.op_type)
@pytest.mark.parametrize("rows", [1, pytest.param(3, marks=SLOW), pytest.param(5, marks=SLOW), 40])
def test_batches_of_every_length(variant: Variant, rows: int) -> None:
    number = WITH_LENGTHS.index(variant) + rows
    for step, lengths in enumerate(LENGTHS.values()):
        # The oracle takes its time: of many rows, each variant has some.
        if rows == 40 and (step + number) % 4:
            continue
        for aligned in Alignment:
            item = node(variant, number + step, aligned)
            made = session(model(item))
            assert claimed_nodes(made).claimed == 1
            given = given_for(variant, rows, lengths)
            found = made.run(None, given)[0]
            assert error(found, answer(item, given), given) < FLOAT32, (item, lengths)
            empty = [length <= 0 for length in lengths]
            assert not found[empty].any()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_every_type_and_instruction_set(sets: ctypes.CDLL, name: str, dtype: str) -> None:
    if not sets.alibiUseInstructionSet(name.encode()):
        pytest.skip(f"this machine has no {name}")
    for number, variant in enumerate(WITH_LENGTHS[::2]):
        for rows in (2, 33):
            item = node(variant, number, list(Alignment)[number % 2])
            given = given_for(variant, rows, LENGTHS["ragged"], dtype)
            found = run(InferenceSession(model(item, dtype)), given, dtype)
            assert error(found, answer(item, given), given) < ROUNDING[dtype], item


@pytest.mark.parametrize("aligned", list(Alignment))
@pytest.mark.parametrize("rows", [1, 4, 5, 70])
@pytest.mark.parametrize("variant", WITH_LENGTHS, ids=lambda variant: variant.op_type)
def test_nan_behind_the_keys_changes_no_bit(variant: Variant, rows: int, aligned: Alignment) -> None:
    for number, dtype in enumerate(("float32", "float16")):
        # The types differ in how a number is read: the fast suite takes them by turns.
        if not THOROUGH and number != (WITH_LENGTHS.index(variant) + rows + list(Alignment).index(aligned)) % 2:
            continue
        item = node(variant, rows + number, aligned)
        made = session(model(item, dtype))
        given = given_for(variant, rows, LENGTHS["ragged"], dtype)
        clean = run(made, given, dtype)
        behind = np.arange(150) >= given["key_lengths"][:, None]
        for name in ("key", "value"):
            given[name] = np.where(behind[:, None, :, None], np.nan, given[name]).astype(given[name].dtype)
        if variant.mask == "additive":
            mask = np.broadcast_to(given["mask"], (4, *given["mask"].shape[1:3], 150))
            given["mask"] = np.where(behind[:, None, None, :], np.nan, mask).astype(np.float32)
        assert run(made, given, dtype).tobytes() == clean.tobytes()


@pytest.mark.parametrize("rows", [1, 70])
def test_one_length_for_all_batches(rows: int) -> None:
    variant = BY_OP_TYPE["AlibiAttentionCausalLengths"]
    item = node(variant, 0, Alignment.LAST)
    given = given_for(variant, rows, [77] * 3)
    session = InferenceSession(model(item))
    each = session.run(None, given)[0]
    assert session.run(None, {**given, "key_lengths": np.array([77])})[0].tobytes() == each.tobytes()


@pytest.mark.parametrize("rows", [1, 70, 700])
def test_full_batches_are_those_of_the_member_without_lengths(rows: int) -> None:
    """To the bit: the work is cut and summed up alike.  With a long sequence, so that blocks are skipped."""
    for name in ("Causal", "Symmetric", "LinearWindow"):
        variant, plain = BY_OP_TYPE[f"AlibiAttention{name}Lengths"], BY_OP_TYPE[f"AlibiAttention{name}"]
        given = given_for(variant, rows, [1500, 1500], keys=1500)
        wanted = InferenceSession(model(node(plain, 0, Alignment.LAST))).run(
            None, {name: given[name] for name in plain.inputs}
        )[0]
        found = InferenceSession(model(node(variant, 0, Alignment.LAST))).run(None, given)[0]
        assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("rows", [1, 40, 600])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_lies_behind_the_keys_is_not_read(rows: int, dtype: str) -> None:
    """The pages behind the last key may not be touched; where the length says more keys, they are."""
    script = str(Path(__file__).with_name("behind.py"))
    for keys, ended in ((4096, 0), (4097, -signal.SIGSEGV)):
        done = subprocess.run([sys.executable, script, str(rows), dtype, str(keys)], check=False, capture_output=True)
        assert done.returncode == ended, done.stderr.decode()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(2, np.int64), "key_lengths is [2], which does not fit [4]"),
        (np.zeros((4, 1), np.int64), "key_lengths has 2 dimensions instead of 1"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(array: np.ndarray, said: str) -> None:
    variant = BY_OP_TYPE["AlibiAttentionCausalLengths"]
    loose = onnx.load_model_from_string(model(node(variant, 0, Alignment.LAST)))
    for value in loose.graph.input:
        value.type.tensor_type.ClearField("shape")
    session = InferenceSession(loose.SerializeToString())
    with pytest.raises(Exception, match="AlibiAttentionCausalLengths") as caught:
        session.run(None, {**given_for(variant, 3, [1, 2, 3, 4]), "key_lengths": array})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("op_type", "rows", "said"),
    [
        ("AlibiAttentionCausalLengths", None, "rows is neither 'last' nor 'first'"),
        ("AlibiAttentionCausalLengths", "middle", "rows is neither 'last' nor 'first'"),
        ("AlibiAttentionCausal", "last", "it has no rows"),
    ],
)
def test_an_alignment_that_is_none_is_refused(op_type: str, rows: str | None, said: str) -> None:
    made = onnx.load_model_from_string(model(FusedAttention(BY_OP_TYPE[op_type], 1.0)))
    kept = [attribute for attribute in made.graph.node[0].attribute if attribute.name != "rows"]
    del made.graph.node[0].attribute[:]
    made.graph.node[0].attribute.extend(kept)
    if rows is not None:
        made.graph.node[0].attribute.append(onnx.helper.make_attribute("rows", rows))
    with pytest.raises(Exception, match=said):
        InferenceSession(made.SerializeToString())
