"""Runs the Triton kernels on the CPU through Triton's interpreter, with three defects of it repaired.

Triton 3.6's interpreter multiplies the raw 16-bit storage of bfloat16 operands in ``tl.dot``, truncates when it
converts float32 to bfloat16, and turns arrays of one element into Python integers in a way that NumPy 2.4 no
longer allows.  The repairs live here so that the kernels stay free of them.  TRITON_INTERPRET has to be set before
Triton is imported, so this module is imported by a process of its own (``sweep.py``).
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import functools
from typing import Any

import numpy as np
import triton.language as tl
from alibi_rewriter.kernels.portable import blocks, decode, prefill, skipping
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest, Tile, constants_of
from buffers import Buffer, bfloat16_bits, bfloat16_values
from reference import Case
from triton.runtime import interpreter as _interpreter


def _repair_bfloat16() -> None:
    builder = _interpreter.InterpreterBuilder
    handle = _interpreter.TensorHandle
    plain_cast, plain_dot = builder.cast_impl, builder.create_dot

    def cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            return handle(bfloat16_bits(source.data), target.scalar)
        return plain_cast(self, source, target)

    def dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            wide = [bfloat16_values(x.data) for x in (a, b)]
            return handle(np.matmul(wide[0], wide[1]) + d.data, d.dtype.scalar)
        return plain_dot(self, a, b, d, precision, imprecise)

    builder.cast_impl = cast
    builder.create_fp_trunc = lambda self, source, target: cast(self, source, target)
    builder.create_dot = dot


def _repair_scalars() -> None:
    plain = _interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        plain(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    _interpreter._patch_lang_tensor = patch


def _patch_once() -> None:
    """Not a defect: every call of a device function would patch the whole language anew, a quarter of the time."""
    plain = _interpreter._patch_lang

    @functools.cache
    def modules(function: Any) -> list[Any]:
        return [x for x in function.__globals__.values() if any(x is module for module in (tl, tl.core))]

    def patch(function: Any) -> Any:
        done = not any(tl.core.is_builtin(module.load) for module in modules(function))
        return _interpreter._LangPatchScope() if done else plain(function)

    _interpreter._patch_lang = patch


_repair_bfloat16()
_repair_scalars()
_patch_once()


def run(
    case: Case, dtype: str, *, path: str, tile: Tile, mask_dtype: str | None = None, layout: str = "BHSD",
    splits: int = 1, skip: bool = False, reached: list[Any] | None = None,
) -> np.ndarray[Any, Any]:  # fmt: skip
    """Computes ``case`` by the named path (``prefill`` or ``decode``); the output starts as NaN."""
    query, key, value = (Buffer.of(x, dtype, layout) for x in (case.query, case.key, case.value))
    batch, heads, s_q, depth = query.shape
    kv_heads, s_kv, value_depth = key.shape[1], key.shape[2], value.shape[3]
    output = Buffer.filled((batch, heads, s_q, value_depth), np.nan, dtype, layout)
    mask, mask_strides = None, (0, 0, 0, 0)
    if case.mask is not None:
        mask = Buffer.of(case.mask, mask_dtype or "bool")
        strides = mask.stride()
        mask_strides = tuple(0 if size == 1 else stride for size, stride in zip(mask.shape, strides, strict=True))
    positions = None if case.positions is None else Buffer.of(case.positions, "float32")
    request = KernelRequest.of(
        symmetric=case.symmetric, causal=case.causal, positions=positions is not None,
        mask_dtype=None if mask is None else (mask_dtype or "bool"), dtype=dtype, head_dim=depth, value_dim=value_depth,
        key_bias=case.key_bias is not None, window=max(case.window) >= 0, lengths=case.key_lengths is not None,
    )  # fmt: skip
    lengths = None if case.key_lengths is None else Buffer.of(case.key_lengths, "int64")
    bias = None if case.key_bias is None else Buffer.of(case.key_bias, "float32")
    bias_strides = (0, 0) if bias is None else tuple(
        0 if size == 1 else stride for size, stride in zip(bias.shape[:2], bias.stride()[:2], strict=True)
    )  # fmt: skip
    where = BufferLayout(contiguous=layout == "BHSD", mask_rows=mask_strides[1] != 0 or mask_strides[2] != 0)
    shared: dict[str, Any] = {
        "query": query, "key": key, "value": value, "slopes": Buffer.of(case.slopes, "float32"), "mask": mask,
        "key_positions": positions, "key_bias": bias, "output": output, "key_lengths": lengths,
        "lengths_batch": 0 if lengths is None or lengths.shape[0] == 1 else 1, "rows_first": int(case.rows_first),
        "bias_batch": bias_strides[0], "bias_head": bias_strides[1],
        "window_left": case.window[0], "window_right": case.window[1],
        "mask_batch": mask_strides[0], "mask_head": mask_strides[1], "mask_row": mask_strides[2],
        "mask_column": mask_strides[3],
        "positions_batch": 0 if positions is None or positions.shape[0] == 1 else s_kv,
        "heads": heads, "group": heads // kv_heads, "s_q": s_q, "s_kv": s_kv, "scale_natural": case.scale,
        "empty_mean": int(case.empty_mean), "kv_heads": kv_heads, "splits": splits,
    }  # fmt: skip
    for name, x in (("query", query), ("key", key), ("value", value), ("output", output)):
        for axis, stride in zip(("batch", "head", "row"), x.stride(), strict=False):
            shared[f"{name}_{axis}"] = stride

    # For one row there is a kernel that reads a mask by head as one by key (``configurations.json``).
    one_row = {"MASK_ROWS": False} if heads == kv_heads and s_q == 1 and splits == 1 else {}

    def launch(kernel: Any, role: str, grid: tuple[int, ...], **more: Any) -> None:
        special = one_row if role == "decode" else {}
        values = {**shared, **more, **constants_of(role, request, tile, where, skip), **special}
        kernel[grid](**{name: values[name] for name in kernel.arg_names})

    if path == "prefill":
        reach = None
        if skip:
            blocks, tiles = -(-s_kv // skipping.NORM_KEYS), -(-s_q // skipping.REACH_ROWS)
            key_norms = Buffer.filled((batch, kv_heads, blocks), np.nan, "float32")
            key_terms = Buffer.filled((batch, heads, blocks), np.nan, "float32")
            reach = Buffer.filled((batch, heads, tiles, 2), -(10**9), "int32")
            ticket = Buffer.filled((1,), 7, "int32")
            launch(
                skipping.alibi_key_norms, "key_norms", (blocks * kv_heads * batch,), key_norms=key_norms,
                key_terms=key_terms, ticket=ticket,
            )  # fmt: skip
            if ticket.values[0] != 0:
                raise AssertionError("the ticket is not set to zero")
            launch(skipping.alibi_reach, "reach", (tiles * heads * batch,), key_norms=key_norms,
                   key_terms=key_terms, reach=reach)  # fmt: skip
            if reached is not None:
                reached.append(reach.values)
        launch(prefill.alibi_prefill, "prefill", (-(-s_q // tile.block_m) * heads * batch,), reach=reach)
    else:
        grid = (batch * kv_heads, -(-(heads // kv_heads) * s_q // tile.block_m), splits)
        partial = Buffer.filled((batch, heads, s_q, splits, value_depth), np.nan, "float32")
        logs = Buffer.filled((batch, heads, s_q, splits, 2), np.nan, "float32")
        role = "decode_split" if splits > 1 else "decode"
        launch(decode.alibi_decode, role, grid, partial=partial, partial_sums=logs)
        if splits > 1:
            launch(decode.alibi_combine, "combine", (batch * heads, s_q), partial=partial, partial_sums=logs)
    return output.values


def looked_at(case: Case, mask_dtype: str | None, block_n: int) -> tuple[np.ndarray[Any, Any], ...]:
    """What ``alibi_blocks`` says.

    Which blocks are needed, in which the mask says something, which are faint at least, and how many of the tile's
    first rows see none of their keys.

    Four arrays, [batch entries of the mask, its heads, tiles of 128 rows, blocks].
    """
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    mask = None if case.mask is None else Buffer.of(case.mask, mask_dtype or "bool")
    shape, strides = (1, 1), [0, 0, 0, 0]
    if mask is not None:
        shape = mask.shape[:2]
        strides = [0 if size == 1 else stride for size, stride in zip(mask.shape, mask.stride(), strict=True)]
    tiles, count = -(-s_q // blocks.BLOCK_ROWS), -(-s_kv // block_n)
    found = Buffer.filled((*shape, tiles, -(-count // 4) * 4), 77, "uint16")
    ticket = Buffer.filled((1,), 7, "int32")
    request = KernelRequest.of(
        symmetric=case.symmetric, causal=case.causal, positions=False, mask_dtype=mask_dtype, dtype="float32",
        head_dim=case.query.shape[3], window=max(case.window) >= 0,
    )  # fmt: skip
    dense = strides[3] == 1 and all(stride % 16 == 0 for stride in strides[:3])
    layout = BufferLayout(mask_rows=True, mask_dense=dense)
    constants = constants_of("blocks", request, Tile(blocks.BLOCK_ROWS, block_n, 4, 1), layout)
    grid = (tiles * count * shape[0], shape[1])
    blocks.alibi_blocks[grid](mask, found, ticket, *strides, s_q, s_kv, *case.window, **constants)
    if ticket.values[0] != 0:
        raise AssertionError("the ticket is not set to zero")
    codes = found.values[..., :count]
    if ((codes & 255) > 7).any() or (found.values[..., count:] != 77).any():
        raise AssertionError("bytes that are no code, or beyond the last block")
    return (codes & 1) != 0, (codes & 2) != 0, (codes & 5) != 0, codes >> 8
