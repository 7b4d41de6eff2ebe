"""The ways in which exporters lay out query, key and value, as views, with tensors of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from alibi_rewriter.fused.layout import AS_IT_IS, OPERANDS, Layout, OperandView, OutputView, in_order, packed
from nodes import DTYPES, Arrays, Sizes

OUTPUTS = {
    "BHSD": lambda sizes: OutputView(),
    "BSHD": lambda sizes: OutputView((0, 2, 1, 3)),
    "SBHD": lambda sizes: OutputView((2, 0, 1, 3)),
    "BS-HD": lambda sizes: OutputView((0, 2, 1, 3), (0, 0, sizes.heads * sizes.value_width)),
    "SB-HD": lambda sizes: OutputView((2, 0, 1, 3), (0, 0, sizes.heads * sizes.value_width)),
}
"""The output's views by name."""


@dataclass(frozen=True)
class Packing:
    """Where the three operands lie.

    Attributes:
        views: By operand.
        extents: Names of the axes of each operand's tensor, where ``S`` is its own sequence; an int is an extent.
        one: The operands that may be views of one and the same tensor.
    """

    views: Mapping[str, OperandView]
    extents: Mapping[str, tuple[str | int, ...]]
    one: tuple[str, ...] = ()

    def layout(self, output: OutputView) -> Layout:
        """The views of a node."""
        return Layout(self.views["query"], self.views["key"], self.views["value"], output)

    def tensors(self, sizes: Sizes, rng: np.random.Generator, dtype: str) -> Arrays:
        """Random tensors; those of one packing are the same array where the sequences are equally long."""
        made: Arrays = {}
        for name in OPERANDS:
            known = {"B": sizes.batch, "S": sizes.rows if name == "query" else sizes.keys}
            shape = tuple(known[n] if isinstance(n, str) else n for n in self.extents[name])
            made[name] = rng.standard_normal(shape).astype(DTYPES[dtype])
        if self.one and sizes.rows == sizes.keys:
            made.update(dict.fromkeys(self.one, made[self.one[0]]))
        return made


def packings(sizes: Sizes) -> Iterator[tuple[str, Packing]]:
    """Every one that these sizes allow, by name."""
    h, kv, d, v = sizes.heads, sizes.kv_heads, sizes.width, sizes.value_width
    heads = {"query": h, "key": kv, "value": kv}
    widths = {"query": d, "key": d, "value": v}
    wide = {name: heads[name] * widths[name] for name in OPERANDS}
    for order in ("BSHD", "SBHD"):
        named = {n: tuple(heads[n] if a == "H" else widths[n] if a == "D" else a for a in order) for n in OPERANDS}
        yield order, Packing({name: in_order(order) for name in OPERANDS}, named)
        views = {n: packed(heads[n], widths[n], head_width=widths[n], of=wide[n], order=order) for n in OPERANDS}
        yield f"{order[:2]}-HD", Packing(views, {n: (*order[:2], wide[n]) for n in OPERANDS})
    padded = OperandView((0, 0, 0, 0), (0, 8), ((1 << 31) - 1, 8 + d))
    plain = {n: ("B", heads[n], "S", widths[n]) for n in OPERANDS}
    yield (
        "wider key",
        Packing({"query": AS_IT_IS, "key": padded, "value": AS_IT_IS}, {**plain, "key": ("B", kv, "S", d + 16)}),
    )
    if d != v:
        return
    whole = h + 2 * kv
    firsts = {"query": 0, "key": h, "value": h + kv}
    ends = {n: firsts[n] + heads[n] for n in OPERANDS}
    thirds = {n: packed(heads[n], d, head_width=d, first=firsts[n], of=whole * d, order="BSHD") for n in OPERANDS}
    yield "thirds", Packing(thirds, dict.fromkeys(OPERANDS, ("B", "S", whole * d)), OPERANDS)
    cut = {n: OperandView(starts=(firsts[n], 0), ends=(ends[n], d), perm=(0, 2, 1, 3)) for n in OPERANDS}
    yield "thirds of rank 4", Packing(cut, dict.fromkeys(OPERANDS, ("B", "S", whole, d)), OPERANDS)
    if h == kv:
        within = {"query": 0, "key": d, "value": 2 * d}
        woven = {n: packed(h, d, head_width=3 * d, within=within[n], of=3 * h * d, order="BSHD") for n in OPERANDS}
        yield "woven", Packing(woven, dict.fromkeys(OPERANDS, ("B", "S", 3 * h * d)), OPERANDS)
    group = h // kv
    width = (group + 2) * d
    pairs = {
        name: packed(kv, d, head_width=width, within=(group + i) * d, of=kv * width, order="BSHD")
        for i, name in enumerate(("key", "value"))
    }
    extents = {"query": plain["query"], **dict.fromkeys(("key", "value"), ("B", "S", kv * width))}
    yield "behind their queries", Packing({"query": AS_IT_IS, **pairs}, extents, ("key", "value"))
