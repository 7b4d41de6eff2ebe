"""Elementwise operators: each output element is a function of elements at the broadcast index."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from onnx import NodeProto, TensorProto

from ...algebra import (
    INFINITY,
    LARGEST_FLOAT32,
    ONE,
    ZERO,
    Apply,
    Cond,
    Ind,
    Index,
    Min0,
    Number,
    Poly,
    Read,
    Size,
    absolute,
    at_most_zero,
    conjunction,
    disjunction,
    equal,
    ind,
    interval,
    is_nonnegative,
    less,
    less_equal,
    magnitude,
    maximum,
    negation,
    nonzero,
    of,
    poly,
)
from ...graph.index import int_attribute
from .clamps import ceiled, clip, floored, largest
from .digits import floordiv
from .exactness import is_exact
from .rounding import PRECISION
from .types import INTEGERS, is_activation

if TYPE_CHECKING:
    from .engine import Interpreter

Indices = tuple[Poly, ...]

HALF_INFINITY = int(INFINITY / 2)

MOVES = (Index, Size, Min0)
"""What changes with the position."""

HUGE = 1 << 100
"""Far beyond any score, far below the largest float32."""


def exact(value: float) -> Fraction:
    """A float as a rational number; infinities become +-INFINITY."""
    if math.isinf(value):
        return INFINITY if value > 0 else -INFINITY
    return Fraction(value)


def _operands(interpreter: Interpreter, node: NodeProto, indices: Indices) -> list[Poly] | None:
    out = interpreter.dims(node.output[0])
    if out is None:
        return None
    try:
        return [interpreter.element(name, interpreter.aligned(name, indices, out, node)) for name in node.input if name]
    except LookupError:
        return None


def _binary(
    function: Callable[[Poly, Poly], Poly | None],
) -> Callable[[Interpreter, NodeProto, int, Indices], Poly | None]:
    def rule(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
        operands = _operands(interpreter, node, indices)
        if operands is None:
            return None
        result: Poly | None = operands[0]
        for operand in operands[1:]:
            if result is None:
                return None
            result = function(result, operand)
        return result

    return rule


def _add(left: Poly, right: Poly) -> Poly | None:
    return None if _may_cancel(left, right) else left + right


def _subtract(left: Poly, right: Poly) -> Poly | None:
    return None if _may_cancel(left, -right) else left - right


def _multiply(left: Poly, right: Poly) -> Poly | None:
    for one, other in ((left, right), (right, left)):
        if _infinities(one).terms and not other.constant:
            return None  # an infinity times zero is no number
    for one, other in ((left, right), (right, left)):
        infinite = _infinities(one)
        if infinite.terms and other.constant:
            if any(not a.is_finite for a in infinite.atoms):
                return one * other if other.constant in (1, -1) else None
            # Three times an infinity, or a tenth of it, is an infinity.
            return (one - infinite) * other + infinite * (1 if other.constant > 0 else -1)
    return _ramps(left * right)


def _ramps(value: Poly) -> Poly:
    """[p <= 0] * min(0, p) is min(0, p): where an integer p is not below zero, both are zero."""
    atoms = value.atoms
    if not any(isinstance(a, Ind) for a in atoms) or not any(isinstance(a, Min0) for a in atoms):
        return value
    result = ZERO
    for monomial, coefficient in value.terms:
        ramps = [a.value for a, _ in monomial if isinstance(a, Min0) and a.is_integer]
        bounds = {a: at_most_zero(a.condition) for a, _ in monomial if isinstance(a, Ind)}
        idle = {a for a, bound in bounds.items() if bound is not None and any(bound - r in (0, 1) for r in ramps)}
        result = result + Poly({tuple(f for f in monomial if f[0] not in idle): coefficient})
    return result


def sign(value: Poly) -> Poly:
    """-1, 0 or 1; of an integer that is [0 < value] - [value < 0]."""
    for atom in value.sorted_atoms():
        lowest = atom.extreme(lowest=True)
        if lowest is not None and (lowest.constant or 0) > 0 and all((atom, 1) in m for m, _ in value.terms):
            return sign(value.coefficient_of(atom))
    if value.constant is None and value.is_integer:
        return ind(less(ZERO, value)) - ind(less(value, ZERO))
    return apply_function("Sign", value)


def _infinities(value: Poly) -> Poly:
    """The terms that may be a floating-point infinity."""
    found = {
        m: c for m, c in value.terms if c >= HALF_INFINITY or c <= -HALF_INFINITY or not all(a.is_finite for a, _ in m)
    }
    return Poly(found) if found else ZERO


def _may_cancel(left: Poly, right: Poly) -> bool:
    """Whether one operand may be +inf where the other is -inf, or where nothing is known about it."""
    one, other = _infinities(left), _infinities(right)
    if not one.terms or not other.terms:
        return False
    first, second = interval(one), interval(other)
    if first is None or second is None:
        return True
    # A score in place of which an infinity stands reaches a little beyond zero: it is no infinity of the other sign.
    most = LARGEST_FLOAT32
    return (first[0] < -most and most < second[1]) or (second[0] < -most and most < first[1])


def _divide(left: Poly, right: Poly) -> Poly | None:
    if _infinities(right).terms:
        return None
    divisor = right.constant
    if divisor is not None:
        return _multiply(left, poly(Fraction(1) / divisor)) if divisor else None
    return left * reciprocal(right) if left.terms else None  # 0 / 0 is no number


def reciprocal(value: Poly) -> Poly:
    """1 / value."""
    constant = value.constant
    if constant:
        return poly(Fraction(1) / constant)
    return of(Apply("reciprocal", (value,), reciprocal))


def _integer_divide(left: Poly, right: Poly) -> Poly | None:
    # ONNX truncates towards zero, which is floor for non-negative values.
    a, b = left.constant, right.constant
    if a is not None and b:
        return poly(math.trunc(Fraction(a) / b))
    if not is_nonnegative(left) or not is_nonnegative(right - 1 if b is not None else right):
        return None
    return floordiv(left, right)


def _div(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    whole = interpreter.dtype(node.input[0]) in INTEGERS
    return _binary(_integer_divide if whole else _divide)(interpreter, node, output, indices)


def _clamp(
    function: Callable[[Poly, Poly, Number], Poly | None],
) -> Callable[[Interpreter, NodeProto, int, Indices], Poly | None]:
    """Max or Min of any number of operands; a constant bound comes second."""

    def rule(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
        lowest = -largest(interpreter.dtype(node.output[0]))

        def both(left: Poly, right: Poly) -> Poly | None:
            return function(right, left, lowest) if left.constant is not None else function(left, right, lowest)

        return _binary(both)(interpreter, node, output, indices)

    return rule


def _where(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    operands = _operands(interpreter, node, indices)
    if operands is None:
        return None
    condition, chosen, other = operands
    if chosen == other:
        return chosen
    test = ind(nonzero(condition))
    constant = test.constant
    if constant is not None:
        return chosen if constant else other
    # Where(c, x, y) = y + [c] (x - y);  a branch with an indicator of c in it sees c as decided.
    return _given(other, test, 0) + test * _given(chosen, test, 1) - test * _given(other, test, 0)


def _given(value: Poly, test: Poly, outcome: int) -> Poly:
    """The value on the branch where ``test`` (an indicator, or one minus one) has the outcome."""
    from ...algebra import split

    atom = test.single_atom
    if not isinstance(atom, Ind):
        atom, outcome = (ONE - test).single_atom, 1 - outcome
    if not isinstance(atom, Ind):
        return value
    value = split(value, atom)[outcome]
    condition = atom.condition
    return _at_zero(value, condition.value) if outcome and condition.kind == "eq" and condition.value else value


def _at_zero(value: Poly, zero: Poly) -> Poly:
    """The value where another one is zero: whole multiples of that one are left out."""
    own = dict(value.terms)
    for monomial, coefficient in reversed(zero.terms):
        if monomial in own:
            rest = value - zero * (Fraction(own[monomial]) / Fraction(coefficient))
            return rest if len(rest.terms) < len(value.terms) else value
    return value


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "Sqrt": math.sqrt,
    "Exp": math.exp,
    "Log": math.log,
    "Erf": math.erf,
    "Tanh": math.tanh,
    "Sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "Softplus": lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0.0),
    "Floor": math.floor,
    "Ceil": math.ceil,
    "Round": round,
    "Sign": lambda x: (x > 0) - (x < 0),
    "Sin": math.sin,
    "Cos": math.cos,
}

NUMBERS = frozenset({*INTEGERS, *PRECISION, TensorProto.BOOL})
"""Types that elements are calculated in; of others (of 8 bits and less, text) nothing is known."""

_ROUNDING = frozenset({"Floor", "Ceil", "Round"})
_INTEGER = _ROUNDING | {"Sign"}


def apply_function(name: str, value: Poly) -> Poly:
    """``name(value)``: a number if the value is one, otherwise a function of it."""
    constant = value.constant
    if constant is not None and magnitude(constant) < HALF_INFINITY:
        try:
            number = exact(float(FUNCTIONS[name](float(constant))))
        except (ValueError, OverflowError):
            number = INFINITY
        if magnitude(number) < HALF_INFINITY:
            return poly(number)
    if name in _ROUNDING and value.is_integer:
        return value
    return of(Apply(name, (value,), lambda v: apply_function(name, v), integer=name in _INTEGER))


def _unary(name: str) -> Callable[[Interpreter, NodeProto, int, Indices], Poly | None]:
    def rule(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
        return apply_function(name, interpreter.element(node.input[0], indices))

    return rule


def power(base: Poly, exponent: Poly) -> Poly:
    """Base ** exponent."""
    b, e = base.constant, exponent.constant
    if e is not None and e == int(e) and 0 <= e <= 4 and len(base.terms) <= 8:
        result = ONE
        for _ in range(int(e)):
            result = result * base
        return result
    if b is not None and e is not None:
        try:
            number = exact(float(b) ** float(e))
        except (ValueError, OverflowError, ZeroDivisionError, TypeError):
            number = INFINITY
        if magnitude(number) < HALF_INFINITY:
            return poly(number)
    return of(Apply("pow", (base, exponent), power))


def _power(base: Poly, exponent: Poly) -> Poly | None:
    return None if _infinities(base).terms or _infinities(exponent).terms else power(base, exponent)


def _mod(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    """The remainder with the sign of the divisor; with that of the dividend (fmod) where both are non-negative."""
    operands = _operands(interpreter, node, indices)
    if operands is None or any(not o.is_integer for o in operands):
        return None
    left, right = operands
    if _infinities(left).terms or _infinities(right).terms or not (right.constant or is_nonnegative(right - 1)):
        return None
    if int_attribute(node, "fmod", 0) and not (is_nonnegative(left) and is_nonnegative(right)):
        return None
    return left - floordiv(left, right) * right


def _cast(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    return convert(interpreter, node.input[0], indices, int_attribute(node, "to", TensorProto.FLOAT))


def _cast_like(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    target = interpreter.dtype(node.input[1])
    return convert(interpreter, node.input[0], indices, target) if target else None


def convert(interpreter: Interpreter, name: str, indices: Indices, target: int) -> Poly | None:
    """The element cast to another type: exact for numbers, a test for bool, a truncation for integers."""
    value = interpreter.element(name, indices)
    if interpreter.dtype(name) not in NUMBERS:
        return None
    if target == TensorProto.BOOL:
        return ind(nonzero(value))
    return truncate(value) if target in INTEGERS else value


def truncate(value: Poly) -> Poly:
    """The integer part."""
    constant = value.constant
    if constant is not None:
        return poly(math.trunc(constant))
    return value if value.is_integer else of(Apply("trunc", (value,), truncate, integer=True))


def _isnan(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    value = interpreter.element(node.input[0], indices)
    return ZERO if value.is_integer or value.constant is not None else None  # a constant NaN is a read


def _xor(left: Poly, right: Poly) -> Poly:
    a, b = nonzero(left), nonzero(right)
    return ind(disjunction((conjunction((a, negation(b))), conjunction((negation(a), b)))))


def _comparison(
    compare: Callable[[Poly, Poly], Cond],
) -> Callable[[Interpreter, NodeProto, int, Indices], Poly | None]:
    def rule(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
        operands = _operands(interpreter, node, indices)
        if operands is None or interpreter.dtype(node.input[0]) not in NUMBERS:
            return None
        if not all(a.is_finite for o in operands for a in o.atoms):
            return None
        left, right = operands
        if any(magnitude(c) >= HUGE for o in operands for _, c in o.terms):
            # Scores are smaller than the lowest number of their type hides; a mask of the model's inputs may hold it.
            given = [a for o in operands for a in o.all_atoms() if isinstance(a, Read) and not a.integer]
            if not all(is_activation(interpreter, of(a)) for a in given):
                return None
        difference = left - right
        moves = interpreter.dtype(node.input[0]) in PRECISION and any(isinstance(a, MOVES) for a in difference.atoms)
        if moves and not all(is_exact(interpreter, name) for name in node.input):
            return None  # the last bit decides
        return ind(compare(left, right))

    return rule


RULES: dict[str, Callable[[Interpreter, NodeProto, int, Indices], Poly | None]] = {
    "Add": _binary(_add),
    "Sum": _binary(_add),
    "Sub": _binary(_subtract),
    "Mul": _binary(_multiply),
    "Div": _div,
    "Mod": _mod,
    "Max": _clamp(floored),
    "Min": _clamp(ceiled),
    "Pow": _binary(_power),
    "And": _binary(lambda a, b: ind(conjunction((nonzero(a), nonzero(b))))),
    "Or": _binary(lambda a, b: ind(disjunction((nonzero(a), nonzero(b))))),
    "Xor": _binary(_xor),
    "Equal": _comparison(equal),
    "Less": _comparison(less),
    "LessOrEqual": _comparison(less_equal),
    "Greater": _comparison(lambda a, b: less(b, a)),
    "GreaterOrEqual": _comparison(lambda a, b: less_equal(b, a)),
    "Where": _where,
    "Clip": clip,
    "Cast": _cast,
    "CastLike": _cast_like,
    "IsNaN": _isnan,
    "Neg": lambda i, n, o, x: -i.element(n.input[0], x),
    "Abs": lambda i, n, o, x: absolute(i.element(n.input[0], x)),
    "Not": lambda i, n, o, x: ind(negation(nonzero(i.element(n.input[0], x)))),
    "Relu": lambda i, n, o, x: maximum(i.element(n.input[0], x), ZERO),
    "Reciprocal": lambda i, n, o, x: reciprocal(i.element(n.input[0], x)),
    **{name: _unary(name) for name in FUNCTIONS},
    "Sign": lambda i, n, o, x: sign(i.element(n.input[0], x)),
}
