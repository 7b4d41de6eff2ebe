"""A self-check of the proofs: evaluate every bias numerically at several shapes and compare.

The proof decides.  This check can only contradict it, and then the site is refused as an error of ours.  All sites
are cut out together.  The query-key products become inputs of zeros, so that the softmax inputs *are* the added
terms.  Shapes of activations become inputs too, so that no weight is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from ...algebra import Index, Poly, Size
from ...graph.index import Array
from ..interpret import Interpreter
from ..records.binding import Binding
from ..records.reading import View, hidden_below
from ..records.site import Analysis, Site
from ..verdicts import Code, Refuser, Stage
from .bias_values import BiasPart, bias_part, feeds_of, placed, scores_shape
from .evaluation import MAX_ELEMENTS, Evaluate, evaluator, is_small
from .measure import Floats, allowed
from .numbers import Grid

_refuse = Refuser(Stage.EMIT)

SHAPES = ((2, 5, 3), (3, 4, 6), (1, 7, 2), (2, 1, 9))
"""Extents given to the unknown sizes of a model, in turn (batch-like, row-like, cache-like and on)."""


ROUNDING = 1e-5
"""Of the largest score, what some twenty operations in float32 may be off by: their rounding is 6e-8 each."""

ROUNDED = 4e-2
"""The same where 16-bit numbers are on the way: bfloat16 keeps 8 bits, 4e-3 a rounding, of positions and slopes."""

NEAR_ZERO = 1e-6
"""What scores that are all zero may be off by."""


def probe(model: ModelProto, analysis: Analysis, base_dir: Path) -> Analysis:
    """Contradict proofs that a numeric evaluation does not confirm.

    A site whose evaluation disagrees becomes refused (``ALB500``); of the others it is noted how often they were
    confirmed.  Sites in bodies of If, Loop and Scan are not evaluated.
    """
    sites = list(analysis.sites)
    here = [number for number, site in enumerate(sites) if site.binding is not None and site.scope.parent is None]
    part = _part(model, [sites[number] for number in here]) if here else None
    if part is None:
        return analysis
    interpreter = sites[here[0]].interpreter
    evaluate: Evaluate | None = None
    # 16-bit values anywhere before the scores leave their rounding in them, even where scores are float32.
    narrow = any(d in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for d in interpreter.dtypes.values())
    for seed, numbers in enumerate(SHAPES):
        sizes = _assign(interpreter, part, numbers)
        if not allowed(interpreter, sizes) or not is_small(part.nodes, interpreter, sizes):
            continue
        # Not earlier: onnxruntime infers shapes when it loads a model, whatever they are.
        evaluate = evaluate or evaluator(part.model, base_dir)
        if evaluate is None:
            return analysis
        values = _run(part, interpreter, sizes, evaluate, np.random.default_rng(seed))
        if values is None:
            continue
        for number in here:
            binding = sites[number].binding
            if binding is not None:
                sites[number] = _compared(sites[number], binding, sizes, values, narrow)
    return replace(analysis, sites=sites)


def _wanted(binding: Binding) -> list[str]:
    extra = [v.tensor for v in (binding.positions, binding.slopes) if v is not None]
    return [binding.proof.attention.scores, *extra]


def _part(model: ModelProto, sites: list[Site]) -> BiasPart | None:
    """The part of the model between graph inputs, products and softmax inputs; None where a body makes some of it."""
    interpreter = sites[0].interpreter
    bindings = [site.binding for site in sites if site.binding is not None]
    products = {binding.proof.attention.product for binding in bindings} - {""}
    if any(interpreter.dims(product) is None for product in products):
        return None
    wanted = dict.fromkeys(name for binding in bindings for name in _wanted(binding))
    part = bias_part(model, interpreter.scope, interpreter, wanted, products, foreign=lambda node: False)
    return None if part.foreign else part


def _assign(interpreter: Interpreter, part: BiasPart, numbers: tuple[int, ...]) -> dict[Size, int]:
    """A number for every unknown size: one for all first axes (batches), the others in order of mention."""
    sizes: dict[Size, int] = {}
    place = count(1)
    for name in part.inputs:
        for axis, extent in enumerate(part.shapes.get(name) or interpreter.dims(name) or ()):
            for atom in sorted(interpreter.facts.normal(extent).all_atoms()):
                if isinstance(atom, Size) and atom not in sizes:
                    sizes[atom] = numbers[0] if axis == 0 else numbers[next(place) % len(numbers)]
    return sizes


def _run(
    part: BiasPart, interpreter: Interpreter, sizes: dict[Size, int], evaluate: Evaluate, rng: np.random.Generator
) -> dict[str, Array] | None:
    """All values at these sizes, with masks of drawn zeros and ones, the last of a row one."""

    def drawn(shape: Sequence[int]) -> Array:
        values: Array = rng.integers(0, 2, shape)
        if values.ndim:
            values[..., -1:] = 1
        return values

    feeds = feeds_of(part, interpreter, sizes, drawn, MAX_ELEMENTS)
    if feeds is None:
        return None
    try:
        return {**feeds, **evaluate(feeds)}
    except Exception:  # noqa: BLE001 - shapes that the model itself does not take; any backend error type
        return None


def _spread(view: View, value: Array, order: tuple[Index | None, ...]) -> Floats:
    """The value with one axis per index of ``order`` (extent 1 where it has none)."""
    data = np.asarray(value, np.float64).reshape([n for n, a in zip(value.shape, view.axes, strict=True) if a])
    present = [a[0] for a in view.axes if a]
    data = np.transpose(data, [present.index(i) for i in order if i in present])
    shape = iter(data.shape)
    return data.reshape([next(shape) if i in present else 1 for i in order])


def _compared(site: Site, binding: Binding, sizes: dict[Size, int], values: dict[str, Array], narrow: bool) -> Site:
    """The site with what its bias in numbers tells: confirmed once more, contradicted, or nothing."""
    proof, attention, frame = binding.proof, binding.proof.attention, binding.proof.attention.frame
    interpreter = site.interpreter
    if attention.scores not in values:
        constant = interpreter.array(attention.scores)
        if constant is None:
            return site
        values[attention.scores] = constant
    # Where the batch is unknown, nothing that was cut out depends on it.
    shape = scores_shape(interpreter, attention, sizes, MAX_ELEMENTS, batch=1)
    scores = None if shape is None else placed(interpreter, attention, values[attention.scores], shape, sizes)
    if shape is None or scores is None:
        return site
    rows, keys = np.arange(shape[2]), np.arange(shape[3])
    own = rows[:, None] + (shape[3] - shape[2])
    if binding.positions is None:
        distance = proof.form.measure((keys - own).astype(np.float64), proof.parameters)[None, None]
    elif binding.positions.tensor in values:
        place = _spread(binding.positions, values[binding.positions.tensor], (frame.batch, frame.key))
        distance = place[:, None, None, : shape[3]]
    else:
        return site
    rest = scores - _slopes(binding, values) * distance
    visible = scores > hidden_below(attention)
    if proof.causal and not attention.product:
        visible = visible & (keys <= own)  # the operator itself hides later keys
    if proof.causal and (visible & (keys > own)).any():
        return _contradicted(site, binding, "a key after the row is visible")
    near = proof.window.sees(shape[2], shape[3])
    if not attention.product:
        visible = visible & near  # the operator itself leaves out keys beyond the window
    if (visible & ~near).any():
        return _contradicted(site, binding, "a key outside of the window is visible")
    first = np.argmax(visible, axis=-1)[..., None]
    rest = np.where(visible, rest, 0.0)
    grid = Grid(interpreter, frame.scores, shape, sizes, values)
    for monomial, coefficient in proof.rest.terms:
        # Term by term: relative to the first visible key a mask of huge numbers is exact, and swallows no other term.
        term = grid.evaluate(Poly({monomial: coefficient}))
        if term is None:
            return site
        term = np.broadcast_to(term, shape)
        rest = np.where(visible, rest - (term - np.take_along_axis(term, first, -1)), 0.0)
    gap = np.where(visible, rest - np.take_along_axis(rest, first, -1), 0.0)
    scale = np.abs(np.where(visible, scores, 0.0)).max(initial=1.0)
    tolerance = scale * (ROUNDED if narrow else ROUNDING) + NEAR_ZERO
    if np.abs(gap).max(initial=0.0) > tolerance:
        return _contradicted(site, binding, f"the evaluated bias is off by {np.abs(gap).max():.3g} at shape {shape}")
    return replace(site, checked=site.checked + 1) if shape[3] > 1 else site


def _slopes(binding: Binding, values: dict[str, Array]) -> Floats:
    """The slopes that the fused node gets, [1, H, 1, 1]."""
    emitted = binding.proof.emitted_slopes
    if binding.slopes is not None:
        given: Array = _spread(binding.slopes, values[binding.slopes.tensor], (binding.proof.attention.frame.head,))
    else:
        assert emitted is not None
        given = emitted
    slopes: Floats = np.asarray(given, np.float64) * binding.slope_factor
    if binding.slopes is not None and binding.slope_table is not None:
        slopes = slopes * binding.slope_table
    return slopes.reshape(1, -1, 1, 1)


def _contradicted(site: Site, binding: Binding, detail: str) -> Site:
    """The site, refused."""
    proof = binding.proof
    why = _refuse(Code.PROBE, site.anchor, detail, tensor=proof.attention.scores, steps=proof.steps)
    return replace(site, binding=None, refusal=why)
