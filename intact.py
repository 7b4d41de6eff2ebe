"""``rewrite check FILE``: whether what `rewrite` wrote is still whole after other tools had the file.

Nothing is run.  Nodes are counted and compared with the note in the file's metadata; what enters each node is compared
with what it takes; each function body is compared with what its nodes and the operator set make it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, numpy_helper

from .base.errors import EngineFailed, ExitCode
from .engine.operands import check_node, fused_with_facts
from .fused.append import OP_TYPE
from .fused.body import MINIMUM_OPSET, VIEWS_OPSET, KnownSizes, function_proto, possible_sizes
from .fused.family import BY_OP_TYPE, DOMAIN, Alignment, EmptyRows
from .fused.layout import Moves, layout_of
from .graph import note
from .graph.index import opset_versions
from .graph.load import load
from .shards.collectives import ALL_GATHER, ALL_REDUCE

ORDER = "run the other tool first and `rewrite` on its result (docs/tool-order.md has the order for each tool)"
TYPED_BODIES_BEFORE = 15
"""Bodies for older operator sets are written for one type of query: there is no CastLike."""

_QUERY_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_SHOWN = 8


@dataclass
class Intact:
    """What is left of a rewritten file.

    Attributes:
        path: The file.
        noted: Fused nodes when it was written, by op_type; None if the file has no note.
        found: Fused nodes now.
        bodies: Function bodies that the nodes call, by op_type: whether each is there as it was written.
        inlined: Nodes whose bodies were put in their place on purpose (``--inline``).
        problems: What is not as it was, a sentence each.
    """

    path: Path
    noted: Counter[str] | None
    found: Counter[str]
    bodies: dict[str, bool] = field(default_factory=dict)
    inlined: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """``DONE``, ``NOT_INTACT``, or ``NOT_REWRITTEN`` for a file that never was."""
        if self.problems:
            return ExitCode.NOT_INTACT
        return ExitCode.DONE if self.noted or self.found or self.inlined else ExitCode.NOT_REWRITTEN

    def to_text(self) -> str:
        """For people: one line, and one for each problem."""
        if self.exit_code is ExitCode.NOT_REWRITTEN:
            return f"{self.path}: holds no fused node, and no note that it ever did"
        if self.inlined and not self.found and not self.problems:
            number = self.inlined.total()
            return f"{self.path}: {_bodies(number)} in place of fused nodes, as `--inline` writes them"
        whole = sum(self.bodies.values())
        before = self.found.total() if self.noted is None else self.noted.total()
        head = f"{self.found.total()} of {before} fused nodes, {whole} of {len(self.bodies)} function bodies intact"
        if self.noted is None:
            head += " (no note of how many there were)"
        lines = [f"{self.path}: {head}", *(f"  {problem}" for problem in self.problems[:_SHOWN])]
        if len(self.problems) > _SHOWN:
            lines.append(f"  and {len(self.problems) - _SHOWN} more")
        if self.problems:
            lines.append(f"  what to do: {ORDER}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "file": str(self.path),
            "noted": None if self.noted is None else dict(sorted(self.noted.items())),
            "found": dict(sorted(self.found.items())),
            "bodies": dict(sorted(self.bodies.items())),
            "inlined": dict(sorted(self.inlined.items())),
            "problems": list(self.problems),
            "exit_code": int(self.exit_code),
        }


def check(path: str | Path) -> Intact:
    """Compare a file with what `rewrite` wrote.

    Args:
        path: A file that was rewritten; other tools may have changed it since.

    Returns:
        What is left; ``problems`` is empty if everything is.

    Raises:
        ModelRejected: It cannot be read.
    """
    source = load(Path(path))
    model = source.model
    made = Intact(Path(path), note.read(model, note.FUSED), note.count(model))
    made.inlined = note.read(model, note.INLINED) or Counter()
    for op_type, number in sorted(((made.noted or Counter()) - made.found).items()):
        made.problems.append(
            f"{number} of {(made.noted or made.found)[op_type]} nodes {op_type} are gone: "
            "a tool has put function bodies in their place, or removed them"
        )
    known = {*BY_OP_TYPE, OP_TYPE, ALL_REDUCE, ALL_GATHER}
    unknown = Counter(n.op_type for n in model.graph.node if n.domain == DOMAIN and n.op_type not in known)
    for op_type, number in sorted(unknown.items()):
        made.problems.append(f"{number} nodes {op_type} are in the domain of the fused nodes and none of them")
    types = _check_nodes(model, source.base_dir, made)
    _check_bodies(model, types, made)
    return made


def _check_nodes(model: ModelProto, base_dir: Path, made: Intact) -> dict[str, set[int]]:
    """Operands of all nodes; returns the types of queries by op_type, as far as they are known."""
    types: dict[str, set[int]] = {}
    for interpreter, node in fused_with_facts(model, base_dir):
        try:
            check_node(interpreter, node)
        except EngineFailed as error:
            made.problems.append(str(error).partition(" Rewrite the original again")[0])
        known = {interpreter.dtype(name) for name in node.input[:3]} - {0, None}
        types.setdefault(node.op_type, set()).update(kind for kind in known if kind is not None)
        if len(known) > 1:
            names = ", ".join(sorted(TensorProto.DataType.Name(kind or 0).lower() for kind in known))
            made.problems.append(f"fused node '{node.name}': query, key and value are of different types: {names}")
    return types


def _check_bodies(model: ModelProto, types: Mapping[str, set[int]], made: Intact) -> None:
    bodies = {f.name: f for f in model.functions if f.domain == DOMAIN}
    nodes: dict[str, list[NodeProto]] = {}
    for node in note.fused_calls(model):
        nodes.setdefault(node.op_type, []).append(node)
    for op_type, calls in sorted(nodes.items()):
        body = bodies.get(op_type)
        made.bodies[op_type] = False
        if body is None:
            made.problems.append(
                f"the function body of {op_type} is gone: {len(calls)} nodes call it, and no runtime without our "
                "kernels can load the file"
            )
        elif not _is_ours(body, calls, types.get(op_type, set())):
            made.problems.append(f"the function body of {op_type} is not as it was written")
        else:
            made.bodies[op_type] = True
    if nodes and DOMAIN not in opset_versions(model):
        made.problems.append(f"the domain '{DOMAIN}' of the fused nodes is no longer imported")


def _is_ours(body: FunctionProto, calls: Sequence[NodeProto], types: set[int]) -> bool:
    """Whether a body is what `rewrite` writes for these nodes, whatever its values are called."""
    opset = next((entry.version for entry in body.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MINIMUM_OPSET:
        return False
    # Where no node can have a row without keys, all say "mean" and the body may do either.
    zero_rows = any(_attribute(node, "empty_rows") == EmptyRows.ZERO.value for node in calls)
    fitting = types or set(_QUERY_TYPES)
    if opset >= TYPED_BODIES_BEFORE:
        # A converter to 16 bits leaves the body of float32, which is right for 16 bits, too.
        fitting = {TensorProto.FLOAT, *fitting}
    try:
        meaning = _meaning(body)
    except ValueError:  # a tensor that contradicts itself
        return False
    variant = BY_OP_TYPE[body.name]
    try:
        moves = Moves.of([layout_of(node) for node in calls])
    except ValueError:  # an attribute of a view was changed
        return False
    said = {_attribute(node, "rows") for node in calls} if variant.lengths else {Alignment.LAST.value}
    if len(said) > 1 or not said <= {one.value for one in Alignment}:
        return False
    (aligned,) = map(Alignment, said)
    if opset < VIEWS_OPSET and (moves.reshaped or moves.sliced):
        return False

    def written(grouped: bool, zero: bool, kind: int, sizes: KnownSizes) -> FunctionProto:
        return function_proto(
            variant, opset, grouped=grouped, zero_rows=zero, query_type=kind, moves=moves, sizes=sizes, aligned=aligned
        )

    return meaning is not None and any(
        meaning == _meaning(written(grouped, zero, kind, sizes))
        for sizes in possible_sizes(variant)
        for grouped in (False, True)
        for zero in sorted({True, zero_rows})
        for kind in sorted(fitting & set(_QUERY_TYPES))
    )


def _attribute(node: NodeProto, name: str) -> str:
    return next((a.s.decode("utf-8", "replace") for a in node.attribute if a.name == name), "")


def _meaning(body: FunctionProto) -> bytes | None:
    """What a body computes, whatever its values are called and in whatever order its nodes stand.

    A digest of the expression of each output; None for what is no expression of the inputs.
    """
    known = {"": b"", **{name: b"input %d" % number for number, name in enumerate(body.input)}}
    for node in body.node:
        operands = [known.get(name) for name in node.input]
        if None in operands:
            return None
        parts = [node.domain.encode(), node.op_type.encode(), *operands, *sorted(map(_content, node.attribute))]
        for number, name in enumerate(node.output):
            known[name] = _digest([b"%d" % number, *(part for part in parts if part is not None)])
    results = [known.get(name) for name in body.output]
    return None if None in results else _digest([part for part in results if part is not None])


def _content(attribute: AttributeProto) -> bytes:
    """An attribute without names and without the choice of how numbers are stored."""
    bare = AttributeProto()
    bare.CopyFrom(attribute)
    bare.ClearField("doc_string")
    bare.ClearField("t")
    numbers = b""
    if attribute.HasField("t"):
        array = numpy_helper.to_array(attribute.t)
        numbers = str((attribute.t.data_type, array.shape)).encode() + array.tobytes()
    return bare.SerializeToString(deterministic=True) + numbers


def _digest(parts: Iterable[bytes]) -> bytes:
    made = sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "little") + part)
    return made.digest()


def _bodies(number: int) -> str:
    return f"{number} function bod{'y' if number == 1 else 'ies'}"
