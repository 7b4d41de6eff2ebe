"""Where a model says what a proof claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...algebra import Cond
from ..interpret.engine import Key


@dataclass(frozen=True)
class Evidence:
    """The elements that claims of a proof rest on, of those that the scores were computed from.

    Where several say the same, it is the one farthest from the scores, since that one said it first.

    Attributes:
        scaled_query: Outputs of the operators that scale the query before the product.
        scaled_key: Outputs of the operators that scale the key before the product.
        scaled: Outputs of those that scale the product.
        added: Where the bias meets the product; None where an operator adds it.
        bias: The bias alone: the nearest element that depends on key and head, and is not all passed on.
        materialised: The same, whether it is passed on or not.
        slopes: What holds one number per head that is the slope, up to a factor.
        causality: What hides the keys after the row.
        conditions: What hides keys otherwise, by what has to be true of a visible one.
    """

    scaled_query: tuple[str, ...] = ()
    scaled_key: tuple[str, ...] = ()
    scaled: tuple[str, ...] = ()
    added: Key | None = None
    bias: Key | None = None
    materialised: Key | None = None
    slopes: Key | None = None
    causality: Key | None = None
    conditions: Mapping[Cond, Key] = field(default_factory=dict)
