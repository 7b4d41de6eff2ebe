"""A refused site in numbers: an element that slope times distance does not explain, and the row that it lies in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..patterns.forms import FORMS
from ..patterns.masks import HIDDEN_BELOW
from ..rewriter.records.site import Site
from .numbers import ROUNDING, WINDOW, Floats, evaluate
from .study import Study

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counterexample:
    """An element that slope times distance does not explain.

    Attributes:
        index: (b, h, i, j).
        value: What is added there, relative to the query's own key (or, if that is hidden, the first visible one).
        expected: The closest slope times distance for that head.
        slope: That slope.
        keys: Keys of the same row, around j.
        added: What is added at each of them, as ``value``; None where hidden.
        closest: The closest slope times distance at each of them.
    """

    index: tuple[int, ...]
    value: float
    expected: float
    slope: float
    keys: tuple[int, ...]
    added: tuple[float | None, ...]
    closest: tuple[float, ...]


@dataclass(frozen=True)
class _Line:
    """The closest slope times distance of one head: what is added [B, S_q, S_kv], and what the line says."""

    slope: float
    added: Floats
    expected: Floats
    place: tuple[int, int, int]

    @property
    def gap(self) -> float:
        return abs(float(self.added[self.place] - self.expected[self.place]))


def counterexample(study: Study, site: Site) -> Counterexample | None:
    """For a refused site the element that fits slope times distance worst; None where all of them fit."""
    attention = site.reading
    found = None if attention is None else evaluate(study, site, attention)
    if found is None:
        return None
    scores, shape = found
    rows, keys = np.arange(shape[2]), np.arange(shape[3])
    own = np.clip(rows + (shape[3] - shape[2]), 0, shape[3] - 1)
    visible = scores > HIDDEN_BELOW
    best: tuple[int, _Line] | None = None
    for h in range(shape[1]):
        lines = [
            _line(scores[:, h], visible[:, h], form.measure((keys - own[:, None]).astype(np.float64)), own)
            for form in FORMS
            if not form.parameters
        ]
        # The form that comes closest is the one that the head could have meant.
        line = min(lines, key=lambda found: found.gap)
        value = float(line.added[line.place])
        if line.gap > (best[1].gap if best else 0.0) and line.gap > ROUNDING * max(1.0, abs(value)):
            best = h, line
    return None if best is None else _shown(*best, visible)


def _shown(head: int, line: _Line, visible: Flags) -> Counterexample:
    """The worst element of a head, with the keys around it."""
    b, i, j = line.place
    last = line.added.shape[-1]
    first = max(0, min(j - WINDOW // 2, last - WINDOW))
    keys = tuple(range(first, min(last, first + WINDOW)))
    return Counterexample(
        index=(b, head, i, j),
        value=float(line.added[line.place]),
        expected=float(line.expected[line.place]),
        slope=line.slope,
        keys=keys,
        added=tuple(float(line.added[b, i, k]) if visible[b, head, i, k] else None for k in keys),
        closest=tuple(float(line.expected[b, i, k]) for k in keys),
    )


def _line(scores: Floats, visible: Flags, distance: Floats, own: Places) -> _Line:
    """The line under the usual slope, and the element farthest from it."""
    place = np.broadcast_to(own[:, None], (*scores.shape[:2], 1))
    # A row with a hidden own key is measured from its first visible key.
    first = np.where(np.take_along_axis(visible, place, -1), place, np.argmax(visible, axis=-1)[..., None])
    added = np.where(visible, scores - np.take_along_axis(scores, first, -1), 0.0)
    span = np.broadcast_to(distance, scores.shape)
    every = span - np.take_along_axis(span, first, -1)
    apart = visible & (every != 0)
    # The median, so that one wrong entry sticks out and does not bend the line.
    slope = float(np.median(added[apart] / every[apart])) if apart.any() else 0.0
    gap = np.where(visible, np.abs(added - slope * every), 0.0)
    b, i, j = (int(x) for x in np.unravel_index(int(gap.argmax()), gap.shape))
    return _Line(slope, added, slope * every, (b, i, j))
