"""The forms of masks that need no tensor of S_q x S_kv elements.

    causal         j - row(i) <= 0,   row(i) = i + (S_kv - S_q)      an attribute of the fused node
    key padding    depends on (b, j) only                            a mask input [B, 1, 1, S_kv]

Any other condition on a key is passed to the fused node as a boolean mask of the shape that it has.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskPattern:
    """A condition on keys: which of the indices b, h, i it may depend on besides j."""

    name: str
    batch: bool
    head: bool
    row: bool


KEY_PADDING = MaskPattern("key padding", batch=True, head=False, row=False)
GENERAL = MaskPattern("general mask", batch=True, head=True, row=True)
PATTERNS: tuple[MaskPattern, ...] = (KEY_PADDING, GENERAL)
