"""Runs a node on the CPU whose buffers of keys and values may not be touched behind 4,096 keys.

behind.py ROWS DTYPE LENGTH
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from alibi_rewriter.fused.family import BY_OP_TYPE, FusedAttention
from alibi_rewriter.runtime.session import InferenceSession, claimed_nodes
from nodes import DTYPES, model

KEYS, CAPACITY, WIDTH = 4096, 16384, 64
"""The keys end with a page."""


def guarded(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """A buffer [1, 1, CAPACITY, WIDTH] whose pages behind the keys are forbidden."""
    kind = np.dtype(DTYPES[dtype])
    memory = mmap.mmap(-1, CAPACITY * WIDTH * kind.itemsize)
    array = np.frombuffer(memory, kind).reshape(1, 1, CAPACITY, WIDTH)
    array[:, :, :KEYS] = rng.standard_normal((1, 1, KEYS, WIDTH))
    begin = array.ctypes.data + KEYS * WIDTH * kind.itemsize
    assert begin % mmap.PAGESIZE == 0
    forbidden = ctypes.CDLL(None, use_errno=True).mprotect(
        ctypes.c_void_p(begin), ctypes.c_size_t((CAPACITY - KEYS) * WIDTH * kind.itemsize), ctypes.c_int(0)
    )
    assert forbidden == 0
    return array


def main(rows: int, dtype: str, length: int) -> None:
    rng = np.random.default_rng(0)
    session = InferenceSession(model(FusedAttention(BY_OP_TYPE["AlibiAttentionCausalLengths"], 0.125), dtype))
    assert claimed_nodes(session).claimed == 1
    given = {
        "query": rng.standard_normal((1, 2, rows, WIDTH)).astype(DTYPES[dtype]),
        "key": guarded(rng, dtype),
        "value": guarded(rng, dtype),
        "slopes": np.array([0.01, 0.001], np.float32),
        "key_lengths": np.array([length]),
    }
    assert np.isfinite(session.run(None, given)[0]).all()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
