"""A self-check of the proofs: evaluate every bias numerically at several shapes and compare.

The proof decides; this check can only contradict it (and then the site is refused as an error of ours).
All sites are cut out together: the query-key products become inputs of zeros, so that the softmax inputs
*are* the added terms, and shapes of activations become inputs too, so that no weight is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ...algebra import Index, Poly, Size
from ...graph.index import Array, numpy_type, subgraphs
from ..interpret import Interpreter
from ..records.binding import Binding
from ..records.reading import View, hidden_below
from ..records.site import Analysis, Site
from ..verdicts import Code, Refuser, Stage
from .evaluation import MAX_ELEMENTS, Evaluate, elements, evaluator, is_small, number
from .measure import Floats, allowed, gather, shape_extents
from .numbers import Grid

_refuse = Refuser(Stage.EMIT)

SHAPES = ((2, 5, 3), (3, 4, 6), (1, 7, 2), (2, 1, 9))
"""Extents given to the unknown sizes of a model, in turn (batch-like, row-like, cache-like and on)."""


def probe(model: ModelProto, analysis: Analysis, base_dir: Path) -> int:
    """Contradict proofs that a numeric evaluation does not confirm.

    A site whose evaluation disagrees becomes refused (``ALB500``).  Sites in bodies of If, Loop and Scan
    are not evaluated.

    Returns:
        The number of evaluations (shapes) that ran.
    """
    sites = [s for s in analysis.proven if s.scope.parent is None]
    if not sites:
        return 0
    interpreter = sites[0].interpreter
    cut = _cut(model, interpreter, sites)
    if cut is None:
        return 0
    ran = 0
    evaluate: Evaluate | None = None
    # 16-bit values anywhere before the scores leave their rounding in them, even where scores are float32.
    narrow = any(d in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for d in interpreter.dtypes.values())
    for seed, numbers in enumerate(SHAPES):
        sizes = _assign(interpreter, cut, numbers)
        if not allowed(interpreter, sizes) or not is_small(cut.model.graph.node, interpreter, sizes):
            continue
        # Not before: onnxruntime infers shapes when it loads, whatever they are.
        evaluate = evaluate or evaluator(cut.model, base_dir)
        if evaluate is None:
            return 0
        values = _run(cut, interpreter, sizes, evaluate, np.random.default_rng(seed))
        if values is None:
            continue
        ran += 1
        for site in sites:
            if site.binding is not None:
                _compare(site, site.binding, sizes, values, narrow)
    return ran


@dataclass(frozen=True)
class _Cut:
    model: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, tuple[Poly, ...]]


def _wanted(binding: Binding) -> list[str]:
    extra = [v.tensor for v in (binding.positions, binding.slopes) if v is not None]
    return [binding.proof.attention.scores, *extra]


def _cut(model: ModelProto, interpreter: Interpreter, sites: list[Site]) -> _Cut | None:
    """The part of the model between graph inputs, products and softmax inputs."""
    products = {s.binding.proof.attention.product for s in sites if s.binding is not None} - {""}
    wanted = list(dict.fromkeys(n for s in sites if s.binding is not None for n in _wanted(s.binding)))
    nodes: dict[int, NodeProto] = {}
    constants: list[TensorProto] = []
    shapes: dict[str, tuple[Poly, ...]] = {}
    pending = list(wanted)
    needed: set[str] = set()
    while pending:
        name = pending.pop()
        if name in needed or name in products:
            continue
        needed.add(name)
        node = interpreter.scope.producer(name)
        extents = shape_extents(interpreter, node)
        if extents is not None:
            shapes[name] = extents
            continue
        if node is not None and node.op_type == "Constant" and (array := interpreter.array(name)) is not None:
            constants.append(numpy_helper.from_array(np.asarray(array), name))
            continue
        if node is not None and id(node) not in nodes:
            nodes[id(node)] = node
            pending.extend(i for i in node.input if i)
            if any(True for _ in subgraphs(node)):
                return None
    chosen = [n for n in interpreter.scope.graph.node if id(n) in nodes]
    if any(interpreter.dims(p) is None for p in products):
        return None
    read = {i for n in chosen for i in n.input}
    made = {o for n in chosen for o in n.output}
    given = [i.name for i in model.graph.input if i.name in needed]
    names = [n for n in (*given, *sorted(products), *sorted(shapes)) if n in read]
    inputs = [helper.make_tensor_value_info(n, _type(interpreter, n, shapes), None) for n in names]
    outputs = [helper.make_tensor_value_info(n, _type(interpreter, n, shapes), None) for n in wanted if n in made]
    initializers = [*constants, *(t for t in model.graph.initializer if t.name in needed)]
    graph = helper.make_graph(chosen, "probe", inputs, outputs, initializers)
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=max(model.ir_version, 8))
    return _Cut(part, tuple(names), tuple(o.name for o in outputs), shapes)


def _type(interpreter: Interpreter, name: str, shapes: dict[str, tuple[Poly, ...]]) -> int:
    return TensorProto.INT64 if name in shapes else interpreter.dtype(name) or TensorProto.FLOAT


def _assign(interpreter: Interpreter, cut: _Cut, numbers: tuple[int, ...]) -> dict[Size, int]:
    """A number for every unknown size: one for all first axes (batches), the others in order of mention."""
    sizes: dict[Size, int] = {}
    place = count(1)
    for name in cut.inputs:
        for axis, extent in enumerate(cut.shapes.get(name) or interpreter.dims(name) or ()):
            for atom in sorted(interpreter.facts.normal(extent).all_atoms()):
                if isinstance(atom, Size) and atom not in sizes:
                    sizes[atom] = numbers[0] if axis == 0 else numbers[next(place) % len(numbers)]
    return sizes


def _run(
    cut: _Cut, interpreter: Interpreter, sizes: dict[Size, int], evaluate: Evaluate, rng: np.random.Generator
) -> dict[str, Array] | None:
    feeds: dict[str, Array] = {}
    whole = 0
    for name in cut.inputs:
        if name in cut.shapes:
            numbers = [number(interpreter, e, sizes) for e in cut.shapes[name]]
            if any(n is None for n in numbers):
                return None
            feeds[name] = np.array([n for n in numbers if n is not None], np.int64)
            continue
        own = elements(interpreter, name, sizes)
        if own is None or (whole := whole + own) > MAX_ELEMENTS:
            return None
        extents = [number(interpreter, d, sizes) or 0 for d in interpreter.dims(name) or ()]
        dtype = numpy_type(interpreter.dtype(name) or TensorProto.FLOAT)
        if dtype is None:
            return None
        if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
            drawn = rng.integers(0, 2, extents)
            if drawn.ndim:
                drawn[..., -1:] = 1
            feeds[name] = drawn.astype(dtype)
        else:
            feeds[name] = np.zeros(extents, dtype)
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


def _compare(site: Site, binding: Binding, sizes: dict[Size, int], values: dict[str, Array], narrow: bool) -> None:
    proof, attention, frame = binding.proof, binding.proof.attention, binding.proof.attention.frame
    interpreter = site.interpreter
    if attention.scores not in values:
        constant = interpreter.array(attention.scores)
        if constant is None:
            return
        values[attention.scores] = constant
    order = (frame.batch, frame.head, frame.row, frame.key)
    extents = [1 if i is None else number(interpreter, i.bound, sizes) for i in order]
    if extents[0] is None:
        extents[0] = 1  # nothing that was cut out depends on the batch
    if any(e is None for e in extents):
        return
    shape = [e for e in extents if e is not None]
    if not 0 < math.prod(shape) <= MAX_ELEMENTS:
        return
    scores = gather(attention.scores_index, values[attention.scores], order, shape, interpreter, sizes)
    if scores is None:
        return
    rows, keys = np.arange(shape[2]), np.arange(shape[3])
    own = rows[:, None] + (shape[3] - shape[2])
    if binding.positions is None:
        distance = proof.form.measure((keys - own).astype(np.float64), proof.parameters)[None, None]
    elif binding.positions.tensor in values:
        place = _spread(binding.positions, values[binding.positions.tensor], (frame.batch, frame.key))
        distance = place[:, None, None, : shape[3]]
    else:
        return
    rest = scores - _slopes(binding, values) * distance
    visible = scores > hidden_below(attention)
    if proof.causal and not attention.product:
        visible = visible & (keys <= own)  # the operator itself hides later keys
    if proof.causal and (visible & (keys > own)).any():
        _contradict(site, binding, "a key after the row is visible")
        return
    near = proof.window.sees(shape[2], shape[3])
    if not attention.product:
        visible = visible & near  # likewise
    if (visible & ~near).any():
        _contradict(site, binding, "a key outside of the window is visible")
        return
    first = np.argmax(visible, axis=-1)[..., None]
    rest = np.where(visible, rest, 0.0)
    grid = Grid(interpreter, order, shape, sizes, values)
    for monomial, coefficient in proof.rest.terms:
        # Term by term: relative to the first visible key a mask of huge numbers is exact, and swallows no other term.
        term = grid.evaluate(Poly({monomial: coefficient}))
        if term is None:
            return
        term = np.broadcast_to(term, shape)
        rest = np.where(visible, rest - (term - np.take_along_axis(term, first, -1)), 0.0)
    gap = np.where(visible, rest - np.take_along_axis(rest, first, -1), 0.0)
    scale = np.abs(np.where(visible, scores, 0.0)).max(initial=1.0)
    tolerance = scale * (4e-2 if narrow else 1e-5) + 1e-6
    if np.abs(gap).max(initial=0.0) > tolerance:
        _contradict(site, binding, f"the evaluated bias is off by {np.abs(gap).max():.3g} at shape {shape}")
    elif shape[3] > 1:
        site.checked += 1


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


def _contradict(site: Site, binding: Binding, detail: str) -> None:
    """Turn a proven site into a refused one."""
    site.binding = None
    site.refusal = _refuse(
        Code.PROBE, site.anchor, detail, tensor=binding.proof.attention.scores, steps=list(binding.proof.steps)
    )
