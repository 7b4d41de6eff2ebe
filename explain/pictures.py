"""What the page shows besides the report: the graph of one site, its bias in numbers, its memory."""

from __future__ import annotations

from onnx import ModelProto, helper

from ..graph.index import numpy_type
from ..rewriter.records.site import Site
from .explanation import slopes_of
from .look import Look
from .memory import LENGTHS, bias_memory
from .numbers import bias_values
from .report import plain
from .slopes import compare, standard_slopes

MOST_NODES = 160
"""A drawing with more nodes cannot be read."""


def page_facts(look: Look, report: dict[str, object]) -> None:
    """Put the key ``pictures`` into a report: of the first proven site, or of the first refused one."""
    shown = next((s for s in look.sites if s.binding is not None), None)
    shown = shown or next((s for s in look.sites if s.is_biased), None) or next(iter(look.sites), None)
    if shown is None:
        report["pictures"] = None
        return
    made: dict[str, object] = {"site": shown.name, "slopes": _slopes(shown), "bias": None, "memory": None}
    if shown.binding is not None:
        values = bias_values(look.study, shown)
        made["bias"] = None if values is None else plain(values)
        memory = bias_memory(shown, shown.binding)
        left = look.result.left.get(shown.name)
        made["memory"] = None if memory is None else {"lengths": list(LENGTHS), **plain(memory), "left": left}
    pair = next(p for p in look.pairs() if p.site == shown.name)
    made["before"] = graph_record(pair.before)
    made["after"] = None if pair.after is None else graph_record(pair.after)
    report["pictures"] = made


def _slopes(site: Site) -> dict[str, object] | None:
    slopes = slopes_of(site.binding) if site.binding is not None else ()
    if not slopes:
        return None
    return {"own": list(slopes), "standard": standard_slopes(len(slopes)), "verdict": compare(slopes)}


def graph_record(model: ModelProto) -> dict[str, object] | None:
    """A graph as plain data; None if it has too many nodes to be drawn."""
    graph = model.graph
    if len(graph.node) > MOST_NODES:
        return None
    shapes = {v.name: _shape(v) for group in (graph.input, graph.output, graph.value_info) for v in group}
    constants = {t.name: f"{_type_name(t.data_type)} {list(t.dims)}" for t in graph.initializer}
    return {
        "nodes": [
            {
                "op": n.op_type,
                "domain": n.domain,
                "name": n.name,
                "inputs": [i for i in n.input if i],
                "outputs": [o for o in n.output if o],
                "attributes": _attributes(n),
            }
            for n in graph.node
        ],
        "inputs": [v.name for v in graph.input],
        "outputs": [v.name for v in graph.output],
        "shapes": shapes,
        "constants": constants,
    }


def _attributes(node: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for attribute in node.attribute:  # type: ignore[attr-defined]
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            found[attribute.name] = value.decode(errors="replace")[:60]
        elif isinstance(value, int | float):
            found[attribute.name] = f"{value:g}"
        elif isinstance(value, list | tuple) and all(isinstance(v, int) for v in value):
            found[attribute.name] = str(list(value))[:60]
    return found


def _type_name(data_type: int) -> str:
    dtype = numpy_type(data_type)
    return f"type {data_type}" if dtype is None else str(dtype)


def _shape(value: object) -> str:
    kind = value.type.tensor_type  # type: ignore[attr-defined]
    name = _type_name(kind.elem_type) if kind.elem_type else ""
    if not kind.HasField("shape"):
        return name
    dims = [d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in kind.shape.dim]
    return f"{name} [{', '.join(dims)}]"
