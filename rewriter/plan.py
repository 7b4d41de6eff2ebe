"""What will be emitted for a proven site: existing tensors chosen for every input of the fused node.

Planning reads only.  It fails with a refusal where something cannot be expressed, before any graph is
changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from onnx import NodeProto, TensorProto

from .algebra import (
    ONE,
    ZERO,
    Cond,
    Index,
    Monomial,
    Number,
    Poly,
    Read,
    Sum,
    conjunction,
    exists,
    ind,
    negation,
    nonzero,
    of,
)
from .edit import float_type
from .errors import Code, Refusal, Stage
from .graph import label
from .interpret import Interpreter
from .interpret.arithmetic import reciprocal
from .interpret.movement import source
from .layout import View, as_view, index_of, scalar_factor, unify
from .masks import unmask
from .prove import Proof
from .site import Attention


@dataclass(frozen=True)
class Leaf:
    """An existing tensor used in a mask; ``test`` says how to make a condition of it.

    ``test``: ``""`` as it is (additive or boolean), ``nonzero``: cast to bool, ``visible``: greater than
    the hiding value.
    """

    view: View
    test: str = ""


@dataclass(frozen=True)
class Op:
    """An operation on masks in canonical [B, H, S_q, S_kv] layout: ``and or not add sub mul where``."""

    kind: str
    parts: tuple[Mask, ...]
    factor: Number = 1


Mask = Leaf | Op


@dataclass
class Plan:
    """Everything that emission needs for one site."""

    proof: Proof
    output: View
    dtype: int
    boolean: Mask | None = None
    additive: Mask | None = None
    positions: View | None = None
    slopes: View | None = None
    slope_factor: float = 1.0
    rows: Mask | None = None
    scale: View | None = None
    divide: bool = False
    zero_rows: bool = False
    notes: list[str] = field(default_factory=list)


def plan(interpreter: Interpreter, proof: Proof) -> Plan:
    """Choose tensors for every input of the fused node.

    Raises:
        Refusal: A mask, the positions or the slopes cannot be taken from existing tensors.
    """
    attention = proof.attention
    dtype = _common_type(interpreter, proof)
    made = Plan(proof, _lift_output(interpreter, attention.output), dtype, zero_rows=attention.zero_rows)
    if proof.positions is not None:
        made.positions, scale = _find_positions(interpreter, proof)
        made.slope_factor = scale
    if proof.runtime_slopes is not None:
        made.slopes, scale = _find_slopes(interpreter, proof)
        made.slope_factor *= scale
    if proof.attention.factor is not None:
        made.scale, made.divide = _find_scale(interpreter, proof.attention)
    keys, rows = _by_row(proof)
    if rows and (made.zero_rows or attention.frame.head is None or attention.frame.head in attention.key.indices):
        made.rows = _boolean_mask(interpreter, proof, rows)
    else:
        keys = proof.hidden
    if keys:
        made.boolean = _boolean_mask(interpreter, proof, keys)
    if proof.rest.terms:
        made.additive = _additive_mask(interpreter, proof)
    guard = _row_guard(interpreter, proof, made.output)
    if guard is not None:
        made.output = guard
        made.zero_rows = True
        made.notes.append("a guard that sets rows without keys to zero is part of the fused node")
    return made


def _common_type(interpreter: Interpreter, proof: Proof) -> int:
    """The widest type among query, key and value."""
    types = [interpreter.dtype(v.tensor) for v in (proof.attention.query, proof.attention.key, proof.attention.value)]
    for data_type, view in zip(types, (proof.attention.query, proof.attention.key, proof.attention.value), strict=True):
        if not float_type(data_type):
            name = TensorProto.DataType.Name(data_type) if data_type else "an unknown type"
            raise Refusal(Code.DTYPE, Stage.EMIT, label(proof.attention.anchor), view.tensor, f"it is {name}")
    return TensorProto.FLOAT if len(set(types)) > 1 else types[0]


def _lift_output(interpreter: Interpreter, output: View) -> View:
    """Replace [B*H, S, D] by the [B, H, S, D] that a single consumer reshapes it to."""
    current = output
    for _ in range(4):
        if not current.merged:
            return current
        uses = interpreter.scope.consumers.get(current.tensor, [])
        if len(uses) != 1 or uses[0].scope is not interpreter.scope or uses[0].position != 0:
            return output
        followed = _follow(interpreter, current, uses[0].node)
        if followed is None:
            return output
        current = followed
    return current if not current.merged else output


# --- positions and slopes --------------------------------------------------------------------------------


def _find_positions(interpreter: Interpreter, proof: Proof) -> tuple[View, float]:
    """A tensor over (b, j) that holds the positions, up to a factor and a constant per row."""
    assert proof.positions is not None
    attention = proof.attention
    wanted = proof.positions.value
    frame = attention.frame
    best: tuple[tuple[int, int], View, Fraction] | None = None
    for order, ((tensor, indices), value) in enumerate(interpreter.visited(attention.scores, attention.scores_index)):
        ratio = _multiple(wanted, value, frame.key)
        if ratio is None:
            continue
        view = as_view(interpreter, tensor, indices, parts=True)
        if view is None or view.merged or not set(view.indices) <= {frame.batch, frame.key}:
            continue
        rank = (len(view.axes), order)
        if best is None or rank < best[0]:
            best = (rank, view, ratio)
    if best is None:
        raise Refusal(
            Code.MASK_UNKNOWN,
            Stage.EMIT,
            label(attention.anchor),
            attention.scores,
            "no tensor [B, S_kv] holds the positions",
        )
    return best[1], float(best[2])


def _multiple(wanted: Poly, value: Poly, key: Index) -> Fraction | None:
    """K with ``wanted = k * value + (something that does not depend on the key)``."""
    if not value.depends_on(key):
        return None
    moving = {m: c for m, c in wanted.terms if Poly({m: 1}).depends_on(key)}
    other = {m: c for m, c in value.terms if Poly({m: 1}).depends_on(key)}
    if set(moving) != set(other) or not moving:
        return None
    ratios = {Fraction(moving[m]) / Fraction(other[m]) for m in moving}
    return ratios.pop() if len(ratios) == 1 else None


def _find_slopes(interpreter: Interpreter, proof: Proof) -> tuple[View, float]:
    """A tensor over (h) that holds the run-time slopes, up to a factor."""
    assert proof.runtime_slopes is not None
    attention = proof.attention
    head = attention.frame.head
    best: tuple[tuple[int, int], View, Fraction] | None = None
    for order, ((tensor, indices), value) in enumerate(interpreter.visited(attention.scores, attention.scores_index)):
        if not value.terms or {m for m, _ in value.terms} != {m for m, _ in proof.runtime_slopes.terms}:
            continue
        ratios = {
            Fraction(c) / Fraction(d) for (_, c), (_, d) in zip(proof.runtime_slopes.terms, value.terms, strict=True)
        }
        view = as_view(interpreter, tensor, indices, parts=True)
        if len(ratios) != 1 or view is None or view.merged or view.indices != (head,):
            continue
        rank = (len(view.axes), order)
        if best is None or rank < best[0]:
            best = (rank, view, ratios.pop())
    if best is None:
        raise Refusal(
            Code.SLOPES_UNKNOWN, Stage.EMIT, label(attention.anchor), attention.scores, f"{proof.runtime_slopes!r}"
        )
    return best[1], float(best[2])


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
    raise Refusal(
        Code.SCALE_UNKNOWN, Stage.EMIT, label(attention.anchor), attention.scores, f"the factor is {factor!r}"[:200]
    )


# --- boolean masks ---------------------------------------------------------------------------------------


def _by_row(proof: Proof) -> tuple[tuple[Cond, ...], tuple[Cond, ...]]:
    """(conditions on keys, conditions on whole rows): a row that is hidden from all keys is a row without keys."""
    key = proof.attention.frame.key
    rows = tuple(c for c in proof.hidden if key not in c.all_atoms())
    return tuple(c for c in proof.hidden if key in c.all_atoms()), rows


def _boolean_mask(interpreter: Interpreter, proof: Proof, conditions: tuple[Cond, ...]) -> Mask:
    parts: list[Mask] = []
    left: list[Cond] = []
    for condition in conditions:
        found = _condition(interpreter, proof, condition)
        if found is None:
            left.append(condition)
        else:
            parts.append(found)
    if left:
        parts.extend(_from_scores(interpreter, proof, left))
    return parts[0] if len(parts) == 1 else Op("and", tuple(parts))


def _condition(interpreter: Interpreter, proof: Proof, condition: Cond) -> Mask | None:
    """The condition as a tensor that the model has, or as a combination of such tensors.

    A tensor that is expanded to more axes than the condition depends on is the last choice: it may have
    S_q x S_kv elements where [B, S_kv] would do.
    """
    own = frozenset(a for a in condition.all_atoms() if isinstance(a, Index))
    leaf, axes = _condition_leaf(interpreter, proof, condition)
    if leaf is not None and axes <= own:
        return leaf
    return _condition_parts(interpreter, proof, condition) or leaf


def _condition_parts(interpreter: Interpreter, proof: Proof, condition: Cond) -> Mask | None:
    if condition.kind in ("and", "or"):
        found = [_condition(interpreter, proof, p) for p in condition.parts]
        if any(f is None for f in found):
            return None
        return Op(condition.kind, tuple(f for f in found if f is not None))
    if condition.kind == "not":
        inner = _condition(interpreter, proof, condition.parts[0])
        return None if inner is None else Op("not", (inner,))
    if condition.kind in COMPARISONS and condition.value is not None:
        return _comparison(interpreter, proof, condition.kind, condition.value)
    return None


COMPARISONS = {"eq": "equal", "le": "at_most", "lt": "below"}


def _comparison(interpreter: Interpreter, proof: Proof, kind: str, value: Poly) -> Mask | None:
    """A comparison of one run-time value with a number, such as ``attention_mask == 1``."""
    bound = -value.constant_term
    moving = value + bound
    atom = moving.single_atom
    if not isinstance(atom, Read):
        return None
    attention = proof.attention
    for (tensor, indices), known in interpreter.visited(attention.scores, attention.scores_index):
        view = as_view(interpreter, tensor, indices, parts=True) if known == moving else None
        if view is None or view.merged or not set(view.indices) <= set(attention.frame.order):
            continue
        if not all(atom_of in of(atom).all_atoms() for atom_of in view.indices):
            continue
        return Op(COMPARISONS[kind], (Leaf(view),), Fraction(bound))
    return None


def _condition_leaf(interpreter: Interpreter, proof: Proof, condition: Cond) -> tuple[Mask | None, frozenset[Index]]:
    attention = proof.attention
    wanted, opposite = ind(condition), ONE - ind(condition)
    order = attention.frame.order
    best: tuple[tuple[int, int, int, int], Mask, frozenset[Index]] | None = None
    for step, ((tensor, indices), value) in enumerate(interpreter.visited(attention.scores, attention.scores_index)):
        if value == wanted:
            inverted = False
        elif value == opposite:
            inverted = True
        elif condition.kind == "read" and value == condition.value:
            inverted = False
        else:
            continue
        view = as_view(interpreter, tensor, indices, parts=True)
        if view is None or view.merged or not set(view.indices) <= set(order):
            continue
        boolean = interpreter.dtype(tensor) == TensorProto.BOOL
        leaf: Mask = Leaf(view, "" if boolean else "nonzero")
        if inverted:
            leaf = Op("not", (leaf,))
        rank = (len(view.indices), int(inverted), int(not boolean) + len(view.axes), step)
        if best is None or rank < best[0]:
            best = (rank, leaf, frozenset(view.indices))
    return (None, frozenset()) if best is None else best[1:]


def _from_scores(interpreter: Interpreter, proof: Proof, conditions: list[Cond]) -> list[Mask]:
    """Conditions that no boolean tensor holds, read off an additive mask: visible where it does not hide."""
    attention = proof.attention
    order = attention.frame.order
    allowed = {c.key for c in (*proof.hidden, *attention.visible)}
    missing = {c.key for c in conditions}
    found: list[Mask] = []
    for (tensor, indices), value in interpreter.visited(attention.scores, attention.scores_index):
        if not missing:
            break
        if any(isinstance(a, Read) and a.tensor == attention.product for a in value.all_atoms()):
            continue
        hidden = {c.key for c in unmask(value)[0]}
        if not hidden & missing or not hidden <= allowed:
            continue
        view = as_view(interpreter, tensor, indices, parts=True)
        if view is None or view.merged or not set(view.indices) <= set(order):
            continue
        found.append(Leaf(view, "visible"))
        missing -= hidden
    if missing:
        text = next(c.text for c in conditions if c.key in missing)
        raise Refusal(Code.MASK_UNKNOWN, Stage.MASK, label(attention.anchor), attention.scores, text[:200])
    return found


# --- additive rest ---------------------------------------------------------------------------------------


def _additive_mask(interpreter: Interpreter, proof: Proof) -> Mask:
    attention = proof.attention
    found = _rest(interpreter, proof, attention.scores, attention.scores_index, 0)
    if found is None:
        raise Refusal(Code.MASK_UNKNOWN, Stage.MASK, label(attention.anchor), attention.scores, f"{proof.rest!r}"[:200])
    return found


def _rest(interpreter: Interpreter, proof: Proof, tensor: str, indices: tuple[Poly, ...], depth: int) -> Mask | None:
    """The part of a tensor that is neither product nor ALiBi, as a mask; None if there is none.

    Raises:
        Refusal: The part cannot be separated.
    """
    attention = proof.attention
    conditions, value = unmask(interpreter.element(tensor, indices))
    if not any(_is_rest(proof, m) for m, _ in value.terms):
        return None
    if not conditions and all(_is_rest(proof, m) or not _moves(proof, m) for m, _ in value.terms):
        view = as_view(interpreter, tensor, indices, parts=True)
        if view is not None and not view.merged and set(view.indices) <= set(attention.frame.order):
            return Leaf(view)
    node = interpreter.scope.producer(tensor)
    if node is None or depth > 64:
        raise Refusal(Code.MASK_UNKNOWN, Stage.MASK, label(attention.anchor), tensor, f"{value!r}"[:200])
    out = interpreter.dims(tensor)
    if out is None:
        raise Refusal(Code.MASK_UNKNOWN, Stage.MASK, label(node), tensor)

    def below(position: int) -> Mask | None:
        name = node.input[position]
        return _rest(interpreter, proof, name, interpreter.aligned(name, indices, out, node), depth + 1)

    if node.op_type in ("Add", "Sub", "Sum"):
        parts = [below(p) for p in range(len(node.input))]
        present = tuple(p for p in parts if p is not None)
        if node.op_type == "Sub" and parts[1] is not None:
            return Op("sub", present) if parts[0] is not None else Op("mul", (parts[1],), -1)
        return present[0] if len(present) == 1 else Op("add", present)
    factor = scalar_factor(interpreter, node)
    if factor is not None:
        inner = below(list(node.input).index(factor[0]))
        return inner if inner is None or factor[1] == 1 else Op("mul", (inner,), factor[1])
    if node.op_type == "Where":
        branches = [below(p) for p in (1, 2)]
        present = tuple(b for b in branches if b is not None)
        if len(present) == 1 and conditions:
            return present[0]
        raise Refusal(Code.MASK_UNKNOWN, Stage.MASK, label(node), tensor, f"{value!r}"[:200])
    if node.op_type in ("Max", "Min", "Clip"):
        present = tuple(b for p, n in enumerate(node.input) if n and (b := below(p)) is not None)
        if len(present) == 1:
            return present[0]
    if node.op_type in ("Cast", "CastLike"):
        return below(0)
    moved = source(interpreter, node, list(node.output).index(tensor), indices)
    if moved is not None:
        return _rest(interpreter, proof, *moved, depth + 1)
    raise Refusal(Code.MASK_UNKNOWN, Stage.MASK, label(node), tensor, f"{value!r}"[:200])


def _is_rest(proof: Proof, monomial: Monomial) -> bool:
    """Whether a monomial is part of what is passed on: run-time values that are no product and no position."""
    atoms = frozenset(x for a, _ in monomial for x in of(a).all_atoms())
    if not any(isinstance(a, Read | Sum) for a in atoms):
        return False
    if any(isinstance(a, Read) and a.tensor == proof.attention.product for a, _ in monomial):
        return False
    return monomial in {m for m, _ in proof.rest.terms}


def _moves(proof: Proof, monomial: Monomial) -> bool:
    return Poly({monomial: 1}).depends_on(proof.attention.frame.key)


# --- guards ----------------------------------------------------------------------------------------------


def _row_guard(interpreter: Interpreter, proof: Proof, output: View) -> View | None:
    """``Where(no key is visible, 0, output)`` right behind the attention: the fused node does that itself."""
    attention = proof.attention
    frame = attention.frame
    uses = interpreter.scope.consumers.get(output.tensor, [])
    if len(uses) != 1 or uses[0].node is None or uses[0].scope is not interpreter.scope:
        return None
    view, node = output, uses[0].node
    for _ in range(3):
        if node.op_type == "Where":
            break
        followed = _follow(interpreter, view, node)
        uses = interpreter.scope.consumers.get(followed.tensor, []) if followed is not None else []
        if followed is None or len(uses) != 1 or uses[0].node is None:
            return None
        view, node = followed, uses[0].node
    if node.op_type != "Where" or view.merged:
        return None
    dims = interpreter.dims(node.output[0])
    if dims is None or len(dims) != len(view.axes):
        return None
    place = tuple(of(a[0]) if a else ZERO for a in view.axes)
    condition = nonzero(interpreter.element(node.input[0], interpreter.aligned(node.input[0], place, dims, node)))
    zero, kept = (node.input[1], node.input[2])
    if kept != view.tensor:
        condition, zero, kept = negation(condition), node.input[2], node.input[1]
    value = interpreter.scalar(zero)
    if kept != view.tensor or value is None or value != 0:
        return None
    if condition.kind != "not" or condition.parts[0].kind != "any":
        return None
    existing = condition.parts[0]
    assert existing.index is not None
    visible = conjunction(attention.visible)
    renamed = visible.substitute({frame.key: of(existing.index)})
    if existing != exists(existing.index, renamed):
        return None
    return View(node.output[0], view.axes)


def _follow(interpreter: Interpreter, output: View, node: NodeProto | None) -> View | None:
    """The view of what a single moving consumer makes of the output."""
    if node is None or node.op_type not in ("Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze"):
        return None
    dims = interpreter.dims(node.output[0])
    if dims is None:
        return None
    unknown = tuple(index_of(f"o{a}", d) for a, d in enumerate(dims))
    moved = source(interpreter, node, 0, unknown)
    if moved is None or moved[0] != output.tensor:
        return None
    bound: dict[Index, Index] = {}
    if not all(unify(interpreter, p, a, bound) for p, a in zip(moved[1], output.axes, strict=True)):
        return None
    axes = []
    for place in unknown:
        atom = place.single_atom
        if isinstance(atom, Index) and atom not in bound:
            return None
        axes.append((bound[atom],) if isinstance(atom, Index) else ())
    return View(node.output[0], tuple(axes))
