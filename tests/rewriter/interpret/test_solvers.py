"""Closed forms from a sample of a table's rows, and tensors that hold exactly what the algebra says."""

from __future__ import annotations

import numpy as np
import pytest
from alibi_rewriter.rewriter.interpret.exactness import is_exact
from alibi_rewriter.rewriter.interpret.tables.solvers import FORMS, SOLVERS, Sample
from interpreted import read_text

SIZE = 12
I, J = np.arange(SIZE, dtype=np.float64)[:, None], np.arange(SIZE, dtype=np.float64)[None, :]  # noqa: E741
FULL = np.ones((SIZE, SIZE), bool)
CAUSAL = J <= I + 0 * J


def sample(values: np.ndarray, visible: np.ndarray, rows: np.ndarray | None = None) -> Sample:
    """Float32 entries, as a file stores them, of some of the rows."""
    rows = np.arange(len(values)) if rows is None else rows
    stored = np.where(visible, values, 0.0).astype(np.float32)[rows]
    unit = np.spacing(np.abs(stored)).astype(np.float64)
    return Sample(stored.astype(np.float64), visible[rows], unit, rows.astype(np.float64))


TABLES = {
    "slope * (j - i)": ("affine", 0.0625 * (J - I)),
    "slope * j": ("affine", 0.3 * J + 0 * I),
    "an offset": ("affine", 7.5 - 0.125 * I + 0 * J),
    "-slope * |i - j|": ("distance", -0.7 * np.abs(I - J)),
    "a kink beside the diagonal": ("distance", -0.5 * np.abs(I - J - 3)),
    "another slope on each side": ("ramp", 0.5 * (J - I) + 0.25 * np.minimum(J - I, 0.0)),
}


@pytest.mark.parametrize("visible", [FULL, CAUSAL], ids=["all", "causal"])
@pytest.mark.parametrize("table", TABLES)
def test_a_form_is_found_and_says_every_visible_entry(table: str, visible: np.ndarray) -> None:
    name, values = TABLES[table]
    some = sample(values, visible, np.array([0, 1, 2, 5, SIZE - 1]))
    solution = SOLVERS[name](some)
    assert solution is not None
    whole = sample(values, visible)
    told = FORMS[name](solution, whole.grids)
    assert (np.abs(np.where(visible, whole.value - told, 0.0)) <= 2 * whole.unit).all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_another_function_of_the_distance_is_none_of_the_forms(name: str, power: float) -> None:
    assert SOLVERS[name](sample(-(np.abs(I - J) ** power), FULL)) is None


@pytest.mark.parametrize("name", SOLVERS)
def test_one_entry_off_by_two_units_is_seen(name: str) -> None:
    values = np.array(next(v for n, v in TABLES.values() if n == name), np.float64)
    values[7, 3] += 4 * float(np.spacing(np.float32(np.abs(values[7, 3]))))
    assert SOLVERS[name](sample(values, FULL)) is None


def test_what_is_hidden_does_not_matter() -> None:
    values = np.where(CAUSAL, 0.25 * (J - I), 123.0)
    assert SOLVERS["affine"](sample(values, CAUSAL)) is not None
    assert SOLVERS["affine"](sample(values, FULL)) is None


def test_a_row_alone_makes_no_line_along_rows() -> None:
    only = sample(0.5 * J, np.ones((1, SIZE), bool))
    solution = SOLVERS["affine"](only)
    assert solution is not None and solution[1] == 0.0 and solution[2] == pytest.approx(0.5)
    assert SOLVERS["ramp"](only) is None


START = "e = Shape(x)\n z = Squeeze(e)\n i = Range(zero, z, one)\n j = Cast<to=1>(i)\n "
CONSTANTS = "int64 zero = {0}, int64 one = {1}, float half = {0.5}, float tenth = {0.1}, float low = {-3.4028235e38}"


@pytest.mark.parametrize(
    ("line", "exact"),
    [
        ("y = Identity(j)", True),
        ("y = Mul(j, half)", True),
        ("y = Add(j, half)", True),
        ("y = Neg(j)", True),
        ("y = Mul(j, tenth)", False),
        ("y = Add(j, tenth)", False),
        ("y = Div(j, tenth)", False),
        ("y = Add(j, low)", True),  # it hides a key, and is not calculated with
        ("y = Identity(x)", True),  # a run-time value is what it is
        ("y = Exp(j)", False),
        ("k = Cast<to=10>(j)\n y = Cast<to=1>(k)", True),  # the rounding is part of the element
    ],
)
def test_exact_are_positions_and_multiples_of_powers_of_two(line: str, exact: bool) -> None:
    assert is_exact(read_text("float[n] x", START + line, CONSTANTS), "y") == exact
