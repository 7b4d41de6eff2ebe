"""Which splits, reshapes and transposes around the attentions go into the fused nodes.

Where an operand could be read from is a matter of one site (``bind/layout.py``).  Whether that is worth it is a matter
of the model.  An operand that something else needs as [B, H, S, D], such as a cache that the model hands out, is made
anyway, and its rows lie closer together there.  A projection that is cut in any case, because keys and values of it go
into a cache, is left to those who cut it: TensorRT-RTX 1.7 builds no engine in which BLOOM's is read by both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from onnx import TensorProto

from ..algebra import poly, substitute
from ..fused.body import VIEWS_OPSET
from ..fused.layout import OPERANDS
from ..graph.index import Scope, label, subgraphs
from ..patterns.layouts import CUTTING
from .bind.layout import with_layout
from .interpret.digits import product
from .records.binding import Binding, Located, leaves
from .records.reading import View
from .records.site import Analysis, Site
from .result import LENGTH, Absorbed


def absorb(analysis: Analysis) -> Analysis:
    """The analysis with the layouts that the graph has, in all bindings where that spares a copy."""
    if not analysis.proven or analysis.root.opset.get("", 1) < VIEWS_OPSET:
        return analysis
    sites = [
        site if site.binding is None else replace(site, binding=with_layout(site.interpreter, site.binding))
        for site in analysis.sites
    ]
    needed = _needed(analysis.root, sites)
    return replace(analysis, sites=[_worthwhile(site, needed) for site in sites])


def absorbed(analysis: Analysis) -> dict[str, Absorbed]:
    """What the fused nodes do themselves, by site, once the graphs are edited.  A copy counts at its first site."""
    alive: dict[int, set[int]] = {}
    counted: set[int] = set()
    found: dict[str, Absorbed] = {}
    for site in analysis.proven:
        binding = site.binding
        assert binding is not None
        if binding.layout.plain and not binding.placed:
            continue
        if id(site.scope) not in alive:
            alive[id(site.scope)] = {id(node) for node in site.scope.graph.node}
        passed = [node for placed in binding.placed.values() for node in placed.copies]
        known = alive[id(site.scope)]
        gone = {id(n): n for n in (*passed, *binding.output_copies) if id(n) not in known and id(n) not in counted}
        counted.update(gone)
        tensors = {name: placed.tensor for name, placed in binding.placed.items()}
        rows = binding.proof.attention.frame.row.bound.constant
        length = LENGTH if rows is None else int(rows)
        found[site.name] = Absorbed(tensors, tuple(map(label, gone.values())), length, _bytes(site, binding))
    return found


def _bytes(site: Site, binding: Binding) -> int | None:
    """What the copies of one site wrote and what was read again: the operand or the output, each time."""
    frame = binding.proof.attention.frame
    chosen = {}
    for extent, number in ((None if frame.batch is None else frame.batch.bound, 1), (frame.row.bound, LENGTH)):
        atom = None if extent is None else extent.single_atom
        chosen.update({} if atom is None else {atom: poly(number)})
    total = poly(0)
    views = [(getattr(binding.proof.attention, name), placed.copies) for name, placed in binding.placed.items()]
    for view, copies in (*views, (binding.output, binding.output_copies)):
        total = total + product(tuple(index.bound for index in view.indices)) * (2 * len(copies))
    known = substitute(site.interpreter.facts.normal(total), chosen).constant
    width = WIDTHS.get(binding.dtype)
    return None if known is None or width is None else int(known) * width


WIDTHS: dict[int, int] = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2}
"""Bytes of a number."""


def _worthwhile(site: Site, needed: set[str]) -> Site:
    """Without the operands that are made as [B, H, S, D] in any case."""
    binding = site.binding
    if binding is None:
        return site
    attention = binding.proof.attention
    views = {name: getattr(attention, name) for name in binding.placed}
    kept: dict[str, Located] = {}
    for name, placed in binding.placed.items():
        chosen: Located | None = placed if placed.group > 1 or views[name].tensor not in needed else None
        while chosen is not None and _is_cut(site.scope, chosen.tensor, needed):
            if chosen.nearer is None and chosen.group > 1:
                break  # nearer lie only copies of heads
            chosen = chosen.nearer
        kept.update({} if chosen is None else {name: chosen})
    if len({placed.group for name, placed in kept.items() if name != "query"} | _ungrouped(binding, kept)) > 1:
        kept = {name: placed for name, placed in kept.items() if placed.group == 1}
    return replace(site, binding=replace(binding, placed=kept))


def _ungrouped(binding: Binding, kept: Mapping[str, Located]) -> set[int]:
    """The group size of keys or values that are read where they were: one, if either is."""
    return set() if {"key", "value"} <= set(kept) else {1}


def _is_cut(scope: Scope, tensor: str, needed: set[str]) -> bool:
    """Whether nodes that stay take a tensor apart."""
    return any(
        use.node is not None and use.node.op_type in CUTTING and any(o in needed for o in use.node.output)
        for use in scope.consumers.get(tensor, [])
    )


def _needed(root: Scope, sites: list[Site]) -> set[str]:
    """Every value that is needed once the fused nodes stand in place of the attentions."""
    written = {binding.output.tensor: binding for site in sites if (binding := site.binding) is not None}
    for site in sites:
        if site.binding is not None:
            written.update(dict.fromkeys(site.binding.proof.attention.extra_outputs.values(), site.binding))
    scopes = {id(site.scope): site.scope for site in sites}
    pending = [output.name for output in root.graph.output]
    needed: set[str] = set()
    while pending:
        name = pending.pop()
        if name in needed or not name:
            continue
        needed.add(name)
        if name in written:
            pending.extend(_read(written[name]))
            continue
        node = root.producer(name) or next((n for s in scopes.values() if (n := s.producer(name)) is not None), None)
        if node is None:
            continue
        pending.extend(node.input)
        inside = [body for _, body in subgraphs(node)]
        while inside:
            body = inside.pop()
            pending.extend(output.name for output in body.output)
            pending.extend(name for inner in body.node for name in inner.input)
            inside.extend(deeper for inner in body.node for _, deeper in subgraphs(inner))
    return needed


def _read(binding: Binding) -> Iterator[str]:
    """The tensors that a fused node, or what is written around it, reads."""
    attention = binding.proof.attention
    yield from (binding.operand(name) for name in OPERANDS)
    yield from attention.past.values()
    views: list[View | None] = [binding.positions, binding.slopes, binding.scale, binding.used]
    for mask in (binding.boolean, binding.additive, binding.rows, binding.key_bias):
        views.extend(leaf.view for leaf in leaves(mask))
    yield from (view.tensor for view in views if view is not None)
