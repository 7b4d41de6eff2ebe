"""From a Softmax to an attention site: the product above it, the product below it, and names for every axis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from onnx import NodeProto

from .algebra import (
    HIDING_VALUE,
    Apply,
    Cond,
    Ind,
    Index,
    Monomial,
    Number,
    Poly,
    Read,
    Substitution,
    conjuncts,
    of,
    poly,
    split,
    substitute,
)
from .contraction import Contraction, contract, is_contraction
from .errors import Code, Refusal, Stage
from .graph import Scope, label
from .interpret import Interpreter
from .interpret.movement import RULES as MOVEMENT
from .interpret.movement import dropout_is_live
from .layout import View, as_view, discover_splits, find_view, index_of, radix, softmax_axis
from .masks import unmask
from .site import Attention, Frame

Indices = tuple[Poly, ...]

PASS_THROUGH = frozenset({"Cast", "CastLike", "Where", "IsNaN", "Not", *MOVEMENT})
"""Operators that may stand between the softmax and the product with the values."""


def attentions(interpreter: Interpreter, softmax: NodeProto) -> list[Attention]:
    """The readings of a softmax as attention, likeliest first.

    Several readings differ in which axis is the head and which the query row; the shapes do not always
    tell, so the bias has to (see ``prove``).

    Raises:
        Refusal: The softmax is no attention that can be rewritten, whatever its bias is.
    """
    scope = interpreter.scope
    axis = softmax_axis(interpreter, softmax, scope.opset.get("", 1))
    dims = interpreter.dims(softmax.input[0])
    if dims is None or axis is None:
        raise Refusal(
            Code.SOFTMAX_AXIS, Stage.ANCHOR, label(softmax), softmax.input[0], "its axes cannot be told apart"
        )
    if not 2 <= len(dims) <= 5:
        raise Refusal(Code.SOFTMAX_AXIS, Stage.ANCHOR, label(softmax), softmax.input[0], f"rank {len(dims)}")
    readings = []
    for indices in _split_axes(interpreter, softmax, _axis_names(dims, axis)):
        readings += _readings(_scores(interpreter, softmax, indices), indices)
    if not readings:
        raise Refusal(
            Code.SOFTMAX_AXIS,
            Stage.SCORES,
            label(softmax),
            softmax.input[0],
            f"the softmax runs over axis {axis}, which is not the key axis of the product",
        )
    found: list[Attention] = []
    refusal: Refusal | None = None
    for renamed, frame in readings:
        try:
            found.append(_assemble(interpreter, softmax, renamed, frame))
        except Refusal as reason:
            refusal = refusal or reason
    if not found and refusal is not None:
        raise refusal
    return found


# --- axes ------------------------------------------------------------------------------------------------


def _axis_names(dims: tuple[Poly, ...], axis: int) -> Indices:
    names = {2: ["i"], 3: ["n", "i"], 4: ["b", "h", "i"], 5: ["b", "h", "g", "i"]}[len(dims)]
    rest = iter(names)
    return tuple(index_of("j" if a == axis else next(rest), d) for a, d in enumerate(dims))


def _split_axes(interpreter: Interpreter, softmax: NodeProto, indices: Indices) -> list[Indices]:
    """Cut axes that hold two indices ([B*H, S, S]) where a Reshape of query, key or value cuts them.

    Where nothing upstream tells, an extent such as 6*B is cut both ways, heads minor or heads major.
    """
    for _ in range(3):
        product = _scores(interpreter, softmax, indices).product
        splits = discover_splits(interpreter, product.left, product.left_index)
        splits += discover_splits(interpreter, product.right, product.right_index)
        own = {a for x in indices for a in x.atoms if isinstance(a, Index)}
        cut = next(((i, d) for i, d in splits if i in own and i.name in ("n", "i")), None)
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
    major = _quotient(interpreter, index.bound, divisor)
    if major is None:
        return None
    first, second = ("b", "h") if index.name == "n" else ("i", "g")
    parts = Index(first, major), Index(second, divisor)
    if major == 1:
        replacement = of(parts[1])
    elif divisor == 1:
        replacement = of(parts[0])
    else:
        replacement = of(parts[0]) * divisor + of(parts[1])
    return tuple(substitute(x, {index: replacement}) for x in indices)


def _by_content(interpreter: Interpreter, index: Index) -> list[tuple[Index, Poly]]:
    """[B*6, S, S]: an extent that is a number times sizes is a batch times that many heads."""
    bound = interpreter.facts.normal(index.bound)
    if index.name != "n" or len(bound.terms) != 1:
        return []
    monomial, coefficient = bound.terms[0]
    if not monomial or coefficient == 1:
        return []
    return [(index, poly(coefficient)), (index, Poly({monomial: 1}))]


def _quotient(interpreter: Interpreter, bound: Poly, divisor: Poly) -> Poly | None:
    from .interpret.movement import divide

    return divide(interpreter.facts.normal(bound), interpreter.facts.normal(divisor))


# --- scores ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """The softmax input taken apart: ``scale * product + terms`` where all of ``visible`` hold."""

    product: Contraction
    read: Read
    scale: Number
    terms: Poly
    visible: tuple[Cond, ...]
    factor: Poly | None = None


def _scores(interpreter: Interpreter, softmax: NodeProto, indices: Indices) -> Scores:
    whole = interpreter.element(softmax.input[0], indices)
    visible, value = unmask(whole)
    key = next((a for a in sorted(_indices_of(indices)) if a.name == "j"), None)
    if key is None:
        raise Refusal(Code.NO_BIAS, Stage.ANCHOR, label(softmax), softmax.input[0], "there is only one key")
    products = _products(interpreter, value, key)
    if not products:
        hidden = _hidden_product(interpreter, whole)
        if hidden is not None:
            raise Refusal(Code.NONLINEAR_SCORE, Stage.SCORES, label(softmax), softmax.input[0], hidden)
        if any(
            isinstance(a, Ind) and _hidden_product(interpreter, of(a)) is None for a in whole.atoms
        ) and _concat_above(interpreter, softmax.input[0]):
            raise Refusal(Code.EXTRA_COLUMNS, Stage.SCORES, label(softmax), softmax.input[0])
        if _concat_above(interpreter, softmax.input[0]):
            raise Refusal(Code.EXTRA_COLUMNS, Stage.SCORES, label(softmax), softmax.input[0])
        raise Refusal(Code.NO_PRODUCT, Stage.ANCHOR, label(softmax), softmax.input[0])
    if len(products) > 1:
        raise Refusal(
            Code.NONLINEAR_SCORE,
            Stage.SCORES,
            label(softmax),
            softmax.input[0],
            "several matrix products are added: " + ", ".join(r.tensor for r, _ in products),
        )
    read, contraction = products[0]
    scale: Number = 0
    factor: dict[Monomial, Number] = {}
    terms: dict[Monomial, Number] = {}
    for monomial, coefficient in value.terms:
        if not any(a == read for a, _ in monomial):
            terms[monomial] = coefficient
        elif monomial == ((read, 1),):
            scale = coefficient
        elif not any(_moves(a) for a, _ in monomial if a != read) or _per_head(monomial, read):
            factor[tuple((a, p) for a, p in monomial if a != read)] = coefficient
        else:
            factors = [a.text for a, _ in monomial if a != read]
            finite = _finite_mask(whole, [a for a, _ in monomial if isinstance(a, Ind)])
            if finite is not None:
                raise Refusal(
                    Code.FINITE_MASK,
                    Stage.SCORES,
                    label(softmax),
                    softmax.input[0],
                    f"a hidden key scores {float(finite):g}",
                )
            raise Refusal(
                Code.NONLINEAR_SCORE,
                Stage.SCORES,
                label(softmax),
                read.tensor,
                f"the product is multiplied by {' * '.join(factors)[:200]}",
            )
    if not factor:
        return Scores(contraction, read, scale * contraction.alpha, Poly(terms), visible)
    if scale:
        factor[()] = scale
    return Scores(contraction, read, contraction.alpha, Poly(terms), visible, Poly(factor))


def _finite_mask(score: Poly, indicators: list[Ind]) -> Number | None:
    """The constant that replaces the score of a hidden key, if it is finite and large."""
    for atom in indicators:
        for branch in split(score, atom):
            constant = branch.constant
            if constant is not None and HIDING_VALUE < constant <= -100:
                return constant
    return None


def _per_head(monomial: Monomial, read: Read) -> bool:
    """Whether the other factors depend on one index only, which does not move along rows or keys."""
    inside = {x for a, _ in monomial if a != read for x in of(a).all_atoms() if isinstance(x, Index)}
    return all(not isinstance(a, Ind) for a, _ in monomial) and {i.name for i in inside} <= {"h"}


def _moves(atom: object) -> bool:
    return any(isinstance(a, Index) for a in of(atom).all_atoms())  # type: ignore[arg-type]


def _indices_of(indices: Indices) -> list[Index]:
    return [a for x in indices for a in x.atoms if isinstance(a, Index)]


def _products(interpreter: Interpreter, value: Poly, key: Index) -> list[tuple[Read, Contraction]]:
    found = []
    for atom in value.sorted_atoms():
        if not isinstance(atom, Read):
            continue
        node = interpreter.scope.producer(atom.tensor)
        if node is None or not is_contraction(node):
            continue
        contraction = contract(interpreter, node, atom.indices)
        if contraction is None:
            continue
        sides = [any(x.depends_on(key) for x in s) for s in (contraction.left_index, contraction.right_index)]
        others = [
            any(x.depends_on(*(i for i in _indices_of(atom.indices) if i != key)) for x in s)
            for s in (contraction.left_index, contraction.right_index)
        ]
        if sides[0] != sides[1] and any(others):
            found.append((atom, contraction))
    return found


def _hidden_product(interpreter: Interpreter, value: Poly) -> str | None:
    """A product of query and key inside a function: soft-capping, for instance."""
    for atom in sorted(value.all_atoms()):
        if isinstance(atom, Apply):
            for inner in sorted(frozenset().union(*(a.all_atoms() for a in atom.arguments))):
                if isinstance(inner, Read) and is_contraction(interpreter.scope.producer(inner.tensor)):
                    return f"{inner.tensor} goes through {atom.function}"
    for atom in sorted(value.atoms):
        if isinstance(atom, Read):
            node = interpreter.scope.producer(atom.tensor)
            if node is not None and not is_contraction(node) and node.op_type in ("Tanh", "Sigmoid", "Relu", "Exp"):
                return f"the scores go through {node.op_type}"
    return None


def _concat_above(interpreter: Interpreter, tensor: str) -> bool:
    node = interpreter.scope.producer(tensor)
    for _ in range(6):
        if node is None:
            return False
        if node.op_type == "Concat":
            return True
        if not node.input:
            return False
        node = interpreter.scope.producer(node.input[0])
    return False


# --- readings: which axis is which --------------------------------------------------------------------


def _readings(score: Scores, indices: Indices) -> list[tuple[Indices, Frame]]:
    """Assignments of batch, head and row to the axes, under which keys do not depend on the row."""
    names = list(dict.fromkeys(_indices_of(indices)))
    key = next(i for i in names if i.name == "j")
    others = [i for i in names if i != key]
    left_has_key = any(x.depends_on(key) for x in score.product.left_index)
    key_side = score.product.left_index if left_has_key else score.product.right_index
    query_side = score.product.right_index if left_has_key else score.product.left_index
    if len(others) > 3:
        return []
    roles = {1: ["i"], 2: ["h", "i"], 3: ["b", "h", "i"]}.get(len(others), [])
    if len(others) == 2 and any(o.name == "b" for o in others):
        roles = ["b", "i"]
    found: list[tuple[Indices, Frame]] = []
    if not others:
        return [(indices, Frame(None, None, Index("i", poly(1)), key))]
    for order in permutations(roles):
        mapping = dict(zip(others, order, strict=True))
        row = next((o for o in others if mapping[o] == "i"), None)
        if row is not None and any(x.depends_on(row) for x in key_side):
            continue
        if row is not None and not any(x.depends_on(row) for x in query_side):
            continue
        renamed: Substitution = {o: of(Index(mapping[o], o.bound)) for o in others}
        bound = {mapping[o]: Index(mapping[o], o.bound) for o in others}
        frame = Frame(bound.get("b"), bound.get("h"), bound.get("i", Index("i", poly(1))), key)
        found.append((tuple(substitute(x, renamed) for x in indices), frame))
    if len(others) == 2 and roles == ["h", "i"]:
        # [B, S, S] without heads is as good as [H, S, S] without batch; the bias decides.
        for order in permutations(["b", "i"]):
            mapping = dict(zip(others, order, strict=True))
            row = next(o for o in others if mapping[o] == "i")
            if any(x.depends_on(row) for x in key_side):
                continue
            renamed = {o: of(Index(mapping[o], o.bound)) for o in others}
            bound = {mapping[o]: Index(mapping[o], o.bound) for o in others}
            found.append((tuple(substitute(x, renamed) for x in indices), Frame(bound["b"], None, bound["i"], key)))
    if not found and len(others) < 3:
        # S_q == 1: there is no row axis at all.
        rolesets = {1: ["h"], 2: ["b", "h"]}.get(len(others), [])
        mapping = dict(zip(others, rolesets, strict=True))
        renamed = {o: of(Index(mapping[o], o.bound)) for o in others}
        bound = {mapping[o]: Index(mapping[o], o.bound) for o in others}
        frame = Frame(bound.get("b"), bound.get("h"), Index("i", poly(1)), key)
        found.append((tuple(substitute(x, renamed) for x in indices), frame))
    return found


# --- operands --------------------------------------------------------------------------------------------


def _assemble(interpreter: Interpreter, softmax: NodeProto, indices: Indices, frame: Frame) -> Attention:
    score = _scores(interpreter, softmax, indices)
    product = score.product
    left_has_key = any(x.depends_on(frame.key) for x in product.left_index)
    query = (product.right, product.right_index) if left_has_key else (product.left, product.left_index)
    key = (product.left, product.left_index) if left_has_key else (product.right, product.right_index)
    inner = product.inner
    key_heads = (frame.batch, frame.head, frame.key, inner)
    query_view = find_view(interpreter, *query, _present(frame.batch, frame.head, frame.row, inner))
    key_view = find_view(interpreter, *key, _present(*key_heads))
    if query_view is None or key_view is None:
        missing, index = query if query_view is None else key
        raise Refusal(
            Code.LAYOUT, Stage.SCORES, label(product.node), missing, f"indexed [{', '.join(map(repr, index))}]"
        )
    value_view, output_view, zero_rows = _values(interpreter, softmax, indices, frame, score.visible)
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
        output=output_view,
        zero_rows=zero_rows,
        product=product.node.output[0],
        factor=score.factor,
        steps=[
            f"scores = {float(score.scale):.6g}"
            f" * {query[0]} . {key[0]} ({product.node.op_type} '{label(product.node)}')",
        ],
    )


def _present(*names: Index | None) -> tuple[Index, ...]:
    return tuple(n for n in names if n is not None)


def _values(
    interpreter: Interpreter, softmax: NodeProto, indices: Indices, frame: Frame, visible: tuple[Cond, ...]
) -> tuple[View, View, bool]:
    """The value operand, the output, and whether rows without keys are set to zero on the way."""
    node, position = _value_product(interpreter, softmax)
    out = node.output[0]
    dims = interpreter.dims(out)
    if dims is None:
        raise Refusal(Code.NO_VALUE_PRODUCT, Stage.SCORES, label(node), out)
    places = tuple(index_of(f"w{a}", d) for a, d in enumerate(dims))
    for _ in range(3):
        product = contract(interpreter, node, places)
        if product is None or product.alpha != 1:
            raise Refusal(Code.NO_VALUE_PRODUCT, Stage.SCORES, label(node), out, "not a plain matrix product")
        sides = [(product.left, product.left_index), (product.right, product.right_index)]
        operand, operand_index = sides[position]
        values, values_index = sides[1 - position]
        interpreter.splits.clear()
        weight = interpreter.element(operand, operand_index)
        read, zero_rows = _probability(interpreter, softmax, weight, indices, visible)
        if read is None:
            raise Refusal(
                Code.NO_VALUE_PRODUCT, Stage.SCORES, label(node), operand, "the probabilities are changed before it"
            )
        bound = _bind(interpreter, indices, read.indices)
        if bound is not None:
            break
        cut = next(((i, d) for i, d in interpreter.splits if i.name.startswith("w")), None)
        if cut is None:
            cut = next((c for r in read.indices for c in _undivided(r)), None)
        if cut is None:
            raise Refusal(Code.LAYOUT, Stage.SCORES, label(node), operand, f"indexed {read!r}")
        index, divisor = cut
        major = _quotient(interpreter, index.bound, divisor)
        if major is None:
            raise Refusal(Code.LAYOUT, Stage.SCORES, label(node), operand, f"{index.name} is not a multiple")
        parts = of(Index(f"{index.name}a", major)) * divisor + of(Index(f"{index.name}b", divisor))
        places = tuple(substitute(p, {index: parts}) for p in places)
    else:
        raise Refusal(Code.LAYOUT, Stage.SCORES, label(node), out)
    if bound.get(product.inner) != of(frame.key):
        raise Refusal(
            Code.SOFTMAX_AXIS, Stage.SCORES, label(node), operand, "the product with the values sums over another axis"
        )
    free = [i for i in _indices_of(places) if i not in bound]
    if len(free) != 1:
        raise Refusal(Code.LAYOUT, Stage.SCORES, label(node), out, "the feature axis cannot be told")
    bound[free[0]] = of(Index("e", free[0].bound))
    feature = Index("e", free[0].bound)
    value_index = tuple(substitute(x, bound) for x in values_index)
    value_view = find_view(interpreter, values, value_index, _present(frame.batch, frame.head, frame.key, feature))
    if value_view is None or value_view.factor != 1:
        value_view = as_view(interpreter, values, value_index)
    output_view = as_view(interpreter, out, tuple(substitute(x, bound) for x in places))
    if value_view is None or output_view is None:
        raise Refusal(Code.LAYOUT, Stage.SCORES, label(node), values)
    return value_view, output_view, zero_rows


def _undivided(value: Poly) -> list[tuple[Index, Poly]]:
    found = []
    for atom in sorted(value.all_atoms()):
        if isinstance(atom, Apply) and atom.function == "floordiv":
            single = atom.arguments[0].single_atom
            if isinstance(single, Index) and single.name.startswith("w"):
                found.append((single, atom.arguments[1]))
    return found


def _probability(
    interpreter: Interpreter, softmax: NodeProto, weight: Poly, indices: Indices, visible: tuple[Cond, ...]
) -> tuple[Read | None, bool]:
    """The softmax output that a weight is a copy of; and whether rows without keys were made zero.

    Setting weights of hidden keys to zero once more changes nothing but rows in which all keys are hidden.
    """
    single = weight.single_atom
    if isinstance(single, Read) and single.tensor == softmax.output[0]:
        return single, False
    reads = [a for a in weight.sorted_atoms() if isinstance(a, Read)]
    guards = [a for a in weight.sorted_atoms() if isinstance(a, Ind)]
    if len(reads) == 1 and len(guards) == 1 and reads[0].tensor == softmax.output[0]:
        guard = guards[0].condition
        probe = guard.value.single_atom if guard.kind == "read" and guard.value is not None else None
        if isinstance(probe, Read) and weight == of(reads[0]) - of(reads[0]) * of(guards[0]):
            node = interpreter.scope.producer(probe.tensor)
            if node is not None and node.op_type == "IsNaN" and node.input[0] == softmax.output[0]:
                return reads[0], True
    if len(reads) == 1 and reads[0].tensor == softmax.output[0]:
        bound = _bind(interpreter, indices, reads[0].indices)
        factor = weight.coefficient_of(reads[0])
        if bound is not None and weight == factor * of(reads[0]):
            kept = substitute(factor, bound).single_atom
            if isinstance(kept, Ind):
                known = {c.key for c in visible}
                parts = {c.key for c in conjuncts(kept.condition)}
                if parts <= known:
                    return reads[0], parts == known
    return None, False


def _bind(interpreter: Interpreter, frame_index: Indices, read_index: Indices) -> Substitution | None:
    """Solve ``read_index(w) == frame_index(b, h, i, j)`` for the unknown indices w."""
    bound: Substitution = {}
    for known, unknown in zip(frame_index, read_index, strict=True):
        known, unknown = interpreter.facts.normal(known), interpreter.facts.normal(unknown)
        single = unknown.single_atom
        if isinstance(single, Index):
            bound[single] = known
            continue
        names = radix(interpreter, unknown, {})
        targets = radix(interpreter, known, {})
        if names is None or targets is None or len(names) != len(targets):
            return None
        bound.update({n: of(t) for n, t in zip(names, targets, strict=True)})
    return bound


def _value_product(interpreter: Interpreter, softmax: NodeProto) -> tuple[NodeProto, int]:
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
                raise Refusal(
                    Code.CROSSES_SCOPE, Stage.SCORES, label(use.node), name, f"'{name}' is used in {use.scope.path}"
                )
            if is_contraction(use.node):
                found.append((use.node, use.position))
            elif use.node.op_type == "Dropout" and dropout_is_live(interpreter, use.node):
                raise Refusal(Code.TRAINING, Stage.SCORES, label(use.node), name)
            elif use.node.op_type in PASS_THROUGH:
                pending.extend(o for o in use.node.output if o)
    if not found:
        raise Refusal(Code.NO_VALUE_PRODUCT, Stage.SCORES, label(softmax), softmax.output[0])
    return found[0]
