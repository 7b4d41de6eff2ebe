"""Functions that undo each other: log(gamma ** d) is d * log(gamma), and sign(d) * abs(d) is d.

They hold for real numbers.  In floating point gamma ** d becomes zero where d * log(gamma) is below -87 (float32).  A
key that should get a weight below 1e-38 then gets the weight zero.  Narrower types than float32 are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from ...algebra import Apply, Poly, absolute, poly
from .arithmetic import RULES as ARITHMETIC
from .arithmetic import apply_function
from .tables.element import Table, table

if TYPE_CHECKING:
    from .engine import Interpreter

Indices = tuple[Poly, ...]

WIDE = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
"""Types in which a power stays a number over all distances at which a weight does."""


def _log(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    value = interpreter.element(node.input[0], indices)
    exponent = logarithm(value) if interpreter.dtype(node.input[0]) in WIDE else None
    return apply_function("Log", value) if exponent is None else exponent


def logarithm(value: Poly) -> Poly | None:
    """The logarithm of a positive power, or None where the value is not written as one."""
    atom = value.single_atom
    if not isinstance(atom, Apply):
        return None
    if atom.function == "Exp":
        return atom.arguments[0]
    if atom.function != "pow":
        return None
    base, exponent = atom.arguments
    scale = _of_base(base)
    return None if scale is None else exponent * scale


def _of_base(base: Poly) -> Poly | None:
    """The logarithm of what is raised to a power: a positive number, a table of such, an exponential."""
    constant = base.constant
    if constant is not None:
        return poly(Fraction(math.log(constant))) if constant > 0 else None
    atom = base.single_atom
    if isinstance(atom, Table):
        positive = bool(atom.data.size) and bool(np.isfinite(atom.data).all()) and float(atom.data.min()) > 0
        return table(f"log({atom.name})", np.log(atom.data), atom.indices) if positive else None
    return logarithm(base)


def _mul(interpreter: Interpreter, node: NodeProto, output: int, indices: Indices) -> Poly | None:
    out = interpreter.dims(node.output[0])
    if out is not None and len(node.input) == 2:
        operands = [
            interpreter.element(name, interpreter.aligned(name, indices, out, node))
            for name in node.input
            if interpreter.dims(name) is not None
        ]
        if len(operands) == 2:
            signed = _signed(*operands) or _signed(*reversed(operands))
            if signed is not None:
                return signed
    return ARITHMETIC["Mul"](interpreter, node, output, indices)


def _signed(sign: Poly, size: Poly) -> Poly | None:
    """Sign(x) * (k * abs(x)) is k * x."""
    atom = sign.single_atom
    if not isinstance(atom, Apply) or atom.function != "Sign":
        return None
    value = atom.arguments[0]
    whole = absolute(value)
    if not whole.terms or not size.terms:
        return None
    monomial, coefficient = whole.terms[0]
    ratio = Fraction(dict(size.terms).get(monomial, 0)) / Fraction(coefficient)
    return value * ratio if ratio and size == whole * ratio else None


RULES: dict[str, Callable[[Interpreter, NodeProto, int, Indices], Poly | None]] = {"Log": _log, "Mul": _mul}
