"""Asking the original what depends on what.  Some tokens get other content, and outputs elsewhere may move."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..run.runtime import Array
from .usage import InputKind, ModelInput

_NO_INFLUENCE = 1e-4
"""Largest change, relative to an output's magnitude, that counts as rounding."""


def other_content(entry: ModelInput, array: Array) -> Array:
    """An input of ids or features with something else in every place."""
    other: Array = (array + 1) % (entry.bound or 2) if entry.kind is InputKind.TOKENS else 1 - array
    return other


def moved(before: Array, after: Array, where: Any) -> bool:
    """Whether an output changed by more than rounding at the places that an index picks.

    NaN on either side says nothing about influence.
    """
    with np.errstate(invalid="ignore"):
        difference = np.nan_to_num(np.abs(before.astype(np.float64) - after)[where], nan=0.0)
    magnitude = max(1.0, float(np.nan_to_num(np.abs(before)).max(initial=0.0)))
    return float(difference.max(initial=0.0)) > _NO_INFLUENCE * magnitude
