"""One site as two small models, and what is known of the tensors at its border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from ...algebra import Index, Poly, Size
from ...graph.index import Array
from ...patterns.masks import HIDDEN_BELOW
from ...verify.pairs import QueryPlace
from ..interpret import Interpreter
from ..recognise.visibility import UNDERFLOW
from ..records.binding import Binding
from ..records.reading import View, hidden_below
from .bias_values import placed, scores_shape
from .evaluation import number
from .measure import Floats, SiteSizes


@dataclass(frozen=True)
class CutPair:
    """One site before and after.

    Attributes:
        site: The site's name.
        node: Name of its fused node.
        original: The nodes between border and output, as the original has them.
        rewritten: The same as the output has them; its inputs are those of ``original``.
        folders: Where the external data of each are.
        tensors: Extents of every input that is a tensor of the model.
        shapes: Inputs that hold sizes, and what they hold; ``scalars`` are those of rank 0.
        results: Outputs that are compared, the attention's own first.
        rows_agree: Rows without visible keys are proven to be what they were.
        query: The input that holds the query, and where, or None if keys or values are there as well.
        scores: The output of ``original`` that tells which keys a row sees, or "" if there is none.
        sizes: Chooses numbers for the sizes.
    """

    site: str
    node: str
    original: ModelProto
    rewritten: ModelProto
    folders: tuple[Path, Path]
    tensors: Mapping[str, tuple[Poly, ...]]
    shapes: Mapping[str, tuple[Poly, ...]]
    scalars: frozenset[str]
    results: tuple[str, ...]
    rows_agree: bool
    query: QueryPlace | None
    scores: str
    sizes: SiteSizes
    _interpreter: Interpreter
    _binding: Binding

    @property
    def heads(self) -> int:
        """The number of heads, 1 if it is not a number."""
        head = self._binding.proof.attention.frame.head
        constant = None if head is None else head.bound.constant
        return 1 if constant is None else int(constant)

    def extents(self, name: str, sizes: dict[Size, int]) -> tuple[int, ...] | None:
        """A tensor's shape, or a shape input's content, at the given sizes."""
        known = self.tensors.get(name) or self.shapes.get(name) or ()
        found = [number(self._interpreter, extent, sizes) for extent in known]
        return None if None in found else tuple(e for e in found if e is not None)

    def by_head(self, name: str, moved: Array) -> Array:
        """How far elements of an output moved, each as far as the farthest one of its head."""
        head = self._binding.proof.attention.frame.head
        axis = next((a for a, names in enumerate(self._binding.output.axes) if head in names), None)
        if name != self.results[0] or head is None or axis is None:
            return np.full(moved.shape, moved.max(initial=0.0))
        extents = _split(self._binding.output.axes[axis], moved.shape[axis])
        if extents is None:
            return np.full(moved.shape, moved.max(initial=0.0))
        place = axis + self._binding.output.axes[axis].index(head)
        whole = moved.reshape([*moved.shape[:axis], *extents, *moved.shape[axis + 1 :]])
        largest = whole.max(axis=tuple(a for a in range(whole.ndim) if a != place), keepdims=True, initial=0.0)
        return np.broadcast_to(largest, whole.shape).reshape(moved.shape)

    def bias(self, scores: Array, sizes: dict[Size, int]) -> tuple[Array, Array]:
        """Scores without the product as [B, H, S_q, S_kv], zero where a key is hidden, and where one is visible."""
        found = self.placed(scores, sizes)
        if found is None:
            return np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1, 1), np.bool_)
        return np.where(found[1], found[0], 0.0), found[1]

    def placed(self, scores: Array, sizes: dict[Size, int]) -> tuple[Floats, npt.NDArray[np.bool_]] | None:
        """Scores [B, H, S_q, S_kv], and where a key is visible; None where neither sizes nor scores tell."""
        proof = self._binding.proof
        if proof.attention.replaced_at is not None and proof.hidden and proof.rest.terms:
            return None  # a number in place of the score looks like one that a mask has lowered
        return self._scores(scores, sizes)

    def _scores(self, scores: Array, sizes: dict[Size, int]) -> tuple[Floats, npt.NDArray[np.bool_]] | None:
        """Scores [B, H, S_q, S_kv], and where a key is visible as far as they tell."""
        proof = self._binding.proof
        extents = scores_shape(self._interpreter, proof.attention, sizes)
        found = None if extents is None else placed(self._interpreter, proof.attention, scores, extents, sizes)
        if extents is None or found is None:
            return None
        # What causality and window replace is known anyway, and a mask may lower keys that are seen by as much.
        visible = found > (hidden_below(proof.attention) if proof.hidden else HIDDEN_BELOW)
        if proof.causal:
            keys, rows = np.arange(extents[3]), np.arange(extents[2])
            visible = visible & (keys <= rows[:, None] + (extents[3] - extents[2]))
        visible = visible & proof.window.sees(extents[2], extents[3])
        return found, np.asarray(visible, np.bool_)

    def seen(self, scores: Array | None, output: Array, sizes: dict[Size, int]) -> Array:
        """True at the elements of the output that have to be equal.

        A row without visible keys is one of them where the proof says so; elsewhere the report tells what it yields
        (``Notice.EMPTY_ROWS``).
        """
        everything: Array = np.ones(output.shape, np.bool_)
        if self.rows_agree:
            return everything
        placed = None if scores is None else self._scores(scores, sizes)
        if placed is None:
            return everything
        attention = self._binding.proof.attention
        frame, found, visible = attention.frame, *placed
        if attention.replaced_at is not None:
            visible = visible & (found > float(attention.replaced_at + UNDERFLOW))
        rows = np.asarray(visible.any(-1), np.bool_)
        spread = _laid_out(rows, self._binding.output, (frame.batch, frame.head, frame.row), output.shape)
        return everything if spread is None else spread


def _split(names: Sequence[Index], extent: int) -> list[int] | None:
    """The extents of indices that are merged in an axis, of which one at most is no number."""
    known = [None if i.bound.constant is None else int(i.bound.constant) for i in names]
    rest = extent // max(1, int(np.prod([k for k in known if k is not None])))
    found = [rest if k is None else k for k in known]
    return found if known.count(None) <= 1 and int(np.prod(found)) == extent else None


def _laid_out(
    rows: npt.NDArray[np.bool_], view: View, order: Sequence[Index | None], shape: tuple[int, ...]
) -> Array | None:
    """Rows [B, H, S_q] spread over an output's own axes, or None where its layout has other sizes."""
    held = {index: axis for axis, index in enumerate(order) if index is not None}
    extents: list[int] = []
    places: list[int] = []
    for axis, names in enumerate(view.axes):
        rest = 1
        for index in names:
            if index in held:
                rest *= rows.shape[held[index]]
        for index in names:
            if index in held:
                places.append(held[index])
                extents.append(rows.shape[held[index]])
            else:
                if shape[axis] % rest:
                    return None
                extents.append(shape[axis] // rest)
                places.append(-1)
    present = [p for p in places if p >= 0]
    if sorted(present) != sorted(held.values()) and any(rows.shape[a] != 1 for a in set(range(3)) - set(present)):
        return None
    kept = rows.transpose([*present, *(a for a in range(3) if a not in present)])
    kept = kept.reshape([rows.shape[p] for p in present])
    whole = kept.reshape([e if p >= 0 else 1 for p, e in zip(places, extents, strict=True)])
    spread = np.broadcast_to(whole, extents)
    return spread.reshape(shape) if spread.size == np.prod(shape) else None
