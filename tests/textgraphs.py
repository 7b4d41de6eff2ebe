"""Golden graphs, and how to run a model.

A golden graph is a file of ``tests/golden`` in ONNX text syntax.  Its name is its path there, such as ``forms/linear``.
Lines that begin with ``#`` are comments.  Some of them say what has to become of the graph (``whole/test_golden.py``).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import ModelProto, TensorProto, helper

FOLDER = Path(__file__).parent / "golden"
GOLDEN = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.rglob("*.txt")
    if not path.name.endswith(".expected.txt")
)
EXTENTS = {"B": 2, "S": 5, "T": 7, "P": 3, "D": 8}


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def parsed(text: str) -> ModelProto:
    """The model of such a text; the parser of onnx knows no comments."""
    return onnx.parser.parse_model("\n".join(line for line in text.splitlines() if not line.startswith("#")))


def read(name: str) -> ModelProto:
    return parsed(text_of(name))


def said(name: str, key: str) -> str | None:
    """What the comment ``# key: ...`` of a golden graph says, if it has one."""
    match = re.search(rf"^# {key}: (.+)$", text_of(name), re.MULTILINE)
    return match.group(1) if match else None


ACCEPTED = [name for name in GOLDEN if said(name, "becomes") is not None]
REFUSED = [name for name in GOLDEN if said(name, "refused") is not None]


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
