"""Models of one fused node: made, fed, and answered by the oracle."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import oracle
from alibi_rewriter.fused.family import FusedAttention, Variant
from alibi_rewriter.fused.layout import OPERANDS
from alibi_rewriter.runtime.session import InferenceSession
from numpy.typing import NDArray
from onnx import TensorProto, helper

RANKS = {
    "query": 4, "key": 4, "value": 4, "slopes": 1, "mask": 4, "key_positions": 2, "key_bias": 3, "key_lengths": 1
}  # fmt: skip
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LOWEST = np.finfo(np.float32).min

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Sizes:
    """Extents of a call; ``mask`` names the axes that the mask has, of B, H, S_q, S_kv."""

    rows: int
    keys: int
    width: int = 16
    value_width: int = 16
    batch: int = 1
    heads: int = 2
    kv_heads: int = 2
    mask: str = "bhqk"


def ranks(node: FusedAttention) -> dict[str, int]:
    """How many axes each input has."""
    return {**RANKS, **{name: node.layout[name].rank for name in OPERANDS}}


def model(node: FusedAttention, dtype: str = "float32", mask_dtype: str = "float32", nodes: int = 1) -> bytes:
    """A file whose graph is the node, or several that feed each other's query."""
    variant = node.variant
    axes = ranks(node)

    def kind(name: str) -> int:
        if name in ("query", "key", "value"):
            return TYPES[dtype]
        if name == "mask":
            return TensorProto.BOOL if variant.mask == "boolean" else TYPES[mask_dtype]
        return TensorProto.INT64 if name == "key_lengths" else TensorProto.FLOAT

    made = []
    for number in range(nodes):
        inputs = list(variant.inputs)
        if number:
            inputs[0] = f"output{number - 1}"
        name = "output" if number == nodes - 1 else f"output{number}"
        made.append(helper.make_node(variant.op_type, inputs, [name], domain="alibi", **node.attributes()))
    inputs = [helper.make_tensor_value_info(n, kind(n), [f"{n}{i}" for i in range(axes[n])]) for n in variant.inputs]
    kind_out = TYPES[dtype]
    if dtype == "bfloat16":  # which numpy does not know
        made[-1].output[0] = "narrow"
        kind_out = TensorProto.FLOAT
        made.append(helper.make_node("Cast", ["narrow"], ["output"], to=kind_out))
    output = helper.make_tensor_value_info("output", kind_out, None)
    graph = helper.make_graph(made, "node", inputs, [output])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("alibi", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@functools.lru_cache(maxsize=16)
def session(content: bytes, threads: int = 0) -> InferenceSession:
    """A session of the library, kept for the next inputs of the same model.

    Args:
        content: The model.
        threads: Of onnxruntime; as many as there are cores unless told otherwise.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return InferenceSession(content, options)


def feeds(variant: Variant, sizes: Sizes, rng: np.random.Generator, dtype: str = "float32") -> Arrays:
    """Random inputs: masks and key biases that hide some keys and, now and then, every key of a row."""
    b, h, kv, sq, sk = sizes.batch, sizes.heads, sizes.kv_heads, sizes.rows, sizes.keys
    kind = DTYPES[dtype]
    made: Arrays = {
        "query": rng.standard_normal((b, h, sq, sizes.width)).astype(kind),
        "key": rng.standard_normal((b, kv, sk, sizes.width)).astype(kind),
        "value": rng.standard_normal((b, kv, sk, sizes.value_width)).astype(kind),
        "slopes": (2.0 ** -np.arange(1, h + 1) * rng.choice((1.0, 1.0, -1.0, 0.1))).astype(np.float32),
    }
    if "mask" in variant.inputs:
        shape = tuple(n if axis in sizes.mask else 1 for axis, n in zip("bhqk", (b, h, sq, sk), strict=True))
        if variant.mask == "boolean":
            made["mask"] = rng.random(shape) < 0.6
        else:
            mask = 3 * rng.standard_normal(shape)
            mask[rng.random(shape) < 0.3] = -np.inf
            mask[rng.random(shape) < 0.1] = LOWEST
            made["mask"] = mask.astype(np.float32)
    if "key_positions" in variant.inputs:
        made["key_positions"] = np.cumsum(rng.random((b, sk)) < 0.8, axis=1).astype(np.float32)
    if "key_bias" in variant.inputs:
        bias = 2 * rng.standard_normal((b, rng.choice((1, h)), sk))
        bias[rng.random(bias.shape) < 0.2] = -np.inf
        made["key_bias"] = bias.astype(np.float32)
    if "key_lengths" in variant.inputs:
        made["key_lengths"] = rng.integers(-1, sk + 2, b)
    return made


def answer(node: FusedAttention, given: Arrays) -> NDArray[np.float64]:
    """The oracle's output, which reads the attributes as they stand in the node."""
    said: dict[str, Any] = node.attributes()
    views = said["layout"] == "views"
    operands = {
        name: oracle.operand(given[name], *(said[f"{name}_{part}"] for part in ("shape", "starts", "ends", "perm")))
        for name in OPERANDS
        if views
    }
    names = ("query", "key", "value", "slopes", "mask", "key_positions", "key_bias", "key_lengths")
    result = oracle.attention(
        *({**given, **operands}.get(name) for name in names),  # type: ignore[arg-type]
        scale=node.scale,
        bias=node.variant.form,
        causal=node.variant.causal,
        empty_rows=node.empty_rows.value,
        window_left=node.window_left,
        window_right=node.window_right,
        rows=node.rows.value,
    )
    return oracle.output(result, said["output_perm"], said["output_shape"]) if views else result


def error(got: NDArray[Any], wanted: NDArray[np.float64], given: Arrays) -> float:
    """The largest difference as a part of the largest finite value; NaN where only one of both is."""
    value = np.asarray(given["value"], np.float64)
    largest = np.abs(value[np.isfinite(value)]).max(initial=1e-30)
    return float(np.abs(np.asarray(got, np.float64) - wanted).max(initial=0.0) / largest)
