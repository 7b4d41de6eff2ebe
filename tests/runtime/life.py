"""The library's life in onnxruntime: registered, many sessions, concurrent runs, broken nodes.  ``life.py LIBRARY``."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from alibi_rewriter.base import telemetry
from alibi_rewriter.fused.family import BY_OP_TYPE, FusedAttention
from nodes import Sizes, feeds, model

onnxruntime = telemetry.onnxruntime()


def session(content: bytes, library: str) -> onnxruntime.InferenceSession:  # type: ignore[name-defined]
    """With the library registered."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def main(library: str) -> None:
    """Ends with an exception if anything is not as it should be."""
    for op_type in (
        "AlibiAttentionCausal",
        "AlibiAttentionSymmetricAdditiveMask",
        "AlibiAttentionLinearPositionsKeyBiasWindow",
    ):
        item = FusedAttention(BY_OP_TYPE[op_type], 0.25)
        for rows, keys in ((1, 1), (3, 70), (70, 70), (130, 1100)):
            given = feeds(item.variant, Sizes(rows, keys), np.random.default_rng(rows))
            made = session(model(item), library)
            expected = made.run(None, given)[0]
            with ThreadPoolExecutor(4) as pool:
                runs = list(pool.map(lambda _, made=made, given=given: made.run(None, given)[0], range(8)))
            if not all((found == expected).all() for found in runs):
                raise SystemExit("concurrent runs differ")
    good = model(FusedAttention(BY_OP_TYPE["AlibiAttentionCausal"], 0.25))
    for old, new, said in (
        (b"BHSD", b"BHDS", "layout"),
        (b"mean", b"medi", "empty_rows"),
        (b"scale", b"scald", "scale"),
    ):
        try:
            session(good.replace(old, new), library)
        except Exception as error:
            if said not in str(error):
                raise
        else:
            raise SystemExit(f"{new!r} was accepted")


if __name__ == "__main__":
    main(sys.argv[1])
