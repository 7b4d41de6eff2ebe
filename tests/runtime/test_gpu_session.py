"""Fused nodes in onnxruntime's CUDA provider, on our kernels, on a GPU: every member, threads, CUDA graphs, models.

ALIBI_EVIDENCE=build/evidence pytest tests/runtime/test_gpu_session.py
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from alibi_rewriter.engine.devices import devices
from alibi_rewriter.fused.body import function_proto
from alibi_rewriter.fused.family import BY_OP_TYPE, KERNEL_MEMBERS, Alignment, EmptyRows, FusedAttention
from alibi_rewriter.fused.layout import OPERANDS, Moves
from alibi_rewriter.rewriter.pipeline import Options, rewrite
from alibi_rewriter.runtime import NoLibrary, get_library_path
from alibi_rewriter.runtime.session import Fallback, InferenceSession, claimed_nodes, onnxruntime
from nodes import DTYPES, TYPES, Sizes, answer, error, feeds, model
from views import OUTPUTS, Packing, packings

sys.path.insert(0, str(Path(__file__).parents[1]))
import evidence
from evidence import Level

CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]
EXAMPLE = Path(__file__).parents[2] / "examples" / "bloom-tiny.onnx"
ROUNDING = {"float32": 2.0**-15, "float16": 2.0**-9, "bfloat16": 2.0**-6}
"""Of the largest value: two roundings of the type, weights and output, and the order of sums."""

CAUSAL = FusedAttention(BY_OP_TYPE["AlibiAttentionCausal"], 0.25)
LONG = Sizes(1, 6000, 64, 64, 1, 4, 4, mask="bk")
SHAPES = (
    Sizes(130, 130, 64, 64, 2, 4, 2, mask="bk"),
    Sizes(1, 3000, 64, 64, 2, 4, 4, mask="bk"),
    Sizes(70, 200, 80, 64, 1, 2, 1, mask="bhqk"),
    Sizes(1, 1, 16, 16, 3, 2, 2, mask="k"),
    Sizes(300, 300, 128, 128, 1, 2, 2, mask="q"),
)

try:
    get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)
if CUDA[0] not in onnxruntime.get_available_providers() or not devices():
    pytest.skip("needs onnxruntime-gpu and a GPU", allow_module_level=True)

WHERE = devices()[0].name


def node_model(item: FusedAttention, sizes: Sizes, dtype: str, nodes: int = 1, packing: Packing | None = None) -> bytes:
    """A model of the node, with numbers for its head sizes, and its function."""
    made = onnx.load_model_from_string(model(item, dtype, nodes=nodes))
    for value in made.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in OPERANDS and packing is not None:
            for dim, extent in zip(dims, packing.extents[value.name], strict=True):
                if isinstance(extent, int):
                    dim.dim_value = extent
        elif value.name in OPERANDS:
            dims[3].dim_value = sizes.value_width if value.name == "value" else sizes.width
        if value.name == "mask":
            for axis, letter in enumerate("bhqk"):
                if letter not in sizes.mask:
                    dims[axis].dim_value = 1
    zero = item.empty_rows is EmptyRows.ZERO
    body = function_proto(
        item.variant, 17, grouped=True, zero_rows=zero, query_type=TYPES[dtype], moves=Moves.of([item.layout]),
        aligned=item.rows,
    )  # fmt: skip
    made.functions.append(body)
    return bytes(made.SerializeToString())


def session(content: bytes | Path, **provider: str) -> InferenceSession:
    """On the GPU; a node that runs as its function is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Fallback)
        made = InferenceSession(content, providers=[(CUDA[0], provider), CUDA[1]])
    assert made.get_providers()[0] == CUDA[0]
    claim = claimed_nodes(made)
    assert claim.claimed == claim.fused > 0
    return made


def run(made: InferenceSession, given: dict[str, np.ndarray]) -> np.ndarray:
    values = {}
    for name, array in given.items():
        wide = array.dtype == DTYPES["bfloat16"]
        make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        values[name] = make(array.view(np.uint16), 16) if wide else onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return np.asarray(made.run_with_ort_values(None, values)[0].numpy())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("variant", KERNEL_MEMBERS, ids=lambda variant: variant.op_type)
def test_every_member_against_float64(variant: Any, dtype: str) -> None:
    number = KERNEL_MEMBERS.index(variant)
    rows = list(Alignment)[number // 2 % 2] if variant.lengths else Alignment.LAST
    item = FusedAttention(variant, 0.25, list(EmptyRows)[number % 2], rows=rows)
    for step in range(3):
        sizes = SHAPES[(number + 2 * step) % len(SHAPES)]
        given = feeds(variant, sizes, np.random.default_rng(number), dtype)
        found = run(session(node_model(item, sizes, dtype)), given)
        assert error(found, answer(item, given), given) < ROUNDING[dtype], (item, sizes)
        evidence.record("onnxruntime-cuda", Level.FLOAT64, [variant.op_type], where=WHERE)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op_type", ["AlibiAttentionCausal", "AlibiAttentionSymmetricAdditiveMask"])
def test_every_view_against_float64(op_type: str, dtype: str) -> None:
    """Offsets and strides in every kernel: prefill with and without bulk copies, decode, and split decode."""
    variant = BY_OP_TYPE[op_type]
    for sizes in (
        Sizes(130, 130, 64, 64, 2, 4, 4, mask="bk"),
        Sizes(150, 1100, 64, 64, 1, 4, 2, mask="bk"),
        Sizes(1, 3000, 64, 64, 2, 4, 2, mask="bk"),
        Sizes(40, 90, 80, 64, 2, 2, 1, mask="qk"),
    ):
        for number, (name, packing) in enumerate(packings(sizes)):
            output = list(OUTPUTS)[number % len(OUTPUTS)]
            item = FusedAttention(variant, 0.125, layout=packing.layout(OUTPUTS[output](sizes)))
            rng = np.random.default_rng(number)
            given = {**feeds(variant, sizes, rng, dtype), **packing.tensors(sizes, rng, dtype)}
            found = run(session(node_model(item, sizes, dtype, packing=packing)), given)
            wanted = answer(item, given)
            assert found.shape == wanted.shape
            assert error(found, wanted, given) < ROUNDING[dtype], (name, output, sizes)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("op_type", ["AlibiAttentionCausal", "AlibiAttentionCausalPositionsBooleanMask"])
def test_kernel_and_function_body_agree(op_type: str, dtype: str) -> None:
    item = FusedAttention(BY_OP_TYPE[op_type], 0.25)
    for sizes in SHAPES[:2]:
        content = node_model(item, sizes, dtype)
        given = feeds(item.variant, sizes, np.random.default_rng(1), dtype)
        body = onnxruntime.InferenceSession(content, providers=[(CUDA[0], {"use_tf32": "0"}), CUDA[1]])
        wanted = body.run(None, given)[0].astype(np.float64)
        # The body computes its bias in the type of the query where that is wide enough.
        assert error(run(session(content), given), wanted, given) < 4 * ROUNDING[dtype]


def test_the_node_runs_on_the_gpu(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    made = InferenceSession(node_model(CAUSAL, LONG, "float16"), options, CUDA)
    run(made, feeds(CAUSAL.variant, LONG, np.random.default_rng(0), "float16"))
    events = json.loads(Path(made.end_profiling()).read_text())
    ours = [e["args"]["provider"] for e in events if e.get("args", {}).get("op_name") == "AlibiAttentionCausal"]
    assert ours and set(ours) == {CUDA[0]}


def test_two_threads_run_one_session() -> None:
    made = session(node_model(CAUSAL, LONG, "float16"))
    cases = [feeds(CAUSAL.variant, Sizes(rows, keys, 64, 64, 1, 4, 4), np.random.default_rng(rows), "float16")
             for rows, keys in ((1, 6000), (1, 3001), (200, 200), (77, 500))]  # fmt: skip
    wanted = [run(made, given) for given in cases]
    with ThreadPoolExecutor(2) as pool:
        order = list(itertools.islice(itertools.cycle(range(len(cases))), 80))
        found = list(pool.map(lambda i: run(made, cases[i]), order))
    assert all((found[place] == wanted[i]).all() for place, i in enumerate(order))
    evidence.record("onnxruntime-cuda", Level.EXECUTED, [CAUSAL.variant.op_type], where=WHERE)


@pytest.mark.parametrize("op_type", ["AlibiAttentionCausal", "AlibiAttentionSymmetricAdditiveMask"])
@pytest.mark.parametrize("rows", [1, 256])
def test_a_cuda_graph_holds_the_kernels(op_type: str, rows: int) -> None:
    item = FusedAttention(BY_OP_TYPE[op_type], 0.25)
    sizes = Sizes(rows, 6000 if rows == 1 else rows, 64, 64, 1, 4, 4, mask="bk")
    content = node_model(item, sizes, "float16", nodes=2)
    plain, graph = session(content), session(content, enable_cuda_graph="1")
    first, second = (feeds(item.variant, sizes, np.random.default_rng(n), "float16") for n in (1, 2))
    bound = graph.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for name, array in first.items()}
    for name, value in values.items():
        bound.bind_ortvalue_input(name, value)
    shape = (*first["query"].shape[:3], sizes.value_width)
    out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float16, "cuda", 0)
    bound.bind_ortvalue_output("output", out)
    for given in (first, second, first):
        for name, value in values.items():
            value.update_inplace(given[name])
        for _ in range(2):
            graph.run_with_iobinding(bound)
        assert (out.numpy() == run(plain, given)).all()
    evidence.record("onnxruntime-cuda", Level.EXECUTED, [op_type], where=WHERE)


@pytest.mark.parametrize(("rows", "keys", "batch"), [(3, 0, 1), (0, 5, 1), (4, 4, 0)])
def test_empty_tensors(rows: int, keys: int, batch: int) -> None:
    made = session(node_model(CAUSAL, SHAPES[0], "float16"))
    sizes = Sizes(rows, keys, 64, 64, batch)
    found = run(made, feeds(CAUSAL.variant, sizes, np.random.default_rng(0), "float16"))
    assert found.shape == (batch, 2, rows, 64) and not found.any()


def test_what_does_not_fit_is_one_sentence() -> None:
    made = session(node_model(CAUSAL, SHAPES[0], "float16"))
    given = feeds(CAUSAL.variant, SHAPES[0], np.random.default_rng(0), "float16")
    given["slopes"] = given["slopes"][:3]
    with pytest.raises(Exception, match=r"AlibiAttentionCausal: slopes is \[3\] instead of \[4\]"):
        run(made, given)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    with pytest.raises(Exception, match=r"no kernels are attached.*rewrite MODEL --embed-kernels"):
        onnxruntime.InferenceSession(node_model(CAUSAL, SHAPES[0], "float16"), options, CUDA)


def test_a_node_that_no_kernel_takes_runs_as_its_function_on_the_gpu() -> None:
    item = FusedAttention(BY_OP_TYPE["AlibiAttentionCausalKeyBias"], 0.25)
    sizes = Sizes(130, 130, 60, 60, 2, 4, 2, mask="bk")
    with pytest.warns(Fallback, match="KeyBias.*runs as its function"):
        made = InferenceSession(node_model(item, sizes, "float32"), providers=[(CUDA[0], {"use_tf32": "0"}), CUDA[1]])
    given = feeds(item.variant, sizes, np.random.default_rng(0))
    assert error(made.run(None, given)[0], answer(item, given), given) < 2.0**-13
    assert claimed_nodes(made).claimed == 0


def test_a_rewritten_model_gives_what_the_original_gives(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    rewrite(EXAMPLE, target, options=Options(verify=False))
    ids = np.random.default_rng(0).integers(0, 32, (2, 40))
    mask = np.ones_like(ids)
    mask[0, :9] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    wanted = onnxruntime.InferenceSession(EXAMPLE, providers=[CUDA[1]]).run(None, given)[0]
    found = session(target, use_tf32="0").run(None, given)[0]
    assert np.abs(found - wanted)[1].max() < 1.3e-4 and np.abs(found - wanted)[0, 9:].max() < 1.3e-4
    members = {node.op_type for node in onnx.load(target).graph.node if node.domain == "alibi"}
    evidence.record("onnxruntime-cuda", Level.END_TO_END, members, where=WHERE, what=EXAMPLE.stem)
