"""Embeds texts with the rewritten encoder on our kernels, and compares with the original.

    python embed.py encoder.onnx encoder.alibi.onnx

Words become numbers by a checksum: the weights are random, so a vocabulary would change nothing.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import alibi_rewriter
import numpy as np
import onnxruntime

TEXTS = (
    "the bias is a slope times the distance",
    "the bias is a slope times the position",
    "yesterday it rained",
)


def batch(texts: tuple[str, ...], vocabulary: int) -> dict[str, np.ndarray]:
    """Ids and mask [B, S], padded on the right."""
    rows = [[zlib.crc32(word.encode()) % (vocabulary - 1) + 1 for word in text.split()] for text in texts]
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


def main() -> None:
    """Prints how alike the texts are, and how far the two files are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("rewritten", type=Path)
    options = parser.parse_args()
    feeds = batch(TEXTS, 4096)
    session = alibi_rewriter.InferenceSession(options.rewritten)
    nodes = alibi_rewriter.claimed_nodes(session)
    print(f"fused nodes on our kernels: {nodes.claimed} of {nodes.fused}")
    (vectors,) = session.run(None, feeds)
    plain = onnxruntime.InferenceSession(str(options.original), providers=["CPUExecutionProvider"])
    (wanted,) = plain.run(None, feeds)
    for k in range(1, len(TEXTS)):
        print(f"{vectors[0] @ vectors[k]:.3f}  {TEXTS[k]}")
    print(f"farther than 1e-5 from the original: {int((np.abs(vectors - wanted) > 1e-5).sum())} numbers")


if __name__ == "__main__":
    main()
