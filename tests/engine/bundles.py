"""Bundles without a compiler: a description of every role with images that are made up."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from alibi_rewriter.engine.container import encode
from alibi_rewriter.kernels.launch.description import (
    Argument,
    Condition,
    Description,
    Extent,
    Factor,
    Image,
    Kernel,
    TensorMap,
)
from alibi_rewriter.kernels.requests import BufferLayout
from test_description import kernel
from test_plan import CHUNKS, SPLIT_GRID, bundle

HOPPER = (
    Argument("query", "tensor_map", 16, TensorMap("query", (64, 64, 1, 1), 128)),
    Argument("", "zero32"),
    Argument("slopes", "pointer", 16),
    Argument("scale", "float32"),
)


def described(op_type: str = "AlibiAttentionCausal", mask_dtype: str | None = None) -> Description:
    """Several prefill kernels with conditions, layouts and alignments of their own, and everything else."""
    long = kernel(
        "prefill", name="long", conditions=(Condition("s_kv", 1024), Condition("surplus", 0)), arguments=HOPPER
    )
    dense = kernel("prefill", name="dense-mask", conditions=(), layout=BufferLayout(True, False, True))
    old = kernel("prefill", name="old", arch=80, exact_arch=False, conditions=())
    others = [
        kernel(role, name=f"old-{role}", arch=80, exact_arch=False, conditions=(), grid=SPLIT_GRID, arguments=())
        for role in ("decode", "decode_split", "combine")
    ]
    if "Lengths" in op_type:
        aligned = kernel("prefill", name="aligned", conditions=(Condition("first_surplus", at_most=0),))
        return bundle(aligned, old, *others, *extended(), op_type=op_type, mask_dtype=mask_dtype)
    wide = kernel("prefill", name="wide", conditions=(Condition("wide_saves", 10), Condition("s_kv", at_most=300)))
    extra = [wide, long, old, *others, *extended()] + ([dense, *looking(), paired()] if mask_dtype else certified())
    return bundle(*extra, op_type=op_type, mask_dtype=mask_dtype)


def extended() -> list[Kernel]:
    """Decodes of more rows, in tiles of 64 and 128."""
    many = Condition("s_kv", at_least=2048)
    return [
        kernel(
            "extend", name=f"extend-{rows}", conditions=(Condition("rows", at_most=rows), many), arguments=CHUNKS,
            grid=(SPLIT_GRID[0], Extent((Factor(("rows",), rows),)), SPLIT_GRID[2]),
        )
        for rows in (64, 128)
    ]  # fmt: skip


def paired() -> Kernel:
    """A decode in chunks for two programs on a multiprocessor."""
    return kernel("decode_split", name="paired", conditions=(), arguments=CHUNKS, grid=SPLIT_GRID, programs=2)


def looking() -> list[Kernel]:
    """A kernel for masks with rows, and the launch before it."""
    blocks, ticket = Argument("blocks", "pointer", 16), Argument("ticket", "pointer", 16)
    rows = BufferLayout(False, True)
    tiles = Extent((Factor(("s_q",), 128), Factor(("s_kv",), 64), Factor(("mask_batches",))))
    grid = (tiles, Extent((Factor(("mask_heads",)),)), Extent())
    return [
        kernel("prefill", name="walks", conditions=(), layout=rows, arguments=(blocks, ticket)),
        kernel("blocks", conditions=(), layout=rows, arguments=(blocks, ticket), grid=grid),
    ]


def certified() -> list[Kernel]:
    """Kernels that skip, one that draws tickets and one with a launch for the certificates, and what goes before."""
    norms, reach = Argument("key_norms", "pointer", 16), Argument("reach", "pointer", 16)
    ticket, previous = Argument("ticket", "pointer", 16), Argument("previous", "pointer", 16)
    below = (Condition("s_kv", 512, 700), Condition("surplus", 0))
    return [
        kernel("prefill", name="draws", conditions=below, arguments=(norms, ticket, previous)),
        kernel("prefill", name="reaches", conditions=(Condition("s_kv", 701, 1023),), arguments=(reach,)),
        kernel("key_norms", conditions=(), arguments=(norms, ticket)),
        kernel("reach", conditions=(), arguments=(norms, reach)),
    ]


def with_images(description: Description, directory: Path) -> Description:
    """The same, with made-up images in ``directory``."""
    kernels = []
    for number, item in enumerate(description.kernels):
        code = hashlib.sha256(str(number).encode()).digest() * 40
        text = f".version 8.0 // {number} ".encode() * 60
        (directory / f"{number}.cubin").write_bytes(code)
        (directory / f"{number}.ptx").write_bytes(text)
        image = Image(
            f"{number}.cubin",
            hashlib.sha256(code).hexdigest(),
            f"{number}.ptx",
            hashlib.sha256(text).hexdigest(),
            "8.0",
        )
        kernels.append(dataclasses.replace(item, image=image))
    return dataclasses.replace(description, kernels=tuple(kernels))


def encoded(directory: Path, op_type: str = "AlibiAttentionCausal", mask_dtype: str | None = None) -> bytes:
    """As bytes, machine code for sm_90 and PTX for sm_80."""
    return encode(with_images(described(op_type, mask_dtype), directory), directory, machine_code=(90,), ptx=(80,))
