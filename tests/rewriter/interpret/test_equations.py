"""Equations of Einsum as letters, functions that undo each other, and numbers as narrow types hold them."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from alibi_rewriter.algebra import Apply, Index, Poly, Read, absolute, of, poly
from alibi_rewriter.rewriter.interpret.equations import einsum_labels
from alibi_rewriter.rewriter.interpret.inverses import logarithm
from alibi_rewriter.rewriter.interpret.rounding import (
    absorbed,
    exact_below,
    is_absorbed,
    is_held,
    is_rounding,
    nearest,
    rounded,
    rounding_in,
)
from interpreted import read_text
from onnx import TensorProto, helper

X = Index("x", poly(100))


@pytest.mark.parametrize(
    ("equation", "ranks", "terms", "result"),
    [
        ("ij,jk->ik", (2, 2), ["ij", "jk"], "ik"),
        ("ij, jk -> ik", (2, 2), ["ij", "jk"], "ik"),
        ("ij,jk", (2, 2), ["ij", "jk"], "ik"),
        ("kj,ji", (2, 2), ["kj", "ji"], "ik"),  # implicit: in the order of the alphabet
        ("ij,jk->ik", (2, None), ["ij", "jk"], "ik"),
        ("ij,jk->ik", (2, 3), [], None),
        ("ij->ik", (2,), [], None),
        ("ij,jk->ik", (2,), [], None),
        ("ii,ij->ij", (2, 2), [], None),
        ("", (2,), [], None),
        ("...i,...i->i", (2, 2), [], None),  # no sum over what is under an ellipsis
        ("...i...,i->i", (3, 1), [], None),
    ],
)
def test_letters_of_an_equation(
    equation: str, ranks: tuple[int | None, ...], terms: list[str], result: str | None
) -> None:
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation=equation)
    assert einsum_labels(node, ranks) == (terms, result)


def test_axes_under_an_ellipsis_are_counted_from_the_last_one() -> None:
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation="...ij,...jk->...ik")
    terms, result = einsum_labels(node, (4, 3))
    assert result is not None
    assert len(terms[0]) == 4 and len(terms[1]) == 3 and len(result) == 4
    assert terms[0][1] == terms[1][0] == result[1], "the last axis before the named ones is the same"


def test_logarithms_of_what_is_written_as_a_power() -> None:
    exponent = of(X) + 1
    power = of(Apply("pow", (poly(Fraction(1, 2)), exponent), lambda *a: a[0]))
    assert logarithm(power) == exponent * poly(Fraction(math.log(Fraction(1, 2))))
    assert logarithm(of(Apply("Exp", (exponent,), lambda v: v))) == exponent
    for base in (poly(0), poly(-1), of(X)):
        assert logarithm(of(Apply("pow", (base, exponent), lambda *a: a[0]))) is None
    assert logarithm(exponent) is None


@pytest.mark.parametrize(
    ("line", "same"),
    [("y = Mul(s, a)", True), ("y = Mul(a, s)", True), ("y = Mul(s, j)", False), ("y = Mul(s, s)", False)],
)
def test_a_sign_times_a_magnitude_is_the_value(line: str, same: bool) -> None:
    asked = read_text(
        "float[n] x",
        f"e = Shape(x)\n z = Squeeze(e)\n i = Range(zero, z, one)\n d = Sub(i, five)\n h = Cast<to=1>(d)\n"
        f"j = Mul(h, half)\n a = Abs(j)\n s = Sign(j)\n {line}",
        "int64 zero = {0}, int64 one = {1}, int64 five = {5}, float half = {0.5}",
    )
    dims = asked.dims("y")
    assert dims is not None
    index = Index("k", dims[0])
    value = asked.element("y", (of(index),))
    assert (value == (of(index) - 5) * poly(Fraction(1, 2))) == same


TYPES = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}


@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_are_rounded_as_the_type_rounds_them(dtype: int) -> None:
    rng = np.random.default_rng(7)
    drawn = [*rng.standard_normal(500) * 10.0 ** rng.integers(-12, 6, 500), *range(2000, 2100), 65519.0, 65520.0, 1e-40]
    for value in drawn:
        exact = Fraction(float(value))
        with np.errstate(over="ignore"):
            wanted = float(np.float64(exact).astype(TYPES[dtype]))
        found = nearest(dtype, exact)
        if math.isinf(wanted):
            assert abs(found) > 10**30
        else:
            assert float(found) == wanted, value


def test_what_a_type_holds_is_left_alone() -> None:
    small, large = Index("s", poly(256)), Index("l", poly(258))
    assert is_held(of(small), 8) and not is_held(of(large), 8) and is_held(of(large), 11)
    assert rounded(TensorProto.BFLOAT16, of(small)) == of(small)
    value = rounded(TensorProto.BFLOAT16, of(large))
    atom = rounding_in(value)
    assert atom is not None and is_rounding(atom) and exact_below(atom) == 256
    assert rounded(TensorProto.BFLOAT16, of(large), keeps=lambda part: True) == of(large)
    assert rounded(TensorProto.FLOAT16, poly(Fraction(1, 3))) == poly(Fraction(float(np.float16(1 / 3))))


def test_a_huge_constant_swallows_small_values() -> None:
    huge: Poly = of(X) - 10**9
    assert is_absorbed(TensorProto.FLOAT, huge) and not is_absorbed(TensorProto.DOUBLE, huge)
    assert not is_absorbed(TensorProto.FLOAT, of(X) - 1000)
    assert absorbed(TensorProto.FLOAT, of(X) - 1000) == of(X) - 1000
    assert absorbed(TensorProto.FLOAT, huge) != huge and absorbed(TensorProto.FLOAT, poly(10**9)) == poly(10**9)
    assert absolute(huge) is not None


@pytest.mark.parametrize(
    ("factor", "swallowed"), [(Fraction(65504), False), (Fraction(131007, 2), False), (50000, True)]
)
def test_a_mask_that_shares_its_factor_with_a_bias_is_still_a_mask(factor: Fraction | int, swallowed: bool) -> None:
    """65504 * m - 0.5 * m, of a bias that is counted from the mask m, is a little below what hides a key."""
    mask, score = of(Read("m", (of(X),), True)), of(Read("qk", (of(X),)))
    assert is_absorbed(TensorProto.FLOAT16, score + mask * factor - 65504) is swallowed
    assert is_absorbed(TensorProto.FLOAT, score + mask * factor - 10**9) is (factor < 65504)
