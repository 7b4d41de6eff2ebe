"""Rows without a visible key: what the original computes there, beside what the fused node does."""

from __future__ import annotations

from dataclasses import dataclass

from ...fused.family import EmptyRows

YIELDS = {EmptyRows.MEAN: "the mean of all values", EmptyRows.ZERO: "zeros"}
"""What the fused node computes, by its attribute."""


@dataclass(frozen=True)
class RowsWithoutKeys:
    """What the original computes in a row of which no key is visible.

    Attributes:
        text: In words.
        policy: The policy under which the fused node computes the same, None if there is none.
        undefined: There is no such row, or the original yields NaN, with which nothing can agree.
        rounded: No key is hidden.  Both add the same low numbers, beside which a score keeps some of its digits.
    """

    text: str
    policy: EmptyRows | None = None
    undefined: bool = False
    rounded: bool = False

    def agrees(self, policy: EmptyRows) -> bool:
        """Whether a fused node with this policy computes what the original does, wherever that is defined."""
        return self.undefined or self.rounded or self.policy is policy

    def comparable(self, policy: EmptyRows) -> bool:
        """Whether such rows have to be equal number by number."""
        return self.agrees(policy) and not self.rounded


NOWHERE = RowsWithoutKeys("there is no such row", undefined=True)
NAN = RowsWithoutKeys("NaN", undefined=True)
MEAN = RowsWithoutKeys(YIELDS[EmptyRows.MEAN], EmptyRows.MEAN)
ADDED = RowsWithoutKeys("what scores and masks add up to, as here", rounded=True)
ADDED_OR_ZEROS = RowsWithoutKeys("what scores and masks add up to, or zeros", EmptyRows.ZERO, rounded=True)
ZEROS = RowsWithoutKeys(YIELDS[EmptyRows.ZERO], EmptyRows.ZERO)
