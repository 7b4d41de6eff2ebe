"""Why the rewritten 16-bit model is the more accurate one, measured.

    python accuracy.py

BLOOM and Falcon add slope * j, which grows with the sequence.  Softmax does not see a constant per row, so in
exact arithmetic that is as good as slope * (j - i).  In float16 it is not: at j = 2000 and a slope of 1/2 the sum is
about 1000, where neighbouring float16 numbers are 0.5 apart, and the score of query and key is gone.  The fused node
is specified relative to the row, so near keys get small numbers and far keys hardly count.

Both models are evaluated operator by operator with every result rounded to its own type (onnx's reference
evaluator): what a runtime without any fusion does.  The oracle is the same attention in float64.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
import onnx.parser
from alibi_rewriter import Options, rewrite
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

HEADS, WIDTH = 4, 64
SLOPES = [0.5, 0.25, 0.0625, 0.00390625]

Array = npt.NDArray[np.floating]

LAYER = f"""
<ir_version: 8, opset_import: ["" : 17]>
layer (float16[B,{HEADS},S,{WIDTH}] q, float16[B,{HEADS},S,{WIDTH}] k, float16[B,{HEADS},S,{WIDTH}] v)
   => (float16[B,{HEADS},S,{WIDTH}] y)
<float[{HEADS},1,1] slopes32 = {{{", ".join(map(str, SLOPES))}}},
 float[2] numbers = {{0.125, -65504.0}}, int64 zero = {{0}}, int64 one = {{1}},
 int64[1] first = {{0}}, int64[1] second = {{1}}>
{{
   slopes = Cast<to=10>(slopes32)
   halves = Cast<to=10>(numbers)
   scale = Gather(halves, zero)
   hidden = Gather(halves, one)
   length = Shape<start=2, end=3>(k)
   keys = Squeeze(length, first)
   count = Range(zero, keys, one)
   j = Cast<to=10>(count)
   bias = Mul(slopes, j)
   i = Unsqueeze(count, second)
   later = Greater(count, i)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   biased = Add(scaled, bias)
   scores = Where(later, hidden, biased)
   p = Softmax<axis=-1>(scores)
   y = MatMul(p, v)
}}
"""


def oracle(q: Array, k: Array, v: Array) -> Array:
    """The attention in float64, of the float16 inputs."""
    q, k, v = (t.astype(np.float64) for t in (q, k, v))
    place = np.arange(q.shape[2])
    scores = q @ k.swapaxes(-1, -2) * 0.125 + np.array(SLOPES)[:, None, None] * (place - place[:, None])
    scores = np.where(place > place[:, None], -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def error(model: ModelProto, feeds: dict[str, Array], wanted: Array) -> float:
    """The largest error, relative to the largest output."""
    with np.errstate(over="ignore"):  # a hidden score minus the largest one is -inf, as it should be
        found = np.asarray(ReferenceEvaluator(model).run(None, feeds)[0], np.float64)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main() -> None:
    """Measure both models at several lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024])
    lengths = parser.parse_args().lengths
    original = onnx.parser.parse_model(LAYER)
    result = rewrite(original, options=Options(verify=False))
    if result.model is None:
        raise SystemExit("the layer was not rewritten")
    print(f"{'tokens':>6}  {'original':>9}  {'rewritten':>9}")
    for length in lengths:
        random = np.random.default_rng(length)
        feeds: dict[str, Array] = {
            name: random.standard_normal((1, HEADS, length, WIDTH)).astype(np.float16) for name in "qkv"
        }
        wanted = oracle(feeds["q"], feeds["k"], feeds["v"])
        errors = [error(model, feeds, wanted) for model in (original, result.model)]
        print(f"{length:>6}  {errors[0]:9.1e}  {errors[1]:9.1e}")


if __name__ == "__main__":
    main()
