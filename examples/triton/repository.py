"""Write a model repository of Triton Inference Server for a rewritten file.

    python repository.py MODEL.alibi.onnx REPOSITORY [--name NAME] [--batch 8] [--gpu]

The server's onnxruntime backend runs it, with our library of custom ops.  A file whose caches are in place
(``rewrite --cache in-place=ROWS``) becomes a stateful model: the server keeps the buffers of every sequence, as one
memory for input and output.  Written from Triton's documentation; ``check`` runs what the server would, in onnxruntime.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import alibi_rewriter
import numpy as np
import onnx
import onnxruntime
from alibi_rewriter.graph.note import HeldCache, read_cache
from onnx import TensorProto

TYPES = {
    TensorProto.FLOAT: "TYPE_FP32", TensorProto.FLOAT16: "TYPE_FP16", TensorProto.BFLOAT16: "TYPE_BF16",
    TensorProto.INT64: "TYPE_INT64", TensorProto.INT32: "TYPE_INT32", TensorProto.BOOL: "TYPE_BOOL",
}  # fmt: skip
LIBRARY = "libalibi_onnxruntime.so"


def dims(value: onnx.ValueInfoProto) -> list[int]:
    """Extents behind the batch; -1 for one that may be any."""
    return [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim][1:]


def tensor(value: onnx.ValueInfoProto) -> str:
    """An input or an output."""
    shape = ", ".join(map(str, dims(value))) or "1"
    flat = "" if dims(value) else " reshape { shape: [ ] }"
    return f'  {{ name: "{value.name}" data_type: {TYPES[value.type.tensor_type.elem_type]} dims: [ {shape} ]{flat} }}'


def state(past: onnx.ValueInfoProto, present: str) -> str:
    """A buffer that the server keeps for a sequence, zeros at first."""
    kind, shape = TYPES[past.type.tensor_type.elem_type], dims(past)
    if min(shape) < 1:
        raise SystemExit(f"'{past.name}' is {shape}: write the file with --cache in-place=ROWS, so that it has a size")
    listed = ", ".join(map(str, shape))
    return (
        f'    {{ input_name: "{past.name}" output_name: "{present}" data_type: {kind} dims: [ {listed} ]\n'
        f"      use_same_buffer_for_input_output: true\n"
        f'      initial_state {{ data_type: {kind} dims: [ {listed} ] zero_data: true name: "zeros" }} }}'
    )


def configuration(model: onnx.ModelProto, name: str, *, batch: int, library: str, gpu: bool) -> str:
    """The text of ``config.pbtxt``."""
    held = read_cache({entry.key: entry.value for entry in model.metadata_props}) or HeldCache("", ())
    kept = {one for pair in held.buffers for one in pair}
    inputs = {value.name: value for value in model.graph.input}
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {batch}"]
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        lines += [f"{kind} [", ",\n".join(tensor(value) for value in values if value.name not in kept), "]"]
    if held.buffers:
        states = ",\n".join(state(inputs[past], present) for past, present in held.buffers)
        lines += ["sequence_batching {", "  direct { }", "  state [", states, "  ]", "}"]
    lines += [f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if gpu else 'KIND_CPU'} }} ]"]
    return "\n".join([*lines, f'model_operations {{ op_library_filename: [ "{library}" ] }}', ""])


def write(source: Path, repository: Path, name: str, *, batch: int, gpu: bool) -> Path:
    """The folder of the model: configuration, library, and version 1 with the model and its data files."""
    model = onnx.load(source, load_external_data=False)
    folder = repository / name
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copy2(alibi_rewriter.get_library_path(), folder / LIBRARY)
    shutil.copy2(source, version / "model.onnx")
    for file in sorted(set(data_files(model))):
        shutil.copy2(source.parent / file, version / file)
    text = configuration(model, name, batch=batch, library=str((folder / LIBRARY).resolve()), gpu=gpu)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    return folder


def data_files(model: onnx.ModelProto) -> Iterator[str]:
    """Where weights lie beside the model."""
    for one in model.graph.initializer:
        yield from (entry.value for entry in one.external_data if entry.key == "location")


def check(folder: Path) -> str:
    """Runs version 1 as the server's backend does: the library registered, one memory for past and present."""
    settings = onnxruntime.SessionOptions()
    settings.register_custom_ops_library(str(folder / LIBRARY))
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", settings, providers=["CPUExecutionProvider"])
    held = read_cache(session.get_modelmeta().custom_metadata_map)
    if held is None:
        return f"loaded, {len(session.get_inputs())} inputs"
    binding = session.io_binding()
    buffers = {}
    for entry in session.get_inputs():
        shape = [dim if isinstance(dim, int) else 1 for dim in entry.shape]
        kind = {"tensor(int64)": np.int64, "tensor(float16)": np.float16}.get(entry.type, np.float32)
        buffers[entry.name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.full(shape, kind == np.int64, kind))
        binding.bind_ortvalue_input(entry.name, buffers[entry.name])
    for past, present in held.buffers:
        binding.bind_ortvalue_output(present, buffers[past])
    kept = {present for _, present in held.buffers}
    for entry in session.get_outputs():
        if entry.name not in kept:
            binding.bind_output(entry.name)
    session.run_with_iobinding(binding)
    rows = [np.abs(buffers[past].numpy()).sum(axis=(0, 1, 3)) > 0 for past, _ in held.buffers]
    assert all(one[0] and not one[1:].any() for one in rows), "a step of one token writes one row of every buffer"
    return f"one step of one token, {len(rows)} buffers in place"


def main() -> None:
    """Write the repository, and run what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--gpu", action="store_true", help="for a GPU; needs a file with kernels (--embed-kernels)")
    options = parser.parse_args()
    name = options.name or options.model.name.removesuffix(".onnx").removesuffix(".alibi").replace(".", "_")
    folder = write(options.model, options.repository, name, batch=options.batch, gpu=options.gpu)
    print(f"wrote {folder}: {check(folder)}")


if __name__ == "__main__":
    main()
