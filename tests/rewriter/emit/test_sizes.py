"""Where the function bodies of rewritten files read their sizes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from alibi_rewriter.fused.body import KnownSizes, Rows
from alibi_rewriter.fused.family import DOMAIN
from alibi_rewriter.rewriter.emit.sizes import common_sizes
from alibi_rewriter.rewriter.pipeline import rewrite
from textgraphs import read
from tiny import BARE


@pytest.mark.parametrize(
    ("name", "keys", "rows"),
    [
        ("forms/linear_causal", "key", None),
        ("forms/symmetric", "key", None),
        ("masks/additive_padding", "mask", None),
        ("masks/boolean_padding", "mask", None),
        ("positions/counted", "key_positions", None),
        ("caches/concatenated", "key", "query"),
    ],
)
def test_a_body_reads_sizes_from_what_layers_share(name: str, keys: str, rows: str | None, tmp_path: Path) -> None:
    """An encoder's rows are as many as its keys; a decoder's with a cache are not."""
    onnx.save_model(read(name), tmp_path / "model.onnx")
    rewrite(tmp_path / "model.onnx", tmp_path / "out.onnx", options=BARE)
    (body,) = (function for function in onnx.load(tmp_path / "out.onnx").functions if function.domain == DOMAIN)
    read_from = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Shape"}
    assert read_from.get("S_kv_shape") == keys
    assert read_from.get("S_q_shape") == rows


def test_what_holds_for_all_nodes_of_a_kind() -> None:
    square, full = KnownSizes(Rows.KEYS, True), KnownSizes(Rows.MASK, True)
    assert common_sizes([square, square]) == square
    assert common_sizes([square, full]) == KnownSizes(Rows.QUERY, True)
    assert common_sizes([full, KnownSizes(Rows.MASK, False)]) == KnownSizes(Rows.MASK, False)
