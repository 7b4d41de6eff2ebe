"""The symbolic layer against numbers: whatever is simplified still has the value that it had before."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from alibi_rewriter.algebra import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    Apply,
    Cond,
    Ind,
    Index,
    Min0,
    Poly,
    Read,
    Size,
    Sum,
    TooComplex,
    absolute,
    branches,
    conjunction,
    conjuncts,
    disjunction,
    equal,
    exists,
    first_indicator,
    implies,
    ind,
    is_nonnegative,
    is_nonpositive,
    less,
    less_equal,
    lower_bound,
    maximum,
    min0,
    minimum,
    negation,
    nonzero,
    of,
    poly,
    render,
    substitute,
    upper_bound,
)
from alibi_rewriter.graph.index import index_graph, opset_versions
from alibi_rewriter.rewriter.interpret import Interpreter
from alibi_rewriter.rewriter.interpret.digits import divide, divmod_index, floordiv, regroup
from alibi_rewriter.rewriter.interpret.movement import learn_from_count
from alibi_rewriter.rewriter.interpret.rules import element_rules
from alibi_rewriter.rewriter.interpret.sizes.facts import Facts
from hypothesis import given, settings
from hypothesis import strategies as st

N, M = Size("n"), Size("m")
I, J = Index("i", of(N)), Index("j", of(M))  # noqa: E741
COUNT = Read("count", (of(J),), True)
REAL = Read("real", (of(J),))
FLAG = Read("flag", (of(I),), True)

Number = int | Fraction
Env = dict[str, Number]


@dataclass(frozen=True)
class Pair:
    """The same value twice: simplified, and as a function of an assignment."""

    symbolic: Poly
    number: Callable[[Env], Number]


@dataclass(frozen=True)
class Test:
    """The same condition twice."""

    __test__ = False
    symbolic: Cond
    number: Callable[[Env], bool]


ATOMS = {"n": of(N), "m": of(M), "i": of(I), "j": of(J), "count": of(COUNT), "real": of(REAL)}


def evaluate(value: Poly, env: Env) -> Number:
    """A polynomial as a number, straight from the meaning of its atoms."""
    total: Number = 0
    for monomial, coefficient in value.terms:
        product: Number = coefficient
        for atom, power in monomial:
            product *= _atom(atom, env) ** power
        total += product
    return total


def _atom(atom: object, env: Env) -> Number:
    if isinstance(atom, Size | Index):
        return env[atom.name]
    if isinstance(atom, Read):
        return env[atom.tensor]
    if isinstance(atom, Min0):
        return min(0, evaluate(atom.value, env))
    if isinstance(atom, Ind):
        return int(holds(atom.condition, env))
    if isinstance(atom, Sum):
        bound = int(evaluate(atom.index.bound, env))
        return sum(evaluate(atom.term, {**env, atom.index.name: k}) for k in range(bound))
    assert isinstance(atom, Apply) and atom.function == "floordiv"
    left, right = (evaluate(a, env) for a in atom.arguments)
    return left // right


def holds(condition: Cond, env: Env) -> bool:
    """A condition as a truth value."""
    if condition.kind in ("true", "false"):
        return condition.kind == "true"
    if condition.kind == "and":
        return all(holds(p, env) for p in condition.parts)
    if condition.kind == "or":
        return any(holds(p, env) for p in condition.parts)
    if condition.kind == "not":
        return not holds(condition.parts[0], env)
    if condition.kind == "any":
        assert condition.index is not None
        bound = int(evaluate(condition.index.bound, env))
        return any(holds(condition.parts[0], {**env, condition.index.name: k}) for k in range(bound))
    assert condition.value is not None
    value = evaluate(condition.value, env)
    return {"le": value <= 0, "lt": value < 0, "eq": value == 0, "read": value != 0}[condition.kind]


@st.composite
def environments(draw: st.DrawFn) -> Env:
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return {
        "n": n,
        "m": m,
        "i": draw(st.integers(0, n - 1)),
        "j": draw(st.integers(0, m - 1)),
        "count": draw(st.integers(-3, 3)),
        "real": draw(st.fractions(-3, 3, max_denominator=4)),
        "flag": draw(st.integers(0, 1)),
    }


def _leaf() -> st.SearchStrategy[Pair]:
    names = st.sampled_from(sorted(ATOMS)).map(lambda a: Pair(ATOMS[a], lambda e, a=a: e[a]))
    numbers = st.one_of(st.integers(-4, 4), st.sampled_from([Fraction(1, 2), Fraction(-3, 4)]))
    return st.one_of(names, names, numbers.map(lambda c: Pair(poly(c), lambda e, c=c: c)))


def _grow(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    two = st.tuples(inner, inner)
    tests = conditions(inner)
    return st.one_of(
        two.map(lambda p: Pair(p[0].symbolic + p[1].symbolic, lambda e: p[0].number(e) + p[1].number(e))),
        two.map(lambda p: Pair(p[0].symbolic - p[1].symbolic, lambda e: p[0].number(e) - p[1].number(e))),
        two.map(lambda p: Pair(minimum(p[0].symbolic, p[1].symbolic), lambda e: min(p[0].number(e), p[1].number(e)))),
        two.map(lambda p: Pair(maximum(p[0].symbolic, p[1].symbolic), lambda e: max(p[0].number(e), p[1].number(e)))),
        inner.map(lambda p: Pair(absolute(p.symbolic), lambda e: abs(p.number(e)))),
        inner.map(lambda p: Pair(min0(p.symbolic), lambda e: min(0, p.number(e)))),
        st.tuples(inner, _leaf()).map(
            lambda p: Pair(p[0].symbolic * p[1].symbolic, lambda e: p[0].number(e) * p[1].number(e))
        ),
        tests.map(lambda t: Pair(ind(t.symbolic), lambda e: int(t.number(e)))),
    )


def conditions(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Test]:
    two = st.tuples(values, values)
    base = st.one_of(
        two.map(lambda p: Test(less_equal(p[0].symbolic, p[1].symbolic), lambda e: p[0].number(e) <= p[1].number(e))),
        two.map(lambda p: Test(less(p[0].symbolic, p[1].symbolic), lambda e: p[0].number(e) < p[1].number(e))),
        two.map(lambda p: Test(equal(p[0].symbolic, p[1].symbolic), lambda e: p[0].number(e) == p[1].number(e))),
        st.just(Test(nonzero(of(FLAG)), lambda e: e["flag"] != 0)),
    )
    return st.recursive(
        base,
        lambda inner: st.one_of(
            inner.map(lambda t: Test(negation(t.symbolic), lambda e: not t.number(e))),
            st.lists(inner, min_size=2, max_size=3).map(
                lambda ts: Test(conjunction(t.symbolic for t in ts), lambda e: all(t.number(e) for t in ts))
            ),
            st.lists(inner, min_size=2, max_size=3).map(
                lambda ts: Test(disjunction(t.symbolic for t in ts), lambda e: any(t.number(e) for t in ts))
            ),
        ),
        max_leaves=4,
    )


VALUES = st.recursive(_leaf(), _grow, max_leaves=6)
INDEX_VALUES = st.tuples(*(st.integers(-3, 3) for _ in range(5))).map(
    lambda c: poly(c[0]) + of(N) * c[1] + of(M) * c[2] + of(I) * c[3] + of(J) * c[4]
)

fast = settings(max_examples=100, deadline=None, derandomize=True)


@fast
@given(VALUES, environments())
def test_normal_forms_keep_the_value(pair: Pair, env: Env) -> None:
    assert evaluate(pair.symbolic, env) == pair.number(env)


@fast
@given(conditions(VALUES), environments())
def test_conditions_keep_their_truth(test: Test, env: Env) -> None:
    assert holds(test.symbolic, env) == test.number(env)
    assert evaluate(ind(test.symbolic), env) == int(test.number(env))
    assert all(holds(p, env) for p in conjuncts(test.symbolic)) == test.number(env)


@fast
@given(VALUES, VALUES, environments())
def test_equal_normal_forms_are_equal_numbers(left: Pair, right: Pair, env: Env) -> None:
    difference = left.symbolic - right.symbolic
    if left.symbolic == right.symbolic:
        assert difference == 0
        assert left.number(env) == right.number(env)
        assert hash(left.symbolic) == hash(right.symbolic)
    assert evaluate(difference, env) == left.number(env) - right.number(env)


@fast
@given(VALUES, environments())
def test_substitution_is_evaluation(pair: Pair, env: Env) -> None:
    """Numbers put in for everything leave a number: the value."""
    mapping = {of_.single_atom: poly(env[name]) for name, of_ in ATOMS.items()}
    mapping[FLAG] = poly(env["flag"])
    reads = {a for a in pair.symbolic.all_atoms() if isinstance(a, Read)}
    replaced = substitute(pair.symbolic, {a: v for a, v in mapping.items() if a in reads})  # type: ignore[misc]
    replaced = substitute(replaced, {a: v for a, v in mapping.items() if a not in reads})  # type: ignore[misc]
    assert replaced.constant == pair.number(env)


@fast
@given(INDEX_VALUES, environments())
def test_bounds(value: Poly, env: Env) -> None:
    number = evaluate(value, env)
    low, high = lower_bound(value), upper_bound(value)
    assert low is None or evaluate(low, env) <= number
    assert high is None or number <= evaluate(high, env)
    assert not is_nonnegative(value) or number >= 0
    assert not is_nonpositive(value) or number <= 0


@fast
@given(VALUES, environments())
def test_signs_of_piecewise_values(pair: Pair, env: Env) -> None:
    number = pair.number(env)
    assert not is_nonnegative(pair.symbolic) or number >= 0
    assert not is_nonpositive(pair.symbolic) or number <= 0


@fast
@given(VALUES, environments())
def test_what_is_called_an_integer_is_one(pair: Pair, env: Env) -> None:
    number, denominator = Fraction(pair.number(env)), pair.symbolic.denominator
    assert denominator is None or (number * denominator).denominator == 1
    assert not pair.symbolic.is_integer or number.denominator == 1


@fast
@given(VALUES, conditions(VALUES), environments())
def test_cases_keep_the_value(pair: Pair, known: Test, env: Env) -> None:
    indicator = first_indicator(pair.symbolic)
    if indicator is None or not known.number(env):
        return
    (absent, without), (present, within) = branches(pair.symbolic, indicator, known.symbolic)
    chosen, case = (present, within) if holds(indicator.condition, env) else (absent, without)
    assert case != FALSE
    assert evaluate(chosen, env) == pair.number(env)


def test_a_head_excludes_the_others() -> None:
    i = of(I)
    heads = [conjunction((less_equal(i, poly(k)), less_equal(poly(k), i))) for k in range(4)]
    value = sum((ind(head) * (k + 2) for k, head in enumerate(heads)), of(J))
    indicator = first_indicator(value)
    assert indicator is not None
    number = heads.index(indicator.condition)
    (absent, _), (present, _) = branches(value, indicator)
    assert present == of(J) + number + 2
    assert absent == value - ind(heads[number]) * (number + 2)
    for other, head in enumerate(heads):
        (_, without), (_, within) = branches(value, indicator, head)
        assert (without == FALSE, within == FALSE) == (other == number, other != number)


def test_a_factor_makes_up_for_a_fraction_inside() -> None:
    """A normal form has halves inside where the smaller of a number and a distance is taken."""
    i, j = of(I), of(J)
    capped = minimum(absolute(i - j), poly(3))
    assert any(isinstance(a, Min0) and not a.is_integer for a in capped.atoms)
    assert capped.is_integer
    half = min0(i - j / 2)
    assert (half.denominator, (half * half).denominator, (half * of(REAL)).denominator) == (2, 4, None)
    assert (2 * half).is_integer
    assert (4 * half * half).is_integer
    assert not (3 * half).is_integer
    assert not (2 * half * half).is_integer
    assert not (2 * half + j / 3).is_integer
    assert less(2 * half, poly(-1)) == less_equal(2 * half, poly(-2))


@fast
@given(conditions(VALUES), conditions(VALUES), environments())
def test_implication(premise: Test, conclusion: Test, env: Env) -> None:
    if implies(premise.symbolic, conclusion.symbolic) and premise.number(env):
        assert conclusion.number(env)


@fast
@given(conditions(VALUES))
def test_negation_is_its_own_inverse(test: Test) -> None:
    both = conjunction((test.symbolic, negation(test.symbolic)))
    either = disjunction((test.symbolic, negation(test.symbolic)))
    for n, m in itertools.product((1, 3), (1, 2)):
        env: Env = {"n": n, "m": m, "i": n - 1, "j": m - 1, "count": 1, "real": Fraction(1, 2), "flag": 1}
        assert not holds(both, env)
        assert holds(either, env)


@fast
@given(VALUES, VALUES)
def test_order_of_construction_does_not_matter(left: Pair, right: Pair) -> None:
    a, b = left.symbolic, right.symbolic
    assert a + b == b + a
    assert a * b == b * a
    assert a - b == -(b - a)
    assert render(a + b) == render(b + a)


def test_distances_have_one_normal_form() -> None:
    i, j = of(I), of(J)
    assert absolute(i - j) == absolute(j - i)
    assert maximum(i, j) - minimum(i, j) == absolute(i - j)
    assert maximum(i, j) + minimum(i, j) == i + j
    assert min0(2 * (i - j)) == 2 * min0(i - j)
    assert min0(j) == ZERO
    assert min0(-j - 1) == -j - 1


def test_opposite_conditions_add_up_to_one() -> None:
    i, j = of(I), of(J)
    for condition in (less_equal(j, i), less(j, i), equal(i, j), nonzero(of(FLAG)), equal(of(COUNT), ONE)):
        assert ind(condition) + ind(negation(condition)) == 1
        assert ind(condition) * ind(condition) == ind(condition)
    assert ind(less(j, i)) + ind(less_equal(i, j)) == 1


def test_decided_conditions() -> None:
    i, j, n = of(I), of(J), of(N)
    assert less(i, n) == TRUE
    assert less_equal(n, i) == FALSE
    assert less_equal(j, of(M) - 1) == TRUE
    assert equal(i, poly(-1)) == FALSE
    assert conjunction((less_equal(j, i), less(i, j))) == FALSE
    assert disjunction((less_equal(j, i), less(i, j))) == TRUE
    assert conjunction((less_equal(j, i), less_equal(j, i + 1))) == less_equal(j, i)


@pytest.mark.parametrize("seen", [(0, 0, 0), (1, 0, 1), (0, 0, 1)])
def test_sums_and_existence(seen: tuple[int, ...]) -> None:
    k = Index("k", poly(3))
    flag = Read("flags", (of(k),), True)
    some = exists(k, nonzero(of(flag)))
    assert some.kind == "any"

    def at(position: int) -> Poly:
        return substitute(of(flag), {k: poly(position)})

    assert less_equal(of(Sum(k, ind(nonzero(of(flag))))), ZERO) == negation(some)
    values = [at(p) for p in range(3)]
    mapping = {v.single_atom: poly(s) for v, s in zip(values, seen, strict=True)}
    whole = disjunction(nonzero(v) for v in values)
    assert whole.substitute(mapping) == (TRUE if any(seen) else FALSE)  # type: ignore[arg-type]


# --- division and reshapes -------------------------------------------------------------------------------


def interpreter() -> Interpreter:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { y = Identity(x) }'
    )
    return Interpreter(index_graph(model.graph, opset_versions(model), Path()), rules=element_rules())


@fast
@given(INDEX_VALUES, st.integers(1, 6), environments())
def test_floor_division(value: Poly, divisor: int, env: Env) -> None:
    number = evaluate(value, env)
    assert evaluate(floordiv(value, poly(divisor)), env) == number // divisor
    quotient, remainder = divmod_index(interpreter(), value, poly(divisor))
    assert evaluate(quotient, env) * divisor + evaluate(remainder, env) == number
    if number >= 0:
        assert (evaluate(quotient, env), evaluate(remainder, env)) == divmod(number, divisor)


def test_a_stride_that_both_sides_have_cancels() -> None:
    inner = Index("k", of(N))
    assert floordiv(of(J) * of(N) + of(inner), 2 * of(N)) == floordiv(of(J), poly(2))
    longer = floordiv(of(J) * of(N) + of(Index("k", of(N) + 1)), 2 * of(N))
    assert longer != floordiv(of(J), poly(2)), "it may carry"


def test_axes_that_have_no_common_multiple_are_not_regrouped() -> None:
    assert regroup(interpreter(), (of(N),), (of(M),), (of(J),)) is None
    assert regroup(interpreter(), (poly(6),), (poly(4),), (of(Index("k", poly(4))),)) is None


def test_equal_squares_have_equal_sides() -> None:
    """A Reshape of [S + P, S + P] to [T, T] keeps the number of elements."""
    for power in (2, 3):
        known = interpreter()
        assert learn_from_count(known, [of(N) + of(M)] * power, [of(Size("t"))] * power, "n")
        assert known.facts.equal(of(Size("t")), of(N) + of(M))
    uneven = interpreter()
    learn_from_count(uneven, [of(N) + of(M)] * 2, [of(Size("t"))] * 3, "n")
    assert not uneven.facts.equal(of(Size("t")), of(N) + of(M))


@pytest.mark.parametrize("shift", [0, 1])
def test_rows_read_as_rows_that_are_longer_by_one(shift: int) -> None:
    """The shift of relative attention: where a row begins moves by one from row to row, so a comparison tells it."""
    k = Index("k", of(N))
    linear = of(I) * of(N) + of(k) + shift * of(I)
    weight = of(N) + 1
    quotient, remainder = divmod_index(interpreter(), linear, weight)
    assert not any(isinstance(a, Apply) for a in quotient.all_atoms())
    for n in range(1, 6):
        for row, column in itertools.product(range(n), range(n)):
            env: Env = {"n": n, "i": row, "k": column}
            wanted = divmod(row * n + column + shift * row, n + 1)
            assert (evaluate(quotient, env), evaluate(remainder, env)) == wanted


@fast
@given(INDEX_VALUES, environments())
def test_division_by_a_size(value: Poly, env: Env) -> None:
    number, size = evaluate(value, env), env["n"]
    quotient, remainder = divmod_index(interpreter(), value, of(N))
    if number >= 0:
        assert (evaluate(quotient, env), evaluate(remainder, env)) == divmod(number, size)
    exact = divide(value, of(N))
    if exact is not None:
        assert evaluate(exact, env) * size == number


EXTENTS = [poly(2), poly(3), poly(4), of(N), of(M)]


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[Poly, ...], tuple[Poly, ...]]:
    """Two shapes with the same elements: factors grouped in two ways, 1s in between."""
    factors = draw(st.lists(st.sampled_from(EXTENTS), min_size=1, max_size=4))

    def grouped() -> tuple[Poly, ...]:
        shape: list[Poly] = []
        for factor in factors:
            if shape and draw(st.booleans()):
                shape[-1] = shape[-1] * factor
            else:
                shape.append(factor)
            if draw(st.integers(0, 5)) == 0:
                shape.append(ONE)
        return tuple(shape)

    return grouped(), grouped()


@fast
@given(reshapes(), st.integers(1, 4), st.integers(1, 4))
def test_reshape_moves_elements_as_numpy_does(
    shapes: tuple[tuple[Poly, ...], tuple[Poly, ...]], n: int, m: int
) -> None:
    inside, outside = shapes
    env: Env = {"n": n, "m": m}
    numbers_in, numbers_out = ([int(evaluate(e, env)) for e in s] for s in (inside, outside))
    data = np.arange(int(np.prod(numbers_in))).reshape(numbers_in)
    wanted = data.reshape(numbers_out)
    axes = [Index(f"a{k}", e) for k, e in enumerate(outside)]
    moved = regroup(interpreter(), inside, outside, tuple(of(a) for a in axes))
    if moved is None:
        return
    for place in np.ndindex(*numbers_out):
        at = {**env, **{a.name: p for a, p in zip(axes, place, strict=True)}}
        assert data[tuple(int(evaluate(x, at)) for x in moved)] == wanted[place]


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((of(N) * 4, of(M)), (of(N), poly(4), of(M))),
        ((of(N), poly(4), of(M)), (of(N) * 4, of(M))),
        ((of(N), of(M), poly(12)), (of(N), of(M), poly(3), poly(4))),
        ((poly(2), of(N)), (poly(2), ONE, of(N))),
    ],
)
def test_usual_reshapes_are_understood(inside: tuple[Poly, ...], outside: tuple[Poly, ...]) -> None:
    axes = tuple(of(Index(f"a{k}", e)) for k, e in enumerate(outside))
    moved = regroup(interpreter(), inside, outside, axes)
    assert moved is not None
    if len(outside) <= len(inside):
        return
    assert not any(isinstance(a, Apply) for x in moved for a in x.all_atoms())


# --- facts -----------------------------------------------------------------------------------------------


def _linear(coefficients: tuple[int, ...]) -> Poly:
    return sum((of(Size(s)) * c for s, c in zip("abc", coefficients[1:], strict=True)), poly(coefficients[0]))


@fast
@given(
    st.lists(st.tuples(*(st.integers(-2, 2) for _ in range(4))), min_size=1, max_size=3),
    st.tuples(*(st.integers(-2, 2) for _ in range(4))),
    st.tuples(*(st.integers(1, 6) for _ in range(3))),
)
def test_facts_change_nothing_where_they_hold(
    learned: list[tuple[int, ...]], value: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    env: Env = dict(zip("abc", sizes, strict=True))
    facts = Facts()
    for coefficients in learned:
        fact = _linear(coefficients)
        if evaluate(fact, env) == 0:
            facts.learn(fact, ZERO, "node", by_broadcast=True)
    for whole in (_linear(value), min0(_linear(value)), absolute(_linear(value))):
        assert evaluate(facts.normal(whole), env) == evaluate(whole, env)


@pytest.mark.parametrize("number", [0, 1, -1, 3, Fraction(2, 3), 1 << 70], ids=str)
def test_products_by_numbers_are_in_normal_form(number: Number) -> None:
    """They need no sorting, and are the same value as one that was sorted."""
    value = 5 - 3 * of(N) * of(J) + of(N) / 2 + of(M) * of(M)
    sorted_anew = Poly({m: c * number for m, c in reversed(value.terms)})
    for made in (value * number, number * value, value * poly(number), poly(number) * value):
        assert (made.terms, hash(made), made.all_atoms()) == (
            sorted_anew.terms,
            hash(sorted_anew),
            sorted_anew.all_atoms(),
        )
    assert (-value).terms == (value * -1).terms == (ZERO - value).terms
    with pytest.raises(TooComplex):
        value * (1 << 5000)


def test_sizes_and_indices_are_what_their_names_and_bounds_say() -> None:
    assert Size("n") == N
    assert hash(Size("n")) == hash(N)
    assert Size("n") != M
    assert Index("i", of(Size("n"))) == I
    assert hash(Index("i", of(Size("n")))) == hash(I)
    assert Index("i", of(M)) != I
    assert Index("n", of(N)) != N


def test_facts_are_used() -> None:
    a, b, c = (of(Size(s)) for s in "abc")
    facts = Facts()
    assert not facts.equal(a, b)
    assert facts.learn(a, b, "first", by_broadcast=False)
    assert facts.learn(c, a + 1, "second", by_broadcast=True)
    assert facts.equal(a, b)
    assert facts.equal(c - b, ONE)
    assert not facts.learn(a, b + 1, "wrong", by_broadcast=False)
    assert facts.learn(b, a, "again", by_broadcast=False)
    assert [f.node for f in facts.learned] == ["first", "second"]


def test_a_factor_that_both_sides_have_is_cancelled() -> None:
    """As many elements: B * S = B * T says S = T, since a run without sequences does not matter."""
    a, b, c = (of(Size(s)) for s in "abc")
    facts = Facts()
    assert facts.learn(2 * a * b, 2 * a * c, "reshape", by_broadcast=False)
    assert facts.equal(b, c)


def test_assumed_signs() -> None:
    a, b = of(Size("a")), of(Size("b"))
    facts = Facts()
    facts.assume_nonnegative(a - b, "slice")
    assert facts.normal(min0(a - b)) == 0
    assert facts.normal(minimum(a, b)) == b
    assert [f.relation for f in facts.learned] == [">="]


def test_an_empty_axis_is_never_the_explanation() -> None:
    a, b = of(Size("a")), of(Size("b"))
    assert not Facts().learn(a + b, ZERO, "node", by_broadcast=True)
