"""Runs the Triton kernels on the CPU through Triton's interpreter, with its two bfloat16 defects repaired.

Triton 3.6's interpreter multiplies the raw 16-bit storage of bfloat16 operands in ``tl.dot`` and truncates
when it converts float32 to bfloat16; a GPU does neither.  The repair lives here so that the kernels stay free
of it.  TRITON_INTERPRET has to be set before Triton is imported, so this module is imported by a process of
its own (``sweep.py``).
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import numpy as np
import torch
import triton.language as tl
from alibi_rewriter.kernels import decode, prefill, skipping
from alibi_rewriter.kernels.variants import Layout, Request, Tile, constants_of
from reference import Case
from triton.runtime import interpreter as _interpreter

TORCH_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "bool": torch.bool}


def _repair_bfloat16() -> None:
    builder = _interpreter.InterpreterBuilder
    handle = _interpreter.TensorHandle
    plain_cast, plain_dot = builder.cast_impl, builder.create_dot

    def cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            bits = source.data.view(np.uint32)
            nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
            nearest = np.where(np.isnan(source.data), bits | np.uint32(1 << 22), nearest)
            return handle((nearest >> np.uint32(16)).astype(np.uint16), target.scalar)
        return plain_cast(self, source, target)

    def dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            wide = [(x.data.astype(np.uint32) << np.uint32(16)).view(np.float32) for x in (a, b)]
            return handle(np.matmul(wide[0], wide[1]) + d.data, d.dtype.scalar)
        return plain_dot(self, a, b, d, precision, imprecise)

    builder.cast_impl = cast
    builder.create_fp_trunc = lambda self, source, target: cast(self, source, target)
    builder.create_dot = dot


_repair_bfloat16()


def tensor(array: np.ndarray[Any, Any], dtype: str) -> torch.Tensor:
    """A torch CPU tensor of the named type."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(TORCH_TYPES[dtype])


def widened(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """What the kernel really sees, as numpy (bfloat16 widened to float32)."""
    return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()


def _laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """[B, H, S, D] in memory as told: contiguous, or rows of all heads interleaved (BSHD)."""
    return x.contiguous() if layout == "BHSD" else x.transpose(1, 2).contiguous().transpose(1, 2)


def run(
    case: Case, dtype: str, *, path: str, tile: Tile, mask_dtype: str | None = None, layout: str = "BHSD",
    splits: int = 1, skip: bool = False,
) -> np.ndarray[Any, Any]:  # fmt: skip
    """Computes ``case`` by the named path (``prefill`` or ``decode``); the output starts as NaN."""
    query, key, value = (_laid_out(tensor(x, dtype), layout) for x in (case.query, case.key, case.value))
    batch, heads, s_q, depth = query.shape
    kv_heads, s_kv, value_depth = key.shape[1], key.shape[2], value.shape[3]
    output = _laid_out(torch.full((batch, heads, s_q, value_depth), float("nan"), dtype=TORCH_TYPES[dtype]), layout)
    mask, mask_strides = None, (0, 0, 0, 0)
    if case.mask is not None:
        mask = tensor(case.mask, mask_dtype or "bool")
        strides = mask.stride()
        mask_strides = tuple(0 if size == 1 else stride for size, stride in zip(mask.shape, strides, strict=True))
        if mask.dtype == torch.bool:
            mask = mask.view(torch.uint8)
    positions = None if case.positions is None else tensor(case.positions, "float32")
    request = Request.of(
        symmetric=case.symmetric, causal=case.causal, positions=positions is not None,
        mask_dtype=None if mask is None else (mask_dtype or "bool"), dtype=dtype, head_dim=depth, value_dim=value_depth,
    )  # fmt: skip
    where = Layout(contiguous=layout == "BHSD", mask_rows=mask_strides[1] != 0 or mask_strides[2] != 0)
    shared: dict[str, Any] = {
        "query": query, "key": key, "value": value, "slopes": tensor(case.slopes, "float32"), "mask": mask,
        "key_positions": positions, "output": output,
        "mask_batch": mask_strides[0], "mask_head": mask_strides[1], "mask_row": mask_strides[2],
        "mask_column": mask_strides[3],
        "positions_batch": 0 if positions is None or positions.shape[0] == 1 else s_kv,
        "heads": heads, "group": heads // kv_heads, "s_q": s_q, "s_kv": s_kv, "scale_natural": case.scale,
        "empty_mean": int(case.empty_mean), "kv_heads": kv_heads, "splits": splits,
    }  # fmt: skip
    for name, x in (("query", query), ("key", key), ("value", value), ("output", output)):
        for axis, stride in zip(("batch", "head", "row"), x.stride(), strict=False):
            shared[f"{name}_{axis}"] = stride

    def launch(kernel: Any, role: str, grid: tuple[int, ...], **more: Any) -> None:
        values = {**shared, **more, **constants_of(role, request, tile, where, skip)}
        kernel[grid](**{name: values[name] for name in kernel.arg_names})

    if path == "prefill":
        reach = None
        if skip:
            blocks, tiles = -(-s_kv // skipping.NORM_KEYS), -(-s_q // skipping.REACH_ROWS)
            key_norms = torch.full((batch, kv_heads, blocks), float("nan"))
            reach = torch.full((batch, heads, tiles, 2), -(10**9), dtype=torch.int32)
            launch(skipping.alibi_key_norms, "key_norms", (blocks, kv_heads, batch), key_norms=key_norms)
            launch(skipping.alibi_reach, "reach", (tiles, heads, batch), key_norms=key_norms, reach=reach)
        launch(prefill.alibi_prefill, "prefill", (-(-s_q // tile.block_m), heads, batch), reach=reach)
    else:
        grid = (splits, -(-(heads // kv_heads) * s_q // tile.block_m), batch * kv_heads)
        partial = torch.full((batch, heads, s_q, splits, value_depth), float("nan"))
        logs = torch.full((batch, heads, s_q, splits, 2), float("nan"))
        role = "decode_split" if splits > 1 else "decode"
        launch(decode.alibi_decode, role, grid, partial=partial, partial_sums=logs)
        if splits > 1:
            launch(decode.alibi_combine, "combine", (s_q, heads, batch), partial=partial, partial_sums=logs)
    return widened(output)
