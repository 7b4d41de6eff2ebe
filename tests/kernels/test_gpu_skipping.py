"""Certified skipping where masks, biases and positions differ by key, on a device.

``python tests/kernels/test_gpu_skipping.py <arch> [<part> <parts>]`` fills the cache of bundles for these tests.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
from adversarial import VECTORS, allowed, vector_of
from alibi_rewriter.kernels.compile.cache import cached_bundle
from alibi_rewriter.kernels.compile.compiler import Worker
from alibi_rewriter.kernels.launch.launcher import Bundle
from alibi_rewriter.kernels.requests import BufferLayout
from cases import Trial, rounded
from reference import Case, attend, visible
from test_gpu import CACHE, as_seen, launch, loaded, needs_device

pytestmark = pytest.mark.gpu

PLAIN = (BufferLayout(),)
SIZES = (
    # S_q, S_kv, D, heads, key heads
    (3400, 3400, 64, 4, 4),
    (700, 3900, 128, 4, 2),
    (3300, 3300, 256, 2, 2),
)  # fmt: skip
TRIALS = tuple(
    (kind, dtype, symmetric, SIZES[(index + symmetric) % len(SIZES)])
    for index, kind in enumerate(VECTORS)
    for symmetric in (False, True)
    for dtype in (("bfloat16", "float16")[(index + symmetric) % 2], *(("float32",) if index % 4 == 0 else ()))
    if not (symmetric and kind.startswith(("positions", "both")))
)
"""Every kind of vector in both forms, on the Hopper kernel and on the portable one."""


@pytest.fixture(scope="module")
def worker() -> Any:
    """One compiling process for all tests of this module."""
    with Worker() as running:
        yield running


def trial(index: int) -> Trial:
    """The numbered entry of TRIALS: a steep slope, a flat one, and some between."""
    kind, dtype, symmetric, (s_q, s_kv, depth, heads, kv_heads) = TRIALS[index]
    rng = np.random.default_rng(index)
    shapes = ((2, heads, s_q, depth), (2, kv_heads, s_kv, depth), (2, kv_heads, s_kv, depth))
    query, key, value = (rounded(rng.standard_normal(shape), dtype) for shape in shapes)
    vector = vector_of(kind, rng, s_kv)
    if "key_bias" in vector:
        vector["key_bias"] = np.repeat(vector["key_bias"], heads // 2, axis=1)
    of_mask = None
    if "mask" in vector:
        of_mask = "bool" if vector["mask"].dtype == bool else dtype
        if of_mask != "bool":
            # What the type has room for; hiding stays hiding.
            limit = float(np.finfo(np.float16).max) if dtype == "float16" else 3.3895313892515355e38
            bounded = np.where(np.isfinite(vector["mask"]), np.clip(vector["mask"], -limit, limit), vector["mask"])
            vector["mask"] = rounded(bounded, dtype)
    slopes = np.array([0.7, 0.02, 0.2, 0.004], np.float32)[:heads]
    case = Case(query, key, value, slopes, depth**-0.5, symmetric, not symmetric, **vector)
    return Trial(f"{index}-{kind}-{symmetric}", as_seen(case, dtype), dtype, of_mask, "BHSD")


def both(item: Trial, worker: Worker) -> tuple[Bundle, Bundle]:
    """The kernels without skipping and with it, from one bundle."""
    skipping = loaded(item.request, PLAIN, worker, skip=True)
    kernels = tuple(kernel for kernel in skipping.description.kernels if "-skip" not in kernel.name)
    assert len(kernels) < len(skipping.description.kernels)
    return Bundle(skipping.directory, dataclasses.replace(skipping.description, kernels=kernels)), skipping


@needs_device
@pytest.mark.parametrize("index", range(len(TRIALS)))
def test_what_is_skipped_hardly_weighs(index: int, worker: Worker) -> None:
    item = trial(index)
    plain, less = (launch(each, item.case, item.dtype, item.mask_dtype, "BHSD") for each in both(item, worker))
    assert (np.isnan(plain) == np.isnan(less)).all()
    assert np.nanmax(np.abs(plain - less)) <= allowed(item.case, item.dtype)


@needs_device
@pytest.mark.parametrize("index", [i for i, entry in enumerate(TRIALS) if entry[0] == "additive soft"])
def test_it_is_the_attention(index: int, worker: Worker) -> None:
    item = trial(index)
    output = launch(loaded(item.request, PLAIN, worker, skip=True), item.case, item.dtype, item.mask_dtype, "BHSD")
    wanted = attend(item.case)
    error = np.linalg.norm(output - wanted) / np.linalg.norm(wanted)
    assert error <= {"bfloat16": 5e-3, "float16": 1e-3, "float32": 1e-5}[item.dtype]


LEAVES_OUT = tuple(
    i for i, entry in enumerate(TRIALS)
    if entry[0] in ("boolean left", "lowest left", "infinite right", "bias soft", "positions left", "both left",
                          "lengths last") and entry[1] != "float32"
)  # fmt: skip


@needs_device
@pytest.mark.parametrize("index", LEAVES_OUT)
def test_something_is_left_out(index: int, worker: Worker) -> None:
    # A product of the Hopper kernel makes NaN of a weight of zero times NaN.  What is finite was not read.
    item = trial(index)
    place = 200
    value = item.case.value.copy()
    value[:, :, place] = np.nan
    spoilt = dataclasses.replace(item.case, value=value)
    assert visible(item.case)[:, :, -1, place].all()
    plain, less = (launch(each, spoilt, item.dtype, item.mask_dtype, "BHSD") for each in both(item, worker))
    # The steepest head, the last rows.
    assert np.isnan(plain[:, 0, -100:]).all()
    assert np.isfinite(less[:, 0, -100:]).all()


def fill(arch: int, part: int = 0, parts: int = 1) -> None:
    """Compiles the bundles that these tests need, or one of several parts of them."""
    needed = sorted({trial(index).request for index in range(len(TRIALS))}, key=str)
    with Worker() as running:
        for request in needed[part::parts]:
            cached_bundle(request, CACHE, [arch], layouts=PLAIN, skip=True, worker=running)


if __name__ == "__main__":
    fill(*(int(argument) for argument in sys.argv[1:]))
