"""Atoms without conditions: sizes, indices, run-time reads, functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from .polynomial import (
    MOST_DEPTH,
    MOST_WEIGHT,
    ZERO,
    Atom,
    Poly,
    Substitution,
    TooComplex,
    identify,
    of,
    render,
    shown,
    substitute,
)


@dataclass(frozen=True, eq=False)
class Size(Atom):
    """An unknown extent of a tensor axis: an integer >= 0.

    Attributes:
        name: Tells it from all others.
        declared: An input of the model declares it.  Nothing is known about a size that is not declared.
    """

    name: str
    declared: bool = True

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Size) and self.name == other.name)

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        return shown(self.name)

    @property
    def denominator(self) -> int | None:
        return 1

    def substitute(self, mapping: Substitution) -> Poly:
        return mapping.get(self, of(self))


@dataclass(frozen=True, eq=False)
class Index(Atom):
    """A named axis variable in [0, bound).

    Attributes:
        name: Together with the bound, what tells it from all others.
        bound: The extent of its axis.
        role: What it counts, for the modules that take attentions apart.  It goes with the name.
    """

    name: str
    bound: Poly
    role: Enum | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Index) and self.name == other.name and self.bound == other.bound)

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.bound))

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        return f"{shown(self.name)}<{identify(self.bound)}>"

    @property
    def text(self) -> str:
        return shown(self.name)

    @property
    def size(self) -> tuple[int, int]:
        weight, depth = self.bound.size
        return 1 + weight, depth

    @property
    def denominator(self) -> int | None:
        return 1

    def substitute(self, mapping: Substitution) -> Poly:
        return mapping.get(self, of(self))

    def extreme(self, *, lowest: bool) -> Poly | None:
        return ZERO if lowest else self.bound - 1


class Hashed(Atom):
    """An atom with children: the key is rendered once, and hashing goes by the key.

    Its first use is where its size is looked at: a ``TooComplex`` there says that it is not worth having.
    """

    def _distinction(self) -> str:
        """What tells atoms of equal text apart."""
        return ""

    def _render(self, show: Callable[[Poly], str]) -> str:
        raise NotImplementedError

    @cached_property
    def size(self) -> tuple[int, int]:
        sizes = [c.size for c in self.children]
        return 1 + sum(w for w, _ in sizes), 1 + max((d for _, d in sizes), default=0)

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        weight, depth = self.size
        if weight > MOST_WEIGHT or depth > MOST_DEPTH:
            raise TooComplex(f"an expression of {weight} parts, {depth} deep")
        return self._render(identify) + self._distinction()

    @property
    def text(self) -> str:
        return self._render(render)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self.key == other.key)


@dataclass(frozen=True, eq=False)
class Read(Hashed):
    """``tensor[indices]``, known only at run time."""

    tensor: str
    indices: tuple[Poly, ...]
    integer: bool = False

    def _distinction(self) -> str:
        return "i" if self.integer else "r"

    def _render(self, show: Callable[[Poly], str]) -> str:
        return f"{shown(self.tensor)}[{', '.join(map(show, self.indices))}]"

    @property
    def children(self) -> tuple[Poly, ...]:
        return self.indices

    @property
    def denominator(self) -> int | None:
        return 1 if self.integer else None

    def substitute(self, mapping: Substitution) -> Poly:
        return of(Read(self.tensor, tuple(substitute(i, mapping) for i in self.indices), self.integer))
