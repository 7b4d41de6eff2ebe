"""What a user is told of sites that are rewritten.  A notice refuses nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ..fused.family import EmptyRows, FusedAttention
from .records.binding import Binding
from .records.rows import YIELDS
from .records.site import Site
from .verdicts import Notice

Fused = Sequence[tuple[Site, FusedAttention]]
"""Per rewritten site its node's attributes."""


def policy_of(site: Site, fused: Fused) -> EmptyRows:
    """What the fused node of a site yields where no key is visible; what it will yield, if it is not made yet."""
    made = next((attributes.empty_rows for one, attributes in fused if one is site), None)
    if made is not None:
        return made
    return EmptyRows.ZERO if site.binding is not None and site.binding.zero_rows else EmptyRows.MEAN


def rows_record(binding: Binding, policy: EmptyRows) -> dict[str, object]:
    """For the report: what the original computes in rows without visible keys, what the fused node does, and a code."""
    agree = binding.rows_without_keys.agrees(policy)
    code = None if agree else Notice.EMPTY_ROWS.number
    return {"original": binding.rows_without_keys.text, "fused": YIELDS[policy], "agree": agree, "code": code}


def empty_rows(proven: Sequence[Site], fused: Fused) -> list[str]:
    """Where rows without visible keys yield something else than in the original, each difference once."""
    found: dict[str, list[str]] = {}
    for site in proven:
        policy = policy_of(site, fused)
        if site.binding is not None and not site.binding.rows_without_keys.agrees(policy):
            detail = f"{site.binding.rows_without_keys.text} there, {YIELDS[policy]} here"
            found.setdefault(detail, []).append(site.name)
    return [Notice.EMPTY_ROWS.text(f"{detail} ({_listed(names)})") for detail, names in found.items()]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
