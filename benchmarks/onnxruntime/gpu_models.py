"""BLOOM-560m, a slice of MPT-7B and Jina-v2-base with random weights: as ONNX files, and as PyTorch modules.

The graphs are what PyTorch's exporters write for these models in 16 bits: scores and bias in the model's type, softmax
in float32, BLOOM's bias from positions counted in the mask, MPT's added in float32, Jina's symmetric one beside an
additive mask.  Decoders take a cache.  Weights lie in a file beside the graph, and are the same numbers in every type.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from models import slopes
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float32": TensorProto.FLOAT}
NUMPY: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@dataclass(frozen=True)
class Shape:
    """What distinguishes the models.

    Attributes:
        layers, heads, depth: Their numbers, and the size of a head.
        inner: Width between the two products of a feed-forward part.
        words: Size of the vocabulary.
        cache: Keys and values of earlier tokens go in and out.
        biased: Products have biases.
    """

    layers: int
    heads: int
    depth: int
    inner: int
    words: int
    cache: bool
    biased: bool

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self.heads * self.depth


MODELS = {
    "bloom": Shape(24, 16, 64, 4096, 32768, True, True),
    "mpt": Shape(4, 32, 128, 16384, 50432, True, False),
    "jina": Shape(12, 12, 64, 3072, 30528, False, True),
}


@dataclass
class Writer:
    """Collects the nodes and constants of one model, and writes weights to a file as they come."""

    name: str
    shape: Shape
    dtype: str
    data: Any
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    known: dict[bytes, str] = field(default_factory=dict)
    pool: NDArray[np.float16] = field(
        default_factory=lambda: np.random.default_rng(0).standard_normal(1 << 22).astype(np.float16)
    )
    places: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def type(self) -> int:
        """The ONNX type of activations."""
        return TYPES[self.dtype]

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A small tensor, in the model's type unless told otherwise; the same one is kept once."""
        tensor = numpy_helper.from_array(np.asarray(value, dtype or NUMPY[self.dtype]))
        key = tensor.SerializeToString()
        if key not in self.known:
            tensor.name = self.known[key] = f"c{len(self.constants)}"
            self.constants.append(tensor)
        return self.known[key]

    def ints(self, *values: int) -> str:
        """A shape or axes."""
        return self.constant(values, np.int64)

    def number(self, value: int) -> str:
        """A scalar."""
        return self.constant(value, np.int64)

    def weight(self, *extents: int, spread: float) -> str:
        """Random numbers that 16 bits hold, in the data file; a stretch of one pool, begun elsewhere each time."""
        count = int(np.prod(extents))
        start = next(self.places) * 7919 % len(self.pool)
        values = np.resize(np.roll(self.pool, -start)[: min(count, len(self.pool))], count).astype(
            np.float32
        ) * np.float32(spread)
        raw = values.astype(np.float16).astype(NUMPY[self.dtype]).tobytes()
        tensor = TensorProto(name=f"w{len(self.constants)}", data_type=self.type, dims=extents)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", Path(self.data.name).name), ("offset", self.data.tell()), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(text))
        self.data.write(raw)
        self.data.write(bytes(-len(raw) % 4096))
        self.constants.append(tensor)
        return tensor.name

    def linear(self, x: str, inside: int, outside: int, *, biased: bool | None = None) -> str:
        """A product with weights."""
        made = self("MatMul", x, self.weight(inside, outside, spread=inside**-0.5))
        biased = self.shape.biased if biased is None else biased
        return self("Add", made, self.constant(np.full(outside, 0.01))) if biased else made

    def norm(self, x: str) -> str:
        """A layer norm."""
        ones, zeros = self.constant(np.ones(self.shape.width)), self.constant(np.zeros(self.shape.width))
        return self("LayerNormalization", x, ones, zeros, axis=-1)

    def gelu(self, x: str) -> str:
        """As exporters spell it."""
        inner = self("Add", self("Erf", self("Div", x, self.constant(2**0.5))), self.constant(1.0))
        return self("Mul", self("Mul", x, inner), self.constant(0.5))


def bias_terms(w: Writer) -> list[str]:
    """What is added to the scores, in order."""
    heads, last = w.shape.heads, w("Gather", w("Shape", "attention_mask"), w.number(1))
    keys = w("Range", w.number(0), last, w.number(1))
    kept = w("Unsqueeze", "attention_mask", w.ints(1, 2))
    lowest = w.constant(np.finfo(np.float16).min if w.dtype == "float16" else float(np.finfo(np.float32).min) / 1.01)
    if not w.shape.cache:  # Jina
        mask = w("Mul", w("Sub", w.constant(1.0), w("Cast", kept, to=w.type)), lowest)
        distance = w("Abs", w("Sub", w("Unsqueeze", keys, w.ints(0)), w("Unsqueeze", keys, w.ints(1))))
        table = w("Mul", w("Cast", distance, to=FLOAT), w.constant(-slopes(heads).reshape(1, heads, 1, 1), np.float32))
        return [mask, w("Cast", table, to=w.type)]
    rows = w("Gather", w("Shape", "input_ids"), w.number(1))
    own = w("Range", w("Sub", last, rows), last, w.number(1))
    early = w("LessOrEqual", w("Unsqueeze", keys, w.ints(0)), w("Unsqueeze", own, w.ints(1)))
    seen = w("And", early, w("Cast", kept, to=BOOL))
    slope = w.constant(slopes(heads).reshape(1, heads, 1, 1), np.float32)
    if w.name == "bloom":
        counted = w("Mul", w("Sub", w("CumSum", "attention_mask", w.number(1)), w.number(1)), "attention_mask")
        places = w("Cast", w("Unsqueeze", counted, w.ints(1, 2)), to=FLOAT)
        return [w("Cast", w("Mul", slope, places), to=w.type), w("Where", seen, w.constant(0.0), lowest)]
    distance = w("Sub", keys, w("Sub", last, w.number(1)))
    wide = w("Mul", slope, w("Cast", w("Unsqueeze", distance, w.ints(0, 1, 2)), to=FLOAT))
    hidden = w.constant(float(np.finfo(np.float32).min), np.float32)
    return [wide, w("Where", seen, w.constant(0.0, np.float32), hidden)]


def attention(w: Writer, x: str, layer: int, terms: list[str]) -> str:
    """From hidden states to hidden states, with the cache's tensors."""
    s = w.shape
    if s.cache:
        packed = w("Reshape", w.linear(x, s.width, 3 * s.width), w.ints(0, 0, 3, s.heads, s.depth))
        parts = [w("Gather", packed, w.number(i), axis=2) for i in range(3)]
    else:
        parts = [w("Reshape", w.linear(x, s.width, s.width), w.ints(0, 0, s.heads, s.depth)) for _ in range(3)]
    query, key, value = (w("Transpose", part, perm=[0, 2, 1, 3]) for part in parts)
    if s.cache:
        kept = []
        for part, new in (("key", key), ("value", value)):
            kept.append(f"present.{layer}.{part}")
            past = f"past_key_values.{layer}.{part}"
            w.nodes.append(helper.make_node("Concat", [past, new], [kept[-1]], axis=2))
        key, value = kept
    scores = w("MatMul", query, w("Transpose", key, perm=[0, 1, 3, 2]))
    scores = w("Mul", scores, w.constant(s.depth**-0.5))
    if w.name == "mpt":
        scores = w("Cast", scores, to=FLOAT)
    for term in terms:
        scores = w("Add", scores, term)
    if w.name != "mpt":
        scores = w("Cast", scores, to=FLOAT)
    weights = w("Cast", w("Softmax", scores, axis=-1), to=w.type)
    merged = w("Transpose", w("MatMul", weights, value), perm=[0, 2, 1, 3])
    return w.linear(w("Reshape", merged, w.ints(0, 0, s.width)), s.width, s.width)


def layer_of(w: Writer, x: str, number: int, terms: list[str]) -> str:
    """One layer."""
    s = w.shape
    if s.cache:
        x = w("Add", x, attention(w, w.norm(x), number, terms))
        return w("Add", x, w.linear(w.gelu(w.linear(w.norm(x), s.width, s.inner)), s.inner, s.width))
    x = w.norm(w("Add", x, attention(w, x, number, terms)))
    gate, up = w("Split", w.linear(x, s.width, 2 * s.inner, biased=False), outputs=2, axis=-1)
    return w.norm(w("Add", x, w.linear(w("Mul", w.gelu(gate), up), s.inner, s.width)))


def write(name: str, dtype: str, target: Path) -> None:
    """Writes a model and its weights.

    Args:
        name: A key of ``MODELS``.
        dtype: A key of ``TYPES``.
        target: The graph; weights go to a file beside it, ``.data`` for ``.onnx``.
    """
    s = MODELS[name]
    with target.with_suffix(".data").open("wb") as data:
        w = Writer(name, s, dtype, data)
        x = w.norm(w("Gather", w.weight(s.words, s.width, spread=1.0), "input_ids"))
        terms = bias_terms(w)
        for number in range(s.layers):
            x = layer_of(w, x, number, terms)
        w.nodes.append(helper.make_node("Identity", [w.norm(x) if s.cache else x], ["hidden"]))
        inputs = [helper.make_tensor_value_info("input_ids", INT64, ["B", "S"])]
        inputs.append(helper.make_tensor_value_info("attention_mask", INT64, ["B", "K" if s.cache else "S"]))
        outputs = [helper.make_tensor_value_info("hidden", w.type, ["B", "S", s.width])]
        if s.cache:
            final = w("Slice", "hidden", w.ints(-1), w.ints(2**31), w.ints(1))
            w.nodes.append(
                helper.make_node("MatMul", [final, w.weight(s.width, s.words, spread=s.width**-0.5)], ["logits"])
            )
            outputs.append(helper.make_tensor_value_info("logits", w.type, ["B", 1, s.words]))
            for number, part in itertools.product(range(s.layers), ("key", "value")):
                for kind, values, keys in (("past_key_values", inputs, "P"), ("present", outputs, "K")):
                    made = helper.make_tensor_value_info(
                        f"{kind}.{number}.{part}", w.type, ["B", s.heads, keys, s.depth]
                    )
                    values.append(made)
    graph = helper.make_graph(w.nodes, name, inputs, outputs, w.constants)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), target)
