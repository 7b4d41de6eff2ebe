"""One equality between sizes."""

from __future__ import annotations

from dataclasses import dataclass

from ....algebra import Poly


@dataclass(frozen=True)
class Fact:
    """``left == right``, because ``node`` needs it."""

    left: Poly
    right: Poly
    node: str
    by_broadcast: bool
    relation: str = "="
