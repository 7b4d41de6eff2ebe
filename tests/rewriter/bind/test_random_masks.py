"""Random compositions of bands, conditions, finite masks and terms by key: what is fused computes the same.

By the proof alone: neither the self-check nor the verification runs.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from alibi_rewriter import Options, rewrite
from bands import feeds, model_of
from onnx import ModelProto, helper, numpy_helper
from textgraphs import run

pytest.importorskip("onnxruntime")

MODELS = 48
LENGTHS = ((7, 7), (3, 9), (1, 8))
LOWEST = -3.4028235e38
SYMMETRIC = [
    "farther = Abs(d)",
    "far_float = Cast<to=1>(farther)",
    "near = Neg(far_float)",
    "slope_far = Mul(slopes, near)",
]


class Drawn:
    """One attention with up to three masks, drawn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.constants: dict[str, npt.NDArray[np.generic]] = {}
        self.inputs = ""
        self.symmetric = self.random.random() < 0.4
        scores = "symmetric" if self.symmetric else "biased"
        if self.symmetric:
            self.lines += [*SYMMETRIC, "symmetric = Add(scaled, slope_far)"]
        for _ in range(self.random.randint(1, 3)):
            scores = self._masked(scores)
        self.lines.append(f"s = Identity({scores})")

    def _value(self, expression: str) -> str:
        self.lines.append(f"t{len(self.lines)} = {expression}")
        return self.lines[-1].split(" ")[0]

    def _constant(self, value: float, dtype: type[np.generic] = np.int64) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(value, dtype)
        return name

    def _condition(self, depth: int = 0) -> str:
        kind = self.random.random()
        if kind > 0.6 and depth < 3:
            parts = [self._condition(depth + 1) for _ in range(1 if kind > 0.88 else 2)]
            return self._value(f"{'Not' if kind > 0.88 else 'Or' if kind > 0.75 else 'And'}({', '.join(parts)})")
        moving = self.random.choice(["d", "back", "ji", "rcol", "Abs(d)", "Add(ji, rcol)"])
        moving = self._value(moving) if "(" in moving else moving
        if self.random.random() < 0.25:
            moving = self._value(f"Mul({moving}, {self._constant(self.random.choice([1, 2, -1, 3]))})")
        if self.random.random() < 0.25:
            moving = self._value(f"Cast<to=1>({moving})")
            bound = self._constant(self.random.choice([0.5, 1.5, 2.0, 2.5, -0.5, 3.0]), np.float32)
        else:
            bound = self._constant(self.random.randint(-2, 5))
        known = ["LessOrEqual", "Less"] * 4 + ["Greater", "GreaterOrEqual", "Equal"]
        return self._value(f"{self.random.choice(known)}({moving}, {bound})")

    def _masked(self, scores: str) -> str:
        kind = self.random.choice(["where", "added", "finite", "soft", "pad"])
        if kind == "where":
            return self._value(f"Where({self._condition()}, {scores}, low)")
        if kind in ("soft", "pad"):
            shape = "B,4,1,T" if kind == "soft" else "B,1,1,T"
            if kind not in self.inputs:
                self.inputs += f", float[{shape}] {kind}"
            return self._value(f"Add({scores}, {kind})")
        mask = self._value(f"Where({self._condition()}, none, {'bad' if kind == 'finite' else 'low'})")
        return self._value(f"Add({scores}, {mask})")

    def model(self) -> ModelProto:
        model = model_of(self.lines, inputs=self.inputs)
        for node in [n for n in model.graph.node if self.symmetric and n.output[0] in ("bias", "biased")]:
            model.graph.node.remove(node)
        model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in self.constants.items())
        return model

    def feeds(self, rows: int, keys: int) -> dict[str, npt.NDArray[np.generic]]:
        rng = np.random.default_rng(rows)
        given = feeds(rows, keys)
        if "soft" in self.inputs:
            given["soft"] = rng.standard_normal((2, 4, 1, keys)).astype(np.float32)
        if "pad" in self.inputs:
            pad = rng.standard_normal((2, 1, 1, keys)).astype(np.float32)
            given["pad"] = np.where(rng.random(pad.shape) < 0.3, np.float32(LOWEST), pad)
        return given


def test_what_is_fused_computes_the_same() -> None:
    members = set()
    for seed in range(MODELS):
        drawn = Drawn(seed)
        original = drawn.model()
        result = rewrite(original, options=Options(verify=False, probe=False))
        if not result.fused:
            continue
        assert result.model is not None
        members.add(result.fused[0][1].variant)
        shown = onnx.ModelProto()
        shown.CopyFrom(original)
        shown.graph.output.append(helper.make_tensor_value_info("s", 1, None))
        for rows, keys in LENGTHS:
            given = drawn.feeds(rows, keys)
            wanted, scores = run(shown, given)
            (got,) = run(result.model, given)
            # What a row yields whose every key is hidden, or nearly so, is not compared.
            seen = (scores > -9000).any(-1, keepdims=True)
            assert np.abs(np.where(seen, wanted - got, 0.0)).max() <= 1e-4, (seed, rows, keys)
    assert len(members) > 12
    assert any(m.window and m.key_bias for m in members)
    assert any(m.window and m.mask != "none" for m in members)
