"""Tables as formulas: exact tables fit, everything else stays a table, and a formula never says anything wrong."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest
from alibi_rewriter.algebra import Index, Poly, min0, of, poly, substitute
from alibi_rewriter.graph.index import index_graph, opset_versions
from alibi_rewriter.patterns.masks import HIDING_VALUE
from alibi_rewriter.rewriter.interpret import Interpreter
from alibi_rewriter.rewriter.interpret.rules import element_rules
from alibi_rewriter.rewriter.interpret.tables.element import Table, constant_element, table
from alibi_rewriter.rewriter.interpret.tables.fitting import FLOATS
from hypothesis import given, settings
from hypothesis import strategies as st

Array = npt.NDArray[Any]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
numbers = count()
fast = settings(max_examples=50, deadline=None, derandomize=True)
dtypes = st.sampled_from(DTYPES)
powers = st.lists(st.integers(-8, 0).map(lambda e: 2.0**e), min_size=2, max_size=5)
anything = st.lists(st.floats(2.0**-6, 1.0, width=32), min_size=2, max_size=5)


def element(data: Array) -> tuple[Poly, tuple[Index, ...]]:
    """The symbolic element of a constant, at one index per axis."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { y = Identity(x) }'
    )
    interpreter = Interpreter(index_graph(model.graph, opset_versions(model), Path()), rules=element_rules())
    axes = tuple(Index(f"a{k}", poly(n)) for k, n in enumerate(data.shape))
    return constant_element(interpreter, f"table{next(numbers)}", data, tuple(of(a) for a in axes)), axes


def is_formula(data: Array) -> bool:
    """Whether the element is a closed form in the last axis."""
    value, axes = element(data)
    return not any(isinstance(a, Table) and of(a).depends_on(axes[-1]) for a in value.all_atoms())


def worst(data: Array) -> float:
    """The largest deviation from the stored entries, in units of their last place; hidden ones must be hidden."""
    value, axes = element(data)
    most = 0.0
    for place in np.ndindex(*data.shape):
        found = substitute(value, {a: poly(p) for a, p in zip(axes, place, strict=True)}).constant
        assert found is not None
        stored = float(data[place])
        if stored <= float(HIDING_VALUE):
            assert found <= HIDING_VALUE
        else:
            most = max(most, abs(float(found) - stored) / unit(stored, data.dtype))
    return most


def unit(stored: float, dtype: npt.DTypeLike) -> float:
    name = np.dtype(dtype).name
    smallest = 2.0**-14 if name == "float16" else 2.0**-126
    return float(2.0 ** (np.floor(np.log2(max(abs(stored), smallest))) - BITS[name]))


def linear(slopes: list[float], length: int, dtype: npt.DTypeLike, anchor: int = 0) -> Array:
    return (np.array(slopes)[:, None] * (np.arange(length) - anchor)).astype(dtype)


def symmetric(slopes: list[float], length: int, dtype: npt.DTypeLike) -> Array:
    place = np.arange(length)
    return (-np.array(slopes)[:, None, None] * np.abs(place[:, None] - place)).astype(dtype)


def moved(data: Array, place: tuple[int, ...], units: float) -> Array:
    changed = data.copy()
    stored = float(data[place])
    changed[place] = stored + units * unit(stored, data.dtype)
    assert changed[place] != data[place]
    return changed


# --- what fits -------------------------------------------------------------------------------------------


@fast
@given(powers, st.integers(3, 40), dtypes, st.booleans())
def test_lines_fit(slopes: list[float], length: int, dtype: npt.DTypeLike, from_end: bool) -> None:
    data = linear(slopes, length, dtype, length - 1 if from_end else 0)
    assert is_formula(data)
    assert worst(data) <= 1


@fast
@given(anything, st.integers(3, 40), st.booleans())
def test_rounded_lines_fit(slopes: list[float], length: int, from_end: bool) -> None:
    data = linear(slopes, length, np.float32, length - 1 if from_end else 0)
    assert is_formula(data)
    assert worst(data) <= 1


@fast
@given(powers, st.integers(2, 12), dtypes)
def test_distances_fit(slopes: list[float], length: int, dtype: npt.DTypeLike) -> None:
    data = symmetric(slopes, length, dtype)
    assert is_formula(data)
    assert worst(data) <= 1


@fast
@given(powers, st.integers(2, 10), dtypes, st.sampled_from(["inf", "lowest"]), st.integers(-2, 2))
def test_hidden_triangles_fit(
    slopes: list[float], length: int, dtype: npt.DTypeLike, hidden: str, diagonal: int
) -> None:
    place = np.arange(length)
    data = (np.array(slopes)[:, None, None] * (place - place[:, None])).astype(dtype)
    above = place > place[:, None] + diagonal
    if above.all():
        return
    data[:, above] = -np.inf if hidden == "inf" else ml_dtypes.finfo(dtype).min
    assert is_formula(data)
    assert worst(data) <= 1


@pytest.mark.parametrize("length", [2, 7])
def test_boolean_triangles_fit(length: int) -> None:
    for data in (np.tril(np.ones((length, length), bool)), np.triu(np.ones((length, length), bool), 1)):
        value, axes = element(data)
        assert is_formula(data)
        for place in np.ndindex(*data.shape):
            found = substitute(value, {a: poly(p) for a, p in zip(axes, place, strict=True)})
            assert found == int(data[place])


def test_integers_fit_exactly_or_not_at_all() -> None:
    data = np.arange(20, dtype=np.int64) * 3 - 7
    assert is_formula(data)
    changed = data.copy()
    changed[11] += 1
    assert not is_formula(changed)


@pytest.mark.parametrize(
    "slopes",
    [
        [0.5, 0.25, 0.125, 0.0625],
        [0.5, 0.25],
    ],
)
def test_a_batch_of_equal_tables_is_one_table(slopes: list[float]) -> None:
    data = np.tile(linear(slopes, 6, np.float32), (3, 1, 1))
    assert worst(data) <= 1
    changed = data.copy()
    changed[2, 1] *= 2
    assert worst(changed) <= 1
    assert is_formula(data)


def test_tables_of_equal_names_in_two_models_are_not_mixed_up() -> None:
    """A process may rewrite several models, and names repeat: layer norm weights, slopes, bias."""
    index = Index("h", poly(3))
    first, second = np.array([1.0, 5.0, 2.0]), np.array([4.0, 0.5, 7.0])
    for data in (first, second):
        value = min0(of(Index("j", poly(9))) - table("slopes", data, (of(index),)))
        for h in range(3):
            found = substitute(value, {index: poly(h), Index("j", poly(9)): poly(3)}).constant
            assert found == min(0.0, 3 - data[h])


# --- what does not ---------------------------------------------------------------------------------------


@fast
@given(powers, st.integers(6, 30), dtypes, st.data())
def test_one_wrong_entry_anywhere(slopes: list[float], length: int, dtype: npt.DTypeLike, data: st.DataObject) -> None:
    exact = linear(slopes, length, dtype)
    place = (data.draw(st.integers(0, len(slopes) - 1)), data.draw(st.integers(1, length - 1)))
    units = data.draw(st.sampled_from([-64, -4, 4, 64]))
    assert is_formula(exact)
    assert not is_formula(moved(exact, place, units))


@fast
@given(powers, st.integers(5, 10), dtypes, st.data())
def test_one_wrong_entry_in_a_square(
    slopes: list[float], length: int, dtype: npt.DTypeLike, data: st.DataObject
) -> None:
    exact = symmetric(slopes, length, dtype)
    row, column = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, length - 1))
    changed = exact.copy()
    if row == column:
        changed[0, row, column] = 0.125
    else:
        changed = moved(exact, (0, row, column), data.draw(st.sampled_from([-16, -4, 4, 16])))
    assert not is_formula(changed)


@fast
@given(powers, st.integers(3, 16), dtypes, st.data())
def test_a_formula_is_never_more_than_one_unit_off(
    slopes: list[float], length: int, dtype: npt.DTypeLike, data: st.DataObject
) -> None:
    """Whatever is changed: if it still fits, it is right everywhere (a table that does not fit is always right)."""
    changed = linear(slopes, length, dtype, data.draw(st.integers(0, length)))
    for _ in range(data.draw(st.integers(0, 3))):
        place = (data.draw(st.integers(0, len(slopes) - 1)), data.draw(st.integers(0, length - 1)))
        changed = moved(changed, place, data.draw(st.sampled_from([-2, -1, 1, 2])))
    assert worst(changed) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(lambda d: np.minimum(d, 5), id="clipped"),
        pytest.param(lambda d: d * d, id="quadratic"),
        pytest.param(np.sqrt, id="root"),
        pytest.param(np.log1p, id="logarithm"),
        pytest.param(lambda d: np.floor(d / 2), id="buckets"),
        pytest.param(lambda d: np.maximum(d - 1, 0), id="dead zone"),
        pytest.param(lambda d: d + (d == 11), id="last entry"),
        pytest.param(lambda d: np.random.default_rng(0).standard_normal(d.shape), id="learned"),
    ],
)
def test_other_biases_stay_tables(dtype: npt.DTypeLike, shape: Any) -> None:
    distance = np.arange(12.0)
    slopes = np.array([0.5, 0.125])
    assert not is_formula((-slopes[:, None] * shape(distance)).astype(dtype))
    place = np.arange(12)
    square = -slopes[:, None, None] * shape(np.abs(place[:, None] - place).astype(np.float64))
    assert not is_formula(square.astype(dtype))
    assert worst(square.astype(dtype)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_not_rounding(dtype: npt.DTypeLike) -> None:
    exact = symmetric([0.5, 0.25, 0.125], 16, dtype)
    noise = 1 + np.random.default_rng(0).uniform(-1, 1, exact.shape) * 2.0 ** (3 - BITS[np.dtype(dtype).name])
    assert not is_formula((exact.astype(np.float64) * noise).astype(dtype))


def test_irregular_masks_stay_tables() -> None:
    data = linear([0.5, 0.25], 9, np.float32)
    data[:, [2, 5]] = -np.inf
    assert not is_formula(data)
    uneven = linear([0.5, 0.25], 9, np.float32)
    uneven[0, 7:] = -np.inf
    assert not is_formula(uneven)
    assert worst(uneven) == 0


@pytest.mark.parametrize(
    "value",
    [
        np.nan,
        np.inf,
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_and_infinity_fit_nothing(value: float) -> None:
    data = linear([0.5, 0.25], 9, np.float32)
    data[1, 4] = value
    assert not is_formula(data)


def test_finite_masks_hide_nothing() -> None:
    place = np.arange(8)
    data = np.where(place > place[:, None], np.float32(-1e4), (place - place[:, None]).astype(np.float32))
    assert not is_formula(data)
    assert worst(data) == 0


@pytest.mark.parametrize("name", sorted(FLOATS))
def test_the_last_place_of_a_type(name: str) -> None:
    """A formula has to agree to one unit there: half of it would leave out tables that are rounded twice."""
    bits, smallest = FLOATS[name]
    info = ml_dtypes.finfo(name)
    assert (bits, smallest) == (info.nmant, float(info.smallest_normal))
