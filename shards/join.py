"""All ranks side by side in one model that computes what they compute together, for a runtime without any of them.

Sums over the ranks become Sum, gathering becomes Concat.  The joined model has the inputs and outputs of the whole one:
what ranks hold of an input is sliced from it, and what they make of an output is put together again.  An output that
every rank makes is that of the first one, and NaN wherever another rank disagrees with it.

The ranks' files are read as they were written.  Of the plan nothing is known here but what the manifest says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, external_data_helper, helper, numpy_helper

from ..base.errors import ModelRejected
from ..graph.index import Array, bodies
from .collectives import collective_of
from .cuts import AxisCut, local
from .local import slices_of
from .manifest import cut_of
from .merged import put_together, taken_of

CHUNK = 8 << 20


@dataclass
class Joined:
    """The joined model.

    Attributes:
        model: It.
        sums: Names of its nodes that are sums over the ranks, in order.
    """

    model: ModelProto
    sums: list[str] = field(default_factory=list)


def prefix(rank: int) -> str:
    """What names of a rank begin with."""
    return f"rank{rank}/"


def join(ranks: Sequence[ModelProto], folder: Path, record: Mapping[str, Any], whole: ModelProto) -> Joined:
    """Put the ranks side by side.

    Args:
        ranks: Their models, external data not loaded.
        folder: Where these are.
        record: The manifest.
        whole: The model that was cut; only its inputs and outputs are looked at.

    Raises:
        ModelRejected: The ranks do not fit together.
    """
    joiner = _Joiner(ranks, folder, whole)
    inputs = {name: cut_of(one) for name, one in record["inputs"].items()}
    outputs = {name: cut_of(one) for name, one in record["outputs"].items()}
    joiner.begin(inputs)
    joiner.interleave()
    joiner.end(outputs)
    return Joined(joiner.model, joiner.sums)


class _Joiner:
    def __init__(self, ranks: Sequence[ModelProto], folder: Path, whole: ModelProto) -> None:
        self._ranks, self._folder, self._whole = ranks, folder, whole
        self.sums: list[str] = []
        self.model = ModelProto()
        first = ranks[0]
        self.model.ir_version = first.ir_version
        self.model.opset_import.extend(first.opset_import)
        self.model.functions.extend(first.functions)
        self.model.graph.name = "joined"
        self._graph = self.model.graph
        self._names: list[dict[str, str]] = [{} for _ in ranks]
        self._constants: dict[tuple[bytes, tuple[int, ...]], str] = {}

    # --- weights and inputs ----------------------------------------------------------------------------

    def begin(self, inputs: Mapping[str, AxisCut]) -> None:
        """Inputs and weights; a weight that all ranks hold alike is there once."""
        for value in self._whole.graph.input:
            self._graph.input.add().CopyFrom(value)
            for rank, names in enumerate(self._names):
                names[value.name] = value.name
                if value.name in inputs:
                    names[value.name] = self._part(value, inputs[value.name], rank)
        held: dict[str, str] = {}
        for rank, model in enumerate(self._ranks):
            for tensor in model.graph.initializer:
                key = self._fingerprint(tensor)
                if key not in held:
                    made = self._graph.initializer.add()
                    made.CopyFrom(tensor)
                    given = tensor.name in {value.name for value in self._whole.graph.input}
                    made.name = tensor.name if given else f"{prefix(rank)}{tensor.name}"
                    held[key] = made.name
                self._names[rank][tensor.name] = held[key]
            for sparse in model.graph.sparse_initializer:
                copied = self._graph.sparse_initializer.add()
                copied.CopyFrom(sparse)
                copied.values.name = self._own(rank, sparse.values.name)

    def _fingerprint(self, tensor: TensorProto) -> str:
        """Equal for weights of the same name, type, shape and content."""
        digest = hashlib.sha256(f"{tensor.name}\0{tensor.data_type}\0{list(tensor.dims)}\0".encode())
        if external_data_helper.uses_external_data(tensor):
            info = external_data_helper.ExternalDataInfo(tensor)
            with (self._folder / info.location).open("rb") as stream:
                stream.seek(info.offset or 0)
                left = info.length or 0
                while left:
                    piece = stream.read(min(left, CHUNK))
                    if not piece:
                        raise ModelRejected(f"'{info.location}' ends within the weight '{tensor.name}'.")
                    digest.update(piece)
                    left -= len(piece)
        else:
            digest.update(tensor.SerializeToString(deterministic=True))
        return digest.hexdigest()

    def _part(self, value: ValueInfoProto, cut: AxisCut, rank: int) -> str:
        """A rank's part of an input."""
        if _is_plain(value, cut):
            made = slices_of(value.name, cut, rank, lambda hint: f"{prefix(rank)}{hint}", self._number)
        else:
            made = taken_of(value.name, f"{prefix(rank)}{value.name}/rank", cut, rank, self._number)
        self._graph.node.extend(made)
        return made[-1].output[0]

    def _number(self, array: Array, hint: str) -> str:
        key = array.tobytes(), array.shape
        if key not in self._constants:
            name = self._constants[key] = f"joined/{len(self._constants)}"
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return self._constants[key]

    def _own(self, rank: int, name: str) -> str:
        names = self._names[rank]
        if name not in names:
            names[name] = f"{prefix(rank)}{name}"
        return names[name]

    # --- nodes -----------------------------------------------------------------------------------------

    def interleave(self) -> None:
        """The ranks' nodes, each up to its next collective; then that, once for all of them."""
        places = [0] * len(self._ranks)
        while True:
            waiting = [self._advance(rank, places) for rank in range(len(self._ranks))]
            if not any(waiting):
                return
            kinds = {None if node is None else (node.op_type, node.name, str(collective_of(node))) for node in waiting}
            nodes = [node for node in waiting if node is not None]
            if len(kinds) != 1 or len(nodes) != len(self._ranks):
                raise ModelRejected("the ranks do not meet at the same collectives.")
            self._meet(nodes)

    def _advance(self, rank: int, places: list[int]) -> NodeProto | None:
        nodes = self._ranks[rank].graph.node
        while places[rank] < len(nodes):
            node = nodes[places[rank]]
            places[rank] += 1
            if collective_of(node) is not None:
                return node
            made = self._graph.node.add()
            made.CopyFrom(node)
            self._rename(rank, made)
        return None

    def _rename(self, rank: int, node: NodeProto) -> None:
        node.name = f"{prefix(rank)}{node.name}" if node.name else ""
        self._rename_values(rank, (node,))
        waiting = [body for _, _, body in bodies((node,))]
        while waiting:
            graph = waiting.pop()
            for value in (*graph.input, *graph.output, *graph.value_info):
                value.name = self._own(rank, value.name)
            for tensor in graph.initializer:
                tensor.name = self._own(rank, tensor.name)
            self._rename_values(rank, graph.node)
            waiting.extend(inside for _, _, inside in bodies(graph.node))

    def _rename_values(self, rank: int, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    names[position] = self._own(rank, name) if name else ""

    def _meet(self, nodes: Sequence[NodeProto]) -> None:
        one = collective_of(nodes[0])
        assert one is not None
        if one.ranks != len(self._ranks):
            raise ModelRejected(f"the collective '{nodes[0].name}' is of {one.ranks} ranks.")
        inputs = [self._own(rank, node.input[0]) for rank, node in enumerate(nodes)]
        output = f"joined/{nodes[0].output[0]}"
        for rank, node in enumerate(nodes):
            self._names[rank][node.output[0]] = output
        if one.axis is None:
            self._graph.node.append(helper.make_node("Sum", inputs, [output], name=nodes[0].name))
            self.sums.append(nodes[0].name)
        else:
            self._graph.node.append(helper.make_node("Concat", inputs, [output], name=nodes[0].name, axis=one.axis))

    # --- outputs ---------------------------------------------------------------------------------------

    def end(self, outputs: Mapping[str, AxisCut]) -> None:
        """Every output of the whole model."""
        for value in self._whole.graph.output:
            self._graph.output.add().CopyFrom(value)
            made = [self._own(rank, value.name) for rank in range(len(self._ranks))]
            if value.name in outputs:
                cut = outputs[value.name]
                if _is_plain(value, cut):
                    self._put_together(value.name, made, cut)
                else:
                    self._graph.node.extend(put_together(made, value.name, cut, self._number))
            else:
                self._agreed(value, made)

    def _put_together(self, name: str, made: Sequence[str], cut: AxisCut) -> None:
        """Every index once, from the first rank that holds it."""
        done, pieces = 0, []
        while done < cut.period:
            rank, stop = next(
                ((r, stop) for r, part in enumerate(cut.parts) for start, stop in part if start <= done < stop), (-1, 0)
            )
            if rank < 0:
                raise ModelRejected(f"no rank holds all of '{name}'.")
            begin, end = local(cut.parts[rank], done, stop)
            pieces.append((rank, begin, end))
            done = stop
        parts = []
        for k, (rank, begin, end) in enumerate(pieces):
            bounds = [self._number(np.array([n], np.int64), "") for n in (begin, end, cut.axis)]
            parts.append(f"joined/{name}/{k}")
            self._graph.node.append(helper.make_node("Slice", [made[rank], *bounds], [parts[-1]]))
        self._graph.node.append(helper.make_node("Concat", parts, [name], axis=cut.axis))

    def _agreed(self, value: ValueInfoProto, made: Sequence[str]) -> None:
        current, kind = made[0], value.type.tensor_type.elem_type
        others = [other for other in dict.fromkeys(made) if other != current]
        if kind in NUMBERS and others:
            nan = f"joined/nan/{value.name}"
            array = np.array(np.nan, helper.tensor_dtype_to_np_dtype(kind))
            self._graph.initializer.append(numpy_helper.from_array(array, nan))
            for k, other in enumerate(others):
                same, chosen = f"joined/same/{value.name}/{k}", f"joined/agreed/{value.name}/{k}"
                self._graph.node.append(helper.make_node("Equal", [current, other], [same]))
                self._graph.node.append(helper.make_node("Where", [same, current, nan], [chosen]))
                current = chosen
        self._graph.node.append(helper.make_node("Identity", [current], [value.name]))


def _is_plain(value: ValueInfoProto, cut: AxisCut) -> bool:
    """Whether the axis of an input or output is known to be what is cut, and no multiple of it."""
    dims = value.type.tensor_type.shape.dim
    return len(dims) > cut.axis and bool(dims[cut.axis].dim_value == cut.period)


NUMBERS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
"""Types of outputs in which a disagreement between ranks can be shown."""
