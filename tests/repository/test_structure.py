"""The layout stays within its measures; ``python tests/repository/structure.py`` prints them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structure import MEASURES


@pytest.mark.parametrize("measure", MEASURES, ids=[measure.__name__ for measure in MEASURES])
def test_nothing_is_over_its_limit(measure: Callable[[], list[str]]) -> None:
    assert measure() == []
