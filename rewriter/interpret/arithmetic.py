"""Elementwise operators: each output element is a function of elements at the broadcast index."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from onnx import NodeProto, TensorProto

from ..algebra import (
    HIDING_VALUE,
    INFINITY,
    ONE,
    ZERO,
    Apply,
    Ind,
    Index,
    Min0,
    Poly,
    Size,
    absolute,
    conjunction,
    disjunction,
    equal,
    ind,
    is_nonnegative,
    less,
    less_equal,
    magnitude,
    maximum,
    minimum,
    negation,
    nonzero,
    of,
    poly,
)
from ..graph import float_attribute, int_attribute
from .digits import floordiv

if TYPE_CHECKING:
    from .engine import Interpreter

Indices = tuple[Poly, ...]


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


def _divide(left: Poly, right: Poly) -> Poly | None:
    divisor = right.constant
    if divisor is not None:
        return left / divisor if divisor else None
    return left * reciprocal(right)


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
    from .engine import INTEGER_TYPES

    whole = interpreter.dtype(node.input[0]) in INTEGER_TYPES
    return _binary(_integer_divide if whole else _divide)(interpreter, node, output, indices)


def clamp_floor(value: Poly, floor: Poly) -> Poly:
    """max(value, floor).  A floor that hides keys by itself only touches scores that are hidden already."""
    constant = floor.constant
    if constant is not None and constant <= HIDING_VALUE and value.constant is None and not _is_position(value):
        return value
    return maximum(value, floor)


def _is_position(value: Poly) -> bool:
    """Whether a value counts tokens: a bound on it is one on the distance, however large it is."""
    return value.is_integer and any(isinstance(a, Index | Size | Min0) for a in value.atoms)


def _max(left: Poly, right: Poly) -> Poly | None:
    if left.constant is not None and left.constant <= HIDING_VALUE:
        left, right = right, left
    return clamp_floor(left, right)


def _min(left: Poly, right: Poly) -> Poly | None:
    for value, ceiling in ((left, right), (right, left)):
        constant = ceiling.constant
        if constant is not None and constant >= -HIDING_VALUE and value.constant is None and not _is_position(value):
            return value
    return minimum(left, right)


def _clip(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    value = interpreter.element(node.input[0], indices)
    low: Poly | None = None
    high: Poly | None = None
    if len(node.input) > 1 and node.input[1]:
        low = interpreter.scalar(node.input[1])
    elif (given := float_attribute(node, "min", -math.inf)) > -3e38:
        low = poly(exact(given))
    if len(node.input) > 2 and node.input[2]:
        high = interpreter.scalar(node.input[2])
    elif (given := float_attribute(node, "max", math.inf)) < 3e38:
        high = poly(exact(given))
    if low is not None:
        value = clamp_floor(value, low)
    if high is not None:
        clipped = _min(value, high)
        value = clipped if clipped is not None else value
    return value


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
    from ..algebra import Ind, split

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

NARROW_INTEGERS = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16})

_ROUNDING = frozenset({"Floor", "Ceil", "Round"})


def apply_function(name: str, value: Poly) -> Poly:
    """``name(value)``: a number if the value is one, otherwise a function of it."""
    constant = value.constant
    if constant is not None and magnitude(constant) < INFINITY / 2:
        try:
            return poly(exact(float(FUNCTIONS[name](float(constant)))))
        except (ValueError, OverflowError):
            pass
    if name in _ROUNDING and value.is_integer:
        return value
    return of(Apply(name, (value,), lambda v: apply_function(name, v), integer=name in _ROUNDING))


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
            return poly(exact(float(b) ** float(e)))
        except (ValueError, OverflowError, ZeroDivisionError, TypeError):
            pass
    return of(Apply("pow", (base, exponent), power))


def modulo(left: Poly, right: Poly) -> Poly | None:
    """Left mod right for non-negative integers."""
    return left - floordiv(left, right) * right if left.is_integer and right.is_integer else None


def _cast(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    return convert(interpreter, node.input[0], indices, int_attribute(node, "to", TensorProto.FLOAT))


def _cast_like(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    target = interpreter.dtype(node.input[1])
    return convert(interpreter, node.input[0], indices, target) if target else None


def convert(interpreter: Interpreter, name: str, indices: Indices, target: int) -> Poly | None:
    """The element cast to another type: exact for numbers, a test for bool, a truncation for integers."""
    from .engine import INTEGER_TYPES

    value = interpreter.element(name, indices)
    if target in NARROW_INTEGERS and value.constant is None and not isinstance(value.single_atom, Ind):
        return None  # larger values would wrap around
    if target == TensorProto.BOOL:
        return ind(nonzero(value))
    if target in INTEGER_TYPES and not value.is_integer:
        constant = value.constant
        return poly(math.trunc(constant)) if constant is not None else truncate(value)
    return value


def truncate(value: Poly) -> Poly:
    """The integer part."""
    constant = value.constant
    if constant is not None:
        return poly(math.trunc(constant))
    return value if value.is_integer else of(Apply("trunc", (value,), truncate, integer=True))


def _isnan(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    value = interpreter.element(node.input[0], indices)
    return ZERO if value.is_integer or value.constant is not None else None


def _xor(left: Poly, right: Poly) -> Poly:
    a, b = nonzero(left), nonzero(right)
    return ind(disjunction((conjunction((a, negation(b))), conjunction((negation(a), b)))))


def _equal(left: Poly, right: Poly) -> Poly:
    return ind(equal(left, right))


RULES: dict[str, Callable[[Interpreter, NodeProto, int, Indices], Poly | None]] = {
    "Add": _binary(lambda a, b: a + b),
    "Sum": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _div,
    "Mod": _binary(modulo),
    "Max": _binary(_max),
    "Min": _binary(_min),
    "Pow": _binary(power),
    "And": _binary(lambda a, b: ind(conjunction((nonzero(a), nonzero(b))))),
    "Or": _binary(lambda a, b: ind(disjunction((nonzero(a), nonzero(b))))),
    "Xor": _binary(_xor),
    "Equal": _binary(_equal),
    "Less": _binary(lambda a, b: ind(less(a, b))),
    "LessOrEqual": _binary(lambda a, b: ind(less_equal(a, b))),
    "Greater": _binary(lambda a, b: ind(less(b, a))),
    "GreaterOrEqual": _binary(lambda a, b: ind(less_equal(b, a))),
    "Where": _where,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast_like,
    "IsNaN": _isnan,
    "Neg": lambda i, n, o, x: -i.element(n.input[0], x),
    "Abs": lambda i, n, o, x: absolute(i.element(n.input[0], x)),
    "Not": lambda i, n, o, x: ind(negation(nonzero(i.element(n.input[0], x)))),
    "Relu": lambda i, n, o, x: maximum(i.element(n.input[0], x), ZERO),
    "Reciprocal": lambda i, n, o, x: reciprocal(i.element(n.input[0], x)),
    **{name: _unary(name) for name in FUNCTIONS},
}
