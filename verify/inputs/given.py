"""Inputs and value ranges that a user gives, checked against the model before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...base.memory import available_memory
from ..errors import GivenInputError
from ..run.runtime import Array, Arrays
from .archive import read_arrays
from .draw import BYTES_PER_NUMBER, InputSet, input_set
from .usage import ModelInput


def load_inputs(path: Path, inputs: Sequence[ModelInput], *, sequence_first: bool = False) -> InputSet:
    """Reads one input set from an .npz file.

    Args:
        path: The file; pickled objects in it are refused.
        inputs: The model's inputs, each of which must be there, and nothing else.
        sequence_first: Inputs of ids and features have their tokens on axis 0.

    Raises:
        GivenInputError: If the file cannot be read or an array does not fit; the message names all misfits.
    """
    available = available_memory()
    arrays = read_arrays(path, None if available is None else available // BYTES_PER_NUMBER)
    wanted = {entry.name: entry for entry in inputs}
    faults = [f"{name!r} is not an input of the model" for name in arrays if name not in wanted]
    faults += [f"{name!r} is missing" for name in wanted if name not in arrays]
    checked: Arrays = {}
    symbols: dict[str, tuple[int, str]] = {}
    for entry in inputs:
        if entry.name not in arrays:
            continue
        array = arrays[entry.name]
        fault = _type_fault(entry, array) or _shape_fault(entry, array, symbols)
        if fault is None:
            checked[entry.name] = array.astype(entry.dtype)
        else:
            faults.append(f"{entry.name!r} {fault}")
    if faults:
        names = ", ".join(f"{entry.name} [{_dims(entry)}] {entry.dtype}" for entry in inputs)
        raise GivenInputError(f"{path}: {'; '.join(faults)}. The model's inputs are: {names}")
    return input_set("given inputs", inputs, checked, sequence_first=sequence_first)


def check_ranges(ranges: Mapping[str, tuple[float, float]], inputs: Sequence[ModelInput]) -> None:
    """Checks value ranges.

    Raises:
        GivenInputError: If one names no input, is empty, or does not fit the input's type.
    """
    wanted = {entry.name: entry for entry in inputs}
    for name, (low, high) in ranges.items():
        if name not in wanted:
            raise GivenInputError(f"value range for {name!r}, which is not an input of the model ({', '.join(wanted)})")
        dtype = wanted[name].dtype
        if not (np.isfinite(low) and np.isfinite(high)) or low > high:
            raise GivenInputError(f"value range of {name!r} is empty or not finite: [{low}, {high}]")
        if dtype.kind in "iu":
            limits = np.iinfo(dtype.name)
            if low != int(low) or high != int(high) or low < limits.min or high > limits.max:
                raise GivenInputError(f"value range of {name!r} must be whole numbers of {dtype}: [{low}, {high}]")
        elif dtype.kind != "f":
            raise GivenInputError(f"{name!r} is of type {dtype} and takes no value range")


def _type_fault(entry: ModelInput, array: Array) -> str | None:
    if array.dtype == entry.dtype:
        return None
    kinds = {array.dtype.kind, entry.dtype.kind}
    if kinds == {"f"}:
        return None  # every float is fine for a float
    if kinds <= {"i", "u"} and array.dtype.kind != "b":
        limits = np.iinfo(entry.dtype.name)
        if array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max):
            return None
    return f"is of type {array.dtype}, not {entry.dtype}"


def _shape_fault(entry: ModelInput, array: Array, symbols: dict[str, tuple[int, str]]) -> str | None:
    if array.ndim != len(entry.dims):
        return f"has shape {list(array.shape)}, not [{_dims(entry)}]"
    for size, dim in zip(array.shape, entry.dims, strict=True):
        if isinstance(dim, int) and dim > 0 and size != dim:
            return f"has shape {list(array.shape)}, not [{_dims(entry)}]"
        if isinstance(dim, str):
            first, where = symbols.setdefault(dim, (size, entry.name))
            if first != size:
                return f"has {dim} = {size}, but {where!r} has {dim} = {first}"
    return None


def _dims(entry: ModelInput) -> str:
    return ", ".join("?" if dim is None else str(dim) for dim in entry.dims)
