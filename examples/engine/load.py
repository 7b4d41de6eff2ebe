"""Loads an engine on a GPU and runs it once on token ids; needs TensorRT-RTX (or TensorRT) and PyTorch.

python load.py model.engine [--module tensorrt]
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch


def main() -> None:
    """Runs the engine on zeros of its best shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--module", default="tensorrt_rtx", choices=("tensorrt_rtx", "tensorrt"))
    parser.add_argument("--plugin", type=Path, help="the plugin library, if the engine does not carry it")
    options = parser.parse_args()
    trt = importlib.import_module(options.module)
    logger = trt.Logger(trt.Logger.WARNING)
    runtime = trt.Runtime(logger)
    if options.plugin is not None:
        runtime.get_plugin_registry().load_library(str(options.plugin))
    else:
        runtime.engine_host_code_allowed = True  # only for engines that you built yourself
    engine = runtime.deserialize_cuda_engine(options.engine.read_bytes())
    if engine is None:
        raise SystemExit("the engine does not load on this GPU; the log says why")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    for name in inputs:
        if any(extent < 0 for extent in engine.get_tensor_shape(name)):
            context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[1]))
    types = {trt.DataType.INT64: torch.int64, trt.DataType.INT32: torch.int32, trt.DataType.HALF: torch.float16}
    types |= {trt.DataType.FLOAT: torch.float32, trt.DataType.BF16: torch.bfloat16, trt.DataType.BOOL: torch.bool}
    tensors = {}
    for name in names:
        kind = types[engine.get_tensor_dtype(name)]
        make = torch.ones if name in inputs else torch.empty
        tensors[name] = make(tuple(context.get_tensor_shape(name)), dtype=kind, device="cuda")
        context.set_tensor_address(name, tensors[name].data_ptr())
    stream = torch.cuda.Stream()
    if not context.execute_async_v3(stream.cuda_stream):
        raise SystemExit("the engine does not run")
    stream.synchronize()
    for name in names:
        if name not in inputs:
            print(name, tuple(tensors[name].shape), tensors[name].float().abs().mean().item())


if __name__ == "__main__":
    main()
