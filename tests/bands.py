"""Attentions over any numbers of rows and keys, whose masks a test writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import ModelProto

HEADS = 4
HEADER = """<ir_version: 8, opset_import: ["" : {opset}]>
attention (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,8] v{inputs}) => (float[B,4,S,8] y)
<float[4,1,1] slopes = {{0.5, 0.25, 0.125, 0.0625}}, int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}},
 int64 three = {{3}}, float scale = {{0.35355338}}, float low = {{-3.4028235e38}}, int64[1] at2 = {{2}},
 float half = {{2.5}}, float bad = {{-10000}}, float none = {{0}}, bool yes = {{1}}>
{{
   kshape = Shape(k)
   keys1 = Gather(kshape, at2)
   keys = Reshape(keys1, scalar)
   qshape = Shape(q)
   rows1 = Gather(qshape, at2)
   rows = Reshape(rows1, scalar)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   past = Sub(keys, rows)
   rip = Range(past, keys, one)
   rcol = Reshape(rip, column)
   d = Sub(ji, rcol)
   back = Neg(d)
   bias = {bias}
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   biased = Add(scaled, bias)
{body}
   p = Softmax<axis=-1>(s)
   y = MatMul(p, v)
}}
"""


def model_of(body: Sequence[str], *, opset: int = 17, inputs: str = "", bias: str = "Mul(slopes, j)") -> ModelProto:
    """An attention with ALiBi whose scores ``s`` are made of ``biased`` by the given lines."""
    text = HEADER.format(opset=opset, inputs=inputs, body="\n".join(f"   {line}" for line in body), bias=bias)
    model = onnx.parser.parse_model(text)
    for name, values in (("scalar", np.zeros(0, np.int64)), ("column", np.array([-1, 1], np.int64))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def feeds(rows: int, keys: int, seed: int = 0) -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    sizes = {"q": rows, "k": keys, "v": keys}
    return {name: rng.standard_normal((2, HEADS, size, 8)).astype(np.float32) for name, size in sizes.items()}
