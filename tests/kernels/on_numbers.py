"""Functions of the kernels, computed with plain numbers or with NumPy in place of Triton's tensors."""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import Any


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
