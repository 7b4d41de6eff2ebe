"""A layered layout of a directed acyclic graph (Sugiyama, Tagawa and Toda, 1981), small and deterministic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 12


@dataclass
class Placed:
    """Where everything goes, in units of columns and layers.

    Attributes:
        layer: Per node its layer, 0 on top.
        x: Per node its column, not an integer in general.
        paths: Per edge the columns of its bends: one per layer from its source to its target.
    """

    layer: dict[int, int]
    x: dict[int, float]
    paths: dict[tuple[int, int], list[tuple[float, int]]] = field(default_factory=dict)

    @property
    def columns(self) -> float:
        """The width."""
        return max(self.x.values(), default=0.0) + 1.0

    @property
    def layers(self) -> int:
        """The height."""
        return max(self.layer.values(), default=-1) + 1


def place(count: int, edges: list[tuple[int, int]]) -> Placed:
    """Place nodes 0 .. count-1; edges go from (source, target), with source made before target."""
    edges = list(dict.fromkeys(edges))
    layer = _layers(count, edges)
    chains, rank, total = _chains(count, edges, layer)
    links = [(a, b) for chain in chains.values() for a, b in pairwise(chain)]
    above: dict[int, list[int]] = {}
    below: dict[int, list[int]] = {}
    for a, b in links:
        below.setdefault(a, []).append(b)
        above.setdefault(b, []).append(a)
    rows: list[list[int]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for node in range(total):
        rows[rank[node]].append(node)
    _order(rows, above, below)
    x = _columns(rows, above, below, count)
    lowest = min(x.values(), default=0.0)
    x = {n: v - lowest for n, v in x.items()}
    paths = {edge: [(x[n], rank[n]) for n in chain] for edge, chain in chains.items()}
    return Placed({n: layer[n] for n in range(count)}, {n: x[n] for n in range(count)}, paths)


def _layers(count: int, edges: list[tuple[int, int]]) -> dict[int, int]:
    """As late as possible: what is made from a mask stands right above its use."""
    depth = dict.fromkeys(range(count), 0)
    for _ in range(count):
        changed = False
        for a, b in reversed(edges):
            if depth[a] < depth[b] + 1:
                depth[a] = depth[b] + 1
                changed = True
        if not changed:
            break
    deepest = max(depth.values(), default=0)
    return {n: deepest - d for n, d in depth.items()}


def _chains(
    count: int, edges: list[tuple[int, int]], layer: dict[int, int]
) -> tuple[dict[tuple[int, int], list[int]], dict[int, int], int]:
    """Edges over several layers get a bend in every layer between."""
    rank = dict(layer)
    total = count
    chains = {}
    for a, b in edges:
        chain = [a]
        for between in range(layer[a] + 1, layer[b]):
            rank[total] = between
            chain.append(total)
            total += 1
        chains[a, b] = [*chain, b]
    return chains, rank, total


def _order(rows: list[list[int]], above: dict[int, list[int]], below: dict[int, list[int]]) -> None:
    """Fewer crossings: every node goes to the mean position of its neighbours, down and up in turn."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for row in rows if down else rows[::-1]:
            place = {n: k for r in rows for k, n in enumerate(r)}
            means = {
                n: sum(place[m] for m in neighbours[n]) / len(neighbours[n]) if neighbours.get(n) else place[n]
                for n in row
            }
            row.sort(key=lambda n: (means[n], place[n]))


def _columns(
    rows: list[list[int]], above: dict[int, list[int]], below: dict[int, list[int]], count: int
) -> dict[int, float]:
    """Columns near the neighbours', with one column between nodes and less between bends."""
    gap = {True: 1.0, False: 0.35}
    x = {n: float(k) for row in rows for k, n in enumerate(row)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = {}
            for node in row:
                near = above.get(node, []) + below.get(node, [])
                wanted[node] = sum(x[m] for m in near) / len(near) if near else x[node]
            _spread(row, wanted, x, lambda a, b: (gap[a < count] + gap[b < count]) / 2)
    return x


def _spread(row: list[int], wanted: dict[int, float], x: dict[int, float], apart: Callable[[int, int], float]) -> None:
    """The order kept and the gaps kept, as near to the wanted columns as both directions allow."""
    left: list[float] = []
    for k, node in enumerate(row):
        left.append(wanted[node] if k == 0 else max(wanted[node], left[-1] + apart(row[k - 1], node)))
    right = [0.0] * len(row)
    for k in range(len(row) - 1, -1, -1):
        node = row[k]
        right[k] = wanted[node] if k == len(row) - 1 else min(wanted[node], right[k + 1] - apart(node, row[k + 1]))
    for k, node in enumerate(row):
        x[node] = (left[k] + right[k]) / 2
