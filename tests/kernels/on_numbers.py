"""Functions of the kernels, computed with plain numbers or with NumPy in place of Triton's tensors."""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

ENTRY = ("number", "begin_seen", "begin", "end", "begin_near", "end_near", "plain_from", "plain_to", "shift")
"""What ``hopper.entries`` knows of a batch entry."""


@dataclass(frozen=True)
class Pointer:
    """Where a number of a mask is, or several."""

    memory: Any
    at: Any = 0

    def __add__(self, other: Any) -> Pointer:
        return Pointer(self.memory, self.at + other)

    def __sub__(self, other: Any) -> Pointer:
        return Pointer(self.memory, self.at - other)


class Keys(np.ndarray[Any, Any]):
    """Numbers with the method that the functions ask of a tensor."""

    def to(self, _: object) -> Keys:
        return self


def keys(values: Any) -> Keys:
    return np.asarray(values).view(Keys)


def load(pointer: Pointer, mask: Any, other: Any) -> Keys:
    """Reads what ``mask`` allows, and nothing else."""
    found = np.full(mask.shape, other, pointer.memory.dtype)
    found[mask] = pointer.memory[np.asarray(pointer.at)[mask]]
    return keys(found)


def new_entry(*values: Any) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(ENTRY, values, strict=True)))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def on_numbers(module: ModuleType, language: Any, **own: Any) -> dict[str, Any]:
    """The names of a module, whose compiled functions are ordinary ones and find each other there.

    Args:
        module: Of Triton or Gluon functions.
        language: What they know as ``gl``.
        own: Further names to replace.
    """
    names = {name: _plain(value) for name, value in vars(module).items()}
    names |= {"gl": language, **own}
    for name, value in vars(module).items():
        function = getattr(value, "fn", None)
        if isinstance(function, FunctionType):
            defaults = tuple(_plain(default) for default in function.__defaults__ or ())
            names[name] = FunctionType(function.__code__, names, name, defaults)
    return names
