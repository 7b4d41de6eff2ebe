"""Random nodes between two products: whatever they are, they are cut rightly or left whole."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.shards.cut import cut
from alibi_rewriter.shards.request import Request
from sharded_models import Decoder, Maker
from slow import thinned

pytest.importorskip("onnxruntime")

PLAIN = Decoder(biases=False)
MOST = 400
"""Numbers per token, so that a chain stays small."""


class Chain:
    """Nodes one behind the other; axes behind batch and tokens have the extents ``shape``."""

    def __init__(self, maker: Maker, seed: int, value: str, features: int) -> None:
        self.graph = maker.graph
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.value = value
        self.shape = [features]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def add(self, op: str, *more: str, **said: object) -> None:
        self.value = self.graph.add(op, self.value, *more, **said)

    def axis(self) -> int:
        """One of those behind batch and tokens, counted among them."""
        return self.random.randrange(len(self.shape))

    def spread(self, *, last: bool) -> str:
        """A constant that is broadcast along some axes, and lacks some in front."""
        extents = [extent if self.random.random() < 0.6 else 1 for extent in self.shape]
        if last:
            extents[-1] = self.shape[-1]
        first = self.random.randrange(len(extents))
        return self.graph.const(1 + self.numbers.standard_normal(extents[first:]) / 2)

    # --- steps -----------------------------------------------------------------------------------------

    def reshape(self) -> None:
        parts = [part for part in (2, 3, 4, 6, 8, 12) if self.size % part == 0]
        if parts:
            part = self.random.choice(parts)
            self.shape = self.random.choice([[part, self.size // part], [self.size // part, part], [self.size]])
            self.add("Reshape", self.graph.ints(0, 0, *self.shape))

    def reshape_by_its_own_shape(self) -> None:
        shape = self.graph.add("Shape", self.value)
        self.add("Neg")
        self.add("Reshape", shape)

    def transpose(self) -> None:
        order = list(range(len(self.shape)))
        self.random.shuffle(order)
        self.shape = [self.shape[place] for place in order]
        self.add("Transpose", perm=[0, 1, *(place + 2 for place in order)])

    def split(self) -> None:
        axis = self.axis()
        half = self.shape[axis] // 2
        if half and self.shape[axis] == 2 * half:
            self.add("Split", self.graph.ints(half, half), results=2, axis=axis + 2)
            self.add("Mul", f"{self.value}_1")
            self.shape[axis] = half

    def slice(self) -> None:
        axis = self.axis()
        extent = self.shape[axis]
        start = self.random.randrange(max(1, extent // 2))
        stop = self.random.randrange(start + 1, extent + 1)
        kind = self.random.choice([np.int32, np.int64])
        behind = self.random.choice([0, len(self.shape) + 2])
        self.add("Slice", *(self.graph.const([n], kind) for n in (start - extent, stop, axis + 2 - behind)))
        self.shape[axis] = stop - start

    def gather(self) -> None:
        axis = self.axis()
        extent = self.shape[axis]
        neighbours = [min(place ^ 1, extent - 1) for place in range(extent)]
        drawn = [self.random.randrange(-extent, extent) for _ in range(extent)]
        self.add("Gather", self.graph.ints(*self.random.choice([neighbours, neighbours, drawn])), axis=axis + 2)

    def concat(self) -> None:
        if 2 * self.size <= MOST:
            axis = self.axis()
            self.add("Concat", self.graph.add("Neg", self.value), axis=axis + 2)
            self.shape[axis] *= 2

    def combine(self) -> None:
        self.add(self.random.choice(["Mul", "Add"]), self.spread(last=False))

    def norm(self) -> None:
        self.add("LayerNormalization", self.spread(last=True), axis=-1)

    def along(self) -> None:
        axis = self.axis() + 2
        if self.random.random() < 0.5:
            self.add("Softmax", axis=axis)
        else:
            self.add("CumSum", self.graph.number(axis))

    def reduce(self) -> None:
        if len(self.shape) > 1:
            axis = self.axis()
            self.shape.pop(axis)
            self.add("ReduceSum", self.graph.ints(axis + 2), keepdims=0)

    def expand(self) -> None:
        if 2 * self.size <= MOST:
            axis = self.axis()
            self.shape.insert(axis, 2)
            self.add("Unsqueeze", self.graph.ints(axis + 2))
            told = [2 if place == axis else 1 for place in range(len(self.shape))]
            self.add("Expand", self.graph.ints(*told[self.random.randrange(axis + 1) :]))


STEPS: tuple[Callable[[Chain], None], ...] = (
    Chain.reshape,
    Chain.reshape,
    Chain.reshape_by_its_own_shape,
    Chain.transpose,
    Chain.split,
    Chain.slice,
    Chain.gather,
    Chain.concat,
    Chain.combine,
    Chain.norm,
    Chain.along,
    Chain.reduce,
    Chain.expand,
)


class Random(Maker):
    def __init__(self, seed: int) -> None:
        super().__init__(PLAIN, seed)
        self._seed = seed

    def mlp(self, value: str) -> str:
        width = self.what.model_width
        chain = Chain(self, self._seed, self.product(value, width, PLAIN.hidden), PLAIN.hidden)
        for _ in range(chain.random.randint(1, 5)):
            chain.random.choice(STEPS)(chain)
        chain.add("Reshape", self.graph.ints(0, 0, chain.size))
        return self.product(chain.value, chain.size, width)


@pytest.mark.parametrize("seeds", thinned([range(k, k + 12) for k in range(0, 96, 12)], 8), ids=lambda s: f"{s[0]}")
def test_random_nodes_are_cut_rightly_or_left_whole(seeds: range, tmp_path: Path) -> None:
    followed = 0
    for seed in seeds:
        made = rewrite(Random(seed).made(), None, options=Options(verify=False, allow_partial=True))
        outcome = cut(made, Request(2 + seed % 3, tmp_path / str(seed)), Options())
        assert outcome.verification is not None
        assert outcome.verification.status == "passed", (seed, outcome.verification.summary())
        followed += len(outcome.manifest["features"])
    assert followed, "none of these chains was cut"
