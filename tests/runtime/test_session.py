"""``alibi_rewriter.InferenceSession``: what it claims, what it says when it cannot, and whole models through it."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import alibi_rewriter
import numpy as np
import pytest
from alibi_rewriter.fused.family import BY_OP_TYPE, FusedAttention
from alibi_rewriter.rewriter.pipeline import rewrite
from alibi_rewriter.rewriter.result import Options
from alibi_rewriter.runtime import NoLibrary, get_library_path
from alibi_rewriter.runtime.session import Fallback, InferenceSession, onnxruntime
from nodes import Sizes, feeds, model

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "bloom-tiny.onnx"
CAUSAL = FusedAttention(BY_OP_TYPE["AlibiAttentionCausal"], 0.25)

try:
    get_library_path()
except NoLibrary:
    pytest.skip("the library was not built: no C++ compiler", allow_module_level=True)


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("rewritten") / "model.onnx"
    rewrite(EXAMPLE, target, options=Options(verify=False))
    return target


def inputs() -> dict[str, np.ndarray]:
    ids = np.arange(24, dtype=np.int64).reshape(2, 12)
    mask = np.ones_like(ids)
    mask[0, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_a_rewritten_model_runs_on_the_kernels(rewritten: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Fallback)
        session = alibi_rewriter.InferenceSession(rewritten)
    claim = alibi_rewriter.claimed_nodes(session)
    assert claim.claimed == claim.fused == 2
    found = session.run(None, inputs())[0]
    original = onnxruntime.InferenceSession(EXAMPLE, providers=["CPUExecutionProvider"]).run(None, inputs())[0]
    assert np.abs(found - original)[1].max() < 1.3e-4
    assert np.abs(found - original)[0, 4:].max() < 1.3e-4


def test_every_node_of_24_layers_is_claimed() -> None:
    session = InferenceSession(model(CAUSAL, nodes=24))
    assert alibi_rewriter.claimed_nodes(session) == type(alibi_rewriter.claimed_nodes(session))(24, 24)
    given = feeds(CAUSAL.variant, Sizes(9, 9), np.random.default_rng(0))
    assert np.isfinite(session.run(None, given)[0]).all()


def test_options_may_be_used_again(rewritten: Path) -> None:
    options = onnxruntime.SessionOptions()
    for _ in range(3):
        session = InferenceSession(rewritten, options)
        assert alibi_rewriter.claimed_nodes(session).claimed == 2


def test_plain_onnxruntime_takes_the_library(rewritten: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    session = onnxruntime.InferenceSession(rewritten, options, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, inputs())[0]).all()
    with pytest.raises(TypeError, match="made by alibi_rewriter"):
        alibi_rewriter.claimed_nodes(session)


def test_a_model_without_fused_nodes_says_so() -> None:
    with pytest.warns(Fallback, match="no node of this model"):
        session = InferenceSession(EXAMPLE)
    assert alibi_rewriter.claimed_nodes(session).fused == 0


def test_without_the_library_the_function_runs_and_a_warning_says_why(
    rewritten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise NoLibrary("it was not built")

    monkeypatch.setattr("alibi_rewriter.runtime.session.get_library_path", missing)
    with pytest.warns(Fallback, match="it was not built"):
        session = InferenceSession(rewritten)
    claim = alibi_rewriter.claimed_nodes(session)
    assert (claim.claimed, claim.fused) == (0, 2)
    assert np.isfinite(session.run(None, inputs())[0]).all()


def test_an_unknown_way_of_skipping_is_refused(rewritten: Path) -> None:
    with pytest.raises(ValueError, match=r"alibi\.skip.*neither 'none'"):
        InferenceSession(rewritten, skip="everything")


def test_the_example_in_cpp_runs(rewritten: Path, tmp_path: Path) -> None:
    places = [Path(p) for p in os.environ.get("ALIBI_ONNXRUNTIME_INCLUDE", "").split(os.pathsep) if p]
    folder = next((p for p in places if (p / "onnxruntime_cxx_api.h").exists()), None)
    compiler = os.environ.get("CXX") or shutil.which("g++")
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if folder is None or compiler is None or not libraries:
        pytest.skip("needs g++ and onnxruntime's headers (ALIBI_ONNXRUNTIME_INCLUDE names their folder)")
    program = tmp_path / "run"
    source = ROOT / "examples" / "onnxruntime" / "run.cpp"
    command = [compiler, "-std=c++17", str(source), f"-I{folder}", str(libraries[0]), "-o", str(program)]
    subprocess.run([*command, f"-Wl,-rpath,{libraries[0].parent}"], check=True)
    # The wheel's library goes by the name in its SONAME.
    (tmp_path / "libonnxruntime.so.1").symlink_to(libraries[0])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    command = [str(program), str(rewritten), get_library_path()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    ids = np.array([[5, 6, 7, 8]], np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    wanted = InferenceSession(rewritten).run(["logits"], given)[0][0, 0, :3]
    assert np.abs(np.array(done.stdout.split(), np.float64) - wanted).max() < 1e-5
