"""Kernels attached in memory for a GPU: which nodes get them, which run as their function, and what is said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from alibi_rewriter.base.errors import MissingDependency
from alibi_rewriter.engine import doctor
from alibi_rewriter.engine.devices import Gpu
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, FusedAttention
from alibi_rewriter.runtime import NoLibrary, get_library_path, gpu
from alibi_rewriter.runtime.gpu import AS_FUNCTION, NoKernels, prepare
from alibi_rewriter.runtime.session import DATA_FOLDER, Fallback, InferenceSession, claimed_nodes, onnxruntime
from nodes import Sizes, feeds, model
from onnx import TensorProto, helper

HOPPER = Gpu("NVIDIA H200", 90)
CAUSAL = FusedAttention(BY_OP_TYPE["AlibiAttentionCausal"], 0.25)
BIASED = FusedAttention(BY_OP_TYPE["AlibiAttentionCausalKeyBias"], 0.25)


def function_of(item: FusedAttention) -> onnx.FunctionProto:
    return function_proto(item.variant, 17, grouped=False, zero_rows=False, query_type=TensorProto.FLOAT)


def with_shapes(item: FusedAttention, width: int = 16, nodes: int = 1) -> onnx.ModelProto:
    """A model whose head size is a number, with its function."""
    made = onnx.load_model_from_string(model(item, nodes=nodes))
    for value in made.graph.input:
        if value.name in ("query", "key", "value"):
            value.type.tensor_type.shape.dim[3].dim_value = width
    made.functions.append(function_of(item))
    return made


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of the compiler, which answers at once."""
    asked: list[Any] = []

    def answer(need: Any, images: Any, worker: Any, *, skip: bool, cache: Path | None) -> bytes:
        asked.append((need.request, images, skip))
        return b"kernels"

    monkeypatch.setattr(gpu, "bundle_of", answer)
    return asked


def kernels_of(content: bytes | None) -> list[bytes]:
    assert content is not None
    nodes = onnx.load_model_from_string(content).graph.node
    return [a.s for node in nodes for a in node.attribute if a.name == "kernels"]


def test_every_node_gets_kernels_and_a_kind_is_compiled_once(compiled: list[Any]) -> None:
    prepared = prepare(with_shapes(CAUSAL, nodes=24), Path(), HOPPER, skip=True)
    assert kernels_of(prepared.content) == [b"kernels"] * 24
    assert prepared.attached == 24 and not prepared.as_functions
    ((request, images, skip),) = compiled
    assert (request.head_dim, request.dtype, images.machine_code, images.ptx, skip) == (16, "float32", (90,), (), True)


def test_kernels_that_are_there_are_kept(compiled: list[Any]) -> None:
    made = with_shapes(CAUSAL, nodes=2)
    made.graph.node[0].attribute.append(helper.make_attribute("kernels", b"its own"))
    assert kernels_of(prepare(made, Path(), HOPPER).content) == [b"its own", b"kernels"]
    for node in made.graph.node:
        node.attribute.append(helper.make_attribute("kernels", b"its own"))
    assert prepare(made, Path(), HOPPER).content is None, "the file is taken as it is"
    assert len(compiled) == 1


def test_a_gpu_without_machine_code_gets_ptx(compiled: list[Any]) -> None:
    prepare(with_shapes(CAUSAL), Path(), Gpu("newer", 130))
    assert (compiled[0][1].machine_code, compiled[0][1].ptx) == ((), (80,))


@pytest.mark.parametrize(("item", "width"), [(BIASED, 20), (CAUSAL, 20)])
def test_a_node_that_no_kernel_takes_runs_as_its_function(
    compiled: list[Any], item: FusedAttention, width: int
) -> None:
    made = with_shapes(item, width)
    plain = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    prepared = prepare(made, Path(), HOPPER)
    assert not compiled and prepared.attached == 0
    assert len(prepared.as_functions) == 1 and item.variant.op_type in prepared.as_functions[0]
    assert prepared.content is not None
    with pytest.warns(Fallback, match="no node of this model"):
        session = InferenceSession(prepared.content)
    given = feeds(item.variant, Sizes(5, 9, width, width), np.random.default_rng(0))
    assert (session.run(None, given)[0] == plain.run(None, given)[0]).all()


def test_both_kinds_of_nodes_in_one_model(compiled: list[Any]) -> None:
    made = with_shapes(BIASED, 20)
    for name in ("query", "key", "value"):
        own = helper.make_tensor_value_info(f"{name}_2", TensorProto.FLOAT, [2, 2, 5, 16])
        made.graph.input.append(own)
    other = helper.make_node(CAUSAL.variant.op_type, ["query_2", "key_2", "value_2", "slopes"], ["last"],
                             domain="alibi", **CAUSAL.attributes())  # fmt: skip
    made.graph.node.append(other)
    made.functions.append(function_of(CAUSAL))
    made.graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, None))
    prepared = prepare(made, Path(), HOPPER)
    assert (prepared.attached, len(prepared.as_functions)) == (1, 1)
    assert [node.domain for node in onnx.load_model_from_string(prepared.content or b"").graph.node] == [
        AS_FUNCTION,
        "alibi",
    ]


def test_what_cannot_be_compiled_is_one_sentence_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> bytes:
        raise MissingDependency("Triton is not installed. Run: pip install 'alibi-rewriter[engine]'.")

    monkeypatch.setattr(gpu, "bundle_of", missing)
    with pytest.raises(NoKernels, match=r"2 fused nodes.*H200 \(sm_90\).*pip install.*--embed-kernels --target sm_90"):
        prepare(with_shapes(CAUSAL, nodes=2), Path(), HOPPER)
    with pytest.raises(NoKernels, match=r"compute capability 8\.0.*sm_75.*onnxruntime\.InferenceSession"):
        prepare(with_shapes(CAUSAL), Path(), Gpu("Turing", 75))


@pytest.fixture
def library() -> None:
    try:
        get_library_path()
    except NoLibrary:
        pytest.skip("the library was not built: no C++ compiler")


@pytest.fixture
def seems_to_have_a_gpu(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the session itself, which onnxruntime makes on the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(gpu, "devices", lambda: [Gpu("first", 90), Gpu("second", 80)])


@pytest.mark.usefixtures("seems_to_have_a_gpu")
def test_a_session_gets_kernels_for_the_device_it_names(compiled: list[Any], tmp_path: Path) -> None:
    place = tmp_path / "model.onnx"
    onnx.save_model(with_shapes(CAUSAL, nodes=3), place)
    options = onnxruntime.SessionOptions()
    for providers, more, arch in (
        (["CUDAExecutionProvider", "CPUExecutionProvider"], {}, 90),
        ([("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"], {}, 80),
        (["CUDAExecutionProvider"], {"provider_options": [{"device_id": 1}]}, 80),
    ):
        compiled.clear()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Specified provider")
            warnings.simplefilter("error", Fallback)
            session = InferenceSession(place, options, providers, **more)  # type: ignore[arg-type]
        assert compiled[0][1].machine_code == (arch,)
        assert (claimed_nodes(session).claimed, claimed_nodes(session).fused) == (3, 3)
    assert options.get_session_config_entry(DATA_FOLDER) == str(tmp_path)


@pytest.mark.usefixtures("seems_to_have_a_gpu")
def test_a_session_says_which_nodes_run_as_functions(compiled: list[Any], tmp_path: Path) -> None:
    place = tmp_path / "model.onnx"
    onnx.save_model(with_shapes(BIASED, 20), place)
    with pytest.warns(Fallback, match="KeyBias.*runs as its function"):
        InferenceSession(place, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


@pytest.mark.usefixtures("library")
def test_without_a_gpu_nothing_is_attached(compiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(gpu, "devices", list)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Specified provider")
        session = InferenceSession(
            with_shapes(CAUSAL).SerializeToString(), providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
    assert not compiled and claimed_nodes(session).claimed == 1, "the CPU's kernels run"


@pytest.mark.usefixtures("library")
def test_doctor_says_whether_cuda_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def line() -> str:
        return next(found.state for found in doctor.examine() if found.subject == "onnxruntime kernels")

    monkeypatch.setattr(doctor, "_backend", lambda name: doctor.Finding(name, "", True))
    monkeypatch.setattr(doctor, "devices", list)
    assert "CUDA" not in line()
    monkeypatch.setattr(doctor, "devices", lambda: [HOPPER])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "not CUDA (pip install onnxruntime-gpu" in line()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert " and CUDA, for alibi_rewriter.InferenceSession" in line()
