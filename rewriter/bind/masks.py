"""Masks out of existing tensors, which say what the proof says about hidden keys and added terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from onnx import TensorProto

from ...algebra import (
    LARGEST_FLOAT32,
    ONE,
    Cond,
    Index,
    Monomial,
    Poly,
    Read,
    at_most_zero,
    conjunction,
    implies,
    ind,
    of,
    under,
)
from ...graph.index import numpy_type, operator
from ...patterns.masks import HIDDEN_BELOW
from ...patterns.surroundings import SUMS
from ..interpret import Interpreter
from ..interpret.movement import source
from ..recognise.views import as_view, scalar_factor
from ..recognise.visibility import apply_order, ramps, unmask
from ..records.binding import Leaf, Mask, Op, leaves
from ..records.proof import Proof
from ..verdicts import Code, Refuser, Stage

_refuse = Refuser(Stage.MASK)


def indices_in(mask: Mask | None) -> frozenset[Index]:
    """The indices that a mask depends on."""
    return frozenset(index for leaf in leaves(mask) for index in leaf.view.indices)


def by_row(proof: Proof) -> tuple[tuple[Cond, ...], tuple[Cond, ...]]:
    """(conditions on keys, conditions on whole rows).  A row that is hidden from all keys is a row without keys."""
    key = proof.attention.frame.key
    rows = tuple(c for c in proof.hidden if key not in c.all_atoms())
    return tuple(c for c in proof.hidden if key in c.all_atoms()), rows


def boolean_mask(interpreter: Interpreter, proof: Proof, conditions: tuple[Cond, ...]) -> Mask:
    """All conditions as one boolean mask.

    Raises:
        Refusal: A condition cannot be taken from existing tensors.
    """
    parts: list[Mask] = []
    left: list[Cond] = []
    for condition in conditions:
        found = _condition(interpreter, proof, condition)
        if found is None:
            left.append(condition)
        else:
            parts.append(found)
    if left:
        parts.extend(from_scores(interpreter, proof, left))
    return parts[0] if len(parts) == 1 else Op("and", tuple(parts))


def _condition(interpreter: Interpreter, proof: Proof, condition: Cond) -> Mask | None:
    """The condition as a tensor that the model has, or as a combination of such tensors.

    A tensor that is expanded to more axes than the condition depends on is the last choice, since it may have
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
        return comparison(interpreter, proof, condition.kind, condition.value)
    return None


COMPARISONS = {"eq": "equal", "le": "at_most", "lt": "below"}


def comparison(interpreter: Interpreter, proof: Proof, kind: str, value: Poly) -> Mask | None:
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
        if numpy_type(interpreter.dtype(tensor)) is None:
            continue  # the number to compare with needs a type
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


def from_scores(interpreter: Interpreter, proof: Proof, conditions: list[Cond]) -> list[Mask]:
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
        masked = unmask(value, half=attention.half)
        hidden = {c.key for c in masked.visible}
        if not hidden & missing or not hidden <= allowed:
            continue
        view = as_view(interpreter, tensor, indices, parts=True)
        if view is None or view.merged or not set(view.indices) <= set(order):
            continue
        halfway = float(max(masked.hidden_at, -LARGEST_FLOAT32) / 2)
        found.append(Leaf(view, "visible", HIDDEN_BELOW if attention.half else halfway))
        missing -= hidden
    if missing:
        text = next(c.text for c in conditions if c.key in missing)
        raise _refuse(Code.MASK_UNKNOWN, attention, text[:200])
    return found


# --- additive rest ---------------------------------------------------------------------------------------

MOST_STEPS = 64
"""Operators between the scores and a mask."""

MOST_VISITS = 512
"""Tensors that are looked at for one additive mask: a sum that is added to itself doubles them."""


def additive_mask(interpreter: Interpreter, proof: Proof) -> Mask:
    """What is added to the scores besides product and bias, as an additive mask.

    Raises:
        Refusal: It cannot be separated from the bias.
    """
    attention = proof.attention
    visits = iter(range(MOST_VISITS))
    found = _rest(interpreter, proof, attention.scores, attention.scores_index, visits, 0)
    if found is None:
        raise _refuse(Code.MASK_UNKNOWN, attention, f"{proof.rest!r}"[:200])
    return found


def _rest(
    interpreter: Interpreter, proof: Proof, tensor: str, indices: tuple[Poly, ...], visits: Iterator[int], depth: int
) -> Mask | None:
    """The part of a tensor that is neither product nor ALiBi, as a mask; None if nothing is left.

    Args:
        interpreter: For elements and extents.
        proof: What is bias, and what is left.
        tensor: Where to look.
        indices: The index in it.
        visits: One for each tensor that may still be looked at.
        depth: Steps from the scores.

    Raises:
        Refusal: The part cannot be separated.
    """
    attention = proof.attention
    value = interpreter.element(tensor, indices)
    masked = unmask(value, half=attention.half)
    conditions: tuple[Cond, ...] = ()
    if all(_is_proven(proof, c) for c in masked.visible):
        conditions, value = masked.visible, masked.value
    if _is_bias(proof, value):
        return None
    value = _where_visible(interpreter, proof, value)
    if not any(_is_rest(proof, m) for m, _ in value.terms):
        lost = Poly({m: c for m, c in value.terms if _moves(proof, m) and not _is_bias_term(interpreter, proof, m)})
        if lost.terms:
            raise _refuse(Code.MASK_UNKNOWN, attention, f"{lost!r}"[:200], tensor=tensor)
        return None
    if not conditions and all(_is_rest(proof, m) or not _moves(proof, m) for m, _ in value.terms):
        view = as_view(interpreter, tensor, indices, parts=True)
        if view is not None and not view.merged and set(view.indices) <= set(attention.frame.order):
            return Leaf(view)
    node = interpreter.scope.producer(tensor)
    if node is None or depth > MOST_STEPS or next(visits, None) is None:
        raise _refuse(Code.MASK_UNKNOWN, attention, f"{value!r}"[:200], tensor=tensor)
    out = interpreter.dims(tensor)
    if out is None:
        raise _refuse(Code.MASK_UNKNOWN, node, tensor=tensor)

    def below(position: int) -> Mask | None:
        name = node.input[position]
        return _rest(interpreter, proof, name, interpreter.aligned(name, indices, out, node), visits, depth + 1)

    if operator(node) in SUMS:
        return _sum([below(p) for p in range(len(node.input))], subtract=node.op_type == "Sub")
    factor = scalar_factor(interpreter, node)
    if factor is not None:
        inner = below(list(node.input).index(factor[0]))
        return inner if inner is None or factor[1] == 1 else Op("mul", (inner,), factor[1])
    if operator(node) == "Where":
        branches = [below(p) for p in (1, 2)]
        present = tuple(b for b in branches if b is not None)
        if not present:
            return None
        if len(present) == 1 and conditions:
            return present[0]
        raise _refuse(Code.MASK_UNKNOWN, node, f"{value!r}"[:200], tensor=tensor)
    if operator(node) in ("Max", "Min", "Clip"):
        present = tuple(b for p, n in enumerate(node.input) if n and (b := below(p)) is not None)
        if len(present) == 1:
            return present[0]
    if operator(node) in ("Cast", "CastLike"):
        return below(0)
    moved = source(interpreter, node, list(node.output).index(tensor), indices)
    if moved is not None:
        return _rest(interpreter, proof, *moved, visits, depth + 1)
    raise _refuse(Code.MASK_UNKNOWN, node, f"{value!r}"[:200], tensor=tensor)


def _sum(parts: Sequence[Mask | None], *, subtract: bool) -> Mask | None:
    """The sum of those parts that are there, or the difference of two."""
    present = tuple(p for p in parts if p is not None)
    if not present:
        return None
    if subtract and parts[1] is not None:
        return Op("sub", present) if parts[0] is not None else Op("mul", (parts[1],), -1)
    return present[0] if len(present) == 1 else Op("add", present)


def _is_bias(proof: Proof, value: Poly) -> bool:
    """Whether a value is slope times position and nothing else.  It may share monomials with a mask."""
    if proof.positions is None:
        return False
    bias = proof.positions.slope * proof.positions.value
    own = dict(value.terms)
    monomial, coefficient = bias.terms[-1]
    if monomial not in own:
        return False
    return not (value - bias * (Fraction(own[monomial]) / Fraction(coefficient))).depends_on(proof.attention.frame.key)


def _is_proven(proof: Proof, condition: Cond) -> bool:
    """Whether the proof hides the keys that a part of the scores hides.  It may have kept the mask's term instead."""
    return any(implies(known, condition) for known in proof.attention.visible)


def _where_visible(interpreter: Interpreter, proof: Proof, value: Poly) -> Poly:
    """The value at visible keys, as the proof took it: conditions hold, and the order of key and row is known."""
    frame, facts = proof.attention.frame, interpreter.facts
    bounds = [of(frame.key) - of(frame.row) - frame.offset] if proof.causal else []
    bounds += [bound for c in proof.hidden if (bound := at_most_zero(c)) is not None]
    value = facts.normal(under(value, conjunction(proof.attention.visible)))
    for bound in bounds:
        value = apply_order(value, facts.normal(bound))
    return ramps(value)


def _is_bias_term(interpreter: Interpreter, proof: Proof, monomial: Monomial) -> bool:
    """Whether a monomial that is not passed on is a product of query and key, or one that the bias is made of."""
    if any(isinstance(a, Read) and a.tensor == proof.attention.product for a, _ in monomial):
        return True
    return monomial in {m for m, _ in _where_visible(interpreter, proof, proof.attention.terms).terms}


def _is_rest(proof: Proof, monomial: Monomial) -> bool:
    """Whether a monomial is part of what is passed on, which no product is."""
    if any(isinstance(a, Read) and a.tensor == proof.attention.product for a, _ in monomial):
        return False
    return monomial in {m for m, _ in proof.rest.terms}


def _moves(proof: Proof, monomial: Monomial) -> bool:
    return Poly({monomial: 1}).depends_on(proof.attention.frame.key)
