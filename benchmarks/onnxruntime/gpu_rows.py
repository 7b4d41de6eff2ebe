"""The rows of the tables of ``gpu.py``: what is run, and the inputs of it.

Keys and values of earlier tokens lie on the device, for every layer in memory of its own: layers that shared them would
find them in the cache of the GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import gpu_models
import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

POOL = np.random.default_rng(1).standard_normal(1 << 20).astype(np.float16)
"""What the cache is filled with, over and over."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        kind: ``prefill`` (the cache is empty) or ``decode`` (one token; the cache and it make the length).
        batch, length: Extents.
        hides: What the mask hides: nothing; a quarter of the keys on the left (``left``); or of every sequence of a
            batch another part, from nothing to three quarters (``ragged``): left of a decoder's, right of an encoder's.
    """

    kind: str
    batch: int
    length: int
    hides: str = ""

    @property
    def key(self) -> str:
        """Its name in records."""
        return f"{self.kind} {self.batch} {self.length}{' ' * bool(self.hides)}{self.hides}"

    @property
    def new(self) -> int:
        """Tokens that go in."""
        return self.length if self.kind == "prefill" else 1


def _prefill(*extents: tuple[int, int], hides: str = "") -> list[Row]:
    return [Row("prefill", batch, length, hides) for batch, length in extents]


def _decode(*extents: tuple[int, int], hides: str = "") -> list[Row]:
    return [Row("decode", batch, length, hides) for batch, length in extents]


_DECODE = [
    *_decode((1, 2048), (1, 8192), (1, 32768), hides="left"),
    *_decode((8, 2048), (8, 8192), (8, 32768), hides="ragged"),
    *_decode((1, 2048), (1, 8192), (1, 32768), (8, 2048), (8, 8192)),
]
ROWS: dict[str, list[Row]] = {
    "bloom": [*_prefill((1, 512), (1, 2048), (8, 512), (4, 2048), (1, 8192)), *_DECODE],
    "mpt": [*_prefill((1, 512), (1, 2048), (4, 2048), (1, 8192)), *_DECODE],
    "jina": [
        *_prefill((1, 512), (8, 512), (32, 512), (1, 2048), (8, 2048), (1, 8192)),
        *_prefill((32, 512), (8, 2048), hides="ragged"),
    ],
}
"""In this order.  Prefill comes first: memory is read after it, before the caches of decode are there."""

FEWER: dict[str, list[Row]] = {
    "bloom": [*_prefill((1, 512), (1, 2048), (1, 8192)), *_decode((1, 8192)), *_decode((8, 8192), hides="ragged")],
    "mpt": [*_prefill((1, 512), (1, 2048), (4, 2048)), *_decode((1, 8192)), *_decode((8, 8192), hides="ragged")],
    "jina": _prefill((1, 512), (8, 512), (1, 2048), (1, 8192)),
}
"""For variants that are no path to recommend."""

COMPILED: dict[str, list[Row]] = {
    "bloom": [*_prefill((1, 2048), (1, 8192)), *_decode((1, 8192))],
    "mpt": [*_prefill((1, 2048)), *_decode((1, 8192))],
    "jina": _prefill((8, 512), (1, 2048), (1, 8192)),
}
"""PyTorch's compiler works on every shape anew."""

ACCURACY: dict[str, list[Row]] = {
    "bloom": [
        *_prefill((1, 2048), (1, 8192)), *_decode((1, 2048), (1, 8192)), *_decode((8, 8192), hides="ragged"),
    ],
    "mpt": [*_prefill((1, 2048)), *_decode((1, 8192)), *_decode((8, 8192), hides="ragged")],
    "jina": [*_prefill((1, 2048), (1, 8192)), *_prefill((8, 2048), hides="ragged")],
}  # fmt: skip

PROFILED: dict[str, list[Row]] = {
    "bloom": [*_prefill((1, 2048)), *_decode((1, 8192)), *_decode((8, 8192), hides="ragged")],
    "mpt": [*_prefill((1, 2048)), *_decode((1, 8192)), *_decode((8, 8192), hides="ragged")],
    "jina": _prefill((8, 512), (1, 8192)),
}


def hidden_keys(row: Row, *, left: bool) -> NDArray[np.int64]:
    """The mask of a row: 1 for keys that are seen."""
    mask = np.ones((row.batch, row.length), np.int64)
    for number in range(row.batch) if row.hides else ():
        share = 0.25 if row.hides == "left" else 0.75 * number / max(1, row.batch - 1)
        count = int(share * row.length)
        if left:
            mask[number, :count] = 0
        elif count:
            mask[number, -count:] = 0
    return mask


def feeds(model: str, row: Row, *, held: bool = False) -> Arrays:
    """Token numbers and mask of a row; with caches in place the number of keys of each sequence and no mask."""
    shape = gpu_models.MODELS[model]
    rng = np.random.default_rng(row.batch * 100_000 + row.length)
    ids = rng.integers(2, shape.words, (row.batch, row.new))
    mask = hidden_keys(row, left=shape.cache)
    return {"input_ids": ids, "key_lengths": mask.sum(1)} if held else {"input_ids": ids, "attention_mask": mask}


def past_extents(model: str, row: Row, *, held: bool = False) -> tuple[int, ...]:
    """Of one layer's keys, or values; of a buffer for all of them with caches in place."""
    shape = gpu_models.MODELS[model]
    return row.batch, shape.heads, row.length - (0 if held else row.new), shape.depth


class Caches:
    """Keys and values of earlier tokens on the device, two buffers for each layer."""

    def __init__(self, model: str, row: Row, dtype: Any, *, held: bool = False) -> None:
        self.library, self.buffers = ctypes.CDLL("libcudart.so.13"), list[ctypes.c_void_p]()
        pool = POOL.astype(dtype)
        self.bytes = int(np.prod(past_extents(model, row, held=held))) * pool.itemsize
        for _ in range(2 * gpu_models.MODELS[model].layers if self.bytes else 0):
            buffer = ctypes.c_void_p()
            self._ok(self.library.cudaMalloc(ctypes.byref(buffer), ctypes.c_size_t(self.bytes)))
            self.buffers.append(buffer)
            if len(self.buffers) > 1:
                self._copy(buffer.value, self.buffers[0].value, self.bytes)
                continue
            filled = min(self.bytes, pool.nbytes)
            self._copy(buffer.value, pool.ctypes.data, filled)
            while filled < self.bytes:
                more = min(filled, self.bytes - filled)
                self._copy((buffer.value or 0) + filled, buffer.value, more)
                filled += more
        self._ok(self.library.cudaDeviceSynchronize())

    def _ok(self, status: int) -> None:
        if status:
            raise MemoryError(f"CUDA says {status}")

    def _copy(self, target: int | None, source: int | None, count: int) -> None:
        of = ctypes.c_void_p
        self._ok(self.library.cudaMemcpy(of(target), of(source), ctypes.c_size_t(count), 4))  # 4: either side

    def close(self) -> None:
        """Gives the memory back."""
        while self.buffers:
            self.library.cudaFree(self.buffers.pop())
