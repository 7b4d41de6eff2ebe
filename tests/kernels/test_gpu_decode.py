"""Decode of long caches on a CUDA device, in one piece and in chunks; see test_gpu for what is around the buffers.

``python tests/kernels/test_gpu_decode.py <arch> [<part> <parts>]`` fills the cache of bundles for these tests.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from alibi_rewriter.kernels.compile.cache import bundle_name, cached_bundle
from alibi_rewriter.kernels.compile.compiler import SELECTION, Worker
from alibi_rewriter.kernels.launch.description import Description
from alibi_rewriter.kernels.launch.plan import Call, Plan, Tensor, make_plan
from cases import LONG_DECODE, Trial, long_decode, relative_error
from slow import SLOW
from test_gpu import CACHE, launch, layouts_of, loaded, needs_device, shown

DTYPES = ("bfloat16", "float16")
H200_MULTIPROCESSORS = 132

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def worker() -> Any:
    """One compiling process for all tests of this module."""
    with Worker() as running:
        yield running


def planned(description: Description, item: Trial, arch: int, multiprocessors: int) -> Plan:
    """The launches of the trial, for buffers at made-up addresses."""
    case = item.case

    def tensor(shape: tuple[int, ...], dtype: str, layout: str = "BHSD") -> Tensor:
        order = (0, 2, 1, 3) if layout == "BSHD" else range(len(shape))
        strides, step = [0] * len(shape), 1
        for axis in reversed(order):
            strides[axis] = step
            step *= shape[axis]
        return Tensor(1 << 20, dtype, shape, tuple(strides))

    query, key, value = (tensor(x.shape, item.dtype, item.layout) for x in (case.query, case.key, case.value))
    output = tensor((*case.query.shape[:3], case.value.shape[3]), item.dtype, item.layout)
    mask = None if case.mask is None else tensor(case.mask.shape, item.mask_dtype or "bool")
    positions = None if case.positions is None else tensor(case.positions.shape, "float32")
    slopes = tensor(case.slopes.shape, "float32")
    call = Call(query, key, value, output, slopes, case.scale, case.empty_mean, mask, positions)
    return make_plan(description, call, arch, multiprocessors)


def chunks_of(item: Trial, multiprocessors: int) -> int:
    """How many chunks there should be: enough for every multiprocessor, and each with at least the fewest keys.

    Two for each, with positions or a mask and 65 to 128 columns of 16 bits, where one for each is not all of them.
    """
    batch, heads, s_q, head_dim = item.case.query.shape
    kv_heads, s_kv = item.case.key.shape[1:3]
    programs = batch * kv_heads * -(-(heads // kv_heads * s_q) // 16)
    most = max(1, min(SELECTION.max_splits, s_kv // SELECTION.min_keys))
    chunks = max(1, min(most, multiprocessors // programs))
    more = item.case.mask is not None or item.case.positions is not None
    if chunks > 1 and more and 64 < max(head_dim, item.case.value.shape[3]) <= 128 and item.dtype != "float32":
        return min(most, 2 * multiprocessors // programs)
    return chunks


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", range(len(LONG_DECODE)))
def test_long_caches(index: int, dtype: str, worker: Worker) -> None:
    item = long_decode(index, dtype)
    bundle = loaded(item.request, layouts_of(item), worker)
    plan = planned(bundle.description, item, bundle.arch, bundle.multiprocessors)
    chunks = chunks_of(item, bundle.multiprocessors)
    roles = [step.kernel.role for step in plan.launches]
    assert roles == (["decode_split", "combine"] if chunks > 1 else ["decode"])
    assert plan.launches[0].grid[2] == chunks
    output = launch(bundle, item.case, dtype, item.mask_dtype, item.layout)
    assert relative_error(item, output) <= 1.0
    shown(item.request)


@needs_device
@pytest.mark.parametrize("chunks", [1, 2, 3, 64, 65, 127, 128])
def test_any_number_of_chunks(chunks: int, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    item = long_decode(11, "bfloat16")
    bundle = loaded(item.request, layouts_of(item), worker)
    monkeypatch.setattr(bundle, "multiprocessors", chunks)
    assert planned(bundle.description, item, bundle.arch, chunks).launches[0].grid[2] == chunks
    assert relative_error(item, launch(bundle, item.case, "bfloat16", None, item.layout)) <= 1.0


@needs_device
def test_a_decode_is_the_same_every_time(worker: Worker) -> None:
    item = long_decode(0, "float16")
    bundle = loaded(item.request, layouts_of(item), worker)
    first, second = (launch(bundle, item.case, "float16", None, item.layout) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@SLOW
def test_the_cases_are_split_and_not_split() -> None:
    found = {index: chunks_of(long_decode(index, "float16"), H200_MULTIPROCESSORS) for index in range(len(LONG_DECODE))}
    assert 1 in found.values()
    assert SELECTION.max_splits in found.values()
    assert len(set(found.values())) >= 8


def fill(arch: int, part: int = 0, parts: int = 1) -> None:
    """Compiles the bundles that these tests need, or one of several parts of them."""
    needed = {}
    for index in range(len(LONG_DECODE)):
        for dtype in DTYPES:
            item = long_decode(index, dtype)
            needed[bundle_name(item.request, layouts_of(item), False)] = item
    with Worker() as running:
        for name in sorted(needed)[part::parts]:
            item = needed[name]
            cached_bundle(item.request, CACHE, [arch], layouts=layouts_of(item), worker=running)


if __name__ == "__main__":
    fill(*(int(argument) for argument in sys.argv[1:]))
