"""The model of one rank: the graph with what is different there, and a list of the weights that it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ..base.version import __version__
from ..graph import note
from ..graph.edit import all_names, dead_nodes, fresh, used_names
from ..graph.index import Array, attribute, int_attribute
from .collectives import gathered, summed
from .constants import constant_tensor
from .cuts import AxisCut, Ranges
from .local import apply, scaling, slices_of
from .plan import CutPlan

RANK, RANKS = "alibi_rewriter.rank", "alibi_rewriter.ranks"
"""Keys of a rank's note in the metadata of its file."""


@dataclass(frozen=True)
class Weight:
    """A weight of a rank.

    Attributes:
        tensor: Name, type and extents there, without data.
        source: The whole weight.
        axis: The axis that is cut; -1 for a whole weight.
        ranges: What the rank holds of it.
    """

    tensor: TensorProto
    source: TensorProto
    axis: int = -1
    ranges: Ranges = ()


@dataclass
class RankModel:
    """One rank.

    Attributes:
        model: Its graph, without the weights.
        weights: In the order of the file, what goes there.
    """

    model: ModelProto
    weights: list[Weight]


@dataclass
class _Builder:
    plan: CutPlan
    rank: int
    runtime: str
    taken: set[str]
    nodes: list[NodeProto] = field(default_factory=list)
    small: dict[str, TensorProto] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    _numbers: dict[tuple[str, bytes, tuple[int, ...]], str] = field(default_factory=dict)
    _parts: dict[tuple[str, AxisCut], str] = field(default_factory=dict)

    def name(self, hint: str) -> str:
        return fresh(hint, self.taken)

    def number(self, array: Array, hint: str) -> str:
        """A small constant."""
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._numbers:
            name = self._numbers[key] = self.name(hint)
            self.small[name] = numpy_helper.from_array(array, name)
        return self._numbers[key]

    # --- nodes -----------------------------------------------------------------------------------------

    def add(self, number: int) -> None:
        """A node of the model, as it is on this rank, with what stands around it."""
        plan = self.plan
        node = NodeProto()
        node.CopyFrom(plan.scope.graph.node[number])
        self._replace_inputs(number, node)
        behind: list[NodeProto] = []
        made = plan.change(number, self.rank)
        dropped = node.input[2] if made is not None and made.dropped is not None else ""
        if made is not None:
            apply(node, made, self.number)
            if made.scaled is not None:
                self._scale(node, *made.scaled)
            if made.restored is not None:
                behind += self._restore(node, made.restored)
        for position, output in enumerate(node.output):
            if plan.cuts.summed.get(output) == number:
                behind += self._sum(node, position, dropped)
            elif output in plan.gathered:
                cut = plan.gathered[output]
                rank = len(plan.interpreter.dims(output) or ())
                node.output[position] = part = self.name(f"{output}/part")
                behind += gathered(part, output, cut.axis, rank, plan.ranks, self.runtime, self.name)
        self.nodes += [node, *behind]

    def _replace_inputs(self, number: int, node: NodeProto) -> None:
        cuts = self.plan.cuts
        for position, name in enumerate(node.input):
            use = number, position
            if use in cuts.constants:
                node.input[position] = self._part_of(name, cuts.constants[use])
            elif use in cuts.sliced:
                key = name, cuts.sliced[use]
                if key not in self._parts:
                    self.nodes += slices_of(name, key[1], self.rank, self.name, self.number)
                    self._parts[key] = self.nodes[-1].output[0]
                node.input[position] = self._parts[key]

    def _part_of(self, name: str, cut: AxisCut) -> str:
        if cut.trivial:
            return name
        key = name, cut
        if key not in self._parts:
            made = self._parts[key] = self.name(f"{name}/rank")
            source = constant_tensor(self.plan.scope, name)
            dims = list(source.dims)
            repeats = dims[cut.axis] // cut.period
            ranges = tuple(
                (s + k * cut.period, e + k * cut.period) for k in range(repeats) for s, e in cut.parts[self.rank]
            )
            dims[cut.axis] = repeats * cut.width(self.rank)
            tensor = TensorProto(name=made, data_type=source.data_type, dims=dims)
            self.weights[made] = Weight(tensor, source, cut.axis, ranges)
        return self._parts[key]

    def _scale(self, node: NodeProto, position: int, cut: AxisCut) -> None:
        """A shape that is computed names the extents of the whole model.  The rank's extent takes its place."""
        shape = node.input[position]
        axes, count = (self.plan.interpreter.dims(name) or () for name in (node.output[0], shape))
        said = int(count[0].constant or 0) if count else 0  # an Expand may leave out axes in front
        numbers = scaling(cut, self.rank, said, first=len(axes) - said)
        width, period = (self.number(v, f"{shape}/{w}") for v, w in zip(numbers, WORDS, strict=True))
        names = [self.name(f"{shape}/{word}") for word in ("times", "rank", "kept", "local")]
        self.nodes += [
            _node("Mul", [shape, width], names[0]),
            _node("Div", [names[0], period], names[1]),
            _node("Less", [shape, period], names[2]),  # -1, 0, and the 1 of what is spread
            _node("Where", [names[2], shape, names[1]], names[3]),
        ]
        node.input[position] = names[3]

    def _restore(self, node: NodeProto, cut: AxisCut) -> list[NodeProto]:
        """A shape tells the extents of the whole model, so that all that is computed of it is what it was."""
        rank = len(self.plan.interpreter.dims(node.input[0]) or ())
        first, last, _ = slice(int_attribute(node, "start", 0), _end(node)).indices(rank)
        if not first <= cut.axis < last:
            return []
        width, period = (
            self.number(v, f"{node.output[0]}/{w}")
            for v, w in zip(scaling(cut, self.rank, last - first, first=first), WORDS, strict=True)
        )
        output = node.output[0]
        node.output[0] = held = self.name(f"{output}/local")
        times = self.name(f"{output}/times")
        return [_node("Mul", [held, period], times), _node("Div", [times, width], output)]

    def _sum(self, node: NodeProto, position: int, added: str) -> list[NodeProto]:
        output = node.output[position]
        node.output[position] = part = self.name(f"{output}/part")
        if not added:
            return summed(part, output, self.plan.ranks, self.runtime, self.name)
        whole = self.name(f"{output}/sum")
        made = summed(part, whole, self.plan.ranks, self.runtime, self.name)
        return [*made, helper.make_node("Add", [whole, added], [output], name=self.name(f"{output}/Add"))]


WORDS = ("width", "period")


def build(plan: CutPlan, rank: int, runtime: str) -> RankModel:
    """The model of one rank.

    Args:
        plan: What is cut.
        rank: Which rank.
        runtime: Whose collectives it gets.
    """
    source = plan.model
    builder = _Builder(plan, rank, runtime, all_names(source))
    for number in range(len(source.graph.node)):
        builder.add(number)
    model = ModelProto()
    model.CopyFrom(_frame(source))
    graph = model.graph
    dead = {id(node) for node in dead_nodes(source.graph, builder.nodes)}
    graph.node.extend(node for node in builder.nodes if id(node) not in dead)
    cut = plan.cuts.tensors
    graph.input.extend(_declared(plan, value, rank) for value in source.graph.input)
    graph.output.extend(_declared(plan, value, rank) for value in source.graph.output)
    graph.value_info.extend(value for value in source.graph.value_info if value.name not in cut)
    used = used_names(graph)
    graph.sparse_initializer.extend(t for t in source.graph.sparse_initializer if t.values.name in used)
    graph.initializer.extend(t for name, t in builder.small.items() if name in used)
    weights = [Weight(_bare(t), t) for t in source.graph.initializer if t.name in used]
    weights += [weight for name, weight in builder.weights.items() if name in used]
    note.write(model)
    kept = [entry for entry in model.metadata_props if entry.key not in (RANK, RANKS)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in ((RANK, rank), (RANKS, plan.ranks)):
        model.metadata_props.add(key=key, value=str(value))
    model.producer_name = model.producer_name or "alibi-rewriter"
    model.producer_version = model.producer_version or __version__
    return RankModel(model, weights)


def _frame(source: ModelProto) -> ModelProto:
    """The model without what is in its graph, which may be large."""
    made = ModelProto()
    for descriptor, value in source.ListFields():
        if descriptor.name == "graph":
            made.graph.name = source.graph.name
            made.graph.doc_string = source.graph.doc_string
            made.graph.metadata_props.extend(source.graph.metadata_props)
        elif isinstance(value, str | int | float | bytes):
            setattr(made, descriptor.name, value)
        else:
            getattr(made, descriptor.name).MergeFrom(value)
    return made


def _declared(plan: CutPlan, value: ValueInfoProto, rank: int) -> ValueInfoProto:
    """An input or output as the rank has it."""
    cut, extents = plan.cuts.tensors.get(value.name), plan.interpreter.dims(value.name)
    made = ValueInfoProto()
    made.CopyFrom(value)
    if cut is not None and made.type.tensor_type.HasField("shape"):
        dim = made.type.tensor_type.shape.dim[cut.axis]
        if dim.HasField("dim_value"):
            dim.dim_value = dim.dim_value * cut.width(rank) // cut.period
        elif extents is not None and extents[cut.axis] == cut.period:
            dim.dim_value = cut.width(rank)
        else:  # batch and heads in one: how many there are of both is known when the model runs
            dim.Clear()
    return made


def _bare(tensor: TensorProto) -> TensorProto:
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _node(op_type: str, inputs: list[str], output: str) -> NodeProto:
    return helper.make_node(op_type, inputs, [output], name=f"{output}/{op_type}")


def _end(node: NodeProto) -> int | None:
    end = attribute(node, "end")
    return end if isinstance(end, int) else None


__all__ = ["RANK", "RANKS", "RankModel", "Weight", "build"]
