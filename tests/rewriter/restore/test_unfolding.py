"""What attention operators do besides adding a bias becomes nodes in front of them, and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.rewriter.prepare.unpack import unpack_attention
from alibi_rewriter.rewriter.restore.masks import unfold_masks
from onnx import ModelProto
from operator_graphs import grouped, multi_head
from textgraphs import feeds_of, read
from tiny import LOWEST, draw, run

pytest.importorskip("onnxruntime")

SIZES = {"B": 2, "S": 5, "P": 3}


def attention_of(model: ModelProto) -> onnx.NodeProto:
    (node,) = [n for n in model.graph.node if n.op_type.endswith("Attention")]
    return node


FORMS: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "a mask of keys": (lambda: multi_head(("B", "S"), mask_filter_value=LOWEST), 4),
    "a mask of rows and keys": (lambda: multi_head(("B", "S", "S")), 4),
    "a soft mask": (lambda: multi_head(("B", "S"), mask_filter_value=-3.0), 4),
    "biases of the projections": (lambda: multi_head(projection=True), 3),
    "both": (lambda: multi_head(("B", "S"), projection=True), 4),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_and_projections_become_nodes(form: str) -> None:
    build, position = FORMS[form]
    original, made = build(), build()
    node = attention_of(made)
    assert node.input[position]
    assert unfold_masks(made, Path()) == {attention_of(original).output[0]}
    assert not any(attention_of(made).input[k] for k in (3, 4) if k < len(attention_of(made).input))
    feeds = draw(original, SIZES)
    for wanted, found in zip(run(original, feeds), run(made, feeds), strict=True):
        np.testing.assert_allclose(wanted, found, rtol=1e-5, atol=1e-5)


def test_an_operator_without_masks_stays_as_it_is() -> None:
    made = multi_head()
    before = made.SerializeToString()
    assert unfold_masks(made, Path()) == frozenset()
    assert made.SerializeToString() == before


def test_an_operator_that_is_to_be_kept_stays_as_it_is() -> None:
    made = multi_head(("B", "S"))
    before = made.SerializeToString()
    assert unfold_masks(made, Path(), frozenset({attention_of(made).output[0]})) == frozenset()
    assert made.SerializeToString() == before


def test_lengths_that_differ_within_a_batch_become_a_mask() -> None:
    made = grouped(ragged=True)
    assert unfold_masks(made, Path()) == {attention_of(made).output[0]}
    bias = attention_of(made).input[10]
    assert next(n.op_type for n in made.graph.node if bias in n.output) == "Where"


def test_projections_of_a_packed_attention_become_nodes() -> None:
    original, made = read("operators/packed_attention"), read("operators/packed_attention")
    packed = attention_of(original)
    assert (packed.domain, packed.op_type) == ("com.microsoft", "Attention")
    assert unpack_attention(made) == {packed.output[0]}
    assert attention_of(made).op_type == "MultiHeadAttention"
    onnx.checker.check_model(made)
    feeds = feeds_of(original, 3)
    for wanted, found in zip(run(original, feeds), run(made, feeds), strict=True):
        np.testing.assert_allclose(wanted, found, rtol=1e-5, atol=1e-5)
    kept = read("operators/packed_attention")
    assert unpack_attention(kept, frozenset({packed.output[0]})) == frozenset()
    assert kept.SerializeToString() == original.SerializeToString()
