"""Near misses: models that differ from an ALiBi attention in one thing, which the pass has to notice.

Each has a function in the module that is named after what it changes.  The tables in these modules, from the name of a
near miss to its function, are what the parts of a model look into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..spelling import words

if TYPE_CHECKING:
    from ..graph import Writer

MISSES = words(
    "clip mod quadratic log bucket one-side data-slope batch-slope table-ulp table-noise table-entry table-tail",
    "offset offset-one causal-offset slope-per-key slope-per-row probabilities scores softcap-after",
    "softcap-before sink window packed multiplied dropout axis finite-mask forgetting cls grid key-term",
    "position-ids float-mask-positions value-scaled chunked negative-total product sine square-root parity i-only",
    "clip-far mod-far drop-far row-scale key-scale after-softmax masked-probabilities one-sided soft-window",
    "half-step flipped length-slope query-key wrap three-ulp slopes-on-batch log-length mask-multiplied",
    "causal-strict sign-far linear-far row-far batch-one window-far length-far narrow-cast",
)
"""All names; their order decides which one a number of ``benchmarks/attack`` draws."""

MUST_REFUSE = frozenset(words("clip-far mod-far drop-far three-ulp wrap"))
"""Faults that no run here shows, being too far or too small, or that no size excuses: only the proof sees them."""

LONG_MISSES = frozenset(words("sign-far linear-far row-far window-far length-far narrow-cast"))
"""Faults that show at LONG keys."""

LONG = 140
"""Length at which faults show that are too far for the tables."""


def named(*functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """A table of near misses: ``clip_far`` writes the one that is called ``clip-far``."""
    return {function.__name__.replace("_", "-"): function for function in functions}


def spoil(w: Writer, table: Mapping[str, Callable[..., Any]], value: Any, *more: Any) -> Any:
    """``value``, or what the model's near miss makes of it, if that is in the table."""
    function = table.get(w.sp.miss)
    return function(w, value, *more) if function else value
