"""The compiled images through the launcher, on a CUDA device: poisoned outputs, guard zones, adversarial inputs.

Bundles are compiled on first use (Triton has to be installed then) and kept in the directory that
ALIBI_KERNEL_CACHE names; ``python tests/kernels/test_gpu.py <arch> [<part> <parts>]`` fills it, also on a machine
without a GPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))

import evidence
from adversarial import ROUNDING
from alibi_rewriter.kernels.compile.cache import bundle_name, cached_bundle
from alibi_rewriter.kernels.compile.compiler import Worker
from alibi_rewriter.kernels.launch.launcher import Bundle, CudaUnavailable
from alibi_rewriter.kernels.launch.plan import Call, Tensor
from alibi_rewriter.kernels.requests import ELEMENT_BYTES, SKIP_BITS, BufferLayout, KernelRequest
from cases import Trial, rounded, row_mask, row_tolerance, sample
from evidence import Level
from reference import Case, attend

CACHE = Path(os.environ.get("ALIBI_KERNEL_CACHE", "build/kernels"))
GUARD = 512
"""Elements before and after every buffer; NaN in inputs, a pattern in outputs."""
STEP = 31
LONG = (
    # batch, heads, key heads, S_q, S_kv, D, symmetric, factor on the query, factor on the slopes
    (1, 2, 2, 128, 128, 64, False, 1.0, 1.0),
    (2, 4, 2, 333, 333, 64, False, 1.0, 1.0),
    (1, 4, 2, 100, 777, 128, False, 1.0, 1.0),
    (1, 3, 3, 2049, 2049, 64, False, 1.0, 1.0),
    (2, 20, 10, 1000, 1000, 128, False, 1.0, 1.0),
    (2, 20, 20, 700, 1000, 64, True, 1.0, 1.0),
    (1, 2, 2, 1500, 1500, 64, False, 60.0, 1.0),
    (1, 2, 2, 1500, 1500, 64, True, 60.0, 1.0),
    (1, 2, 2, 1500, 1500, 64, False, 6.0, 4.0),
    (2, 3, 3, 1024, 1024, 64, True, 1.0, -0.3),
    (2, 3, 3, 1024, 1024, 128, False, 1.0, -0.3),
    (2, 20, 20, 900, 900, 80, False, 1.0, 1.0),
    (2, 20, 20, 900, 900, 96, True, 1.0, 1.0),
    (1, 2, 2, 1500, 1500, 128, False, 60.0, 1.0),
    (1, 2, 2, 1500, 1500, 128, True, 60.0, 1.0),
    (32, 12, 12, 512, 512, 64, True, 1.0, 1.0),
    (1, 2, 2, 4500, 4500, 64, False, 1.0, 1.0),
    (1, 2, 2, 4500, 4500, 64, True, 1.0, 1.0),
    (1, 2, 1, 3500, 4500, 128, False, 1.0, 1.0),
    (1, 2, 2, 4500, 4500, 64, False, 60.0, 1.0),
    (1, 2, 2, 4500, 4500, 64, True, 60.0, 1.0),
    (1, 4, 2, 4000, 4200, 128, True, 1.0, 1.0),
    (1, 2, 2, 3300, 3300, 256, False, 1.0, 1.0),
    (1, 2, 2, 3300, 3300, 64, False, 1.0, 1e-6),
    (1, 2, 2, 3300, 3300, 64, True, 1.0, -1.0),
    (2, 3, 3, 700, 1000, 256, True, 1.0, 1.0),
    (2, 20, 10, 333, 900, 160, False, 1.0, 1.0),
    (1, 2, 2, 700, 700, 192, True, 60.0, 1.0),
    (2, 20, 10, 333, 900, 32, False, 1.0, 1.0),
    (2, 4, 4, 300, 300, 24, True, 1.0, 1.0),
    (1, 4, 2, 200, 600, 8, False, 1.0, 1.0),
    # Sharp enough for maxima to be lifted, not for tiles to be done again.
    (1, 2, 2, 1500, 1500, 128, False, 12.0, 1.0),
    (1, 2, 2, 1500, 1500, 64, True, 12.0, 1.0),
    (1, 2, 2, 700, 900, 64, False, 12.0, 1e-6),
    (1, 2, 2, 700, 700, 256, True, 6.0, 1e-6),
    # As many batch entries and heads as an H100 or H200 has multiprocessors, and rows for tiles of 192.
    (11, 12, 12, 190, 190, 64, True, 1.0, 1.0),
    (11, 12, 12, 170, 333, 64, True, 60.0, 1.0),
)  # fmt: skip
"""Sizes for the kernels that only long sequences reach, with scores that force the repeated pass too."""

KEYED = (
    # batch, heads, key heads, S_q, S_kv, D, form, hidden keys, positions, mean for rows without keys
    (2, 4, 2, 333, 333, 64, "symmetric", "right", False, True),
    (2, 4, 2, 333, 333, 64, "symmetric", "all of one", False, True),
    (2, 4, 2, 333, 500, 64, "causal", "left", False, True),
    (2, 4, 2, 333, 500, 64, "causal", "left", False, False),
    (3, 3, 3, 1000, 1000, 128, "causal", "left", False, True),
    (2, 20, 20, 700, 1000, 128, "causal", "some", True, True),
    (2, 20, 20, 700, 1000, 128, "causal", "none", True, True),
    (2, 2, 1, 1500, 1500, 128, "linear", "right", False, False),
    (2, 2, 2, 777, 777, 80, "causal", "all of one", False, True),
    (2, 2, 2, 1100, 1100, 96, "symmetric", "some", False, True),
    (1, 2, 2, 600, 600, 64, "linear", "none", True, True),
    (3, 2, 2, 1000, 1000, 64, "causal", "right", False, True),
    # Steep slopes, and rows far from the nearest visible key; hidden keys that would outweigh all others.
    (2, 12, 12, 900, 900, 64, "symmetric", "right", False, True),
    (2, 12, 12, 1200, 1200, 64, "symmetric", "left", False, True),
    (2, 12, 12, 900, 900, 128, "causal", "right", False, True),
    (2, 2, 2, 900, 900, 64, "symmetric", "some, large", False, True),
    (2, 2, 2, 1200, 1200, 64, "causal", "some, large", False, True),
    (3, 2, 2, 1000, 1000, 128, "symmetric", "left", False, False),
    (2, 2, 2, 700, 700, 256, "causal", "left", False, True),
    (2, 2, 1, 500, 700, 256, "symmetric", "some", False, True),
    (2, 2, 2, 400, 600, 192, "causal", "right", True, True),
    (2, 4, 4, 300, 300, 32, "symmetric", "right", False, True),
    # Tiles of 192 rows on an H100 or H200, as above.
    (11, 12, 12, 190, 190, 64, "symmetric", "right", False, True),
    (11, 12, 12, 170, 333, 64, "symmetric", "some", False, True),
    (11, 12, 12, 190, 190, 64, "symmetric", "all of one", False, True),
)  # fmt: skip
"""Key padding and positions, which the Hopper kernel takes where they differ by key only."""

ROWED = (
    # batch, heads, key heads, S_q, S_kv, D, form, kind of mask (``cases.row_mask``), type, mean for rows without keys
    (2, 4, 2, 333, 333, 64, "causal", "causal", "bool", True),
    (2, 4, 2, 1000, 1000, 128, "causal", "documents", "bool", True),
    (2, 4, 2, 1000, 1040, 64, "symmetric", "documents", "bool", True),
    (1, 4, 4, 900, 1200, 128, "linear", "documents", "bool", True),
    (1, 4, 4, 1500, 1504, 64, "symmetric", "window", "additive", True),
    (3, 4, 4, 777, 1024, 128, "linear", "prefix", "additive", True),
    (3, 4, 4, 1200, 1200, 128, "causal", "left", "bool", True),
    (3, 4, 4, 1200, 1200, 64, "causal", "left", "bool", False),
    (3, 4, 2, 600, 1200, 64, "causal", "left", "additive", True),
    (2, 4, 2, 400, 900, 128, "symmetric", "random", "additive", True),
    (2, 4, 2, 400, 900, 64, "linear", "none", "bool", True),
    (2, 4, 2, 400, 912, 80, "symmetric", "rows", "bool", True),
    (2, 4, 2, 400, 912, 256, "causal", "heads", "additive", True),
    (1, 2, 2, 2304, 4608, 128, "causal", "documents", "bool", True),
    (1, 40, 40, 640, 640, 128, "causal", "causal", "additive", True),
    # Tiles none of whose rows sees a key, one after the other.
    (3, 4, 2, 1500, 1500, 64, "causal", "bands", "bool", True),
    (3, 4, 4, 1500, 1500, 128, "causal", "bands", "additive", True),
    (3, 4, 4, 1500, 1500, 64, "causal", "bands", "additive", True),
    (3, 4, 4, 1500, 1700, 128, "causal", "bands", "bool", True),
    (3, 4, 4, 1500, 1500, 64, "causal", "bands", "bool", False),
    (2, 4, 4, 800, 1000, 64, "linear", "bands", "bool", True),
)  # fmt: skip
"""Masks with rows, which the Hopper kernel takes block by block."""

pytestmark = pytest.mark.gpu


def _device() -> str | None:
    """Why there is no device to test on, or None."""
    if importlib.util.find_spec("torch") is None:
        return "buffers on the device come from PyTorch, which is not installed"
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


REASON = _device()
needs_device = pytest.mark.skipif(REASON is not None, reason=REASON or "")


def layouts_of(item: Trial) -> tuple[BufferLayout, ...]:
    """One layout: a general one where the trial needs it."""
    mask = item.case.mask
    rows = mask is not None and (mask.shape[1] > 1 or mask.shape[2] > 1)
    return (BufferLayout(item.layout == "BHSD", rows),)


def guarded(shape: tuple[int, ...], dtype: str, layout: str = "BHSD") -> tuple[Any, Any]:
    """A NaN-filled buffer and a view of ``shape`` in its middle."""
    import torch

    count = int(np.prod(shape))
    kind = getattr(torch, dtype)
    whole = torch.full((count + 2 * GUARD,), float("nan") if kind.is_floating_point else 1, dtype=kind, device="cuda")
    inner = whole[GUARD : GUARD + count]
    if layout == "BSHD":
        batch, heads, rows, width = shape
        return whole, inner.view(batch, rows, heads, width).transpose(1, 2)
    return whole, inner.view(shape)


def on_device(array: Any, dtype: str, layout: str = "BHSD") -> Any:
    """A guarded copy on the device."""
    import torch

    _, view = guarded(array.shape, dtype, layout)
    view.copy_(torch.from_numpy(np.ascontiguousarray(array)).to(view.dtype))
    return view


def launch(bundle: Bundle, case: Case, dtype: str, mask_dtype: str | None, layout: str) -> np.ndarray[Any, Any]:
    """Runs one attention; checks that nothing around the output was touched."""
    import torch

    query, key, value = (on_device(x, dtype, layout) for x in (case.query, case.key, case.value))
    shape = (*case.query.shape[:3], case.value.shape[3])
    whole, output = guarded(shape, dtype, layout)
    mask = None if case.mask is None else on_device(case.mask, mask_dtype or "bool")
    positions = None if case.positions is None else on_device(case.positions, "float32")
    bias = None if case.key_bias is None else on_device(case.key_bias, "float32")
    slopes = on_device(case.slopes, "float32")
    lengths = None if case.key_lengths is None else on_device(case.key_lengths, "int64")
    call = Call(
        Tensor.of(query), Tensor.of(key), Tensor.of(value), Tensor.of(output), Tensor.of(slopes), case.scale,
        case.empty_mean, None if mask is None else Tensor.of(mask),
        None if positions is None else Tensor.of(positions), None if bias is None else Tensor.of(bias), *case.window,
        None if lengths is None else Tensor.of(lengths), case.rows_first,
    )  # fmt: skip
    plan = bundle.plan(call)
    workspace = torch.full((plan.workspace_bytes + 512,), 0xFF, dtype=torch.uint8, device="cuda")
    start = -(-workspace.data_ptr() // 256) * 256
    bundle.run(plan, start, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    assert torch.isnan(whole[:GUARD]).all() and torch.isnan(whole[-GUARD:]).all(), "wrote around the output"
    used = start - workspace.data_ptr() + plan.workspace_bytes
    assert (workspace[used:] == 0xFF).all(), "wrote beyond the workspace"
    return np.asarray(output.float().cpu().numpy(), np.float64)


def shown(request: KernelRequest) -> None:
    """Records that a node was compared with float64 here."""
    import torch

    evidence.record("kernels", Level.FLOAT64, [request.op_type], where=torch.cuda.get_device_name())


@pytest.fixture(scope="session")
def worker() -> Any:
    """One compiling process for all tests."""
    with Worker() as running:
        yield running


def loaded(request: KernelRequest, layouts: tuple[BufferLayout, ...], worker: Worker, skip: bool = False) -> Bundle:
    """The bundle for this device."""
    import torch

    torch.zeros(1, device="cuda")  # makes PyTorch's context current
    major, minor = torch.cuda.get_device_capability()
    return Bundle(cached_bundle(request, CACHE, [10 * major + minor], layouts=layouts, skip=skip, worker=worker))


@needs_device
@pytest.mark.parametrize("item", list(sample(STEP)), ids=lambda item: item.name)
def test_against_float64(item: Trial, worker: Worker) -> None:
    bundle = loaded(item.request, layouts_of(item), worker)
    output = launch(bundle, item.case, item.dtype, item.mask_dtype, item.layout)
    assert (np.abs(output - attend(item.case)) <= row_tolerance(item)).all()
    shown(item.request)


def long_case(index: int) -> Case:
    """The numbered entry of LONG."""
    batch, heads, kv_heads, s_q, s_kv, depth, symmetric, on_query, on_slopes = LONG[index]
    rng = np.random.default_rng(index)
    shapes = ((batch, heads, s_q, depth), (batch, kv_heads, s_kv, depth), (batch, kv_heads, s_kv, depth))
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    slopes = (on_slopes * 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)).astype(np.float32)
    return Case(query * on_query, key, value, slopes, depth**-0.5, symmetric, not symmetric)


def long_request(index: int, dtype: str) -> KernelRequest:
    """What the entry needs."""
    depth, symmetric = LONG[index][5], LONG[index][6]
    return KernelRequest.of(
        symmetric=symmetric, causal=not symmetric, positions=False, mask_dtype=None, dtype=dtype, head_dim=depth
    )


def as_seen(case: Case, dtype: str) -> Case:
    """The case with its inputs rounded to ``dtype``."""
    query, key, value = (rounded(x, dtype) for x in (case.query, case.key, case.value))
    return dataclasses.replace(case, query=query, key=key, value=value)


@needs_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("index", range(len(LONG)))
def test_long_sequences(index: int, dtype: str, worker: Worker) -> None:
    case = as_seen(long_case(index), dtype)
    bundle = loaded(long_request(index, dtype), (BufferLayout(),), worker)
    output = launch(bundle, case, dtype, None, "BHSD")
    wanted = attend(case)
    # With peaked softmax single roundings of weights show; the norm tells whether the function is right.
    error = np.linalg.norm(output - wanted) / np.linalg.norm(wanted)
    assert error <= {"bfloat16": 5e-3, "float16": 1e-3}[dtype]
    shown(long_request(index, dtype))


@needs_device
@pytest.mark.parametrize("turn", [0, 30, 31, 32, 33])
def test_a_tile_of_any_turn_is_repeated(turn: int, worker: Worker) -> None:
    # Far keys that outweigh the first block by more than the fixed maximum allows, for the pairs whose tiles a program
    # takes in one turn; 32 turns share a word of marks.
    import torch

    tiles, length, depth = 3, 300, 64
    symmetric = KernelRequest.of(
        symmetric=True, causal=False, positions=False, mask_dtype=None, dtype="bfloat16", head_dim=depth
    )
    bundle = loaded(symmetric, (BufferLayout(),), worker)
    programs = bundle.multiprocessors
    heads = (34 * programs - 1) // tiles + 1
    chosen = range(turn * programs // tiles, ((turn + 1) * programs - 1) // tiles + 1)
    rng = np.random.default_rng(turn)
    query, key, value = (rng.standard_normal((1, heads, length, depth)).astype(np.float32) for _ in range(3))
    query[:, chosen], key[:, chosen] = 1.0, 0.1 * key[:, chosen]
    # By 224 nats: the first pass has room for 118.
    key[:, chosen, 5] = 28.0
    slopes = np.full(heads, 1e-3, np.float32)
    case = as_seen(Case(query, key, value, slopes, depth**-0.5, True, False), "bfloat16")
    output = launch(bundle, case, "bfloat16", None, "BHSD")
    torch.cuda.empty_cache()
    some = sorted({0, chosen[0], chosen[len(chosen) // 2], chosen[-1], heads - 1})
    wanted = attend(
        Case(*(x[:, some] for x in (case.query, case.key, case.value)), slopes[some], case.scale, True, False)
    )
    for place, head in enumerate(some):
        error = np.linalg.norm(output[:, head] - wanted[:, place]) / np.linalg.norm(wanted[:, place])
        assert error <= 5e-3, head


@needs_device
@pytest.mark.parametrize("masked", [False, True])
def test_programs_without_a_tile(masked: bool, worker: Worker) -> None:
    # Few rows against long caches: a bundle of one head has fewer tiles than there are multiprocessors, and all bundles
    # leave out the same ones.
    import torch

    heads, rows, length, depth = 17, 1024, 16500, 128
    request = KernelRequest.of(
        symmetric=False, causal=True, positions=False, mask_dtype="bool" if masked else None, dtype="bfloat16",
        head_dim=depth,
    )  # fmt: skip
    bundle = loaded(request, (BufferLayout(),), worker)
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, heads, rows, depth)).astype(np.float32)
    key, value = (rng.standard_normal((1, heads, length, depth)).astype(np.float32) for _ in range(2))
    keep = np.ones((1, 1, 1, length), bool)
    keep[..., length - 300 :] = False
    slopes = np.full(heads, 1e-3, np.float32)
    case = as_seen(
        Case(query, key, value, slopes, depth**-0.5, False, True, None, keep if masked else None), "bfloat16"
    )
    output = launch(bundle, case, "bfloat16", "bool" if masked else None, "BHSD")
    torch.cuda.empty_cache()
    some = [0, 8, heads - 1]
    parts = (x[:, some] for x in (case.query, case.key, case.value))
    wanted = attend(Case(*parts, slopes[some], case.scale, False, True, None, case.mask))
    assert np.linalg.norm(output[:, some] - wanted) <= 5e-3 * np.linalg.norm(wanted)


def keyed_case(index: int) -> Case:
    """The numbered entry of KEYED."""
    batch, heads, kv_heads, s_q, s_kv, depth, form, hidden, has_positions, mean = KEYED[index]
    rng = np.random.default_rng(index)
    shapes = ((batch, heads, s_q, depth), (batch, kv_heads, s_kv, depth), (batch, kv_heads, s_kv, depth))
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    slopes = (2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)).astype(np.float32)
    keep = np.ones((batch, 1, 1, s_kv), bool)
    for entry in range(batch):
        length = int(rng.integers(s_kv // 3, s_kv))
        if hidden == "left":
            keep[entry, ..., : s_kv - length] = False
        elif hidden == "right":
            keep[entry, ..., length:] = False
        elif hidden.startswith("some"):
            keep[entry, 0, 0] = rng.random(s_kv) > 0.3
    if hidden == "all of one":
        keep[0] = False
    if hidden == "some, large":
        key *= np.where(keep[:, :, 0, :, None], 1.0, 60.0).astype(np.float32)
    positions = np.cumsum(rng.integers(0, 3, (batch, s_kv)), axis=1).astype(np.float32) if has_positions else None
    return Case(
        query, key, value, slopes, depth**-0.5, form == "symmetric", form == "causal", positions,
        None if hidden == "none" else keep, mean,
    )  # fmt: skip


def keyed_request(index: int, dtype: str) -> KernelRequest:
    """What the entry needs."""
    *_, depth, form, hidden, positions, _ = KEYED[index]
    return KernelRequest.of(
        symmetric=form == "symmetric", causal=form == "causal", positions=positions,
        mask_dtype=None if hidden == "none" else "bool", dtype=dtype, head_dim=depth,
    )  # fmt: skip


@needs_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("index", range(len(KEYED)))
def test_keys_hidden_or_placed(index: int, dtype: str, worker: Worker) -> None:
    case = as_seen(keyed_case(index), dtype)
    bundle = loaded(keyed_request(index, dtype), (BufferLayout(),), worker)
    output = launch(bundle, case, dtype, None if case.mask is None else "bool", "BHSD")
    wanted = attend(case)
    assert np.isfinite(output).all()
    error = np.linalg.norm(output - wanted) / np.linalg.norm(wanted)
    assert error <= {"bfloat16": 5e-3, "float16": 1e-3}[dtype]
    # Rows without keys are exact but for the last rounding.
    empty = np.abs(wanted).max(-1) == 0.0
    assert (output[empty] == 0.0).all()
    shown(keyed_request(index, dtype))


SOFT = (
    # S_q, S_kv, D, form, which keys are soft, what the mask adds there
    (512, 512, 64, "symmetric", "left", -80.0),
    (400, 512, 64, "symmetric", "left", -80.0),
    (400, 512, 64, "causal", "left", -80.0),
    (512, 512, 64, "symmetric", "right", -80.0),
    (1300, 1300, 64, "symmetric", "left", -90.0),
    (1300, 1400, 128, "symmetric", "left", -70.0),
    (1300, 1400, 128, "causal", "left", -9984.0),
    (900, 900, 128, "linear", "right", -80.0),
    (900, 900, 64, "symmetric", "both", -80.0),
)  # fmt: skip
"""Additive masks by key that hide nothing and add so little to some keys that rows look for their maximum elsewhere."""


@needs_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("index", range(len(SOFT)))
def test_keys_that_a_mask_hardly_lets_be_seen(index: int, dtype: str, worker: Worker) -> None:
    s_q, s_kv, depth, form, side, soft = SOFT[index]
    rng = np.random.default_rng(index)
    shapes = ((2, 4, s_q, depth), (2, 4, s_kv, depth), (2, 4, s_kv, depth))
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    mask = np.zeros((2, 1, 1, s_kv), np.float32)
    if side in ("left", "both"):
        mask[..., : s_kv * 5 // 16] = soft
    if side in ("right", "both"):
        mask[..., s_kv * 9 // 16 :] = soft
    # The bias of a steep slope makes up for the mask.
    slopes = np.array([1.0, 0.5, 0.06, 1e-3], np.float32)
    case = Case(query, key, value, slopes, depth**-0.5, form == "symmetric", form == "causal", None, mask, True)
    case = as_seen(case, dtype)
    request = KernelRequest.of(
        symmetric=case.symmetric, causal=case.causal, positions=False, mask_dtype=dtype, dtype=dtype, head_dim=depth
    )
    output = launch(loaded(request, (BufferLayout(),), worker), case, dtype, dtype, "BHSD")
    wanted = attend(case)
    error = np.linalg.norm(output - wanted) / np.linalg.norm(wanted)
    assert error <= {"bfloat16": 5e-3, "float16": 1e-3}[dtype]


def rowed_case(index: int, dtype: str) -> tuple[Case, str]:
    """The numbered entry of ROWED as a type sees it, and the type of its mask: as the others', or float32."""
    batch, heads, kv_heads, s_q, s_kv, depth, form, kind, of_mask, mean = ROWED[index]
    rng = np.random.default_rng(index)
    shapes = ((batch, heads, s_q, depth), (batch, kv_heads, s_kv, depth), (batch, kv_heads, s_kv, depth))
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    slopes = (2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)).astype(np.float32)
    mask = row_mask(kind, (batch, heads, s_q, s_kv), rng)
    mask_dtype = "bool"
    if of_mask == "additive":
        mask_dtype = dtype if index % 2 else "float32"
        # Where rows see nothing else, adding -65504 would leave float32 few bits of their scores.
        float16 = -np.inf if kind == "bands" else -65504.0
        lowest = {"float16": float16, "bfloat16": -3.3895313892515355e38, "float32": -np.inf}[mask_dtype]
        soft = rounded(rng.standard_normal(mask.shape), mask_dtype) if kind == "prefix" else np.zeros(mask.shape)
        mask = np.where(mask, soft, lowest).astype(np.float32)
    case = Case(query, key, value, slopes, depth**-0.5, form == "symmetric", form == "causal", None, mask, mean)
    return as_seen(case, dtype), mask_dtype


def rowed_request(index: int, dtype: str) -> KernelRequest:
    """What the entry needs."""
    depth, form = ROWED[index][5], ROWED[index][6]
    return KernelRequest.of(
        symmetric=form == "symmetric", causal=form == "causal", positions=False, mask_dtype=rowed_case(index, dtype)[1],
        dtype=dtype, head_dim=depth,
    )  # fmt: skip


ROW_LAYOUTS = (BufferLayout(True, True),)


@needs_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("index", range(len(ROWED)))
def test_masks_with_rows(index: int, dtype: str, worker: Worker) -> None:
    case, mask_dtype = rowed_case(index, dtype)
    bundle = loaded(rowed_request(index, dtype), ROW_LAYOUTS, worker)
    output = launch(bundle, case, dtype, mask_dtype, "BHSD")
    wanted = attend(case)
    assert np.isfinite(output).all()
    error = np.linalg.norm(output - wanted) / np.linalg.norm(wanted)
    assert error <= {"bfloat16": 5e-3, "float16": 1e-3}[dtype]
    empty = np.abs(wanted).max(-1) == 0.0
    assert (output[empty] == 0.0).all()
    shown(rowed_request(index, dtype))


WINDOWED = (
    # batch, heads, key heads, S_q, S_kv, D, form, window, mask with rows, key bias by head or for all, mean
    (2, 4, 2, 700, 700, 64, "causal", (100, -1), None, None, True),
    (1, 4, 4, 1000, 1300, 128, "symmetric", (64, 200), None, None, True),
    (2, 4, 4, 600, 900, 128, "linear", (-1, 0), None, None, True),
    (1, 4, 4, 900, 904, 64, "causal", (300, -1), "documents", None, True),
    (2, 4, 4, 500, 512, 128, "linear", (130, 40), "left", None, False),
    (2, 4, 2, 777, 1000, 64, "symmetric", (-1, -1), None, "all", True),
    (2, 4, 2, 777, 1000, 128, "causal", (-1, -1), None, "head", True),
    (3, 4, 4, 400, 700, 64, "linear", (-1, -1), None, "head", False),
    (1, 4, 4, 300, 700, 128, "causal", (200, -1), None, "all", True),
    (1, 8, 2, 20, 3000, 128, "causal", (900, -1), None, "head", True),
    (1, 8, 8, 1, 5000, 64, "causal", (2000, -1), None, None, True),
    (2, 8, 8, 100, 4000, 64, "causal", (-1, -1), None, "all", True),
)  # fmt: skip
"""Windows and key biases, on the Hopper kernel where nothing else differs by key, in decode and between."""


def windowed_case(index: int) -> Case:
    """The numbered entry of WINDOWED."""
    batch, heads, kv_heads, s_q, s_kv, depth, form, window, kind, of_bias, mean = WINDOWED[index]
    rng = np.random.default_rng(index)
    shapes = ((batch, heads, s_q, depth), (batch, kv_heads, s_kv, depth), (batch, kv_heads, s_kv, depth))
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    slopes = (2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)).astype(np.float32)
    mask = None if kind is None else row_mask(kind, (batch, heads, s_q, s_kv), rng)
    bias = None
    if of_bias is not None:
        bias = rng.standard_normal((batch, heads if of_bias == "head" else 1, s_kv)).astype(np.float32)
        hiding = (-np.inf, np.finfo(np.float32).min, -1e4)[index % 3]
        for entry in range(batch):
            bias[entry, :, int(rng.integers(s_kv // 2, s_kv)) :] = hiding
    return Case(
        query, key, value, slopes, depth**-0.5, form == "symmetric", form == "causal", None, mask, mean,
        key_bias=bias, window=window,
    )  # fmt: skip


def windowed_request(index: int, dtype: str) -> KernelRequest:
    """What the entry needs."""
    *_, depth, form, window, kind, of_bias, _ = WINDOWED[index]
    return KernelRequest.of(
        symmetric=form == "symmetric", causal=form == "causal", positions=False,
        mask_dtype=None if kind is None else "bool", dtype=dtype, head_dim=depth, key_bias=of_bias is not None,
        window=max(window) >= 0,
    )  # fmt: skip


@needs_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("index", range(len(WINDOWED)))
def test_windows_and_key_biases(index: int, dtype: str, worker: Worker) -> None:
    case = as_seen(windowed_case(index), dtype)
    request = windowed_request(index, dtype)
    bundle = loaded(request, ROW_LAYOUTS if case.mask is not None else (BufferLayout(),), worker)
    output = launch(bundle, case, dtype, None if case.mask is None else "bool", "BHSD")
    wanted = attend(case)
    assert np.isfinite(output).all()
    assert np.linalg.norm(output - wanted) <= {"bfloat16": 5e-3, "float16": 1e-3}[dtype] * np.linalg.norm(wanted)
    shown(request)


@needs_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("index", [i for i, entry in enumerate(LONG) if entry[4] >= 3072])
def test_skipping_changes_next_to_nothing(index: int, dtype: str, worker: Worker) -> None:
    case = as_seen(long_case(index), dtype)
    layouts = (BufferLayout(),)
    plain = launch(loaded(long_request(index, dtype), layouts, worker), case, dtype, None, "BHSD")
    skipped = launch(loaded(long_request(index, dtype), layouts, worker, skip=True), case, dtype, None, "BHSD")
    largest = np.abs(case.value).max()
    allowed = largest * (2.0 ** -SKIP_BITS[ELEMENT_BYTES[dtype]] + ROUNDING[dtype])
    assert np.abs(skipped - plain).max() <= allowed


@needs_device
def test_a_not_a_number_stays_visible_behind_skipping(worker: Worker) -> None:
    index = next(i for i, entry in enumerate(LONG) if entry[4] == 4500)
    case = as_seen(long_case(index), "bfloat16")
    case.key[:, :, 5] = np.nan
    bundle = loaded(long_request(index, "bfloat16"), (BufferLayout(),), worker, skip=True)
    output = launch(bundle, case, "bfloat16", None, "BHSD")
    assert np.isnan(output[:, :, 5:]).all()
    assert np.isfinite(output[:, :, :5]).all()


def test_without_a_device_the_launcher_says_so(tmp_path: Path) -> None:
    if REASON is None:
        pytest.skip("there is a CUDA device")
    (tmp_path / "description.json").write_text("{}")
    with pytest.raises((CudaUnavailable, ValueError)):
        Bundle(tmp_path)


def fill(arch: int, part: int = 0, parts: int = 1) -> None:
    """Compiles the bundles that these tests need, or one of several parts of them."""
    needed = {}
    for item in sample(STEP):
        needed[bundle_name(item.request, layouts_of(item), False)] = (item.request, layouts_of(item), False)
    for index, entry in enumerate(LONG):
        for dtype in ("bfloat16", "float16"):
            for skip in (False, True) if entry[4] >= 3072 else (False,):
                request = long_request(index, dtype)
                needed[bundle_name(request, (BufferLayout(),), skip)] = (request, (BufferLayout(),), skip)
    for index in range(len(KEYED)):
        for dtype in ("bfloat16", "float16"):
            request = keyed_request(index, dtype)
            needed[bundle_name(request, (BufferLayout(),), False)] = (request, (BufferLayout(),), False)
    for index in range(len(ROWED)):
        for dtype in ("bfloat16", "float16"):
            request = rowed_request(index, dtype)
            needed[bundle_name(request, ROW_LAYOUTS, False)] = (request, ROW_LAYOUTS, False)
    for index, entry in enumerate(WINDOWED):
        for dtype in ("bfloat16", "float16"):
            request, layouts = (
                windowed_request(index, dtype),
                ROW_LAYOUTS if entry[8] is not None else (BufferLayout(),),
            )
            needed[bundle_name(request, layouts, False)] = (request, layouts, False)
    with Worker() as running:
        for name in sorted(needed)[part::parts]:
            request, layouts, skip = needed[name]
            cached_bundle(request, CACHE, [arch], layouts=layouts, skip=skip, worker=running)


if __name__ == "__main__":
    fill(*(int(argument) for argument in sys.argv[1:]))
