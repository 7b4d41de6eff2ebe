"""Each site alone, before and after: two small models with the same inputs, for the verification without weights.

The border of a site is the same in both: query, key and value, caches, graph inputs, outputs of other sites, and
products with weights.  Shapes of tensors that lie beyond it are inputs too, given by the extents that the analysis
knows, so that nothing beyond has to be computed.  Matrix products of masks alone belong to the site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from ...algebra import Min0, Poly, Size
from ...fused.family import DOMAIN, EmptyRows, is_fused
from ...fused.layout import OPERANDS
from ...graph.index import NO_NUMBERS, Scope, index_graph, operator, opset_versions, subgraphs, walk
from ...verify.pairs import QueryPlace
from ..interpret import Interpreter
from ..recognise.products import is_contraction
from ..records.binding import Binding
from ..records.site import Analysis, Site
from .cut import MAX_ELEMENTS, Cut, cut, products_of
from .measure import SiteSizes, shape_extents
from .remainder import changes, digests
from .site_pair import CutPair

MOST_UPSTREAM = 512
"""Nodes looked at to tell a product of masks from one with weights."""


@dataclass
class _Part:
    """A site cut out of the original, before the original's copy is edited."""

    site: Site
    binding: Binding
    cut: Cut
    stops: frozenset[str]
    whole: bool


@dataclass
class CutPairs:
    """All proven sites of a run, cut out of the original while it is there.

    Attributes:
        again: Makes the model once more as it was before it was edited.
        missing: Why a site cannot be taken apart, by name.
    """

    analysis: Analysis
    opsets: ModelProto
    again: Callable[[], ModelProto]
    base_dir: Path
    missing: dict[str, str] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)
    _parts: list[_Part] = field(default_factory=list)

    @classmethod
    def of(cls, model: ModelProto, analysis: Analysis, base_dir: Path, again: Callable[[], ModelProto]) -> CutPairs:
        """Cut all proven sites out of a model that is about to be edited."""
        header = ModelProto(ir_version=model.ir_version)
        header.opset_import.extend(model.opset_import)
        header.functions.extend(model.functions)
        made = cls(analysis, header, again, base_dir)
        ends = {o: site.name for site in analysis.proven for o in _outputs(site.binding)}
        for site in analysis.proven:
            assert site.binding is not None
            attention = site.binding.proof.attention
            operands = (site.binding.operand(name) for name in OPERANDS)
            stops = frozenset((*operands, *attention.past.values()))
            # Branches of an If may use the same names.
            stops |= {tensor for tensor, owner in ends.items() if owner != site.name} - set(_outputs(site.binding))
            part = _cut(site.scope, _outputs(site.binding), stops, products_of(site), site)
            whole = products_of(site) <= {id(node) for node in part.nodes}
            part.nodes = deepcopy(part.nodes)
            made._parts.append(_Part(site, site.binding, part, stops, whole))
        return made

    def pairs(self, rewritten: ModelProto, folder: Path) -> Iterator[CutPair]:
        """The sites before and after; those that cannot be taken apart are added to ``missing``.

        Args:
            rewritten: What will be written, external data not loaded.
            folder: Where its external data are.
        """
        root = index_graph(rewritten.graph, opset_versions(rewritten), folder)
        scopes = {scope.path: scope for scope in walk(root)}
        for part in self._parts:
            scope = scopes.get(part.site.scope.path)
            made: CutPair | str = "its graph is not in the output"
            if scope is not None:
                after = _cut(scope, part.cut.outputs, part.stops, frozenset(), part.site)
                self._made.update(o for node in after.nodes for o in node.output if o)
                # Shapes at the border are given as the extents of what their nodes measure.
                self._made.update(
                    n for n in after.inputs if shape_extents(part.site.interpreter, scope.producer(n)) is not None
                )
                made = self.pair(part, after, scope, rewritten, folder)
            if isinstance(made, CutPair):
                yield made
            else:
                self.missing[part.site.name] = made

    @property
    def constants(self) -> frozenset[str]:
        """Names of the constants that the sites of the original read."""
        return frozenset(tensor.name for part in self._parts for tensor in part.cut.constants)

    def changes(self, original: ModelProto, rewritten: ModelProto) -> list[str]:
        """What differs outside of the sites that :meth:`pairs` has made, in words."""
        return changes(digests(self.again()), original, rewritten, self._made)

    def pair(self, part: _Part, after: Cut, scope: Scope, rewritten: ModelProto, folder: Path) -> CutPair | str:
        interpreter = part.site.interpreter
        attention = part.binding.proof.attention
        fused = [n for n in after.nodes if is_fused(n)]
        if len(fused) != 1 or not part.cut.outputs:
            return f"{len(fused)} fused nodes lie between its border and its output"
        if not part.whole:
            return "a node with a body lies between its products"
        names = sorted({*part.cut.inputs, *after.inputs})
        tensors: dict[str, tuple[Poly, ...]] = {}
        shapes: dict[str, tuple[Poly, ...]] = {}
        for name in names:
            dims = interpreter.dims(name)
            counted = _counted(interpreter, name, scope.producer(name) or part.site.scope.producer(name))
            if counted is not None:
                shapes[name] = tuple(interpreter.facts.normal(e) for e in counted)
            elif dims is None or interpreter.dtype(name) in NO_NUMBERS:
                return f"the shape or type of '{name}' at its border is unknown"
            else:
                tensors[name] = tuple(interpreter.facts.normal(e) for e in dims)
        made = {o for node in part.cut.nodes for o in node.output}
        scores = attention.scores if attention.scores in made else ""
        known = [*tensors.values(), *([interpreter.dims(scores) or ()] if scores else [])]
        borders = (interpreter, tensors, shapes)
        return CutPair(
            site=part.site.name,
            node=fused[0].name or fused[0].output[0],
            original=_model(part.cut, self.opsets, [*part.cut.outputs, *([scores] if scores else [])], *borders),
            rewritten=_model(after, rewritten, part.cut.outputs, *borders),
            folders=(self.base_dir, folder),
            tensors=tensors,
            shapes=shapes,
            scalars=frozenset(n for n in shapes if interpreter.rank(n) == 0),
            results=tuple(part.cut.outputs),
            rows_agree=part.binding.rows_without_keys.comparable(_policy(fused[0])),
            query=_query(part.binding) if part.binding.operand("query") in tensors else None,
            scores=scores,
            sizes=SiteSizes(interpreter, attention.frame, [*known, *shapes.values()]),
            _interpreter=interpreter,
            _binding=part.binding,
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


def _outputs(binding: Binding | None) -> list[str]:
    return [] if binding is None else [binding.output.tensor, *binding.proof.attention.extra_outputs.values()]


def _query(binding: Binding) -> QueryPlace | None:
    """Where the query is, if nothing else is there."""
    tensor = binding.operand("query")
    view = binding.layout.query if "query" in binding.placed else None
    for name in ("key", "value"):
        if binding.operand(name) == tensor and (view is None or view.overlaps(binding.layout[name])):
            return None
    return QueryPlace(tensor, view)


def _policy(fused: NodeProto) -> EmptyRows:
    (text,) = (a.s for a in fused.attribute if a.name == "empty_rows")
    return EmptyRows(text.decode())


def _is_foreign(scope: Scope, node: NodeProto) -> bool:
    """Whether a node is a product with weights, or of what products made.  A product of masks is not."""
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


def _counted(interpreter: Interpreter, name: str, node: NodeProto | None) -> tuple[Poly, ...] | None:
    """The numbers of a small tensor that holds sizes and nothing else: a shape, or a length made from one."""
    measured = shape_extents(interpreter, node)
    if measured is not None or interpreter.dtype(name) not in (TensorProto.INT32, TensorProto.INT64):
        return measured
    numbers = interpreter.integers(name)
    if numbers is None or any(not isinstance(a, Size | Min0) for n in numbers for a in n.all_atoms()):
        return None
    return tuple(numbers)


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
    for name in sorted(shapes):
        shape = [] if interpreter.rank(name) == 0 else [len(shapes[name])]
        inputs.append(helper.make_tensor_value_info(name, interpreter.dtype(name) or TensorProto.INT64, shape))
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
