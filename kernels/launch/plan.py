"""From a call to its launches: which kernels, which grid, how much workspace.  Pure; nothing touches a GPU.

A TensorRT plugin decides the same way from the same description; this is the model to compare it with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...fused.family import LARGEST_WINDOW, UNBOUNDED
from ..requests import ELEMENT_BYTES, BufferLayout, KernelRequest
from .description import Argument, Description, Kernel

WORKSPACE_ALIGNMENT = 256


@dataclass(frozen=True)
class Tensor:
    """A tensor in device memory.

    Attributes:
        pointer: Device address.
        dtype: As in the request; ``bool`` is one byte.
        shape: Sizes.
        strides: In elements, one per dimension.
    """

    pointer: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Any) -> Tensor:
        """Describes a PyTorch tensor (anything with ``data_ptr``, ``dtype``, ``shape`` and ``stride``)."""
        dtype = str(array.dtype).removeprefix("torch.")
        return cls(int(array.data_ptr()), dtype, tuple(array.shape), tuple(array.stride()))


@dataclass(frozen=True)
class Call:
    """One execution of the fused node; shapes as in docs/specification.md."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    slopes: Tensor
    scale: float
    empty_mean: bool
    mask: Tensor | None = None
    key_positions: Tensor | None = None
    key_bias: Tensor | None = None
    window_left: int = UNBOUNDED
    window_right: int = UNBOUNDED
    key_lengths: Tensor | None = None
    rows_first: bool = False


@dataclass(frozen=True)
class Launch:
    """One kernel launch: values by argument name, and the grid."""

    kernel: Kernel
    grid: tuple[int, int, int]
    values: Mapping[str, int | float]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """The launches of a call, in order, and the workspace that they share.

    Attributes:
        launches: One to three.
        workspace_bytes: How much memory ``offsets`` reach into.
        offsets: Where each buffer that is used starts.
    """

    launches: tuple[Launch, ...]
    workspace_bytes: int
    offsets: Mapping[str, int]


def _check(request: KernelRequest, call: Call) -> None:
    batch, heads, s_q, _ = call.query.shape
    _, kv_heads, s_kv, _ = call.value.shape
    expected = {
        "query": (call.query, request.dtype, (batch, heads, s_q, request.head_dim)),
        "key": (call.key, request.dtype, (batch, kv_heads, s_kv, request.head_dim)),
        "value": (call.value, request.dtype, (batch, kv_heads, s_kv, request.value_dim)),
        "output": (call.output, request.dtype, (batch, heads, s_q, request.value_dim)),
        "slopes": (call.slopes, "float32", (heads,)),
    }
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tensor.dtype}{list(tensor.shape)} instead of {dtype}{list(shape)}")
        if len(shape) == 4 and tensor.strides[3] != 1:
            raise ValueError(f"{name}: the last dimension has stride {tensor.strides[3]}")
    if min(batch, heads, s_q, s_kv, kv_heads) < 1 or heads % kv_heads:
        raise ValueError(f"{heads} heads over {kv_heads} key heads, {s_q} rows, {s_kv} keys, batch {batch}")
    if (call.mask is None) != (request.mask_dtype is None) or (
        (call.key_positions is not None, call.key_bias is not None, call.key_lengths is not None) != (
            request.variant.positions, request.variant.key_bias, request.variant.lengths,
        )
    ):  # fmt: skip
        raise ValueError(f"the inputs are not those of {request.op_type}")
    if call.mask is not None:
        fits = all(size in (1, full) for size, full in zip(call.mask.shape, (batch, heads, s_q, s_kv), strict=True))
        if call.mask.dtype != request.mask_dtype or not fits:
            raise ValueError(f"mask is {call.mask.dtype}{list(call.mask.shape)}")
    positions = call.key_positions
    if positions is not None:
        fits = positions.shape in ((1, s_kv), (batch, s_kv)) and positions.strides[1] == 1
        if positions.dtype != "float32" or not fits:
            raise ValueError(f"key_positions is {positions.dtype}{list(positions.shape)}")
    bias = call.key_bias
    if bias is not None:
        fits = len(bias.shape) == 3 and bias.shape[0] in (1, batch) and bias.shape[1] in (1, heads)
        if bias.dtype != "float32" or not fits or bias.shape[2] != s_kv or bias.strides[2] != 1:
            raise ValueError(f"key_bias is {bias.dtype}{list(bias.shape)}")
    lengths = call.key_lengths
    if lengths is not None and (lengths.dtype != "int64" or lengths.shape not in ((1,), (batch,))):
        raise ValueError(f"key_lengths is {lengths.dtype}{list(lengths.shape)}")
    if call.rows_first and not request.variant.lengths:
        raise ValueError(f"rows aligned with the first keys for {request.op_type}")
    sides = (call.window_left, call.window_right)
    if min(sides) < UNBOUNDED or max(sides) > LARGEST_WINDOW or (max(sides) >= 0 and not request.variant.window):
        raise ValueError(f"a window of {sides} for {request.op_type}")


def _strides(call: Call) -> dict[str, int]:
    found = {}
    for name in ("query", "key", "value", "output"):
        tensor: Tensor = getattr(call, name)
        for axis, stride in zip(("batch", "head", "row"), tensor.strides, strict=False):
            found[f"{name}_{axis}"] = stride
    mask = call.mask
    for place, axis in enumerate(("batch", "head", "row", "column")):
        found[f"mask_{axis}"] = 0 if mask is None or mask.shape[place] == 1 else mask.strides[place]
    positions = call.key_positions
    bias = call.key_bias
    for place, axis in enumerate(("batch", "head")):
        found[f"bias_{axis}"] = 0 if bias is None or bias.shape[place] == 1 else bias.strides[place]
    found["positions_batch"] = 0 if positions is None or positions.shape[0] == 1 else positions.strides[0]
    lengths = call.key_lengths
    found["lengths_batch"] = 0 if lengths is None or lengths.shape[0] == 1 else lengths.strides[0]
    return found


def _aligned(argument: Argument, values: Mapping[str, int | float], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the value of an argument is a multiple of what the image was compiled for."""
    if argument.kind == "tensor_map":
        tensor = tensors[argument.name]
        size = ELEMENT_BYTES[tensor.dtype]
        return tensor.pointer % 16 == 0 and all(stride * size % 16 == 0 for stride in tensor.strides[:3])
    if argument.kind == "pointer":
        return argument.name not in tensors or tensors[argument.name].pointer % argument.multiple_of == 0
    return argument.multiple_of == 1 or int(values[argument.name]) % argument.multiple_of == 0


def _wide_saves(pairs: int, s_q: int, multiprocessors: int) -> int:
    """The size ``wide_saves`` (see ``description.SIZES``) for so many batch entries times heads."""
    narrow, wide = (-(-pairs * -(-s_q // rows) // multiprocessors) for rows in (128, 192))
    # A round of the wide ones takes three times 64 rows, one of the others twice.
    return max(0, 100 * (2 * narrow - 3 * wide) // (2 * narrow))


def make_plan(description: Description, call: Call, arch: int, multiprocessors: int) -> Plan:
    """Chooses the kernels of a call.

    Args:
        description: The bundle.
        call: Shapes, strides and addresses.
        arch: Compute capability of the device times ten.
        multiprocessors: How many it has.

    Raises:
        ValueError: If the call does not fit the request, or its strides or addresses no image.
        LookupError: If no image serves the device.
    """
    _check(description.request, call)
    batch, heads, s_q, head_dim = call.query.shape
    kv_heads, s_kv, value_dim = call.value.shape[1:]
    group = heads // kv_heads
    sizes = {
        "batch": batch, "heads": heads, "kv_heads": kv_heads, "group": group, "s_q": s_q, "s_kv": s_kv,
        "head_dim": head_dim, "value_dim": value_dim, "splits": 1, "multiprocessors": multiprocessors,
        "rows": group * s_q, "surplus": s_kv - s_q, "mask_batches": 1, "mask_heads": 1,
        "first_surplus": s_kv - s_q if call.rows_first else 0,
        "wide_saves": _wide_saves(batch * heads, s_q, multiprocessors),
    }  # fmt: skip
    strides = _strides(call)
    sizes["mask_batches"] = batch if strides["mask_batch"] else 1
    sizes["mask_heads"] = heads if strides["mask_head"] else 1
    values: dict[str, int | float] = {**strides, "scale": call.scale, "empty_mean": int(call.empty_mean)}
    values["rows_first"] = int(call.rows_first)
    values |= {"window_left": call.window_left, "window_right": call.window_right}
    tensors = {name: getattr(call, name) for name in ("query", "key", "value", "output", "slopes")}
    for name in ("mask", "key_positions", "key_bias", "key_lengths"):
        if getattr(call, name) is not None:
            tensors[name] = getattr(call, name)
    wide = {"query": head_dim, "key": head_dim, "value": value_dim, "output": value_dim}
    layout = BufferLayout(
        contiguous=all(strides[f"{name}_row"] == width for name, width in wide.items()),
        mask_rows=bool(strides["mask_head"] or strides["mask_row"]),
        mask_dense=strides["mask_column"] == 1,
    )

    def serves(kernel: Kernel, role: str) -> bool:
        fits = kernel.role == role and kernel.arch == arch and all(c.holds(sizes) for c in kernel.conditions)
        suits = kernel.layout.contiguous <= layout.contiguous and kernel.layout.mask_rows >= layout.mask_rows
        suits = suits and kernel.layout.mask_dense <= layout.mask_dense
        return fits and suits and all(_aligned(argument, values, tensors) for argument in kernel.arguments)

    def choose(role: str) -> Kernel:
        for kernel in description.kernels:
            if serves(kernel, role):
                return kernel
        raise LookupError(f"no {role} kernel for sm_{arch}, {layout} and sizes {sizes}")

    chosen: list[Kernel]
    selection = description.selection

    def splits_of(kernel: Kernel) -> int:
        programs = kernel.grid[1].value(sizes) * batch * kv_heads
        most = max(1, min(selection.max_splits, s_kv // selection.min_keys))
        return max(1, min(most, multiprocessors * kernel.programs // programs))

    extend = next((kernel for kernel in description.kernels if serves(kernel, "extend")), None)
    if sizes["rows"] <= selection.decode_rows:
        chosen = [choose("decode")]
        if splits_of(chosen[0]) > 1:
            chosen = [choose("decode_split"), choose("combine")]
            sizes["splits"] = splits_of(chosen[0])
    elif extend is not None and splits_of(extend) > 1:
        sizes["splits"] = splits_of(extend)
        chosen = [extend, choose("combine")]
    else:
        chosen = [choose("prefill")]
        read = {argument.name for argument in chosen[0].arguments}
        if "blocks" in read:
            chosen.insert(0, choose("blocks"))
        if "reach" in read:
            chosen.insert(0, choose("reach"))
        if read & {"reach", "key_norms"}:
            chosen.insert(0, choose("key_norms"))

    used = {argument.name for kernel in chosen for argument in kernel.arguments}
    offsets, end = {}, 0
    for buffer in description.workspace:
        if buffer.name in used:
            offsets[buffer.name] = end
            size = buffer.element_bytes * buffer.extent.value(sizes)
            end += -(-size // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
    everything = {**values, **sizes}
    launches = []
    for kernel in chosen:
        x, y, z = (extent.value(sizes) for extent in kernel.grid)
        if x >= 2**31 or max(y, z) > 65535:
            raise ValueError(f"{kernel.name}: a grid of {x} x {y} x {z} programs is beyond CUDA's limits")
        launches.append(Launch(kernel, (x, y, z), everything, tensors))
    return Plan(tuple(launches), end, offsets)
