"""A text encoder shaped like Jina-v2-small, two layers, random weights, as ONNX; needs NumPy and onnx only.

    python small.py                 # writes encoder.onnx

The symmetric bias -slope * |i - j| lies in the file as a table [1, H, L, L], of which every run cuts its S x S part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, numpy_helper

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST = 4096, 256, 8, 2, 1024

HEAD = """
<ir_version: 8, opset_import: ["" : 17]>
encoder (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask) => (float[batch, {width}] embedding)
<int64[1] one = {{1}}, int64[1] two = {{2}}, int64[2] last_two = {{2, 3}}, int64[2] start = {{0, 0}},
 int64[4] split = {{0, 0, {heads}, {head}}}, int64[3] merge = {{0, 0, {width}}}, int64[2] middle = {{1, 2}},
 float minus = {{-3.4028235e38}}, float unit = {{1.0}}, float scale = {{{scale}}},
 int64[1] end_axis = {{-1}}, int64[1] rows = {{1}}>
{{
   shape = Shape(input_ids)
   length = Slice(shape, one, two)
   ends = Concat<axis=0>(length, length)
   table = Slice(alibi, start, ends, last_two)
   seen = Cast<to=1>(attention_mask)
   unseen = Sub(unit, seen)
   hidden = Mul(unseen, minus)
   padding = Unsqueeze(hidden, middle)
   bias = Add(table, padding)
   x0 = Gather<axis=0>(words, input_ids)
"""

LAYER = """
   q{n} = MatMul(x{n}, wq{n})
   k{n} = MatMul(x{n}, wk{n})
   v{n} = MatMul(x{n}, wv{n})
   qs{n} = Reshape(q{n}, split)
   ks{n} = Reshape(k{n}, split)
   vs{n} = Reshape(v{n}, split)
   qt{n} = Transpose<perm=[0, 2, 1, 3]>(qs{n})
   kt{n} = Transpose<perm=[0, 2, 3, 1]>(ks{n})
   vt{n} = Transpose<perm=[0, 2, 1, 3]>(vs{n})
   qk{n} = MatMul(qt{n}, kt{n})
   scaled{n} = Mul(qk{n}, scale)
   scores{n} = Add(scaled{n}, bias)
   weights{n} = Softmax<axis=-1>(scores{n})
   mixed{n} = MatMul(weights{n}, vt{n})
   back{n} = Transpose<perm=[0, 2, 1, 3]>(mixed{n})
   joined{n} = Reshape(back{n}, merge)
   out{n} = MatMul(joined{n}, wo{n})
   sum{n} = Add(x{n}, out{n})
   normed{n} = LayerNormalization<axis=-1>(sum{n}, gain)
   up{n} = MatMul(normed{n}, up_w{n})
   active{n} = Sigmoid(up{n})
   gated{n} = Mul(up{n}, active{n})
   down{n} = MatMul(gated{n}, down_w{n})
   more{n} = Add(normed{n}, down{n})
   x{next} = LayerNormalization<axis=-1>(more{n}, gain)
"""

TAIL = """
   places = Unsqueeze(seen, end_axis)
   kept = Mul(x{last}, places)
   total = ReduceSum<keepdims=0>(kept, rows)
   embedding = LpNormalization<axis=-1, p=2>(total)
}}
"""


def encoder() -> ModelProto:
    """Ids and mask to one unit vector per text: the mean of the tokens that are not padding."""
    head = WIDTH // HEADS
    text = HEAD.format(width=WIDTH, heads=HEADS, head=head, scale=head**-0.5)
    text += "".join(LAYER.format(n=n, next=n + 1) for n in range(LAYERS)) + TAIL.format(last=LAYERS)
    rng = np.random.default_rng(0)
    places = np.arange(LONGEST, dtype=np.float32)
    slopes = 2.0 ** (-8.0 * np.arange(1, HEADS + 1, dtype=np.float32) / HEADS)
    arrays = {
        "alibi": -slopes[None, :, None, None] * np.abs(places[:, None] - places),
        "words": rng.standard_normal((VOCABULARY, WIDTH)),
        "gain": np.ones(WIDTH),
    }
    for n in range(LAYERS):
        arrays |= {f"{name}{n}": rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5 for name in ("wq", "wk", "wv", "wo")}
        arrays[f"up_w{n}"] = rng.standard_normal((WIDTH, 4 * WIDTH)) / WIDTH**0.5
        arrays[f"down_w{n}"] = rng.standard_normal((4 * WIDTH, WIDTH)) / (4 * WIDTH) ** 0.5
    declared = ", ".join(f"float[{', '.join(map(str, a.shape))}] {name}" for name, a in arrays.items())
    model = onnx.parser.parse_model(text.replace("<int64[1] one", f"<{declared}, int64[1] one", 1))
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Write the encoder with a free batch and sequence length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("encoder.onnx"))
    target = parser.parse_args().output
    target.write_bytes(encoder().SerializeToString())
    print(f"wrote {target}, {target.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
