"""Attention operators as sites.  The bias is an operand, so most of the work is naming axes."""

from __future__ import annotations

import math
from fractions import Fraction

from onnx import NodeProto, TensorProto

from ...algebra import Cond, Index, Poly, conjunction, conjuncts, less_equal, of, poly
from ...graph.index import attribute as attribute_of
from ...graph.index import float_attribute, int_attribute, label
from ...patterns.caches import PAST, RANK, SEQUENCE_AXIS
from ...patterns.layouts import OPERANDS, SEQUENCE, Axis, axis
from ...patterns.operators import OperatorPattern
from ..interpret import Interpreter
from ..interpret.digits import divide, floordiv
from ..interpret.engine import UnknownRank
from ..prepare.features import version_of
from ..records.reading import Attention, Frame, Guard, View
from ..verdicts import Code, Refuser, Stage
from .features import check_features
from .views import find_view, index_of
from .visibility import Masked, is_half, unmask

_refuse = Refuser(Stage.SCORES)


def attention(interpreter: Interpreter, node: NodeProto, pattern: OperatorPattern) -> Attention:
    """The site of an attention operator.

    Raises:
        Refusal: It uses a feature that the fused node lacks, or its axes cannot be named.
    """
    operands = _operands(interpreter, node, pattern)
    query, key, value = (operands[n] for n in ("query", "key", "value"))
    heads, key_heads, width = _heads(interpreter, node, pattern, query, key)
    query_dims, key_dims = _dims(interpreter, node, query), _dims(interpreter, node, key)
    batch = index_of(Axis.BATCH, query_dims[0])
    rows, new_keys = query_dims[SEQUENCE[len(query_dims)]], key_dims[SEQUENCE[len(key_dims)]]
    cached = _cached(interpreter, node, operands)
    total = interpreter.facts.normal(new_keys + cached)
    head, row, column = axis(Axis.HEAD, heads), axis(Axis.ROW, rows), axis(Axis.KEY, total)
    frame = Frame(_index(batch), head, row, column)
    inner = axis(Axis.FEATURE, width)
    group = divide(heads, key_heads)
    if group is None:
        raise _refuse(Code.LAYOUT, node, f"{heads!r} heads, {key_heads!r} key heads", tensor=key)
    key_head = floordiv(of(head), group) if group != 1 else of(head)
    new_column = column if cached == 0 else axis(Axis.KEY, new_keys)
    feature = axis(Axis.VALUE_FEATURE, _value_width(interpreter, node, value, key_heads))
    # The scale takes the factors of query and key in.  Nothing takes that of values, nor that of keys which are
    # appended to a cache or are outputs.
    handed_on = cached != 0 or any(p < len(node.output) and node.output[p] for p in pattern.outputs.values())
    views = {
        name: _operand(interpreter, node, tensor, (batch, place, position, last), factors=taken_in)
        for name, tensor, place, position, last, taken_in in (
            ("query", query, of(head), row, inner, True),
            ("key", key, key_head, new_column, inner, not handed_on),
            ("value", value, key_head, new_column, feature, False),
        )
    }
    bias = operands["bias"]
    _check_columns(interpreter, node, pattern, bias, total)
    half = is_half(interpreter, bias)
    masked, bias_index = _bias(interpreter, node, bias, batch, frame, half)
    causality = _own_causality(interpreter, node, pattern, frame, cached)
    scale = _scale(node, pattern, query, width)
    return Attention(
        anchor=node,
        scope=interpreter.scope,
        frame=frame,
        scores=bias,
        scores_index=bias_index,
        scale=Fraction(scale) * views["query"].factor * views["key"].factor,
        terms=masked.value,
        visible=conjuncts(conjunction((*masked.visible, *causality))),
        half=half,
        query=views["query"],
        key=views["key"],
        value=views["value"],
        output=_output(node, frame, feature, len(query_dims)),
        hidden=masked.hidden,
        guard=_guard(pattern, version_of(interpreter.scope, pattern), causal=bool(causality)),
        own_causality=bool(causality),
        extra_outputs={
            name: node.output[p] for name, p in pattern.outputs.items() if p < len(node.output) and node.output[p]
        },
        past={n: operands[n] for n in PAST.values() if n in operands},
        steps=[f"{node.op_type} '{label(node)}': scale {scale:.9g}, bias '{bias}'"],
    )


def _operands(interpreter: Interpreter, node: NodeProto, pattern: OperatorPattern) -> dict[str, str]:
    """The operator's inputs by what they are.

    Raises:
        Refusal: It has no bias, or uses what is not understood.
    """
    operands = {name: node.input[p] for name, p in pattern.inputs.items() if p < len(node.input) and node.input[p]}
    if "bias" not in operands:
        raise _refuse(Code.NO_BIAS, node, f"{node.op_type} has no bias input", stage=Stage.ANCHOR)
    check_features(interpreter, node, pattern)
    missing = [n for n in ("query", "key", "value") if n not in operands]
    if missing:
        found = f"it has no {missing[0]} of its own (packed operands)"
        raise _refuse(Code.FEATURE, node, found, stage=Stage.ANCHOR)
    return operands


def _value_width(interpreter: Interpreter, node: NodeProto, value: str, key_heads: Poly) -> Poly:
    """The size of a head of the values."""
    dims = _dims(interpreter, node, value)
    if len(dims) == 4 and not interpreter.same(dims[1], key_heads):
        found = f"{dims[1]!r} heads of values, {key_heads!r} of keys"
        raise _refuse(Code.LAYOUT, node, found, tensor=value)
    width = dims[3] if len(dims) == 4 else divide(dims[2], key_heads)
    if width is None:
        raise _refuse(Code.LAYOUT, node, tensor=value)
    return width


def _scale(node: NodeProto, pattern: OperatorPattern, query: str, width: Poly) -> float:
    """The factor of query times key; one over the root of the head size if none is given."""
    scale = float_attribute(node, "scale", 0.0)
    if attribute_of(node, "scale") is not None and not pattern.zero_scale_is_default and not scale > 0:
        raise _refuse(Code.FEATURE, node, f"scale = {scale:g} has no square root that scales", stage=Stage.ANCHOR)
    if scale:
        return scale
    size = width.constant
    if not size:
        why = "not fixed" if size is None else "zero"
        raise _refuse(Code.SCALE_UNKNOWN, node, f"the head size is {why}", tensor=query)
    return 1.0 / math.sqrt(float(size))


def _output(node: NodeProto, frame: Frame, feature: Index, rank: int) -> View:
    """The operator's result, laid out as its query of that rank is; axes of one element hold no index."""
    if not node.output[0]:
        raise _refuse(Code.FEATURE, node, "its result is left out", stage=Stage.ANCHOR)
    named = {Axis.BATCH: frame.batch, Axis.HEAD: frame.head, Axis.ROW: frame.row, Axis.FEATURE: feature}
    axes = [[named[role] for role in held] for held in OPERANDS[rank]]
    return View(node.output[0], tuple(tuple(i for i in held if i is not None and i.bound != 1) for held in axes))


def _guard(pattern: OperatorPattern, version: int, *, causal: bool) -> Guard:
    """What the operator does about rows of which no key scores more than the lowest number, or than minus infinity."""
    if pattern.zero_rows_at is None or (pattern.zero_rows_if_causal and not causal):
        return Guard.NONE
    if version in pattern.disputed:
        return Guard.DISPUTED
    return Guard.NAN if math.isinf(pattern.zero_rows_at) else Guard.LOWEST


def _dims(interpreter: Interpreter, node: NodeProto, tensor: str) -> tuple[Poly, ...]:
    dims = interpreter.dims(tensor)
    if dims is None or len(dims) not in OPERANDS:
        raise _refuse(Code.LAYOUT, node, "its rank is not 3 or 4", tensor=tensor, stage=Stage.ANCHOR)
    return tuple(interpreter.facts.normal(d) for d in dims)


def _heads(
    interpreter: Interpreter, node: NodeProto, pattern: OperatorPattern, query: str, key: str
) -> tuple[Poly, Poly, Poly]:
    """(query heads, key heads, head size)."""
    query_dims, key_dims = _dims(interpreter, node, query), _dims(interpreter, node, key)
    if len(query_dims) == 4:
        heads, width = query_dims[1], query_dims[3]
    else:
        count = int_attribute(node, pattern.heads, 0)
        found = divide(query_dims[2], poly(count)) if count else None
        if found is None:
            raise _refuse(Code.LAYOUT, node, f"{pattern.heads} = {count}", tensor=query, stage=Stage.ANCHOR)
        heads, width = poly(count), found
    if len(key_dims) == 4:
        key_heads = key_dims[1]
    else:
        key_heads = poly(int_attribute(node, pattern.key_heads, 0)) if pattern.key_heads else heads
        if key_heads == 0:
            key_heads = heads
    return heads, key_heads, width


def _cached(interpreter: Interpreter, node: NodeProto, operands: dict[str, str]) -> Poly:
    """The number of cached keys."""
    past = operands.get(PAST["key"])
    if past is None:
        return poly(0)
    dims = interpreter.dims(past)
    if dims is None or len(dims) != RANK or PAST["value"] not in operands:
        raise _refuse(Code.LAYOUT, node, tensor=past, stage=Stage.ANCHOR)
    return interpreter.facts.normal(dims[SEQUENCE_AXIS])


def _index(value: Poly) -> Index | None:
    atom = value.single_atom
    return atom if isinstance(atom, Index) else None


def _operand(
    interpreter: Interpreter,
    node: NodeProto,
    tensor: str,
    axes: tuple[Poly, Poly, Index, Index],
    *,
    factors: bool,
) -> View:
    batch, head, position, last = axes
    dims = _dims(interpreter, node, tensor)
    place = poly(0) if position.bound == 1 else of(position)
    if len(dims) == 4:
        head = poly(0) if dims[1] == 1 else head
        indices: tuple[Poly, ...] = (batch, head, place, of(last))
    else:
        indices = (batch, place, head * last.bound + of(last))
    named = tuple(i for x in indices for i in x.sorted_atoms() if isinstance(i, Index))
    wanted = named if len(dims) == 4 else _bhsd(batch, head, position, last)
    view = find_view(interpreter, tensor, indices, wanted, factors=factors)
    if view is None:
        raise _refuse(Code.LAYOUT, node, f"indexed [{', '.join(map(repr, indices))}]", tensor=tensor)
    return view


def _bhsd(batch: Poly, head: Poly, position: Index, last: Index) -> tuple[Index, ...]:
    found = [_index(batch), _index(head), position, last]
    return tuple(i for i in found if i is not None)


def _check_columns(interpreter: Interpreter, node: NodeProto, pattern: OperatorPattern, bias: str, keys: Poly) -> None:
    """A bias with fewer columns than keys hides the others.  Where that may be, nothing tells which.

    Raises:
        Refusal: The bias does not surely have a column for every key.
    """
    dims = interpreter.dims(bias)
    if (
        dims
        and version_of(interpreter.scope, pattern) >= pattern.short_bias_since
        and not interpreter.same(dims[-1], keys)
    ):
        detail = f"the bias has {dims[-1]!r} columns for {keys!r} keys; keys without a column are hidden"
        raise _refuse(Code.FEATURE, node, detail, tensor=bias, stage=Stage.MASK)


def _bias(
    interpreter: Interpreter, node: NodeProto, bias: str, batch: Poly, frame: Frame, half: bool
) -> tuple[Masked, tuple[Poly, ...]]:
    dims = interpreter.dims(bias)
    if dims is None or len(dims) > 4:
        raise _refuse(Code.LAYOUT, node, "the bias has an unknown rank", tensor=bias)
    assert frame.head is not None
    full: tuple[Poly, ...] = (batch, of(frame.head), of(frame.row), of(frame.key))
    out = (
        frame.batch.bound if frame.batch is not None else poly(1),
        frame.head.bound,
        frame.row.bound,
        frame.key.bound,
    )
    full = tuple(poly(0) if extent == 1 else index for index, extent in zip(full, out, strict=True))
    try:
        index = interpreter.aligned(bias, full, out, node)
    except UnknownRank:
        detail = "whether the bias is spread over an axis or as long as it depends on sizes"
        raise _refuse(Code.LAYOUT, node, detail, tensor=bias) from None
    value = interpreter.element(bias, index)
    if interpreter.dtype(bias) == TensorProto.BOOL:
        raise _refuse(Code.NO_BIAS, node, "the mask is boolean", tensor=bias)
    return unmask(value, half=half), index


def _own_causality(
    interpreter: Interpreter, node: NodeProto, pattern: OperatorPattern, frame: Frame, cached: Poly
) -> tuple[Cond, ...]:
    causal = int_attribute(node, pattern.causal, int(pattern.causal_unless_said)) != 0
    if pattern.lengths is not None:
        _check_lengths(interpreter, node, pattern, frame)
    if not causal:
        return ()
    # Operators with a cache count query rows behind it; without one, row i sees keys 0 .. i.
    offset = interpreter.facts.normal(frame.offset if pattern.from_last else cached)
    if not interpreter.facts.equal(offset, frame.offset):
        raise _refuse(
            Code.CAUSALITY,
            node,
            f"row 0 sees keys up to {offset!r}, the last row would have to see all {frame.key.bound!r}",
            stage=Stage.MASK,
        )
    return (less_equal(of(frame.key), of(frame.row) + offset),)


def _check_lengths(interpreter: Interpreter, node: NodeProto, pattern: OperatorPattern, frame: Frame) -> None:
    """Per-batch lengths must say that no key is padding.  Valid length - 1 == S_kv - 1 has to hold for every batch."""
    place = pattern.lengths[0] if pattern.lengths is not None else 0
    name = node.input[place] if place < len(node.input) else ""
    dims = interpreter.dims(name) if name else None
    if dims is None:
        raise _refuse(Code.FEATURE, node, "sequence lengths of unknown shape", tensor=name, stage=Stage.ANCHOR)
    last = interpreter.element(name, tuple(of(Index(f"s{a}", d)) for a, d in enumerate(dims)))
    if not interpreter.facts.equal(last + 1, frame.key.bound):
        detail = f"lengths {last!r} + 1 are not the {frame.key.bound!r} keys"
        past = pattern.inputs[PAST["key"]]
        if past < len(node.input) and node.input[past]:
            detail += ": each sequence has its new keys behind its own past ones, and no fused node writes there"
        raise _refuse(Code.FEATURE, node, detail, tensor=name, stage=Stage.ANCHOR)
