"""The kernels in Triton's interpreter against float64: a fast subset of ``sweep.py``, in a process of its own."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adversarial import FAST, every_trial
from alibi_rewriter.fused.family import KERNEL_MEMBERS
from buffers import Buffer, bfloat16_bits, bfloat16_values
from cases import DTYPES, FAST_LONG_DECODES, LONG_DECODE, PATHS, covering, long_decode
from poisoned import poisoned_trials, sees
from slow import BESIDE, SLOW

SWEEP = Path(__file__).with_name("sweep.py")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the interpreter is Triton's, which is not installed"
)


def sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    """TRITON_INTERPRET is read when Triton is imported, so the kernels run in a process of their own."""
    command = [sys.executable, str(SWEEP), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)


@needs_triton
@pytest.mark.parametrize(
    ("group", "count"),
    [
        pytest.param("samples", None, marks=BESIDE),
        pytest.param("decode", len(FAST_LONG_DECODES), marks=SLOW),
        pytest.param("skipping", 8, marks=BESIDE),
        *(("unfused", 6), ("blocks", 12)),
        pytest.param("hidden", 7, marks=BESIDE),
    ],
)
def test_kernels_against_float64(group: str, count: int | None) -> None:
    if count is None:  # seconds of work, which only the worker that runs this needs to do
        count = len(covering())
    done = sweep("--fast", "--only", group)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{count} checks, 0 failed" in done.stdout


@needs_triton
@SLOW
def test_every_member_that_hides_keys_hides_what_they_hold() -> None:
    done = sweep("--only", "hidden")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "75 checks, 0 failed" in done.stdout


@needs_triton
def test_checks_are_shared_out_among_processes() -> None:
    done = sweep("--fast", "--only", "samples", "--step", "36", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{-(-len(covering()) // 36)} checks, 0 failed" in done.stdout


def test_the_fast_subset_has_one_of_everything() -> None:
    found = {trait for item, path, splits in covering() for trait in item.traits(path, splits)}
    for role in ("prefill", "decode", "decode_split"):
        wanted = {
            *(v.op_type for v in KERNEL_MEMBERS if not (v.key_bias or v.window or v.lengths)),
            "causal", "linear", "symmetric", "mask none",
            "mask boolean", "mask additive", "mask rows True", "mask rows False", "BHSD", "BSHD", *DTYPES,
            "positions True", "positions False", "key bias True", "window (True, True)", "window (False, True)",
            "lengths True, from the first key True", "lengths True, from the first key False",
            *(f"{form}, several rows True" for form in ("causal", "linear", "symmetric")),
        }  # fmt: skip
        assert {f"{role}: {trait}" for trait in wanted} <= found
    assert {
        f"{variant.op_type} {'' if variant.key_bias or variant.window or variant.lengths else dtype}"
        for variant in KERNEL_MEMBERS
        for dtype in DTYPES
    } <= found
    assert {f"mask of {dtype}" for dtype in ("bool", *DTYPES)} <= found
    for trait in ("grouped", "more rows than keys", "D_v is D", "a slope is not positive"):
        assert {f"{trait} True", f"{trait} False"} <= found
    assert {f"rows without keys {yields}" for yields in ("mean", "zero", "none")} <= found
    assert {"chunks of head 1", "chunks of head 2"} <= found


def test_the_fast_long_decodes_have_one_of_everything() -> None:
    entries = [LONG_DECODE[index] for index in FAST_LONG_DECODES]
    assert {entry[6] for entry in entries} == {"causal", "linear", "symmetric"}
    assert {long_decode(index, DTYPES[index % 3]).dtype for index in FAST_LONG_DECODES} == set(DTYPES)
    assert {str(entry[7]).split()[0] for entry in entries} == {"none", "additive", "all", "left"}
    assert {entry[8] for entry in entries} == {True, False}
    assert {min(entry[4] // 256, 128) for entry in entries} >= {65, 128}


def test_the_fast_skipping_inputs_have_both_forms_and_all_types() -> None:
    chosen = list(itertools.islice(every_trial(), 0, None, FAST))
    assert {dtype for _, _, dtype, _ in chosen} == set(DTYPES)
    assert {case.symmetric for _, case, _, _ in chosen} == {True, False}


def test_the_fast_hidden_keys_hold_everything_in_every_kernel() -> None:
    chosen = list(itertools.islice(poisoned_trials(), 0, None, 11))
    assert {(path, splits) for _, path, splits, _, _ in chosen} == set(PATHS)
    assert {item.dtype for item, _, _, _, _ in chosen} == set(DTYPES)
    assert {str(held) for _, _, _, _, held in chosen} == {"nan", "inf", "-inf"}
    assert all(bad.any() for _, _, _, bad, _ in chosen)
    # Some are seen by some rows: those must show them.
    assert any((sees(item.case) & bad[:, :1, None]).any() for item, _, _, bad, _ in chosen)


def test_a_buffer_is_what_the_interpreter_takes_for_a_tensor() -> None:
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    plain, interleaved = Buffer.of(values, "float16"), Buffer.of(values, "float16", "BSHD")
    assert plain.stride() == (24, 12, 4, 1)
    assert interleaved.stride() == (24, 4, 8, 1)
    assert plain.size() == interleaved.shape == (1, 2, 3, 4)
    np.testing.assert_array_equal(plain.values, interleaved.values)
    view = plain.new_empty(0, device="cpu")
    view.set_(plain.untyped_storage(), plain.storage_offset(), plain.size(), plain.stride())
    assert view.data_ptr() == plain.data_ptr()
    with pytest.raises(ValueError, match="not its own"):
        plain.untyped_storage().copy_(interleaved.untyped_storage())


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    one = 2.0**-8
    values = np.array([1.0, 1 + one, 1 + 3 * one, 1 + 1.01 * one, -1 - one, np.inf, -np.inf, 3.4e38, np.nan, 1e-45])
    rounded = bfloat16_values(bfloat16_bits(values))
    wanted = [1.0, 1.0, 1 + 4 * one, 1 + 2 * one, -1.0, np.inf, -np.inf, np.inf, np.nan, 0.0]
    np.testing.assert_array_equal(rounded, np.asarray(wanted, np.float32))
