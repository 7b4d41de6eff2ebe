"""From logits to tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.  Without any of it the likeliest one is taken.

    Attributes:
        temperature: Logits are divided by it; 0 takes the likeliest token.
        top_k: Only so many of the likeliest tokens may be drawn; 0 for all.
        top_p: Only the likeliest tokens that together have this probability may be drawn.
        seed: Of the draws.

    Raises:
        ValueError: A number makes no sense.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(
                "a temperature and top_k are not negative, and top_p is above 0 and at most 1: "
                f"temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}"
            )


GREEDY = Sampling()
"""The likeliest token."""


class Sampler:
    """Draws tokens; equal seeds and logits give equal tokens.

    Args:
        sampling: How.
    """

    def __init__(self, sampling: Sampling = GREEDY) -> None:
        self._how = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        """A token per row.

        Args:
            logits: [B, V] of any floating type.
        """
        if self._how.temperature == 0:
            return np.asarray(logits.argmax(axis=-1), np.int64)
        scaled = logits.astype(np.float64) / self._how.temperature
        return np.array([self._draw(row) for row in scaled], np.int64)

    def _draw(self, scores: NDArray[np.float64]) -> int:
        order = np.argsort(-scores, kind="stable")
        if self._how.top_k:
            order = order[: self._how.top_k]
        weights = np.exp(scores[order] - scores[order[0]])
        shares = weights / weights.sum()
        # The token that reaches top_p is among those that may be drawn.
        kept = int(np.searchsorted(np.cumsum(shares), self._how.top_p)) + 1
        shares = shares[:kept] / shares[:kept].sum()
        return int(order[self._random.choice(len(shares), p=shares)])
