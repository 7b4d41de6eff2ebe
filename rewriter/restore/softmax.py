"""A softmax that is written out becomes a Softmax node, where that is what it computes.

    exp(z) / sum(exp(z))        exp(z - log(sum(exp(z))))        exp(LogSoftmax(z))

Exporters of other frameworks and older converters write it so, usually with the largest score of the row subtracted
and, in 16-bit models, with casts between.  The operators do not matter.  The element of the quotient is asked for, and
has to be exp(u) over the sum of the same exp(u) along one whole axis.  A factor, an epsilon in the denominator or a
sum over another axis is something else and stays as it is.

    p * m / sum(p * m)          exp(z) * m / sum(exp(z) * m)

are a softmax over the keys that the mask m keeps, whether p are probabilities already or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from ...algebra import ZERO, Apply, Atom, Ind, Index, Poly, Read, Sum, less, of, split, substitute
from ...graph.edit import Editor, all_names
from ...graph.index import Scope, index_graph, int_attribute, label, operator, opset_versions, walk
from ...graph.load import graphs
from ...patterns.layouts import Axis
from ..interpret import Interpreter
from ..interpret.movement import axes_of
from ..interpret.operators import MOVING
from ..interpret.scopes import interpreted
from ..recognise.reductions import reduction
from ..recognise.values import value_product
from ..recognise.views import places_in, softmax_axis
from ..verdicts import Refusal

MOST_HOPS = 8
"""Operators between an exponential and its quotient."""

_ON_THE_WAY = frozenset({"Cast", "CastLike", *MOVING})


@dataclass(frozen=True)
class WrittenOut:
    """A node whose output is the softmax of ``scores`` along ``axis``, over the keys that all of ``seen`` show."""

    node: NodeProto
    scores: str
    axis: int
    seen: tuple[str, ...] = ()


def restore_softmax(model: ModelProto, base_dir: Path, keep: frozenset[str] = frozenset()) -> dict[str, str]:
    """Put Softmax nodes where values are weighed by a softmax that is written out, in place.

    Args:
        model: A working copy.
        base_dir: Where external data lie.
        keep: Outputs that are left as they are.

    Returns:
        Per output of a new Softmax node the quotient that it stands for.
    """
    kinds = {operator(node) for graph in graphs(model) for node in graph.node}
    if "Exp" not in kinds and not {"Softmax", "Div"} <= kinds:
        return {}
    versions = opset_versions(model)
    root = index_graph(model.graph, versions, base_dir)
    if not any(True for scope in walk(root) for _ in _quotients(scope)):
        return {}
    found: list[tuple[Interpreter, list[WrittenOut]]] = []
    for interpreter in interpreted(root):
        interpreter.rules = {**interpreter.rules, ("", "ReduceSum"): _sum}
        interpreter.answers.clear()
        nodes = [n for n in _quotients(interpreter.scope) if n.output[0] not in keep and _weighs(interpreter, n)]
        found.append((interpreter, [w for n in nodes if (w := _written_out(interpreter, n)) is not None]))
    taken = all_names(model) if any(own for _, own in found) else set()
    done: dict[str, str] = {}
    for interpreter, own in found:
        if own:
            editor = Editor(interpreter.scope.graph, versions.get("", 1), taken)
            done.update(_replace(interpreter, editor, softmax) for softmax in own)
            editor.finish()
    return done


def _replace(interpreter: Interpreter, editor: Editor, found: WrittenOut) -> tuple[str, str]:
    """Put the node where the quotient is; its output, and that of the quotient.

    Hidden keys score the lowest number.  Their weights are zero, also in rows that see no key.
    """
    name = found.node.output[0]
    own, wanted = interpreter.dtype(found.scores), interpreter.dtype(name)
    editor.take_over(name)
    scores, seen = found.scores, ""
    for mask in found.seen:
        given = editor.cast(mask, interpreter.dtype(mask), TensorProto.BOOL, f"{name}/seen")
        seen = editor.node("And", [seen, given], f"{name}/seen") if seen else given
    if seen:
        hidden = editor.constant(_scalar(own, lowest=True), f"{name}/hidden")
        scores = editor.node("Where", [seen, scores, hidden], f"{name}/scores")
    bare = own == wanted and not seen
    made = editor.node("Softmax", [scores], f"{name}/softmax", output=name if bare else "", axis=found.axis)
    editor.last().name = label(found.node)
    if seen:
        zero = editor.constant(_scalar(own, lowest=False), f"{name}/zero")
        weights = editor.node("Where", [seen, made, zero], f"{name}/weights", output=name if own == wanted else "")
        editor.cast(weights, own, wanted, f"{name}/cast", output=name)
    else:
        editor.cast(made, own, wanted, f"{name}/cast", output=name)
    editor.place(before=found.node)
    return made, name


def _scalar(dtype: int, *, lowest: bool) -> npt.NDArray[np.generic]:
    """The lowest finite number of a float type, or zero."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    limits = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
    return np.array(limits.min if lowest else 0, kind)


# --- where to look ---------------------------------------------------------------------------------------


def _quotients(scope: Scope) -> Iterator[NodeProto]:
    """Nodes that may end a softmax written out: an exponential, or what divides one or probabilities by something."""
    seen: set[int] = set()
    for node in scope.graph.node:
        kind = operator(node)
        if kind not in ("Exp", "Softmax"):
            continue
        for candidate in [*([node] if kind == "Exp" else []), *_behind(scope, node.output[0], kind == "Exp")]:
            if id(candidate) not in seen and len(candidate.output) == 1:
                yield candidate
            seen.add(id(candidate))


def _behind(scope: Scope, name: str, divided: bool) -> Iterator[NodeProto]:
    """Divisions, products and choices behind a value, past casts and movement; of probabilities only divided ones."""
    pending = [(name, 0, divided)]
    seen: set[str] = set()
    while pending:
        current, hops, quotient = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for use in scope.consumers.get(current, []):
            kind = "" if use.node is None or use.scope is not scope else operator(use.node)
            if use.node is None or hops > MOST_HOPS or kind not in {"Div", "Mul", "Where", *_ON_THE_WAY}:
                continue
            done = quotient or kind == "Div"
            if done and kind in ("Div", "Mul", "Where"):
                yield use.node
            pending.extend((o, hops + 1, done) for o in use.node.output if o)


def _weighs(interpreter: Interpreter, node: NodeProto) -> bool:
    try:
        value_product(interpreter, node)
    except Refusal:
        return False
    return True


# --- what it computes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """exp(exponent) along an axis, over the keys that fulfil all conditions."""

    exponent: Poly
    axis: int
    seen: tuple[Poly, ...] = ()
    scores: str = ""


def _written_out(interpreter: Interpreter, node: NodeProto) -> WrittenOut | None:
    """The softmax that a node ends, or None."""
    name = node.output[0]
    dims = interpreter.dims(name)
    if not dims or not interpreter.dtype(name):
        return None
    places = places_in("x", dims)
    value = interpreter.element(name, places)
    logarithm = _log_softmax(interpreter, value, places)
    if logarithm is not None:
        return WrittenOut(node, *logarithm)
    found = _quotient(interpreter, value, places)
    if found is None:
        difference = _difference(interpreter, value, places)
        found = None if difference is None else _Found(*difference)
    if found is None or (found.axis != len(dims) - 1 and interpreter.scope.opset.get("", 1) < 13):
        return None  # Softmax flattened its operand before opset 13
    scores = found.scores or _holding(interpreter, name, places, found.exponent, dims)
    if scores is None or not interpreter.dtype(scores):
        return None
    seen = [_mask(interpreter, name, places, wanted, dims) for wanted in found.seen]
    masks = tuple(m for m in seen if m is not None)
    return WrittenOut(node, scores, found.axis, masks) if len(masks) == len(seen) else None


def _holding(
    interpreter: Interpreter, name: str, places: tuple[Poly, ...], wanted: Poly, dims: tuple[Poly, ...]
) -> str | None:
    """The nearest tensor with these extents that holds a value."""
    for (tensor, index), known in interpreter.visited(name, places):
        held = interpreter.dims(tensor)
        if index != places or known != wanted or held is None or not interpreter.dtype(tensor):
            continue
        if len(held) == len(dims) and all(interpreter.same(a, b) for a, b in zip(held, dims, strict=True)):
            return tensor
    return None


def _mask(
    interpreter: Interpreter, name: str, places: tuple[Poly, ...], wanted: Poly, dims: tuple[Poly, ...]
) -> str | None:
    """A tensor that holds a condition as 0 and 1, and spreads over the scores as the condition does."""
    for (tensor, index), known in interpreter.visited(name, places):
        held = interpreter.dims(tensor)
        if known != wanted or held is None or len(held) > len(dims) or not interpreter.dtype(tensor):
            continue
        offset = len(dims) - len(held)
        axes = zip(held, index, dims[offset:], places[offset:], strict=True)
        if all((x == p and interpreter.same(e, d)) or (e == 1 and x == 0) for e, x, d, p in axes):
            return tensor
    return None


def _quotient(interpreter: Interpreter, value: Poly, places: tuple[Poly, ...]) -> _Found | None:
    """exp(u) / sum(exp(u)), or the same of probabilities or exponentials of which a mask keeps some.

    Weights of a row of which the mask keeps no key may be set to zero.  The divisor is then compared with zero.
    """
    inverse = next((a for a in value.sorted_atoms() if isinstance(a, Apply) and a.function == "reciprocal"), None)
    kept = value.coefficient_of(inverse) if inverse is not None else ZERO
    weights = [a for a in kept.sorted_atoms() if not isinstance(a, Ind)]
    if inverse is None or len(weights) != 1 or value != kept * of(inverse):
        return None
    factor = kept.coefficient_of(weights[0])
    exponent, scores, own = _exponent(interpreter, weights[0], places)
    if exponent is None or kept != factor * of(weights[0]):
        return None
    for axis, place in enumerate(places):
        index = place.single_atom
        if not isinstance(index, Index) or own not in (None, axis):
            continue
        guarded = _unguarded(factor, inverse.arguments[0], index)
        seen = None if guarded is None else _conditions(guarded[0])
        if guarded is None or seen is None or (scores and not seen):
            continue
        mask, total = guarded
        if _summed_axis(interpreter, mask * of(weights[0]), total, places) == axis:
            return _Found(exponent, axis, seen, scores)
    return None


def _unguarded(factor: Poly, total: Poly, index: Index) -> tuple[Poly, Poly] | None:
    """(factor, total) where the total is positive, if the weights are zero elsewhere; None if something else is."""
    for guard in (a for a in factor.sorted_atoms() if isinstance(a, Ind) and not of(a).depends_on(index)):
        absent, factor = split(factor, guard)
        total = split(total, guard)[1]
        if absent != 0 or guard.condition != less(ZERO, total):
            return None
    return factor, total


def _conditions(mask: Poly) -> tuple[Poly, ...] | None:
    """The indicators, plain or negated, that a factor of 0 and 1 is the product of; None for any other factor."""
    if mask == 1:
        return ()
    if isinstance((1 - mask).single_atom, Ind):
        return (mask,)
    if len(mask.terms) != 1 or mask.terms[0][1] != 1 or not all(isinstance(a, Ind) for a, _ in mask.terms[0][0]):
        return None
    return tuple(of(a) for a, _ in mask.terms[0][0])


def _exponent(interpreter: Interpreter, weight: Atom, places: tuple[Poly, ...]) -> tuple[Poly | None, str, int | None]:
    """(u, tensor of u, axis) of exp(u), or of probabilities that a Softmax over that axis makes of u."""
    if isinstance(weight, Apply) and weight.function == "Exp":
        return weight.arguments[0], "", None
    node = interpreter.scope.producer(weight.tensor) if isinstance(weight, Read) else None
    if node is None or not isinstance(weight, Read) or operator(node) != "Softmax" or weight.indices != places:
        return None, "", None
    axis = softmax_axis(interpreter, node, interpreter.scope.opset.get("", 1))
    return (None, "", None) if axis is None else (interpreter.element(node.input[0], places), node.input[0], axis)


def _difference(interpreter: Interpreter, value: Poly, places: tuple[Poly, ...]) -> tuple[Poly, int] | None:
    """(u, axis) of exp(u - log(sum(exp(u)))), by whatever operator the logarithm of the sum is computed."""
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
    return None


def _sum(interpreter: Interpreter, node: NodeProto, output: int, indices: tuple[Poly, ...]) -> Poly | None:
    """A ReduceSum over one axis as a sum, however few entries it has: written out, it cannot be told from others."""
    axes, dims = axes_of(interpreter, node), interpreter.dims(node.input[0])
    if axes is None or len(axes) != 1 or dims is None:
        return None
    axis, kept = axes[0] % len(dims), int_attribute(node, "keepdims", 1)
    counter = Index(f"#{node.output[0]}", dims[axis], Axis.SUMMED)
    inner = (*indices[:axis], of(counter), *indices[axis + kept :])
    return of(Sum(counter, interpreter.element(node.input[0], inner)))


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
