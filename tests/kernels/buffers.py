"""Arrays that Triton's interpreter takes for PyTorch tensors, so that the kernels run on the CPU without PyTorch.

The interpreter asks an argument for its type, its address, its strides and its storage, which it would copy from
the device and back.  Here there is no device: the storage is its own copy.  NumPy has no bfloat16; its bits are
kept in 16-bit integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STORED = {
    "float16": np.float16, "bfloat16": np.uint16, "float32": np.float32, "uint8": np.uint8, "uint16": np.uint16,
    "int32": np.int32, "int64": np.int64,
}  # fmt: skip
"""By the type's name, which Triton knows them by, too."""
Array = np.ndarray[Any, Any]


def bfloat16_bits(values: Array) -> Array:
    """The bits of the nearest bfloat16, ties to even."""
    wide = np.ascontiguousarray(values, np.float32)
    bits = wide.view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    nearest = np.where(np.isnan(wide), bits | np.uint32(1 << 22), nearest)
    return np.asarray(nearest >> np.uint32(16), np.uint16)


def bfloat16_values(bits: Array) -> Array:
    """The values of bfloat16 bits, in float32."""
    return np.asarray((bits.astype(np.uint32) << np.uint32(16)).view(np.float32))


@dataclass
class Storage:
    """The memory behind a buffer."""

    array: Array

    def data_ptr(self) -> int:
        """Where it begins."""
        return int(self.array.ctypes.data)

    def cpu(self) -> Storage:
        """It is there already."""
        return self

    def copy_(self, other: Storage) -> None:
        """What the kernel wrote is there already.

        Raises:
            ValueError: If it is not, because the other storage is another one.
        """
        if other.array is not self.array:
            raise ValueError("a buffer is copied to a storage that is not its own")


class Buffer:
    """A NumPy array with the methods of a tensor that the interpreter calls."""

    def __init__(self, array: Array, dtype: str) -> None:
        """Takes the array as it is: in the type that ``dtype`` is stored as, with any strides."""
        self.array, self.dtype = array, dtype

    @classmethod
    def of(cls, values: Array, dtype: str, layout: str = "BHSD") -> Buffer:
        """A copy of the values, rounded to ``dtype`` ("bool" becomes bytes).

        Args:
            values: [B, H, S, D] if the layout is not contiguous.
            dtype: One of STORED, or "bool".
            layout: Contiguous, or rows of all heads interleaved (BSHD).
        """
        dtype = "uint8" if dtype == "bool" else dtype
        stored = bfloat16_bits(values) if dtype == "bfloat16" else np.asarray(values).astype(STORED[dtype])
        if layout == "BSHD":
            return cls(np.ascontiguousarray(stored.swapaxes(1, 2)).swapaxes(1, 2), dtype)
        return cls(np.ascontiguousarray(stored), dtype)

    @classmethod
    def filled(cls, shape: tuple[int, ...], value: float, dtype: str, layout: str = "BHSD") -> Buffer:
        """One value everywhere."""
        return cls.of(np.full(shape, value), dtype, layout)

    @property
    def values(self) -> Array:
        """What is in it; bfloat16 as float32."""
        return bfloat16_values(self.array) if self.dtype == "bfloat16" else self.array

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        return tuple(self.array.shape)

    def size(self) -> tuple[int, ...]:
        """Sizes."""
        return tuple(self.array.shape)

    def stride(self) -> tuple[int, ...]:
        """In elements."""
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def data_ptr(self) -> int:
        """Address of the first element."""
        return int(self.array.ctypes.data)

    def storage_offset(self) -> int:
        """Every buffer begins where its storage does."""
        return 0

    def untyped_storage(self) -> Storage:
        """The memory behind it."""
        return Storage(self.array)

    def new_empty(self, _: int, device: str) -> Buffer:
        """A buffer to be :meth:`set_`; ``device`` is the CPU."""
        return Buffer(self.array[:0], self.dtype)

    def set_(self, storage: Storage, _offset: int, _size: tuple[int, ...], _stride: tuple[int, ...]) -> None:
        """Becomes a view of a storage, whose array has the sizes and strides already."""
        self.array = storage.array
