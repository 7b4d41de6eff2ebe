"""Inputs and ranges that a user gives: what does not fit is said, all of it, with what would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from alibi_rewriter.verify.errors import GivenInputError
from alibi_rewriter.verify.inputs.given import check_ranges, load_inputs
from alibi_rewriter.verify.inputs.usage import InputKind, ModelInput

IDS = ModelInput("ids", np.dtype(np.int64), ("batch", "seq"), InputKind.TOKENS, bound=100)
MASK = ModelInput("mask", np.dtype(np.int64), ("batch", "seq"), InputKind.PADDING_MASK)
FEATURES = ModelInput("x", np.dtype(np.float32), ("batch", None, 8), InputKind.FLOAT)
FLAG = ModelInput("flag", np.dtype(np.bool_), (), InputKind.BOOLEAN)
INPUTS = (IDS, MASK, FEATURES, FLAG)


def arrays() -> dict[str, np.ndarray]:
    return {
        "ids": np.ones((2, 5), np.int64),
        "mask": np.ones((2, 5), np.int64),
        "x": np.zeros((2, 3, 8), np.float32),
        "flag": np.array(True),
    }


def saved(folder: Path, **changed: np.ndarray | None) -> Path:
    path = folder / "inputs.npz"
    kept = {name: array for name, array in {**arrays(), **changed}.items() if array is not None}
    np.savez(path, **kept)  # type: ignore[arg-type]
    return path


def refused(path: Path) -> str:
    with pytest.raises(GivenInputError) as caught:
        load_inputs(path, INPUTS)
    return str(caught.value)


def test_what_fits_is_taken_in_the_types_of_the_model(tmp_path: Path) -> None:
    half, small = np.zeros((2, 3, 8), np.float16), np.ones((2, 5), np.uint8)
    found = load_inputs(saved(tmp_path, x=half, ids=small), INPUTS)
    assert {name: array.dtype for name, array in found.arrays.items()} == {i.name: i.dtype for i in INPUTS}
    assert (found.batch, found.new) == (2, 5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"other": np.zeros(1)}, "'other' is not an input of the model"),
        ({"mask": None}, "'mask' is missing"),
        ({"ids": np.ones((2, 5))}, "'ids' is of type float64, not int64"),
        ({"ids": np.ones((2, 5), bool)}, "'ids' is of type bool, not int64"),
        ({"flag": np.array(1)}, "'flag' is of type int64, not bool"),
        ({"ids": np.full((2, 5), 2**63, np.uint64)}, "'ids' is of type uint64, not int64"),
        ({"ids": np.ones((2, 5, 1), np.int64)}, "'ids' has shape [2, 5, 1], not [batch, seq]"),
        ({"x": np.zeros((2, 3, 7), np.float32)}, "'x' has shape [2, 3, 7], not [batch, ?, 8]"),
        ({"mask": np.ones((2, 6), np.int64)}, "'mask' has seq = 6, but 'ids' has seq = 5"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changed: dict[str, np.ndarray | None], said: str) -> None:
    text = refused(saved(tmp_path, **changed))
    assert said in text and "The model's inputs are: ids [batch, seq] int64" in text


def test_all_misfits_are_said_at_once(tmp_path: Path) -> None:
    text = refused(saved(tmp_path, ids=None, flag=np.array(1), more=np.zeros(1)))
    assert all(said in text for said in ("'ids' is missing", "'flag' is of type", "'more' is not an input"))


@pytest.mark.parametrize(
    ("name", "low", "high", "said"),
    [
        ("none", 0, 1, "not an input of the model"),
        ("x", 1, 0, "empty or not finite"),
        ("x", 0, float("inf"), "empty or not finite"),
        ("x", float("nan"), 1, "empty or not finite"),
        ("ids", 0.5, 1, "whole numbers of int64"),
        ("ids", 0, 2.0**64, "whole numbers of int64"),
        ("flag", 0, 1, "takes no value range"),
    ],
)
def test_ranges_that_do_not_fit(name: str, low: float, high: float, said: str) -> None:
    with pytest.raises(GivenInputError, match=said):
        check_ranges({name: (low, high)}, INPUTS)


def test_ranges_that_fit() -> None:
    check_ranges({"x": (-1.5, 1.5), "ids": (0, 99), "mask": (1, 1)}, INPUTS)
