"""The bias of a site in numbers.  It is evaluated from the original's own nodes, beside slope times distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..algebra import Size, Substitution, poly, substitute
from ..graph.index import Array
from ..patterns.masks import HIDDEN_BELOW
from ..rewriter.check.bias_values import bias_part, feeds_of, placed, scores_shape
from ..rewriter.check.cut import MAX_ELEMENTS as MOST_STORED
from ..rewriter.check.evaluation import Evaluate, evaluator, is_small
from ..rewriter.records.reading import Attention
from ..rewriter.records.site import Site
from .study import Study

Floats = npt.NDArray[np.float64]

LENGTHS = (32, 24, 16, 40, 8)
"""Given to the unknown extents, in turn, until the model takes them."""

WINDOW = 48
"""Keys that are shown, around the row."""

ROUNDING = 1e-3
"""Relative.  An element that is no farther off shows the rounding of a 16-bit model, not another bias."""

LOWEST_SHOWN = -3.4e38
"""Stands for minus infinity, from which no difference can be taken.  Both hide a key."""

MAX_HEADS = 16
MAX_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class BiasValues:
    """One row of the bias of a proven site.

    Attributes:
        row: The query row.
        own: The row's own key.
        keys: The keys that are shown.
        heads: The heads that are shown.
        values: Per head and key what the original adds, relative to the row's own key; None where hidden.
        residual: The same less slope times distance.
        largest: The largest residual anywhere in the evaluated scores, not only in this row.
        shape: The shape [B, H, S_q, S_kv] at which it was evaluated.
    """

    row: int
    own: int
    keys: tuple[int, ...]
    heads: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    residual: tuple[tuple[float | None, ...], ...]
    largest: float
    shape: tuple[int, ...]


def evaluate(study: Study, site: Site, attention: Attention) -> tuple[Floats, list[int]] | None:
    """The scores of a site without the product, [B, H, S_q, S_kv], at the first lengths that the model takes.

    The bodies of If, Loop and Scan are not evaluated, nor is what depends on foreign products.
    """
    if site.scope.parent is not None:
        return None
    interpreter = site.interpreter
    products = {attention.product} - {""}
    part = bias_part(
        study.model, site.scope, interpreter, [attention.scores], products, largest=MOST_STORED, given_shapes=False
    )
    if not part.outputs:
        constant = interpreter.array(attention.scores)
        return None if constant is None else _placed(site, attention, np.asarray(constant), {})
    run: Evaluate | None = None
    for length in LENGTHS:
        sizes = _sizes(site, attention, part.inputs, length)
        if not _within(site, sizes) or not is_small(part.nodes, interpreter, sizes):
            continue
        feeds = feeds_of(part, interpreter, sizes, np.ones, MAX_ELEMENTS)  # nothing is masked
        if feeds is None:
            continue
        run = run or evaluator(part.model, None)
        if run is None:
            return None
        try:
            scores = next(iter(run(feeds).values()))
        except Exception:  # noqa: BLE001 - a length that the model does not take; any backend error type
            continue
        found = _placed(site, attention, scores, sizes)
        if found is not None:
            return found
    return None


def bias_values(study: Study, site: Site) -> BiasValues | None:
    """One row of the bias of a proven site; None where it cannot be evaluated apart from the model."""
    binding = site.binding
    slopes = None if binding is None else binding.given_slopes
    if binding is None or slopes is None:
        return None
    attention = binding.proof.attention
    found = evaluate(study, site, attention)
    if found is None:
        return None
    scores, shape = found
    rows, keys = np.arange(shape[2]), np.arange(shape[3])
    own = rows + (shape[3] - shape[2])
    gap = np.clip(own, 0, shape[3] - 1)
    distance = binding.proof.form.measure((keys - own[:, None]).astype(np.float64), binding.proof.parameters)
    visible = scores > HIDDEN_BELOW
    if binding.proof.causal:
        visible = visible & (keys <= own[:, None])
    relative = scores - np.take_along_axis(scores, np.broadcast_to(gap[:, None], (*shape[:3], 1)), -1)
    residual = relative - slopes.astype(np.float64).reshape(1, -1, 1, 1) * distance
    usable = visible & np.take_along_axis(visible, np.broadcast_to(gap[:, None], (*shape[:3], 1)), -1)
    if not usable.any():
        return None
    row = shape[2] - 1 if binding.proof.causal else shape[2] // 2
    first = max(0, min(int(own[row]) - (WINDOW - 1 if binding.proof.causal else WINDOW // 2), shape[3] - WINDOW))
    shown = tuple(range(first, min(shape[3], first + WINDOW)))
    heads = tuple(range(min(shape[1], MAX_HEADS)))
    chosen = np.ix_([0], heads, [row], shown)
    return BiasValues(
        row=row,
        own=int(own[row]),
        keys=shown,
        heads=heads,
        values=_cells(relative[chosen], usable[chosen]),
        residual=_cells(residual[chosen], usable[chosen]),
        largest=float(np.abs(np.where(usable, residual, 0.0)).max()),
        shape=tuple(shape),
    )


def _cells(values: Floats, visible: npt.NDArray[np.bool_]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(
        tuple(float(v) if seen else None for v, seen in zip(row, shown, strict=True))
        for row, shown in zip(values[0, :, 0], visible[0, :, 0], strict=True)
    )


def _sizes(site: Site, attention: Attention, inputs: Sequence[str], length: int) -> dict[Size, int]:
    """A number for every unknown size: 1 for the batch, the length for all others."""
    facts = site.interpreter.facts
    batch = attention.frame.batch
    single = facts.normal(batch.bound).all_atoms() if batch is not None else frozenset()
    sizes: dict[Size, int] = {}
    for name in inputs:
        for axis, extent in enumerate(site.interpreter.dims(name) or ()):
            for atom in sorted(facts.normal(extent).all_atoms()):
                if isinstance(atom, Size) and atom not in sizes:
                    alone = atom in single if single else axis == 0
                    sizes[atom] = 1 if alone else length
    return sizes


def _within(site: Site, sizes: dict[Size, int]) -> bool:
    """Whether the buffers are long enough.  Beyond them a model reads from the wrong end without an error.

    Equalities need no check, since a model whose extents do not agree does not run.
    """
    values: Substitution = {a: poly(n) for a, n in sizes.items()}
    gaps = (substitute(f.left - f.right, values).constant for f in site.interpreter.facts.learned if f.relation == ">=")
    return all(gap is None or gap >= 0 for gap in gaps)


def _placed(site: Site, attention: Attention, scores: Array, sizes: dict[Size, int]) -> tuple[Floats, list[int]] | None:
    shape = scores_shape(site.interpreter, attention, sizes, MAX_ELEMENTS)
    found = None if shape is None else placed(site.interpreter, attention, scores, shape, sizes)
    if shape is None or found is None or np.isnan(found).any() or np.isposinf(found).any():
        return None
    return np.nan_to_num(found, neginf=LOWEST_SHOWN), shape
