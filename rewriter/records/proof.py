"""What a proof says about an attention."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...algebra import ZERO, Cond, Number, Poly
from ...fused.family import UNBOUNDED
from ...patterns.forms import Form
from ..interpret.rounding import rounding_bounds
from .evidence import Evidence
from .reading import Attention


@dataclass(frozen=True)
class Window:
    """How far from its own position a row sees keys.

    Attributes:
        left: Keys before the row's own that are seen; -1 for all.
        right: Keys after it that are seen; -1 for all.
        conditions: What says so.
    """

    left: int = UNBOUNDED
    right: int = UNBOUNDED
    conditions: tuple[Cond, ...] = ()

    @property
    def bounded(self) -> bool:
        """Whether it hides any key."""
        return (self.left, self.right) != (UNBOUNDED, UNBOUNDED)

    def sees(self, rows: int, keys: int) -> npt.NDArray[np.bool_]:
        """[S_q, S_kv]: True where a key is within the window of a row."""
        own = np.arange(rows)[:, None] + (keys - rows)
        place = np.arange(keys)
        near = np.ones((rows, keys), np.bool_)
        if self.left != UNBOUNDED:
            near &= own - place <= self.left
        if self.right != UNBOUNDED:
            near &= place - own <= self.right
        return near

    @property
    def text(self) -> str:
        """In words, e.g. ``window (255 keys before the row)``."""
        sides = [
            f"{keys} key{'' if keys == 1 else 's'} {place}"
            for keys, place in ((self.left, "before"), (self.right, "after"))
            if keys != UNBOUNDED
        ]
        return f"window ({', '.join(sides)} the row)" if sides else "no window"


Slopes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Positions:
    """Key positions that come from a tensor.

    Attributes:
        value: The position of key j, as a polynomial over (b, j).
        slope: What it is multiplied by, as a polynomial over the head.
    """

    value: Poly
    slope: Poly


@dataclass(frozen=True)
class Proof:
    """An attention whose bias is proven.

    Attributes:
        attention: The site.
        form: The form of the bias.
        causal: Keys after the row are hidden, proven.
        slopes: One per head, float32; None if they are only known at run time.
        runtime_slopes: The slope of head h as a polynomial, where ``slopes`` is None.
        positions: Key positions from the attention mask, if they are not the key's index.
        rest: What else is added to visible scores (an additive mask), zero if nothing.
        hidden: Conditions for visibility besides causality and window.
        window: How far from its position a row sees keys.
        rounded: The bias as the model rounds it, where that is not what slope times distance is; part of ``rest``.
        unrounded: The same where it is replaced by what it was before, as asked for (``--exact-bias``).
        assumptions: Equalities that the proof takes from operators that would also broadcast.
        steps: The derivation.
        parameters: Those of the form.
        evidence: Where the model says all this, if that was asked for.
    """

    attention: Attention
    form: Form
    causal: bool
    slopes: Slopes | None
    runtime_slopes: Poly | None
    positions: Positions | None
    rest: Poly
    hidden: tuple[Cond, ...]
    assumptions: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    rounded: Poly = ZERO
    unrounded: Poly = ZERO
    parameters: tuple[Number, ...] = ()
    evidence: Evidence | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of keys beyond which the site computes something else than below them.  A check has to look there."""
        sides = [keys + 1 for keys in (self.window.left, self.window.right) if keys != UNBOUNDED]
        # A distance that is clipped at 128 shows that from 129 keys on.
        clipped = [math.ceil(number) + 1 for number in self.parameters if number > 0]
        return tuple(sorted({*sides, *clipped, *rounding_bounds(self.rounded + self.unrounded)}))

    @property
    def emitted_slopes(self) -> Slopes | None:
        """The slopes that the fused node gets: zeros where the whole bias is a key bias."""
        if not self.rounded.terms:
            return self.slopes
        head = self.attention.frame.head
        return np.zeros(1 if head is None else int(head.bound.constant or 0), np.float32)
