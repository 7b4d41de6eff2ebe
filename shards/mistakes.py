"""Wrong cuts, made on purpose in the joined model: what a comparison has to notice to say anything about a cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ..fused.family import BY_OP_TYPE
from ..fused.layout import PARTS
from ..graph.edit import arrange, uses
from ..graph.index import operator
from ..verify.power.mistakes import Mistake
from ..verify.power.power import EACH_SITE_UP_TO
from .cuts import Ranges
from .heads import Heads
from .join import prefix

SLOPES = "slopes_of_the_next_rank"
KEYS = "key_heads_of_the_next_rank"
TWICE = "replicated_key_head_taken_for_its_value"
SHIFTED = "parts_shifted_by_one_rank"
BIAS = "bias_added_by_every_rank"
LEFT_OUT = "sum_left_out"
ORDER = "gathered_in_another_order"

OPERANDS_OF_KEYS = (1, 2)

Edit = Callable[["ByName"], None]


class ByName:
    """The joined model by name.

    Args:
        model: It; edits go here.
    """

    def __init__(self, model: ModelProto) -> None:
        self.nodes = {node.name: node for node in model.graph.node if node.name}
        self.makers = {output: node for node in model.graph.node for output in node.output if output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.weights: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}


class Mistakes:
    """The mistakes that a joined model can be given.

    Args:
        ranks: How many ranks there are.
        folder: Where the weights are.
        sums: Names of the nodes that sum over the ranks.
        divided: Heads of the fused nodes that are cut, by their names in the whole model.
    """

    def __init__(self, ranks: int, folder: Path, sums: Sequence[str], divided: Mapping[str, Heads]) -> None:
        self._ranks, self._folder = ranks, folder
        self._sums, self._divided = list(sums), dict(divided)

    def __call__(self, model: ModelProto) -> Sequence[Mistake]:
        view = ByName(model)
        attentions = [name for name in self._divided if f"{prefix(0)}{name}" in view.nodes]
        gathers = [n.name for n in model.graph.node if operator(n) == "Concat" and n.name.endswith("/all_gather")]
        found: list[Mistake] = []
        for kind, sites, one in (
            (SLOPES, attentions, self._slopes),
            (KEYS, attentions, self._keys),
            (TWICE, attentions, self._twice),
            (SHIFTED, self._sums, self._shifted),
            (BIAS, self._sums, self._bias),
            (LEFT_OUT, self._sums, self._left_out),
            (ORDER, gathers, self._order),
        ):
            found += _grouped(kind, sites, [one(view, site) for site in sites])
        return found

    def _of_ranks(self, view: ByName, name: str) -> list[NodeProto]:
        return [view.nodes[f"{prefix(rank)}{name}"] for rank in range(self._ranks)]

    def _slopes(self, view: ByName, name: str) -> Edit | str:
        if not _alike(self._divided[name].queries):
            return "the ranks have different numbers of heads"
        nodes = self._of_ranks(view, name)
        names = BY_OP_TYPE[nodes[0].op_type].inputs
        apart = [
            p for p, one in enumerate(names) if one in ("slopes", "key_bias") and len({n.input[p] for n in nodes}) > 1
        ]
        if not apart:
            return "all ranks have the same slopes"
        return lambda other: _rotate(self._of_ranks(other, name), apart)

    def _keys(self, view: ByName, name: str) -> Edit | str:
        heads = self._divided[name]
        if not _alike(heads.queries) or not _alike(heads.keys):
            return "the ranks have different numbers of heads"
        if len(set(heads.keys)) == 1:
            return "all ranks have the same key heads"
        return lambda other: _rotate(self._of_ranks(other, name), OPERANDS_OF_KEYS)

    def _twice(self, view: ByName, name: str) -> Edit | str:
        if not self._divided[name].replicated:
            return "no key head is held by several ranks"

        def take_twice(other: ByName) -> None:
            key, value = OPERANDS_OF_KEYS
            for node in self._of_ranks(other, name):
                node.input[value] = node.input[key]
                said = {entry.name: entry for entry in node.attribute}
                for part in PARTS:
                    if f"key_{part}" in said:
                        said[f"value_{part}"].ints[:] = said[f"key_{part}"].ints

        return take_twice

    def _shifted(self, view: ByName, name: str) -> Edit | str:
        for products in self._products(view, name):
            if len({self._shape(view, node.input[1]) for node in products}) != 1:
                return "the ranks have parts of different sizes"

        def shift(other: ByName) -> None:
            for products in self._products(other, name):
                _rotate(products, (0,))

        return shift

    def _products(self, view: ByName, name: str) -> list[list[NodeProto]]:
        """The products that a sum is of, those of all ranks together; two of them where they share the sum."""
        parts = [list(view.nodes[name].input)]
        if all(operator(view.makers[part]) == "Add" for part in parts[0]):
            parts = [[view.makers[part].input[k] for part in parts[0]] for k in range(2)]
        return [[view.makers[part] for part in side] for side in parts]

    def _shape(self, view: ByName, name: str) -> tuple[int, ...]:
        while name not in view.weights and name in view.makers:
            name = view.makers[name].input[0]
        return tuple(view.weights[name].dims) if name in view.weights else ()

    def _bias(self, view: ByName, name: str) -> Edit | str:
        bias = self._bias_behind(view, name)
        if bias is None:
            return "nothing is added behind the sum"
        array = numpy_helper.to_array(view.weights[bias], base_dir=str(self._folder))
        if not np.any(array):
            return "the bias is zero"
        more = [bias] * (self._ranks - 1)
        return lambda other: other.nodes[name].input.extend(more)

    def _bias_behind(self, view: ByName, name: str) -> str | None:
        for reader in view.readers.get(view.nodes[name].output[0], ()):
            if operator(reader) == "Add":
                return next((i for i in reader.input if i in view.weights), None)
        return None

    def _left_out(self, view: ByName, name: str) -> Edit | str:
        def leave_out(other: ByName) -> None:
            del other.nodes[name].input[1:]

        return leave_out

    def _order(self, view: ByName, name: str) -> Edit | str:
        def turn(other: ByName) -> None:
            node = other.nodes[name]
            parts = list(node.input)
            del node.input[:]
            node.input.extend([*parts[1:], parts[0]])

        return turn


def _alike(parts: Sequence[Ranges]) -> bool:
    """Whether all ranks have the same number of heads."""
    return len({sum(stop - start for start, stop in part) for part in parts}) == 1


def _rotate(nodes: Sequence[NodeProto], positions: Sequence[int]) -> None:
    """Every node gets these inputs of the next one."""
    held = [[node.input[p] for p in positions] for node in nodes]
    for node, names in zip(nodes, [*held[1:], held[0]], strict=True):
        for position, name in zip(positions, names, strict=True):
            node.input[position] = name


def _grouped(kind: str, sites: Sequence[str], edits: Sequence[Edit | str]) -> list[Mistake]:
    """One mistake per site; in deeper models one for all of them."""
    made: list[tuple[str, Edit]] = []
    found = []
    for site, edit in zip(sites, edits, strict=True):
        if isinstance(edit, str):
            found.append(Mistake(kind, site, None, edit))
        else:
            made.append((site, edit))
    if len(made) > EACH_SITE_UP_TO:
        return [*found[:EACH_SITE_UP_TO], Mistake(kind, "all", _all([edit for _, edit in made]))]
    return [*found, *(Mistake(kind, site, _all([edit])) for site, edit in made)]


def _all(edits: Sequence[Edit]) -> Callable[[ModelProto], None]:
    def make(model: ModelProto) -> None:
        view = ByName(model)
        for edit in edits:
            edit(view)
        _sort(model)

    return make


def _sort(model: ModelProto) -> None:
    """Nodes behind what they read, now that ranks read from one another."""
    made = {output for node in model.graph.node for output in node.output if output}
    done: set[str] = set()
    order: list[NodeProto] = []
    left = list(model.graph.node)
    while left:
        waiting = []
        for node in left:
            if all(name not in made or name in done for name in uses(node)):
                order.append(node)
                done.update(node.output)
            else:
                waiting.append(node)
        if len(waiting) == len(left):
            break  # a circle: the runtime will say so
        left = waiting
    arrange(model.graph, [*order, *left])
