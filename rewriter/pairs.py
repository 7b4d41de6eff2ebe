"""Each site alone, before and after: two small models with the same inputs, for the verification without weights.

The border of a site is the same in both: query, key and value, caches, graph inputs, outputs of other sites, and
products with weights.  Shapes of tensors that lie beyond it are inputs too, given by the extents that the analysis
knows, so that nothing beyond has to be computed.  Matrix products of masks alone belong to the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from .algebra import HIDDEN_BELOW, Index, Poly, Size
from .analyse import Analysis, Site
from .contraction import is_contraction
from .cut import MAX_ELEMENTS, Cut, cut, products_of
from .graph import Array, Scope, index_graph, operator, opset_versions, subgraphs, walk
from .interpret import Interpreter
from .layout import View
from .measure import SiteSizes, gather, number, shape_extents
from .plan import Plan
from .remainder import Digests, changes, digests
from .spec import BY_OP_TYPE, DOMAIN

MOST_UPSTREAM = 512
"""Nodes looked at to tell a product of masks from one with weights."""


@dataclass(frozen=True)
class SitePair:
    """One site before and after.

    Attributes:
        site: The site's name.
        node: Name of its fused node.
        original: The nodes between border and output, as the original has them.
        rewritten: The same as the output has them; its inputs are those of ``original``.
        folders: Where the external data of each are.
        tensors: Extents of every input that is a tensor of the model.
        shapes: Inputs that are shapes, and the extents that they hold.
        results: Outputs that are compared, the attention's own first.
        query: The input that is the query, or None if it is a key or value as well.
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
    results: tuple[str, ...]
    query: str | None
    scores: str
    sizes: SiteSizes
    _interpreter: Interpreter
    _plan: Plan

    @property
    def heads(self) -> int:
        """The number of heads, 1 if it is not a number."""
        head = self._plan.proof.attention.frame.head
        constant = None if head is None else head.bound.constant
        return 1 if constant is None else int(constant)

    def extents(self, name: str, sizes: dict[Size, int]) -> tuple[int, ...] | None:
        """A tensor's shape, or a shape input's content, at the given sizes."""
        known = self.tensors.get(name) or self.shapes.get(name) or ()
        found = [number(self._interpreter, extent, sizes) for extent in known]
        return None if None in found else tuple(e for e in found if e is not None)

    def by_head(self, name: str, moved: Array) -> Array:
        """How far elements of an output moved, each as far as the farthest one of its head."""
        head = self._plan.proof.attention.frame.head
        axis = next((a for a, names in enumerate(self._plan.output.axes) if head in names), None)
        if name != self.results[0] or head is None or axis is None:
            return np.full(moved.shape, moved.max(initial=0.0))
        extents = _split(self._plan.output.axes[axis], moved.shape[axis])
        if extents is None:
            return np.full(moved.shape, moved.max(initial=0.0))
        place = axis + self._plan.output.axes[axis].index(head)
        whole = moved.reshape([*moved.shape[:axis], *extents, *moved.shape[axis + 1 :]])
        largest = whole.max(axis=tuple(a for a in range(whole.ndim) if a != place), keepdims=True, initial=0.0)
        return np.broadcast_to(largest, whole.shape).reshape(moved.shape)

    def seen(self, scores: Array | None, output: Array, sizes: dict[Size, int]) -> Array:
        """True at the elements of the output whose row sees a key at all.

        What a row without keys yields differs between operators and runtimes; the proof states what the fused node
        does there.
        """
        proof = self._plan.proof
        frame = proof.attention.frame
        order = (frame.batch, frame.head, frame.row, frame.key)
        shape = [1 if i is None else number(self._interpreter, i.bound, sizes) for i in order]
        extents = [e for e in shape if e]
        everything: Array = np.ones(output.shape, np.bool_)
        if scores is None or len(extents) != 4:
            return everything
        index = proof.attention.scores_index
        found = gather(index, scores, order, extents, self._interpreter, sizes)
        if found is None:
            return everything
        visible = found > HIDDEN_BELOW
        if proof.causal:
            keys, rows = np.arange(extents[3]), np.arange(extents[2])
            visible = visible & (keys <= rows[:, None] + (extents[3] - extents[2]))
        spread = _laid_out(np.asarray(visible.any(-1), np.bool_), self._plan.output, order[:3], output.shape)
        return everything if spread is None else spread


@dataclass
class _Part:
    """A site cut out of the original, before the original's copy is edited."""

    site: Site
    plan: Plan
    cut: Cut
    stops: frozenset[str]


@dataclass
class SitePairs:
    """All proven sites of a run, cut out of the original while it is there.

    Attributes:
        missing: Why a site cannot be taken apart, by name.
    """

    analysis: Analysis
    opsets: ModelProto
    before: Digests
    base_dir: Path
    missing: dict[str, str] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)
    _parts: list[_Part] = field(default_factory=list)

    @classmethod
    def of(cls, model: ModelProto, analysis: Analysis, base_dir: Path) -> SitePairs:
        """Cut all proven sites out of a model that is about to be edited."""
        header = ModelProto(ir_version=model.ir_version)
        header.opset_import.extend(model.opset_import)
        header.functions.extend(model.functions)
        made = cls(analysis, header, digests(model), base_dir)
        ends = {o: site.name for site in analysis.proven for o in _outputs(site.plan)}
        for site in analysis.proven:
            assert site.plan is not None
            attention = site.plan.proof.attention
            views = (attention.query, attention.key, attention.value)
            stops = frozenset((*(v.tensor for v in views), *attention.past.values()))
            stops |= {tensor for tensor, owner in ends.items() if owner != site.name}
            part = _cut(site.scope, _outputs(site.plan), stops, products_of(site), site)
            part.nodes = [_copy(node) for node in part.nodes]
            made._parts.append(_Part(site, site.plan, part, stops))
        return made

    def pairs(self, rewritten: ModelProto, folder: Path) -> Iterator[SitePair]:
        """The sites before and after; those that cannot be taken apart are added to ``missing``.

        Args:
            rewritten: What will be written, external data not loaded.
            folder: Where its external data are.
        """
        root = index_graph(rewritten.graph, opset_versions(rewritten), folder)
        scopes = {scope.path: scope for scope in walk(root)}
        for part in self._parts:
            scope = scopes.get(part.site.scope.path)
            made: SitePair | str = "its graph is not in the output"
            if scope is not None:
                after = _cut(scope, part.cut.outputs, part.stops, frozenset(), part.site)
                self._made.update(o for node in after.nodes for o in node.output if o)
                # Shapes at the border are given as the extents of what their nodes measure.
                self._made.update(
                    n for n in after.inputs if shape_extents(part.site.interpreter, scope.producer(n)) is not None
                )
                made = self._pair(part, after, scope, rewritten, folder)
            if isinstance(made, SitePair):
                yield made
            else:
                self.missing[part.site.name] = made

    @property
    def constants(self) -> frozenset[str]:
        """Names of the constants that the sites of the original read."""
        return frozenset(tensor.name for part in self._parts for tensor in part.cut.constants)

    def changes(self, original: ModelProto, rewritten: ModelProto) -> list[str]:
        """What differs outside of the sites that :meth:`pairs` has made, in words."""
        return changes(self.before, original, rewritten, self._made)

    def _pair(self, part: _Part, after: Cut, scope: Scope, rewritten: ModelProto, folder: Path) -> SitePair | str:
        interpreter = part.site.interpreter
        attention = part.plan.proof.attention
        fused = [n for n in after.nodes if n.domain == DOMAIN and n.op_type in BY_OP_TYPE]
        if len(fused) != 1 or not part.cut.outputs:
            return f"{len(fused)} fused nodes lie between its border and its output"
        names = sorted({*part.cut.inputs, *after.inputs})
        tensors: dict[str, tuple[Poly, ...]] = {}
        shapes: dict[str, tuple[Poly, ...]] = {}
        for name in names:
            measured = shape_extents(interpreter, scope.producer(name) or part.site.scope.producer(name))
            dims = interpreter.dims(name)
            if measured is not None:
                shapes[name] = tuple(interpreter.facts.normal(e) for e in measured)
            elif dims is None or not interpreter.dtype(name):
                return f"the shape or type of '{name}' at its border is unknown"
            else:
                tensors[name] = tuple(interpreter.facts.normal(e) for e in dims)
        made = {o for node in part.cut.nodes for o in node.output}
        scores = attention.scores if attention.scores in made else ""
        query, others = attention.query.tensor, (attention.key.tensor, attention.value.tensor)
        known = [*tensors.values(), *([interpreter.dims(scores) or ()] if scores else [])]
        borders = (interpreter, tensors, shapes)
        return SitePair(
            site=part.site.name,
            node=fused[0].name or fused[0].output[0],
            original=_model(part.cut, self.opsets, [*part.cut.outputs, *([scores] if scores else [])], *borders),
            rewritten=_model(after, rewritten, part.cut.outputs, *borders),
            folders=(self.base_dir, folder),
            tensors=tensors,
            shapes=shapes,
            results=tuple(part.cut.outputs),
            query=query if query in tensors and query not in others else None,
            scores=scores,
            sizes=SiteSizes(interpreter, attention.frame, [*known, *shapes.values()]),
            _interpreter=interpreter,
            _plan=part.plan,
        )


def _cut(scope: Scope, outputs: Sequence[str], stops: frozenset[str], products: frozenset[int], site: Site) -> Cut:
    interpreter = site.interpreter
    return cut(
        scope,
        outputs,
        stops,
        products,
        largest=None,
        measured=lambda tensor: interpreter.dims(tensor) is not None,
        foreign=lambda node: _is_foreign(scope, node),
    )


def _outputs(plan: Plan | None) -> list[str]:
    return [] if plan is None else [plan.output.tensor, *plan.proof.attention.extra_outputs.values()]


def _is_foreign(scope: Scope, node: NodeProto) -> bool:
    """Whether a node is a product with weights, or of what products made; one of masks is not."""
    if not is_contraction(node):
        return False
    pending, seen = list(node.input), set[str]()
    while pending:
        name = pending.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        owner = scope.owner(name)
        tensor = owner.initializers.get(name) if owner is not None else None
        if len(seen) > MOST_UPSTREAM or (tensor is not None and np.prod(tensor.dims, dtype=np.float64) > MAX_ELEMENTS):
            return True
        maker = scope.producer(name)
        if maker is not None and (any(True for _ in subgraphs(maker)) or maker.domain == DOMAIN):
            return True
        if maker is not None and operator(maker) != "Shape":
            pending.extend(maker.input)
    return False


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _model(
    part: Cut,
    whole: ModelProto,
    outputs: Sequence[str],
    interpreter: Interpreter,
    tensors: Mapping[str, tuple[Poly, ...]],
    shapes: Mapping[str, tuple[Poly, ...]],
) -> ModelProto:
    """The part as a model whose inputs have their types and ranks, and no names of extents."""
    inputs = [helper.make_tensor_value_info(n, interpreter.dtype(n), _open(tensors[n])) for n in sorted(tensors)]
    inputs += [helper.make_tensor_value_info(n, TensorProto.INT64, [len(shapes[n])]) for n in sorted(shapes)]
    ends = [helper.make_tensor_value_info(n, interpreter.dtype(n) or TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(part.nodes, "site", inputs, ends, part.constants)
    used = {(n.domain, n.op_type) for n in part.nodes}
    return helper.make_model(
        graph,
        opset_imports=list(whole.opset_import),
        ir_version=max(whole.ir_version, 8),
        functions=[f for f in whole.functions if (f.domain, f.name) in used],
    )


def _open(dims: Sequence[Poly]) -> list[int | None]:
    return [None if d.constant is None else int(d.constant) for d in dims]


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
