"""The attentions that the kernels are tested on: every member of the family, awkward sizes, hostile masks."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from alibi_rewriter.fused.family import KERNEL_MEMBERS, Variant
from alibi_rewriter.kernels.requests import KernelRequest, head_chunks
from reference import Array, Case, attend, lengths, masked_scores, visible

WITHOUT_LENGTHS = [member for member in KERNEL_MEMBERS if not member.lengths]
WITH_LENGTHS = [member for member in KERNEL_MEMBERS if member.lengths]
DTYPES = ("bfloat16", "float16", "float32")
SHAPES = ((1, 1), (1, 37), (5, 5), (17, 33), (33, 17), (40, 72), (1, 130), (65, 129))
"""S_q and S_kv: single rows, more rows than keys, sizes that no tile divides."""
HEAD_DIMS = (64, 40, 128, 80, 16, 96, 72, 256, 160)
PATHS = (("prefill", 1), ("decode", 1), ("decode", 3))
"""Path and number of chunks, each of which every sample takes in the interpreter."""
TILE_SIDE = 16
"""Rows and keys of a tile there."""
MARGIN = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-17}
"""Allowed error as a share of max|value|: two roundings to the type, and for float32 the TF32x3 products."""
RELATIVE = {"bfloat16": 5e-3, "float16": 1e-3, "float32": 2e-6}
"""Allowed error of long rows, in the norm."""
LONG_DECODE = (
    # batch, heads, key heads, S_q, S_kv, D, form, mask, positions, factor on the slopes, mean for rows without keys
    (1, 8, 1, 1, 20000, 128, "causal", "none", False, 1.0, True),
    (1, 8, 1, 2, 20000, 64, "causal", "none", False, 0.0, True),
    (1, 8, 1, 2, 16640, 96, "symmetric", "left", False, 1e-3, True),
    (2, 16, 2, 1, 12345, 128, "causal", "left", False, 0.01, False),
    (1, 4, 1, 4, 9001, 64, "symmetric", "none", False, -0.002, True),
    (1, 3, 3, 4, 5000, 128, "causal", "boolean rows", True, 1e-3, True),
    (1, 6, 2, 3, 4097, 80, "linear", "additive rows", True, 1e-3, False),
    (2, 8, 4, 1, 7777, 64, "causal", "additive keys", False, 0.01, True),
    (1, 2, 2, 1, 20000, 256, "linear", "none", True, 1e-4, True),
    (3, 4, 1, 4, 2560, 64, "causal", "all of one", False, 1.0, True),
    (3, 4, 1, 4, 2560, 128, "causal", "all of one", False, 1.0, False),
    (1, 8, 1, 1, 33000, 64, "causal", "none", False, 1e-4, True),
    (1, 8, 8, 2, 511, 64, "causal", "none", False, 1.0, True),
    (1, 8, 8, 2, 512, 64, "symmetric", "none", False, 0.1, True),
    (16, 32, 32, 1, 777, 128, "causal", "left", False, 0.1, True),
)  # fmt: skip
"""Long caches: chunks as an engine cuts them, flat and negative slopes so that far chunks count, hidden chunks."""
FAST_LONG_DECODES = (2, 4, 6, 9, 11)
"""Those of a short sweep: every form, kind of mask and type, positions, 65 and 128 chunks (64 are joined at once)."""


@dataclass(frozen=True)
class Trial:
    """One attention in one type."""

    name: str
    case: Case
    dtype: str
    mask_dtype: str | None
    layout: str

    @property
    def request(self) -> KernelRequest:
        """What kernels it needs."""
        case = self.case
        return KernelRequest.of(
            symmetric=case.symmetric, causal=case.causal, positions=case.positions is not None,
            mask_dtype=self.mask_dtype, dtype=self.dtype, head_dim=case.query.shape[3], value_dim=case.value.shape[3],
            key_bias=case.key_bias is not None, window=max(case.window) >= 0, lengths=case.key_lengths is not None,
        )  # fmt: skip

    def traits(self, path: str, splits: int) -> frozenset[str]:
        """What a check of this attention by one path covers."""
        case, variant = self.case, self.request.variant
        role = path if splits == 1 else "decode_split"
        rows = case.mask is not None and (case.mask.shape[1] > 1 or case.mask.shape[2] > 1)
        # What key biases, windows and lengths add is the same for every form and mask, and in every type.
        plain = not (variant.key_bias or variant.window or variant.lengths)
        of_role = (
            variant.op_type if plain else "", "causal" if variant.causal else variant.form, f"mask {variant.mask}",
            f"mask rows {rows}",
            self.layout, self.dtype, f"positions {variant.positions}", f"key bias {variant.key_bias}",
            f"window {tuple(side >= 0 for side in case.window)}",
            f"lengths {variant.lengths}, from the first key {case.rows_first}",
            f"{'causal' if variant.causal else variant.form}, several rows {case.query.shape[2] > 1}",
        )  # fmt: skip
        own = (
            f"{variant.op_type} {self.dtype if plain else ''}",
            f"mask of {self.mask_dtype}", f"chunks of head {2 if head_chunks(case.query.shape[3])[1] else 1}",
            f"grouped {case.query.shape[1] > case.key.shape[1]}", f"more rows than keys {surplus(case) < 0}",
            f"D_v is D {case.query.shape[3] == case.value.shape[3]}",
            f"a slope is not positive {case.slopes.min() <= 0}",
            f"rows without keys {('mean' if case.empty_mean else 'zero') if without_keys(case) else 'none'}",
        )  # fmt: skip
        return frozenset((*(f"{role}: {trait}" for trait in of_role), *own))

    def steps(self, path: str) -> int:
        """Tiles of scores, as a measure of how long the interpreter takes."""
        batch, heads, s_q, _ = self.case.query.shape
        kv_heads, s_kv = self.case.key.shape[1:3]
        group = heads // kv_heads
        tiles = heads * -(-s_q // TILE_SIDE) if path == "prefill" else kv_heads * -(-group * s_q // TILE_SIDE)
        return batch * tiles * -(-s_kv // TILE_SIDE)


def surplus(case: Case) -> int:
    """S_kv - S_q."""
    return int(lengths(case).min() - case.query.shape[2])


def without_keys(case: Case) -> bool:
    """Whether a row sees no key."""
    return not bool(visible(case).any(-1).all())


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
    values = np.where(keep, values, -np.inf).astype(np.float32)
    if dtype == "float32" and number % 2:
        values[-1, -1, -1] = np.finfo(np.float32).min  # the lowest float32 hides, too: a row that sees nothing
    return values, dtype


def _key_bias(number: int, sizes: tuple[int, int, int], rng: np.random.Generator) -> Array:
    """Numbers by key, [B or 1, H or 1, S_kv]: soft ones, such that hide, and one that is infinite."""
    batch, heads, s_kv = sizes
    shape = ((1, 1), (batch, 1), (batch, heads), (1, heads))[number % 4]
    found = (rng.standard_normal((*shape, s_kv)) * 4).astype(np.float32)
    draw = rng.random(found.shape)
    found[draw > 0.7] = (-np.inf, np.finfo(np.float32).min, -1e9)[number % 3]
    if number % 5 == 0:
        found[draw < 0.02] = np.inf
    return found


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
    bias = _key_bias(number, (batch, heads, s_kv), rng) if variant.key_bias else None
    window = ((5, 3), (0, -1), (-1, 17), (40, 0))[number % 4] if variant.window else (-1, -1)
    own = None
    if variant.lengths:
        own = rng.integers(-1, s_kv + 2, batch if number % 3 else 1)
    case = Case(
        query, key, value, slopes, head_dim**-0.5, variant.form == "symmetric", variant.causal, positions, mask,
        empty_mean=number % 4 != 3, key_bias=bias, window=window, key_lengths=own,
        rows_first=variant.lengths and number % 8 > 3,
    )  # fmt: skip
    layout = "BSHD" if number % 4 == 1 else "BHSD"
    name = f"{number}-{variant.op_type.removeprefix('AlibiAttention')}-{dtype}-{s_q}x{s_kv}-D{head_dim}-{layout}"
    return Trial(name, case, dtype, mask_dtype, layout)


def sample(step: int = 1, first: int = 0) -> Iterator[Trial]:
    """Every ``step``-th combination of member, shape and type; head sizes rotate."""
    number = 0
    for members in (WITHOUT_LENGTHS, WITH_LENGTHS):
        for shape_number, (s_q, s_kv) in enumerate(SHAPES):
            for variant_number, variant in enumerate(members):
                for dtype in DTYPES:
                    number += 1
                    if number % step == first % step:
                        head_dim = HEAD_DIMS[(number + shape_number + variant_number) % len(HEAD_DIMS)]
                        yield trial(variant, number, s_q, s_kv, head_dim, dtype)


def _decode_mask(kind: str, sizes: tuple[int, int, int, int], dtype: str, rng: np.random.Generator) -> Mask | None:
    batch, heads, s_q, s_kv = sizes
    if kind == "none":
        return None
    if kind.startswith("additive"):
        shape = (batch, heads, s_q, s_kv) if kind == "additive rows" else (1, 1, 1, s_kv)
        values = rounded(rng.standard_normal(shape), dtype)
        return np.where(rng.random(shape) < 0.3, np.float32(-np.inf), values)
    if kind == "boolean rows":
        return rng.random((1, heads, s_q, s_kv)) > 0.3
    keep = np.ones((batch, 1, 1, s_kv), bool)
    if kind == "all of one":
        keep[0] = False
    for entry in range(batch):
        # Long enough to hide whole chunks.
        length = int(rng.integers(s_kv // 3, s_kv // 2))
        if kind == "left":
            keep[entry, ..., : s_kv - length] = False
        elif kind == "right":
            keep[entry, ..., length:] = False
    return keep


def long_decode(index: int, dtype: str) -> Trial:
    """The numbered entry of LONG_DECODE."""
    batch, heads, kv_heads, s_q, s_kv, depth, form, kind, positions, on_slopes, mean = LONG_DECODE[index]
    rng = np.random.default_rng(index)
    shapes = ((batch, heads, s_q, depth), (batch, kv_heads, s_kv, depth), (batch, kv_heads, s_kv, depth))
    query, key, value = (rounded(rng.standard_normal(shape), dtype) for shape in shapes)
    slopes = (on_slopes * 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)).astype(np.float32)
    mask = _decode_mask(kind, (batch, heads, s_q, s_kv), dtype, rng)
    places = np.cumsum(rng.integers(0, 3, (batch, s_kv)), axis=1).astype(np.float32) if positions else None
    case = Case(
        query, key, value, slopes, depth**-0.5, form == "symmetric", form == "causal", places, mask, empty_mean=mean
    )
    mask_dtype = None if mask is None else "bool" if mask.dtype == bool else dtype
    name = f"{index}-{form}-{dtype}-{batch}x{heads}/{kv_heads}-{s_q}x{s_kv}-D{depth}-{kind.replace(' ', '-')}"
    return Trial(name, case, dtype, mask_dtype, "BSHD" if index % 3 == 2 else "BHSD")


ROW_MASKS = ("causal", "documents", "window", "prefix", "left", "random", "none", "rows", "heads")


def row_mask(kind: str, sizes: tuple[int, int, int, int], rng: np.random.Generator) -> Mask:
    """A boolean mask that differs by row or head, [B or 1, H or 1, S_q or 1, S_kv or 1]; True: visible."""
    batch, heads, s_q, s_kv = sizes
    row, column = np.arange(s_q)[:, None] + (s_kv - s_q), np.arange(s_kv)[None, :]
    if kind == "causal":
        return np.broadcast_to(column <= row, (batch, 1, s_q, s_kv)).copy()
    if kind == "documents":
        starts = np.sort(rng.integers(0, s_kv, max(1, s_kv // 150)))
        of_row, of_column = np.searchsorted(starts, row, "right"), np.searchsorted(starts, column, "right")
        return np.asarray(of_row == of_column)[None, None]
    if kind == "window":
        return ((row - column <= s_kv // 5) & (column - row <= s_kv // 9))[None, None]
    if kind == "prefix":
        return ((column <= row) | (column < s_kv // 3))[None, None]
    if kind == "left":
        # As a causal mask with padding at the left is written out: the padding's own rows see nothing.
        hidden = rng.integers(0, s_kv // 2 + 1, batch)[:, None, None, None]
        return np.asarray((column <= row)[None, None] & (column >= hidden))
    if kind == "bands":
        # Some 300 rows that see nothing, some that do, and so on; every batch entry begins elsewhere.
        begin = 170 * np.arange(batch)[:, None, None, None]
        return np.asarray((column <= row)[None, None] & ((row + begin) // 300 % 2 == 1))
    if kind == "none":
        found = rng.random((batch, heads, s_q, s_kv)) > 0.5
        found[0] = False
        return found
    if kind == "rows":
        return rng.random((batch, 1, s_q, 1)) > 0.3
    if kind == "heads":
        return rng.random((1, heads, 1, s_kv)) > 0.3
    return rng.random((1, 1, s_q, s_kv)) > 0.5


def row_masks() -> Iterator[Trial]:
    """Masks with rows for the launch that looks at them: sizes around its tiles, every kind and type."""
    for number, kind in enumerate(ROW_MASKS * 3):
        rng = np.random.default_rng(number)
        s_q, s_kv = ((130, 704), (257, 257), (256, 1100), (256, 1024))[number % 4]
        mask: Mask = row_mask(kind, (2, 2, s_q, s_kv), rng)
        mask_dtype = ("bool", *DTYPES)[number * 3 // 4 % 4]
        if mask_dtype != "bool":
            lowest = -65504.0 if mask_dtype == "float16" else (-np.inf, np.finfo(np.float32).min)[number % 2]
            mask = np.where(mask, -0.0 if number % 3 else 0.5, lowest).astype(np.float32)
        shapes = ((2, 2, s_q, 16), (2, 2, s_kv, 16), (2, 2, s_kv, 16))
        query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        slopes = np.ones(2, np.float32)
        symmetric, causal = ((False, True), (True, False), (False, False))[number % 3]
        window = (-1, -1) if number % 4 else ((40, 9), (200, -1), (-1, 130))[number // 4 % 3]
        case = Case(
            query, key, value, slopes, 0.25, symmetric, causal, None, None if number % 8 == 4 else mask, window=window
        )
        name = f"{number}-{kind}-{'symmetric' if symmetric else 'causal' if causal else 'linear'}-{mask_dtype}"
        yield Trial(name, case, "float32", None if number % 8 == 4 else mask_dtype, "BHSD")


def blocks_of(case: Case, block_n: int) -> tuple[Array, ...]:
    """Which blocks of keys a tile of 128 rows needs, in which its mask says something, of which one is seen
    or faint, and how many of the tile's first rows see none, as ``alibi_blocks`` has it.

    Four arrays, [batch entries of the mask, its heads, tiles, blocks].
    """
    mask = np.ones((1, 1, 1, 1), bool) if case.mask is None else np.asarray(case.mask)
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    row, column = np.arange(s_q)[:, None] + (s_kv - s_q), np.arange(s_kv)[None, :]
    counts = column <= row if case.causal else np.ones((s_q, s_kv), bool)
    full = np.broadcast_to(mask, (*mask.shape[:2], s_q, s_kv))
    seen = full if mask.dtype == bool else full > -1e38
    faint = full if mask.dtype == bool else full > np.finfo(np.float32).min
    told = ~full if mask.dtype == bool else full != 0.0
    for distance, most in zip((row - column, column - row), case.window, strict=True):
        if most >= 0:
            seen, faint, told = seen & (distance <= most), faint & (distance <= most), told | (distance > most)

    def by_row(flags: Array) -> Array:
        tiles, blocks = -(-s_q // 128), -(-s_kv // block_n)
        padded = np.zeros((*mask.shape[:2], tiles * 128, blocks * block_n), bool)
        padded[..., :s_q, :s_kv] = flags & counts
        return np.asarray(padded.reshape(*mask.shape[:2], tiles, 128, blocks, block_n).any(5))

    rows = by_row(faint)
    top = np.where(rows.any(3), rows.argmax(3), 128)
    return by_row(seen).any(3), by_row(told).any(3), rows.any(3), top


def relative_error(item: Trial, output: Array) -> float:
    """Against float64, in the norm: as a share of what is accepted for long rows; infinite for NaN.

    The outputs of long rows are small, and single elements say little about them.
    """
    wanted = attend(item.case)
    error = float(np.linalg.norm(output - wanted) / np.linalg.norm(wanted)) / RELATIVE[item.dtype]
    return error if np.isfinite(error) else float("inf")


@functools.cache
def covering() -> tuple[tuple[Trial, str, int], ...]:
    """Few cheap checks (trial, path, chunks) of more than one tile, with every trait which any of all checks has."""
    checks = [
        (item, path, splits)
        for item in sample()
        for path, splits in PATHS
        if item.case.key.shape[2] > TILE_SIDE and (item.case.query.shape[2] > TILE_SIDE or path != "prefill")
    ]
    traits = [item.traits(path, splits) for item, path, splits in checks]
    efforts = [100 + item.steps(path) for item, path, _ in checks]
    missing = frozenset[str]().union(*traits)
    chosen = []
    # What a check gains only falls as others are chosen: one whose gain is still the largest needs no look at the rest.
    waiting = [
        (-len(found) / effort, number) for number, (found, effort) in enumerate(zip(traits, efforts, strict=True))
    ]
    heapq.heapify(waiting)
    while missing:
        _, number = waiting[0]
        current = (-len(traits[number] & missing) / efforts[number], number)
        if current > heapq.heapreplace(waiting, current):
            continue
        chosen.append(checks[number])
        missing -= traits[number]
    return tuple(chosen)


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
