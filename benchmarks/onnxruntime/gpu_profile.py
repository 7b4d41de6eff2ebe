"""How long which kernels of a run take, per layer of the model: what PyTorch's profiler sees of onnxruntime."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

KINDS = (
    ("matrix products", r"gemm|nvjet|cutlass|xmma|cublas|gemv|splitk|wgmma"),
    ("softmax", r"softmax"),
    ("transposes, splits, concatenations", r"transpos|concat|split|gather|slice|memcpy|copy|expand|permute"),
    ("norms", r"norm"),
    ("casts", r"cast"),
    ("other elementwise", r""),
)
"""Names of kernels by kind; the first that matches."""

RUNS = 3


def kind_of(name: str) -> str:
    """What a kernel does; those of this project say so by their names."""
    if name.startswith("alibi_"):
        return "our attention"
    return next(kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE))


def profile(run: Callable[[], Any], layers: int) -> dict[str, Any]:
    """Microseconds per layer by kind of kernel, how many kernels, how long they are busy, and the longest ones."""
    import torch

    for _ in range(2):
        run()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(RUNS):
            run()
    cuda = torch.autograd.DeviceType.CUDA
    events = [
        (event.name(), event.duration_ns() / 1e3)
        for event in profiler.profiler.kineto_results.events()
        if event.device_type() == cuda
    ]
    times, counts, names = Counter[str](), Counter[str](), Counter[str]()
    for name, time in events:
        kind = kind_of(name)
        times[kind] += time / RUNS / layers
        counts[kind] += 1
        names[f"{kind}: {short(name)}"] += time / RUNS / layers
    return {
        "us_per_layer": {kind: round(time, 2) for kind, time in times.most_common()},
        "kernels_per_layer": {kind: round(count / RUNS / layers, 2) for kind, count in counts.items()},
        "busy_ms": round(sum(time for _, time in events) / 1e3 / RUNS, 4),
        "kernels": len(events) // RUNS,
        "most": {name: round(time, 2) for name, time in names.most_common(24)},
    }


def short(name: str) -> str:
    """A kernel's name without what all have."""
    name = re.sub(r"^void |onnxruntime::|contrib::|cuda::|\(anonymous namespace\)::", "", name)
    return name[:110]
