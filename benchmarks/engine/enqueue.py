"""What a call of the plugin costs the calling thread, against a bare launch of an empty kernel.

    python benchmarks/engine/enqueue.py [--output results/]        (a CUDA device, PyTorch, g++)

Each figure is the median over rounds of 200 calls (fewer than the driver's queue holds, so that nothing waits for the
device), after a warm-up; plugin and bare launches alternate.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "engine"), str(ROOT / "tests" / "kernels")]

import plugin_host  # noqa: E402
import torch  # noqa: E402
from test_gpu_plugin import Bound, device_arch, kernels, layout_of, long_trial  # noqa: E402

CALLS, ROUNDS = 200, 60
EMPTY = b""".version 6.0
.target sm_50
.address_size 64
.visible .entry empty() { ret; }
"""
CASES = (
    ("prefill 1x4x256x64 (bulk copies)", long_trial("a", (1, 4, 4, 256, 256, 64))),
    ("prefill 1x4x256x80 (portable)", long_trial("b", (1, 4, 4, 256, 256, 80))),
    ("decode 1x8x300 (one launch)", long_trial("c", (1, 8, 8, 1, 300, 64))),
    ("decode 1x8x4000 (two launches)", long_trial("d", (1, 8, 8, 1, 4000, 64))),
)


def empty_kernel() -> ctypes.c_void_p:
    """A function that does nothing."""
    cuda = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert cuda.cuModuleLoadData(ctypes.byref(module), EMPTY) == 0
    assert cuda.cuModuleGetFunction(ctypes.byref(function), module, b"empty") == 0
    return function


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", type=Path, required=True, help="tests/engine/host.cpp as a shared library")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    arch = device_arch()
    host = plugin_host.Host(options.host)
    function = empty_kernel()
    results = []
    for name, item in CASES:
        content = kernels(item.request, layout_of(item), arch, None)
        instance = host.instance(item.request.op_type, content, scale=item.case.scale, empty_mean=True)
        case = Bound(instance, item.case, item.dtype, None, "BHSD")
        ours, bare = [], []
        for _ in range(ROUNDS):
            ours.append(instance.cost(case.pointers, case.start, 0, CALLS))
            torch.cuda.synchronize()
            bare.append(float(host.library.hostLaunchCost(function, 32, None, None, CALLS)))
            torch.cuda.synchronize()
        result = {
            "case": name,
            "enqueue_us": round(statistics.median(ours) / 1e3, 2),
            "bare_launch_us": round(statistics.median(bare) / 1e3, 2),
        }
        results.append(result)
        print(f"{name:36} {result['enqueue_us']:6.2f} us, bare launch {result['bare_launch_us']:6.2f} us")
    document = {"device": torch.cuda.get_device_name(), "calls": CALLS, "rounds": ROUNDS, "results": results}
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "enqueue.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
