"""Below the softmax: the product with the values, and where its output goes."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from ...algebra import ONE, Apply, Cond, Ind, Index, Poly, Read, Substitution, conjunction, ind, of, substitute, under
from ...graph.index import Scope, operator
from ...patterns.layouts import CHANGING_WEIGHTS, Axis, axis
from ..interpret import Interpreter
from ..interpret.digits import floordiv
from ..interpret.movement import dropout_is_live
from ..interpret.operators import MOVING
from ..records.reading import Frame, Guard, View
from ..verdicts import Code, Refuser, Stage
from .products import contract, is_contraction
from .views import as_view, indices_of, places_in, quotient, radix

_refuse = Refuser(Stage.SCORES)

Indices = tuple[Poly, ...]

Weighing = tuple[NodeProto, int]
"""The product of probabilities and values, and which of its operands the probabilities are."""

PASS_THROUGH = CHANGING_WEIGHTS | MOVING
"""Operators behind which the product with the values is looked for."""


@dataclass(frozen=True)
class Weighed:
    """What the probabilities weigh, and what comes out.

    Attributes:
        node: The product.
        values: The value operand.
        values_index: Its index, in the names of the site.
        feature: The index that is free in it.
        output: The product's output.
        guard: What becomes of rows without keys on the way.
    """

    node: NodeProto
    values: str
    values_index: Indices
    feature: Index
    output: View
    guard: Guard


def take_values(
    interpreter: Interpreter,
    softmax: NodeProto,
    weighing: Weighing,
    indices: Indices,
    frame: Frame,
    visible: tuple[Cond, ...],
) -> Weighed:
    """The value operand, the output, and what becomes of rows without keys on the way.

    Args:
        interpreter: For elements.
        softmax: The softmax.
        weighing: The product with the values, as ``value_product`` finds it.
        indices: The index of the scores.
        frame: What its indices mean.
        visible: Conditions under which a key is visible.

    Raises:
        Refusal: The probabilities are changed on the way, or the axes of the product cannot be told.
    """
    node, position = weighing
    out = node.output[0]
    dims = interpreter.dims(out)
    if dims is None:
        raise _refuse(Code.NO_VALUE_PRODUCT, node, tensor=out)
    places = places_in("w", dims, Axis.OPEN)
    for _ in range(3):
        product = contract(interpreter, node, places)
        if product is None or product.alpha != 1:
            raise _refuse(Code.NO_VALUE_PRODUCT, node, "not a plain matrix product", tensor=out)
        sides = [(product.left, product.left_index), (product.right, product.right_index)]
        operand, operand_index = sides[position]
        values, values_index = sides[1 - position]
        with interpreter.watch_splits() as splits:
            weight = interpreter.element(operand, operand_index)
            read, guard = _probability(interpreter, softmax, weight, indices, visible)
        if read is None:
            raise _refuse(Code.NO_VALUE_PRODUCT, node, "the probabilities are changed before it", tensor=operand)
        bound = _bind(interpreter, indices, read.indices)
        if bound is not None:
            break
        cut = next(((i, d) for i, d in splits if i.role is Axis.OPEN), None)
        if cut is None:
            cut = next((c for r in read.indices for c in _undivided(r)), None)
        if cut is None:
            raise _refuse(Code.LAYOUT, node, f"indexed {read!r}", tensor=operand)
        index, divisor = cut
        major = quotient(interpreter, index.bound, divisor)
        if major is None:
            raise _refuse(Code.LAYOUT, node, f"{index.name} is not a multiple", tensor=operand)
        first, second = Index(f"{index.name}a", major, Axis.OPEN), Index(f"{index.name}b", divisor, Axis.OPEN)
        parts = of(first) * divisor + of(second)
        places = tuple(substitute(p, {index: parts}) for p in places)
    else:
        raise _refuse(Code.LAYOUT, node, tensor=out)
    if bound.get(product.inner) != of(frame.key):
        raise _refuse(Code.SOFTMAX_AXIS, node, "the product with the values sums over another axis", tensor=operand)
    free = [i for i in indices_of(places) if i not in bound]
    if len(free) != 1:
        raise _refuse(Code.LAYOUT, node, "the feature axis cannot be told", tensor=out)
    feature = axis(Axis.VALUE_FEATURE, free[0].bound)
    bound[free[0]] = of(feature)
    value_index = tuple(substitute(x, bound) for x in values_index)
    output_view = as_view(interpreter, out, tuple(substitute(x, bound) for x in places))
    if output_view is None:
        raise _refuse(Code.LAYOUT, node, tensor=out)
    return Weighed(node, values, value_index, feature, output_view, guard)


def _undivided(value: Poly) -> list[tuple[Index, Poly]]:
    found = []
    for atom in sorted(value.all_atoms()):
        if isinstance(atom, Apply) and atom.function == "floordiv":
            single = atom.arguments[0].single_atom
            if isinstance(single, Index) and single.role is Axis.OPEN:
                found.append((single, atom.arguments[1]))
    return found


def _probability(
    interpreter: Interpreter, softmax: NodeProto, weight: Poly, indices: Indices, visible: tuple[Cond, ...]
) -> tuple[Read | None, Guard]:
    """The softmax output that a weight is a copy of, and what became of rows without keys.

    Setting weights of hidden keys to zero once more only changes rows in which all keys are hidden.
    """
    single = weight.single_atom
    if isinstance(single, Read) and single.tensor == softmax.output[0]:
        return single, Guard.NONE
    reads = [a for a in weight.sorted_atoms() if isinstance(a, Read)]
    guards = [a for a in weight.sorted_atoms() if isinstance(a, Ind)]
    if len(reads) == 1 and len(guards) == 1 and reads[0].tensor == softmax.output[0]:
        guard = guards[0].condition
        probe = guard.value.single_atom if guard.kind == "read" and guard.value is not None else None
        if isinstance(probe, Read) and weight == of(reads[0]) - of(reads[0]) * of(guards[0]):
            node = interpreter.scope.producer(probe.tensor)
            if node is None:
                return None, Guard.NONE
            # Of the same element, before or after a cast.
            if operator(node) == "IsNaN" and interpreter.element(node.input[0], probe.indices) == of(reads[0]):
                return reads[0], Guard.NAN
    of_softmax = [r for r in reads if r.tensor == softmax.output[0]]
    if len(of_softmax) == 1:
        bound = _bind(interpreter, indices, of_softmax[0].indices)
        factor = weight.coefficient_of(of_softmax[0])
        if bound is not None and weight == factor * of(of_softmax[0]):
            kept = substitute(factor, bound)
            seen = conjunction(visible)
            if under(kept, seen) == 1:
                partly = Guard.NONE if kept == 1 else Guard.PART
                return of_softmax[0], Guard.ZEROS if kept == ind(seen) else partly
    return None, Guard.NONE


def _bind(interpreter: Interpreter, frame_index: Indices, read_index: Indices) -> Substitution | None:
    """Solve ``read_index(w) == frame_index(b, h, i, j)`` for the unknown indices w."""
    bound: Substitution = {}
    for known, unknown in zip(frame_index, read_index, strict=True):
        known, unknown = interpreter.facts.normal(known), interpreter.facts.normal(unknown)
        single = unknown.single_atom
        if isinstance(single, Index):
            bound[single] = known
            continue
        names = radix(interpreter, unknown)
        targets = radix(interpreter, known)
        if names is None or targets is None:
            return None
        if len(targets) == 1 and len(names) > 1:
            digits = _digits(interpreter, names, targets[0])
            if digits is None:
                return None
            bound.update(digits)
            continue
        if len(names) != len(targets):
            return None
        bound.update({n: of(t) for n, t in zip(names, targets, strict=True)})
    return bound


def _digits(interpreter: Interpreter, names: tuple[Index, ...], known: Index) -> Substitution | None:
    """The digits of a known index that unknown ones are: heads that rows of a group were folded with."""
    found: Substitution = {}
    rest, extent = of(known), ONE
    for name in reversed(names):
        extent = extent * name.bound
        major = floordiv(rest, name.bound)
        found[name] = rest - major * name.bound
        rest = major
    found[names[0]] = found[names[0]] + rest * names[0].bound
    return found if interpreter.same(extent, known.bound) else None


def value_product(interpreter: Interpreter, softmax: NodeProto) -> Weighing:
    """The product that consumes the probabilities, and which operand they are."""
    scope: Scope = interpreter.scope
    found: list[tuple[NodeProto, int]] = []
    pending = [softmax.output[0]]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or len(seen) > 64:
            continue
        seen.add(name)
        for use in scope.consumers.get(name, []):
            if use.node is None:
                continue
            if use.scope is not scope:
                raise _refuse(Code.CROSSES_SCOPE, use.node, f"'{name}' is used in {use.scope.path}", tensor=name)
            if is_contraction(use.node):
                found.append((use.node, use.position))
            elif operator(use.node) == "Dropout" and dropout_is_live(interpreter, use.node):
                raise _refuse(Code.TRAINING, use.node, tensor=name)
            elif operator(use.node) in PASS_THROUGH:
                pending.extend(o for o in use.node.output if o)
    if not found:
        raise _refuse(Code.NO_VALUE_PRODUCT, softmax, tensor=softmax.output[0])
    return found[0]
