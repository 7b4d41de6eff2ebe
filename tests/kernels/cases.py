"""The attentions that the kernels are tested on: every member of the family, awkward sizes, hostile masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from alibi_rewriter.kernels.variants import Request
from alibi_rewriter.rewriter.spec import FAMILY_MEMBERS, Variant
from reference import Array, Case, masked_scores

DTYPES = ("bfloat16", "float16", "float32")
SHAPES = ((1, 1), (1, 37), (5, 5), (17, 33), (33, 17), (40, 72), (1, 130), (65, 129))
"""S_q and S_kv: single rows, more rows than keys, sizes that no tile divides."""
HEAD_DIMS = (64, 40, 128, 80, 16, 96, 72, 256, 160)
MARGIN = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-17}
"""Allowed error as a share of max|value|: two roundings to the type, and for float32 the TF32x3 products."""


@dataclass(frozen=True)
class Trial:
    """One attention in one type."""

    name: str
    case: Case
    dtype: str
    mask_dtype: str | None
    layout: str

    @property
    def request(self) -> Request:
        """What kernels it needs."""
        case = self.case
        return Request.of(
            symmetric=case.symmetric, causal=case.causal, positions=case.positions is not None,
            mask_dtype=self.mask_dtype, dtype=self.dtype, head_dim=case.query.shape[3], value_dim=case.value.shape[3],
        )  # fmt: skip


def rounded(array: Array, dtype: str) -> Array:
    """To the nearest value of ``dtype``, in float32."""
    array = array.astype(np.float32)
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = array.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return array


Mask = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def _mask(
    variant: Variant, number: int, sizes: tuple[int, int, int, int], rng: np.random.Generator
) -> tuple[Mask | None, str | None]:
    batch, heads, s_q, s_kv = sizes
    shapes = (
        (batch, 1, 1, s_kv),
        (batch, heads, s_q, s_kv),
        (1, 1, s_q, s_kv),
        (batch, 1, s_q, 1),
        (1, heads, 1, s_kv),
    )
    shape = shapes[number % len(shapes)]
    keep = rng.random(shape) > 0.4
    if number % 3 == 0:
        keep[0] = False  # a batch entry (or everything) that sees nothing
    if variant.mask == "boolean":
        return keep, "bool"
    if variant.mask == "none":
        return None, None
    dtype = DTYPES[number % 3]
    values = rounded(rng.standard_normal(shape) * 4, dtype)
    draw = rng.random(shape)
    values = np.where(draw > 0.85, rounded(np.asarray(-1e4), dtype), values)
    values = np.where(draw > 0.95, -65504.0 if dtype == "float16" else np.finfo(np.float32).min, values)
    if dtype == "bfloat16":
        values = np.where(values < -3.3895e38, -np.inf, values)
    values = np.where(draw < 0.02, np.inf, values)
    return np.where(keep, values, -np.inf).astype(np.float32), dtype


def trial(variant: Variant, number: int, s_q: int, s_kv: int, head_dim: int, dtype: str) -> Trial:
    """One trial; everything that is not given follows from ``number``."""
    rng = np.random.default_rng(number)
    batch, (heads, kv_heads) = 2, ((2, 2), (4, 2), (3, 1))[number % 3]
    value_dim = 32 if number % 7 == 6 else head_dim
    query, key, value = (
        rounded(rng.standard_normal(shape), dtype)
        for shape in (
            (batch, heads, s_q, head_dim),
            (batch, kv_heads, s_kv, head_dim),
            (batch, kv_heads, s_kv, value_dim),
        )
    )
    slopes = (2.0 ** -np.arange(1, heads + 1)).astype(np.float32)
    if number % 5 == 4:
        slopes[0], slopes[-1] = 0.0, -slopes[-1]
    positions = None
    if variant.positions:
        rows = batch if number % 2 else 1
        positions = np.cumsum(rng.integers(0, 3, (rows, s_kv)), axis=1).astype(np.float32)
    mask, mask_dtype = _mask(variant, number, (batch, heads, s_q, s_kv), rng)
    case = Case(
        query, key, value, slopes, head_dim**-0.5, variant.form == "symmetric", variant.causal, positions, mask,
        empty_mean=number % 4 != 3,
    )  # fmt: skip
    layout = "BSHD" if number % 4 == 1 else "BHSD"
    name = f"{number}-{variant.op_type.removeprefix('AlibiAttention')}-{dtype}-{s_q}x{s_kv}-D{head_dim}-{layout}"
    return Trial(name, case, dtype, mask_dtype, layout)


def sample(step: int = 1, first: int = 0) -> Iterator[Trial]:
    """Every ``step``-th combination of member, shape and type; head sizes rotate."""
    number = 0
    for shape_number, (s_q, s_kv) in enumerate(SHAPES):
        for variant_number, variant in enumerate(FAMILY_MEMBERS):
            for dtype in DTYPES:
                number += 1
                if number % step == first % step:
                    head_dim = HEAD_DIMS[(number + shape_number + variant_number) % len(HEAD_DIMS)]
                    yield trial(variant, number, s_q, s_kv, head_dim, dtype)


def tolerance(item: Trial) -> float:
    """The largest error that is accepted anywhere in the output."""
    return MARGIN[item.dtype] * max(1.0, float(np.abs(item.case.value).max()))


def row_tolerance(item: Trial) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The largest error that is accepted in each row, [B, H, S_q, 1].

    Where the largest score of a row is -1e4, say, float32 tells scores apart to 2^-10 only: a row whose keys are all
    masked with finite values cannot be better than that, whatever the kernel does.
    """
    peak = masked_scores(item.case).max(-1, keepdims=True)
    resolution = np.minimum(2.0**-22 * np.abs(np.where(np.isfinite(peak), peak, 0.0)), 2.0)
    return tolerance(item) + resolution * float(np.abs(item.case.value).max())
