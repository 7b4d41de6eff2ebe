"""What will be emitted for a proven site: existing tensors chosen for every input of the fused node.

Planning reads only.  It fails with a refusal where something cannot be expressed, before any graph is
changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from onnx import TensorProto

from ...algebra import Index, Poly, Read, of
from ...fused.body import WINDOW_OPSET
from ...fused.family import EmptyRows
from ...graph.edit import float_type
from ..interpret import Interpreter
from ..interpret.arithmetic import reciprocal
from ..prove.empty_rows import rows_without_keys
from ..prove.forms import vector
from ..recognise.views import as_view, key_head
from ..records.binding import Binding, Factors, Mask
from ..records.proof import Proof, Window
from ..records.reading import Attention, Guard, View
from ..records.rows import ZEROS
from ..verdicts import Code, Refusal, Refuser, Stage
from .guards import follow, row_guard
from .key_terms import key_bias, split_by_key, takes_key_bias
from .lengths import used_keys
from .masks import additive_mask, boolean_mask, by_row, indices_in

_refuse = Refuser(Stage.EMIT)

KNOWN_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
"""Element types that have a name."""


def bind(interpreter: Interpreter, proof: Proof) -> Binding:
    """Choose tensors for every input of the fused node.

    Raises:
        Refusal: A mask, the positions or the slopes cannot be taken from existing tensors.
    """
    attention = proof.attention
    if interpreter.scope.opset.get("", 1) < WINDOW_OPSET:
        proof = replace(proof, hidden=(*proof.window.conditions, *proof.hidden), window=Window())
    if proof.rounded.terms:
        proof = replace(proof, positions=None, runtime_slopes=None)  # these are in the key bias
    dtype = _common_type(interpreter, proof)
    empty = rows_without_keys(attention, proof.rest)
    output = _lift_output(interpreter, attention.output)
    # A guard of NaN never sees a row whose scores are finite.
    unsure = empty.policy is None and not empty.undefined and not empty.rounded
    zero_rows = empty.policy is EmptyRows.ZERO or (attention.guard is Guard.NAN and unsure)
    positions, by_positions = _find_positions(interpreter, proof) if proof.positions is not None else (None, 1.0)
    at_run_time = proof.runtime_slopes is not None
    slopes, by_slopes, table = _find_slopes(interpreter, proof) if at_run_time else (None, 1.0, None)
    scale, divide = _find_scale(interpreter, attention) if attention.factor is not None else (None, False)
    used = used_keys(interpreter, proof, proof.hidden)
    rows, boolean = (None, None) if used else _find_hidden(interpreter, proof, zero_rows=zero_rows)
    by_key, additive = _find_added(interpreter, proof)
    guard = row_guard(interpreter, proof, output)
    return Binding(
        proof,
        output if guard is None else guard,
        dtype,
        boolean=boolean,
        additive=additive,
        positions=positions,
        slopes=slopes,
        slope_factor=by_positions * by_slopes,
        slope_table=table,
        rows=rows,
        key_bias=by_key,
        used=used,
        scale=scale,
        divide=divide,
        zero_rows=zero_rows or guard is not None,
        rows_without_keys=empty if guard is None else ZEROS,
        notes=() if guard is None else (GUARDED,),
    )


GUARDED = "a guard that sets rows without keys to zero is part of the fused node"


def _find_hidden(interpreter: Interpreter, proof: Proof, *, zero_rows: bool) -> tuple[Mask | None, Mask | None]:
    """(which rows see keys at all, which keys are visible) as existing tensors; None where nothing is to be said."""
    attention = proof.attention
    keys, rows = by_row(proof)
    found = None
    if rows and (zero_rows or key_head(attention.key, attention.frame.head) == attention.frame.head):
        found = boolean_mask(interpreter, proof, rows)
    if found is None or attention.frame.key in indices_in(found):
        found = None  # No tensor says it per row, so it is a condition on keys like any other.
        keys = proof.hidden
    return found, boolean_mask(interpreter, proof, keys) if keys else None


def _find_added(interpreter: Interpreter, proof: Proof) -> tuple[Mask | None, Mask | None]:
    """(a key bias, a mask) added besides the bias.  Terms by key alone become a key bias where that is better."""
    if not proof.rest.terms:
        return None, None
    per_key, other = split_by_key(proof)
    if takes_key_bias(proof, per_key):
        try:
            by_key = key_bias(interpreter, proof, per_key)
            return by_key, additive_mask(interpreter, replace(proof, rest=other)) if other.terms else None
        except Refusal:
            pass  # The two come out of one tensor, or it has no axis of keys.  A mask says the same.
    return None, additive_mask(interpreter, proof)


def _common_type(interpreter: Interpreter, proof: Proof) -> int:
    """The widest type among query, key and value."""
    types = [interpreter.dtype(v.tensor) for v in (proof.attention.query, proof.attention.key, proof.attention.value)]
    for data_type, view in zip(types, (proof.attention.query, proof.attention.key, proof.attention.value), strict=True):
        if not float_type(data_type):
            name = TensorProto.DataType.Name(data_type) if data_type in KNOWN_TYPES else "an unknown type"
            raise _refuse(Code.DTYPE, proof.attention, f"it is {name}", tensor=view.tensor)
    return TensorProto.FLOAT if len(set(types)) > 1 else types[0]


def _lift_output(interpreter: Interpreter, output: View) -> View:
    """Replace [B*H, S, D] by the [B, H, S, D] that a single consumer reshapes it to; whole heads for cut ones."""
    current = output
    for _ in range(4):
        if current.clean or (output.digits and not current.digits):
            return current
        uses = interpreter.scope.consumers.get(current.tensor, [])
        if len(uses) != 1 or uses[0].scope is not interpreter.scope or uses[0].position != 0:
            break
        followed = follow(interpreter, current, uses[0].node)
        if followed is None:
            break
        current = followed
    return current if current.clean else output


# --- positions and slopes --------------------------------------------------------------------------------


def _find_positions(interpreter: Interpreter, proof: Proof) -> tuple[View, float]:
    """A tensor over (b, j) that holds the positions, up to a factor and a constant per row."""
    assert proof.positions is not None
    frame = proof.attention.frame
    wanted = proof.positions.value
    found = _smallest(
        interpreter,
        proof.attention,
        lambda value: _multiple(wanted, value, frame.key),
        lambda view: set(view.indices) <= {frame.batch, frame.key},
    )
    if found is None:
        raise _refuse(Code.MASK_UNKNOWN, proof.attention, "no tensor [B, S_kv] holds the positions")
    return found


def _smallest(
    interpreter: Interpreter,
    attention: Attention,
    ratio_to: Callable[[Poly], Fraction | None],
    fits: Callable[[View], bool],
) -> tuple[View, float] | None:
    """Of the tensors read for the scores that hold a multiple of what is wanted, the one of lowest rank."""
    best: tuple[tuple[int, int], View, Fraction] | None = None
    for order, ((tensor, indices), value) in enumerate(interpreter.visited(attention.scores, attention.scores_index)):
        ratio = ratio_to(value)
        if ratio is None:
            continue
        view = as_view(interpreter, tensor, indices, parts=True)
        if view is None or view.merged or not fits(view):
            continue
        rank = (len(view.axes), order)
        if best is None or rank < best[0]:
            best = (rank, view, ratio)
    return None if best is None else (best[1], float(best[2]))


def _multiple(wanted: Poly, value: Poly, key: Index) -> Fraction | None:
    """K with ``wanted = k * value + (something that does not depend on the key)``."""
    if not value.depends_on(key):
        return None
    return _proportion(
        Poly({m: c for m, c in wanted.terms if Poly({m: 1}).depends_on(key)}),
        Poly({m: c for m, c in value.terms if Poly({m: 1}).depends_on(key)}),
    )


def _proportion(wanted: Poly, value: Poly) -> Fraction | None:
    """K with ``wanted = k * value``."""
    left, right = dict(wanted.terms), dict(value.terms)
    if set(left) != set(right) or not left:
        return None
    ratios = {Fraction(left[m]) / Fraction(right[m]) for m in left}
    return ratios.pop() if len(ratios) == 1 else None


def _find_slopes(interpreter: Interpreter, proof: Proof) -> tuple[View, float, Factors | None]:
    """A tensor over (h) that holds the run-time slopes, up to a factor; or one to be multiplied by a constant per head.

    Constant slopes times a scalar of run time need not be a value of the model, since the model may have multiplied
    the whole bias by the scalar.
    """
    assert proof.runtime_slopes is not None
    attention = proof.attention
    slopes = proof.runtime_slopes
    head = attention.frame.head
    fitting: set[tuple[Index, ...]] = {() if head is None else (head,)}
    if head is not None and head.bound == 1:
        fitting.add(())
    found = _held(interpreter, attention, slopes, fitting)
    if found is not None:
        return (*found, None)
    for read in (a for a in slopes.sorted_atoms() if isinstance(a, Read)):
        numbers = slopes.coefficient_of(read)
        table = vector(attention, numbers) if numbers * of(read) == slopes else None
        held = None
        if table is not None:
            held = _held(interpreter, attention, of(read), {(), *fitting})
        if held is not None and table is not None:
            return (*held, table)
    raise _refuse(Code.SLOPES_UNKNOWN, attention, f"{slopes!r}")


def _held(
    interpreter: Interpreter, attention: Attention, wanted: Poly, fitting: set[tuple[Index, ...]]
) -> tuple[View, float] | None:
    """A tensor with these axes that holds a value, up to a factor."""
    return _smallest(
        interpreter, attention, lambda value: _proportion(wanted, value), lambda view: view.indices in fitting
    )


def _find_scale(interpreter: Interpreter, attention: Attention) -> tuple[View, bool]:
    """A tensor over (h), or a scalar, that holds the run-time factor of the product, or its reciprocal."""
    factor = attention.factor
    assert factor is not None
    for (tensor, indices), value in interpreter.visited(attention.scores, attention.scores_index):
        direct = value == factor
        if not direct and (not value.terms or reciprocal(value) != factor):
            continue
        view = as_view(interpreter, tensor, indices)
        if view is not None and not view.merged and set(view.indices) <= {attention.frame.head}:
            return view, not direct
    raise _refuse(Code.SCALE_UNKNOWN, attention, f"the factor is {factor!r}"[:200])
