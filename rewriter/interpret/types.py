"""Numbers have types: what a rule calculates exactly is the element only if the element's type holds it.

One place for all rules.  Integers must stay in range: at realistic sizes provably, otherwise the element is taken
for unknown.  Narrow floats round, see ``rounding``.
"""

from __future__ import annotations

from functools import partial

from onnx import NodeProto, TensorProto

from ...algebra import LIKELY, Poly, Read, interval, is_nonnegative, of
from ...patterns.operators import PRODUCT_NAMES
from .environment import Environment
from .operators import OPERATORS, UNKNOWN, Makes
from .rounding import NARROW, absorbed, is_held, rounded

INTEGERS: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-(1 << 7), (1 << 7) - 1),
    TensorProto.INT16: (-(1 << 15), (1 << 15) - 1),
    TensorProto.INT32: (-(1 << 31), (1 << 31) - 1),
    TensorProto.INT64: (-(1 << 63), (1 << 63) - 1),
    TensorProto.UINT8: (0, (1 << 8) - 1),
    TensorProto.UINT16: (0, (1 << 16) - 1),
    TensorProto.UINT32: (0, (1 << 32) - 1),
    TensorProto.UINT64: (0, (1 << 64) - 1),
}
"""Lowest and highest number of the integer types that elements are calculated in."""

ACTIVATIONS = PRODUCT_NAMES | {"Softmax"}
"""Operators whose results are scores and probabilities: how a 16-bit type rounds these is no matter of a proof."""


NEVER_REACHED = 1 << 32
"""A limit on sizes that no user needs to be told, since no tensor has so many rows."""


def settle(environment: Environment, node: NodeProto, name: str, indices: tuple[Poly, ...], value: Poly) -> Poly | None:
    """The element of a tensor, given the exact result of its operator; None where the type may not hold it.

    Args:
        environment: Knows the tensor's type.
        node: The operator.
        name: The tensor.
        indices: Which element.
        value: What the operator yields in exact arithmetic.
    """
    dtype = environment.dtype(name)
    makes = OPERATORS.get(node.op_type, UNKNOWN).makes
    if makes is Makes.CHOSEN and (dtype in INTEGERS or dtype in NARROW):
        return value
    if dtype in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return absorbed(dtype, value)
    if dtype == TensorProto.BOOL:
        return value
    if dtype in INTEGERS:
        if _is_in_range(environment, name, value, dtype):
            return value
        environment.wrapping[name] = dtype
        return None
    if dtype in environment.inexact:
        return absorbed(dtype, value)
    if dtype in NARROW:
        if value.atoms and all(isinstance(a, Read) for a in value.atoms):
            return _activations(environment, name, indices, value)
        if makes is Makes.ACCUMULATED:
            return value if is_held(value, NARROW[dtype][1]) else None
        return rounded(dtype, value, partial(is_activation, environment))
    return None


def _activations(environment: Environment, name: str, indices: tuple[Poly, ...], value: Poly) -> Poly:
    """What a narrow type makes of run-time values alone: products are rounded anyway, all else is read as it is."""
    if is_activation(environment, value):
        return value
    return of(Read(name, indices, True)) if value.is_integer else environment.read(name, indices)


def is_activation(environment: Environment, value: Poly) -> bool:
    """Whether a value consists of scores and probabilities."""
    reads = [a for a in value.atoms if isinstance(a, Read)]
    if not reads or len(reads) != len(value.atoms):
        return False
    producers = [environment.scope.producer(a.tensor) for a in reads]
    return all(p is not None and p.op_type in ACTIVATIONS for p in producers)


def _is_in_range(environment: Environment, name: str, value: Poly, dtype: int) -> bool:
    """Whether an integer type holds every number that the value can be, in runs of a realistic size."""
    constant = value.constant
    lowest, highest = INTEGERS[dtype]
    if constant is not None:
        return constant == int(constant) and lowest <= constant <= highest
    if not value.is_integer:
        return False
    found = interval(value)
    if found is None or found[1] > highest:
        return False
    if found[0] < lowest and not (lowest == 0 and is_nonnegative(value)):
        return False
    if dtype != TensorProto.INT64 and interval(value, LIKELY << 1) != found:
        environment.limited.setdefault(name, dtype)
    return True


def limit_of(value: Poly, dtype: int) -> int:
    """Below which power of two every size has to stay so that an integer type holds the value."""
    lowest, highest = INTEGERS[dtype]
    limit = LIKELY
    while limit < NEVER_REACHED:
        found = interval(value, limit << 1)
        if found is None or found[1] > highest or (found[0] < lowest and lowest < 0):
            break
        limit <<= 1
    return limit
