"""One rank of a test on real GPUs: ``gpu_rank.py FOLDER DTYPE [kill]``.

Runs FOLDER/rankR.onnx without and with a CUDA graph, on three inputs each, and writes what comes out to FOLDER/R.npz.
With ``kill`` rank 1 kills itself after its first run, and the others go on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from alibi_rewriter.runtime import collectives, get_library_path

sys.path.insert(0, str(Path(__file__).parent))
from alibi_rewriter.base import telemetry

onnxruntime = telemetry.onnxruntime()

INPUTS, ROWS, WIDTH = 3, (2, 5), 64


def inputs(number: int, dtype: str) -> np.ndarray:
    """The same on every rank."""
    return np.random.default_rng(number).standard_normal((*ROWS, WIDTH)).astype(dtype)


def session(path: Path, device: int, graph: bool) -> Any:
    """On the rank's GPU."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    given = {"device_id": str(device), "use_tf32": "0", "enable_cuda_graph": "1" if graph else "0"}
    made = onnxruntime.InferenceSession(path, options, providers=[("CUDAExecutionProvider", given)])
    assert made.get_providers()[0] == "CUDAExecutionProvider"
    return made


def replayed(made: Any, device: int, dtype: str) -> list[np.ndarray]:
    """What a captured graph makes of all inputs: it is captured with the first one and replayed with the others."""
    value = onnxruntime.OrtValue
    given = value.ortvalue_from_numpy(inputs(0, dtype), "cuda", device)
    out = value.ortvalue_from_shape_and_type((*ROWS, WIDTH), np.dtype(dtype).type, "cuda", device)
    binding = made.io_binding()
    binding.bind_ortvalue_input("x", given)
    binding.bind_ortvalue_output("y", out)
    found = []
    for number in range(INPUTS):
        given.update_inplace(inputs(number, dtype))
        for _ in range(3):
            made.run_with_iobinding(binding)
        found.append(np.array(out.numpy()))
    return found


def main() -> None:
    """Connects, runs, finishes."""
    folder, dtype, kills = Path(sys.argv[1]), sys.argv[2], "kill" in sys.argv[3:]
    with collectives.connect(timeout=60) as group:
        made = session(folder / f"rank{group.rank}.onnx", group.device, graph=False)
        plain = [made.run(None, {"x": inputs(number, dtype)})[0] for number in range(INPUTS)]
        if kills:
            if group.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            made.run(None, {"x": inputs(0, dtype)})
            raise SystemExit("a sum without rank 1 has come back")
        graph = replayed(session(folder / f"rank{group.rank}.onnx", group.device, graph=True), group.device, dtype)
        np.savez(folder / f"{group.rank}.npz", plain=np.stack(plain), graph=np.stack(graph))


if __name__ == "__main__":
    main()
