"""Members with key lengths on a device: what they compute against float64, and what a buffer costs that is not full.

    python benchmarks/kernels/lengths.py                     # some minutes: twelve bundles, then everything
    python benchmarks/kernels/lengths.py --compile-only 90   # the bundles alone; no device is needed
    python benchmarks/kernels/lengths.py --output results/   # and the figures as JSON

Correct: every attention below with lengths of every kind, NaN behind the keys, both alignments, and a captured graph
whose lengths change between its replays.  The exit status is 1 if one is not.

Timed: a decode over a full buffer beside the member without lengths, and over a quarter of it beside that member on
keys of its own that are as many.  Figures are ratios within one run.  Needs PyTorch and Triton.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from alibi_rewriter.kernels.compile.cache import cached_bundle
from alibi_rewriter.kernels.compile.compiler import Worker
from alibi_rewriter.kernels.launch.launcher import Bundle
from alibi_rewriter.kernels.launch.plan import Call, Tensor
from alibi_rewriter.kernels.requests import KernelRequest
from inputs import Run, interleaved_ms, slopes

DTYPES = ("float16", "bfloat16")
ACCEPTED = {"bfloat16": 5e-3, "float16": 1e-3}
"""Largest error in the norm, as in the tests of long sequences."""
DECODES = ((1, 32, 32, 1, 32768, 128), (8, 16, 16, 1, 8192, 64), (4, 32, 8, 2, 8192, 128))
"""Batch, heads, key heads, rows, capacity, head size."""
PREFILLS = ((4, 8, 8, 1000, 1024, 64), (3, 8, 4, 512, 2048, 128), (6, 4, 4, 640, 640, 128), (5, 4, 2, 90, 100, 64))
FORMS = ("causal", "symmetric")
TIMED = ((1, 32, 32, 1, 32768, 128), (8, 16, 16, 1, 8192, 64), (8, 32, 32, 1, 8192, 128))
ROUNDS = 40
SETS = 4
"""Buffers that a time is taken over, so that the cache does not hold the keys."""

Sizes = tuple[int, int, int, int, int, int]


def request_of(form: str, dtype: str, width: int, *, lengths: bool) -> KernelRequest:
    """What the member with or without lengths needs."""
    return KernelRequest.of(
        symmetric=form == "symmetric", causal=form == "causal", positions=False, mask_dtype=None, dtype=dtype,
        head_dim=width, lengths=lengths,
    )  # fmt: skip


def compile_all(root: Path, arch: int) -> None:
    """All bundles, some side by side."""
    widths = sorted({sizes[5] for sizes in (*DECODES, *PREFILLS, *TIMED)})
    wanted = [request_of(form, dtype, width, lengths=True) for form in FORMS for dtype in DTYPES for width in widths]
    wanted += [request_of("causal", dtype, width, lengths=False) for dtype in DTYPES for width in widths]

    def compiled(request: KernelRequest) -> None:
        with Worker() as worker:
            cached_bundle(request, root, [arch], worker=worker)

    with ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1)) as pool:
        list(pool.map(compiled, wanted))


class Kernels:
    """Bundles for this device, which are compiled already."""

    def __init__(self, root: Path) -> None:
        torch.zeros(1, device="cuda")  # makes PyTorch's context current
        self.root, self.arch = root, arch_here()
        self.kept: list[Any] = []

    def bundle(self, form: str, dtype: str, width: int, *, lengths: bool) -> Bundle:
        """Of the member with or without lengths."""
        return Bundle(cached_bundle(request_of(form, dtype, width, lengths=lengths), self.root, [self.arch]))

    def prepared(self, bundle: Bundle, operands: list[Any], lengths: Any = None, first: bool = False) -> Run:
        """A launch; its output is ``operands[3]``."""
        query, key, value, output, slope = operands
        call = Call(
            *(Tensor.of(x) for x in (query, key, value, output, slope)), query.shape[3] ** -0.5, True,
            key_lengths=None if lengths is None else Tensor.of(lengths), rows_first=first,
        )  # fmt: skip
        plan = bundle.plan(call)
        # Whatever is read of the workspace before it is written shows.
        workspace = torch.full((plan.workspace_bytes + 256,), 0xFF, dtype=torch.uint8, device="cuda")
        self.kept.append((bundle, operands, lengths, workspace))
        stream = torch.cuda.current_stream().cuda_stream
        return bundle.prepare(plan, -(-workspace.data_ptr() // 256) * 256, stream)


def arch_here() -> int:
    """The compute capability of the device, times ten."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * int(major) + int(minor)


def operands(sizes: Sizes, dtype: str, keys: int | None = None) -> list[Any]:
    """Query, key, value, output and slopes; with keys of another number than the capacity."""
    batch, heads, kv_heads, rows, capacity, width = sizes
    kind = getattr(torch, dtype)
    shapes = ((batch, heads, rows, width), *[(batch, kv_heads, keys or capacity, width)] * 2)
    made = [torch.randn(shape, device="cuda").to(kind) for shape in shapes]
    return [*made, torch.full_like(made[0], float("nan")), slopes(heads)]


def attend(given: list[Any], form: str, lengths: list[int], first: bool) -> Any:
    """The output in float64, from docs/specification.md, one head at a time."""
    query, key, value, output, slope = given
    found = torch.zeros(output.shape, dtype=torch.float64, device="cuda")
    rows = query.shape[2]
    for b, length in enumerate(lengths):
        keys = min(max(length, 0), key.shape[2])
        row = torch.arange(rows, device="cuda")[:, None] + (0 if first else keys - rows)
        distance = torch.arange(keys, device="cuda") - row
        for h in range(query.shape[1]):
            own = h * key.shape[1] // query.shape[1]
            k, v = key[b, own, :keys].double(), value[b, own, :keys].double()
            scores = query.shape[3] ** -0.5 * query[b, h].double() @ k.T
            scores += slope[h].double() * (-distance.abs() if form == "symmetric" else distance)
            if form == "causal":
                scores = scores.masked_fill(distance > 0, -torch.inf)
            if keys == 0:
                continue
            weights = torch.softmax(scores, 1)
            mean = v.mean(0).expand(rows, -1)
            found[b, h] = torch.where(weights.isnan(), 0.0, weights) @ v
            found[b, h] = torch.where(weights.isnan().all(1, keepdim=True), mean, found[b, h])
    return found


def spoil(given: list[Any], lengths: list[int]) -> None:
    """NaN behind the keys."""
    for b, length in enumerate(lengths):
        for tensor in given[1:3]:
            tensor[b, :, max(length, 0) :] = float("nan")


def kinds_of_lengths(batch: int, capacity: int) -> dict[str, list[int]]:
    """Full buffers, quarters, and every length side by side."""
    ragged = [capacity, 0, 1, capacity // 3, 17, -4, capacity // 2 + 1, 2 * capacity]
    return {
        "full": [capacity] * batch,
        "a quarter": [capacity // 4] * batch,
        "ragged": (ragged * batch)[:batch] if batch > 1 else [capacity // 3],
        "none": [0] * batch,
    }


def error(found: Any, wanted: Any) -> float:
    """In the norm; where nothing is wanted, what there is.  Infinite for NaN, which no comparison would show."""
    size = float(wanted.norm())
    off = float((found.double() - wanted).norm())
    share = off if size == 0 else off / size
    return share if math.isfinite(share) else math.inf


def check(kernels: Kernels, sizes: Sizes, form: str, dtype: str) -> dict[str, Any]:
    """The worst error of an attention with all kinds of lengths, and of a captured graph."""
    bundle = kernels.bundle(form, dtype, sizes[5], lengths=True)
    worst = 0.0
    for first in (False, True):
        for lengths in kinds_of_lengths(sizes[0], sizes[4]).values():
            given = operands(sizes, dtype)
            wanted = attend(given, form, lengths, first)
            spoil(given, lengths)
            kernels.prepared(bundle, given, torch.tensor(lengths, device="cuda"), first)()
            torch.cuda.synchronize()
            worst = max(worst, error(given[3], wanted))
            kernels.kept.clear()
    captured = replayed(kernels, bundle, sizes, form, dtype)
    right = worst <= ACCEPTED[dtype] and captured <= ACCEPTED[dtype]
    return {"sizes": sizes, "form": form, "dtype": dtype, "error": worst, "graph": captured, "right": right}


def replayed(kernels: Kernels, bundle: Bundle, sizes: Sizes, form: str, dtype: str) -> float:
    """The worst error of a graph that was captured once, as its buffer fills."""
    given = operands(sizes, dtype)
    lengths = torch.zeros(sizes[0], dtype=torch.int64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    kernels.prepared(bundle, given, lengths)()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        kernels.prepared(bundle, given, lengths)()
    worst = 0.0
    for filled in (sizes[3], sizes[4] // 5, sizes[4]):
        lengths.fill_(filled)
        given[3].fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        worst = max(worst, error(given[3], attend(given, form, [filled] * sizes[0], False)))
    kernels.kept.clear()
    return worst


def timed(kernels: Kernels, sizes: Sizes, dtype: str) -> dict[str, Any]:
    """Milliseconds of a decode with and without lengths, full and a quarter full."""
    capacity = sizes[4]
    competitors: dict[str, list[Run]] = {}
    for name, keys in (("plain", capacity), ("plain, a quarter", capacity // 4)):
        bundle = kernels.bundle("causal", dtype, sizes[5], lengths=False)
        count = SETS * capacity // keys
        competitors[name] = [kernels.prepared(bundle, operands(sizes, dtype, keys)) for _ in range(count)]
    bundle = kernels.bundle("causal", dtype, sizes[5], lengths=True)
    for name, keys, count in (("lengths", capacity, SETS), ("lengths, a quarter", capacity // 4, 4 * SETS)):
        lengths = torch.full((sizes[0],), keys, device="cuda")
        competitors[name] = [kernels.prepared(bundle, operands(sizes, dtype), lengths) for _ in range(count)]
    found = interleaved_ms(competitors, ROUNDS)
    kernels.kept.clear()
    full = found["lengths"] / found["plain"]
    quarter = found["lengths, a quarter"] / found["plain, a quarter"]
    return {"sizes": sizes, "dtype": dtype, "ms": found, "full": full, "a quarter": quarter}


def main() -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=Path, default=Path("build/bundles"), help="where compiled kernels are kept")
    parser.add_argument("--output", type=Path, help="a folder for lengths.json")
    parser.add_argument("--no-times", action="store_true", help="only what they compute")
    parser.add_argument("--compile-only", type=int, metavar="ARCH", help="compile for it, and nothing else")
    options = parser.parse_args()
    compile_all(options.bundles, options.compile_only or arch_here())
    if options.compile_only:
        return 0
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    checked, times = [], []
    kernels = Kernels(options.bundles)
    for sizes in (*DECODES, *PREFILLS):
        for form in FORMS:
            for dtype in DTYPES:
                checked.append(check(kernels, sizes, form, dtype))
                _say(checked[-1])
    for sizes in () if options.no_times else TIMED:
        for dtype in DTYPES:
            times.append(timed(kernels, sizes, dtype))
            torch.cuda.empty_cache()
            _say(times[-1])
    document = {"device": torch.cuda.get_device_name(), "checked": checked, "times": times}
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "lengths.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    wrong = [one for one in checked if not one["right"]]
    sys.stdout.write(f"{len(checked)} checked, {len(wrong)} wrong\n")
    return 1 if wrong else 0


def _say(one: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(one) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
