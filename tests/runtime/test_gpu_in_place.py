"""Caches in place on a GPU: the appending op against numpy, and a decoder with and without a CUDA graph."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from alibi_rewriter import Decoder, rewrite
from alibi_rewriter.base.telemetry import CPU, CUDA
from alibi_rewriter.engine.devices import devices
from alibi_rewriter.fused.append import INPUTS, OUTPUTS
from alibi_rewriter.runtime import NoLibrary, get_library_path
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).parents[1] / "fused"))
from test_append import LAYOUTS, feeds, model, wanted

pytestmark = pytest.mark.gpu

try:
    LIBRARY = get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)
if CUDA not in onnxruntime.get_available_providers() or not devices():
    pytest.skip("needs a GPU and onnxruntime-gpu", allow_module_level=True)

MODEL = Path(__file__).parents[1] / "data" / "bloom__optimum_textgen_past+onnxsim.onnx"
PROMPTS = [[17, 4, 25], [31, 8, 2, 19, 30]]
TYPES = {"float32": (TensorProto.FLOAT, np.float32), "float16": (TensorProto.FLOAT16, np.float16)}


def on_device(array: Any) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)


@pytest.mark.parametrize("same", [False, True], ids=["apart", "one memory"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_it_writes_the_new_rows_and_nothing_else(name: str, dtype: str, same: bool) -> None:
    node, (element, kind) = LAYOUTS[name], TYPES[dtype]
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(LIBRARY)
    content = model(node, dtype=element, body=False).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=[CUDA])
    for lengths in ([2, 5, 9], [4]):
        given = feeds(node, kind, np.array(lengths, np.int64))
        values = {input_: on_device(array) for input_, array in given.items()}
        binding = session.io_binding()
        for input_ in INPUTS:
            binding.bind_ortvalue_input(input_, values[input_])
        for output, past in zip(OUTPUTS, INPUTS, strict=False):
            if same:
                binding.bind_ortvalue_output(output, values[past])
            else:
                binding.bind_output(output, "cuda", 0)
        session.run_with_iobinding(binding)
        for found, right in zip(binding.get_outputs(), wanted(node, given), strict=True):
            np.testing.assert_array_equal(found.numpy(), right)


def test_rows_that_have_no_place_are_left_out() -> None:
    node = LAYOUTS["BHSD"]
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(LIBRARY)
    session = onnxruntime.InferenceSession(model(node, body=False).SerializeToString(), options, providers=[CUDA])
    given = feeds(node, lengths=np.array([1, 5, 10], np.int64))
    key, _ = session.run(None, given)
    right = given["past_key"].copy()
    right[0, :, 0], right[1, :, 3:5], right[2, :, 8] = (
        given["key"][0, :, 1],
        given["key"][1],
        given["key"][2, :, 0],
    )
    np.testing.assert_array_equal(key, right)


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "captured"])
def test_a_decoder_gives_the_tokens_of_the_cpu(graph: bool, tmp_path: Path) -> None:
    target = tmp_path / "held.onnx"
    rewrite(MODEL, target, cache="in-place", verify=False)
    tokens = list(Decoder(target, 2, 64).generate(PROMPTS, 30))
    decoder = Decoder(target, 2, 64, providers=[(CUDA, {"use_tf32": "0"}), CPU], cuda_graph=graph)
    assert list(decoder.generate(PROMPTS, 30)) == tokens
    assert list(decoder.generate(PROMPTS, 30)) == tokens
