"""Graphs in ONNX text syntax from ``tests/golden``, and how to run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import ModelProto, TensorProto, helper

FOLDER = Path(__file__).parent / "golden"
EXTENTS = {"B": 2, "S": 5, "T": 7, "P": 3, "D": 8}


def read(name: str) -> ModelProto:
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return onnx.parser.parse_model("\n".join(line for line in lines if not line.startswith("#")))


def feeds_of(model: ModelProto, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    random = np.random.default_rng(seed)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or EXTENTS[d.dim_param] for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.elem_type in (TensorProto.BOOL, TensorProto.INT64):
            drawn = random.random(shape) < 0.7
            feeds[value.name] = np.asarray(drawn | (np.ndim(drawn) == 0), dtype)
        else:
            drawn = random.standard_normal(shape)
            feeds[value.name] = np.asarray(drawn if shape else abs(drawn) + 0.1, dtype)
    return feeds


def run(model: ModelProto, feeds: dict[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    found: list[npt.NDArray[np.generic]] = session.run(None, feeds)
    return found


def fused(model: ModelProto) -> list[str]:
    found: list[str] = []
    pending = [model.graph]
    while pending:
        for node in pending.pop().node:
            if node.domain == "alibi":
                found.append(node.op_type)
            pending.extend(a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
    return found
