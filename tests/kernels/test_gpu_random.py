"""A thousand random attentions of every form on a CUDA device (see ``random_driver``)."""

from __future__ import annotations

import os

import pytest
from test_gpu import CACHE, needs_device, shown

pytestmark = pytest.mark.gpu

CASES, PARTS = 1000, 4


@needs_device
@pytest.mark.parametrize("part", range(PARTS))
def test_random_attentions(part: int) -> None:
    from random_driver import requests, run

    size = CASES // PARTS
    results = run(part * size, size, CACHE, os.cpu_count() or 1)
    assert len(results) == size
    assert not [(name, share) for name, share in results if not share <= 1.0]
    for request in requests():
        shown(request)
