"""The plugin library on a CUDA device, driven through its own interface: what TensorRT would do, without TensorRT.

Kernels are compiled on first use and kept in the folder that ALIBI_KERNEL_CACHE names;
``python tests/engine/test_gpu_plugin.py <arch>`` fills it, also on a machine without a GPU.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kernels")]

import evidence
import plugin_host
from alibi_rewriter.engine.container import encode
from alibi_rewriter.fused.family import BY_OP_TYPE
from alibi_rewriter.fused.layout import Layout, OutputView, packed
from alibi_rewriter.kernels.compile.cache import cached_bundle
from alibi_rewriter.kernels.compile.compiler import DESCRIPTION, Worker
from alibi_rewriter.kernels.launch.description import Description
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest
from cases import Trial, row_tolerance, sample, trial
from evidence import Level
from reference import Case, attend

CACHE = Path(os.environ.get("ALIBI_KERNEL_CACHE", "build/kernels"))
STEP = 37
GUARD = 512

pytestmark = pytest.mark.gpu


def _reason() -> str | None:
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return "buffers on the device come from PyTorch, which is not installed"
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


REASON = _reason()
needs_device = pytest.mark.skipif(REASON is not None, reason=REASON or "")


def shown(item: Trial) -> None:
    """Records that a node was compared with float64 here."""
    import torch

    evidence.record("plugin", Level.FLOAT64, [item.request.op_type], where=torch.cuda.get_device_name())


def layout_of(item: Trial) -> BufferLayout:
    mask = item.case.mask
    rows = mask is not None and (mask.shape[1] > 1 or mask.shape[2] > 1)
    return BufferLayout(item.layout == "BHSD", rows)


def kernels(
    request: KernelRequest,
    layout: BufferLayout,
    arch: int,
    worker: Worker | None,
    *,
    ptx: bool = False,
    skip: bool = False,
) -> bytes:
    """The bundle as it travels in a node."""
    directory = cached_bundle(request, CACHE, [80 if ptx else arch], layouts=(layout,), skip=skip, worker=worker)
    description = Description.from_json((directory / DESCRIPTION).read_text())
    return encode(description, directory, machine_code=() if ptx else (arch,), ptx=(80,) if ptx else ())


@pytest.fixture(scope="module")
def host(host_library: Path) -> plugin_host.Host:
    return plugin_host.Host(host_library)


@pytest.fixture(scope="module")
def worker() -> Any:
    with Worker() as running:
        yield running


def device_arch() -> int:
    import torch

    torch.zeros(1, device="cuda")
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


class Bound:
    """A case in device memory, with guard zones, bound to an instance of the plugin."""

    def __init__(
        self, instance: plugin_host.Instance, case: Case, dtype: str, mask_dtype: str | None, layout: str
    ) -> None:
        import torch

        self.instance, self.case = instance, case
        self.views = [self._guarded(x, dtype, layout)[1] for x in (case.query, case.key, case.value)]
        self.views.append(self._guarded(case.slopes, "float32")[1])
        kinds = [dtype] * 3 + ["float32"]
        if case.mask is not None:
            self.views.append(self._guarded(case.mask, mask_dtype or "bool")[1])
            kinds.append(mask_dtype or "bool")
        if case.positions is not None:
            self.views.append(self._guarded(case.positions, "float32")[1])
            kinds.append("float32")
        if case.key_bias is not None:
            self.views.append(self._guarded(case.key_bias, "float32")[1])
            kinds.append("float32")
        if case.key_lengths is not None:
            self.views.append(self._guarded(case.key_lengths, "int64")[1])
            kinds.append("int64")
        shape = (*case.query.shape[:3], case.value.shape[3])
        self.whole, self.output = self._guarded(np.full(shape, np.nan), dtype, layout)
        self.descriptions = [plugin_host.describe(tuple(v.shape), k) for v, k in zip(self.views, kinds, strict=True)]
        self.of_output = plugin_host.describe(tuple(self.output.shape), dtype)
        self.shape()
        self.size = instance.workspace_bytes()
        self.workspace = torch.full((self.size + 1024,), 0xFF, dtype=torch.uint8, device="cuda")
        self.start = -(-self.workspace.data_ptr() // 256) * 256
        self.layout = layout
        self.pointers = instance.bind([v.data_ptr() for v in self.views], self.output.data_ptr())

    @staticmethod
    def _guarded(array: Any, dtype: str, layout: str = "BHSD") -> tuple[Any, Any]:
        """A dense tensor in the plugin's layout, with NaN around it."""
        import torch

        content = torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, dtype))
        if layout == "BSHD" and content.ndim == 4:
            content = content.transpose(1, 2).contiguous()
        kind = content.dtype
        whole = torch.full(
            (content.numel() + 2 * GUARD,), float("nan") if kind.is_floating_point else 1, dtype=kind, device="cuda"
        )
        view = whole[GUARD : GUARD + content.numel()].view(content.shape)
        view.copy_(content)
        return whole, view

    def shape(self) -> None:
        """Tells the plugin the shapes, as before the first execution and after a change."""
        self.instance.shape(self.descriptions, self.of_output)

    def enqueue(self, stream: int) -> None:
        self.instance.enqueue(self.pointers, self.start, stream)

    def result(self) -> Any:
        import torch

        torch.cuda.synchronize()
        assert torch.isnan(self.whole[:GUARD]).all() and torch.isnan(self.whole[-GUARD:]).all(), (
            "wrote around the output"
        )
        used = self.start - self.workspace.data_ptr() + self.size
        assert (self.workspace[used:] == 0xFF).all(), "wrote beyond the workspace"
        output = self.output.transpose(1, 2) if self.layout == "BSHD" else self.output
        return np.asarray(output.float().cpu().numpy(), np.float64)


def bound(host: plugin_host.Host, worker: Worker | None, item: Trial, **options: Any) -> Bound:
    made = {name: options.pop(name, False) for name in ("ptx", "skip")}
    content = kernels(item.request, layout_of(item), device_arch(), worker, **made)
    instance = host.instance(
        item.request.op_type,
        content,
        scale=item.case.scale,
        empty_mean=item.case.empty_mean,
        layout=item.layout,
        window=item.case.window,
        rows=None if item.case.key_lengths is None else ("first" if item.case.rows_first else "last"),
        **options,
    )
    return Bound(instance, item.case, item.dtype, item.mask_dtype, item.layout)


def long_trial(name: str, sizes: tuple[int, ...], *, dtype: str = "bfloat16", symmetric: bool = False) -> Trial:
    """A larger case without mask: batch, heads, key heads, S_q, S_kv, D."""
    from cases import rounded

    batch, heads, kv_heads, s_q, s_kv, depth = sizes
    rng = np.random.default_rng(len(name))
    shapes = ((batch, heads, s_q, depth), (batch, kv_heads, s_kv, depth), (batch, kv_heads, s_kv, depth))
    query, key, value = (rounded(rng.standard_normal(shape), dtype) for shape in shapes)
    slopes = (2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)).astype(np.float32)
    case = Case(query, key, value, slopes, depth**-0.5, symmetric, not symmetric)
    return Trial(name, case, dtype, None, "BHSD")


def padded_trial(name: str, sizes: tuple[int, ...], *, left: bool) -> Trial:
    """The usual export: keys of padding hidden, positions counted over the others."""
    plain = long_trial(name, sizes)
    batch, s_kv = sizes[0], sizes[4]
    keep = np.ones((batch, 1, 1, s_kv), bool)
    hidden = slice(0, s_kv // 3) if left else slice(s_kv - s_kv // 3, s_kv)
    keep[0, :, :, hidden] = False
    positions = np.maximum(np.cumsum(keep[:, 0, 0].astype(np.float32), axis=1) - 1, 0)
    case = dataclasses.replace(plain.case, mask=keep, positions=positions)
    return dataclasses.replace(plain, case=case, mask_dtype="bool")


LONG = (
    padded_trial("left-padding", (2, 4, 2, 700, 700, 64), left=True),
    padded_trial("right-padding", (2, 4, 4, 513, 1025, 128), left=False),
    long_trial("prefill", (2, 4, 2, 1000, 1000, 64)),
    long_trial("prefill-128", (1, 4, 4, 777, 1555, 128), dtype="float16"),
    long_trial("symmetric", (1, 3, 3, 900, 900, 64), symmetric=True),
    long_trial("split-decode", (1, 8, 2, 1, 20000, 64), dtype="float16"),
    long_trial("decode", (3, 8, 8, 2, 700, 64)),
)

PREFILL, SPLIT = LONG[2], LONG[5]
CERTIFIED = (
    long_trial("skip", (1, 4, 2, 3100, 3500, 64)),
    long_trial("skip-symmetric", (1, 2, 2, 3300, 3300, 128), dtype="float16", symmetric=True),
    padded_trial("skip-left-padding", (2, 4, 2, 3100, 3500, 64), left=True),
)
"""Long enough for the kernels that leave out far keys."""

SMALL = tuple(
    trial(BY_OP_TYPE[op_type], 5000 + number, s_q, s_kv, 8, dtype)
    for number, (op_type, s_q, s_kv, dtype) in enumerate(
        (
            ("AlibiAttentionCausalPositionsBooleanMask", 33, 40, "float32"),
            ("AlibiAttentionSymmetricAdditiveMask", 50, 50, "float16"),
            ("AlibiAttentionCausal", 1, 700, "bfloat16"),
        )
    )
)
"""The smallest heads, which are padded."""


def woven_of(item: Trial) -> Layout:
    """Query, key and value of a case by head in one tensor, and a merged output."""
    heads, depth = item.case.query.shape[1], item.case.query.shape[3]
    views = (
        packed(heads, depth, head_width=3 * depth, within=i * depth, of=3 * heads * depth, order="BSHD")
        for i in range(3)
    )
    return Layout(*views, OutputView((0, 2, 1, 3), (0, 0, heads * depth)))


@needs_device
@pytest.mark.parametrize(
    "sizes", [(2, 4, 4, 1000, 1000, 64), (1, 3, 3, 777, 777, 128), (3, 8, 8, 3, 3, 64), (1, 2, 2, 16, 16, 128)]
)
def test_operands_are_read_where_they_are(host: plugin_host.Host, worker: Worker, sizes: tuple[int, ...]) -> None:
    import torch

    item = long_trial("woven", sizes)
    case, layout = item.case, woven_of(item)
    content = kernels(item.request, BufferLayout(False), device_arch(), worker)
    instance = host.instance(item.request.op_type, content, scale=case.scale, empty_mean=True, views=layout)
    parts = np.stack([array.transpose(0, 2, 1, 3) for array in (case.query, case.key, case.value)], axis=3)
    batch, rows, heads, _, depth = parts.shape
    tensor = torch.from_numpy(np.ascontiguousarray(parts.reshape(batch, rows, -1))).to(torch.bfloat16).cuda()
    slopes = torch.from_numpy(case.slopes).cuda()
    output = torch.full((batch, rows, heads * depth), float("nan"), dtype=torch.bfloat16, device="cuda")
    whole = plugin_host.describe(tuple(tensor.shape), "bfloat16")
    given = [whole, whole, whole, plugin_host.describe((heads,), "float32")]
    instance.shape(given, plugin_host.describe(tuple(output.shape), "bfloat16"))
    workspace = torch.empty(instance.workspace_bytes() + 256, dtype=torch.uint8, device="cuda")
    start = -(-workspace.data_ptr() // 256) * 256
    bound = instance.bind([tensor.data_ptr()] * 3 + [slopes.data_ptr()], output.data_ptr())
    instance.enqueue(bound, start, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    found = output.float().cpu().numpy().reshape(batch, rows, heads, depth).transpose(0, 2, 1, 3)
    wanted = attend(case)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) <= 5e-3


@needs_device
@pytest.mark.parametrize("item", [*sample(STEP), *SMALL], ids=lambda item: item.name)
def test_against_float64(host: plugin_host.Host, item: Trial, worker: Worker) -> None:
    import torch

    case = bound(host, worker, item)
    stream = torch.cuda.Stream()  # never the default stream
    stream.wait_stream(torch.cuda.current_stream())
    case.enqueue(stream.cuda_stream)
    assert (np.abs(case.result() - attend(item.case)) <= row_tolerance(item)).all()
    case.instance.close()
    shown(item)


@needs_device
@pytest.mark.parametrize("item", LONG, ids=lambda item: item.name)
def test_every_tactic_of_long_sequences(host: plugin_host.Host, item: Trial, worker: Worker) -> None:
    tactics = bound(host, worker, item).instance.tactics
    for tactic in range(tactics + 1):
        case = bound(host, worker, item, tactic=tactic)
        case.enqueue(0)
        wanted = attend(item.case)
        error = np.linalg.norm(case.result() - wanted) / np.linalg.norm(wanted)
        assert error <= {"bfloat16": 5e-3, "float16": 1e-3}[item.dtype], f"tactic {tactic} of {tactics}"
    shown(item)


@needs_device
@pytest.mark.parametrize("item", CERTIFIED, ids=lambda item: item.name)
def test_far_keys_are_left_out_and_nothing_changes(host: plugin_host.Host, item: Trial, worker: Worker) -> None:
    case = bound(host, worker, item, skip=True)
    wanted = attend(item.case)
    for _ in range(2):  # the second finds the tickets of the first in the workspace
        case.output.fill_(float("nan"))
        case.enqueue(0)
        error = np.linalg.norm(case.result() - wanted) / np.linalg.norm(wanted)
        assert error <= {"bfloat16": 5e-3, "float16": 1e-3}[item.dtype]


@needs_device
def test_ptx_serves_a_device_without_machine_code(host: plugin_host.Host, worker: Worker) -> None:
    case = bound(host, worker, PREFILL, ptx=True)
    case.enqueue(0)
    wanted = attend(PREFILL.case)
    assert np.linalg.norm(case.result() - wanted) / np.linalg.norm(wanted) <= 5e-3


@needs_device
@pytest.mark.parametrize("item", (PREFILL, SPLIT), ids=lambda item: item.name)
def test_captured_into_a_graph_and_replayed(host: plugin_host.Host, item: Trial, worker: Worker) -> None:
    import torch

    case = bound(host, worker, item)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # the first launch of all is a captured one
        case.enqueue(torch.cuda.current_stream().cuda_stream)
    for _ in range(3):
        case.output.fill_(float("nan"))
        graph.replay()
        wanted = attend(item.case)
        assert np.linalg.norm(case.result() - wanted) / np.linalg.norm(wanted) <= 5e-3


@needs_device
def test_two_contexts_at_once(host: plugin_host.Host, worker: Worker) -> None:
    import torch

    device_arch()
    cases = [bound(host, worker, item) for item in (PREFILL, SPLIT)]
    streams = [torch.cuda.Stream() for _ in cases]
    failures: list[BaseException] = []

    def run(case: Bound, stream: Any) -> None:
        try:
            torch.cuda.set_device(0)
            for _ in range(200):
                case.enqueue(stream.cuda_stream)
        except BaseException as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=run, args=pair) for pair in zip(cases, streams, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    for case, item in zip(cases, (PREFILL, SPLIT), strict=True):
        wanted = attend(item.case)
        assert np.linalg.norm(case.result() - wanted) / np.linalg.norm(wanted) <= 5e-3


@needs_device
def test_shapes_change_and_nothing_is_loaded_again(host: plugin_host.Host, worker: Worker) -> None:
    import torch

    arch = device_arch()
    first = PREFILL
    content = kernels(first.request, layout_of(first), arch, worker)
    instance = host.instance(first.request.op_type, content, scale=0.125, empty_mean=True)
    cases = []
    for s_kv in (17, 400, 1000, 33, 2000, 64):
        item = long_trial("prefill", (2, 4, 2, min(s_kv, 300), s_kv, 64))
        cases.append(Bound(instance, item.case, item.dtype, None, "BHSD"))
        cases[-1].enqueue(0)
        wanted = attend(item.case)
        assert np.linalg.norm(cases[-1].result() - wanted) / np.linalg.norm(wanted) <= 5e-3

    def lost() -> int:
        """What 240 changes of shape take of the device's memory; with what others take and give meanwhile."""
        free = torch.cuda.mem_get_info()[0]
        for _ in range(40):
            for case in cases:
                case.shape()
                case.enqueue(0)
        torch.cuda.synchronize()
        return int(free - torch.cuda.mem_get_info()[0])

    # An image takes 100 KiB and more.  What is free is the device's and not ours: others may take some, not always.
    assert min(lost() for _ in range(5)) < 8 << 20, "device memory grows with every shape"


@needs_device
@pytest.mark.parametrize(
    ("batch", "s_q", "s_kv"), [(0, 5, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)], ids=["batch", "queries", "keys", "all"]
)
def test_empty_tensors(host: plugin_host.Host, worker: Worker, batch: int, s_q: int, s_kv: int) -> None:
    import torch

    first = PREFILL
    content = kernels(first.request, layout_of(first), device_arch(), worker)
    instance = host.instance(first.request.op_type, content, scale=0.125, empty_mean=True)
    shapes = [(batch, 4, s_q, 64), (batch, 2, s_kv, 64), (batch, 2, s_kv, 64)]
    descriptions = [plugin_host.describe(shape, "bfloat16") for shape in shapes]
    descriptions.append(plugin_host.describe((4,), "float32"))
    instance.shape(descriptions, plugin_host.describe(shapes[0], "bfloat16"))
    output = torch.full((max(1, batch * 4 * s_q * 64),), float("nan"), dtype=torch.bfloat16, device="cuda")
    filler = torch.zeros(1 << 12, device="cuda")
    instance.enqueue(instance.bind([filler.data_ptr()] * 4, output.data_ptr()), 0, 0)
    torch.cuda.synchronize()
    if batch * s_q:
        assert (output == 0).all(), "rows over no keys are zero"
    else:
        assert torch.isnan(output).all(), "nothing was written"


@needs_device
def test_wrong_calls_are_refused(host: plugin_host.Host, worker: Worker) -> None:
    first = PREFILL
    content = kernels(first.request, layout_of(first), device_arch(), worker)
    instance = host.instance(first.request.op_type, content, scale=0.125, empty_mean=True)
    good = [(2, 4, 9, 64), (2, 2, 9, 64), (2, 2, 9, 64)]
    slopes = plugin_host.describe((4,), "float32")
    for place, shape, message in (
        (1, (2, 3, 9, 64), "instead of"), (0, (2, 4, 9, 72), "instead of"), (2, (1, 2, 9, 64), "instead of"),
    ):  # fmt: skip
        shapes = [*good[:place], shape, *good[place + 1 :]]
        with pytest.raises(ValueError, match=message):
            instance.shape(
                [*(plugin_host.describe(s, "bfloat16") for s in shapes), slopes],
                plugin_host.describe((2, 4, 9, 64), "bfloat16"),
            )
    with pytest.raises(ValueError, match="type"):
        instance.shape(
            [*(plugin_host.describe(s, "float16") for s in good), slopes], plugin_host.describe(good[0], "float16")
        )


def fill(arch: int) -> None:
    """Compiles what these tests need."""
    with Worker() as running:
        for item in (*sample(STEP), *LONG, *SMALL):
            kernels(item.request, layout_of(item), arch, running)
        for item in CERTIFIED:
            kernels(item.request, layout_of(item), arch, running, skip=True)
        kernels(PREFILL.request, layout_of(PREFILL), arch, running, ptx=True)


if __name__ == "__main__":
    fill(int(sys.argv[1]))
