"""Members with key lengths: their function body against the oracle, with batches of every length side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import EngineFailed
from alibi_rewriter.engine.operands import check_operands
from alibi_rewriter.fused.body import Rows, function_proto, possible_sizes
from alibi_rewriter.fused.family import (
    BY_OP_TYPE,
    FAMILY_MEMBERS,
    Alignment,
    EmptyRows,
    FusedAttention,
    MaskKind,
    Variant,
)
from alibi_rewriter.fused.layout import Layout, Moves, OperandView, OutputView
from alibi_rewriter.intact import check
from alibi_rewriter.verify.power.mutants import OF_LENGTHS, MutantKind, find_sites, mutate, not_applicable
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from oracle import attention
from test_function_body import Shape, assert_close, draw_arrays, expect, model_of, run

WITH_LENGTHS = [member.op_type for member in FAMILY_MEMBERS if member.lengths]
SHAPE = Shape(5, 4, 2, 4, 7, 3, 2)
LENGTHS = np.array([0, 1, 3, 5, 7])
"""None, fewer than rows, more than rows, and all."""


def ragged(variant: Variant, dtype: type[np.floating] = np.float32, **more: bool) -> list[NDArray[np.generic]]:
    arrays = draw_arrays(np.random.default_rng(41), variant, SHAPE, dtype, **more)
    arrays[-1] = LENGTHS
    return arrays


def test_they_are_siblings_of_members_that_have_neither_positions_nor_a_key_bias() -> None:
    assert len(WITH_LENGTHS) == 18 == len(FAMILY_MEMBERS) - 60
    assert [member.op_type for member in FAMILY_MEMBERS[60:]] == WITH_LENGTHS
    for op_type in WITH_LENGTHS:
        member = BY_OP_TYPE[op_type]
        assert member.inputs[-1] == "key_lengths" and member.can_hide
        plain = replace(member, lengths=False)
        assert plain in FAMILY_MEMBERS[:60] and op_type.replace("Lengths", "") == plain.op_type
    assert "AlibiAttentionCausalWindowLengthsBooleanMask" in WITH_LENGTHS


def test_only_they_say_which_keys_their_rows_are() -> None:
    with_lengths, without = BY_OP_TYPE["AlibiAttentionCausalLengths"], BY_OP_TYPE["AlibiAttentionCausal"]
    assert FusedAttention(with_lengths, 1.0).attributes()["rows"] == "last"
    assert FusedAttention(with_lengths, 1.0, rows=Alignment.FIRST).attributes()["rows"] == "first"
    assert "rows" not in FusedAttention(without, 1.0).attributes()
    with pytest.raises(ValueError, match="aligned with the last keys"):
        FusedAttention(without, 1.0, rows=Alignment.FIRST)


@pytest.mark.parametrize("aligned", list(Alignment))
@pytest.mark.parametrize("op_type", WITH_LENGTHS)
def test_ragged_batches(op_type: str, aligned: Alignment) -> None:
    variant = BY_OP_TYPE[op_type]
    for empty_rows in EmptyRows:
        for dtype in (np.float32, np.float16):
            arrays = ragged(variant, dtype)
            for window in ((2, 1), (-1, 0)) if variant.window else ((-1, -1),):
                model = model_of(
                    variant, 17, arrays, grouped=True, empty_rows=empty_rows, scale=0.5, window=window, aligned=aligned
                )
                found = run(model, variant, arrays)
                wanted = expect(variant, arrays, 0.5, empty_rows, window, aligned)
                assert_close(found, wanted, dtype, f"{op_type} {aligned} {empty_rows} {window}")
                assert not found[0].any()


@pytest.mark.parametrize("aligned", list(Alignment))
@pytest.mark.parametrize("opset", range(11, 26))
def test_every_opset(opset: int, aligned: Alignment) -> None:
    for number, op_type in enumerate(WITH_LENGTHS):
        variant = BY_OP_TYPE[op_type]
        if (variant.window and opset < 12) or (number + opset) % 3:
            continue
        arrays = ragged(variant)
        model = model_of(
            variant, opset, arrays, grouped=True, empty_rows=EmptyRows.ZERO, scale=0.5, window=(2, 1), aligned=aligned
        )
        onnx.checker.check_model(model, full_check=True)
        wanted = expect(variant, arrays, 0.5, EmptyRows.ZERO, (2, 1), aligned)
        assert_close(run(model, variant, arrays), wanted, np.float32, f"{op_type} {opset}")


@pytest.mark.parametrize("aligned", list(Alignment))
@pytest.mark.parametrize("op_type", WITH_LENGTHS)
def test_what_lies_behind_the_keys_changes_no_bit(op_type: str, aligned: Alignment) -> None:
    """Old numbers in a buffer, in the mask there too."""
    variant = BY_OP_TYPE[op_type]
    for empty_rows in EmptyRows:
        arrays = ragged(variant)
        model = model_of(
            variant, 17, arrays, grouped=True, empty_rows=empty_rows, scale=0.5, window=(2, 1), aligned=aligned
        )
        clean = run(model, variant, arrays)
        behind = np.arange(SHAPE.s_kv) >= LENGTHS[:, None]
        for position in (1, 2):
            arrays[position] = np.where(behind[:, None, :, None], np.float32(3e4), arrays[position])
        if variant.mask != MaskKind.NONE.value:
            shown = True if variant.mask == MaskKind.BOOLEAN.value else np.float32(1e9)
            arrays[4] = np.where(behind[:, None, None, :], shown, arrays[4])
        assert run(model, variant, arrays).tobytes() == clean.tobytes()


@pytest.mark.parametrize("op_type", WITH_LENGTHS)
def test_each_batch_is_the_member_without_lengths_on_its_own_keys(op_type: str) -> None:
    variant = BY_OP_TYPE[op_type]
    plain = replace(variant, lengths=False)
    arrays = ragged(variant)
    whole = expect(variant, arrays, 0.5, EmptyRows.MEAN, (2, 1))
    for batch, length in enumerate(LENGTHS[1:], 1):
        own = [a[batch : batch + 1] if a.ndim == 4 else a for a in arrays[:-1]]
        own[1:3] = [a[:, :, :length] for a in own[1:3]]
        own[4:] = [mask[..., :length] for mask in own[4:]]
        wanted = expect(plain, own, 0.5, EmptyRows.MEAN, (2, 1))
        np.testing.assert_array_equal(whole[batch : batch + 1], wanted)


def test_sizes_are_read_from_where_they_are_known() -> None:
    rng = np.random.default_rng(43)
    for op_type in WITH_LENGTHS:
        variant = BY_OP_TYPE[op_type]
        for sizes in possible_sizes(variant):
            for aligned in Alignment:
                shape = Shape(3, 2, 2, 5, 5, 4, 3) if sizes.rows is Rows.KEYS else Shape(3, 2, 2, 3, 5, 4, 3)
                full = (True, False, sizes.rows is Rows.MASK, sizes.keys_in_mask)
                arrays = draw_arrays(rng, variant, shape, np.float32, mask_shape=full)
                model = model_of(
                    variant, 17, arrays, grouped=False, empty_rows=EmptyRows.MEAN, scale=0.5, window=(2, 1),
                    sizes=sizes, aligned=aligned,
                )  # fmt: skip
                wanted = expect(variant, arrays, 0.5, EmptyRows.MEAN, (2, 1), aligned)
                assert_close(run(model, variant, arrays), wanted, np.float32, f"{op_type} {sizes} {aligned}")


def test_the_reference_evaluator_agrees_and_warns_of_nothing() -> None:
    variant = BY_OP_TYPE["AlibiAttentionSymmetricLengthsAdditiveMask"]
    arrays = ragged(variant)
    model = model_of(variant, 17, arrays, grouped=True, empty_rows=EmptyRows.MEAN, scale=0.5, aligned=Alignment.FIRST)
    with np.errstate(invalid="raise", over="ignore"):
        (found,) = ReferenceEvaluator(model).run(None, dict(zip(variant.inputs, arrays, strict=True)))
    assert_close(found, expect(variant, arrays, 0.5, EmptyRows.MEAN, aligned=Alignment.FIRST), np.float32, "reference")


def test_views_of_a_packed_projection() -> None:
    """[B, S, 3 * H * D] by thirds, and a merged output."""
    variant = BY_OP_TYPE["AlibiAttentionSymmetricLengths"]
    heads, width, length = 2, 4, 6
    rng = np.random.default_rng(47)
    packed = rng.standard_normal((3, length, 3 * heads * width)).astype(np.float32)
    parts = [
        OperandView((0, 0, 3 * heads, width), (n * heads, 0), ((n + 1) * heads, width), (0, 2, 1, 3)) for n in range(3)
    ]
    layout = Layout(*parts, OutputView((0, 2, 1, 3), (0, 0, heads * width)))
    node = FusedAttention(variant, 0.5, layout=layout, rows=Alignment.FIRST)
    lengths = np.array([6, 2, 0])
    slopes = np.array([0.5, 0.25], np.float32)
    arrays = [packed, packed, packed, slopes, lengths]
    model = model_of(variant, 17, arrays, grouped=False, empty_rows=EmptyRows.MEAN, scale=0.5)
    del model.graph.node[0].attribute[:], model.functions[:]
    model.graph.node[0].attribute.extend(onnx.helper.make_attribute(k, v) for k, v in node.attributes().items())
    model.graph.output[0].type.tensor_type.shape.dim.pop()
    model.functions.append(
        function_proto(
            variant, 17, grouped=False, zero_rows=False, query_type=TensorProto.FLOAT, moves=Moves.of([layout]),
            aligned=Alignment.FIRST,
        )
    )  # fmt: skip
    query, key, value = (view.of(packed) for view in parts)
    wanted = attention(
        query, key, value, slopes, key_lengths=lengths, scale=0.5, bias="symmetric", causal=False, rows="first"
    )
    merged = wanted.transpose(0, 2, 1, 3).reshape(3, length, heads * width)
    assert_close(run(model, variant, arrays), merged, np.float32, "views")


def one_node(op_type: str, aligned: Alignment) -> tuple[onnx.ModelProto, Variant, list[NDArray[np.generic]]]:
    variant = BY_OP_TYPE[op_type]
    arrays = ragged(variant)
    made = model_of(
        variant, 17, arrays, grouped=True, empty_rows=EmptyRows.ZERO, scale=0.5, window=(2, 1), aligned=aligned
    )
    return made, variant, arrays


@pytest.mark.parametrize("aligned", list(Alignment))
@pytest.mark.parametrize("op_type", ["AlibiAttentionCausalLengths", "AlibiAttentionSymmetricLengthsBooleanMask"])
def test_mistakes_with_lengths_are_seen(op_type: str, aligned: Alignment) -> None:
    model, variant, arrays = one_node(op_type, aligned)
    (site,) = find_sites(model)
    assert site.aligned is aligned
    right = run(model, variant, arrays)
    for kind in (*OF_LENGTHS, MutantKind.KEY_OFFSET, MutantKind.ROW_OFFSET, MutantKind.CAUSALITY):
        if not_applicable(kind, site) is None:
            wrong = run(mutate(model, kind, [site]), variant, arrays)
            assert np.abs(wrong - right).max() > 1e-3, kind


def test_mistakes_that_would_be_none_are_not_made() -> None:
    (site,) = find_sites(one_node("AlibiAttentionLinearLengths", Alignment.LAST)[0])
    assert "constant of the row" in (not_applicable(MutantKind.ROWS_TURNED, site) or "")
    assert "no kernel" in (not_applicable(MutantKind.KEY_OFFSET, site, kernels=True) or "")


@pytest.mark.parametrize("aligned", list(Alignment))
def test_a_body_of_the_other_alignment_is_not_ours(aligned: Alignment, tmp_path: Path) -> None:
    model, _, _ = one_node("AlibiAttentionCausalLengths", aligned)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert not [problem for problem in check(path).problems if "body" in problem]
    other = next(a for a in model.graph.node[0].attribute if a.name == "rows")
    for said in (Alignment.FIRST if aligned is Alignment.LAST else Alignment.LAST).value, "middle":
        other.s = said.encode()
        onnx.save(model, path)
        assert [problem for problem in check(path).problems if "not as it was written" in problem]


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        (np.zeros(5, np.int32), "its key_lengths 'given' is int32 instead of int64"),
        (np.zeros((5, 1), np.int64), "its key_lengths 'given' has 2 axes instead of 1"),
        (np.zeros(4, np.int64), "axis 0 of its key_lengths 'given' is 4 instead of 5"),
    ],
)
def test_lengths_that_are_none_are_refused(lengths: NDArray[np.generic], said: str, tmp_path: Path) -> None:
    model, _, arrays = one_node("AlibiAttentionCausalLengths", Alignment.LAST)
    for value, array in zip(model.graph.input, arrays, strict=True):
        for dim, extent in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
            dim.dim_value = extent
    check_operands(model, tmp_path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(lengths, "given"))
    model.graph.node[0].input[-1] = "given"
    with pytest.raises(EngineFailed, match=said.replace("[", r"\[")):
        check_operands(model, tmp_path)
