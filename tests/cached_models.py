"""Small decoders with a cache, in the layouts that exporters write."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, numpy_helper

H, D, F = 3, 4, 12

CACHES = {
    "BHSD": ("[B,3,P,4]", "[B,3,P,4]", "[B,3,T,4]", "[B,3,T,4]"),
    "BSHD": ("[B,P,3,4]", "[B,P,3,4]", "[B,T,3,4]", "[B,T,3,4]"),
    "merged": ("[N,4,P]", "[N,P,4]", "[N,4,T]", "[N,T,4]"),
}
"""Shapes of past keys, past values, present keys and present values."""

JOINED = {
    "BHSD": """
   kh = Transpose<perm=[0, 2, 1, 3]>(k4)
   vh = Transpose<perm=[0, 2, 1, 3]>(v4)
   present_k = Concat<axis=2>(past_k, kh)
   present_v = Concat<axis=2>(past_v, vh)
   kt = Transpose<perm=[0, 1, 3, 2]>(present_k)
   vall = Identity(present_v)""",
    "BSHD": """
   present_k = Concat<axis=1>(past_k, k4)
   present_v = Concat<axis=1>(past_v, v4)
   kt = Transpose<perm=[0, 2, 3, 1]>(present_k)
   vall = Transpose<perm=[0, 2, 1, 3]>(present_v)""",
    "merged": """
   kh = Transpose<perm=[0, 2, 3, 1]>(k4)
   vh = Transpose<perm=[0, 2, 1, 3]>(v4)
   rows = Shape<start=1, end=2>(x)
   km_shape = Concat<axis=0>(minus, width, rows)
   vm_shape = Concat<axis=0>(minus, rows, width)
   km = Reshape(kh, km_shape)
   vm = Reshape(vh, vm_shape)
   present_k = Concat<axis=2>(past_k, km)
   present_v = Concat<axis=1>(past_v, vm)
   all_keys = Shape<start=2, end=3>(present_k)
   kt_shape = Concat<axis=0>(minus, heads, width, all_keys)
   va_shape = Concat<axis=0>(minus, heads, all_keys, width)
   kt = Reshape(present_k, kt_shape)
   vall = Reshape(present_v, va_shape)""",
}
"""How new keys and values get behind the past, up to ``kt`` [B, H, D, T] and ``vall`` [B, H, T, D]."""

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
decoder (float[B,S,12] x, {mask}float{past_k} past_k, float{past_v} past_v)
   => (float[B,S,12] y, float{present_k} present_k, float{present_v} present_v{more})
<float[3,1,1] slopes = {{0.5, 0.25, 0.0625}}, float scale = {{0.5}}, float low = {{-3.4028235e38}},
 int64 zero = {{0}}, int64 one = {{1}}, int64[1] axis0 = {{0}}, int64[1] axis1 = {{1}}, int64[2] axis12 = {{1, 2}},
 int64[1] minus = {{-1}}, int64[1] width = {{4}}, int64[1] heads = {{3}}, int64[4] apart = {{0, 0, 3, 4}},
 int64[3] merged = {{0, 0, 12}}>
{{
   qkv = MatMul(x, packed)
   q, k, v = Split<axis=2>(qkv)
   q4 = Reshape(q, apart)
   k4 = Reshape(k, apart)
   v4 = Reshape(v, apart)
   qh = Transpose<perm=[0, 2, 1, 3]>(q4){joined}
   dots = MatMul(qh, kt)
   scaled = Mul(dots, scale)
   total = Shape<start=3, end=4>(scaled)
   keys = Squeeze(total, axis0)
   ji = Range(zero, keys, one)
   j = Cast<to=1>(ji)
   sloped = Mul(slopes, j)
   biased = Add(scaled, sloped)
   new = Shape<start=1, end=2>(x)
   count = Squeeze(new, axis0)
   first = Sub(keys, count)
   ri = Range(zero, count, one)
   row = Add(ri, first)
   column = Unsqueeze(row, axis1)
   after = Greater(ji, column)
   causal = Where(after, low, biased){masked}
   p = Softmax<axis=-1>(causal)
   out = MatMul(p, vall)
   rows_first = Transpose<perm=[0, 2, 1, 3]>(out)
   flat = Reshape(rows_first, merged)
   y = MatMul(flat, output){tail}
}}
"""

MASKED = """
   given = Cast<to=9>(attention_mask)
   wide = Unsqueeze(given, axis12)
   unmasked = Where(wide, causal, low)"""


def decoder(layout: str = "BHSD", *, masked: bool = False, tail: str = "", more: str = "") -> ModelProto:
    """A model of one attention, with weights from one seed.

    Args:
        layout: Of the caches.
        masked: With a padding mask [B, T].
        tail: Further nodes.
        more: Further outputs.
    """
    past_k, past_v, present_k, present_v = CACHES[layout]
    text = TEXT.format(
        mask="int64[B,T] attention_mask, " if masked else "",
        past_k=past_k, past_v=past_v, present_k=present_k, present_v=present_v,
        joined=JOINED[layout], masked=MASKED if masked else "", tail=tail, more=more,
    )  # fmt: skip
    if masked:
        text = text.replace("Softmax<axis=-1>(causal)", "Softmax<axis=-1>(unmasked)")
    made = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    for name, shape in (("packed", (F, 3 * F)), ("output", (F, F))):
        made.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name))
    return made
