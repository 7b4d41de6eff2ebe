"""Compiles single kernels with Triton; run as a process of its own by ``compiler``, since LLVM may abort it.

Reads jobs from standard input, one JSON object a line, and answers each with one line of JSON on standard
output.  Importing this module imports Triton.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from ..hopper import kernel as hopper
from ..portable import blocks, decode, prefill, skipping
from ..requests import ELEMENT_BYTES, BufferLayout, KernelRequest, Tile, constants_of, is_symmetric, padded_head
from . import assembler

TRITON_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "bool": "u8"}
PTX_VERSIONS = {80: 80, 86: 80, 89: 80, 90: 80, 100: 86, 120: 87}
"""The PTX version asked for, so that drivers of CUDA 12 and later load the PTX: 8.0 is CUDA 12.0, 8.7 12.8."""
HOPPER_PTX = 86

_RENAMED = {"scale_natural": "scale", "batch_size": "batch", "query_map": "query", "key_map": "key",
            "value_map": "value", "output_map": "output"}  # fmt: skip
_FLOAT_POINTERS = ("slopes", "key_positions", "key_bias", "key_norms", "key_terms", "partial", "partial_sums")


def _kernels() -> dict[tuple[str, str], Callable[..., None]]:
    return {
        ("portable", "prefill"): prefill.alibi_prefill,
        ("hopper", "prefill"): hopper.alibi_prefill_hopper,
        ("portable", "decode"): decode.alibi_decode,
        ("portable", "decode_split"): decode.alibi_decode,
        ("portable", "extend"): decode.alibi_decode,
        ("portable", "blocks"): blocks.alibi_blocks,
        ("portable", "combine"): decode.alibi_combine,
        ("portable", "key_norms"): skipping.alibi_key_norms,
        ("portable", "reach"): skipping.alibi_reach,
    }


def _argument(
    name: str, request: KernelRequest, layout: BufferLayout, role: str, skip: bool, hopper: bool
) -> tuple[str, dict[str, Any]] | Any:
    """The Triton type and the description of parameter ``name``, or the constant that it is fixed to."""
    variant = request.variant
    vector = 16 // ELEMENT_BYTES[request.dtype]
    called = _RENAMED.get(name, name)
    if hopper and variant.key_bias:
        # An additive mask that differs by key only.
        name = {"mask": "key_bias", "mask_batch": "bias_batch", "mask_head": "bias_head"}.get(name, name)
        called = name if name.startswith(("key_bias", "bias_")) else called
        if name == "mask_column":
            return 1
    masked = request.mask_dtype is not None or variant.key_bias or variant.lengths
    looks = hopper and (layout.mask_rows or variant.window)
    absent = (
        (name == "mask" and request.mask_dtype is None)
        or (name == "key_positions" and not variant.positions)
        or (name == "key_bias" and not variant.key_bias)
        or (name == "key_lengths" and not variant.lengths)
        or (name in ("reach", "key_norms", "key_terms") and role == "prefill" and not skip)
        or (name == "key_terms" and not (request.mask_dtype or variant.positions or variant.key_bias))
        or (name in ("ticket", "previous") and role == "prefill" and not (skip or looks))
        or (name == "blocks" and role == "prefill" and not looks)
        or (name == "empty_mean" and hopper and not (masked or variant.window))
        or (name == "output" and role in ("decode_split", "extend"))
        or (name in ("partial", "partial_sums") and role == "decode")
    )
    if absent:
        return 0 if name == "empty_mean" else None
    if name in ("query", "key", "value", "output", "mask", *_FLOAT_POINTERS):
        dtype = "float32" if name in _FLOAT_POINTERS else request.mask_dtype if name == "mask" else request.dtype
        align = 1 if name == "mask" else 4 if name in ("key_positions", "key_bias") else 16
        if name == "mask" and dtype:
            align = ELEMENT_BYTES[dtype] * (16 if layout.mask_dense else 1)
        return f"*{TRITON_TYPES[dtype or '']}", {"name": called, "kind": "pointer", "multiple_of": align}
    if name == "key_lengths":
        return "*i64", {"name": called, "kind": "pointer", "multiple_of": 8}
    if name == "lengths_batch":
        return ("i64", {"name": called, "kind": "int64", "multiple_of": 1}) if variant.lengths else 0
    if name == "rows_first" and not variant.lengths:
        return 0
    if name in ("reach", "ticket", "previous", "blocks"):
        kind = "*u16" if name == "blocks" else "*i32"
        return kind, {"name": called, "kind": "pointer", "multiple_of": 16}
    if name == "scale_natural":
        return "fp32", {"name": called, "kind": "float32", "multiple_of": 1}
    if name in ("window_left", "window_right") and not variant.window:
        return -1
    tensor, _, axis = name.partition("_")
    if axis in ("batch", "head", "row", "column") and tensor in (
        "query",
        "key",
        "value",
        "output",
        "mask",
        "positions",
        "bias",
    ):
        if (tensor == "mask" and request.mask_dtype is None) or (tensor == "positions" and not variant.positions):
            return 0
        if tensor == "bias" and not variant.key_bias:
            return 0
        if hopper and tensor == "mask" and axis in ("head", "row") and not layout.mask_rows:
            return 0
        if tensor == "output" and role in ("decode_split", "extend"):
            return 0
        if tensor == "mask" and layout.mask_dense:
            return 1 if axis == "column" else ("i64", {"name": called, "kind": "int64", "multiple_of": 16})
        if tensor in ("mask", "positions", "bias"):
            return "i64", {"name": called, "kind": "int64", "multiple_of": 1}
        if axis == "row":
            if layout.contiguous:
                return request.head_dim if tensor in ("query", "key") else request.value_dim
            return "i32", {"name": called, "kind": "int32", "multiple_of": vector}
        return "i64", {"name": called, "kind": "int64", "multiple_of": vector}
    return "i32", {"name": called, "kind": "int32", "multiple_of": 1}


def _map_type(tensor: str, rows: int, columns: int, dtype: str) -> tuple[str, gl.NVMMASharedLayout]:
    element = {"float16": gl.float16, "bfloat16": gl.bfloat16}[dtype]
    layout = gl.NVMMASharedLayout.get_default_for([1, 1, rows, columns], element)
    return f"tensordesc<{TRITON_TYPES[dtype]}[1, 1, {rows}, {columns}],{layout!r}>", layout


def hopper_constants(request: KernelRequest, tile: Tile, skip: bool, looks: bool) -> dict[str, Any]:
    """The compile-time arguments of the Hopper kernel before a configuration's own options."""
    if tile.stages & (tile.stages - 1):
        raise ValueError(f"{tile.text}: the number of stages has to be a power of two")
    variant = request.variant
    form = 2 if is_symmetric(variant) else int(variant.causal)
    wide = request.dtype == "bfloat16"
    # The raw scores of the first block stand for the maximum where types have exponents to spare; elsewhere the
    # weights of a row must not be much smaller than one either.
    raw = wide and not variant.positions and form != 0
    # MiB of keys and values that are worked on at a time: they have to stay in the L2 cache, and a program has to get
    # several tiles of them; drawn by ticket (skip), some more, or the last ones drawn end too late.
    bundle = 32 if skip or looks else 16
    by_key = (request.mask_dtype is not None or variant.key_bias or variant.lengths) and not looks
    roomy = (by_key or looks) and max(request.head_dim, request.value_dim) <= 128
    return {
        "FORM": form, "MASK": by_key, "MASK_ROWS": looks, "READS": looks and request.mask_dtype is not None,
        "WINDOW": variant.window, "ADDITIVE": request.mask_dtype not in (None, "bool") or variant.key_bias,
        "POSITIONS": variant.positions, "EVERY": variant.positions or (variant.key_bias and not looks), "TERMS": False,
        "D": padded_head(request.head_dim), "V": padded_head(request.value_dim), "BLOCK_N": tile.block_n,
        "STAGES": tile.stages, "CONSUMERS": tile.block_m // 64, "SKIP": skip, "QUERIES": 2, "FIXED_MAX": True,
        "MAX_FROM_RAW_SCORES": raw, "ROW_TWINS": wide and (form != 2 or raw), "LIFTS": not wide,
        "LEAST_TOTAL": 2.0**-96 if wide else 2.0**-4, "LENGTHS": variant.lengths, "BUNDLE_MIB": bundle,
        # Where a scout looks at masks, or a producer walks over them, that warp needs more.
        "CONSUMER_REGISTERS": 232 if roomy else 240, "PRODUCER_REGISTERS": 40 if roomy else 24,
    }  # fmt: skip


def _zeros(count: int, kind: str) -> list[dict[str, Any]]:
    return [{"name": "", "kind": kind, "multiple_of": 1, "tensor_map": None}] * count


@dataclass(frozen=True)
class Compilation:
    """A job as Triton takes it.

    Attributes:
        source: Kernel, types and constants.
        target: The GPU.
        options: Of the compilation.
        arguments: The kernel's parameters as the description lists them, in order.
    """

    source: Any
    target: GPUTarget
    options: dict[str, Any]
    arguments: list[dict[str, Any]]


def compilation_of(job: dict[str, Any]) -> Compilation:
    """What Triton compiles for a job (see :func:`compile_job`)."""
    request, tile, layout = KernelRequest(**job["request"]), Tile(**job["tile"]), BufferLayout(**job["layout"])
    role, arch, options = job["role"], job["arch"], job["options"]
    function: Any = _kernels()[job["engine"], role]
    hopper_engine = job["engine"] == "hopper"
    skip = bool(options.get("SKIP", False))
    if hopper_engine:
        constants = {**hopper_constants(request, tile, skip, layout.mask_rows or request.variant.window), **options}
    else:
        constants = {**constants_of(role, request, tile, layout, skip), **options}
    boxes = {"query": 64, "key": tile.block_n, "value": tile.block_n, "output": 64}

    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    described: list[dict[str, Any]] = []
    for index, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_map"):
            tensor = name.removesuffix("_map")
            columns = constants["D" if tensor in ("query", "key") else "V"]
            signature[name], _ = _map_type(tensor, boxes[tensor], columns, request.dtype)
            described.append({"name": tensor, "kind": "tensor_map", "multiple_of": 16, "tensor_map": None})
            described += _zeros(4, "zero32") + _zeros(4, "zero64")
        else:
            found = _argument(name, request, layout, role, skip, hopper_engine)
            if not isinstance(found, tuple):
                signature[name], constants[name] = "constexpr", found
                continue
            signature[name], argument = found
            if argument["multiple_of"] > 1:
                attributes[(index,)] = [["tt.divisibility", argument["multiple_of"]]]
            described.append({**argument, "tensor_map": None})

    source_type = GluonASTSource if hopper_engine else ASTSource
    version = HOPPER_PTX if hopper_engine else PTX_VERSIONS[arch]
    target_options = {
        "num_warps": tile.warps, "num_stages": tile.stages, "ptx_version": version, "enable_fp_fusion": True,
    }  # fmt: skip
    source = source_type(function, signature, constants, attributes)
    return Compilation(source, GPUTarget("cuda", arch, 32), target_options, described)


def image_text(ptx: str, arguments: list[dict[str, Any]]) -> str:
    """The PTX of an image: what Triton wrote, without comments and without parameters that nobody passes."""
    text = assembler.strip_parameters(assembler.strip_comments(ptx), len(arguments))
    for position, argument in enumerate(arguments):
        if argument["kind"].startswith("zero") and assembler.reads_parameter(text, position):
            raise RuntimeError(f"parameter {position} was taken for unused and is read")
    return text


def compile_job(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles one kernel and writes its images.

    Args:
        job: ``engine``, ``role``, ``request``, ``tile``, ``layout``, ``arch``, ``options`` (constants of the
            engine), ``directory``.

    Returns:
        entry, image, threads, shared_bytes, registers, spill_bytes and arguments of the kernel's description.
    """
    asked = compilation_of(job)
    role, arch, described = job["role"], job["arch"], asked.arguments
    compiled = triton.compile(asked.source, target=asked.target, options=asked.options)
    metadata = compiled.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise RuntimeError("the kernel wants scratch memory that no launcher provides")
    maps = [argument for argument in described if argument["kind"] == "tensor_map"]
    for argument, meta in zip(maps, getattr(metadata, "tensordesc_meta", None) or [], strict=True):
        swizzle = {0: 0, 1: 32, 2: 64, 3: 128}[meta["swizzle"]]
        argument["tensor_map"] = {
            "tensor": argument["name"], "box": list(reversed(meta["block_size"])), "swizzle_bytes": swizzle,
        }  # fmt: skip

    ptx = image_text(compiled.asm["ptx"], described)
    code, usage = assembler.assemble(ptx, arch)
    digest = hashlib.sha256(ptx.encode()).hexdigest()
    name = f"{role}-sm{arch}-{digest[:16]}"
    directory = Path(job["directory"])
    (directory / f"{name}.ptx").write_text(ptx)
    (directory / f"{name}.cubin").write_bytes(code)
    found_version = re.search(r"\.version ([\d.]+)", ptx)
    return {
        "entry": metadata.name,
        "image": {
            "cubin": f"{name}.cubin", "cubin_sha256": hashlib.sha256(code).hexdigest(),
            "ptx": f"{name}.ptx", "ptx_sha256": digest, "ptx_version": found_version.group(1) if found_version else "",
        },
        "threads": metadata.num_warps * 32,
        "shared_bytes": metadata.shared,
        "registers": usage.registers,
        "spill_bytes": usage.spill_bytes,
        "serialized": usage.serialized,
        "arguments": described,
    }  # fmt: skip


def main() -> None:
    """Serves jobs until standard input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"result": compile_job(json.loads(line))}
        except Exception as error:  # noqa: BLE001 - whatever Triton raises becomes the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
