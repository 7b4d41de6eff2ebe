"""Functions without a polynomial form, such as a quotient that is rounded down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .atoms import Hashed
from .bounds import is_nonnegative
from .polynomial import ZERO, Poly, Substitution, substitute


@dataclass(frozen=True, eq=False)
class Apply(Hashed):
    """``function(arguments)`` without a polynomial form; ``rebuild`` re-evaluates it after a substitution."""

    function: str
    arguments: tuple[Poly, ...]
    rebuild: Callable[..., Poly]
    integer: bool = False

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"{self.function}({', '.join(map(show, self.arguments))})"

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.arguments

    @property
    def denominator(self) -> int | None:
        return 1 if self.integer else None

    def substitute(self, mapping: Substitution) -> Poly:
        return self.rebuild(*(substitute(a, mapping) for a in self.arguments))

    def extreme(self, *, lowest: bool) -> Poly | None:
        if self.function == "floordiv" and lowest and all(is_nonnegative(a) for a in self.arguments):
            return ZERO
        return None
