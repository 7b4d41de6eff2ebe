"""A bias that is linear but no ALiBi form yet: what the refusal says, and the golden pair of the new form.

    python lopsided.py                   what is said about it today
    python lopsided.py --golden FOLDER   writes the pair into tests/golden

Keys before the query count twice as far as keys after it: -2 * slope * (i - j) before, -slope * (j - i) after.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx.parser
from alibi_rewriter import Options, rewrite
from onnx import ModelProto

LAYER = """
<ir_version: 8, opset_import: ["" : 17]>
layer (float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v) => (float[B,4,S,8] y)
<float[4,1,1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64 zero = {0}, int64 one = {1}, int64 two = {2},
 int64[1] first = {0}, int64[1] second = {1}, float scale = {0.35355338}>
{
   length = Shape<start=2, end=3>(k)
   keys = Squeeze(length, first)
   j = Range(zero, keys, one)
   i = Unsqueeze(j, second)
   distance = Sub(j, i)
   before = Mul(distance, two)
   after = Neg(distance)
   far = Min(before, after)
   real = Cast<to=1>(far)
   bias = Mul(slopes, real)
   kt = Transpose<perm=[0, 1, 3, 2]>(k)
   qk = MatMul(q, kt)
   scaled = Mul(qk, scale)
   scores = Add(scaled, bias)
   p = Softmax<axis=-1>(scores)
   y = MatMul(p, v)
}
"""

ACCEPTED = "# keys before the row count twice as far\n# becomes: AlibiAttentionLopsided"
REFUSED = "# keys before the row count three times as far\n# refused: ALB200\n# stage: bias\n# node: p"


def model() -> ModelProto:
    """One attention layer with the lopsided bias."""
    return onnx.parser.parse_model(LAYER)


def write_golden(folder: Path) -> None:
    """One that must be accepted, and a near miss that must stay refused."""
    near = LAYER.replace("two = {2}", "two = {3}")
    (folder / "forms" / "lopsided.txt").write_text(ACCEPTED + LAYER, encoding="utf-8")
    (folder / "refusals" / "lopsided.txt").write_text(REFUSED + near, encoding="utf-8")


def main() -> None:
    """Print the refusal, and the algebra behind it; or write the golden pair."""
    if sys.argv[1:2] == ["--golden"]:
        write_golden(Path(sys.argv[2]))
        return
    result = rewrite(model(), options=Options(dry_run=True))
    site = result.analysis.sites[0]
    if site.refusal is None or site.reading is None:
        raise SystemExit("the form is known by now")
    print(f"refused: {site.refusal.code.number} {site.refusal.code.title}")
    print(f"added to the scores: {site.reading.terms!r}")
    print(f"finding: {site.refusal.detail}")


if __name__ == "__main__":
    main()
