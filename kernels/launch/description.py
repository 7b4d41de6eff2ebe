"""The launch description: everything that is needed to launch a bundle of compiled kernels, and nothing else.

The compiler writes it (``description.json`` next to the images), the launcher of this package and the TensorRT
plugin library read it.  It is plain on purpose: named sizes, products of them divided and rounded up, arguments
in order.  :meth:`Description.from_json` accepts exactly what :meth:`Description.to_json` writes.

Sizes that formulas, conditions and integer arguments may name are listed in :data:`SIZES`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..requests import DTYPES, ROLES, BufferLayout, KernelRequest

FORMAT = 2

SIZES = ("batch", "heads", "kv_heads", "group", "s_q", "s_kv", "head_dim", "value_dim", "splits", "multiprocessors",
         "rows", "surplus", "mask_batches", "mask_heads", "first_surplus", "wide_saves")  # fmt: skip
"""``group = heads / kv_heads``, ``rows = group * s_q``, ``surplus = s_kv - s_q`` (may be negative), ``first_surplus``:
the same where rows are aligned with the first keys, and 0 elsewhere;
``mask_batches`` and ``mask_heads``: between how many batch entries and heads the mask differs; ``wide_saves``: by how
many per cent tiles of 192 rows take less than those of 128, if a row takes the same time in both: a program per
multiprocessor takes one tile after the other, and in the last round some have none (0 if they do not)."""

TENSORS = ("query", "key", "value", "output")
WORKSPACES = ("key_norms", "reach", "partial", "partial_sums", "ticket", "previous", "blocks", "key_terms")
"""Buffers that live from one launch of a call to the next."""
POINTERS = (*TENSORS, "slopes", "mask", "key_positions", "key_bias", "key_lengths", *WORKSPACES)
STRIDES = (
    *(f"{tensor}_{axis}" for tensor in TENSORS for axis in ("batch", "head", "row")),
    "mask_batch", "mask_head", "mask_row", "mask_column", "positions_batch", "bias_batch",
    "bias_head", "lengths_batch",
)  # fmt: skip
WINDOWS = ("window_left", "window_right")
SCALARS = ("scale", "empty_mean", "rows_first", *WINDOWS)

KINDS = ("pointer", "tensor_map", "int32", "int64", "float32", "zero32", "zero64")
"""``zero32`` and ``zero64`` are slots that the kernel declares and never reads; zeros go there."""


class DescriptionError(ValueError):
    """A launch description that is malformed or inconsistent."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DescriptionError(message)


@dataclass(frozen=True)
class Factor:
    """``ceil(product of the named sizes / divisor)``."""

    names: tuple[str, ...]
    divisor: int = 1

    def __post_init__(self) -> None:
        _require(all(name in SIZES for name in self.names), f"unknown size among {self.names}")
        _require(self.divisor >= 1, f"divisor {self.divisor} is not positive")

    def value(self, sizes: Mapping[str, int]) -> int:
        """The number for these sizes."""
        return -(-math.prod(sizes[name] for name in self.names) // self.divisor)


@dataclass(frozen=True)
class Extent:
    """A product of factors, at most the size named by ``at_most``."""

    factors: tuple[Factor, ...] = ()
    at_most: str | None = None

    def __post_init__(self) -> None:
        _require(self.at_most is None or self.at_most in SIZES, f"unknown size {self.at_most!r}")

    def value(self, sizes: Mapping[str, int]) -> int:
        """The number for these sizes."""
        product = math.prod(factor.value(sizes) for factor in self.factors)
        return product if self.at_most is None else min(product, sizes[self.at_most])


@dataclass(frozen=True)
class Condition:
    """``at_least <= size <= at_most``; None leaves an end open."""

    size: str
    at_least: int | None = None
    at_most: int | None = None

    def __post_init__(self) -> None:
        _require(self.size in SIZES, f"unknown size {self.size!r}")

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the size is in range."""
        size = sizes[self.size]
        return (self.at_least is None or size >= self.at_least) and (self.at_most is None or size <= self.at_most)


@dataclass(frozen=True)
class TensorMap:
    """How to encode the bulk-copy descriptor of a tensor (``cuTensorMapEncodeTiled``, rank 4, [B, H, S, D]).

    Attributes:
        tensor: Which tensor; its sizes and strides come from the call.
        box: Elements per copy, innermost dimension first.
        swizzle_bytes: Width of the shared-memory swizzle: 0, 32, 64 or 128.
    """

    tensor: str
    box: tuple[int, ...]
    swizzle_bytes: int

    def __post_init__(self) -> None:
        _require(self.tensor in TENSORS, f"no tensor {self.tensor!r}")
        _require(len(self.box) == 4 and all(0 < n <= 256 for n in self.box), f"box {self.box} is not four of 1 .. 256")
        _require(self.swizzle_bytes in (0, 32, 64, 128), f"swizzle of {self.swizzle_bytes} bytes")


@dataclass(frozen=True)
class Argument:
    """One kernel parameter.

    Attributes:
        name: What goes there: one of POINTERS, STRIDES, SIZES or SCALARS; empty for the zero kinds.
        kind: One of KINDS.
        multiple_of: What the value must be a multiple of: bytes for pointers, elements for strides.
        tensor_map: For kind ``tensor_map``.
    """

    name: str
    kind: str
    multiple_of: int = 1
    tensor_map: TensorMap | None = None

    def __post_init__(self) -> None:
        _require(self.kind in KINDS, f"unknown kind {self.kind!r}")
        _require(self.multiple_of >= 1, f"multiple_of is {self.multiple_of}")
        _require(
            (self.kind == "tensor_map") == (self.tensor_map is not None), f"{self.name}: tensor_map and kind differ"
        )
        known = {
            "pointer": POINTERS,
            "tensor_map": TENSORS,
            "int32": (*SIZES, *STRIDES, "empty_mean", "rows_first", *WINDOWS),
            "int64": STRIDES,
            "float32": ("scale",),
            "zero32": ("",),
            "zero64": ("",),
        }[self.kind]
        _require(self.name in known, f"no {self.kind} argument is called {self.name!r}")


@dataclass(frozen=True)
class Image:
    """Compiled code: file names relative to the description, their SHA-256 and the PTX version needed."""

    cubin: str
    cubin_sha256: str
    ptx: str
    ptx_sha256: str
    ptx_version: str


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel.

    Attributes:
        name: Unique within the description.
        role: One of ``ROLES``: what it is for in a plan.
        arch: Compute capability times ten.
        exact_arch: The cubin runs on this capability only, and so does its PTX.
        layout: What it assumes about the buffers.
        conditions: When it may be chosen; the first kernel of a role whose conditions hold is.
        entry: Symbol of the function.
        image: The code.
        threads: Threads of a program.
        shared_bytes: Dynamic shared memory; above 48 KiB the limit of the function has to be raised.
        registers, spill_bytes: Per thread, as the assembler reports them.
        grid: Programs in x, y and z.
        arguments: In the order of the parameters; there are no others.
        tile: For people: how the work is cut.
        programs: Of a decode, in one piece or in chunks: how many programs a multiprocessor is to have; elsewhere 1.
    """

    name: str
    role: str
    arch: int
    exact_arch: bool
    layout: BufferLayout
    conditions: tuple[Condition, ...]
    entry: str
    image: Image
    threads: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    grid: tuple[Extent, Extent, Extent]
    arguments: tuple[Argument, ...]
    tile: str
    programs: int

    def __post_init__(self) -> None:
        _require(1 <= self.programs <= 32, f"{self.name}: {self.programs} programs on a multiprocessor")
        _require(self.role in ROLES, f"unknown role {self.role!r}")
        _require(32 <= self.threads <= 1024 and self.threads % 32 == 0, f"{self.name}: {self.threads} threads")
        _require(0 <= self.shared_bytes <= 227 * 1024, f"{self.name}: {self.shared_bytes} bytes of shared memory")
        _require(bool(self.entry) and bool(self.name), "a kernel without a name")
        names = [argument.name for argument in self.arguments if argument.name]
        _require(len(names) == len(set(names)), f"{self.name}: an argument is there twice")


@dataclass(frozen=True)
class Buffer:
    """A piece of workspace; pieces follow each other, each at a multiple of 256 bytes."""

    name: str
    element_bytes: int
    extent: Extent

    def __post_init__(self) -> None:
        _require(self.name in WORKSPACES, f"unknown workspace {self.name!r}")
        _require(self.element_bytes in (2, 4, 8), f"{self.name}: elements of {self.element_bytes} bytes")


@dataclass(frozen=True)
class Selection:
    """How shapes choose between decode and prefill, and the number of chunks of a decode.

    Decode if ``group * s_q <= decode_rows``.  More rows are extended, that is, decoded by larger tiles, where there is
    a kernel for that and at least two chunks.  The chunks: enough for ``Kernel.programs`` programs on every
    multiprocessor, at most ``max_splits``, at least ``min_keys`` keys each.  A decode in one piece and one in chunks
    may differ in that; where the former asks for one chunk, it is taken.
    """

    decode_rows: int
    min_keys: int
    max_splits: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _require(getattr(self, field.name) >= 0, f"{field.name} is negative")
        _require(self.min_keys > 0 and self.max_splits > 0, "min_keys and max_splits have to be positive")


@dataclass(frozen=True)
class Description:
    """A bundle: all kernels of one request."""

    request: KernelRequest
    generator: str
    selection: Selection
    workspace: tuple[Buffer, ...]
    kernels: tuple[Kernel, ...]
    format: int = FORMAT

    def __post_init__(self) -> None:
        _require(self.format == FORMAT, f"format {self.format}; this reader knows {FORMAT}")
        names = [kernel.name for kernel in self.kernels]
        _require(len(names) == len(set(names)), "two kernels share a name")

    def to_json(self) -> str:
        """As JSON text, stable from one run to the next."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Reads and validates.

        Raises:
            DescriptionError: If anything is missing, unknown, of a wrong type or inconsistent.
        """
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise DescriptionError(f"not JSON: {error}") from error
        if isinstance(document, dict) and document.get("format") != FORMAT:
            raise DescriptionError(f"format {document.get('format')!r}; this reader knows {FORMAT}")
        return _read(cls, document, "description")


Record = TypeVar("Record")


def _read(record: type[Record], document: Any, where: str) -> Record:
    """Builds a dataclass from parsed JSON, field by field, by its annotations."""
    _require(isinstance(document, dict), f"{where} is not an object")
    hints = typing.get_type_hints(record)
    fields = {field.name for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    _require(set(document) == fields, f"{where}: fields {sorted(set(document) ^ fields)} are missing or unknown")
    values = {name: _convert(hints[name], document[name], f"{where}.{name}") for name in fields}
    try:
        return record(**values)
    except DescriptionError as error:
        raise DescriptionError(f"{where}: {error}") from error
    except ValueError as error:
        raise DescriptionError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(arguments[0], value, where)
    if origin is tuple:
        _require(isinstance(value, list), f"{where} is not a list")
        if arguments[-1] is not Ellipsis:
            _require(len(value) == len(arguments), f"{where} has {len(value)} items instead of {len(arguments)}")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, where)  # type: ignore[arg-type]
    exact = isinstance(value, hint) and (hint is not int or not isinstance(value, bool))
    _require(exact, f"{where} is {value!r}, not {hint.__name__}")
    return value


__all__ = [
    "DTYPES", "FORMAT", "Argument", "Buffer", "Condition", "Description", "DescriptionError", "Extent", "Factor",
    "Image", "Kernel", "Selection", "TensorMap",
]  # fmt: skip
