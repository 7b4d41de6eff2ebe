"""AlibiCacheAppend of the library on the CPU: what it writes, where, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from alibi_rewriter.fused.append import INPUTS, OUTPUTS, CacheAppend
from alibi_rewriter.runtime import NoLibrary, get_library_path
from numpy.typing import NDArray
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).parents[1] / "fused"))
from test_append import LAYOUTS, B, C, D, H, S, feeds, model, wanted

try:
    LIBRARY = get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)

TYPES = {"float32": (TensorProto.FLOAT, np.float32), "float16": (TensorProto.FLOAT16, np.float16)}
REFUSED = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument


def session(node: CacheAppend, dtype: int = TensorProto.FLOAT) -> onnxruntime.InferenceSession:
    """The node without a body: nothing but the library can run it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(LIBRARY)
    made = model(node, dtype=dtype, body=False)
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_it_writes_what_the_body_says(name: str, dtype: str) -> None:
    node = LAYOUTS[name]
    given = feeds(node, TYPES[dtype][1])
    found = session(node, TYPES[dtype][0]).run(None, given)
    for other, right in zip(found, wanted(node, given), strict=True):
        np.testing.assert_array_equal(other, right)


def bound(node: CacheAppend, given: dict[str, NDArray[Any]], dtype: int) -> dict[str, NDArray[Any]]:
    """Runs with past and present in the same memory; returns the buffers, which are changed."""
    runs = session(node, dtype)
    binding = runs.io_binding()
    for name in INPUTS:
        array = given[name]
        kind = TensorProto.INT64 if name == "key_lengths" else dtype
        binding.bind_input(name, "cpu", 0, kind, array.shape, array.ctypes.data)
    for name, past in zip(OUTPUTS, INPUTS, strict=False):
        array = given[past]
        binding.bind_output(name, "cpu", 0, dtype, array.shape, array.ctypes.data)
    runs.run_with_iobinding(binding)
    return {name: given[name] for name in INPUTS[:2]}


@pytest.mark.parametrize("name", LAYOUTS)
def test_past_and_present_may_be_the_same_memory(name: str) -> None:
    node = LAYOUTS[name]
    given = {n: np.ascontiguousarray(a) for n, a in feeds(node).items()}
    right = wanted(node, given)
    before = [given["past_key"].ctypes.data, given["past_value"].ctypes.data]
    found = bound(node, given, TensorProto.FLOAT)
    assert before == [array.ctypes.data for array in found.values()]
    for other, one in zip(found.values(), right, strict=True):
        np.testing.assert_array_equal(other, one)


def test_bfloat16_moves_bytes() -> None:
    node = LAYOUTS["BHSD"]
    given = feeds(node)
    narrow = {n: a if n == "key_lengths" else a.astype(ml_dtypes.bfloat16) for n, a in given.items()}
    right = wanted(node, narrow)
    words = {n: a if n == "key_lengths" else np.ascontiguousarray(a).view(np.uint16) for n, a in narrow.items()}
    found = bound(node, words, TensorProto.BFLOAT16)
    for other, one in zip(found.values(), right, strict=True):
        np.testing.assert_array_equal(other.view(ml_dtypes.bfloat16), one)


def test_one_length_is_that_of_all_sequences() -> None:
    node = LAYOUTS["BHSD"]
    given = feeds(node, lengths=np.array([4], np.int64))
    for found, right in zip(session(node).run(None, given), wanted(node, given), strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ([2, C + 1, 3], rf"key_lengths\[1\] is {C + 1}, and the cache has room for {C} keys; nothing was written"),
        ([2, 3, S - 1], rf"key_lengths\[2\] is {S - 1}, fewer than the {S} new keys that it counts"),
        ([-1, 3, 3], r"key_lengths\[0\] is -1"),
    ],
)
def test_what_does_not_fit_is_an_error_and_nothing_is_written(lengths: list[int], said: str) -> None:
    node = LAYOUTS["BHSD"]
    given = feeds(node, lengths=np.array(lengths, np.int64))
    before = {n: a.copy() for n, a in given.items()}
    with pytest.raises(RuntimeError, match=said):
        bound(node, given, TensorProto.FLOAT)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("past_key", (B, H, C, D + 1), "does not fit past_key"),
        ("past_value", (B, H + 1, C, 6), "does not fit past_value"),
        ("past_value", (B, H, C + 2, 6), "not of the same cache"),
        ("key", (B, H, S + 1, D), "not of the same cache"),
        ("key_lengths", (B + 1,), "one number per sequence"),
    ],
)
def test_extents_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], said: str) -> None:
    node = LAYOUTS["BHSD"]
    given = {**feeds(node), name: np.zeros(shape, np.int64 if name == "key_lengths" else np.float32)}
    with pytest.raises(REFUSED, match=said):
        session(node).run(None, given)


def test_attributes_that_describe_no_view_are_refused() -> None:
    made = model(LAYOUTS["packed"], body=False)
    node = made.graph.node[0]
    node.attribute.remove(next(a for a in node.attribute if a.name == "value_perm"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(LIBRARY)
    with pytest.raises(Exception, match="attribute 'value_perm' is missing"):
        onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
