"""Small decoders to order: how projections are packed, which features there are, whether there is a cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from large import external
from onnx import ModelProto, TensorProto, helper
from tiny import LOWEST, Graph

VOCABULARY = 48


@dataclass(frozen=True)
class Decoder:
    """What to make.

    Attributes:
        heads, key_heads: Of every attention.
        packing: ``separate`` projections; ``thirds``, [q | k | v] in one; ``interleaved``, [H, 3, D] in one.
        features: ``plain`` or ``gated``; ``merged``, with gate and other half in one product; or ``mixed``, which
            sums over what would be cut.
        biases: Products have biases.
        cache: Past keys and values are inputs, present ones outputs.
        half: In float16.
        layers: How many.
        width: Of a head.
        hidden: Features between the two products of a layer.
        data: The name of a file that matrices are said to be in, one behind the other; they have no content then.
    """

    heads: int = 4
    key_heads: int = 4
    packing: str = "separate"
    features: str = "plain"
    biases: bool = True
    cache: bool = False
    half: bool = False
    layers: int = 1
    width: int = 8
    hidden: int = 96
    data: str = ""

    @property
    def model_width(self) -> int:
        return self.heads * self.width


def decoder(what: Decoder, seed: int = 0) -> ModelProto:
    return Maker(what, seed).made()


def decoder_with_data(what: Decoder) -> tuple[ModelProto, int]:
    """A decoder whose matrices are in a file, and how many bytes that has."""
    maker = Maker(what, 0)
    return maker.made(), maker.size


class Maker:
    def __init__(self, what: Decoder, seed: int) -> None:
        self.what = what
        self.random = np.random.default_rng(seed)
        self.graph = Graph(18)
        self.dtype: npt.DTypeLike = np.float16 if what.half else np.float32
        self.type = TensorProto.FLOAT16 if what.half else TensorProto.FLOAT
        self.outputs: list[tuple[str, str]] = []
        self.size = 0

    def weight(self, *shape: int) -> str:
        if self.what.data and len(shape) == 2:
            name = f"c{len(self.graph.constants)}"
            self.graph.constants.append(external(name, list(shape), self.type, self.what.data, self.size))
            self.size += math.prod(shape) * np.dtype(self.dtype).itemsize
            return name
        scale = 1.0 if len(shape) == 1 else shape[0] ** -0.5
        return self.graph.const(self.random.standard_normal(shape) * scale, self.dtype)

    def number(self, value: float) -> str:
        return self.graph.const(value, self.dtype)

    def product(self, value: str, rows: int, columns: int) -> str:
        made = self.graph.add("MatMul", value, self.weight(rows, columns))
        return self.graph.add("Add", made, self.weight(columns)) if self.what.biases else made

    def norm(self, value: str) -> str:
        width = self.what.model_width
        return self.graph.add("LayerNormalization", value, self.weight(width), self.weight(width), axis=-1)

    def made(self) -> ModelProto:
        g, what = self.graph, self.what
        current = g.add(
            "Gather", self.weight(VOCABULARY, what.model_width), g.input("ids", ("B", "S"), TensorProto.INT64)
        )
        for layer in range(what.layers):
            attended = self.attention(self.norm(current), layer)
            current = g.add("Add", current, attended)
            current = g.add("Add", current, self.mlp(self.norm(current)))
        logits = g.add("MatMul", self.norm(current), self.weight(what.model_width, VOCABULARY))
        self.outputs.insert(0, (logits, "logits"))
        return self.model()

    def model(self) -> ModelProto:
        g = self.graph
        for made, name in self.outputs:
            for node in g.nodes:
                for names in (node.input, node.output):
                    for position, each in enumerate(names):
                        names[position] = name if each == made else each
        results = [helper.make_tensor_value_info(name, self.type, None) for _, name in self.outputs]
        body = helper.make_graph(g.nodes, "decoder", g.inputs, results, g.constants)
        return helper.make_model(body, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=10)

    # --- attention -------------------------------------------------------------------------------------

    def heads_of(self, value: str, heads: int) -> str:
        shape = self.graph.ints(0, 0, heads, self.what.width)
        return self.graph.add("Transpose", self.graph.add("Reshape", value, shape), perm=[0, 2, 1, 3])

    def projected(self, value: str) -> tuple[str, str, str]:
        g, what = self.graph, self.what
        width, columns = what.model_width, what.heads * what.width
        keys = what.key_heads * what.width
        if what.packing == "separate":
            q, k, v = (self.product(value, width, n) for n in (columns, keys, keys))
        elif what.packing == "thirds":
            packed = self.product(value, width, columns + 2 * keys)
            q = g.add("Split", packed, g.ints(columns, keys, keys), results=3, axis=-1)
            k, v = f"{q}_1", f"{q}_2"
        else:
            packed = self.product(value, width, 3 * columns)
            cut = g.add("Reshape", packed, g.ints(0, 0, what.heads, 3, what.width))
            parts = [g.add("Gather", cut, g.number(k), axis=3) for k in range(3)]
            q, k, v = (g.add("Transpose", part, perm=[0, 2, 1, 3]) for part in parts)
            return q, k, v
        return self.heads_of(q, what.heads), self.heads_of(k, what.key_heads), self.heads_of(v, what.key_heads)

    def repeated(self, value: str) -> str:
        """As many key heads as query heads."""
        g, what = self.graph, self.what
        if what.heads == what.key_heads:
            return value
        group = what.heads // what.key_heads
        batch, length = (g.add("Unsqueeze", g.extent(value, axis), g.ints(0)) for axis in (0, 2))
        wide = g.add("Concat", batch, g.ints(what.key_heads, group), length, g.ints(what.width), axis=0)
        merged = g.add("Concat", batch, g.ints(what.heads), length, g.ints(what.width), axis=0)
        return g.add("Reshape", g.add("Expand", g.add("Unsqueeze", value, g.ints(2)), wide), merged)

    def attention(self, value: str, layer: int) -> str:
        g, what = self.graph, self.what
        q, k, v = self.projected(value)
        if what.cache:
            k, v = (self.cached(one, f"{kind}_{layer}") for one, kind in ((k, "key"), (v, "value")))
        distance = g.distance(q, k)
        slopes = np.array([2.0 ** -(h + 1) for h in range(what.heads)], self.dtype).reshape(-1, 1, 1)
        bias = g.add("Mul", g.add("Cast", distance, to=self.type), g.const(slopes, self.dtype))
        turned = g.add("Transpose", self.repeated(k), perm=[0, 1, 3, 2])
        scores = g.add("Add", g.add("Mul", g.add("MatMul", q, turned), self.number(what.width**-0.5)), bias)
        later = g.add("Greater", distance, g.number(0))
        lowest = -65504.0 if what.half else LOWEST
        hidden = g.add("Where", later, self.number(lowest), scores)
        mixed = g.add("MatMul", g.add("Softmax", hidden, axis=-1), self.repeated(v))
        rows = g.add("Transpose", mixed, perm=[0, 2, 1, 3])
        merged = g.add("Reshape", rows, g.ints(0, 0, what.heads * what.width))
        return self.product(merged, what.heads * what.width, what.model_width)

    def cached(self, value: str, name: str) -> str:
        g = self.graph
        past = g.input(f"past_{name}", ("B", self.what.key_heads, "P", self.what.width), self.type)
        made = g.add("Concat", past, value, axis=2)
        self.outputs.append((made, f"present_{name}"))
        return made

    # --- features --------------------------------------------------------------------------------------

    def mlp(self, value: str) -> str:
        g, what = self.graph, self.what
        width, hidden = what.model_width, what.hidden
        if what.features == "plain":
            inner = g.add("Tanh", self.product(value, width, hidden))
        elif what.features == "gated":
            gate = g.add("Sigmoid", self.product(value, width, hidden))
            inner = g.add("Mul", gate, self.product(value, width, hidden))
        elif what.features == "merged":
            gate = g.add("Split", self.product(value, width, 2 * hidden), g.ints(hidden, hidden), results=2, axis=-1)
            inner = g.add("Mul", g.add("Sigmoid", gate), f"{gate}_1")
        else:
            first = self.product(value, width, hidden)
            inner = g.add("Sub", first, g.add("ReduceMean", first, g.ints(-1)))
        return self.product(inner, hidden, width)
