"""From a Softmax to an attention site: the product above it, the product below it, and names for every axis."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

from onnx import NodeProto

from ...algebra import Index, Poly, Substitution, of, poly, render, substitute
from ...graph.index import label
from ...patterns.layouts import BESIDE_KEYS, CUT_INTO, READINGS, WITHOUT_HEADS, WITHOUT_ROWS, Axis, axis
from ..interpret import Interpreter
from ..interpret.digits import floordiv
from ..records.reading import Attention, Frame, View
from ..verdicts import Code, Refusal, Refuser, Stage
from .products import Contraction
from .scores import Scores, take_scores
from .values import Weighed, Weighing, take_values, value_product
from .views import (
    as_view,
    beside,
    discover_splits,
    find_view,
    index_of,
    indices_of,
    key_head,
    origin,
    present,
    quotient,
    softmax_axis,
)

_refuse = Refuser(Stage.SCORES)

Indices = tuple[Poly, ...]
Operand = tuple[str, Indices]


def attentions(interpreter: Interpreter, softmax: NodeProto) -> list[Attention]:
    """The readings of a softmax as attention, likeliest first.

    Several readings differ in which axis is the head and which the query row.  The shapes do not always tell, so the
    bias has to (see ``prove``).

    Raises:
        Refusal: The softmax is not an attention that can be rewritten, whatever its bias is.
    """
    scope = interpreter.scope
    keys = softmax_axis(interpreter, softmax, scope.opset.get("", 1))
    dims = interpreter.dims(softmax.input[0])
    if dims is None or keys is None:
        raise _refuse(
            Code.SOFTMAX_AXIS, softmax, "its axes cannot be told apart", tensor=softmax.input[0], stage=Stage.ANCHOR
        )
    weighing = value_product(interpreter, softmax)  # without one this softmax is a classifier or a router
    if len(dims) not in BESIDE_KEYS:
        raise _refuse(Code.SOFTMAX_AXIS, softmax, f"rank {len(dims)}", tensor=softmax.input[0], stage=Stage.ANCHOR)
    readings = []
    for indices in _split_axes(interpreter, softmax, _axis_names(dims, keys)):
        score = take_scores(interpreter, softmax, indices)
        for renamed, frame in _readings(interpreter, score, indices):
            # Under the same names they are the same scores.
            readings.append((renamed, frame, score if renamed == indices else None))
    if not readings:
        raise _refuse(
            Code.SOFTMAX_AXIS,
            softmax,
            f"the softmax runs over axis {keys}, which is not the key axis of the product",
            tensor=softmax.input[0],
        )
    found: list[Attention] = []
    refusal: Refusal | None = None
    for renamed, frame, taken in readings:
        try:
            taken = taken or take_scores(interpreter, softmax, renamed)
            found.append(_assemble(interpreter, softmax, taken, weighing, renamed, frame))
        except Refusal as reason:
            refusal = refusal or reason
    if not found and refusal is not None:
        raise refusal
    return found


# --- axes ------------------------------------------------------------------------------------------------


def _axis_names(dims: tuple[Poly, ...], keys: int) -> Indices:
    rest = iter(BESIDE_KEYS[len(dims)])
    return tuple(index_of(Axis.KEY if place == keys else next(rest), d) for place, d in enumerate(dims))


def _split_axes(interpreter: Interpreter, softmax: NodeProto, indices: Indices) -> list[Indices]:
    """Cut axes that hold two indices ([B*H, S, S]) where a Reshape of query, key or value cuts them.

    Where nothing upstream tells, an extent such as 6*B is cut both ways, heads minor or heads major.
    """
    for _ in range(3):
        product = take_scores(interpreter, softmax, indices).product
        splits = discover_splits(interpreter, product.left, product.left_index)
        splits += discover_splits(interpreter, product.right, product.right_index)
        own = {a for x in indices for a in x.atoms if isinstance(a, Index)}
        cut = next(((i, d) for i, d in splits if i in own and i.role in CUT_INTO), None)
        if cut is None:
            break
        replaced = _cut_axis(interpreter, indices, *cut)
        if replaced is None:
            break
        indices = replaced
    guesses = [c for i in sorted(own) for c in _by_content(interpreter, i)]
    found = [r for c in guesses if (r := _cut_axis(interpreter, indices, *c)) is not None]
    return found or [indices]


def _cut_axis(interpreter: Interpreter, indices: Indices, index: Index, divisor: Poly) -> Indices | None:
    major = quotient(interpreter, index.bound, divisor)
    if major is None:
        return None
    assert isinstance(index.role, Axis)
    first, second = CUT_INTO[index.role]
    parts = axis(first, major), axis(second, divisor)
    if major == 1:
        replacement = of(parts[1])
    elif divisor == 1:
        replacement = of(parts[0])
    else:
        replacement = of(parts[0]) * divisor + of(parts[1])
    return tuple(substitute(x, {index: replacement}) for x in indices)


def _by_content(interpreter: Interpreter, index: Index) -> list[tuple[Index, Poly]]:
    """The heads in [B*6, S, S].  An extent that is a number times sizes is a batch times that many heads."""
    bound = interpreter.facts.normal(index.bound)
    if index.role is not Axis.LEADING or len(bound.terms) != 1:
        return []
    monomial, coefficient = bound.terms[0]
    if not monomial or coefficient == 1:
        return []
    return [(index, poly(coefficient)), (index, Poly({monomial: 1}))]


def _readings(interpreter: Interpreter, score: Scores, indices: Indices) -> list[tuple[Indices, Frame]]:
    """Assignments of batch, head and row to the axes, under which keys do not depend on the row."""
    names = list(dict.fromkeys(indices_of(indices)))
    key = next(i for i in names if i.role is Axis.KEY)
    (_, query_side), (repeated, key_side) = _query_and_key(score.product, key)
    key_side = origin(interpreter, repeated, key_side)
    others = [i for i in names if i != key]
    grouped = _grouped(indices, others, query_side, key_side, key)
    if len(others) > 3:
        return grouped
    if not others:
        return [_reading(indices, {}, key)]
    roles = READINGS[len(others)]
    if len(others) == 2 and any(o.role is Axis.BATCH for o in others):
        roles = WITHOUT_HEADS
    found: list[tuple[Indices, Frame]] = []
    for order in permutations(roles):
        row = others[order.index(Axis.ROW)]
        if not any(x.depends_on(row) for x in key_side) and any(x.depends_on(row) for x in query_side):
            found.append(_reading(indices, dict(zip(others, order, strict=True)), key))
    if roles == READINGS[2]:
        # [B, S, S] without heads is as good as [H, S, S] without batch; the bias decides.
        for order in permutations(WITHOUT_HEADS):
            if not any(x.depends_on(others[order.index(Axis.ROW)]) for x in key_side):
                found.append(_reading(indices, dict(zip(others, order, strict=True)), key))
    if not found and len(others) < 3:
        # S_q == 1: there is no row axis.
        found.append(_reading(indices, dict(zip(others, WITHOUT_ROWS[-len(others) :], strict=True)), key))
    return found + grouped


def _grouped(
    indices: Indices, others: list[Index], query_side: Indices, key_side: Indices, key: Index
) -> list[tuple[Indices, Frame]]:
    """Readings in which a head is two axes: one that keys have too, and one of the queries that share them.

    Of the axes that keys have, one may be the batch instead.  Of those that only queries have, one is the row.  The
    shapes do not tell, so the bias decides.
    """
    shared = [o for o in others if any(x.depends_on(o) for x in key_side)]
    own = [o for o in others if o not in shared and any(x.depends_on(o) for x in query_side)]
    if not 1 <= len(shared) <= 2 or not 1 <= len(own) <= 2 or len(shared) + len(own) != len(others):
        return []
    found = []
    for row in reversed(own) if len(own) == 2 else (None,):
        group = next(o for o in own if o != row)
        for major in reversed(shared):
            batch = next((o for o in shared if o != major), None)
            if major.bound.constant is None or group.bound.constant is None:
                continue
            head = axis(Axis.HEAD, major.bound * group.bound)
            first = floordiv(of(head), group.bound)
            renamed: Substitution = {major: first, group: of(head) - first * group.bound}
            row_index = axis(Axis.ROW, poly(1) if row is None else row.bound)
            if row is not None:
                renamed[row] = of(row_index)
            batch_index = None if batch is None else axis(Axis.BATCH, batch.bound)
            if batch is not None and batch_index is not None:
                renamed[batch] = of(batch_index)
            found.append((tuple(substitute(x, renamed) for x in indices), Frame(batch_index, head, row_index, key)))
    return found


def _reading(indices: Indices, roles: dict[Index, Axis], key: Index) -> tuple[Indices, Frame]:
    """The indices renamed to their roles; a row axis of extent 1 where none has that role."""
    bound = {role: axis(role, index.bound) for index, role in roles.items()}
    renamed: Substitution = {index: of(bound[role]) for index, role in roles.items()}
    row = bound.get(Axis.ROW, axis(Axis.ROW, poly(1)))
    frame = Frame(bound.get(Axis.BATCH), bound.get(Axis.HEAD), row, key)
    return tuple(substitute(x, renamed) for x in indices), frame


def _query_and_key(product: Contraction, key: Index) -> tuple[Operand, Operand]:
    """The operands of the product: the one that depends on the key is the key side."""
    left, right = (product.left, product.left_index), (product.right, product.right_index)
    return (right, left) if any(x.depends_on(key) for x in product.left_index) else (left, right)


# --- operands --------------------------------------------------------------------------------------------


def _assemble(
    interpreter: Interpreter, softmax: NodeProto, score: Scores, weighing: Weighing, indices: Indices, frame: Frame
) -> Attention:
    product = score.product
    query, key = _query_and_key(product, frame.key)
    inner = product.inner
    if frame.batch in beside(interpreter, *query, inner):
        raise _refuse(
            Code.SLOPE_NOT_PER_HEAD,
            product.node,
            "what would be the batch is part of the features, so the bias differs between batches, not heads",
            tensor=query[0],
        )
    query_view = find_view(
        interpreter, *query, present(frame.batch, frame.head, frame.row, inner), lambda view: _is_whole(view, frame)
    )
    key_view = find_view(interpreter, *key, present(frame.batch, frame.head, frame.key, inner))
    if query_view is None or key_view is None:
        missing, index = query if query_view is None else key
        raise _refuse(Code.LAYOUT, product.node, f"indexed [{', '.join(map(repr, index))}]", tensor=missing)
    weighed = take_values(interpreter, softmax, weighing, indices, frame, score.visible)
    key_view, value_view = _with_equal_heads(interpreter, frame, (*key, inner), key_view, weighed)
    return Attention(
        anchor=softmax,
        scope=interpreter.scope,
        frame=frame,
        scores=softmax.input[0],
        scores_index=indices,
        scale=score.scale * query_view.factor * key_view.factor,
        terms=score.terms,
        visible=score.visible,
        query=query_view,
        key=key_view,
        value=value_view,
        output=weighed.output,
        half=score.half,
        hidden=score.hidden,
        replaced_at=score.replaced_at,
        guard=weighed.guard,
        product=product.node.output[0],
        weighing=weighed.node.output[0],
        factor=score.factor,
        steps=[
            f"scores = {float(score.scale):.6g}"
            f" * {query[0]} . {key[0]} ({product.node.op_type} '{label(product.node)}')",
        ],
    )


def _is_whole(query: View, frame: Frame) -> bool:
    """Whether a query has a row of its own for every batch, head and row.  What repeats them lies below it."""
    rows = () if frame.row.bound == 1 else (frame.row,)
    held = query.indices
    return key_head(query, frame.head) == frame.head and all(i in held for i in present(frame.batch, *rows))


def _with_equal_heads(
    interpreter: Interpreter, frame: Frame, key: tuple[str, Indices, Index], key_view: View, weighed: Weighed
) -> tuple[View, View]:
    """Keys and values with the same heads.  One of them may exist with repeated heads only.

    Raises:
        Refusal: They have other heads wherever they are taken from, or cannot be brought into a layout at all.
    """
    values, values_index, feature = weighed.values, weighed.values_index, weighed.feature

    def value_of(fits: Callable[[View], bool]) -> View | None:
        wanted = present(frame.batch, frame.head, frame.key, feature)
        found = find_view(interpreter, values, values_index, wanted, fits)
        if found is None or found.factor != 1:
            found = as_view(interpreter, values, values_index)
        return found if found is not None and fits(found) else None

    best = value_of(lambda view: True)
    if best is None:
        raise _refuse(Code.LAYOUT, weighed.node, tensor=values)
    for heads in (key_head(key_view, frame.head), key_head(best, frame.head)):

        def fits(view: View, heads: Index | None = heads) -> bool:
            return key_head(view, frame.head) == heads and all(i in view.indices for i in present(frame.batch))

        ours: View | None = key_view  # the best of all is the best of those that fit, if it does
        if not fits(key_view):
            ours = find_view(interpreter, *key[:2], present(frame.batch, frame.head, frame.key, key[2]), fits)
        theirs = value_of(fits)
        if ours is not None and theirs is not None:
            return ours, theirs
    raise _refuse(
        Code.LAYOUT,
        weighed.node,
        f"keys have {_count(key_view, frame.head)} heads, values {_count(best, frame.head)}",
        tensor=values,
    )


def _count(view: View, head: Index | None) -> str:
    heads = key_head(view, head)
    return "1" if heads is None else render(heads.bound)
