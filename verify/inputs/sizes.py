"""Symbolic dimensions.  Each symbol is one size, so that all inputs of a set fit together.

Exporters name equal sizes differently (``s43`` and ``s72`` for one batch) and write sums as text
(``past_sequence_length + sequence_length``).  A symbol gets a role from where it stands.  Sums mean
what they say.  Shapes do not say whether a mask covers the past too, so that is tried on the original model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from .usage import InputKind, ModelInput


class Role(Enum):
    """What a symbol counts."""

    BATCH = "batch"
    NEW = "new tokens"
    PAST = "past tokens"
    TOTAL = "all tokens"


class Relation(Enum):
    """What a symbol of role TOTAL equals; tried in this order."""

    PAST_AND_NEW = "past + new"
    NEW_ONLY = "new"


@dataclass(frozen=True)
class DrawnSizes:
    """Sizes of one input set: batch, new tokens, and tokens already in the cache."""

    batch: int
    new: int
    past: int


_TERM = re.compile(r"(?:([0-9]{1,18})\s*\*\s*)?([A-Za-z_][\w.\-/]*)$")
_COUNT = re.compile(r"[0-9]{1,18}$")


class Symbols:
    """The symbols of a model's inputs and their roles.

    Args:
        inputs: The model's inputs.
        sequence_first: Inputs of ids and features have their tokens on axis 0 and their batch on axis 1.
    """

    def __init__(self, inputs: Sequence[ModelInput], *, sequence_first: bool = False) -> None:
        self.sequence_first = sequence_first
        self._terms: dict[tuple[str, int], list[tuple[int, str]]] = {}
        for entry in inputs:
            for axis, dim in enumerate(entry.dims):
                self._terms[entry.name, axis] = _parse(dim, f"{entry.name}#{axis}")
        # What the new tokens come in as: ids, features.  Without it the model is a bare attention, whose first
        # wide input is the query and whose other lengths are the keys'.
        self._bare = not any(
            entry.kind not in (InputKind.PADDING_MASK, InputKind.WIDE_MASK) and len(entry.dims) in (2, 3)
            for entry in inputs
        )
        self.roles = self._find_roles(inputs)
        self._fixed = _fixed_sizes(inputs, sequence_first)

    @property
    def has_past(self) -> bool:
        """Whether the model takes keys that are already there: a cache, or keys longer than queries."""
        return Role.PAST in self.roles.values() or (self._bare and self.has_total)

    @property
    def has_new(self) -> bool:
        """Whether the number of new tokens is free."""
        return Role.NEW in self.roles.values()

    @property
    def has_total(self) -> bool:
        """Whether some symbol counts all tokens, so that a relation has to be found."""
        return Role.TOTAL in self.roles.values()

    @property
    def relations(self) -> tuple[Relation, ...]:
        """What the number of all tokens may equal, likeliest first."""
        return tuple(Relation) if self.has_total and self.has_past else (Relation.PAST_AND_NEW,)

    def shape(self, entry: ModelInput, sizes: DrawnSizes, relation: Relation) -> tuple[int, ...]:
        """The shape of one input of a set; sizes that the model fixes at some input hold for all."""
        sizes = DrawnSizes(self._fixed.get(Role.BATCH, sizes.batch), self._fixed.get(Role.NEW, sizes.new), sizes.past)
        total = sizes.new + (sizes.past if relation is Relation.PAST_AND_NEW else 0)
        values = {
            Role.BATCH: sizes.batch,
            Role.NEW: sizes.new,
            Role.PAST: sizes.past,
            Role.TOTAL: total,
        }
        shape = []
        for axis in range(len(entry.dims)):
            terms = self._terms[entry.name, axis]
            shape.append(sum(factor * (values[self.roles[symbol]] if symbol else 1) for factor, symbol in terms))
        return tuple(shape)

    def _find_roles(self, inputs: Sequence[ModelInput]) -> dict[str, Role]:
        roles: dict[str, Role] = {}
        masks = (InputKind.PADDING_MASK, InputKind.WIDE_MASK)
        for entry in sorted(inputs, key=lambda item: item.kind in masks):
            rank = len(entry.dims)
            turned = self.sequence_first and entry.kind not in masks and rank in (2, 3)
            for axis in (1, 0, *range(2, rank)) if turned else range(rank):
                terms = self._terms[entry.name, axis]
                symbols = [symbol for _, symbol in terms if symbol and symbol not in roles]
                for symbol in symbols:
                    alone = len(terms) == 1
                    if axis == int(turned) and rank >= 2 and alone:
                        roles[symbol] = Role.BATCH
                    elif entry.kind in masks and alone:
                        last = axis == rank - 1
                        roles[symbol] = Role.TOTAL if last else Role.NEW
                    elif rank >= 4 and entry.kind is InputKind.FLOAT:
                        first = self._bare and Role.NEW not in roles.values()
                        roles[symbol] = Role.NEW if first else Role.PAST
                    elif entry.kind in masks and Role.NEW in roles.values():
                        roles[symbol] = Role.PAST
                    else:
                        roles[symbol] = Role.NEW
        new = {symbol for symbol, role in roles.items() if role is Role.NEW}
        alone = sum(any(d in new for d in entry.dims) for entry in inputs if entry.kind is InputKind.FLOAT) < 2
        if self._bare and alone and Role.PAST in roles.values():
            # A bare attention's keys hold all tokens.  There are past ones only beside keys as long as the query.
            roles = {symbol: Role.TOTAL if role is Role.PAST else role for symbol, role in roles.items()}
        return roles


class Suggested(Protocol):
    """Says which shape an input may have."""

    def shape(self, entry: ModelInput, sizes: DrawnSizes, relation: Relation) -> tuple[int, ...]:
        """The shape of one input of a set."""


class FittedSizes:
    """Shapes by symbols, made to agree with what is known about lengths.

    Args:
        symbols: Which size each symbol is, as far as shapes say.
        inputs: The model's inputs.
        fit: Changes the shapes of all inputs, by name.
    """

    def __init__(
        self,
        symbols: Suggested,
        inputs: Sequence[ModelInput],
        fit: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, tuple[int, ...]]],
    ) -> None:
        self._symbols = symbols
        self._inputs = inputs
        self._fit = fit
        self._last: tuple[tuple[DrawnSizes, Relation], Mapping[str, tuple[int, ...]]] | None = None

    def shape(self, entry: ModelInput, sizes: DrawnSizes, relation: Relation) -> tuple[int, ...]:
        """The shape of one input of a set."""
        # Inputs are asked for one after the other, and each fit is that of all.
        if self._last is None or self._last[0] != (sizes, relation):
            shapes = {one.name: self._symbols.shape(one, sizes, relation) for one in self._inputs}
            self._last = (sizes, relation), self._fit(shapes)
        return self._last[1][entry.name]


def _fixed_sizes(inputs: Sequence[ModelInput], sequence_first: bool) -> dict[Role, int]:
    """Batch size and number of new tokens, where all inputs that carry tokens have them as numbers."""
    dims: dict[Role, list[int | str | None]] = {Role.BATCH: [], Role.NEW: []}
    for entry in inputs:
        if entry.kind in (InputKind.PADDING_MASK, InputKind.WIDE_MASK):
            continue
        if len(entry.dims) == (3 if entry.kind is InputKind.FLOAT else 2):
            dims[Role.BATCH].append(entry.dims[int(sequence_first)])
            dims[Role.NEW].append(entry.dims[int(not sequence_first)])
    fixed: dict[Role, int] = {}
    for role, found in dims.items():
        numbers = [dim for dim in found if isinstance(dim, int)]
        if numbers and len(numbers) == len(found):
            fixed[role] = max(numbers)
    return fixed


def _parse(dim: int | str | None, unnamed: str) -> list[tuple[int, str]]:
    """A dimension as a sum of factor * symbol; the symbol of a plain number is empty."""
    if isinstance(dim, int):
        return [(dim, "")]
    if dim is None:
        return [(1, unnamed)]
    terms: list[tuple[int, str]] = []
    for part in dim.strip("()").split("+"):
        text = part.strip()
        match = _TERM.match(text)
        if _COUNT.match(text):
            terms.append((int(text), ""))
        elif match:
            terms.append((int(match.group(1) or 1), match.group(2)))
        else:
            return [(1, dim)]  # not a sum: a symbol of its own
    return terms
