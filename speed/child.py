"""The process that holds one model and runs it when it is told to.

Every model has a process of its own, so that its memory can be read and its death is not ours.  Requests are lines of
JSON on standard input, answers are lines of JSON on the descriptor that the environment names.

    {"open": PATH, "library": bool, "provider": "cpu"|"cuda", "threads": N}   -> {"claimed": N|null, "note": text}
    {"inputs": NPZ}                                                           -> {}
    {"runs": N}                                                               -> {"seconds": [...]}
    {"memory": true}                                                          -> {"host": N|null, "device": N|null}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..base.telemetry import CPU, CUDA

Record = dict[str, Any]

FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


class Server:
    """One session and its inputs."""

    def __init__(self) -> None:
        self.session: Any = None
        self.run: Callable[[], object] = lambda: None
        self.cuda = False
        self.free_before: int | None = None

    def open(self, request: Record) -> Record:
        """Makes the session."""
        import onnxruntime

        self.cuda = request["provider"] == "cuda"
        self.free_before = _free_on_device() if self.cuda else None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(request["threads"])
        options.log_severity_level = 4
        providers = [CUDA, CPU] if self.cuda else [CPU]
        path, library, note = str(request["open"]), bool(request["library"]), ""

        def make() -> Any:
            if not library:
                return onnxruntime.InferenceSession(path, options, providers=providers)
            from ..runtime.session import InferenceSession

            return InferenceSession(path, options, providers=providers)

        try:
            self.session = make()
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base
            # float16 files of some exporters do not load with onnxruntime's own optimizations.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            try:
                self.session = make()
            except Exception:  # noqa: BLE001  likewise
                raise error from None
            note = "loads only without onnxruntime's graph optimizations"
        claimed = None
        if library:
            from ..runtime import claimed_nodes

            claimed = claimed_nodes(self.session).claimed
        return {"claimed": claimed, "note": note}

    def give(self, request: Record) -> Record:
        """Loads inputs; a run that fails is answered as an error."""
        with np.load(request["inputs"], allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for entry in self.session.get_inputs():
            if entry.type in FLOATS and entry.name in arrays:
                arrays[entry.name] = arrays[entry.name].astype(FLOATS[entry.type])
        if self.cuda:
            binding = self.session.io_binding()
            for name, array in arrays.items():
                binding.bind_cpu_input(name, array)
            for entry in self.session.get_outputs():
                binding.bind_output(entry.name, "cuda")
            self.run = lambda: self.session.run_with_iobinding(binding)
        else:
            self.run = lambda: self.session.run(None, arrays)
        self.run()
        return {}

    def time(self, request: Record) -> Record:
        """Runs so many times; seconds of each."""
        seconds = []
        for _ in range(int(request["runs"])):
            started = time.perf_counter()
            self.run()
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds}

    def memory(self, request: Record) -> Record:
        """The most memory that this process has had, and what it holds on the device."""
        free = _free_on_device() if self.cuda else None
        device = None if free is None or self.free_before is None else max(0, self.free_before - free)
        return {"host": _peak_on_host(), "device": device}


def _peak_on_host() -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _free_on_device() -> int | None:
    """Free bytes of the first device, through the CUDA driver; None where there is none."""
    import ctypes

    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, whole = ctypes.c_size_t(), ctypes.c_size_t()
    steps: tuple[Callable[[], int], ...] = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
        lambda: cuda.cuCtxSetCurrent(context),
        lambda: cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(whole)),
    )
    return int(free.value) if all(step() == 0 for step in steps) else None


def main() -> int:
    """Answers requests until standard input ends."""
    server = Server()
    commands = {"open": server.open, "inputs": server.give, "runs": server.time, "memory": server.memory}
    with os.fdopen(int(os.environ["ALIBI_ANSWERS"]), "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            request: Record = json.loads(line)
            command = next(commands[name] for name in commands if name in request)
            try:
                answer = command(request)
            except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base
                answer = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:400]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
