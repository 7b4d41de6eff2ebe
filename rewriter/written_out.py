"""A softmax that is written out becomes a Softmax node, where that is what it computes.

    exp(z) / sum(exp(z))        exp(z - log(sum(exp(z))))        exp(LogSoftmax(z))

Exporters of other frameworks and older converters write it so, usually with the largest score of the row subtracted
and, in 16-bit models, with casts between.  The operators do not matter: the element of the quotient is asked for, and
has to be exp(u) over the sum of the same exp(u) along one whole axis.  A factor, an epsilon in the denominator or a
sum over another axis is something else and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto

from .algebra import Apply, Index, Poly, Read, Sum, of, poly, substitute
from .analyse import interpreted
from .edit import Editor, all_names
from .errors import Refusal
from .graph import index_graph, int_attribute, label, operator, opset_versions
from .interpret import Interpreter
from .interpret.movement import RULES as MOVEMENT
from .io import graphs
from .layout import index_of
from .reductions import reduction
from .values import value_product

MOST_HOPS = 8
"""Operators between an exponential and its quotient."""

UNROLLED = 16
"""The interpreter writes sums over so few entries out."""

_ON_THE_WAY = frozenset({"Cast", "CastLike", *MOVEMENT})


@dataclass(frozen=True)
class WrittenOut:
    """A node whose output is the softmax of ``scores`` along ``axis``."""

    node: NodeProto
    scores: str
    axis: int


def restore_softmax(model: ModelProto, base_dir: Path, keep: frozenset[str] = frozenset()) -> dict[str, str]:
    """Put Softmax nodes where values are weighed by a softmax that is written out, in place.

    Args:
        model: A working copy.
        base_dir: Where external data lie.
        keep: Outputs that are left as they are.

    Returns:
        Per output of a new Softmax node the quotient that it stands for.
    """
    if not any(_has_exponentials(graph) for graph in graphs(model)):
        return {}
    versions = opset_versions(model)
    found: list[tuple[Interpreter, list[WrittenOut]]] = []
    for interpreter in interpreted(index_graph(model.graph, versions, base_dir)):
        own = [w for node in _quotients(interpreter) if (w := _written_out(interpreter, node)) is not None]
        found.append((interpreter, [w for w in own if w.node.output[0] not in keep]))
    taken = all_names(model) if any(own for _, own in found) else set()
    done: dict[str, str] = {}
    for interpreter, own in found:
        if own:
            editor = Editor(interpreter.scope.graph, versions.get("", 1), taken)
            done.update(_replace(interpreter, editor, softmax) for softmax in own)
            editor.finish()
    return done


def _replace(interpreter: Interpreter, editor: Editor, found: WrittenOut) -> tuple[str, str]:
    """Put the node where the quotient is; its output, and that of the quotient."""
    name = found.node.output[0]
    own, wanted = interpreter.dtype(found.scores), interpreter.dtype(name)
    editor.take_over(name)
    made = editor.node(
        "Softmax", [found.scores], f"{name}/softmax", output=name if own == wanted else "", axis=found.axis
    )
    editor.last().name = label(found.node)
    editor.cast(made, own, wanted, f"{name}/cast", output=name)
    editor.place(before=found.node)
    return made, name


# --- where to look ---------------------------------------------------------------------------------------


def _has_exponentials(graph: GraphProto) -> bool:
    return any(node.op_type == "Exp" for node in graph.node)


def _quotients(interpreter: Interpreter) -> Iterator[NodeProto]:
    """Divisions, products and exponentials near an exponential of which the result weighs something."""
    seen: set[int] = set()
    for node in interpreter.scope.graph.node:
        if operator(node) != "Exp":
            continue
        for candidate in [node, *_behind(interpreter, node)]:
            if id(candidate) not in seen and len(candidate.output) == 1 and _weighs(interpreter, candidate):
                yield candidate
            seen.add(id(candidate))


def _behind(interpreter: Interpreter, exponential: NodeProto) -> Iterator[NodeProto]:
    """Divisions and products that read an exponential, past casts and movement."""
    pending = [(exponential.output[0], 0)]
    while pending:
        name, hops = pending.pop()
        for use in interpreter.scope.consumers.get(name, []):
            if use.node is None or use.scope is not interpreter.scope:
                continue
            if operator(use.node) in ("Div", "Mul"):
                yield use.node
            elif operator(use.node) in _ON_THE_WAY and hops < MOST_HOPS:
                pending.extend((o, hops + 1) for o in use.node.output if o)


def _weighs(interpreter: Interpreter, node: NodeProto) -> bool:
    try:
        value_product(interpreter, node)
    except Refusal:
        return False
    return True


# --- what it computes ------------------------------------------------------------------------------------


def _written_out(interpreter: Interpreter, node: NodeProto) -> WrittenOut | None:
    """The softmax that a node ends, or None."""
    name = node.output[0]
    dims = interpreter.dims(name)
    if not dims or not interpreter.dtype(name):
        return None
    places = tuple(index_of(f"x{axis}", extent) for axis, extent in enumerate(dims))
    value = interpreter.element(name, places)
    logarithm = _log_softmax(interpreter, value, places)
    if logarithm is not None:
        return WrittenOut(node, *logarithm)
    found = _quotient(interpreter, value, places) or _difference(interpreter, value, places)
    if found is None:
        return None
    exponent, axis = found
    last = axis == len(dims) - 1
    if not last and interpreter.scope.opset.get("", 1) < 13:
        return None  # Softmax flattened its operand then
    for (tensor, index), known in interpreter.visited(name, places):
        held = interpreter.dims(tensor)
        if index != places or known != exponent or held is None or not interpreter.dtype(tensor):
            continue
        if len(held) == len(dims) and all(interpreter.same(a, b) for a, b in zip(held, dims, strict=True)):
            return WrittenOut(node, tensor, axis)
    return None


def _quotient(interpreter: Interpreter, value: Poly, places: tuple[Poly, ...]) -> tuple[Poly, int] | None:
    """(u, axis) of exp(u) / sum(exp(u))."""
    if len(value.terms) != 1 or value.terms[0][1] != 1:
        return None
    factors = value.terms[0][0]
    exponential = next((a for a, p in factors if p == 1 and isinstance(a, Apply) and a.function == "Exp"), None)
    inverse = next((a for a, p in factors if p == 1 and isinstance(a, Apply) and a.function == "reciprocal"), None)
    if len(factors) != 2 or exponential is None or inverse is None:
        return None
    axis = _summed_axis(interpreter, of(exponential), inverse.arguments[0], places)
    return None if axis is None else (exponential.arguments[0], axis)


def _difference(interpreter: Interpreter, value: Poly, places: tuple[Poly, ...]) -> tuple[Poly, int] | None:
    """(u, axis) of exp(u - log(sum(exp(u)))), whoever computes the logarithm of the sum."""
    whole = value.single_atom
    if not isinstance(whole, Apply) or whole.function != "Exp":
        return None
    exponent = whole.arguments[0]
    for atom in exponent.sorted_atoms():
        if exponent.coefficient_of(atom) != -1:
            continue
        rest = exponent + of(atom)
        if isinstance(atom, Apply) and atom.function == "Log":
            power = of(Apply("Exp", (rest,), whole.rebuild))
            axis = _summed_axis(interpreter, power, atom.arguments[0], places)
        else:
            axis = _log_sum_exp(interpreter, atom, rest, places) if isinstance(atom, Read) else None
        if axis is not None:
            return rest, axis
    return None


def _summed_axis(interpreter: Interpreter, term: Poly, total: Poly, places: tuple[Poly, ...]) -> int | None:
    """The axis along which ``total`` is the sum of ``term``, over all of it."""
    summed = total.single_atom
    for axis, place in enumerate(places):
        index = place.single_atom
        if not isinstance(index, Index):
            continue
        if isinstance(summed, Sum):
            whole = interpreter.same(summed.index.bound, index.bound)
            if whole and summed.term == substitute(term, {index: of(summed.index)}):
                return axis
        extent = index.bound.constant
        if extent is not None and extent <= UNROLLED:
            parts = [substitute(term, {index: poly(k)}) for k in range(int(extent))]
            if total == sum(parts[1:], parts[0]):
                return axis
    return None


def _log_softmax(interpreter: Interpreter, value: Poly, places: tuple[Poly, ...]) -> tuple[str, int] | None:
    """(u, axis) of exp(LogSoftmax(u))."""
    whole = value.single_atom
    read = whole.arguments[0].single_atom if isinstance(whole, Apply) and whole.function == "Exp" else None
    node = interpreter.scope.producer(read.tensor) if isinstance(read, Read) else None
    if node is None or operator(node) != "LogSoftmax" or not isinstance(read, Read) or read.indices != places:
        return None
    recent = interpreter.scope.opset.get("", 1) >= 13
    axis = int_attribute(node, "axis", -1 if recent else 1) % len(places)
    if not recent and axis != len(places) - 1:
        return None
    return (node.input[0], axis) if interpreter.dtype(node.input[0]) else None


def _log_sum_exp(interpreter: Interpreter, read: Read, exponent: Poly, places: tuple[Poly, ...]) -> int | None:
    """The axis along which a read is ReduceLogSumExp of the exponent."""
    found = reduction(interpreter, read, "ReduceLogSumExp")
    if found is None or found.at(places[found.axis]) != places:
        return None
    return found.axis if interpreter.element(found.tensor, places) == exponent else None
