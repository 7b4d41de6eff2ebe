"""Keys that a mask, a key bias or a window hides, with NaN or an infinity in key and value; and batches of any size.

``python tests/kernels/test_gpu_hidden.py <arch> [<part> <parts>]`` fills the cache of bundles for these tests.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
from alibi_rewriter.kernels.compile.cache import cached_bundle
from alibi_rewriter.kernels.compile.compiler import Worker
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest
from cases import Trial, row_mask
from poisoned import BAD, poisoned, sees, share_of
from reference import Case, visible
from test_gpu import CACHE, ROW_LAYOUTS, as_seen, launch, loaded, needs_device, shown

pytestmark = pytest.mark.gpu

PLAIN = (BufferLayout(),)
HIDDEN = (
    # batch, heads, key heads, S_q, S_kv, D, type, member, how keys are hidden
    (2, 4, 2, 700, 700, 128, "bfloat16", "CausalBooleanMask", "left"),
    (2, 2, 2, 1500, 1500, 128, "bfloat16", "CausalBooleanMask", "some"),
    (2, 4, 4, 333, 400, 64, "float16", "CausalBooleanMask", "left"),
    (2, 2, 2, 1100, 1100, 64, "float16", "CausalBooleanMask", "right"),
    (2, 4, 2, 333, 333, 64, "bfloat16", "SymmetricBooleanMask", "right"),
    (2, 2, 2, 1500, 1500, 64, "bfloat16", "SymmetricBooleanMask", "some"),
    (3, 2, 2, 1200, 1200, 64, "bfloat16", "SymmetricBooleanMask", "all of one"),
    (2, 2, 2, 500, 1300, 64, "bfloat16", "CausalPositionsBooleanMask", "left"),
    (2, 2, 1, 500, 700, 256, "float16", "CausalBooleanMask", "some"),
    (2, 4, 2, 300, 300, 64, "float32", "CausalBooleanMask", "rows, left"),
    (2, 4, 4, 300, 500, 64, "bfloat16", "CausalKeyBiasBooleanMask", "some"),
    (2, 8, 2, 1, 3000, 128, "bfloat16", "CausalBooleanMask", "right"),
    (2, 8, 2, 40, 3000, 128, "bfloat16", "CausalBooleanMask", "left"),
)  # fmt: skip
"""Padding that ends within a block, for the Hopper kernel and for the portable ones."""


@pytest.fixture(scope="module")
def worker() -> Any:
    """One compiling process for all tests of this module."""
    with Worker() as running:
        yield running


def hidden_trial(index: int) -> Trial:
    """The numbered entry of HIDDEN, before anything bad is put into it."""
    batch, heads, kv_heads, s_q, s_kv, depth, dtype, member, how = HIDDEN[index]
    rng = np.random.default_rng(index)
    shapes = ((batch, heads, s_q, depth), (batch, kv_heads, s_kv, depth), (batch, kv_heads, s_kv, depth))
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    slopes = (2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)).astype(np.float32)
    keep = np.ones((batch, 1, 1, s_kv), bool)
    keep[..., {"left": slice(100), "right": slice(-100, None)}.get(how.split(", ")[-1], slice(0))] = False
    if how.endswith("some"):
        keep = rng.random(keep.shape) > 0.3
    if how == "all of one":
        keep[0], keep[1, ..., 77:] = False, False
    if how.startswith("rows"):
        keep = keep & row_mask("causal", (batch, heads, s_q, s_kv), rng)
    bias = None
    if "KeyBias" in member:
        bias = rng.standard_normal((batch, 1, s_kv)).astype(np.float32)
        bias[rng.random(bias.shape) < 0.3] = np.finfo(np.float32).min
    positions = None
    if "Positions" in member:
        positions = np.cumsum(rng.integers(0, 3, (batch, s_kv)), axis=1).astype(np.float32)
    case = Case(
        query, key, value, slopes, depth**-0.5, "Symmetric" in member, member.startswith("Causal"), positions, keep,
        key_bias=bias,
    )  # fmt: skip
    return Trial(f"{index}-{member}-{how}", as_seen(case, dtype), dtype, "bool", "BHSD")


def layouts(index: int) -> tuple[BufferLayout, ...]:
    """What is assumed of its buffers."""
    return ROW_LAYOUTS if HIDDEN[index][8].startswith("rows") else PLAIN


def hidden_from_all(case: Case) -> Any:
    """Which keys mask, key bias and window hide from every row of every head of a key head, [B, H_kv, S_kv]."""
    open_ = dataclasses.replace(case, causal=False)
    batch, kv_heads, s_kv, _ = case.key.shape
    seen = np.broadcast_to(visible(open_), sees(case).shape)
    return ~seen.reshape(batch, kv_heads, -1, s_kv).any(2)


@needs_device
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("index", range(len(HIDDEN)))
def test_a_hidden_key_does_not_matter(index: int, bad: float, worker: Worker) -> None:
    item = hidden_trial(index)
    hidden = hidden_from_all(item.case)
    assert hidden.any()
    bundle = loaded(item.request, layouts(index), worker)
    output = launch(bundle, poisoned(item.case, hidden, bad), item.dtype, item.mask_dtype, "BHSD")
    assert share_of(item, hidden, output) <= 1.0
    shown(item.request)


@needs_device
@pytest.mark.parametrize("index", [0, 4, 5, 8, 9, 11])
def test_a_visible_value_that_is_not_finite_is_not_lost(index: int, worker: Worker) -> None:
    item = hidden_trial(index)
    hidden = hidden_from_all(item.case)
    bad = hidden.copy()
    place = int(np.flatnonzero(~hidden[1, 0])[-3])
    bad[1, 0, place] = True
    bundle = loaded(item.request, layouts(index), worker)
    output = launch(bundle, poisoned(item.case, bad, np.nan), item.dtype, item.mask_dtype, "BHSD")
    group = item.case.query.shape[1] // item.case.key.shape[1]
    seen = sees(item.case)[1, :group, :, place]
    assert seen.any()
    assert not np.isfinite(output[1, :group][seen]).any()
    others = np.ones(output.shape[:2], bool)
    others[1, :group] = False
    keyed = sees(item.case).any(-1) & others[:, :, None]
    assert np.isfinite(output[keyed]).all()


@needs_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_later_key_does_not_matter(dtype: str, worker: Worker) -> None:
    # On the Hopper kernel that is said of keys.  Elsewhere values are looked at, too.
    length, place = 300, 170
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((1, 2, length, 64)).astype(np.float32) for _ in range(3))
    case = as_seen(Case(query, key, value, np.array([0.5, 0.01], np.float32), 0.125, False, True), dtype)
    bad = np.zeros((1, 2, length), bool)
    bad[:, :, place] = True
    spoilt = poisoned(case, bad, np.nan)
    if dtype == "bfloat16":
        spoilt = dataclasses.replace(spoilt, value=case.value)
    item = Trial("later", case, dtype, None, "BHSD")
    output = launch(loaded(item.request, PLAIN, worker), spoilt, dtype, None, "BHSD")
    assert share_of(item, bad, output) <= 1.0


@needs_device
@pytest.mark.parametrize(("rows", "dtype", "depth"), [(1, "float16", 128), (17, "float32", 64)])
def test_more_than_65535_batch_entries(rows: int, dtype: str, depth: int, worker: Worker) -> None:
    import torch

    batch, keys = 65_700, rows + 3
    rng = np.random.default_rng(rows)
    shapes = ((batch, 1, rows, depth), (batch, 1, keys, depth), (batch, 1, keys, depth))
    query, key, value = (rng.standard_normal(shape, np.float32) for shape in shapes)
    case = as_seen(Case(query, key, value, np.array([0.5], np.float32), depth**-0.5, False, True), dtype)
    item = Trial("batch", case, dtype, None, "BHSD")
    output = launch(loaded(item.request, PLAIN, worker), case, dtype, None, "BHSD")
    torch.cuda.empty_cache()
    some = [0, 1, 65_534, 65_535, 65_536, batch - 1]
    few = dataclasses.replace(item, case=dataclasses.replace(case, query=query[some], key=key[some], value=value[some]))
    few = dataclasses.replace(few, case=as_seen(few.case, dtype))
    assert share_of(few, np.zeros((len(some), 1, keys), bool), output[some]) <= 1.0
    assert np.isfinite(output).all()


def fill(arch: int, part: int = 0, parts: int = 1) -> None:
    """Compiles the bundles that these tests need, or one of several parts of them."""
    needed = {(hidden_trial(index).request, layouts(index)) for index in range(len(HIDDEN))}
    for dtype, depth in (("bfloat16", 64), ("float32", 64), ("float16", 128)):
        needed.add((KernelRequest("AlibiAttentionCausal", dtype, depth, depth), PLAIN))
    with Worker() as running:
        for request, of_buffers in sorted(needed, key=str)[part::parts]:
            cached_bundle(request, CACHE, [arch], layouts=of_buffers, worker=running)


if __name__ == "__main__":
    fill(*(int(argument) for argument in sys.argv[1:]))
