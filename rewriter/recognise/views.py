"""Layouts: which axis of a tensor is batch, head, position and feature, and how to get to [B, H, S, D].

A ``View`` says, per axis of a tensor, which named indices are merged there, major first: a [B*H, S, D]
tensor has axes ((b, h), (s), (d)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from onnx import NodeProto

from ...algebra import ONE, Apply, Index, Number, Poly, min0, of, poly, substitute
from ...graph.index import int_attribute
from ...patterns.layouts import MAX_HOPS, SELECTING, Axis, axis
from ..interpret import Interpreter
from ..interpret.digits import divide
from ..interpret.environment import Split
from ..interpret.movement import source
from ..records.reading import Digits, View


def radix(interpreter: Interpreter, index: Poly) -> tuple[Index, ...] | None:
    """The indices merged in one axis: ``b * H + h`` gives (b, h); None for any other expression.

    Args:
        interpreter: For equalities between sizes.
        index: The index expression of one axis.
    """
    if index.constant is not None:
        return () if index == 0 else None
    parts: list[tuple[Index, Poly]] = []
    rest = index
    for atom in index.sorted_atoms():
        if not isinstance(atom, Index):
            continue
        stride = rest.coefficient_of(atom)
        if not stride.terms:
            continue
        parts.append((atom, stride))
        rest = rest - stride * of(atom)
    if rest != 0:
        return None
    ordered: list[Index] = []
    weight = ONE
    while parts:
        match = next((p for p in parts if interpreter.same(p[1], weight)), None)
        if match is None:
            return None
        parts.remove(match)
        ordered.insert(0, match[0])
        weight = weight * match[0].bound
    return tuple(ordered)


def as_view(interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...], *, parts: bool = False) -> View | None:
    """The view that an index expression describes, with every named index in exactly one place.

    With ``parts``, an axis may be longer than its index.  Only its beginning is meant then.
    """
    question = ("view", tensor, indices, parts)
    return interpreter.facts.once(question, lambda: _as_view(interpreter, tensor, indices, parts))


def _as_view(interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...], parts: bool) -> View | None:
    axes = []
    prefix: list[int] = []
    seen: set[Index] = set()
    cut = digits_in(indices)
    replaced = {a: p for d in cut for a, p in d.replacement.items()}
    for position, index in enumerate(indices):
        digits = substitute(index, replaced)
        names = radix(interpreter, interpreter.facts.normal(digits))
        names = None if names is None else joined(names, cut)
        if names is None or any(n in seen for n in names):
            return None
        dims = interpreter.dims(tensor)
        if not names and dims is not None and dims[position] != 1:
            return None
        if names and dims is not None and not _covers(interpreter, names, dims[position]):
            spare = interpreter.facts.normal(min0(interpreter.facts.normal(dims[position] - names[0].bound)))
            if not parts or len(names) > 1 or names[0].role not in (Axis.ROW, Axis.KEY) or spare != 0:
                return None
            prefix.append(position)
        seen.update(names)
        axes.append(names)
    both = tuple(d for d in cut if d.major in seen and d.minor in seen)
    return View(tensor, tuple(axes), prefix=tuple(prefix), digits=both)


def digits_of(index: Index, group: Poly) -> Digits | None:
    """The digits of an index by a group size, or None where its extent is no multiple."""
    count = divide(index.bound, group)
    if count is None:
        return None
    major = Axis.KEY_HEAD if index.role is Axis.HEAD else None
    return Digits(index, Index(f"{index.name}_kv", count, major), Index(f"{index.name}_in", group))


def digits_in(indices: tuple[Poly, ...]) -> list[Digits]:
    """Indices of which only ``h // G`` is used somewhere, as by the keys of grouped-query attention."""
    found: dict[Index, Digits] = {}
    for index in indices:
        for atom in index.sorted_atoms():
            if isinstance(atom, Apply) and atom.function == "floordiv":
                whole, group = atom.arguments
                single = whole.single_atom
                if isinstance(single, Index) and group.constant and single not in found:
                    digits = digits_of(single, group)
                    if digits is not None:
                        found[single] = digits
    return list(found.values())


def joined(names: tuple[Index, ...], cut: list[Digits]) -> tuple[Index, ...]:
    """Names of an axis, where both digits of an index that stand side by side become the index itself."""
    for digits in cut:
        pair = (digits.major, digits.minor)
        for place in range(len(names) - 1):
            if names[place : place + 2] == pair:
                names = (*names[:place], digits.whole, *names[place + 2 :])
                break
    return names


def reshaped(interpreter: Interpreter, view: View, tensor: str, dims: tuple[Poly, ...]) -> View | None:
    """The view of a tensor with these extents that a Reshape makes of another one; None where it cuts an index."""
    names = list(view.indices)
    axes: list[tuple[Index, ...]] = []
    for extent in dims:
        own: list[Index] = []
        total = ONE
        while names and not (own and interpreter.same(total, extent)) and not (extent == 1 and not own):
            own.append(names.pop(0))
            total = total * own[-1].bound
        if not interpreter.same(total, extent):
            return None
        axes.append(joined(tuple(own), list(view.digits)))
    if names:
        return None
    held = {n for axis in axes for n in axis}
    left = tuple(d for d in view.digits if d.whole not in held)
    return View(tensor, tuple(axes), digits=left)


def _covers(interpreter: Interpreter, names: tuple[Index, ...], extent: Poly) -> bool:
    total = ONE
    for name in names:
        total = total * name.bound
    return interpreter.same(total, extent)


def scalar_factor(interpreter: Interpreter, node: NodeProto) -> tuple[str, Number] | None:
    """(operand, factor) of a multiplication or division by one constant number."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Mul", "Div"):
        return None
    for position in (1, 0) if node.op_type == "Mul" else (1,):
        value = interpreter.scalar(node.input[position])
        if value is not None and value.constant:
            other = interpreter.dims(node.input[1 - position])
            rank = interpreter.rank(node.input[position])
            if other is None or rank is None or rank > len(other):
                continue
            factor = Fraction(value.constant)
            return node.input[1 - position], factor if node.op_type == "Mul" else 1 / factor
    return None


def key_head(view: View, head: Index | None) -> Index | None:
    """The head index that keys or values have: the query's, one per group, or None."""
    if head is None or head in view.indices or any(d.whole == head for d in view.digits):
        return head
    return next((i for i in view.indices if i.role is Axis.KEY_HEAD), None)


def find_view(
    interpreter: Interpreter,
    tensor: str,
    indices: tuple[Poly, ...],
    wanted: tuple[Index, ...],
    fits: Callable[[View], bool] = lambda view: True,
    *,
    factors: bool = True,
) -> View | None:
    """The best tensor to take an operand from, on the way up through pure movement and constant factors.

    Preferred is a tensor whose axes are single indices in the order ``wanted``.  A tensor whose axes are single comes
    next, then any other (the operand itself, say [B*H, S, D]), best without heads that are cut in two.  Factors met
    on the way are collected.

    Args:
        interpreter: For what tensors are made of.
        tensor: The operand of the product.
        indices: The index in it.
        wanted: The indices of a canonical layout, in order.
        fits: Which views may be taken.
        factors: Whether a view may leave a factor to be multiplied with.
    """
    best: tuple[tuple[int, int, int], View] | None = None
    factor: Number = Fraction(1)
    peels = 0
    for hop in range(MAX_HOPS):
        view = as_view(interpreter, tensor, indices)
        if view is not None and fits(view):
            view = replace(view, factor=factor)
            order = tuple(i for i in wanted if i in view.indices)
            rank = 2 if view.merged else (0 if view.indices == order and len(view.axes) == 4 else 1)
            rank = 3 if view.digits else rank
            if best is None or (rank, -peels, hop) < best[0]:
                best = ((rank, -peels, hop), view)
        step = _above(interpreter, tensor, indices)
        if step is None or (step[2] != 1 and not factors):
            break
        if best is not None and best[0][0] == 0 and step[2] == 1:
            break
        tensor, indices, times = step
        factor = factor * times
        peels += times != 1
    return best[1] if best is not None else None


def _above(
    interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...]
) -> tuple[str, tuple[Poly, ...], Number] | None:
    """One step up: the tensor that this one is moved or scaled from, the index in it, and the factor."""
    question = ("above", tensor, indices, interpreter.inexact)
    return interpreter.facts.once(question, lambda: _step(interpreter, tensor, indices))


def _step(
    interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...]
) -> tuple[str, tuple[Poly, ...], Number] | None:
    node = interpreter.scope.producer(tensor)
    if node is None or interpreter.scope.constant(tensor) is not None:
        return None
    peeled = scalar_factor(interpreter, node)
    if peeled is not None:
        other = interpreter.dims(peeled[0])
        return (peeled[0], indices, peeled[1]) if other is not None and len(other) == len(indices) else None
    if node.op_type in SELECTING:
        return None
    moved = source(interpreter, node, list(node.output).index(tensor), indices)
    return None if moved is None else (*moved, Fraction(1))


def origin(interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...]) -> tuple[Poly, ...]:
    """The index in the tensor that an operand is a copy of.  Copies that repeat it do not matter."""
    for _ in range(MAX_HOPS):
        step = _above(interpreter, tensor, indices)
        if step is None:
            break
        tensor, indices, _factor = step
    return indices


def beside(interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...], inner: Index) -> set[Index]:
    """The indices that share an axis with the features somewhere upstream.  Heads do where a projection makes both."""
    found: set[Index] = set()
    for _ in range(MAX_HOPS):
        view = as_view(interpreter, tensor, indices)
        for names in () if view is None else view.axes:
            found.update(names if inner in names else ())
        step = _above(interpreter, tensor, indices)
        if step is None:
            break
        tensor, indices, _factor = step
    return found - {inner}


def discover_splits(interpreter: Interpreter, tensor: str, indices: tuple[Poly, ...]) -> list[Split]:
    """Where a Reshape upstream cuts an index in two, e.g. [B, S, H, D] behind a [B*H, S, D] operand."""
    with interpreter.watch_splits() as found:
        for _ in range(MAX_HOPS):
            step = _step(interpreter, tensor, indices)  # not ``_above``, whose remembered answers cut nothing
            if step is None or found:
                break
            tensor, indices, _factor = step
    return found


def unify(interpreter: Interpreter, pattern: Poly, value: tuple[Index, ...], found: dict[Index, Index]) -> bool:
    """Bind the indices of ``pattern`` (an axis in unknown indices) to the known ones merged in that axis."""
    names = radix(interpreter, pattern)
    if names is None or len(names) != len(value):
        return False
    for unknown, known in zip(names, value, strict=True):
        if not interpreter.same(unknown.bound, known.bound):
            return False
        found[unknown] = known
    return True


def softmax_axis(interpreter: Interpreter, node: NodeProto, opset: int) -> int | None:
    """The axis of a Softmax as a non-negative number; None where old flattening semantics mix axes.

    Before opset 13 Softmax works on the input flattened to two axes, which is a softmax over the last
    axis only if the given one is the last.
    """
    dims = interpreter.dims(node.input[0])
    if not dims:
        return None
    place = int_attribute(node, "axis", -1 if opset >= 13 else 1) % len(dims)
    if opset < 13 and any(d != 1 for d in dims[place + 1 :]):
        return None
    return place


def index_of(role: Axis, extent: Poly) -> Poly:
    """The index of an axis that has a role, or 0 where it has extent 1."""
    return poly(0) if extent == 1 else of(axis(role, extent))


def places_in(letter: str, dims: tuple[Poly, ...], role: Axis | None = None) -> tuple[Poly, ...]:
    """An index for every axis of a tensor, the letter with the axis' number; 0 where it has extent 1."""
    return tuple(poly(0) if d == 1 else of(Index(f"{letter}{a}", d, role)) for a, d in enumerate(dims))


def quotient(interpreter: Interpreter, bound: Poly, divisor: Poly) -> Poly | None:
    """Bound / divisor where that is exact, by what is known about sizes."""
    return divide(interpreter.facts.normal(bound), interpreter.facts.normal(divisor))


def present(*names: Index | None) -> tuple[Index, ...]:
    """The indices that a site has."""
    return tuple(n for n in names if n is not None)


def indices_of(expressions: tuple[Poly, ...]) -> list[Index]:
    """Index variables that stand in index expressions, in order, with repetitions."""
    return [a for x in expressions for a in x.atoms if isinstance(a, Index)]
