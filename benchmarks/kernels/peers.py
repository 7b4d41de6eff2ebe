"""What the kernels are compared with: attentions of PyTorch and, if it is there, of cuDNN's own front end.

``nvidia-cudnn-frontend`` need not be installed: an unpacked wheel on PYTHONPATH will do.  1.18.0 fits the cuDNN 9.19
that PyTorch 2.11 brings; its functions were checked against that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from inputs import Run, slopes
from shapes import Shape
from torch.nn.attention import SDPBackend, sdpa_kernel

BIAS_BYTES_LIMIT = 24 << 30
EXACT_BIAS = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 1e-4}
"""Most that a peer's result may differ from ours, in the norm, to count as the same function."""
ROUNDED_BIAS = {"bfloat16": 5e-2, "float16": 1e-2, "float32": 1e-4}
"""The same for a bias that is a tensor of the type: slope * distance is rounded there."""


@dataclass(frozen=True)
class Peer:
    """Something to compare with.

    Attributes:
        make: Gives one run per set of inputs; it or its runs may raise.
        accepts: Largest difference to our result; None if it computes another function.
    """

    make: Callable[[], list[Run]]
    accepts: float | None = None


def _bias(shape: Shape, slope: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    key = torch.arange(shape.s_kv, device=slope.device, dtype=torch.float32)
    row = torch.arange(shape.s_q, device=slope.device, dtype=torch.float32) + (shape.s_kv - shape.s_q)
    distance = key[None, :] - row[:, None]
    bias = torch.empty(1, shape.heads, shape.s_q, shape.s_kv, device=slope.device, dtype=dtype)
    for head in range(shape.heads):
        plane = slope[head] * (distance if shape.causal else -distance.abs())
        bias[0, head] = (plane.masked_fill(distance > 0, float("-inf")) if shape.causal else plane).to(dtype)
    return bias


def _sdpa(backend: SDPBackend, query: Any, key: Any, value: Any, **more: Any) -> Run:
    grouped = query.shape[1] != key.shape[1]

    def run() -> object:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(query, key, value, enable_gqa=grouped, **more)

    return run


def _heads_as_rows(backend: SDPBackend, query: Any, key: Any, value: Any, bias: Any) -> Run:
    """One query row of several heads per key head: the heads of a group become rows, so nothing is copied."""
    batch, heads, _, depth = query.shape
    kv_heads = key.shape[1]
    rows = query.view(batch, kv_heads, heads // kv_heads, depth)
    mask = bias.view(1, kv_heads, heads // kv_heads, key.shape[2])

    def run() -> object:
        with sdpa_kernel(backend):
            found = functional.scaled_dot_product_attention(rows, key, value, attn_mask=mask)
        return found.reshape(batch, heads, 1, value.shape[3])

    return run


def _flex(shape: Shape, inputs: list[tuple[Any, Any, Any]], slope: Any) -> list[Run]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    offset = shape.s_kv - shape.s_q
    mask = None
    if shape.causal:
        mask = create_block_mask(lambda b, h, i, j: i + offset >= j, None, None, shape.s_q, shape.s_kv, device="cuda")

    def bias(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return score + slope[h] * (j - i - offset) if shape.causal else score - slope[h] * (i + offset - j).abs()

    torch.compiler.reset()  # beyond eight shapes torch.compile would give up and run it eagerly
    compiled = torch.compile(flex_attention, dynamic=False)
    grouped = shape.heads != shape.kv_heads
    return [functools.partial(compiled, *each, score_mod=bias, block_mask=mask, enable_gqa=grouped) for each in inputs]


def _cudnn_alibi(shape: Shape, inputs: list[tuple[Any, Any, Any]]) -> list[Run]:
    """The ALiBi of cuDNN, whose slopes are always those of the paper; every run copies them to the device anew."""
    import cudnn

    kind = {"bfloat16": cudnn.data_type.BFLOAT16, "float16": cudnn.data_type.HALF}[shape.dtype]
    major, minor = torch.cuda.get_device_capability()
    handle = cudnn.create_handle()
    cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
    graph = cudnn.pygraph(
        io_data_type=kind, intermediate_data_type=cudnn.data_type.FLOAT, compute_data_type=cudnn.data_type.FLOAT,
        handle=handle, sm_version=10 * major + minor,
    )  # fmt: skip
    tensors = [graph.tensor_like(x) for x in inputs[0]]
    result, _ = graph.sdpa(
        *tensors, generate_stats=False, attn_scale=shape.head_dim**-0.5, use_alibi_mask=True,
        diagonal_alignment=cudnn.diagonal_alignment.TOP_LEFT, diagonal_band_right_bound=0, name="sdpa",
    )  # fmt: skip
    outputs = [torch.empty_like(query) for query, _, _ in inputs]
    result.set_output(True).set_dim(outputs[0].size()).set_stride(outputs[0].stride())
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    workspace = torch.empty(max(1, graph.get_workspace_size()), device="cuda", dtype=torch.uint8)

    def run(buffers: dict[Any, Any], output: Any) -> object:
        graph.execute(buffers, workspace, handle=handle)
        return output

    return [
        functools.partial(run, dict(zip(tensors, each, strict=True)) | {result: output}, output)
        for each, output in zip(inputs, outputs, strict=True)
    ]


def _copy(shape: Shape, count: int) -> list[Run]:
    """Copies on the device that move as many bytes, read and written together, as a decode reads."""
    half = shape.cache_bytes // 2
    pairs = [[torch.empty(half, dtype=torch.uint8, device="cuda") for _ in range(2)] for _ in range(count)]
    return [functools.partial(target.copy_, source) for source, target in pairs]


def peers(shape: Shape, inputs: list[tuple[Any, Any, Any]]) -> dict[str, Peer]:
    """The peers by name."""
    slope = slopes(shape.heads)
    square = shape.s_q == shape.s_kv
    grouped = shape.heads != shape.kv_heads
    dtype = inputs[0][0].dtype
    found: dict[str, Peer] = {}

    single = shape.s_q == 1  # the last row sees every key

    def plain(backend: SDPBackend) -> Peer:
        return Peer(lambda: [_sdpa(backend, *x, is_causal=shape.causal and not single) for x in inputs])

    if square or single or not shape.causal:
        found["SDPA cuDNN, no bias"] = plain(SDPBackend.CUDNN_ATTENTION)
        found["SDPA flash, no bias"] = plain(SDPBackend.FLASH_ATTENTION)
    bias_bytes = shape.heads * shape.s_q * shape.s_kv * dtype.itemsize
    if bias_bytes <= BIAS_BYTES_LIMIT // 4:

        def with_bias(backend: SDPBackend) -> Peer:
            def make() -> list[Run]:
                bias = _bias(shape, slope, dtype)
                return [_sdpa(backend, *x, attn_mask=bias) for x in inputs]

            return Peer(make, ROUNDED_BIAS[shape.dtype])

        def as_rows(backend: SDPBackend) -> Peer:
            def make() -> list[Run]:
                bias = _bias(shape, slope, dtype)
                return [_heads_as_rows(backend, *x, bias) for x in inputs]

            return Peer(make, ROUNDED_BIAS[shape.dtype])

        found["SDPA cuDNN, bias tensor"] = with_bias(SDPBackend.CUDNN_ATTENTION)
        found["SDPA efficient, bias tensor"] = with_bias(SDPBackend.EFFICIENT_ATTENTION)
        if single and grouped:
            found["SDPA cuDNN, bias tensor, heads as rows"] = as_rows(SDPBackend.CUDNN_ATTENTION)
            found["SDPA efficient, bias tensor, heads as rows"] = as_rows(SDPBackend.EFFICIENT_ATTENTION)
        if shape.batch * bias_bytes * 3 <= BIAS_BYTES_LIMIT and not grouped:

            def eager() -> list[Run]:
                bias = _bias(shape, slope, dtype)
                scale = shape.head_dim**-0.5
                return [
                    lambda q=q, k=k, v=v: torch.softmax(q @ k.transpose(-1, -2) * scale + bias, -1) @ v  # type: ignore[misc]
                    for q, k, v in inputs
                ]

            found["eager, bias tensor"] = Peer(eager, ROUNDED_BIAS[shape.dtype])
    if shape.dtype != "float32":
        found["FlexAttention ALiBi"] = Peer(lambda: _flex(shape, inputs, slope), EXACT_BIAS[shape.dtype])
    if shape.causal and square and shape.dtype != "float32":
        found["cuDNN ALiBi"] = Peer(lambda: _cudnn_alibi(shape, inputs), EXACT_BIAS[shape.dtype])
    if single:
        found["device copy of as many bytes"] = Peer(lambda: _copy(shape, len(inputs)))
    return found
