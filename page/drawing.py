"""A site's graph as a drawing: what moves data is folded, what only computes shapes is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .layout import Placed, place
from .markup import code, esc, middle, svg, table, text

Record = Mapping[str, Any]

MOVING = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators of which a chain is drawn as one box."""

EXTENTS = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "Gather": (),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that only say how large something is."""

BOX_WIDTH, BOX_HEIGHT = 128.0, 28.0
COLUMN, LAYER = 138.0, 50.0
MARGIN = 10.0
LABEL = 18
"""Characters that fit into a box."""


@dataclass
class Box:
    """One box of the drawing.

    Attributes:
        kind: ``operand``, ``operator``, ``key`` (a product or a softmax), ``fused`` or ``result``.
        label: What stands in it.
        title: What hovering shows.
        made: Tensors that come out of it.
        read: Tensors that go in.
    """

    kind: str
    label: str
    title: list[str]
    made: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)


def draw(graph: Record, label: str, roles: Mapping[str, str]) -> tuple[str, float, int]:
    """The drawing, its width, and how many nodes are left out because they only compute shapes.

    Args:
        graph: The graph as plain data.
        label: For screen readers.
        roles: What operands are, by tensor: query, key, value.
    """
    nodes: Sequence[Record] = graph["nodes"]
    plumbing = _plumbing(nodes, graph["outputs"])
    shown = [n for k, n in enumerate(nodes) if k not in plumbing]
    boxes = _folded([_box(n, graph) for n in shown], graph["outputs"])
    used = {i for b in boxes for i in b.read}
    operands = [
        Box("operand", roles.get(n, n), [n, graph["shapes"].get(n, "")], made=[n]) for n in graph["inputs"] if n in used
    ]
    results = [Box("result", n, [n, graph["shapes"].get(n, "")], read=[n]) for n in graph["outputs"]]
    everything = [*operands, *boxes, *results]
    maker = {t: k for k, b in enumerate(everything) for t in b.made}
    edges = [(maker[t], k, t) for k, b in enumerate(everything) for t in b.read if t in maker and maker[t] != k]
    placed = place(len(everything), [(a, b) for a, b, _ in edges])
    return *_render(everything, edges, placed, graph, label), len(plumbing)


def listing(graph: Record) -> str:
    """Every node of a graph with the names and shapes that hovering shows: for fingers, keyboards and paper."""
    rows = []
    for node in graph["nodes"]:
        made = [f"{code(o)} {esc(graph['shapes'].get(o, ''))}" for o in node["outputs"]]
        read = [f"{code(i)} {esc(graph['constants'].get(i) or graph['shapes'].get(i, ''))}" for i in node["inputs"]]
        rows.append([f"{esc(node['op'])} {code(node['name'])}", "<br>".join(read), "<br>".join(made)])
    return table(["node", "reads", "makes"], rows)


def _plumbing(nodes: Sequence[Record], outputs: Sequence[str]) -> set[int]:
    """Nodes whose results are only ever extents, bounds and axes of others."""
    uses: dict[str, list[tuple[int, int]]] = {}
    for k, node in enumerate(nodes):
        for position, name in enumerate(node["inputs"]):
            uses.setdefault(name, []).append((k, position))
    found: set[int] = set()
    for k in range(len(nodes) - 1, -1, -1):
        own = [u for o in nodes[k]["outputs"] for u in uses.get(o, [])]
        if any(o in outputs for o in nodes[k]["outputs"]):
            continue
        if nodes[k]["op"] == "Shape" or all(
            user in found or position in EXTENTS.get(nodes[user]["op"], ()) for user, position in own
        ):
            found.add(k)
    return found


def _box(node: Record, graph: Record) -> Box:
    op = str(node["op"])
    kind = "operator"
    if node["domain"] == "alibi":
        kind = "fused"
    elif op in ("MatMul", "Gemm", "Einsum", "FusedMatMul", "Softmax") or "Attention" in op:
        kind = "key"
    title = [f"{op} {node['name']}".strip()]
    for name in node["inputs"]:
        constant = graph["constants"].get(name)
        what = f"constant {constant}" if constant else graph["shapes"].get(name, "")
        title.append(f"in  {name[:80]}  {what}")
    for name in node["outputs"]:
        title.append(f"out {name[:80]}  {graph['shapes'].get(name, '')}")
    title.extend(f"{k} = {v}" for k, v in node["attributes"].items())
    return Box(kind, op, title, list(node["outputs"]), list(node["inputs"]))


def _folded(boxes: list[Box], outputs: Sequence[str]) -> list[Box]:
    """Chains of movement become one box each."""
    readers: dict[str, int] = {}
    for box in boxes:
        for name in dict.fromkeys(box.read):
            readers[name] = readers.get(name, 0) + 1
    maker = {t: b for b in boxes for t in b.made}
    gone: set[int] = set()
    chains: dict[int, list[str]] = {id(b): [b.label] for b in boxes}
    for box in boxes:
        if box.label not in MOVING or not box.read:
            continue
        before = maker.get(box.read[0])
        if before is None or chains[id(before)][-1] not in MOVING or before.kind != "operator":
            continue
        joint = box.read[0]
        if readers.get(joint) != 1 or joint in outputs:
            continue
        before.made, before.title = list(box.made), [*before.title, *box.title]
        before.read.extend(n for n in box.read[1:] if n not in before.read)
        chains[id(before)].extend(chains[id(box)])
        maker.update(dict.fromkeys(box.made, before))
        gone.add(id(box))
    for box in boxes:
        chain = chains[id(box)]
        if len(chain) > 1:
            whole = ", ".join(chain)
            box.label = whole if len(whole) <= LABEL else f"{chain[0]} … ({len(chain)})"
    return [b for b in boxes if id(b) not in gone]


def _render(
    boxes: list[Box], edges: list[tuple[int, int, str]], placed: Placed, graph: Record, label: str
) -> tuple[str, float]:
    def centre(x: float) -> float:
        return MARGIN + x * COLUMN + BOX_WIDTH / 2

    def top(layer: int) -> float:
        return MARGIN + layer * LAYER

    parts = []
    for a, b, name in edges:
        points = placed.paths[a, b]
        path = f"M{centre(points[0][0]):.1f} {top(points[0][1]) + BOX_HEIGHT:.1f}"
        for (x0, _), (x1, layer) in pairwise(points):
            start, end = top(layer) - LAYER + BOX_HEIGHT, top(layer)
            bend = (start + end) / 2
            path += f"C{centre(x0):.1f} {bend:.1f} {centre(x1):.1f} {bend:.1f} {centre(x1):.1f} {end:.1f}"
            if layer != points[-1][1]:
                path += f"V{end + BOX_HEIGHT:.1f}"
        hover = f"{name[:80]}  {graph['shapes'].get(name, '')}"
        parts.append(f"<path class='edge' d='{path}'><title>{esc(hover, 240)}</title></path>")
    for k, box in enumerate(boxes):
        x, y = centre(placed.x[k]) - BOX_WIDTH / 2, top(placed.layer[k])
        shown = "AlibiAttention" if box.kind == "fused" else middle(box.label, LABEL)
        parts.append(
            f"<g class='box {box.kind}'><title>{esc(chr(10).join(box.title), 1500).replace(chr(92) + 'x0a', '&#10;')}"
            f"</title><rect x='{x:.1f}' y='{y:.1f}' width='{BOX_WIDTH:g}' height='{BOX_HEIGHT:g}' "
            f"rx='{15 if box.kind in ('operand', 'result') else 4}'/>"
            f"{text(x + BOX_WIDTH / 2, y + 18.5, shown, anchor='middle')}</g>"
        )
    width = 2 * MARGIN + (placed.columns - 1) * COLUMN + BOX_WIDTH
    height = 2 * MARGIN + max(0, placed.layers - 1) * LAYER + BOX_HEIGHT
    drawing = svg(width, height, "".join(parts), label, "graph")
    return drawing.replace("<svg ", f"<svg style='--natural:{width:.0f}px' ", 1), width
