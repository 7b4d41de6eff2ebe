"""Aggregates of Triton's language: values that belong together, handed on as one.

A module that defines one does not import ``annotations`` from ``__future__``: they are types here, not text.
"""

from __future__ import annotations

from typing import Any

from triton.language.core import _aggregate, base_value, constexpr
from triton.runtime.jit import constexpr_function


def aggregate(cls: Any) -> Any:
    """Makes a class with annotations an aggregate, whose constructor takes its fields in order.

    A field that a kernel's configuration may fix (a stride, a window) is annotated as ``base_value``: it is a tensor or
    a constant.  What is not a value of the language becomes a constant.
    """

    def fill(self: Any, *given: Any) -> None:
        for name, value in zip(cls.__annotations__, given, strict=True):
            setattr(self, name, value if isinstance(value, base_value) else constexpr(value))

    cls.__init__ = constexpr_function(fill)
    return _aggregate(cls)
