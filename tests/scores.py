"""Attentions over 4 heads whose scores a test writes, judged by the proof alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx.parser
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options, PassResult
from onnx import ModelProto
from textgraphs import run

ALONE = Options(verify=False, probe=False)


def model(body: str, inputs: str = "", constants: str = "") -> ModelProto:
    """An attention over 4 heads: the body makes its scores ``s``.

    ``d`` is key less row, as floats, and ``later`` is true at keys after the row.
    """
    return onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : 17]>
    attention (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v {inputs}) => (float[B,4,S,8] y)
    <float[4,1,1] slopes = {{0.5, 0.25, 0.125, 0.0625}}, int64 zero = {{0}}, int64 one = {{1}},
     float scale = {{0.35355338}}, int64[1] axis0 = {{0}}, int64[1] axis1 = {{1}}, float low = {{-3.4028235e38}},
     float none = {{0}} {constants}>
    {{
       extent = Shape<start=2, end=3>(k)
       keys = Squeeze(extent, axis0)
       ji = Range(zero, keys, one)
       rcol = Unsqueeze(ji, axis1)
       rel = Sub(ji, rcol)
       d = Cast<to=1>(rel)
       later = Greater(ji, rcol)
       kt = Transpose<perm=[0, 1, 3, 2]>(k)
       qk = MatMul(q, kt)
       scaled = Mul(qk, scale)
       {body}
       p = Softmax<axis=-1>(s)
       y = MatMul(p, v)
    }}
    """)


def alone(proto: ModelProto) -> PassResult:
    return rewrite(proto, options=ALONE)


def difference(proto: ModelProto, more: dict[str, npt.NDArray[np.generic]] | None = None, length: int = 9) -> float:
    """How far the fused model is from the original."""
    random = np.random.default_rng(5)
    feeds: dict[str, npt.NDArray[np.generic]] = {
        n: random.standard_normal((2, 4, length, 8)).astype(np.float32) for n in ("q", "k", "v")
    }
    feeds |= more or {}
    made = alone(proto).model
    assert made is not None, "it was refused"
    return float(np.abs(run(proto, feeds)[0] - run(made, feeds)[0]).max())
