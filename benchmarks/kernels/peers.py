"""What the kernels are compared with: attentions of PyTorch and, if it is there, of cuDNN's own front end."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Run = Callable[[], object]
BIAS_BYTES_LIMIT = 24 << 30


@dataclass(frozen=True)
class Shape:
    """One attention of the table."""

    batch: int
    heads: int
    kv_heads: int
    s_q: int
    s_kv: int
    head_dim: int
    causal: bool
    dtype: str = "bfloat16"

    @property
    def flops(self) -> float:
        """Of both products, counted without any skipping; a causal mask with S_q = S_kv halves them."""
        full = 4.0 * self.batch * self.heads * self.s_q * self.s_kv * self.head_dim
        return full * (1 - (self.s_q - 1) / (2 * self.s_kv)) if self.causal and self.s_q != self.s_kv else (
            full / 2 if self.causal else full)  # fmt: skip

    @property
    def cache_bytes(self) -> int:
        """Of keys and values, read once."""
        return 2 * self.batch * self.kv_heads * self.s_kv * self.head_dim * (4 if self.dtype == "float32" else 2)

    @property
    def title(self) -> str:
        """For tables."""
        keys = "" if self.s_q == self.s_kv else f"x{self.s_kv}"
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        form = "causal" if self.causal else "symmetric"
        return f"{self.batch} {heads} {self.s_q}{keys} {self.head_dim} {form} {self.dtype}"


def slopes(heads: int) -> torch.Tensor:
    """The slopes of the ALiBi paper."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    whole = 2 ** int(math.log2(heads))
    values = geometric(whole) + geometric(2 * whole)[0::2][: heads - whole]
    return torch.tensor(values, dtype=torch.float32, device="cuda")


def _bias(shape: Shape, slope: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    key = torch.arange(shape.s_kv, device="cuda", dtype=torch.float32)
    row = torch.arange(shape.s_q, device="cuda", dtype=torch.float32) + (shape.s_kv - shape.s_q)
    distance = key[None, :] - row[:, None]
    bias = torch.empty(1, shape.heads, shape.s_q, shape.s_kv, device="cuda", dtype=dtype)
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


def _flex(shape: Shape, query: Any, key: Any, value: Any, slope: Any) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    offset = shape.s_kv - shape.s_q
    mask = None
    if shape.causal:
        mask = create_block_mask(lambda b, h, i, j: i + offset >= j, None, None, shape.s_q, shape.s_kv, device="cuda")

    def bias(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return score + slope[h] * (j - i - offset) if shape.causal else score - slope[h] * (i + offset - j).abs()

    torch.compiler.reset()  # beyond eight shapes torch.compile would give up and run it eagerly
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(
        query, key, value, score_mod=bias, block_mask=mask, enable_gqa=query.shape[1] != key.shape[1]
    )


def _cudnn_alibi(shape: Shape, query: Any, key: Any, value: Any) -> Run:
    import cudnn

    kind = {"bfloat16": cudnn.data_type.BFLOAT16, "float16": cudnn.data_type.HALF}[shape.dtype]
    graph = cudnn.pygraph(
        io_data_type=kind, intermediate_data_type=cudnn.data_type.FLOAT, compute_data_type=cudnn.data_type.FLOAT
    )
    inputs = [graph.tensor_like(x) for x in (query, key, value)]
    result, _ = graph.sdpa(
        *inputs,
        is_inference=True,
        attn_scale=shape.head_dim**-0.5,
        use_alibi_mask=True,
        use_causal_mask=True,
        name="sdpa",
    )
    output = torch.empty_like(query)
    result.set_output(True).set_dim(output.size()).set_stride(output.stride())
    graph.build([cudnn.heur_mode.A])
    workspace = torch.empty(graph.get_workspace_size(), device="cuda", dtype=torch.uint8)
    buffers = dict(zip(inputs, (query, key, value), strict=True)) | {result: output}
    return lambda: graph.execute(buffers, workspace)


def peers(shape: Shape, inputs: list[tuple[Any, Any, Any]]) -> dict[str, Callable[[], list[Run]]]:
    """Makers of the peers by name; each gives one run per set of inputs.  A maker or its runs may raise."""
    slope = slopes(shape.heads)
    square = shape.s_q == shape.s_kv
    dtype = inputs[0][0].dtype
    found: dict[str, Callable[[], list[Run]]] = {}

    single = shape.s_q == 1  # the last row sees every key

    def plain(backend: SDPBackend) -> Callable[[], list[Run]]:
        return lambda: [_sdpa(backend, *x, is_causal=shape.causal and not single) for x in inputs]

    if square or single or not shape.causal:
        found["SDPA cuDNN, no bias"] = plain(SDPBackend.CUDNN_ATTENTION)
        found["SDPA flash, no bias"] = plain(SDPBackend.FLASH_ATTENTION)
    bias_bytes = shape.heads * shape.s_q * shape.s_kv * dtype.itemsize
    if bias_bytes <= BIAS_BYTES_LIMIT // 4:

        def with_bias(backend: SDPBackend) -> Callable[[], list[Run]]:
            def make() -> list[Run]:
                bias = _bias(shape, slope, dtype)
                return [_sdpa(backend, *x, attn_mask=bias) for x in inputs]

            return make

        found["SDPA cuDNN, bias tensor"] = with_bias(SDPBackend.CUDNN_ATTENTION)
        found["SDPA efficient, bias tensor"] = with_bias(SDPBackend.EFFICIENT_ATTENTION)
        if shape.batch * bias_bytes * 3 <= BIAS_BYTES_LIMIT and shape.heads == shape.kv_heads:

            def eager() -> list[Run]:
                bias = _bias(shape, slope, dtype)
                scale = shape.head_dim**-0.5
                return [
                    lambda q=q, k=k, v=v: torch.softmax(q @ k.transpose(-1, -2) * scale + bias, -1) @ v  # type: ignore[misc]
                    for q, k, v in inputs
                ]

            found["eager, bias tensor"] = eager
    if shape.dtype != "float32":
        found["FlexAttention ALiBi"] = lambda: [_flex(shape, *x, slope) for x in inputs[:1]] * len(inputs)
    if shape.causal and square and shape.dtype != "float32" and importlib.util.find_spec("cudnn"):
        found["cuDNN ALiBi"] = lambda: [_cudnn_alibi(shape, *x) for x in inputs]
    return found
