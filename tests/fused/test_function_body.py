"""The function body, run in onnxruntime, computes what the float64 oracle computes from the specification."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import onnx
import pytest
from alibi_rewriter.fused.body import (
    MINIMUM_OPSET,
    OWN,
    SLOPES_PER_HEAD,
    WINDOW_OPSET,
    KnownSizes,
    Rows,
    function_proto,
    function_text,
    possible_sizes,
)
from alibi_rewriter.fused.family import (
    BY_OP_TYPE,
    DOMAIN,
    DOMAIN_VERSION,
    FAMILY_MEMBERS,
    Alignment,
    EmptyRows,
    FusedAttention,
    MaskKind,
    Variant,
)
from evidence import Level
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from oracle import attention
from slow import thinned

ort = pytest.importorskip("onnxruntime")

FINFO_MIN = float(np.finfo(np.float32).min)
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}
# The ir_version that carries functions; the opset alone does not imply it.
IR_VERSION = 10


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention."""

    batches: int
    heads: int
    kv_heads: int
    s_q: int
    s_kv: int
    depth: int
    value_depth: int


SHAPES = (
    Shape(2, 4, 4, 5, 5, 8, 8),
    Shape(1, 6, 2, 3, 7, 4, 5),
    Shape(2, 3, 1, 7, 4, 3, 2),
    Shape(2, 2, 2, 1, 6, 4, 1),
    Shape(1, 1, 1, 1, 1, 1, 3),
    Shape(3, 4, 2, 2, 1, 2, 2),
)


def model_of(
    variant: Variant,
    opset: int,
    arrays: list[NDArray[np.generic]],
    *,
    grouped: bool,
    empty_rows: EmptyRows,
    scale: float,
    window: tuple[int, int] = (-1, -1),
    sizes: KnownSizes = OWN,
    aligned: Alignment = Alignment.LAST,
) -> onnx.ModelProto:
    """A model of one fused node whose inputs are graph inputs with symbolic dimensions."""
    query_type = TYPES[arrays[0].dtype]
    node = helper.make_node(
        variant.op_type,
        list(variant.inputs),
        ["output"],
        domain=DOMAIN,
        **FusedAttention(
            variant, scale, empty_rows, *window_of(variant, window), parameters=parameters_of(variant), rows=aligned
        ).attributes(),
    )
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), [f"{name}_{axis}" for axis in range(array.ndim)]
        )
        for name, array in zip(variant.inputs, arrays, strict=True)
    ]
    output = helper.make_tensor_value_info("output", query_type, ["b", "h", "s", "d"])
    body = function_proto(
        variant, opset, grouped=grouped, zero_rows=empty_rows is EmptyRows.ZERO, query_type=query_type, sizes=sizes,
        aligned=aligned,
    )  # fmt: skip
    return helper.make_model(
        helper.make_graph([node], "attention", inputs, [output]),
        functions=[body],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )


def window_of(variant: Variant, window: tuple[int, int]) -> tuple[int, int]:
    """The window that a node of this member has: none, where it takes none."""
    return window if variant.window else (-1, -1)


def parameters_of(variant: Variant) -> tuple[float, ...]:
    """Numbers for the parameters of the form, if it has any: within the distances of ``SHAPES``."""
    return tuple(1.5 + number for number in range(len(variant.bias.parameters)))


@functools.lru_cache(maxsize=1)
def session_of(content: bytes) -> ort.InferenceSession:
    """Making one takes ten times as long as a run, and some tests run one model on many inputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, variant: Variant, arrays: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    (output,) = session_of(model.SerializeToString()).run(None, dict(zip(variant.inputs, arrays, strict=True)))
    assert isinstance(output, np.ndarray)
    return output


def draw_arrays(
    rng: np.random.Generator,
    variant: Variant,
    shape: Shape,
    dtype: type[np.floating],
    *,
    mask_shape: tuple[bool, bool, bool, bool] = (True, True, True, True),
    hostile: bool = False,
    one_position_row: bool = False,
) -> list[NDArray[np.generic]]:
    """Inputs in the node's order.

    Args:
        rng: Where the numbers come from.
        variant: Decides which inputs there are.
        shape: Their sizes.
        dtype: Of query, key, value and an additive mask.
        mask_shape: Which of the mask's four dimensions are full; the others are 1.
        hostile: Additive entries from the whole range of what models and users put there.
        one_position_row: key_positions [1, S_kv] instead of [B, S_kv].
    """
    sizes = shape
    arrays: list[NDArray[np.generic]] = [
        rng.standard_normal((sizes.batches, sizes.heads, sizes.s_q, sizes.depth)).astype(dtype),
        rng.standard_normal((sizes.batches, sizes.kv_heads, sizes.s_kv, sizes.depth)).astype(dtype),
        rng.standard_normal((sizes.batches, sizes.kv_heads, sizes.s_kv, sizes.value_depth)).astype(dtype),
        rng.choice(np.array([0.5, 0.25, 0.0039, 0.0, -0.125], np.float32), sizes.heads),
    ]
    full = (sizes.batches, sizes.heads, sizes.s_q, sizes.s_kv)
    dims = tuple(size if keep else 1 for size, keep in zip(full, mask_shape, strict=True))
    if variant.mask == MaskKind.BOOLEAN.value:
        mask = rng.random(dims) < 0.6
        mask[:, :, -1:, :] &= rng.random(mask[:, :, -1:, :].shape) < 0.2
        arrays.append(mask)
    elif variant.mask == MaskKind.ADDITIVE.value:
        additive = rng.standard_normal(dims).astype(dtype)
        if hostile:
            low = float(np.finfo(dtype).min)
            entries = np.array([low, -np.inf, np.inf, -1e4, 0.0], dtype)
            chosen = rng.choice(entries, dims, p=[0.4, 0.3, 0.1, 0.1, 0.1])
            additive = np.where(rng.random(dims) < 0.6, chosen, additive)
            additive[:, :, -1:, :] = -np.inf
        arrays.append(additive.astype(dtype))
    if variant.positions:
        kept = rng.random((1 if one_position_row else sizes.batches, sizes.s_kv)) < 0.7
        arrays.append(((np.cumsum(kept, axis=1) - 1) * kept).astype(np.float32))
    if variant.key_bias:
        # Every combination of [B|1, H|1, S_kv], soft values and hiding ones.
        own = tuple(size if rng.random() < 0.5 else 1 for size in (sizes.batches, sizes.heads))
        key_bias = rng.standard_normal((*own, sizes.s_kv)).astype(np.float32)
        low = np.array([FINFO_MIN, -np.inf, *([np.inf, -1e4, 3e38, -3e38] if hostile else [])], np.float32)
        key_bias = np.where(rng.random(key_bias.shape) < 0.3, rng.choice(low, key_bias.shape), key_bias)
        arrays.append(key_bias.astype(np.float32))
    if variant.lengths:
        # From less than nothing to more than there is; none of [1] leaves a batch without keys.
        one = one_position_row and sizes.batches > 1
        arrays.append(rng.integers(1 if one else -1, sizes.s_kv + 2, 1 if one else sizes.batches))
    return arrays


def expect(
    variant: Variant,
    arrays: list[NDArray[np.generic]],
    scale: float,
    empty_rows: EmptyRows,
    window: tuple[int, int] = (-1, -1),
    aligned: Alignment = Alignment.LAST,
) -> NDArray[np.float64]:
    named = dict(zip(variant.inputs, arrays, strict=True))
    left, right = window_of(variant, window)
    return attention(
        **named,
        scale=scale,
        bias=variant.form,
        causal=variant.causal,
        empty_rows=empty_rows.value,
        window_left=left,
        window_right=right,
        parameters=parameters_of(variant),
        rows=aligned.value,
    )


def assert_close(
    actual: NDArray[np.generic], wanted: NDArray[np.float64], dtype: type[np.floating], reason: str
) -> None:
    # float16 rounds the scaled query, each dot product and each weight: about five half-precision units.
    limit = 2e-6 if dtype is np.float32 else 6e-3
    scale = max(1.0, float(np.abs(wanted).max()))
    assert np.isfinite(actual).all(), reason
    assert float(np.abs(actual.astype(np.float64) - wanted).max()) <= limit * scale, reason


WINDOWS = ((2, -1), (0, 0), (-1, 0), (1, 2), (-1, -1), (5, 1))
"""One for each of ``SHAPES``."""


def in_both_types(op_types: Sequence[str]) -> list[Any]:
    """All in float32, and every third in float16, which ``ALIBI_SLOW=1`` has whole."""
    return [*((np.float32, name) for name in op_types), *thinned([(np.float16, name) for name in op_types], 3)]


@pytest.mark.parametrize("empty_rows", list(EmptyRows))
@pytest.mark.parametrize(("dtype", "op_type"), in_both_types(list(BY_OP_TYPE)))
def test_body_equals_oracle(op_type: str, empty_rows: EmptyRows, dtype: type[np.floating]) -> None:
    variant = BY_OP_TYPE[op_type]
    rng = np.random.default_rng(7)
    for index, shape in enumerate(SHAPES):
        grouped = shape.heads != shape.kv_heads
        arrays = draw_arrays(rng, variant, shape, dtype, one_position_row=index % 2 == 1)
        window = WINDOWS[index]
        model = model_of(variant, 17, arrays, grouped=grouped, empty_rows=empty_rows, scale=0.3535, window=window)
        wanted = expect(variant, arrays, 0.3535, empty_rows, window)
        assert_close(run(model, variant, arrays), wanted, dtype, f"{op_type} {shape}")
    evidence.record("onnxruntime", Level.FLOAT64, [op_type], where="CPU")


@pytest.mark.parametrize("op_type", [member.op_type for member in FAMILY_MEMBERS if member.mask != "none"])
@pytest.mark.parametrize("empty_rows", list(EmptyRows))
def test_masks_of_every_broadcast_shape(op_type: str, empty_rows: EmptyRows) -> None:
    variant = BY_OP_TYPE[op_type]
    shape = Shape(2, 4, 2, 3, 5, 4, 4)
    rng = np.random.default_rng(11)
    first = draw_arrays(rng, variant, shape, np.float32)
    model = model_of(variant, 18, first, grouped=True, empty_rows=empty_rows, scale=0.5, window=(3, 1))
    for mask_shape in itertools.product((False, True), repeat=4):
        arrays = draw_arrays(rng, variant, shape, np.float32, mask_shape=mask_shape)
        wanted = expect(variant, arrays, 0.5, empty_rows, (3, 1))
        assert_close(run(model, variant, arrays), wanted, np.float32, f"{op_type} {mask_shape}")


@pytest.mark.parametrize("empty_rows", list(EmptyRows))
@pytest.mark.parametrize(
    ("dtype", "op_type"), in_both_types([member.op_type for member in FAMILY_MEMBERS if member.mask == "additive"])
)
def test_hostile_additive_entries(op_type: str, empty_rows: EmptyRows, dtype: type[np.floating]) -> None:
    """finfo.min, -inf, +inf and -1e4 side by side, and rows that hide every key."""
    variant = BY_OP_TYPE[op_type]
    rng = np.random.default_rng(13)
    for shape in SHAPES[:4]:
        arrays = draw_arrays(rng, variant, shape, dtype, hostile=True)
        model = model_of(variant, 17, arrays, grouped=True, empty_rows=empty_rows, scale=0.5)
        actual = run(model, variant, arrays).astype(np.float64)
        wanted = expect(variant, arrays, 0.5, empty_rows)
        assert np.isfinite(actual).all()
        # In float32 a score of -1e4 is known to 1e-3, one of -65504 to 8e-3, and a score of +inf, that is of
        # 3e38, not at all: where such scores are a row's best ones, the dot products drown in them.
        named = dict(zip(variant.inputs, arrays, strict=True))
        mask = np.zeros((*wanted.shape[:3], shape.s_kv))
        visible = np.ones(mask.shape, bool)
        for entries in (named.get("mask"), named.get("key_bias")):
            if entries is not None:
                own = np.minimum(entries.astype(np.float64), -FINFO_MIN)
                own = own[:, :, None] if own.ndim == 3 else own
                visible = visible & (own > FINFO_MIN)
                mask = mask + own
        visible = visible & (mask > FINFO_MIN)
        keys = np.full(shape.batches, shape.s_kv)
        if "key_lengths" in named:
            keys = np.clip(np.broadcast_to(named["key_lengths"], keys.shape), 0, shape.s_kv)
            visible = visible & (np.arange(shape.s_kv) < keys[:, None, None, None])
        if variant.causal:
            rows = np.arange(shape.s_q)[:, None] + (keys - shape.s_q)[:, None, None, None]
            visible = visible & (np.arange(shape.s_kv) <= rows)
        best = np.where(visible, mask, -np.inf).max(axis=-1)
        # A window of (-1, -1) hides nothing.
        ordinary = (np.abs(best) < 100) | ~visible.any(axis=-1)
        far = ~ordinary & (best < 0)
        limit = 2e-6 if dtype is np.float32 else 6e-3
        error = np.abs(actual - wanted).max(axis=-1)
        assert error[ordinary].max(initial=0.0) <= limit * max(1.0, float(np.abs(wanted).max()))
        assert error[far].max(initial=0.0) <= limit + 2e-2


def test_empty_rows_are_exactly_the_mean_or_zero() -> None:
    shape = Shape(1, 2, 2, 4, 6, 4, 3)
    rng = np.random.default_rng(3)
    for op_type in ("AlibiAttentionCausalBooleanMask", "AlibiAttentionSymmetricAdditiveMask"):
        variant = BY_OP_TYPE[op_type]
        arrays = draw_arrays(rng, variant, shape, np.float32)
        hides_all = False if arrays[4].dtype == np.bool_ else FINFO_MIN
        arrays[4] = np.full((1, 1, 1, 6), hides_all, arrays[4].dtype)
        mean = np.broadcast_to(arrays[2].astype(np.float64).mean(axis=2, keepdims=True), (1, 2, 4, 3))
        for empty_rows, wanted in ((EmptyRows.MEAN, mean), (EmptyRows.ZERO, np.zeros((1, 2, 4, 3)))):
            model = model_of(variant, 17, arrays, grouped=False, empty_rows=empty_rows, scale=0.5)
            np.testing.assert_allclose(run(model, variant, arrays), wanted, atol=3e-7)


def test_huge_mask_entry_does_not_reveal_a_later_key() -> None:
    variant = BY_OP_TYPE["AlibiAttentionCausalAdditiveMask"]
    shape = Shape(1, 1, 1, 4, 4, 2, 2)
    arrays = draw_arrays(np.random.default_rng(5), variant, shape, np.float32)
    arrays[4] = np.zeros((1, 1, 4, 4), np.float32)
    arrays[4][..., 3] = np.inf
    model = model_of(variant, 17, arrays, grouped=False, empty_rows=EmptyRows.MEAN, scale=1.0)
    assert_close(run(model, variant, arrays), expect(variant, arrays, 1.0, EmptyRows.MEAN), np.float32, "+inf")


@pytest.mark.parametrize("opset", thinned(range(MINIMUM_OPSET, 26), 2))
def test_every_opset(opset: int) -> None:
    rng = np.random.default_rng(opset)
    shape = Shape(2, 4, 2, 3, 5, 4, 3)
    for number, variant in enumerate(FAMILY_MEMBERS):
        if variant.window and opset < WINDOW_OPSET:
            continue
        for dtype in (np.float32, np.float16):
            arrays = draw_arrays(rng, variant, shape, dtype)
            model = model_of(
                variant, opset, arrays, grouped=True, empty_rows=EmptyRows.ZERO, scale=-0.75, window=(2, 1)
            )
            onnx.checker.check_model(model, full_check=True)
            if dtype is np.float16 and not (variant.mask == "additive" and variant.causal):
                continue  # float16 differs in casts only; some members show that
            if (variant.key_bias or variant.window) and (number + opset) % 5:
                continue  # what key bias and window add is the same lines in every member
            wanted = expect(variant, arrays, -0.75, EmptyRows.ZERO, (2, 1))
            assert_close(run(model, variant, arrays), wanted, dtype, f"{variant.op_type} opset {opset}")
    built = [m.op_type for m in FAMILY_MEMBERS if not m.window or opset >= WINDOW_OPSET]
    evidence.record("onnxruntime", Level.GRAPH, built, where="CPU")


def test_opset_below_minimum_is_refused() -> None:
    with pytest.raises(ValueError, match="opset 11"):
        function_proto(FAMILY_MEMBERS[0], 10, grouped=False, zero_rows=False, query_type=TensorProto.FLOAT)
    windowed = next(member for member in FAMILY_MEMBERS if member.window)
    with pytest.raises(ValueError, match="opset 12"):
        function_proto(windowed, 11, grouped=False, zero_rows=False, query_type=TensorProto.FLOAT)


def test_every_combination_of_windows_and_lengths() -> None:
    """Against the oracle: no bound, 0, 1 and more than there are keys on either side, more rows than keys too."""
    rng = np.random.default_rng(19)
    for op_type in ("AlibiAttentionCausalWindow", "AlibiAttentionSymmetricWindow", "AlibiAttentionLinearKeyBiasWindow"):
        variant = BY_OP_TYPE[op_type]
        for s_q, s_kv in ((1, 5), (4, 4), (6, 3), (2, 7)):
            arrays = draw_arrays(rng, variant, Shape(2, 2, 1, s_q, s_kv, 3, 2), np.float32)
            for window in itertools.product((-1, 0, 1, 9), repeat=2):
                for empty_rows in EmptyRows:
                    model = model_of(variant, 17, arrays, grouped=True, empty_rows=empty_rows, scale=0.5, window=window)
                    wanted = expect(variant, arrays, 0.5, empty_rows, window)
                    assert_close(run(model, variant, arrays), wanted, np.float32, f"{op_type} {s_q}x{s_kv} {window}")


def test_a_key_bias_and_a_mask_hide_each_for_itself() -> None:
    """The lowest number of one and the highest of the other have the sum zero, which hides nothing."""
    variant = BY_OP_TYPE["AlibiAttentionLinearKeyBiasAdditiveMask"]
    shape = Shape(1, 1, 1, 2, 4, 2, 2)
    arrays = draw_arrays(np.random.default_rng(5), variant, shape, np.float32)
    arrays[4] = np.array([np.inf, -np.inf, 0.0, -3e38], np.float32).reshape(1, 1, 1, 4)
    arrays[5] = np.array([-np.inf, np.inf, 0.0, -3e38], np.float32).reshape(1, 1, 4)
    model = model_of(variant, 17, arrays, grouped=False, empty_rows=EmptyRows.MEAN, scale=1.0)
    actual = run(model, variant, arrays)
    assert_close(actual, expect(variant, arrays, 1.0, EmptyRows.MEAN), np.float32, "opposite extremes")
    np.testing.assert_allclose(actual, np.broadcast_to(arrays[2][:, :, 2:3], actual.shape), rtol=1e-6)


def test_windows_that_are_none() -> None:
    causal, windowed = BY_OP_TYPE["AlibiAttentionCausal"], BY_OP_TYPE["AlibiAttentionCausalWindow"]
    assert "window_left" not in FusedAttention(causal, 1.0).attributes()
    assert FusedAttention(windowed, 1.0, window_left=4).attributes()["window_right"] == -1
    for variant, window in ((causal, (4, -1)), (windowed, (-2, -1)), (windowed, (0, 1 << 24))):
        with pytest.raises(ValueError, match="window"):
            FusedAttention(variant, 1.0, EmptyRows.MEAN, *window)


def test_body_has_only_what_the_file_needs() -> None:
    causal = BY_OP_TYPE["AlibiAttentionCausal"]
    plain = function_text(causal, 17, grouped=False, zero_rows=False, query_type=TensorProto.FLOAT)
    assert "Expand" not in plain and "ReduceMax" not in plain and "Clip" not in plain
    grouped = function_text(causal, 17, grouped=True, zero_rows=True, query_type=TensorProto.FLOAT)
    assert "Expand" in grouped and "ReduceMax" in grouped
    # Without a mask a symmetric row always sees a key, so there is nothing to guard.
    symmetric = function_text(
        BY_OP_TYPE["AlibiAttentionSymmetric"], 17, grouped=False, zero_rows=True, query_type=TensorProto.FLOAT
    )
    assert "ReduceMax" not in symmetric
    # TensorRT fuses a Where inside the bias; behind the addition it would materialise the mask.
    scores = plain.index("scores = Add")
    assert plain.index("Where") < scores and "Where" not in plain[scores:]


@pytest.mark.parametrize("op_type", list(BY_OP_TYPE))
def test_two_passes_per_head_before_the_sum(op_type: str) -> None:
    """What does not depend on the head is computed once for all heads, however many a file has."""
    variant = BY_OP_TYPE[op_type]
    body = function_proto(variant, 17, grouped=False, zero_rows=True, query_type=TensorProto.FLOAT)
    passes = passes_per_head(body)
    assert passes == (["Mul", "Add", "Add"] if variant.can_hide else ["Mul", "Add"])


@pytest.mark.parametrize("op_type", list(BY_OP_TYPE))
def test_a_linear_bias_behind_16_bits_is_made_by_key(op_type: str) -> None:
    """The product of slopes and distances is then no pass over rows."""
    variant = BY_OP_TYPE[op_type]
    body = function_proto(variant, 17, grouped=False, zero_rows=True, query_type=TensorProto.FLOAT16)
    rows = {"S_q"}
    for node in body.node:
        if rows & set(node.input):
            rows.update(node.output)
    (bias,) = (node for node in body.node if node.op_type == "Mul" and SLOPES_PER_HEAD in node.input)
    assert bool(rows & set(bias.output)) == variant.bias.sees_row


def passes_per_head(body: onnx.FunctionProto) -> list[str]:
    """Operators on numbers that differ between heads, up to the softmax."""
    per_head = {SLOPES_PER_HEAD, "dots"}
    passes = []
    for node in body.node:
        if per_head & set(node.input) and node.op_type != "Softmax":
            per_head.update(node.output)
            passes.append(node.op_type)
        elif node.op_type == "Softmax":
            break
    return passes


def test_sizes_are_read_from_where_they_are_known() -> None:
    """Every member with everything that may be known of sizes, against the oracle, in both widths."""
    rng = np.random.default_rng(23)
    for number, variant in enumerate(FAMILY_MEMBERS):
        for sizes in possible_sizes(variant):
            square = sizes.rows is Rows.KEYS
            for dtype in (np.float32, np.float16) if number % 3 == 0 else (np.float16,):
                shape = Shape(2, 4, 2, 5, 5, 4, 3) if square else Shape(2, 4, 2, 3, 5, 4, 3)
                full = (True, False, sizes.rows is Rows.MASK, sizes.keys_in_mask)
                arrays = draw_arrays(rng, variant, shape, dtype, mask_shape=full)
                model = model_of(
                    variant, 17, arrays, grouped=True, empty_rows=EmptyRows.ZERO, scale=0.5, window=(2, 1), sizes=sizes
                )
                wanted = expect(variant, arrays, 0.5, EmptyRows.ZERO, (2, 1))
                assert_close(run(model, variant, arrays), wanted, dtype, f"{variant.op_type} {sizes}")


@pytest.mark.parametrize("op_type", ["AlibiAttentionCausalPositionsBooleanMask", "AlibiAttentionSymmetricAdditiveMask"])
def test_the_reference_evaluator_agrees(op_type: str) -> None:
    variant = BY_OP_TYPE[op_type]
    arrays = draw_arrays(np.random.default_rng(29), variant, Shape(2, 3, 3, 4, 6, 8, 8), np.float16)
    model = model_of(variant, 17, arrays, grouped=False, empty_rows=EmptyRows.MEAN, scale=0.5)
    (actual,) = ReferenceEvaluator(model).run(None, dict(zip(variant.inputs, arrays, strict=True)))
    assert_close(actual, expect(variant, arrays, 0.5, EmptyRows.MEAN), np.float16, op_type)


@pytest.mark.parametrize(
    ("op_type", "sizes", "once"),
    [
        ("AlibiAttentionSymmetricAdditiveMask", KnownSizes(Rows.KEYS, True), True),
        ("AlibiAttentionCausalBooleanMask", KnownSizes(Rows.MASK, True), True),
        ("AlibiAttentionCausalBooleanMask", KnownSizes(Rows.QUERY, True), False),
    ],
)
def test_onnxruntime_makes_a_bias_once_for_all_layers(
    op_type: str, sizes: KnownSizes, once: bool, tmp_path: Path
) -> None:
    """Where sizes come from tensors that layers share: three layers differ from one by nothing but their products."""
    variant = BY_OP_TYPE[op_type]
    arrays = draw_arrays(np.random.default_rng(31), variant, Shape(1, 2, 2, 4, 4, 8, 8), np.float16)
    counts = []
    for layers in (1, 2, 3):
        model = model_of(variant, 17, arrays, grouped=False, empty_rows=EmptyRows.MEAN, scale=0.5, sizes=sizes)
        first = model.graph.node.pop()
        for layer in range(layers):
            node = onnx.NodeProto()
            node.CopyFrom(first)
            node.input[0], node.output[0] = f"x{layer}", f"x{layer + 1}"
            model.graph.node.append(node)
        model.graph.input[0].name, model.graph.output[0].name = "x0", f"x{layers}"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / f"{layers}.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
        counts.append(
            Counter(node.op_type for node in optimized.graph.node if node.op_type not in ("Cast", "Transpose"))
        )
    more = counts[1] - counts[0]
    assert more == counts[2] - counts[1]
    own = {"Mul": 1, "MatMul": 2, "Add": 1, "Softmax": 1}
    assert (more == own) == once, more
    assert "Mul" in more and "Abs" not in more


def test_body_is_the_same_text_every_time() -> None:
    for variant in FAMILY_MEMBERS:
        bodies = {
            function_proto(variant, 20, grouped=True, zero_rows=True, query_type=1).SerializeToString(
                deterministic=True
            )
            for _ in range(3)
        }
        assert len(bodies) == 1


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    variant = data.draw(st.sampled_from(FAMILY_MEMBERS))
    kv_heads = data.draw(st.integers(1, 3))
    shape = Shape(
        data.draw(st.integers(1, 3)),
        kv_heads * data.draw(st.integers(1, 3)),
        kv_heads,
        data.draw(st.integers(1, 6)),
        data.draw(st.integers(1, 6)),
        data.draw(st.integers(1, 5)),
        data.draw(st.integers(1, 5)),
    )
    empty_rows = data.draw(st.sampled_from(EmptyRows))
    scale = data.draw(st.floats(-2, 2, width=32))
    opset = data.draw(st.integers(WINDOW_OPSET if variant.window else MINIMUM_OPSET, 25))
    window = (data.draw(st.integers(-1, 7)), data.draw(st.integers(-1, 7)))
    mask_shape = tuple(data.draw(st.booleans()) for _ in range(4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    arrays = draw_arrays(
        rng, variant, shape, np.float32, mask_shape=mask_shape, one_position_row=data.draw(st.booleans())
    )
    grouped = kv_heads != shape.heads
    model = model_of(variant, opset, arrays, grouped=grouped, empty_rows=empty_rows, scale=scale, window=window)
    wanted = expect(variant, arrays, scale, empty_rows, window)
    assert_close(run(model, variant, arrays), wanted, np.float32, f"{variant} {shape} {window}")
