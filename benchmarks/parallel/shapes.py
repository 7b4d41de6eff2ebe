"""What is run: the shapes of the models, and what a process is told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpu_models import Shape
from numpy.typing import NDArray

POOL = np.random.default_rng(1).standard_normal(1 << 20).astype(np.float16)
"""What the cache is filled with, over and over."""


def shapes(layers: int, dry: bool) -> dict[str, Shape]:
    """BLOOM-7b1 and MPT-7B with fewer layers, and with 32,768 and 50,432 words; or small ones."""
    if dry:
        return {"bloom": Shape(2, 4, 16, 128, 512, True, True), "mpt": Shape(2, 4, 16, 128, 512, True, False)}
    return {
        "bloom": Shape(layers, 32, 128, 16384, 32768, True, True),
        "mpt": Shape(layers, 32, 128, 16384, 50432, True, False),
    }


@dataclass(frozen=True)
class Run:
    """How a model is run.

    Attributes:
        ranks: On how many GPUs.
        path: The model, or the folder of the ranks.
        manifest: Of the folder; empty if there is none.
    """

    ranks: int
    path: str
    manifest: str

    def file(self, rank: int) -> Path:
        """A rank's model."""
        return Path(self.path) if self.ranks == 1 else Path(self.path) / f"rank{rank}.onnx"


@dataclass(frozen=True)
class Job:
    """What every process of a measurement is told.

    Attributes:
        model: ``bloom`` or ``mpt``.
        run: How.
        layers: Of the model.
        rows: ``prefill BATCH LENGTH`` or ``decode BATCH LENGTH``.
        runs: For each figure: the same number on every rank, or ranks would wait for runs that never come.
        folder: Where outputs lie, to be compared.
        dry: On the CPU.
    """

    model: str
    run: Run
    layers: int
    rows: tuple[str, ...]
    runs: int
    folder: str
    dry: bool

    @staticmethod
    def parse(text: str) -> Job:
        """From the JSON of its fields."""
        given = json.loads(text)
        return Job(**{**given, "run": Run(**given["run"]), "rows": tuple(given["rows"])})


@dataclass(frozen=True)
class Row:
    """One figure: ``prefill`` with an empty cache, or ``decode`` of one token; the cache and it make the length."""

    kind: str
    batch: int
    length: int

    @staticmethod
    def parse(text: str) -> Row:
        """From ``decode 1 8192``."""
        kind, batch, length = text.split()
        return Row(kind, int(batch), int(length))

    @property
    def new(self) -> int:
        """Tokens that go in."""
        return self.length if self.kind == "prefill" else 1

    def feeds(self, words: int) -> dict[str, NDArray[np.int64]]:
        """Token numbers and a mask that hides nothing."""
        rng = np.random.default_rng(self.batch * 100_000 + self.length)
        ids = rng.integers(2, words, (self.batch, self.new))
        return {"input_ids": ids, "attention_mask": np.ones((self.batch, self.length), np.int64)}


def whole_past(row: Row, shape: Shape, number: int, dtype: Any) -> NDArray[Any]:
    """Keys or values of earlier tokens of all heads: the same numbers in every process."""
    extents = row.batch, shape.heads, row.length - row.new, shape.depth
    return np.resize(np.roll(POOL, 7919 * number), extents).astype(dtype)


def part_of(whole: NDArray[Any], cut: dict[str, Any] | None, rank: int) -> NDArray[Any]:
    """A rank's part of an input, as the manifest says it; all of it where it says nothing."""
    if cut is None:
        return whole
    axis, period = int(cut["axis"]), int(cut.get("period") or whole.shape[int(cut["axis"])])
    places = [
        start + place
        for start in range(0, whole.shape[axis], period)
        for first, last in cut["ranks"][rank]
        for place in range(first, last)
    ]
    return np.ascontiguousarray(np.take(whole, places, axis))
