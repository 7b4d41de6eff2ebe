"""What one kernel image is made for, and the compile-time constants that follow from it.

A :class:`Request` says what a graph contains (a member of the family, a type, head sizes); a :class:`Layout`
what is known about the buffers; a :class:`Tile` how the work is cut.  Everything here is plain data: nothing
imports Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..fused.family import BY_OP_TYPE, MaskKind, Variant
from ..patterns.forms import LINEAR, SYMMETRIC

DTYPES = ("float16", "bfloat16", "float32")
MASK_DTYPES = ("bool", *DTYPES)
ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "bool": 1}
ROLES = ("prefill", "decode", "decode_split", "combine", "key_norms", "reach", "blocks", "extend")
SKIP_BITS = {2: 14, 4: 24}
"""Bits of the certificate by element size: skipping changes an output by at most 2^-bits of max|value|."""
HEAD_DIM_STEP = 8
SMALLEST_HEAD_DIM = 8
LARGEST_HEAD_DIM = 256
SMALLEST_TILE = 16
"""Shortest side of a matrix product; smaller heads are padded with zeros."""
MAX_SPLITS = 128
"""Most chunks that the combine kernel joins."""

_MASK_CODES = {MaskKind.NONE.value: 0, MaskKind.BOOLEAN.value: 1, MaskKind.ADDITIVE.value: 2}


@dataclass(frozen=True)
class KernelRequest:
    """One kind of fused node that kernels are wanted for.

    Attributes:
        op_type: A member of the family.
        dtype: Type of query, key, value and output.
        head_dim: D, a multiple of 8 from 8 to 256.
        value_dim: D_v, likewise.
        mask_dtype: ``bool`` for a boolean mask, a float type for an additive one, None without a mask.

    Raises:
        ValueError: If the values do not describe a supported node.
    """

    op_type: str
    dtype: str
    head_dim: int
    value_dim: int
    mask_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.op_type not in BY_OP_TYPE:
            raise ValueError(f"no such fused node: {self.op_type!r}")
        if not self.variant.bias.kernels:
            raise ValueError(f"there are no kernels for the form {self.variant.form!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        for name in ("head_dim", "value_dim"):
            size = getattr(self, name)
            if not SMALLEST_HEAD_DIM <= size <= LARGEST_HEAD_DIM or size % HEAD_DIM_STEP:
                raise ValueError(
                    f"{name} is {size}; the kernels take multiples of {HEAD_DIM_STEP} from {SMALLEST_HEAD_DIM} to "
                    f"{LARGEST_HEAD_DIM}"
                )
        kind = self.variant.mask
        fits = {
            MaskKind.NONE.value: self.mask_dtype is None,
            MaskKind.BOOLEAN.value: self.mask_dtype == "bool",
            MaskKind.ADDITIVE.value: self.mask_dtype in DTYPES,
        }
        if not fits[kind]:
            raise ValueError(f"{self.op_type} does not take a mask of type {self.mask_dtype!r}")

    @property
    def variant(self) -> Variant:
        """The member of the family."""
        return BY_OP_TYPE[self.op_type]

    @classmethod
    def of(
        cls, *, symmetric: bool, causal: bool, positions: bool, mask_dtype: str | None, dtype: str, head_dim: int,
        value_dim: int | None = None, key_bias: bool = False, window: bool = False, lengths: bool = False,
    ) -> KernelRequest:  # fmt: skip
        """The request for the node with these properties."""
        form = SYMMETRIC if symmetric else LINEAR
        kind = {None: MaskKind.NONE, "bool": MaskKind.BOOLEAN}.get(mask_dtype, MaskKind.ADDITIVE)
        variant = Variant(form.name, causal, positions, kind.value, key_bias, window, lengths)
        return cls(variant.op_type, dtype, head_dim, value_dim or head_dim, mask_dtype)


def is_symmetric(variant: Variant) -> bool:
    """Which of the two forms that the kernels compute a member has.

    Raises:
        ValueError: Neither of them.
    """
    if variant.bias not in (LINEAR, SYMMETRIC):
        raise ValueError(f"the kernels do not compute the form {variant.form!r}")
    return variant.bias is SYMMETRIC


@dataclass(frozen=True)
class BufferLayout:
    """What an image assumes about its buffers.

    Attributes:
        contiguous: query, key, value and output are contiguous [B, H, S, D]; otherwise any strides whose last is
            1 and whose others are multiples of 16 bytes.
        mask_rows: The mask may differ between heads or query rows; otherwise it is [B or 1, 1, 1, S_kv or 1].
        mask_dense: The mask's last stride is 1 and its address and other strides are multiples of 16 elements, so
            that it is read in vectors; otherwise any strides.
    """

    contiguous: bool = True
    mask_rows: bool = False
    mask_dense: bool = False


@dataclass(frozen=True)
class Tile:
    """How one program cuts the scores and how Triton schedules it.

    Attributes:
        block_m, block_n: Query rows and keys of a tile.
        warps: Warps of a program.
        stages: Depth of the software pipeline.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int

    @property
    def text(self) -> str:
        """As in names: ``128x64w4s3``."""
        return f"{self.block_m}x{self.block_n}w{self.warps}s{self.stages}"


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def padded_head(n: int) -> int:
    """The power of two that a head of size ``n`` is padded to."""
    return max(SMALLEST_TILE, power_of_two(n))


def head_chunks(n: int) -> tuple[int, int]:
    """A head size as one or two powers of two of at least 16: 80 is 64 + 16, 96 is 64 + 32; 0 if one does.

    Two chunks only where they are smaller together than the next power of two: the products then do less.
    """
    whole = padded_head(n)
    if whole == n:
        return n, 0
    rest = padded_head(n - whole // 2)
    return (whole, 0) if rest + whole // 2 >= whole else (whole // 2, rest)


def constants_of(
    role: str, request: KernelRequest, tile: Tile, layout: BufferLayout, skip: bool = False
) -> dict[str, Any]:
    """The compile-time arguments of the kernel that plays ``role``, by parameter name.

    Args:
        role: One of :data:`ROLES`.
        request: What the image is made for.
        tile: How it is cut.
        layout: What it assumes.
        skip: Leave out what the certificate allows (prefill only).

    Raises:
        ValueError: If ``role`` is unknown.
    """
    variant = request.variant
    head, value = head_chunks(request.head_dim), head_chunks(request.value_dim)
    mask = _MASK_CODES[variant.mask]
    attention = {
        "SYMMETRIC": is_symmetric(variant),
        "CAUSAL": variant.causal,
        "POSITIONS": variant.positions,
        "MASK": mask,
        "MASK_ROWS": layout.mask_rows,
        "KEY_BIAS": variant.key_bias,
        "WINDOW": variant.window,
        "LENGTHS": variant.lengths,
        # Three TF32 products keep float32 inputs to about 2^-21; one would keep 2^-11.
        "PRECISION": "tf32x3" if request.dtype == "float32" else "ieee",
        "D": request.head_dim,
        "V": request.value_dim,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
    }
    by_key = {name: attention[name] for name in ("MASK", "POSITIONS", "KEY_BIAS", "LENGTHS")}
    padded = {"D_PADDED": padded_head(request.head_dim), "V_PADDED": padded_head(request.value_dim)}
    if role == "prefill":
        chunks = {"D0": head[0], "D1": head[1], "V0": value[0], "V1": value[1]}
        return {**attention, **chunks, "SKIP": skip}
    if role in ("decode", "decode_split", "extend"):
        return {**attention, **padded, "SPLIT": role != "decode"}
    if role == "combine":
        natural = variant.mask == MaskKind.ADDITIVE.value or variant.key_bias
        return {
            "NATURAL": natural, "LENGTHS": variant.lengths, "V": request.value_dim, "V_PADDED": padded["V_PADDED"],
            "MAX_SPLITS": MAX_SPLITS,
            "BLOCK": min(64, 8192 // padded["V_PADDED"]),
        }  # fmt: skip
    if role == "key_norms":
        bits = SKIP_BITS[ELEMENT_BYTES[request.dtype]]
        return {**by_key, "BITS": bits, "D": request.head_dim, "D_PADDED": padded["D_PADDED"], "KEYS": 64}
    if role == "blocks":
        return {
            "MASK": mask, "WINDOW": variant.window, "CAUSAL": variant.causal, "DENSE": layout.mask_dense,
            "BLOCK_N": tile.block_n, "ROWS": tile.block_m,
        }  # fmt: skip
    if role == "reach":
        return {
            **by_key, "CAUSAL": variant.causal, "BITS": SKIP_BITS[ELEMENT_BYTES[request.dtype]], "D": request.head_dim,
            "D_PADDED": padded["D_PADDED"], "ROWS": 128, "SCAN": 128,
        }  # fmt: skip
    raise ValueError(f"unknown role {role!r}")
