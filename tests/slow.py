"""Tests that the fast suite leaves out: ``ALIBI_SLOW=1`` runs them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

BESIDE = pytest.mark.beside
"""What takes half a minute: ``.ci/run`` runs it beside its other checks (``ALIBI_BESIDE=1 pytest -m beside``)."""
THOROUGH = bool(os.environ.get("ALIBI_SLOW"))
SLOW = pytest.mark.skipif(not THOROUGH, reason="one of many alike, or slow; ALIBI_SLOW=1 runs it")


def thinned(values: Sequence[Any], every: int) -> list[Any]:
    """Parameters, or tuples of some, of which the fast suite takes the first, and each ``every``-th after it."""
    tuples = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*value, marks=() if i % every == 0 else SLOW) for i, value in enumerate(tuples)]
