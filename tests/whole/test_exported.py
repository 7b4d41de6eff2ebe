"""Small models as real exporters wrote them (``tests/data``): rewritten, and compared with the original.

``tests/data/expected.json`` says per model whether it must be rewritten, how many attention layers it has, which
form fits and the slopes it was made with; ``*.samples.json`` holds inputs and what the PyTorch model computed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx.shape_inference
import pytest
from alibi_rewriter.base.errors import ExitCode
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.report import to_json
from alibi_rewriter.rewriter.result import Options, PassResult
from evidence import Level
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

ort = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # has a test of its own below

FOLDER = Path(__file__).parents[1] / "data"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
FUSE = sorted(n for n, e in EXPECTED.items() if e["expect"] == "fuse")
REFUSE = sorted(n for n, e in EXPECTED.items() if e["expect"] == "refuse")
TOLERANCE = {"float32": 2e-5, "float16": 2e-2}
LINEAR_MEMORY = ("bloom", "mpt", "falcon", "jina", "mosaicbert")
"""Families in which nothing of S_q x S_kv elements may be left."""

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@cache
def rewritten(name: str) -> PassResult:
    """The result; without the verification, which these tests replace."""
    return rewrite(FOLDER / f"{name}.onnx", Path("nowhere.onnx"), options=Options(verify=False))


@pytest.fixture(autouse=True)
def _write_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def samples(name: str) -> list[tuple[str, Arrays, Arrays]]:
    def arrays(record: dict[str, Any]) -> Arrays:
        return {k: np.array(v["data"], dtype=v["dtype"]).reshape(v["shape"]) for k, v in record.items()}

    content = json.loads((FOLDER / EXPECTED[name]["samples"]).read_text(encoding="utf-8"))
    return [(s["tag"], arrays(s["inputs"]), arrays(s["outputs"])) for s in content["samples"]]


def session(model: ModelProto | Path) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])


def at_valid_tokens(output: Array, feeds: Arrays) -> Array:
    """Rows of tokens that the attention mask keeps; all rows where there is no mask."""
    mask = feeds.get("attention_mask")
    if mask is None or mask.ndim != 2 or output.ndim < 3 or output.shape[0] != mask.shape[0]:
        return output
    tokens = output.shape[1]
    return output if tokens > mask.shape[1] else output[mask[:, mask.shape[1] - tokens :].astype(bool)]


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def test_the_selection_is_representative() -> None:
    families = {n.split("__")[0] for n in FUSE}
    assert {*LINEAR_MEMORY, "baichuan13b", "data2vec2", "fairseq", "torchmha", "idiom"} <= families
    assert any("dynamo" in n for n in FUSE) and any("ts17" in n for n in FUSE)
    assert len(REFUSE) >= 3
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 5 << 20


@pytest.mark.parametrize("name", FUSE)
def test_every_layer_is_fused(name: str) -> None:
    result = rewritten(name)
    assert result.exit_code is ExitCode.DONE
    assert result.model is not None
    assert sum(n.domain == "alibi" for n in nodes_of(result.model.graph)) == EXPECTED[name]["layers"]
    onnx.checker.check_model(result.model)


@pytest.mark.parametrize("name", FUSE)
def test_slopes_and_form(name: str) -> None:
    want = EXPECTED[name]
    proofs = [s["proof"] for s in to_json(rewritten(name))["sites"] if "proof" in s]  # type: ignore[attr-defined]
    assert len(proofs) == want["layers"]
    for layer, proof in enumerate(proofs):
        if proof["slopes"] is not None:
            np.testing.assert_allclose(
                proof["slopes"], want["slopes"][str(layer)], rtol=2e-3 if "fp16" in name else 1e-5
            )
        else:
            assert proof["slopes_at_run_time"]
        if want["form"] == "-|i-j|":
            assert proof["form"] == "symmetric"
        if want["form"] == "cumsum(mask)":
            assert proof["key_positions"] is not None


def on_kernels(name: str, model: ModelProto) -> Any:
    """A session whose fused nodes all run on the CPU kernels."""
    runtime = pytest.importorskip("alibi_rewriter.runtime.session")
    try:
        runtime.get_library_path()
    except runtime.NoLibrary:
        pytest.skip("the library was not built: no C++ compiler")
    made = runtime.InferenceSession(model.SerializeToString())
    claim = runtime.claimed_nodes(made)
    assert claim.claimed == claim.fused == EXPECTED[name]["layers"]
    return made


@pytest.mark.parametrize("kernels", [False, True], ids=["function", "kernels"])
@pytest.mark.parametrize("name", FUSE)
def test_computes_the_same_at_valid_tokens(name: str, kernels: bool) -> None:
    result = rewritten(name)
    assert result.model is not None
    tolerance = TOLERANCE["float16" if "fp16" in name else "float32"]
    before = session(FOLDER / f"{name}.onnx")
    after = on_kernels(name, result.model) if kernels else session(result.model)
    assert [i.name for i in before.get_inputs()] == [i.name for i in after.get_inputs()]
    assert [o.name for o in before.get_outputs()] == [o.name for o in after.get_outputs()]
    types = {i.name: np.float16 if i.type == "tensor(float16)" else None for i in before.get_inputs()}
    compared = 0
    for tag, inputs, outputs in samples(name):
        feeds = {k: v.astype(types[k] or v.dtype) for k, v in inputs.items() if k in types}
        wanted, got = before.run(None, feeds), after.run(None, feeds)
        if wanted[0].dtype.kind == "f" and len(outputs) == 1:
            (recorded,) = outputs.values()
            if recorded.shape == wanted[0].shape:
                compared += _compare(recorded, got[0], inputs, max(tolerance, 2e-4), f"{tag}: recorded output")
        for output, want, have in zip(before.get_outputs(), wanted, got, strict=True):
            if want.dtype.kind == "f" and want.ndim < 4:  # a cache holds rows of padded tokens too
                compared += _compare(want, have, inputs, tolerance, f"{tag}: {output.name}")
    assert compared > 0
    members = [n.op_type for n in nodes_of(result.model.graph) if n.domain == "alibi"]
    evidence.record("onnxruntime", Level.END_TO_END, members, where="CPU", what=name)


def _compare(want: Array, have: Array, feeds: Arrays, tolerance: float, what: str) -> int:
    wanted, got = (at_valid_tokens(x, feeds).astype(np.float64) for x in (want, have))
    keep = np.isfinite(wanted)
    assert np.isfinite(got[keep]).all(), what
    assert np.abs(wanted - got)[keep].max() <= tolerance * max(1.0, float(np.abs(wanted[keep]).max())), what
    return int(keep.sum())


@pytest.mark.parametrize("name", [n for n in FUSE if n.startswith(LINEAR_MEMORY) and "static" not in n])
def test_nothing_of_queries_by_keys_is_left(name: str) -> None:
    """With lengths that no other extent has a multiple of, no intermediate value has S_q * S_kv elements."""
    result = rewritten(name)
    assert result.model is not None
    own = [(f.domain, f.name) for f in result.model.functions if f.domain != "alibi"]
    model = onnx.inliner.inline_selected_functions(result.model, own) if own else result.model
    plain, rows, keys = _sizes_at(model)
    assert plain
    offending = {n: s for n, s in plain.items() if rows in s and keys in _without(s, rows)}
    assert offending == {}
    flat = {n: s for n, s in plain.items() if int(np.prod(s, dtype=np.int64)) % (rows * keys) == 0 and s}
    # q, k, v and logits hold S times other extents, never S_q * S_kv: both are primes that occur nowhere else.
    assert flat == {}


@pytest.mark.parametrize("name", ["jina__v2_sdpa_dynamo18_dyn", "mpt__tf5_h4clip_ts17_dyn_mask"])
def test_the_check_above_sees_the_original(name: str) -> None:
    plain, rows, keys = _sizes_at(onnx.load(FOLDER / f"{name}.onnx"))
    assert any(rows in s and keys in _without(s, rows) for s in plain.values())


def _without(shape: tuple[int, ...], extent: int) -> tuple[int, ...]:
    rest = list(shape)
    rest.remove(extent)
    return tuple(rest)


def _sizes_at(model: ModelProto) -> tuple[dict[str, tuple[int, ...]], int, int]:
    """Shapes of all intermediate values with S_q = 11 new tokens (and 6 cached ones, so S_kv = 17)."""
    exposed = ModelProto()
    exposed.CopyFrom(model)
    cached = any(i.name.startswith("past") for i in exposed.graph.input)
    rows = 11
    keys = 17 if cached else 11
    # Types of the fused nodes' outputs: those of their queries.
    kinds = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(exposed).graph.value_info}
    present = {o.name for o in exposed.graph.output}
    for node in exposed.graph.node:
        for output in node.output:
            if output and output not in present:
                kind = kinds.get(output, TensorProto.FLOAT)
                exposed.graph.output.append(
                    helper.make_tensor_value_info(output, kind, None)
                    if output in kinds
                    else onnx.ValueInfoProto(name=output)
                )
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    runner = ort.InferenceSession(exposed.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    feeds = {i.name: _feed(i, rows, keys) for i in exposed.graph.input}
    found = runner.run(None, feeds)
    return {o.name: tuple(np.shape(v)) for o, v in zip(runner.get_outputs(), found, strict=True)}, rows, keys


def _feed(value: onnx.ValueInfoProto, rows: int, keys: int) -> Array:
    kind = value.type.tensor_type
    past = value.name.startswith("past")
    free = iter([3, keys - rows] if past else [3, keys if value.name == "attention_mask" else rows])
    shape = [d.dim_value or next(free) for d in kind.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype.kind == "f":
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    feed = np.ones(shape, dtype)
    if value.name == "attention_mask":
        feed[0, :2] = 0
    return feed


@pytest.mark.parametrize("name", REFUSE)
def test_near_misses_are_refused(name: str) -> None:
    result = rewritten(name)
    assert result.exit_code is ExitCode.NOT_REWRITTEN
    assert result.fused == []
    assert result.output is None
    refusals = [s.refusal for s in result.analysis.sites if s.refusal is not None]
    assert len(refusals) >= EXPECTED[name]["layers"]
    assert all(r.detail or r.tensor for r in refusals)


@pytest.mark.parametrize("name", ["bloom__tf5_h6_ts17_dyn_mask_nofold", "torchmha__sdpa_kpm_dynamo23_dyn"])
def test_no_warning_reaches_the_user(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = rewrite(FOLDER / f"{name}.onnx", Path("nowhere.onnx"), options=Options(verify=False))
    assert result.exit_code is ExitCode.DONE
