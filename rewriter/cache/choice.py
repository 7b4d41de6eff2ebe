"""What a user says of the cache, as options."""

from __future__ import annotations

import re

from ...base.errors import UsageError

GROWS, IN_PLACE = "grows", "in-place"

MOST_ROWS = 1 << 24
"""Positions up to this one are exact in float32."""

_WORD = re.compile(rf"{IN_PLACE}(?:=([0-9]{{1,9}}))?")


def cache_choice(text: str) -> tuple[bool, int | None]:
    """Whether caches are held in place, and how many rows their buffers have.

    Args:
        text: ``grows``, ``in-place``, or ``in-place=ROWS``.

    Raises:
        UsageError: It is none of these.
    """
    if text == GROWS:
        return False, None
    found = _WORD.fullmatch(text)
    rows = None if found is None or found.group(1) is None else int(found.group(1))
    if found is None or (rows is not None and not 1 <= rows <= MOST_ROWS):
        raise UsageError(
            f"the cache is '{text[:40]}', which is neither {GROWS} nor {IN_PLACE}, nor {IN_PLACE}=ROWS with 1 to "
            f"{MOST_ROWS} rows."
        )
    return True, rows
