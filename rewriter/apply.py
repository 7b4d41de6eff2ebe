"""Writing all proven sites into the working copy: fused nodes, then the function bodies that they need."""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorProto

from ..base.errors import ModelRejected
from ..fused.body import MINIMUM_OPSET, function_proto
from ..fused.family import DOMAIN, DOMAIN_VERSION
from ..fused.layout import Moves
from ..graph.edit import Counts, Editor, all_names
from ..graph.index import opset_versions, walk
from .absorb import absorbed
from .emit.nodes import emit, is_grouped, variant_of
from .emit.sizes import common_sizes, sizes_of
from .records.site import Analysis
from .result import PassResult

FUNCTIONS_SINCE_IR = 8
"""Model-local functions exist from this IR version on."""


def apply(model: ModelProto, analysis: Analysis, result: PassResult) -> None:
    """Write all fused nodes, then the function bodies that they need."""
    opset = opset_versions(model).get("", 1)
    if opset < MINIMUM_OPSET:
        raise ModelRejected(
            f"the model uses opset {opset}; function bodies need opset {MINIMUM_OPSET}. "
            "Convert it with onnx.version_converter or export it again."
        )
    bindings = analysis.bindings
    zero = {variant_of(p) for p in bindings if p.zero_rows}
    grouped = {variant_of(p) for p in bindings if is_grouped(p)}
    if model.ir_version < FUNCTIONS_SINCE_IR:
        result.notes.append(f"IR version {model.ir_version} raised to {FUNCTIONS_SINCE_IR}: it has local functions")
        model.ir_version = FUNCTIONS_SINCE_IR
    views = {variant_of(p) for p in bindings if not p.layout.plain}
    taken = all_names(model)
    editors = {id(scope): Editor(scope.graph, opset, taken) for scope in walk(analysis.root)}
    for number, site in enumerate(analysis.proven):
        assert site.binding is not None
        editor = editors[id(site.scope)]
        fused = emit(
            site.interpreter,
            editor,
            site.binding,
            zero_rows=variant_of(site.binding) in zero,
            ir_version=model.ir_version,
            site=f"alibi_{number}",
            views=variant_of(site.binding) in views,
        )
        result.fused.append((site, fused))
    made = list(editors.values())
    for editor in reversed(made):  # inner graphs first: what they stop using dies outside
        editor.finish()
    if len(made) > 1 and any(e.counts.nodes_added for e in made):
        for editor in made:
            editor.sweep()
    result.counts = sum((e.counts for e in made), Counts())
    result.left = _materialised(analysis)
    result.absorbed = absorbed(analysis)
    variants = sorted({f.variant for _, f in result.fused})
    for variant in variants:
        sites = [(s, s.binding) for s, f in result.fused if f.variant == variant and s.binding is not None]
        types = {binding.dtype for _, binding in sites}
        body = function_proto(
            variant,
            opset,
            grouped=variant in grouped,
            zero_rows=variant in zero,
            # Where types differ, the body counts distances as the widest needs it.
            query_type=TensorProto.FLOAT if TensorProto.FLOAT in types else min(types),
            sizes=common_sizes([sizes_of(site.interpreter, binding) for site, binding in sites]),
            moves=Moves.of([f.layout for _, f in result.fused if f.variant == variant]),
            aligned=next(f.rows for _, f in result.fused if f.variant == variant),
        )
        if not any(f.domain == body.domain and f.name == body.name for f in model.functions):
            model.functions.append(body)
    if not any(o.domain == DOMAIN for o in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def _materialised(analysis: Analysis) -> dict[str, str]:
    """Tensors over rows and keys that were read for the scores of a site and are still made."""
    left: dict[str, str] = {}
    made: dict[int, set[str]] = {}
    for site in analysis.proven:
        assert site.binding is not None
        attention = site.binding.proof.attention
        frame = attention.frame
        if id(site.scope) not in made:
            made[id(site.scope)] = {o for n in site.scope.graph.node for o in n.output if o}
        alive = made[id(site.scope)]
        for (tensor, place), _ in site.interpreter.visited(attention.scores, attention.scores_index):
            moving = frozenset(a for x in place for a in x.all_atoms())
            if tensor in alive and frame.row in moving and frame.key in moving:
                left[site.name] = tensor
                break
    return left
