"""Two layers of a Jina-v2-base-shaped encoder and of a BLOOM-560m-shaped decoder, and attention alone, as ONNX graphs.

Weights are random; the graphs are what an exporter would write, with the bias computed from the mask's length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LOWEST = float(np.finfo(np.float32).min)


def slopes(heads: int) -> NDArray[np.float32]:
    """Those of the ALiBi paper."""
    power = 2 ** int(np.floor(np.log2(heads)))
    first = [2.0 ** (-8.0 * (k + 1) / power) for k in range(power)]
    more = [2.0 ** (-8.0 * (k + 1) / (2 * power)) for k in range(0, 2 * power, 2)]
    return np.array(first + more[: heads - power], np.float32)


@dataclass
class Builder:
    """Collects nodes and initializers."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, array: NDArray[np.generic]) -> str:
        """An initializer."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """The first output of a new node."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def shape(self, *extents: int) -> str:
        """A shape."""
        return self.constant(np.array(extents, np.int64))

    def linear(self, x: str, inside: int, outside: int) -> str:
        """A product with random weights and a bias."""
        weight = self.rng.standard_normal((inside, outside)).astype(np.float32) / np.sqrt(inside, dtype=np.float32)
        product = self.op("MatMul", x, self.constant(weight))
        return self.op("Add", product, self.constant(np.zeros(outside, np.float32)))

    def norm(self, x: str, width: int) -> str:
        """A layer norm."""
        scale, bias = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.op("LayerNormalization", x, self.constant(scale), self.constant(bias), axis=-1)

    def bias(self, kind: str, heads: int, mask: str) -> str:
        """[B, H, S, S]: the ALiBi bias, and the lowest number at padded and, in a decoder, later keys."""
        length = self.op("Squeeze", self.op("Slice", self.op("Shape", mask), self.shape(1), self.shape(2)))
        zero, one = self.constant(np.array(0, np.int64)), self.constant(np.array(1, np.int64))
        places = self.op("Range", zero, length, one)
        column = self.op("Unsqueeze", places, self.shape(1))
        distance = self.op("Sub", self.op("Unsqueeze", places, self.shape(0)), column)
        seen = self.op("Cast", self.op("Unsqueeze", mask, self.shape(1, 2)), to=TensorProto.BOOL)
        if kind == "decoder":
            early = self.op("LessOrEqual", distance, zero)
            seen = self.op("And", early, seen)
        else:
            distance = self.op("Neg", self.op("Abs", distance))
        spread = self.op("Cast", distance, to=TensorProto.FLOAT)
        alibi = self.op("Mul", spread, self.constant(slopes(heads).reshape(1, -1, 1, 1)))
        hidden = self.op("Where", seen, self.constant(np.float32(0)), self.constant(np.float32(LOWEST)))
        return self.op("Add", alibi, hidden)

    def attention(self, q: str, k: str, v: str, bias: str, width: int, standard: bool) -> str:
        """Softmax(q k^T / sqrt(D) + bias) v, or the operator Attention of opset 23."""
        if standard:
            return self.op("Attention", q, k, v, bias, scale=float(width**-0.5))
        transposed = self.op("Transpose", k, perm=[0, 1, 3, 2])
        scores = self.op("Mul", self.op("MatMul", q, transposed), self.constant(np.float32(width**-0.5)))
        weights = self.op("Softmax", self.op("Add", scores, bias), axis=-1)
        return self.op("MatMul", weights, v)

    def model(self, inputs: list[onnx.ValueInfoProto], output: str, rank: int, opset: int) -> onnx.ModelProto:
        """What was built."""
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{i}" for i in range(rank)])
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        graph = helper.make_graph(self.nodes, "bench", inputs, [result], self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


HEADS = {"encoder": 12, "decoder": 16}
WIDTH = {"encoder": 768, "decoder": 1024}


def _ints(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"])


def attention(kind: str, standard: bool = False) -> onnx.ModelProto:
    """Attention alone: queries, keys and values are inputs, the bias is computed."""
    build = Builder()
    heads = HEADS[kind]
    wide = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", heads, "S", 64]) for n in "qkv"]
    bias = build.bias(kind, heads, "mask")
    out = build.attention("q", "k", "v", bias, 64, standard)
    return build.model([*wide, _ints("mask")], out, 4, 23 if standard else 17)


def transformer(kind: str, standard: bool = False, layers: int = 2) -> onnx.ModelProto:
    """Token numbers in, hidden states out."""
    build = Builder()
    heads, width = HEADS[kind], WIDTH[kind]
    words = build.rng.standard_normal((1000, width)).astype(np.float32)
    x = build.norm(build.op("Gather", build.constant(words), "ids"), width)
    bias = build.bias(kind, heads, "mask")
    for _ in range(layers):
        start = build.norm(x, width) if kind == "decoder" else x
        parts = [build.linear(start, width, width) for _ in range(3)]
        split = [build.op("Reshape", part, build.shape(0, 0, heads, 64)) for part in parts]
        q, k, v = (build.op("Transpose", part, perm=[0, 2, 1, 3]) for part in split)
        mixed = build.op("Transpose", build.attention(q, k, v, bias, 64, standard), perm=[0, 2, 1, 3])
        x = build.op("Add", x, build.linear(build.op("Reshape", mixed, build.shape(0, 0, width)), width, width))
        inner = build.norm(x, width)
        up = build.linear(inner, width, 4 * width)
        active = build.op("Mul", up, build.op("Sigmoid", up))
        x = build.op("Add", x if kind == "decoder" else inner, build.linear(active, 4 * width, width))
    return build.model([_ints("ids"), _ints("mask")], x, 3, 23 if standard else 17)


def feeds(model: str, kind: str, batch: int, length: int) -> dict[str, NDArray[np.generic]]:
    """Inputs of ``attention`` or of a ``model``."""
    rng = np.random.default_rng(length)
    mask = np.ones((batch, length), np.int64)
    if model == "model":
        return {"ids": rng.integers(0, 1000, (batch, length)), "mask": mask}
    shape = (batch, HEADS[kind], length, 64)
    return {**{n: rng.standard_normal(shape).astype(np.float32) for n in "qkv"}, "mask": mask}
